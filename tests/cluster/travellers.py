"""An app whose actors have everything in memory."""

import os
from dataclasses import dataclass

from actors import Actor, handler


@dataclass
class Steps:
    taken: int = 0


class Traveller(Actor, persist="never", carries=("homes",)):
    """Counts in a state that no store has."""

    state: Steps

    def __init__(self) -> None:
        self.homes: list[int] = []

    async def on_activate(self) -> None:
        self.homes.append(os.getpid())

    @handler
    async def walk(self) -> int:
        self.state.taken += 1
        return self.state.taken

    @handler
    async def lived_in(self) -> list[int]:
        return self.homes
