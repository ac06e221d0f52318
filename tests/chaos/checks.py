"""What must hold when everything has come to rest: effects once, sums kept, channels without gaps, reminders rung."""

from collections import Counter as Counts
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

from tests.chaos.history import Op, Violation
from tests.chaos.readers import Entry


class Book(Protocol):
    """What an account tells of itself, see ``town.Book``."""

    balance: int
    paid: int
    got: int
    interrupted: list[str]


def check_settled(ops: Sequence[Op]) -> list[Violation]:
    """Once nothing is wrong any more every call that is repeated gets an answer."""
    return [
        Violation("calls are answered when the faults are over", op.address, f"an answer to {op.id}", str(op))
        for op in ops
        if op.kind != "read" and op.outcome in ("pending", "unknown")
    ]


def check_refusals(ops: Sequence[Op], healthy_from: float) -> list[Violation]:
    """Once nothing is wrong any more nothing is refused."""
    return [
        Violation("nothing is refused when the faults are over", op.address, "an answer", str(op))
        for op in ops
        if op.outcome == "rejected" and op.started > healthy_from
    ]


def check_effects(name: str, address: str, ops: Sequence[Op], found: int) -> list[Violation]:
    """Each accepted operation took effect once, unknown ones perhaps; ``found`` is how often that was in all."""
    accepted = sum(op.outcome == "ok" for op in ops)
    unknown = sum(op.outcome in ("pending", "unknown") for op in ops)
    if accepted <= found <= accepted + unknown:
        return []
    most = f" to {accepted + unknown}" if unknown else ""
    return [Violation("accepted takes effect once", address, f"{accepted}{most} {name}", str(found))]


def check_money(books: Mapping[str, Book], pays: Sequence[Op], noted: Sequence[str]) -> Iterator[Violation]:
    """Nothing was made or lost, every payment left and came once, and no step ran twice.

    ``noted``: what the payments' steps have written, outside of the cluster.
    """
    total = sum(book.balance for book in books.values())
    if total:
        yield Violation("the sum is conserved", "all accounts", "0", f"{total}: {dict(books)}")
    for address, book in books.items():
        yield from check_effects("payments", address, [op for op in pays if op.address == address], book.paid)
        come = [op for op in pays if op.args[0] == address]
        yield from check_effects("letters with money", address, come, book.got)
    for op_id, times in Counts(noted).items():
        if times > 1:
            yield Violation("a step that has begun never runs twice", f"payment {op_id}", "1 run", f"{times}")
    interrupted = {op_id for book in books.values() for op_id in book.interrupted}
    for op in pays:
        if op.outcome == "ok" and op.args[2] not in noted and op.args[2] not in interrupted:
            yield Violation("a finished turn has run its steps", op.address, f"a note of {op.args[2]}", f"none; {op}")


def check_channel(address: str, readers: Mapping[str, Sequence[Entry]], said: int, told: int) -> Iterator[Violation]:
    """Every reader has read the same, from offset 0 on, without a gap; and what the herald says that it published."""
    for name, entries in readers.items():
        offsets = [entry.offset for entry in entries]
        if offsets != [*range(len(offsets))]:
            at = next(at for at, offset in enumerate(offsets) if offset != at)
            yield Violation(
                "readers read every entry once, in order", address, f"{name}: offset {at}", _around(entries, at)
            )
    longest = max(readers.values(), key=len, default=[])
    for name, entries in readers.items():
        differing = next((at for at, (a, b) in enumerate(zip(entries, longest, strict=False)) if a != b), None)
        if differing is not None:
            yield Violation(
                "all readers read the same", address, str(longest[differing]), f"{name}: {entries[differing]}"
            )
        elif len(entries) < len(longest):
            yield Violation("readers come to the end", address, f"{name}: {len(longest)} entries", str(len(entries)))
    yield from _check_published(address, longest, said, told)


def _check_published(address: str, entries: Sequence[Entry], said: int, told: int) -> Iterator[Violation]:
    expected: Any = None
    counts = {"said": 0, "told": 0}
    for at, entry in enumerate(entries):
        item = entry.item
        kind = "said" if isinstance(item, dict) and "said" in item else "told"
        if expected is None:
            expected = (
                {"said": counts["said"]} if kind == "said" else {"told": counts["told"], "at": 0, "of": item["of"]}
            )
        if entry.kind != "item" or item != expected:
            yield Violation(
                "a channel has what was published, once, in order", address, str(expected), _around(entries, at)
            )
            return
        going = kind == "told" and item["at"] + 1 < item["of"]
        expected = {**item, "at": item["at"] + 1} if going else None
        counts[kind] += not going
    if expected is not None or counts != {"said": said, "told": told}:
        yield Violation(
            "a channel has all that was published", address, f"{said} items and {told} whole streams",
            f"{counts['said']} and {counts['told']}; {_around(entries, len(entries) - 1)}",
        )  # fmt: skip


def _around(entries: Sequence[Entry], at: int) -> str:
    return "... " + ", ".join(f"{it.offset} {it.kind} {it.item}" for it in entries[max(0, at - 3) : at + 2]) + " ..."


def check_reminders(address: str, arms: Sequence[Op], rung: Sequence[str], ticks: Sequence[str]) -> Iterator[Violation]:
    """Every reminder that was set has rung once; one that comes again and again at most once for each time."""
    times = Counts(rung)
    for op in arms:
        name = str(op.args[0])
        fine = {"ok": (1,), "rejected": (0,)}.get(op.outcome, (0, 1))
        if times.pop(name, 0) not in fine:
            yield Violation(
                "a reminder rings once", address, f"{name}: {' or '.join(map(str, fine))} times",
                f"{rung.count(name)}; {op}",
            )  # fmt: skip
    if times:
        yield Violation("a reminder rings once", address, "only those that were set", str(dict(times)))
    for tick, count in Counts(ticks).items():
        if count > 1:
            yield Violation("a periodic reminder rings once for each time", address, f"one ring for {tick}", str(count))
    dues = [float(tick.partition("@")[2]) for tick in ticks]
    if dues != sorted(dues):
        yield Violation("a periodic reminder rings in order", address, "times that rise", str(dues))
