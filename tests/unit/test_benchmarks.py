"""Each benchmark runs, briefly and without rivals from elsewhere, and says what it should."""

import asyncio
import itertools
import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest
import typer

from actors.ports import Commit
from benchmarks.calls import CONTESTANTS
from benchmarks.channels import APPENDS
from benchmarks.channels import USUAL as CHANNELS
from benchmarks.command import choose
from benchmarks.comparison import cpu_ratio, rate_ratio
from benchmarks.contest import Contestant, Sample, Terms, compete
from benchmarks.durable import CONTESTANTS as DURABLE
from benchmarks.footprint import Census
from benchmarks.load import Window, drive, percentile
from benchmarks.peers.durable_store import RecordingStore
from benchmarks.report import Spread, Target
from cluster.store import open_store

ROOT = Path(__file__).parents[2]


def run(*command: str, within: float = 60) -> Any:
    line = [sys.executable, "-m", *command, "--json", "-"]
    finished = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=within, check=False)
    assert finished.returncode == 0, finished.stderr
    report = json.loads(finished.stdout)
    assert report["failed"] == {}
    assert report["machine"]["cores"] >= 1
    assert report["rows"]
    assert report["samples"]
    return report


def spread(figure: Any) -> float:
    assert 0 < figure["least"] <= figure["median"] <= figure["greatest"]
    return float(figure["median"])


def test_calls() -> None:
    report = run(
        "benchmarks.calls", "--seconds", "0.1", "--rounds", "1",
        "--only", "silo", "--only", "silo-to-silo", "--only", "grpc",
    )  # fmt: skip
    assert report["benchmark"] == "calls"
    assert {(row["contestant"], row["work"], row["callers"]) for row in report["rows"]} == {
        (contestant, work, callers)
        for contestant, work in (
            ("silo", "echo"), ("silo", "echo_later"), ("silo-to-silo", "echo"), ("grpc", "echo"),
        )
        for callers in (1, 64, 256)
    }  # fmt: skip
    for row in report["rows"]:
        assert spread(row["p50"]) <= spread(row["p99"])
        assert spread(row["rate"]) > 0
    against_grpc, against_xoscar = report["targets"]
    assert spread(against_grpc["measured"]) > 0
    assert against_xoscar["measured"] is None
    assert against_xoscar["met"] is False


def test_activations() -> None:
    report = run(
        "benchmarks.activations", "--seconds", "0.1", "--rounds", "1",
        "--only", "3-silos", "--only", "claims",
    )  # fmt: skip
    assert report["benchmark"] == "activations"
    assert {(row["contestant"], row["work"]) for row in report["rows"]} == {
        ("3-silos", "activate"), ("claims", "activate"),
    }  # fmt: skip
    for sample in report["samples"]:
        if sample["contestant"] != "claims":
            assert sample["counts"]["activations"] == sample["window"]["calls"]
            assert sample["counts"]["writes"] >= sample["window"]["calls"]


def test_durable_calls() -> None:
    report = run(
        "benchmarks.durable", "--seconds", "0.05", "--rounds", "1", "--callers", "4",
        "--only", "silo", "--only", "client", "--only", "store",
    )  # fmt: skip
    assert report["benchmark"] == "durable"
    ours = [contestant for contestant in DURABLE if contestant.name in {"silo", "client", "store"}]
    assert {(row["contestant"], row["work"], row["callers"]) for row in report["rows"]} == {
        (contestant.name, work, callers)
        for contestant in ours for work in contestant.works for callers in (1, 4)
    }  # fmt: skip
    turns_of_dbos, steps_of_dbos, turns_of_store, steps_of_store, *growth = report["targets"]
    for not_measured in (turns_of_dbos, steps_of_dbos, *growth):
        assert not_measured["measured"] is None
    for measured in (turns_of_store, steps_of_store):
        assert spread(measured["measured"]) > 0


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_durable_states_and_reminders() -> None:
    report = run(
        "benchmarks.durable", "--seconds", "0.05", "--rounds", "1", "--turns", "20", "--sleepers", "50",
        "--only", "states", "--only", "reminders",
    )  # fmt: skip
    states = [row for row in report["rows"] if "written" in row]
    assert {(row["kind"], row["size"]) for row in states} == {
        (kind, size) for kind in ("listing", "form") for size in (10_000, 100_000, 1_000_000)
    }
    for row in states:
        assert spread(row["written"]) > 100
        assert spread(row["cpu"]) > 0
    [reminders] = [row for row in report["rows"] if "rows_idle" in row]
    assert reminders["count"] == 50
    assert reminders["rows_idle"] == 0
    assert reminders["rows_due"] >= reminders["due"] > 0


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory() -> None:
    report = run(
        "benchmarks.memory", "--seconds", "0", "--rounds", "1", "--size", "1500", "--only", "state", "--only", "etcd"
    )
    assert report["benchmark"] == "memory"
    assert {(row["kind"], row["activations"]) for row in report["rows"]} == {(kind, 1500) for kind in ("state", "etcd")}
    [target] = report["targets"]
    assert spread(target["measured"]) < 64 * 1024


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_channels() -> None:
    report = run(
        "benchmarks.channels", "--seconds", "0.05", "--rounds", "1",
        "--writers", "1", "--writers", "4", "--readers", "3", "--subscribers", "40",
    )  # fmt: skip
    assert report["benchmark"] == "channels"
    assert report["skipped"] == {}
    assert {(row["contestant"], row["work"], row["callers"]) for row in report["rows"] if "work" in row} == {
        *((name, work, writers) for name in CHANNELS for work in APPENDS for writers in (1, 4)),
        *((name, "publish", 3) for name in CHANNELS),
    }
    assert {(row["contestant"], row["kind"]) for row in report["rows"] if "kind" in row} == {
        (name, kind) for name in CHANNELS for kind in ("one", "many")
    }
    for sample in report["samples"]:
        if "cpu" in sample:
            assert 0 <= sample["cpu"]["caller"] <= sample["window"]["seconds"]
    *appends, latency, memory, memory_of_many, connected = report["targets"]
    for ratio in appends:
        assert spread(ratio["measured"]) > 0
    assert latency["measured"] is None  # nobody had 100 readers
    for bytes_each in (memory, memory_of_many):
        assert spread(bytes_each["measured"]) < 1024 * 1024
    assert spread(connected["measured"]) == 40
    assert not connected["met"]


def test_http_alone() -> None:
    report = run("benchmarks.channels", "--seconds", "0.05", "--rounds", "1", "--writers", "2", "--only", "http")
    assert {(row["contestant"], row["work"]) for row in report["rows"]} == {("http", work) for work in APPENDS}


@pytest.mark.skipif(sys.platform != "linux", reason="compares clocks of several processes")
def test_interrupt() -> None:
    report = run("benchmarks.interrupt", "--tries", "10", "--rounds", "1")
    assert report["benchmark"] == "interrupt"
    assert {(row["load"], row["until"]) for row in report["rows"]} == {
        (load, until) for load in (0.0, 0.8) for until in ("returned", "raised", "closed")
    }
    for row in report["rows"]:
        assert spread(row["p50"]) <= spread(row["p99"]) <= row["longest"]
    idle, busy = (sample["measured"] for sample in report["samples"])
    assert idle["tries"] == busy["tries"] == 10
    assert busy["cpu"] > 0
    for measured in (idle, busy):
        assert measured["raised"]["p50"] <= measured["closed"]["p50"], "a connection was closed before its turn heard"
    raised, closed = report["targets"]
    assert 0 < spread(raised["measured"]) <= spread(closed["measured"])


BRIEFLY = "benchmarks.failover", "--kills", "1", "--tries", "1", "--callers", "12"
on_linux = pytest.mark.skipif(sys.platform != "linux", reason="stops processes and makes networks as Linux does")


@on_linux
def test_failover_after_a_kill(tmp_path: Path) -> None:
    picture = tmp_path / "timeline.svg"
    report = run(
        *BRIEFLY, "--actors", "100", "--recoveries", "1", "--only", "kill", "--only", "recovery",
        "--picture", str(picture), within=110,
    )  # fmt: skip
    assert report["benchmark"] == "failover"
    kill, recovery = report["rows"]
    check_fault(kill, "kill")
    assert 0 < spread(recovery["first"]) <= spread(recovery["half"]) <= spread(recovery["all"])
    sample, _ = report["samples"]
    assert len(sample["answered"]) == 4, "those that lived on the silo, a third"
    assert sum(sample["lost_bars"]) > 0
    assert sum(sample["other_bars"]) > 0
    bars = ET.parse(picture).getroot().findall("{*}rect[@class='lost']")
    assert len(bars) > sum(count > 0 for count in sample["lost_bars"]), "and one in the legend"


@on_linux
def test_failover_after_a_freeze_and_a_drain() -> None:
    freeze, drain = run(*BRIEFLY, "--only", "freeze", "--only", "drain", within=110)["rows"]
    check_fault(freeze, "freeze")
    check_fault(drain, "drain")
    assert spread(freeze["returned"]) > 0


@on_linux
def test_failover_of_a_silo_that_is_cut_off() -> None:
    report = run(*BRIEFLY, "--only", "cut", "--only", "kill", within=110)
    check_fault(report["rows"][0], "kill")
    if "cut" in report["skipped"]:
        assert "root" in report["skipped"]["cut"] or report["skipped"]["cut"].startswith("ip ")
    else:
        check_fault(report["rows"][1], "cut")
        assert spread(report["rows"][1]["returned"]) > 0


def check_fault(row: Any, name: str) -> None:
    assert (row["fault"], row["failed"], row["wrong"]) == (name, {}, 0)
    assert 0 < row["p50"] <= row["p99"] <= row["longest"]
    assert row["calls"] > 12


def test_a_census_counts_what_was_added() -> None:
    class Added:
        __slots__ = ("text",)

        def __init__(self, number: int) -> None:
            self.text = f"a text of its own, {number}"

    before = Census()
    added = [Added(number) for number in range(1000)]
    after = Census()
    (name,) = [name for name in after.count if name.endswith("Added")]
    assert after.count[name] - before.count[name] == len(added)
    most = 0.9 * len(added)  # strings of the test run itself may go meanwhile
    assert after.count["str"] - before.count["str"] >= most
    assert after.size["str"] - before.size["str"] >= most * sys.getsizeof(added[0].text)


def test_an_unknown_contestant_is_a_wrong_option() -> None:
    with pytest.raises(typer.BadParameter, match=r"unknown: nobody \(known: silo, "):
        choose(CONTESTANTS, ["nobody"])


def test_a_contestant_that_is_not_installed_is_skipped() -> None:
    here, absent = (Contestant(name, {}, peer=name, requires=name) for name in ("grpc", "no_such_package"))
    assert choose([here, absent], None) == ([here], {"no_such_package": "no_such_package is not installed"})


def test_ctrl_c_leaves_no_process_behind() -> None:
    command = [sys.executable, "-m", "benchmarks.calls", "--seconds", "30", "--rounds", "1", "--only", "silo"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as benchmark:
        assert benchmark.stderr is not None
        line = benchmark.stderr.readline()
        assert "round 1 of 1: silo" in line
        benchmark.send_signal(signal.SIGINT)
        _, errors = benchmark.communicate(timeout=30)
    assert benchmark.returncode == 130
    assert "interrupted" in errors


async def test_a_recording_keeps_together_what_was_under_way_at_the_same_time(tmp_path: Path) -> None:
    store = RecordingStore(await open_store(f"sqlite:///{tmp_path}/state.db"))
    await store.open("worker-1", 1)
    first, *beside, last = (Commit(address="worker-1", epoch=1, state=bytes([number])) for number in range(4))
    await store.commit(first)
    await asyncio.gather(*map(store.commit, beside))
    await store.commit(last)
    assert store.scripts["worker-1"] == [[first], beside, [last]]
    assert await store.state("worker-1") == last.state
    await store.close()


async def test_a_contestant_that_breaks_down_is_left_out() -> None:
    broken = Contestant("broken", {"echo": "broken"}, peer="no_such_peer")
    notes: list[str] = []
    samples, failed = await compete([broken], Terms((1,), 0.05, 3), notes.append)
    assert samples == []
    assert "No module named 'benchmarks.peers.no_such_peer'" in failed["broken"]
    assert notes == ["round 1 of 3: broken", "broken failed and is left out from now on"]


async def test_the_first_failing_call_ends_the_load() -> None:
    async def call(number: int) -> None:
        await asyncio.sleep(0)
        if number == 7:
            raise ValueError("seven")

    with pytest.raises(ExceptionGroup) as caught:
        await drive(call, callers=2, seconds=60, numbers=itertools.count())
    assert caught.group_contains(ValueError, match="seven")


def test_percentiles_are_nearest_ranks() -> None:
    values = [float(value) for value in range(1, 201)]
    assert [percentile(values, percent) for percent in (0, 50, 99, 100)] == [1, 100, 198, 200]
    assert percentile([5.0], 99) == 5.0


def test_ratios_are_of_the_same_round() -> None:
    def sample(contestant: str, number: int, calls: int) -> Sample:
        cpu = {"caller": 0.75 / calls, "servers": 0.25 / calls}
        return Sample(contestant, "echo", number, 64, Window(calls, 1.0, 0.1, 0.2), cpu, None, {})

    ours = [sample("ours", number, calls) for number, calls in ((1, 100), (2, 1000), (3, 300))]
    theirs = [sample("theirs", number, calls) for number, calls in ((2, 100), (3, 100))]
    assert rate_ratio(ours, theirs) == cpu_ratio(ours, theirs) == Spread(6.5, 3.0, 10.0)
    assert rate_ratio(ours, []) is None
    assert cpu_ratio([], theirs) is None


def test_a_target_that_was_not_measured_is_not_met() -> None:
    assert not Target.at_least(3.0, None, "x").met
    assert Target.at_least(3.0, Spread(3.0, 1.0, 9.0), "x").met
    assert not Target.at_most(3.0, Spread(3.1, 1.0, 9.0), "x").met


def test_overload() -> None:
    report = run("benchmarks.overload", "--seconds", "0.5", "--clients", "1", "--only", "clerk", "--afterwards", "0.5")
    (row,) = report["rows"]
    assert spread(row["sustained"]) > 0
    assert spread(row["offered"]) > 0
    (sample,) = report["samples"]
    for offered in (*sample["greedy"], sample["polite"], *sample["after"]):
        assert offered["calls"] == offered["answered"] + offered["refused"] + sum(offered["failed"].values())
