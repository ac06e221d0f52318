"""What runs in the silos of a cluster now, as they tell themselves: one that is stuck tells nothing."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final

import msgspec

from actors import codec
from actors.envelope import Query, Reply
from actors.running import longest, running
from actors.runtime import Runtime

PATIENCE: Final = 2.0
"""Seconds that a silo has to answer. One that does not is busy, stuck or gone."""


class Watcher:
    """Answers operators' questions about what runs, here and on the other silos."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    def queries(self) -> dict[str, Callable[[str], Awaitable[object]]]:
        """The topics of ``Query`` that this answers."""
        return {"running": self.running_here, "longest": self.longest_here, "silos": self.silos}

    async def running_here(self, address: str) -> object:
        """What the actor runs on this silo."""
        activation = self._runtime.activations.get(address)
        return [] if activation is None else [msgspec.to_builtins(found) for found in running(activation)]

    async def longest_here(self, _: str) -> object:
        """The turn of this silo that has run for the longest time, if one runs."""
        return msgspec.to_builtins(longest(self._runtime.activations.values()))

    async def running(self, address: str, silo: str) -> Any:
        """What the actor runs on a silo (by its id); None if that one does not tell."""
        return (await self._ask(silo, "running", address) or [None])[0]

    async def silos(self, _: str) -> object:
        """For each silo (by its id) the turn that has run for the longest time; those that do not tell are left out."""
        silos = self._runtime.directory.members()
        answers = await asyncio.gather(*(self._ask(silo, "longest", "") for silo in silos))
        return {silo: answer[0] for silo, answer in zip(silos, answers, strict=True) if answer}

    async def _ask(self, silo: str, topic: str, argument: str) -> list[Any]:
        """The answer of a silo, nothing if there is none in time."""
        if silo == self._runtime.directory.silo:
            return [await self.queries()[topic](argument)]
        try:
            async with asyncio.timeout(PATIENCE):
                link = await self._runtime.transport.connect(silo)
                query = Query(self._runtime.next_id(), topic, argument)
                answer = await self._runtime.question(link, query, about=argument or silo)
        except Exception:  # it is stuck, cut off or older than this question
            return []
        return [codec.decode(answer.payload, trusted=False)] if isinstance(answer, Reply) else []
