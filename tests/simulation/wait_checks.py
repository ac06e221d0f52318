"""The promises about signals and those who wait for them."""

from collections import Counter

import msgspec

from actors import codec
from actors.ports import Commit
from actors.records import JOURNAL, SIGNAL, Finished, Raised, Signal, Waiting, journal_rows
from tests.simulation.clerk import CLERKS, LATE, STOPPED, signal_key, wait_name
from tests.simulation.history import History
from tests.simulation.loop import SKEW, WALL
from tests.simulation.store import SharedStore
from tests.simulation.subjects import kind_of


class WaitChecks:
    """Sees every commit of a clerk, and knows the signals that were durable at some time."""

    def __init__(self, history: History, store: SharedStore) -> None:
        self.history = history
        self.store = store
        self.durable: dict[str, str] = {}  # by value: where it came
        self.taken: set[str] = set()  # by a wait that has ended
        self.rows: dict[str, dict[bytes, bytes]] = {}  # by address: signals and journals before the commit

    def on_commit(self, commit: Commit) -> None:
        """It was applied: look at what it has changed."""
        address = commit.address
        if kind_of(address) != "clerk":
            return
        self._look_at(commit, self.rows.get(address, {}))
        self.rows[address] = self.store.rows(address, SIGNAL) | self.store.rows(address, JOURNAL)

    def _look_at(self, commit: Commit, before: dict[bytes, bytes]) -> None:
        waits = {key: value for key, value in commit.put.items() if key.startswith(JOURNAL) and key[17:18] == b"\x1d"}
        for key, value in waits.items():
            self._goes_on(commit, key, value, before)
        for key, value in commit.put.items():
            if key.startswith(SIGNAL):
                self._comes(commit.address, value_of(value))
        gone = {key for key in commit.drop if key.startswith(SIGNAL)}
        ended = [row for row in map(journal_rows.decode, waits.values()) if isinstance(row, Finished)]
        if len(gone) != len(ended):
            self._violate(
                "a signal continues one wait", commit.address, expected=f"as many signals as waits to end: {ended}",
                actual=f"{len(gone)} signals go",
            )  # fmt: skip

    def _comes(self, address: str, value: str) -> None:
        if value in self.durable:
            self._violate("a signal comes once", address, expected=f"{value} once", actual="it comes again")
        self.durable[value] = address

    def _goes_on(self, commit: Commit, key: bytes, value: bytes, rows: dict[bytes, bytes]) -> None:
        """A wait begins, or ends."""
        row, before = journal_rows.decode(value), journal_rows.decode(rows[key]) if key in rows else None
        name, address = wait_name(key), commit.address
        there = {key: rows[key] for key in sorted(rows) if key.startswith(signal_key(name))}
        if before is not None and (not isinstance(before, Waiting) or isinstance(row, Waiting)):
            self._violate("a wait ends once, and keeps its deadline", address, expected=str(before), actual=str(row))
        if isinstance(row, Finished):
            assert row.value is not None
            taken = str(codec.decode(row.value, trusted=True))
            oldest = next(iter(there), b"")
            if oldest not in commit.drop or value_of(there[oldest]) != taken:
                self._violate(
                    "a signal continues one wait", address,
                    expected=f"the oldest of {[*map(value_of, there.values())]}", actual=f"{taken} is taken by {key!r}",
                )  # fmt: skip
            self.taken.add(taken)
        elif isinstance(row, Raised):
            early = isinstance(before, Waiting) and WALL + self.history.loop.time() < before.deadline - SKEW
            if there or early:
                self._violate(
                    "a timeout comes at its time, and only without a signal", address, expected=f"{before} to go on",
                    actual=f"TimeoutError with {[*map(value_of, there.values())]} in the store",
                )  # fmt: skip

    def _violate(self, check: str, address: str, *, expected: str, actual: str) -> None:
        self.history.violate(check, address, address=address, expected=expected, actual=actual)

    def check(self, effects: dict[str, list[str]]) -> None:
        """When all has come to rest: each signal that was accepted was taken once, or waits; and no other one was."""
        told = [entry.split("=") for address in CLERKS for entry in effects.get(address, []) if "=" in entry]
        used = Counter(value for _, _, value in told if value not in (LATE, STOPPED))
        waits = Counter(value_of(row) for address in CLERKS for row in self.store.rows(address, SIGNAL).values())
        for value in self.history.work.signals:
            op = self.history.ops[value]
            came, taken = value in self.durable, value in self.taken
            fits = {"ok": came, "rejected": not came}.get(op.outcome, True)
            if not fits or used[value] > taken or waits[value] != (came and not taken):
                self._violate(
                    "a signal continues one wait", op.address, expected=f"one wait at most, or a row: {op}",
                    actual=f"durable: {came}, taken: {taken}, told of {used[value]} times, rows: {waits[value]}",
                )  # fmt: skip
        for op_id, number, value in told:
            awaited = self.history.work.awaited.get((op_id, int(number)))
            if value != STOPPED and (awaited is None or awaited.value != value):
                self._violate(
                    "a wait that is over keeps its outcome", CLERKS[0], expected=str(awaited),
                    actual=f"{op_id} has committed {value}",
                )  # fmt: skip


def value_of(row: bytes) -> str:
    """The value of a stored signal."""
    return str(codec.decode(msgspec.msgpack.decode(row, type=Signal).value, trusted=True))
