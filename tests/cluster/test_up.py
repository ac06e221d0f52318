"""``silo up``: a local cluster that comes as one and leaves nothing behind."""

import asyncio
import signal
from pathlib import Path

import pytest

from actors import actor_ref
from cluster import connect
from tests.cluster.processes import APP, Processes, children_of, gone, is_running
from tests.cluster.waiting import answered, eventually


async def test_three_silos_are_ready_and_ctrl_c_ends_everything(processes: Processes, tmp_path: Path) -> None:
    up = processes.start("up", APP, "--silos", "3")

    ready = await up.ready(3)

    assert [line["silo"] for line in ready] == ["n1", "n2", "n3"]
    assert all(line["ready"] and line["http"] for line in ready)
    assert (tmp_path / ".silo" / "state.db").exists()
    children = children_of(up.pid)
    assert len(children) == 4, "three silos and etcd"
    async with connect([line["grpc"] for line in ready]):
        for name in ("n1", "n2", "n3"):
            assert await actor_ref(f"counter-{name}.a").where() == name
            assert await actor_ref(f"counter-{name}.a").add(3) == 3

    up.signal(signal.SIGINT)
    ended = await up.ended(within=20)

    assert ended.status == 130
    assert ended.out.count("\n") == 3
    await gone(*children, within=1)

    again = processes.start("up", APP, "--silos", "2")
    ready = await again.ready(2)
    async with connect(ready[0]["grpc"]):
        assert await actor_ref("counter-n1.a").add(1) == 4, "the state is still there"
    children = children_of(again.pid)
    again.signal(signal.SIGTERM)
    assert (await again.ended(within=20)).status == 0
    await gone(*children, within=1)


async def test_a_silo_that_is_killed_is_told_and_its_actors_move(processes: Processes) -> None:
    up = processes.start("up", APP, "--silos", "2")
    ready = await up.ready(2)
    async with connect([line["grpc"] for line in ready]):
        ref = actor_ref("counter-n2.a")
        assert await ref.add(5) == 5
        victim = await ref.process()
        assert victim in children_of(up.pid)
        (await asyncio.create_subprocess_exec("kill", "-9", str(victim))).returncode  # noqa: B018
        value, _ = await answered("the other silo", ref.options(timeout=5).add, within=12)
        assert value == 6
    await up.said("n2")
    assert up.running
    up.signal(signal.SIGINT)
    assert (await up.ended(within=20)).status == 130


async def test_when_it_is_killed_itself_its_children_end(processes: Processes) -> None:
    up = processes.start("up", APP, "--silos", "2")
    await up.ready(2)
    children = children_of(up.pid)
    assert len(children) == 3
    await up.kill()
    await gone(*children, within=20)


async def test_ctrl_c_while_it_starts(processes: Processes) -> None:
    up = processes.start("up", APP, "--silos", "2")
    await eventually("etcd and the silos have begun", lambda: len(children_of(up.pid)) == 3)
    children = children_of(up.pid)
    up.signal(signal.SIGINT)
    assert (await up.ended(within=25)).status == 130
    await gone(*children, within=1)


async def test_its_own_settings_do_not_confuse_its_silos(processes: Processes, tmp_path: Path) -> None:
    """SILO_CONFIG is in the environment that they inherit, with keys that only `silo up` knows."""
    (tmp_path / "up.toml").write_text(f'apps = ["{APP}"]\nsilos = 1\ndata = "elsewhere"\n')
    up = processes.start("up", env={"SILO_CONFIG": "up.toml", "SILO_VERSION": "7"})
    (ready,) = await up.ready(1)
    assert ready["silo"] == "n1"
    assert (tmp_path / "elsewhere" / "state.db").exists()
    up.signal(signal.SIGTERM)
    assert (await up.ended(within=20)).status == 0


@pytest.mark.parametrize("store", ["redis://x"])
async def test_a_silo_that_cannot_start_ends_it_with_the_reason(processes: Processes, store: str) -> None:
    up = processes.start("up", APP, "--silos", "1", "--store", store)
    ended = await up.ended(within=25)
    assert ended.status == 1
    assert ended.out == ""
    assert "n1 exited with status 2" in ended.err
    assert "Traceback" not in ended.err


def test_the_test_can_tell_a_process_that_is_gone() -> None:
    assert is_running(1)
    assert not is_running(2**22 + 1)
