"""What durable turns have set going: noted outside of the actors, so that it can be compared with what came of it."""

from dataclasses import dataclass, field
from typing import NamedTuple


@dataclass(slots=True)
class StepRun:
    """One step of one message. ``value``: what it returned, once that was durable."""

    once: bool
    starts: int = 0
    value: str | None = None
    sends_to: str = ""  # its body sends one message there


class Burst(NamedTuple):
    """Messages that a turn sends, if it commits."""

    source: str
    target: str
    messages: int


class Told(NamedTuple):
    """Items that a turn publishes: with its commit, or while it streams."""

    address: str
    channel: str
    items: int
    streamed: bool


class Reminded(NamedTuple):
    """A reminder that a turn sets. ``every`` 0 is once."""

    address: str
    after: float
    every: float


@dataclass(slots=True)
class Awaited:
    """One wait of one message. ``since``: it began then or later. ``value``: what came of it, once that was durable."""

    address: str
    name: str
    timeout: float | None
    since: float
    value: str | None = None


@dataclass(slots=True)
class DurableWork:
    """By the id of the call that did it; a turn that runs again notes the same again."""

    steps: dict[tuple[str, str], StepRun] = field(default_factory=dict)
    bursts: dict[str, Burst] = field(default_factory=dict)
    told: dict[str, Told] = field(default_factory=dict)
    reminders: dict[str, Reminded] = field(default_factory=dict)
    briefs: dict[str, tuple[str, int, bool]] = field(default_factory=dict)  # channel, items, whether it is closed then
    toils: dict[str, int] = field(default_factory=dict)  # how many items the turn publishes
    cut_short: set[str] = field(default_factory=set)  # the calls whose turns were interrupted, and ended well
    awaited: dict[tuple[str, int], Awaited] = field(default_factory=dict)
    signals: dict[str, str] = field(default_factory=dict)  # the call -> the name
    cancelled: dict[str, str] = field(default_factory=dict)  # the call that cancels -> the name of the reminder
