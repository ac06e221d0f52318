"""What happened in one run: every call with its outcome, every effect, every fault."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import NamedTuple

from actors.errors import ActorError, ActorFailed, CallCycle, OutcomeUnknown, Rejected, TurnInterrupted
from actors.ref import OnBusy
from tests.simulation.durable_work import DurableWork
from tests.simulation.loop import PROCESS, START, Process, SimLoop

_WORD = re.compile(r"[a-z]\d[\d./~]*")  # the ids of calls


class Event(NamedTuple):
    when: float
    process: str
    address: str  # "" concerns all
    text: str


@dataclass(slots=True, eq=False)
class Op:
    """One call, as its caller saw it."""

    id: str
    sender: str  # whose order counts; "" where none does
    address: str
    handler: str
    mode: str  # ask, send, stream
    started: float
    timeout: float
    ancestors: tuple[tuple[str, str], ...] = ()  # (address, op) of the turns that wait for it
    appends: bool = True  # a success leaves the id in the actor's log
    planned_failure: bool = False
    ended: float | None = None
    outcome: str = ""  # ok, rejected, unknown, failed, cycle
    error: str = ""
    position: tuple[int, int, int] | None = None  # what the reply names: epoch, life within it, entries in the log
    items: list[int] = field(default_factory=list)
    count: int = 0  # STREAM: how many there are
    left: bool = False  # STREAM: the reader left early
    slack: float = 0.0  # for how long the caller itself was frozen
    effect: str = ""  # the entry that a success leaves: the id, unless several calls are one message
    keyed: bool = False  # it has an idempotency key
    on_busy: OnBusy | None = None
    again: bool = False  # a turn that runs again has made the same call before

    def __post_init__(self) -> None:
        self.effect = self.effect or self.id

    def __str__(self) -> str:
        asked = f"{self.id} {self.mode} {self.address}.{self.handler}"
        if self.ended is None:
            return f"{asked} (under way)"
        where = f" at (epoch {self.position[0]}, entry {self.position[2]})" if self.position else ""
        return f"{asked} -> {self.outcome}{where}{': ' + self.error if self.error else ''}"


class Violation(NamedTuple):
    """A promise that was broken."""

    check: str
    phase: str
    id: str
    address: str
    expected: str
    actual: str

    def __str__(self) -> str:
        about = f"{self.id} on {self.address}" if self.address else self.id
        return (
            f"{self.check} violated in phase {self.phase!r} by {about}\n"
            f"  expected: {self.expected}\n  actual:   {self.actual}"
        )


class History:
    """The record, and the first violations found in it."""

    def __init__(self, loop: SimLoop) -> None:
        self.loop = loop
        self.phase = "start"
        self.events: list[Event] = []
        self.ops: dict[str, Op] = {}
        self.violations: list[Violation] = []
        self.runs: dict[str, list[tuple[str, int]]] = {}  # op id -> (address, epoch) of each time its handler began
        self.ran_when: dict[tuple[str, int], float] = {}  # (op id, epoch) -> when its handler began there last
        self.ran_at: dict[tuple[str, int, int], list[str]] = {}  # (address, epoch, life) -> op ids in order
        self.disturbed: list[float] = []  # when links ended and silos died, in order
        self.partings: dict[tuple[Process, int], tuple[float, float]] = {}  # by process and link, see ``part``
        self.work = DurableWork()
        self.on_reply: Callable[[Op], None] = lambda op: None

    def note(self, text: str, *, address: str = "", process: str = "") -> None:
        self.events.append(Event(self.loop.time(), process or PROCESS.get(self.loop.outside).name, address, text))

    def violate(self, check: str, id: str, *, address: str = "", expected: str, actual: str) -> None:
        violation = Violation(check, self.phase, id, address, expected, actual)
        self.note(f"VIOLATION {check}: {actual}", address=address)
        self.violations.append(violation)

    def disturb(self) -> None:
        """A link has ended or a process died: what took that way may be overtaken."""
        self.disturbed.append(self.loop.time())

    def part(self, process: Process, link: int = 0) -> None:
        """A side of a link says goodbye, or a silo begins to drain: what is new goes another way from now on."""
        self.partings.setdefault((process, link), (self.loop.time(), float("inf")))

    def parted(self, process: Process, link: int | None = None) -> None:
        """That link has ended; without one, the process."""
        for key, (start, end) in self.partings.items():
            if key[0] is process and link in (None, key[1]) and end == float("inf"):
                self.partings[key] = start, self.loop.time()

    def parts_between(self, start: float, end: float) -> bool:
        """Whether a silo was about to go, or a link, at some time between the two."""
        return any(began <= end and start <= ended for began, ended in self.partings.values())

    def begin(self, op: Op) -> None:
        if op.id in self.ops:
            op.again = True
            op.id = f"{op.id}~{sum(other.effect == op.effect for other in self.ops.values())}"
        self.ops[op.id] = op
        self.note(f"call  {op}", address=op.address)

    def end(self, op: Op, error: BaseException | None = None) -> None:
        op.ended = self.loop.time()
        if error is None:
            op.outcome = op.outcome or "ok"
        elif isinstance(error, CallCycle):
            op.outcome = "cycle"
        elif isinstance(error, Rejected):
            op.outcome = "rejected"
        elif isinstance(error, OutcomeUnknown):
            op.outcome = "unknown"
        elif isinstance(error, ActorFailed | TurnInterrupted):
            op.outcome = "failed"
        else:
            op.outcome = "broken"
            self.violate(
                "errors are ActorErrors", op.id, address=op.address,
                expected="a Rejected, OutcomeUnknown or ActorFailed", actual=repr(error),
            )  # fmt: skip
        if error is not None:
            text = str(error) if isinstance(error, ActorError) else repr(error)
            op.error = f"{type(error).__name__}: {text[:160]}"
        self.note(f"reply {op}", address=op.address)
        self.on_reply(op)

    def ran(self, op_id: str, address: str, life: tuple[int, int]) -> None:
        """A handler began to run for this op, in this epoch and life."""
        self.runs.setdefault(op_id, []).append((address, life[0]))
        self.ran_when[op_id, life[0]] = self.loop.time()
        self.ran_at.setdefault((address, *life), []).append(op_id)
        self.note(f"runs  {op_id} (epoch {life[0]})", address=address)

    def digest(self) -> str:
        """Equal for equal runs."""
        found = blake2b(digest_size=8)
        for event in self.events:
            found.update(repr(event).encode())
        return found.hexdigest()

    def about(self, violation: Violation, *, most: int = 160) -> str:
        """The readable history of the address of a violation, around the calls that it names."""
        named = [op for op in self.ops.values() if op.id in set(_WORD.findall(" ".join(violation)))]
        mine = [event for event in self.events if not violation.address or event.address in ("", violation.address)]
        if named:
            start = min(op.started for op in named) - 0.3
            end = max(op.ended if op.ended is not None else op.started for op in named) + 0.3
            mine = [event for event in mine if start <= event.when <= end]
        skipped = f"  ... {len(mine) - most} events in between, see --verbose ...\n" if len(mine) > most else ""
        head, tail = (mine, []) if not skipped else (mine[: most // 2], mine[-most // 2 :])
        return _lines(head) + ("\n" + skipped + _lines(tail) if skipped else "")

    def everything(self) -> str:
        """All of it."""
        return _lines(self.events)


def _lines(events: list[Event]) -> str:
    return "\n".join(f"  {e.when - START:8.4f}  {e.process:<12} {e.address:<10} {e.text}" for e in events)
