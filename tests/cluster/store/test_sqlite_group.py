"""A group has the outcomes of its operations one by one, at a cost in statements that does not depend on its size."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from actors.ports import Commit, Fenced, Opened
from cluster.store.file_lock import FileLock
from cluster.store.operations import Open, Operation, Outcome
from cluster.store.sqlite_group import apply
from cluster.store.sqlite_read import DueQuery, Range, read_due, read_ranges, read_states
from cluster.store.sqlite_schema import connect
from tests.conformance.store.model import ADDRESSES, EVERYTHING, Model, comparable, operations


@pytest.fixture
def connection(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    path = tmp_path / "silo.db"
    lock = FileLock(path)
    with closing(connect(path, lock=lock, busy_timeout=1)) as connection:
        yield connection
    lock.release()


def in_transaction(connection: sqlite3.Connection, group: list[Operation]) -> list[Outcome]:
    connection.execute("BEGIN IMMEDIATE")
    outcomes = apply(connection, group)
    connection.execute("COMMIT")
    return outcomes


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(groups=st.lists(st.lists(operations, min_size=1, max_size=20), max_size=4))
def test_a_group_is_its_operations_one_by_one(connection: sqlite3.Connection, groups: list[list[Operation]]) -> None:
    for table in ("actors", "states", "records"):
        connection.execute(f"DELETE FROM {table}")
    connection.execute("UPDATE store SET era = 0")
    model = Model()
    for group in groups:
        outcomes = in_transaction(connection, group)
        assert [comparable(outcome) for outcome in outcomes] == [model.run(operation) for operation in group]
        assert read_states(connection, ADDRESSES) == [model.state(address) for address in ADDRESSES]
        found = read_ranges(connection, [Range(address, *EVERYTHING, 1000) for address in ADDRESSES])
        assert found == [model.read(address, *EVERYTHING, 1000, newest=False) for address in ADDRESSES]
        (due,) = read_due(connection, [DueQuery(1e9, frozenset({"a.1"}), None, 10)])
        assert due == model.due(1e9, ("a.1",), None, 10)


def wide(address: str, epoch: int, *, number: int) -> Commit:
    """A commit with all effects."""
    name = b"%d" % number
    return Commit(
        address=address,
        epoch=epoch,
        state=address.encode() + name,
        put={b"a" + name: name, b"b": name, b"\x80" + name: name},
        drop=[b"a%d" % (number - 1)],
        cut=[(b"\x80", b"\x80" + name)],
        wake=float(number),
        asleep=number == 2,
    )


@pytest.mark.parametrize("size", [1, 2, 3, 63, 64, 65, 512, 1025, 2500])
def test_every_size_of_group(connection: sqlite3.Connection, size: int) -> None:
    addresses = [f"session-{number}" for number in range(size)]
    assert in_transaction(connection, [Open(address, 1, "a.1") for address in addresses]) == [Opened()] * size
    for number in (1, 2):
        in_transaction(connection, [wide(address, 1, number=number) for address in addresses])
    opened = in_transaction(connection, [Open(address, 2, "") for address in addresses])
    assert opened == [Opened(address.encode() + b"2", {b"a2": b"2", b"b": b"2"}) for address in addresses]
    assert (
        read_ranges(connection, [Range(address, b"\x80", b"\xff", 9) for address in addresses])
        == [[(b"\x802", b"2")]] * size
    )
    (due,) = read_due(connection, [DueQuery(2.0, frozenset({"a.1"}), None, size + 1)])
    assert [found.address for found in due] == sorted(addresses)
    in_transaction(connection, [Commit(address=address, epoch=2, erase=True) for address in addresses])
    assert in_transaction(connection, [Open(address, 3, "") for address in addresses]) == [Opened()] * size
    for table in ("states", "records"):
        assert connection.execute(f"SELECT count(*) FROM {table}").fetchone() == (0,)


def test_the_number_of_statements_does_not_grow_with_the_group(connection: sqlite3.Connection) -> None:
    statements: list[str] = []
    counts = []
    for size in (1, 200):
        addresses = [f"session-{number}" for number in range(size)]
        in_transaction(connection, [Open(address, 1, "") for address in addresses])
        connection.set_trace_callback(statements.append)
        in_transaction(connection, [wide(address, 1, number=1) for address in addresses])
        connection.set_trace_callback(None)
        counts.append(len(set(statements)))  # one that runs a trigger is told of again for each row
        statements.clear()
    assert counts == [8, 8]  # begin, owners, cut, drop, put, states, wake, commit


def test_what_is_not_there_costs_no_statement(connection: sqlite3.Connection) -> None:
    in_transaction(connection, [Open("session-1", 1, "")])
    statements: list[str] = []
    connection.set_trace_callback(statements.append)
    in_transaction(connection, [Commit(address="session-1", epoch=1, state=b"state")])
    assert len(statements) == 4  # begin, owners, states, commit


class Steps:
    """Counts what SQLite's virtual machine does."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.count = 0
        connection.set_progress_handler(self.step, 1)

    def step(self) -> int:
        self.count += 1
        return 0


@pytest.mark.parametrize(
    "effects", [{"drop": [b"\x8000001"]}, {"cut": [(b"\x8000001", b"\x8000003")]}, {"put": {b"\x8000001": b"new"}}]
)
def test_a_change_to_one_record_passes_over_none_of_the_others(
    connection: sqlite3.Connection, effects: dict[str, object]
) -> None:
    in_transaction(connection, [Open("session-1", 1, "")])
    put = {b"\x80%05d" % number: b"" for number in range(5_000)}
    in_transaction(connection, [Commit(address="session-1", epoch=1, put=put)])
    steps = Steps(connection)
    in_transaction(connection, [Commit(address="session-1", epoch=1, **effects)])  # type: ignore[arg-type]
    assert steps.count < 500


def test_opening_does_not_read_cold_records(connection: sqlite3.Connection) -> None:
    in_transaction(connection, [Open("session-1", 1, "")])
    put = {b"\x80%05d" % number: b"" for number in range(5_000)}
    in_transaction(connection, [Commit(address="session-1", epoch=1, put=put | {b"a": b"1"})])
    steps = Steps(connection)
    assert in_transaction(connection, [Open("session-1", 2, "")]) == [Opened(None, {b"a": b"1"})]
    assert steps.count < 500


@pytest.mark.parametrize("sizes", [[300_000], [2_000] * 200, [20_000] * 20, [262_138], [262_139], [10, 5_000_000, 10]])
def test_hot_records_that_are_too_many_for_one_text(connection: sqlite3.Connection, sizes: list[int]) -> None:
    put = {b"a%05d" % number: bytes([number % 256]) * size for number, size in enumerate(sizes)}
    in_transaction(connection, [Open("session-1", 1, ""), Open("session-2", 1, "")])
    in_transaction(
        connection,
        [
            Commit(address="session-1", epoch=1, put=put),
            Commit(address="session-2", epoch=1, put={b"a": b"2"}, state=b"2"),
        ],
    )
    statements: list[str] = []
    connection.set_trace_callback(statements.append)
    first, second = in_transaction(connection, [Open("session-1", 2, ""), Open("session-2", 2, "")])
    connection.set_trace_callback(None)
    in_pages = any("LIMIT" in statement for statement in statements)
    assert in_pages == (sum(len(key) + len(value) for key, value in put.items()) > 262_144)
    assert isinstance(first, Opened)
    assert list(first.records.items()) == list(put.items())
    assert second == Opened(b"2", {b"a": b"2"})


def test_the_fence_is_the_files_not_the_connections(connection: sqlite3.Connection, tmp_path: Path) -> None:
    in_transaction(connection, [Open("session-1", 1, "")])
    with closing(sqlite3.connect(tmp_path / "silo.db")) as other, other:
        other.execute("UPDATE actors SET epoch = 2")
    (outcome,) = in_transaction(connection, [Commit(address="session-1", epoch=1, state=b"zombie")])
    assert isinstance(outcome, Fenced)
    assert outcome.stored == 2
