"""The checks object to histories that are wrong, and to no other."""

import random
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import pytest

from tests.chaos.checks import (
    check_channel,
    check_effects,
    check_money,
    check_refusals,
    check_reminders,
    check_settled,
)
from tests.chaos.counters import check_counter
from tests.chaos.faults import KINDS, draw, usable
from tests.chaos.fleet import CLOCK_SKEW
from tests.chaos.history import Op, Outcome, Violation
from tests.chaos.readers import Entry

_CLOCKS = """
import time
from grpc.aio._utils import _timeout_to_deadline
print(time.time(), time.time_ns(), time.monotonic(), _timeout_to_deadline(0))
"""

# -- counters ----------------------------------------------------------------------------------------------------------


def add(started: float, ended: float, value: int) -> Op:
    return Op(f"add{value}", "add", "tally-0", started=started, ended=ended, outcome="ok", value=value)


def read(started: float, ended: float, value: int) -> Op:
    return Op(f"read{value}", "read", "tally-0", started=started, ended=ended, outcome="ok", value=value)


def doubtful(started: float) -> Op:
    return Op(f"lost{started}", "add", "tally-0", started=started, outcome="unknown")


def refused(started: float) -> Op:
    return Op("refused", "add", "tally-0", started=started, ended=started + 1, outcome="rejected")


@pytest.mark.parametrize(
    ("ops", "final"),
    [
        pytest.param([], 0, id="nothing"),
        pytest.param([add(0, 1, 1), add(2, 3, 2), read(4, 5, 2)], 2, id="one after the other"),
        pytest.param([add(0, 3, 2), add(1, 2, 1), read(0, 3, 0)], 2, id="at the same time, in any order"),
        pytest.param([add(0, 1, 1), doubtful(2), read(3, 4, 2), add(5, 6, 3)], 3, id="an unknown one took effect"),
        pytest.param([add(0, 1, 1), doubtful(2), read(3, 4, 1)], 1, id="an unknown one did not"),
        pytest.param([doubtful(0), add(5, 6, 1), add(7, 8, 3)], 3, id="an unknown one took effect much later"),
        pytest.param([refused(0), add(2, 3, 1)], 1, id="a refused one took no effect"),
        pytest.param([read(0, 9, 1), add(1, 8, 1)], 1, id="a read beside the addition that it sees"),
    ],
)
def test_histories_of_a_counter_that_can_be(ops: list[Op], final: int) -> None:
    assert check_counter("tally-0", ops, final) == []


@pytest.mark.parametrize(
    ("ops", "final"),
    [
        pytest.param([add(0, 1, 1), add(2, 3, 1)], 1, id="a lost update"),
        pytest.param([add(0, 1, 1), add(2, 3, 2)], 1, id="an update lost in the end"),
        pytest.param([add(0, 1, 1), add(2, 3, 3)], 3, id="one took effect twice"),
        pytest.param([add(0, 1, 1)], 2, id="one took effect again afterwards"),
        pytest.param([refused(0), add(2, 3, 2)], 2, id="a refused one took effect"),
        pytest.param([add(0, 1, 1), add(2, 3, 2), read(4, 5, 1)], 2, id="a stale read"),
        pytest.param([add(0, 1, 1), read(2, 3, 2)], 1, id="a read of what was never there"),
        pytest.param([add(0, 1, 1), read(2, 3, 1), read(4, 5, 0)], 1, id="a read that goes back"),
        pytest.param([read(0, 1, 1), add(2, 3, 1)], 1, id="a read of what comes later"),
        pytest.param([add(0, 1, 2), add(2, 3, 1)], 2, id="an order that cannot be"),
        pytest.param([add(0, 1, 2), doubtful(2)], 2, id="an unknown one that was called too late for its effect"),
        pytest.param([doubtful(0), read(1, 2, 2), doubtful(3), read(4, 5, 2)], 2, id="two were seen, one called"),
    ],
)
def test_histories_of_a_counter_that_cannot_be(ops: list[Op], final: int) -> None:
    assert check_counter("tally-0", ops, final)


def _true_history(rng: random.Random) -> tuple[list[Op], int]:
    """Of a counter that is right: each call takes effect at some moment within it."""
    ops: list[Op] = []
    calls = sorted((at := rng.uniform(0, 10), at + rng.uniform(0, 2), rng.random()) for _ in range(30))
    moments = sorted(calls, key=lambda call: rng.uniform(call[0], call[1]))
    effects = {call: rng.uniform(call[0], call[1]) for call in moments}
    count = 0
    for call in sorted(calls, key=lambda call: effects[call]):
        started, ended, luck = call
        if luck < 0.3:
            ops.append(read(started, ended, count))
        elif luck < 0.4:
            ops.append(doubtful(started))
            count += luck < 0.35
        else:
            count += 1
            ops.append(add(started, ended, count))
    return ops, count


def test_no_history_of_a_right_counter_is_objected_to() -> None:
    for seed in range(300):
        ops, final = _true_history(random.Random(seed))
        assert check_counter("tally-0", ops, final) == [], f"seed {seed}"


def test_a_change_of_any_answer_is_noticed_where_nothing_is_unknown() -> None:
    for seed in range(100):
        rng = random.Random(seed)
        ops, final = _true_history(rng)
        adds = [op for op in ops if op.kind == "add" and op.outcome == "ok"]
        chosen = rng.choice(adds)
        known = [op for op in ops if op.outcome == "ok"]
        if len(adds) < final:
            continue
        assert chosen.value is not None
        chosen.value += rng.choice([-1, 1])
        assert check_counter("tally-0", known, final), f"seed {seed}"


# -- effects and money -------------------------------------------------------------------------------------------------


def op(number: int, outcome: Outcome = "ok", *, kind: str = "pay", address: str = "account-0", args: tuple = ()) -> Op:
    return Op(f"op{number}", kind, address, args, started=1.0, ended=2.0, outcome=outcome)


@pytest.mark.parametrize(("found", "fine"), [(1, False), (2, True), (3, True), (4, False)])
def test_effects_of_two_accepted_and_one_unknown(found: int, fine: bool) -> None:
    ops = [op(1), op(2), op(3, "unknown"), op(4, "rejected")]
    assert (check_effects("things", "account-0", ops, found) == []) is fine


@dataclass
class Books:
    balance: int = 0
    paid: int = 0
    got: int = 0
    interrupted: list[str] = field(default_factory=list)


def _money() -> tuple[dict[str, Books], list[Op], list[str]]:
    """Two payments: the second one's step was lost with its silo."""
    pays = [op(1, args=("account-1", 5, "1")), op(2, args=("account-1", 7, "2"))]
    books = {"account-0": Books(-12, paid=2, interrupted=["2"]), "account-1": Books(12, got=2)}
    return books, pays, ["1"]


def test_money_that_is_right() -> None:
    assert list(check_money(*_money())) == []


def _lost_letter(books: dict[str, Books], pays: list[Op], noted: list[str]) -> None:
    books["account-1"] = Books(5, got=1)


def _letter_twice(books: dict[str, Books], pays: list[Op], noted: list[str]) -> None:
    books["account-1"] = Books(17, got=3)


def _paid_twice(books: dict[str, Books], pays: list[Op], noted: list[str]) -> None:
    books["account-0"] = Books(-17, paid=3, interrupted=["2"])
    books["account-1"] = Books(17, got=3)


def _step_twice(books: dict[str, Books], pays: list[Op], noted: list[str]) -> None:
    noted.append("1")


def _no_step(books: dict[str, Books], pays: list[Op], noted: list[str]) -> None:
    noted.clear()


def _refused_and_paid(books: dict[str, Books], pays: list[Op], noted: list[str]) -> None:
    pays[0].outcome = "rejected"


@pytest.mark.parametrize("spoil", [_lost_letter, _letter_twice, _paid_twice, _step_twice, _no_step, _refused_and_paid])
def test_money_that_is_wrong(spoil: Callable[[dict[str, Books], list[Op], list[str]], None]) -> None:
    books, pays, noted = _money()
    spoil(books, pays, noted)
    assert list(check_money(books, pays, noted))


# -- channels ----------------------------------------------------------------------------------------------------------


def _entries() -> list[Entry]:
    items = [{"said": 0}, {"told": 0, "at": 0, "of": 2}, {"told": 0, "at": 1, "of": 2}, {"said": 1}]
    return [Entry(offset, "item", item) for offset, item in enumerate(items)]


def test_a_channel_that_is_right() -> None:
    assert list(check_channel("herald-0", {"a": _entries(), "b": _entries()}, 2, 1)) == []


def _gap(entries: list[Entry]) -> list[Entry]:
    return [entries[0], *entries[2:]]


def _duplicate(entries: list[Entry]) -> list[Entry]:
    return [*entries[:2], entries[1], *entries[2:]]


def _swapped(entries: list[Entry]) -> list[Entry]:
    return [entries[0], entries[2], entries[1], entries[3]]


def _behind(entries: list[Entry]) -> list[Entry]:
    return entries[:-1]


def _other(entries: list[Entry]) -> list[Entry]:
    return [*entries[:3], entries[3]._replace(item={"said": 7})]


def _silent(entries: list[Entry]) -> list[Entry]:
    return []


@pytest.mark.parametrize("spoil", [_gap, _duplicate, _swapped, _behind, _other, _silent])
def test_a_reader_that_reads_otherwise(spoil: Callable[[list[Entry]], list[Entry]]) -> None:
    assert list(check_channel("herald-0", {"a": _entries(), "b": spoil(_entries())}, 2, 1))


def _renumbered(entries: Sequence[Entry]) -> list[Entry]:
    return [entry._replace(offset=offset) for offset, entry in enumerate(entries)]


@pytest.mark.parametrize("spoil", [_gap, _duplicate, _swapped, _behind, _other, _silent])
def test_a_channel_that_is_wrong_for_every_reader(spoil: Callable[[list[Entry]], list[Entry]]) -> None:
    """As the owner of the channel would have it: the offsets are dense, the items are wrong."""
    entries = _renumbered(spoil(_entries()))
    assert list(check_channel("herald-0", {"a": entries, "b": entries}, 2, 1))


# -- reminders and the rest --------------------------------------------------------------------------------------------


def _arms() -> list[Op]:
    return [
        op(1, kind="arm", address="bell-0", args=("a", 1.0)),
        op(2, "unknown", kind="arm", address="bell-0", args=("b", 1.0)),
        op(3, "rejected", kind="arm", address="bell-0", args=("c", 1.0)),
    ]


@pytest.mark.parametrize("rung", [["a"], ["a", "b"], ["b", "a"]])
def test_reminders_that_are_right(rung: list[str]) -> None:
    assert list(check_reminders("bell-0", _arms(), rung, ["7@1.0", "7@2.0"])) == []


@pytest.mark.parametrize("rung", [[], ["b"], ["a", "a"], ["a", "b", "b"], ["a", "c"], ["a", "x"]])
def test_reminders_that_are_wrong(rung: list[str]) -> None:
    assert list(check_reminders("bell-0", _arms(), rung, []))


@pytest.mark.parametrize("ticks", [["7@1.0", "7@1.0"], ["7@2.0", "7@1.0"]])
def test_ticks_that_are_wrong(ticks: list[str]) -> None:
    assert list(check_reminders("bell-0", _arms(), ["a"], ticks))


def test_a_call_without_an_end_is_objected_to() -> None:
    assert [found.check for found in check_settled([op(1), op(2, "unknown")])] == [
        "calls are answered when the faults are over"
    ]


def test_a_refusal_is_objected_to_when_nothing_is_wrong() -> None:
    assert check_refusals([op(1, "rejected")], healthy_from=1.5) == []
    found: list[Violation] = check_refusals([op(1, "rejected")], healthy_from=0.5)
    assert [it.check for it in found] == ["nothing is refused when the faults are over"]


# -- faults ------------------------------------------------------------------------------------------------------------


def test_a_seed_gives_the_same_faults_and_another_one_others() -> None:
    one, again, other = (draw(seed, seconds=600, silos=3, kinds=[*KINDS]) for seed in (1, 1, 2))
    assert one == again
    assert one != other
    assert {fault.kind for fault in one} == {*KINDS}, "ten minutes see every kind"
    assert all(fault.at + fault.lasts <= 600 for fault in one)
    assert all(KINDS[fault.kind].about(fault) for fault in one)


def test_kinds_that_cannot_be_had_are_not_drawn() -> None:
    sqlite, postgres = (usable([], wires=True, store=store) for store in ("sqlite", "postgres"))
    assert {*sqlite} ^ {*postgres} == {"full", "store", "storestop"}
    without = usable([], wires=False, store="sqlite")
    assert {*sqlite} - {*without} == {"partition", "loss", "etcdpart", "full"}
    assert usable(["kill", "store"], wires=True, store="sqlite") == ["kill"]


@pytest.mark.parametrize(
    ("skew", "drift", "wrong"), [(-2.5, 0.0, -2.5), (0.0, 1e9, 3.0), (1.0, -1e9, -2.0), (0.0, 0.0, 0.0)]
)
def test_a_wrong_clock_is_wrong_by_what_was_drawn(skew: float, drift: float, wrong: float) -> None:
    """One that goes at a wrong rate ends 3 seconds off. The monotonic clock is the machine's, in any case."""
    env = {"PYTHONPATH": str(CLOCK_SKEW), "CHAOS_SKEW": str(skew), "CHAOS_DRIFT": str(drift)}
    before, monotonic = time.time(), time.monotonic()
    told = subprocess.run([sys.executable, "-c", _CLOCKS], env=env, check=True, capture_output=True, text=True).stdout
    seconds, nanoseconds, unmoved, deadline = map(float, told.split())
    assert before <= seconds - wrong <= time.time()
    assert before <= nanoseconds / 1e9 - wrong <= time.time()
    assert monotonic <= unmoved <= time.monotonic()
    assert before <= deadline <= time.time(), "gRPC, whose other half is written in C, would take it for another time"
