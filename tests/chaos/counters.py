"""Whether the answers of a counter can be explained by operations that took effect one by one, each within its call.

Every addition of 1 has an answer of its own, which is its place in the only order there can be. So the check is exact
and needs no search: the order of the answers must agree with that of the calls; a read that answered ``v`` comes behind
the addition ``v`` and before ``v + 1``; places without an answer belong to additions whose outcome is unknown, each to
one that had been called before anybody saw its effect.
"""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from tests.chaos.history import Op, Violation

CHECK = "counters are linearizable"


class _Seen(NamedTuple):
    """An answer: at which value of the counter, and between which times."""

    at: int
    adds: bool
    op: Op

    @property
    def place(self) -> tuple[int, bool]:
        """In the order of effects: the addition first, then those that read its count."""
        return self.at, not self.adds


def check_counter(address: str, ops: Sequence[Op], final: int) -> list[Violation]:
    """Compare additions ("add") and reads ("read") of a counter, and its count in the end, when nothing runs."""
    adds = [op for op in ops if op.kind == "add"]
    seen = [_Seen(op.value, op.kind == "add", op) for op in ops if op.outcome == "ok" and op.value is not None]
    return [
        *_check_answers(address, seen, final),
        *_check_order(address, seen),
        *_check_unknown(address, seen, [op for op in adds if op.outcome in ("unknown", "pending")], final),
    ]


def _check_answers(address: str, seen: list[_Seen], final: int) -> Iterator[Violation]:
    additions: dict[int, Op] = {}
    for it in seen:
        if not int(it.adds) <= it.at <= final:
            yield Violation(CHECK, address, f"answers up to {final}, its count in the end", str(it.op))
        if it.adds and (other := additions.setdefault(it.at, it.op)) is not it.op:
            yield Violation(CHECK, address, f"one addition that made it {it.at}", f"{other}; and {it.op}")


def _check_order(address: str, seen: list[_Seen]) -> Iterator[Violation]:
    """Who was called after an answer sees at least what that answer saw."""
    ended = sorted(seen, key=lambda it: it.op.ended or math.inf)
    newest: _Seen | None = None
    at = 0
    for it in sorted(seen, key=lambda it: it.op.started):
        while at < len(ended) and (ended[at].op.ended or math.inf) < it.op.started:
            if newest is None or ended[at].place > newest.place:
                newest = ended[at]
            at += 1
        if newest is not None and (it.place < newest.place or (it.adds and it.at <= newest.at)):
            yield Violation(CHECK, address, f"an answer later than {newest.op}", str(it.op))


def _check_unknown(address: str, seen: list[_Seen], unknown: list[Op], final: int) -> Iterator[Violation]:
    """Give each place that no answer names to an addition that may have taken it; the earliest call to the first."""
    taken = {it.at for it in seen if it.adds}
    free = [count for count in range(1, final + 1) if count not in taken]
    if len(free) > len(unknown):
        yield Violation(
            CHECK, address, f"no more than {len(unknown)} effects without an answer, those of {_some(unknown)}",
            f"{len(free)}: at {free[:10]}, of {final} in the end",
        )  # fmt: skip
        return
    by_count = sorted(seen, key=lambda it: it.at)
    visible = math.inf  # when an effect at the place was seen at the latest, through the answers behind it
    limits: dict[int, float] = {}
    for count in reversed(free):
        while by_count and by_count[-1].at >= count:
            visible = min(visible, by_count.pop().op.ended or math.inf)
        limits[count] = visible
    for count, op in zip(free, sorted(unknown, key=lambda op: op.started), strict=False):
        if op.started >= limits[count]:
            yield Violation(
                CHECK, address, f"an addition called before {limits[count]:.3f}, when {count} or more had been seen",
                f"the next that could have made it {count} is {op}",
            )  # fmt: skip


def _some(ops: list[Op]) -> str:
    return ", ".join(op.id for op in ops[:10]) + (", ..." if len(ops) > 10 else "") or "nobody"
