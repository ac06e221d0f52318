"""Which silo a new activation should live on: a pure choice among the members that one silo sees."""

import random
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from hashlib import blake2b

from actors.address import listed
from actors.code_version import order
from actors.errors import ClusterUnavailable, UnknownActorType
from cluster.member import Member, newest

_LABELS = "labels:"

PlacementFunction = Callable[[str, list[Member]], str]
"""A user's own placement: gets the address and the candidates, returns the ``silo`` id of one of them."""


class Placement:
    """Chooses silos. Counts what it placed since a silo last reported its load, so that bursts spread too.

    Of those that host the type and fit its labels only the newest, by the version of their code, are candidates: for
    every strategy, so that while old and new run side by side what begins anew begins on the new ones.
    """

    def __init__(self, silo: str, *, seed: int | None = None) -> None:
        self.silo = silo
        self.functions: dict[str, PlacementFunction] = {}
        self._random = random.Random(seed)
        self._placed: Counter[str] = Counter()

    def on_load(self, silo: str) -> None:
        """A silo has reported its load: what was placed on it before is in that figure."""
        self._placed.pop(silo, None)

    def choose(self, address: str, members: Mapping[str, Member], but: Collection[str] = ()) -> str:
        """The id of the silo for a new activation of the address, which is none of ``but``.

        Raises ``UnknownActorType`` if no member hosts the type, ``ClusterUnavailable`` if none of those takes new
        activations now or none fits the placement.
        """
        type_name = address.partition("-")[0]
        hosting = [member for member in members.values() if type_name in member.types]
        if not hosting:
            if not members:
                raise ClusterUnavailable(f"{address}: no silo is a member of the cluster")
            known = listed(name for member in members.values() for name in member.types)
            raise UnknownActorType(f"{address}: no silo hosts the type {type_name!r} (known types: {known})")
        candidates = [member for member in hosting if not member.draining and member.silo not in but]
        if not candidates:
            others = (
                "no other silo that hosts {!r} takes activations" if but else "every silo that hosts {!r} is draining"
            )
            raise ClusterUnavailable(f"{address}: {others.format(type_name)}")
        strategy = _strategy(type_name, candidates)
        candidates = newest(_fitting(strategy, candidates))
        if not candidates:
            wanted = strategy.removeprefix(_LABELS)
            raise ClusterUnavailable(f"{address}: no silo has the labels {wanted!r} that its placement asks for")
        chosen = self._by_strategy(strategy, type_name, address, candidates)
        self._placed[chosen] += 1
        return chosen

    def _by_strategy(self, strategy: str, type_name: str, address: str, candidates: list[Member]) -> str:
        function = self.functions.get(type_name)
        if function is not None:
            try:
                chosen = function(address, candidates)
            except Exception as error:  # whatever a user's code raises
                reason = f"{type(error).__name__}: {error}"
                raise ClusterUnavailable(f"{address}: its placement function raised {reason}") from error
            if chosen not in [member.silo for member in candidates]:
                raise ClusterUnavailable(f"{address}: its placement function chose {chosen!r}, which is no candidate")
            return chosen
        if strategy == "local" and any(member.silo == self.silo for member in candidates):
            return self.silo
        if strategy == "hash":
            return max(candidates, key=lambda member: _weight(address, member.name)).silo
        if strategy == "random":
            return self._random.choice(candidates).silo
        return self._least_loaded(candidates)

    def _least_loaded(self, candidates: list[Member]) -> str:
        """The less loaded of two random ones: nearly as even as the least of all, without herding onto one."""
        two = self._random.sample(candidates, 2) if len(candidates) > 2 else candidates
        return min(two, key=lambda member: (member.load + self._placed[member.silo], self._random.random())).silo


def newer(silo: str, type_name: str, members: Mapping[str, Member]) -> list[str]:
    """The ids, sorted, of those members that new activations of the type go to rather than to this older one."""
    own = members.get(silo)
    if own is None or all(member.version == own.version for member in members.values()):
        return []
    able = [member for member in members.values() if type_name in member.types and not member.draining]
    mine = order(own.version)
    if not any(order(member.version) > mine for member in able):
        return []
    fitting = _fitting(_strategy(type_name, able), able)
    return sorted(member.silo for member in fitting if order(member.version) > mine)


def _strategy(type_name: str, candidates: list[Member]) -> str:
    """The placement of a type, as the newest code has it."""
    if len({member.types[type_name] for member in candidates}) == 1:
        return candidates[0].types[type_name]
    return max(candidates, key=lambda member: (order(member.version), member.types[type_name])).types[type_name]


def _fitting(strategy: str, candidates: list[Member]) -> list[Member]:
    if not strategy.startswith(_LABELS):
        return candidates
    pairs = [pair.partition("=")[::2] for pair in strategy.removeprefix(_LABELS).split(",")]
    return [m for m in candidates if all(m.labels.get(name.strip()) == value.strip() for name, value in pairs)]


def _weight(address: str, name: str) -> bytes:
    return blake2b(f"{name}\0{address}".encode(), digest_size=8).digest()
