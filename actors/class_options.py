"""The class options of an actor: how it is kept, placed, queued and shown, and what makes no sense among that."""

from collections.abc import Callable, Iterable, Mapping
from collections.abc import Set as AbstractSet
from typing import Any, Literal, NamedTuple

from actors.ref import ON_BUSY, OnBusy
from actors.retention import ALL, Retention

Persist = Literal["turn", "deactivation", "never"]
_PLACEMENTS = ("balanced", "local", "hash", "random")


class ActorOptions(NamedTuple):
    """The class options of an actor, as written after the base class."""

    persist: Persist = "turn"
    idle_timeout: float = 300.0
    max_queue: int = 1000
    placement: str | Callable[..., str] = "balanced"
    public: bool = False
    channel_retention: Retention = ALL
    on_busy: OnBusy = "queue"
    carries: tuple[str, ...] = ()

    def check(self, name: str) -> None:
        """Raise ``ValueError`` if a class of that name cannot have these."""
        if self.persist not in ("turn", "deactivation", "never"):
            raise ValueError(f'class {name}: persist must be "turn", "deactivation" or "never", not {self.persist!r}')
        if not self.idle_timeout > 0:
            raise ValueError(
                f"class {name}: idle_timeout must be a positive number of seconds, not {self.idle_timeout!r}"
            )
        if type(self.max_queue) is not int or self.max_queue < 1:
            raise ValueError(f"class {name}: max_queue must be a whole number from 1, not {self.max_queue!r}")
        if self.on_busy not in ON_BUSY:
            raise ValueError(f"class {name}: on_busy must be one of {', '.join(ON_BUSY)}, not {self.on_busy!r}")
        if self.on_busy == "rollback" and self.persist != "turn":
            raise ValueError(f'class {name}: on_busy="rollback" needs persist="turn": there is nothing to go back to')
        placement = self.placement
        if isinstance(placement, str) and placement not in _PLACEMENTS and not placement.startswith("labels:"):
            raise ValueError(
                f"class {name}: unknown placement {placement!r}; known are {', '.join(_PLACEMENTS)}, labels:name=value "
                "and any callable"
            )


def carried(name: str, given: Iterable[str], *, taken: AbstractSet[str]) -> tuple[str, ...]:
    """The names of attributes that a class takes along, without those ``taken`` otherwise. Raises ``ValueError``."""
    names = (given,) if isinstance(given, str) else tuple(given)
    for attribute in names:
        if not attribute.isidentifier() or attribute in taken:
            raise ValueError(f"class {name}: carries: {attribute!r} cannot be carried; self.state is kept anyhow")
    return names


def retention_of(name: str, given: Retention | Mapping[str, Any] | tuple[Any, ...]) -> Retention:
    """What of each channel is kept, as a class says it. Raises ``ValueError``."""
    try:
        return Retention.of(given)
    except ValueError as error:
        raise ValueError(f"class {name}: channel_retention: {error}") from None
