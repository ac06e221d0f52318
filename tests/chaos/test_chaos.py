"""Short runs of ``python -m tests.chaos``, as commands: they hold, find a planted bug, and leave nothing behind.

``CHAOS_MINUTES`` makes the first one longer, ``CHAOS_SEED`` repeats one.
"""

import json
import os
import random
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.chaos.detour import has_detours
from tests.chaos.wires import why_not
from tests.cluster.processes import ROOT, Process, Processes, children_of, gone
from tests.cluster.waiting import eventually

MINUTES = float(os.environ.get("CHAOS_MINUTES", "0.3"))
REST = 240
"""Seconds that a run may take for its start and its end, on a busy machine."""


@pytest.fixture
async def processes(tmp_path: Path) -> AsyncIterator[Processes]:
    async with Processes(tmp_path) as processes:
        yield processes


@pytest.fixture
def temporary() -> Iterator[Path]:
    """Where the runs make their folders."""
    with TemporaryDirectory(prefix="chaos-test-") as name:
        folder = Path(name)
        folder.chmod(0o755)  # PostgreSQL runs as somebody else
        yield folder


def chaos(processes: Processes, temporary: Path, *words: object) -> Process:
    return processes.start(*words, module="tests.chaos", env={"TMPDIR": str(temporary)}, cwd=ROOT)


async def descendants(process: Process, *, least: int) -> list[int]:
    """The pids of what the run has started, when that are so many."""
    found: list[int] = []

    def enough() -> bool:
        found[:] = children_of(process.pid)
        assert process.running, process.err
        return len(found) >= least

    await eventually(f"{least} processes run", enough, within=60)
    return found


def network() -> str:
    """The interfaces and the named network namespaces of this machine."""
    return "\n".join(left_in(Path("/sys/class/net")) + left_in(Path("/run/netns")))


def left_in(folder: Path) -> list[str]:
    """The names in a folder, none if it is not there."""
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


@pytest.mark.timeout(MINUTES * 60 + REST)
@pytest.mark.parametrize("store", ["sqlite", "postgres"])
async def test_no_fault_breaks_a_promise(processes: Processes, temporary: Path, store: str) -> None:
    seed = os.environ.get("CHAOS_SEED") or random.randrange(1_000_000)
    before = network()
    run = chaos(processes, temporary, "--minutes", MINUTES, "--seed", seed, "--store", store, "--json")
    ended = await run.ended(within=MINUTES * 60 + REST)
    assert ended.status == 0, f"{ended.err}\n{ended.out}"
    result = json.loads(ended.out)
    assert result["violations"] == []
    assert result["timeline"], "nothing went wrong"
    assert all(result["figures"]["operations"][kind] for kind in ("add", "read", "pay", "say", "tell", "arm"))
    assert left_in(temporary) == []
    assert network() == before
    if why_not():
        assert "no network namespaces" in ended.err, "what is left out must be said"


if has_detours() and not why_not():  # else there are no such faults

    @pytest.mark.timeout(REST)
    async def test_faults_that_nobody_else_would_notice_are_felt(processes: Processes, temporary: Path) -> None:
        """The seed has a silo that is heard late, a full disk, and a leader that its followers do not hear."""
        words = ("--minutes", 0.3, "--seed", 36266, "--faults", "lag", "full", "etcdpart", "--json")
        ended = await chaos(processes, temporary, *words).ended(within=REST)
        assert ended.status == 0, f"{ended.err}\n{ended.out}"
        figures = json.loads(ended.out)["figures"]
        assert figures["faults"] == {"lag": 1, "full": 1, "etcdpart": 1}
        assert all(figures["felt"].values()), figures
        assert left_in(temporary) == []


@pytest.mark.timeout(REST)
async def test_a_planted_bug_is_found(processes: Processes, temporary: Path) -> None:
    """Repeats of a message are new messages. What finds it is that accepted calls take effect once."""
    words = ("--minutes", 0.4, "--seed", 1, "--faults", "kill", "--plant", "no_dedupe", "--rest", 10, "--json")
    ended = await chaos(processes, temporary, *words).ended(within=REST)
    assert ended.status == 1, f"{ended.err}\n{ended.out}"
    found = {violation["check"] for violation in json.loads(ended.out)["violations"]}
    assert found & {"accepted takes effect once", "counters are linearizable", "a reminder rings once"}


@pytest.mark.timeout(REST)
@pytest.mark.parametrize(
    ("number", "words"),
    [
        pytest.param(signal.SIGINT, (), id="Ctrl-C"),
        pytest.param(signal.SIGTERM, (), id="SIGTERM"),
        pytest.param(signal.SIGKILL, (), id="SIGKILL"),
        pytest.param(signal.SIGTERM, ("--no-namespaces",), id="SIGTERM, without namespaces"),
    ],
)
async def test_a_run_that_is_ended_leaves_nothing_behind(
    processes: Processes, temporary: Path, number: signal.Signals, words: tuple[str, ...]
) -> None:
    """Also of silos that are frozen at the moment. The kernel ends them with a run that is killed."""
    before = network()
    run = chaos(processes, temporary, "--minutes", 5, "--seed", 3, "--faults", "freeze", "--store", "postgres", *words)
    await run.said("freeze", times=2, within=90)
    started = await descendants(run, least=7)  # three members of etcd, three silos and PostgreSQL
    run.signal(number)
    ended = await run.ended(within=60)
    if number != signal.SIGKILL:
        assert ended.status == 130, ended.err
        assert left_in(temporary) == []
    await gone(*started)
    assert network() == before
