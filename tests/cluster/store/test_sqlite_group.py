"""A group has the outcomes of its operations one by one, at a cost in statements that does not depend on its size."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from actors.ports import Commit, Fenced
from cluster.store.file_lock import FileLock
from cluster.store.sqlite_group import Delete, Open, Operation, Outcome, RaiseEra, apply
from cluster.store.sqlite_schema import connect
from tests.conformance.store.model import Call, Model, calls


@pytest.fixture
def connection(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    path = tmp_path / "silo.db"
    lock = FileLock(path)
    with closing(connect(path, lock=lock, busy_timeout=1)) as connection:
        yield connection
    lock.release()


def operation(call: Call) -> Operation:
    match call.verb:
        case "open":
            return Open(call.address, call.epoch)
        case "commit":
            return Commit(call.address, call.epoch, call.state)
        case "delete":
            return Delete(call.address, call.epoch)
        case "raise_era":
            return RaiseEra(call.epoch)


def in_transaction(connection: sqlite3.Connection, operations: list[Operation]) -> list[Outcome]:
    connection.execute("BEGIN IMMEDIATE")
    outcomes = apply(connection, operations)
    connection.execute("COMMIT")
    return outcomes


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(groups=st.lists(st.lists(calls, min_size=1, max_size=20), max_size=4))
def test_a_group_is_its_operations_one_by_one(connection: sqlite3.Connection, groups: list[list[Call]]) -> None:
    for table in ("actors", "states"):
        connection.execute(f"DELETE FROM {table}")
    connection.execute("UPDATE store SET era = 0")
    model = Model()
    for group in groups:
        outcomes = in_transaction(connection, [operation(call) for call in group])
        told = [str(outcome) if isinstance(outcome, Fenced) else outcome for outcome in outcomes]
        assert told == [model.run(call) for call in group]


@pytest.mark.parametrize("size", [1, 2, 3, 63, 64, 65, 512, 2000])
def test_every_size_of_group(connection: sqlite3.Connection, size: int) -> None:
    addresses = [f"session-{number}" for number in range(size)]
    assert in_transaction(connection, [Open(address, 1) for address in addresses]) == [None] * size
    in_transaction(connection, [Commit(address, 1, address.encode()) for address in addresses])
    states = in_transaction(connection, [Open(address, 2) for address in addresses])
    assert states == [address.encode() for address in addresses]
    in_transaction(connection, [Delete(address, 2) for address in addresses])
    assert in_transaction(connection, [Open(address, 3) for address in addresses]) == [None] * size


def test_the_number_of_statements_does_not_grow_with_the_group(connection: sqlite3.Connection) -> None:
    statements: list[str] = []
    counts = []
    for size in (1, 200):
        in_transaction(connection, [Open(f"session-{number}", 1) for number in range(size)])
        connection.set_trace_callback(statements.append)
        in_transaction(connection, [Commit(f"session-{number}", 1, b"state") for number in range(size)])
        connection.set_trace_callback(None)
        counts.append(len(statements))
        statements.clear()
    assert counts == [4, 4]  # begin, fences, states, commit


def test_the_fence_is_the_files_not_the_connections(connection: sqlite3.Connection, tmp_path: Path) -> None:
    in_transaction(connection, [Open("session-1", 1)])
    with closing(sqlite3.connect(tmp_path / "silo.db")) as other, other:
        other.execute("UPDATE actors SET epoch = 2")
    (outcome,) = in_transaction(connection, [Commit("session-1", 1, b"zombie")])
    assert isinstance(outcome, Fenced)
    assert outcome.stored == 2
