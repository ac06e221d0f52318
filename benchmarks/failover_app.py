"""The app under ``benchmarks.failover``: durable actors that live where their keys say, as long as that silo lives."""

import os
from dataclasses import dataclass

from actors import Actor, handler
from actors.context import current_turn
from actors.turn import Turn
from cluster.member import Member


def at_home(address: str, members: list[Member]) -> str:
    """``resident-n2.x`` wants to live on n2; when there is no n2, on any of the others, evenly."""
    home = address.partition("-")[2].partition(".")[0]
    found = next((member for member in members if member.name == home), None)
    return (found or sorted(members, key=lambda member: member.name)[sum(address.encode()) % len(members)]).silo


@dataclass
class Visits:
    """How many there were."""

    count: int = 0


class Resident(Actor, idle_timeout=3600, placement=at_home):
    """Counts its visits, durably."""

    state: Visits

    @handler
    async def visit(self) -> tuple[int, int, int]:
        """How many visits there were, the process that it lives in, and how often this call was sent before."""
        self.state.count += 1
        turn = current_turn.get()
        assert isinstance(turn, Turn)
        return self.state.count, os.getpid(), turn.request.attempt
