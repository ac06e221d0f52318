"""Which activations a silo gives to others that have far fewer: a pure decision, taken after each report of loads.

A silo that joins is filled in small portions: a silo gives away half of what it has above the mean at most, so that all
that give together overshoot nobody, and waits then until the loads that it sees show the effect. Small differences are
left alone: every move costs the actor a pause.
"""

from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Final

from cluster.member import Member, hosts
from cluster.placement import Placement

TOLERATED: Final = 1.2
"""Times the mean load that a silo may have before it gives away anything."""
SLACK: Final = 20
"""Activations more than that, so that nothing moves in a small cluster."""
MOST: Final = 200
"""Activations that a silo gives away at a time."""
PAUSE: Final = 3
"""Rounds without a move after one with moves: reports of the load that go by until the effect is seen."""


class Rebalancer:
    """The moves of one silo, round by round."""

    def __init__(self, placement: Placement) -> None:
        self._placement = placement
        self._pause = 0
        self._members: frozenset[str] = frozenset()
        self._rehash = False

    def plan(self, idle: Iterable[str], load: int, members: Mapping[str, Member]) -> list[tuple[str, str]]:
        """Moves as (address, silo), at most ``MOST``.

        ``idle``: addresses here that could move now; read no further than needed. ``load``: how many are here in all.
        """
        open_to = {silo: member for silo, member in members.items() if not member.draining}
        own = open_to.pop(self._placement.silo, None)
        if self._members != members.keys():
            self._rehash, self._members = True, frozenset(members)
        if self._pause:
            self._pause -= 1
            return []
        if own is None or not open_to:
            return []
        room = _room(load, open_to)
        hashed = {name for name, strategy in own.types.items() if strategy == "hash"} if self._rehash else set[str]()
        if not room and not hashed:
            return []
        moves = list(islice(self._choose(idle, room, hashed, own, members), MOST))
        self._rehash = len(moves) == MOST
        if moves:
            self._pause = PAUSE
        return moves

    def _choose(
        self, idle: Iterable[str], room: dict[str, int], hashed: set[str], own: Member, members: Mapping[str, Member]
    ) -> Iterable[tuple[str, str]]:
        for address in idle:
            type_name = address.partition("-")[0]
            strategy = own.types.get(type_name, "")
            if type_name in hashed:
                silo = self._placement.choose(address, members)
                if silo != own.silo:
                    yield address, silo
            elif strategy == "balanced" and type_name not in self._placement.functions:
                able = hosts(members, type_name)  # with the newest code: nothing goes back to an older one
                silo = next((silo for silo, left in room.items() if left and silo in able), "")
                if silo:
                    room[silo] -= 1
                    yield address, silo
            if not hashed and not any(room.values()):
                return


def _room(load: int, others: Mapping[str, Member]) -> dict[str, int]:
    """How many activations this silo may give to each of those that have too few."""
    mean = (load + sum(member.load for member in others.values())) / (len(others) + 1)
    if load <= mean * TOLERATED + SLACK:
        return {}
    gives = min((load - mean) / 2, MOST)
    missing = {silo: mean - member.load for silo, member in others.items() if member.load < mean}
    return {silo: int(gives * amount / sum(missing.values())) for silo, amount in missing.items()}
