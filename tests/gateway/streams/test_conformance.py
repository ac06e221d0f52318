"""The protocol's own conformance suite, against a cluster of two silos, in every store that silos share."""

import asyncio
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.etcd import EtcdServer
from tests.cluster.processes import Process, Processes
from tests.cluster.waiting import eventually
from tests.conformance.store.postgres_server import shared_server
from tests.gateway.http_client import Gateway
from tests.gateway.node import FOLDER, install_packages, with_node
from tests.gateway.streams.balancer import balanced

TESTS = 338
APP = "tests.gateway.conftest"


@pytest.fixture(scope="session")
def suite() -> None:
    """The suite and its runner."""
    install_packages()


@pytest.fixture(params=["sqlite", "postgres"])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/state.db"
        return
    server = shared_server()
    url = server.lend_database()
    yield url
    server.take_back(url)


class TwoSilos:
    """A cluster of two silo processes, to be stopped and started again over the same store."""

    def __init__(self, processes: Processes, etcd: EtcdServer, store_url: str) -> None:
        self._processes = processes
        self._options = ("--etcd", etcd.endpoint, "--cluster", f"gateway-{os.urandom(4).hex()}")
        self._env = {"SILO_STORE": store_url, "SILO_LONG_POLL_TIMEOUT": "1"}
        self._running: list[Process] = []

    async def start(self) -> list[str]:
        """Start both; the addresses of their HTTP ports."""
        self._running = [self._processes.silo(name, *self._options, app=APP, env=self._env) for name in ("n1", "n2")]
        return [(await process.ready())[0]["http"] for process in self._running]

    async def kill(self) -> None:
        """End both at once, as a power cut would."""
        await asyncio.gather(*(process.kill() for process in self._running))

    def logs(self) -> str:
        return "\n".join(process.err for process in self._running)


@pytest.fixture
async def silos(processes: Processes, etcd_server: EtcdServer, store_url: str) -> TwoSilos:
    return TwoSilos(processes, etcd_server, store_url)


@pytest.mark.timeout(300)
async def test_the_suite_passes_against_two_silos(suite: None, silos: TwoSilos, tmp_path: Path) -> None:
    async with balanced(await silos.start()) as (address, counts):
        assert (await Gateway(address).put("is-it-there")).status == 201  # the suite would wait for ever
        result = tmp_path / "result.json"
        runner = await asyncio.create_subprocess_exec(
            "node", "node_modules/vitest/vitest.mjs", "run", "conformance.test.mjs", "--testTimeout=20000",
            "--reporter=json", f"--outputFile={result}",
            cwd=FOLDER, env={**with_node(), "CONFORMANCE_TEST_URL": f"http://{address}"},
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
        try:
            async with asyncio.timeout(270):
                await runner.wait()
        finally:
            if runner.returncode is None:
                runner.kill()
                await runner.wait()
    found = json.loads(result.read_text())
    failures = [
        f"{test['fullName']}: {''.join(test['failureMessages'])}"
        for file in found["testResults"]
        for test in file["assertionResults"]
        if test["status"] != "passed"
    ]
    assert not failures, "\n".join(failures) + silos.logs()[-5000:]
    counted = [found[name] for name in ("numPassedTests", "numFailedTests", "numPendingTests", "numTodoTests")]
    assert counted == [TESTS, 0, 0, 0]
    assert min(counts) > 0, f"connections per silo: {counts}"


async def test_streams_survive_the_death_of_all_silos(silos: TwoSilos) -> None:
    first, second = map(Gateway, await silos.start())
    text = {"Content_Type": "text/plain"}
    producer = {**text, "Producer_Id": "p", "Producer_Epoch": "0", "Producer_Seq": "0"}
    assert (await first.put("kept", "one ", **text)).status == 201
    assert (await second.post("kept", "two ", **producer)).status == 200
    assert (await first.put("fork", Stream_Forked_From="/v1/stream/kept")).status == 201
    assert (await second.delete("kept")).status == 204
    closed = await second.put("closed", "[1,[2]]", Content_Type="application/json", Stream_Closed="true")
    assert closed.status == 201
    assert (await first.put("lasting", "x", Stream_TTL="3600")).status == 201
    await silos.kill()

    second, first = map(Gateway, await silos.start())
    assert (await first.get("kept")).status == 410
    assert (await first.get("fork")).body == b"one two "
    assert (await second.post("fork", "three", **producer)).status == 200  # a fork's producers begin anew
    assert (await first.post("fork", "three", **producer)).status == 204
    assert (await first.get("fork")).body == b"one two three"
    again = await first.get("closed")
    assert (again.json, again.headers["stream-closed"]) == ([1, [2]], "true")
    assert again.next_offset == closed.next_offset
    assert (await second("HEAD", "/v1/stream/lasting")).headers["stream-ttl"] == "3600"
    assert (await second.delete("fork")).status == 204

    async def is_free() -> bool:
        return (await second.put("kept", "anew", **text)).status == 201

    await eventually("the source goes with its last fork", is_free)
    assert (await first.get("kept")).body == b"anew"
