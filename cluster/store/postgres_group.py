"""A group of operations as one request to the database, and the database's answer as their outcomes.

A group is what one statement can do: of each address either one open, or commits and then deletes; and one era.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from actors.ports import Commit, Fenced
from cluster.store.sqlite_group import Open, Operation, Outcome, RaiseEra

_NEVER_OPENED = -1


@dataclass(slots=True)
class GroupRule:
    """Says, operation by operation, whether the next one fits into the group."""

    _stages: dict[str, int] = field(default_factory=dict)
    _has_era: bool = False

    def admits(self, operation: Operation) -> bool:
        """Whether it fits; if so, it is now part of the group."""
        if isinstance(operation, RaiseEra):
            admitted, self._has_era = not self._has_era, True
            return admitted
        stage = 0 if isinstance(operation, Open) else 1 if isinstance(operation, Commit) else 2
        reached = self._stages.get(operation.address)
        if reached is not None and (stage == 0 or reached == 0 or stage < reached):
            return False
        self._stages[operation.address] = stage
        return True


@dataclass(frozen=True, slots=True)
class Reply:
    """The stored epoch by address of the request (-1: never opened), the states that opens asked for, and the era.

    ``states`` None: it was lost and found again, but for what was read.
    """

    epochs: Sequence[int]
    states: Sequence[bytes | None] | None
    era: int | None


class Request:
    """A group in the shape of the arguments of ``agentsilo.apply``."""

    def __init__(self, operations: Sequence[Operation]) -> None:
        self.operations = operations
        opened: dict[str, int | None] = {}
        effects: dict[tuple[str, int], bytes | None] = {}  # of several writes of one owner the last stays
        self.atleast: int | None = None
        for operation in operations:
            if isinstance(operation, RaiseEra):
                self.atleast = operation.atleast
            elif isinstance(operation, Open):
                opened[operation.address] = operation.epoch
            else:
                opened[operation.address] = None
                if not isinstance(operation, Commit):
                    effects[operation.address, operation.epoch] = None
                elif operation.state is not None:
                    effects[operation.address, operation.epoch] = operation.state
        self.addresses = sorted(opened)
        self.opened = [opened[address] for address in self.addresses]
        self.written = [address for address, _ in effects]
        self.owners = [owner for _, owner in effects]
        self.states = list(effects.values())

    def outcomes(self, reply: Reply) -> list[Outcome]:
        """What the reply means for each operation."""
        places = {address: place for place, address in enumerate(self.addresses)}
        return list(self._outcomes(reply, places))

    def _outcomes(self, reply: Reply, places: dict[str, int]) -> Iterable[Outcome]:
        for operation in self.operations:
            if isinstance(operation, RaiseEra):
                yield reply.era
                continue
            place = places[operation.address]
            stored = reply.epochs[place]
            if stored != operation.epoch:
                yield Fenced(operation.address, epoch=operation.epoch, stored=max(stored, 0))
            elif isinstance(operation, Open):
                yield None if reply.states is None else reply.states[place]
            else:
                yield None
