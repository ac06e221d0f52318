"""What was asked, when, and what came of it."""

import json
import time
from collections import Counter as Counts
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

from actors.errors import ActorError, OutcomeUnknown, Rejected

Outcome = Literal["pending", "ok", "rejected", "unknown", "failed"]
"""rejected: certainly no effect. unknown: perhaps. failed: an error that nobody should get here."""


@dataclass(slots=True)
class Op:
    """One operation. Repeats with its idempotency key belong to it."""

    id: str
    kind: str
    address: str
    args: tuple[object, ...] = ()
    started: float = 0.0
    ended: float | None = None
    outcome: Outcome = "pending"
    value: int | None = None
    attempts: int = 0
    errors: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        until = "..." if self.ended is None else f"{self.ended:.3f}"
        answer = "" if self.value is None else f" {self.value}"
        said = f" after {self.errors[-1]}" if self.errors else ""
        return f"{self.id} {self.kind} {self.address} [{self.started:.3f}, {until}] {self.outcome}{answer}{said}"


class Violation(NamedTuple):
    """A promise that was broken."""

    check: str
    address: str
    expected: str
    actual: str

    def __str__(self) -> str:
        return f"{self.check}: {self.address}\n  expected: {self.expected}\n  actual:   {self.actual}"


class History:
    """The record of a run. Times are seconds since its begin."""

    def __init__(self) -> None:
        self.begin = time.monotonic()
        self.ops: list[Op] = []
        self.errors: Counts[str] = Counts()

    def now(self) -> float:
        return time.monotonic() - self.begin

    def start(self, kind: str, address: str, *args: object) -> Op:
        op = Op(f"{kind}{len(self.ops)}", kind, address, args, self.now())
        self.ops.append(op)
        return op

    def succeeded(self, op: Op, value: int | None) -> None:
        op.ended, op.outcome, op.value = self.now(), "ok", value

    def failed(self, op: Op, error: BaseException) -> None:
        """Note what an attempt came to. Whatever follows, an attempt that may have run stays one."""
        name = type(error).__name__
        self.errors[name] += 1
        op.errors.append(f"{name}: {error}"[:300])
        if isinstance(error, OutcomeUnknown):
            op.outcome = "unknown"
        elif not isinstance(error, Rejected):
            op.ended, op.outcome = self.now(), "failed"
        elif op.outcome == "pending":
            op.ended, op.outcome = self.now(), "rejected"

    def of(self, kind: str, address: str = "") -> list[Op]:
        return [op for op in self.ops if op.kind == kind and address in ("", op.address)]

    def unavailable(self) -> dict[str, float]:
        """By address: the longest time, in seconds, in which somebody waited there and nobody was answered."""
        found: dict[str, float] = {}
        answered: dict[str, float] = {}
        for op in sorted((op for op in self.ops if op.outcome == "ok"), key=lambda op: op.ended or 0.0):
            assert op.ended is not None
            waited = op.ended - max(op.started, answered.get(op.address, 0.0))
            found[op.address] = max(found.get(op.address, 0.0), waited)
            answered[op.address] = op.ended
        return found

    def write(self, file: Path) -> None:
        """One line of JSON for each operation."""
        file.write_text("".join(json.dumps(asdict(op), default=str) + "\n" for op in self.ops))


def check_failures(history: History) -> list[Violation]:
    """No handler of the workload raises, and nothing but an ``ActorError`` reaches a caller."""
    return [
        Violation("calls end well or with a known error", op.address, "an answer, Rejected or OutcomeUnknown", str(op))
        for op in history.ops
        if op.outcome == "failed"
    ]


def is_actor_error(error: BaseException) -> bool:
    return isinstance(error, ActorError)
