"""Peers that are killed, frozen or cut off."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest

from cluster.transport.link_pb2 import Frame

PEER = """
import asyncio, sys
import uvloop
from actors.envelope import Accepted, Reply
from cluster.transport import Credentials, GrpcTransport

class Echo:
    def on_envelopes(self, link, envelopes):
        for envelope in envelopes:
            link.send(Reply(envelope.id, envelope.payload))
    def on_closed(self, link, unsent):
        pass

async def main():
    transport = GrpcTransport(
        name="far.1", cluster="test", handler=Echo(), endpoints=lambda silo: None, credentials=Credentials()
    )
    print(await transport.listen("127.0.0.1:0"), flush=True)
    loop = asyncio.get_running_loop()
    while endpoint := await loop.run_in_executor(None, sys.stdin.readline):
        (await transport.connect_to(endpoint.strip())).send(Accepted(0))
    await transport.close()
    print("closed", flush=True)

uvloop.run(main())
"""


@pytest.fixture
def far(house: Any) -> Iterator[subprocess.Popen[str]]:
    """An echoing silo "far.1" in another process, on uvloop. It ends when its input does."""
    with subprocess.Popen(
        [sys.executable, "-c", PEER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    ) as process:
        try:
            assert process.stdout is not None
            house.endpoints["far.1"] = process.stdout.readline().strip()
            yield process
        finally:
            process.kill()


async def test_a_killed_peer_is_noticed_at_once(house: Any, request_of: Any, far: subprocess.Popen[str]) -> None:
    a, at_a = await house.silo("n1.1")
    link = await a.connect("far.1")
    for number in range(100):
        link.send(request_of(number))
    await at_a.until_count(100)
    far.send_signal(signal.SIGKILL)
    await at_a.until(lambda: bool(at_a.closed))
    assert at_a.closed == [(link, [])]
    assert link.closed
    with pytest.raises(ConnectionError, match="far.1"):
        await a.connect("far.1")


async def test_a_frozen_peer_is_given_up_and_holds_nobody_else_up(
    house: Any, request_of: Any, far: subprocess.Popen[str]
) -> None:
    a, at_a = await house.silo("n1.1", keepalive=1.0, connect_timeout=0.5)
    _, at_b = await house.silo("n2.1")
    at_b.echo = True
    frozen, lively = await a.connect("far.1"), await a.connect("n2.1")
    frozen.send(request_of(0))
    await at_a.until_count(1)
    far.send_signal(signal.SIGSTOP)
    for number in range(1, 401):  # 40 MB are more than credit and socket buffers together
        frozen.send(request_of(number, size=100_000))
        if number % 10 == 0:
            lively.send(request_of(number))
            await at_b.until(lambda: at_b.ids[-1:] == [number])  # noqa: B023
    await at_a.until(lambda: bool(at_a.closed))
    [(closed, unsent)] = at_a.closed
    assert closed is frozen
    numbers = [envelope.id for envelope in unsent]
    assert numbers == sorted(numbers)
    assert numbers[-1] == 400
    with pytest.raises(ConnectionError):
        await a.connect("far.1")
    lively.send(request_of(-1))
    await at_b.until(lambda: at_b.ids[-1] == -1)


@pytest.mark.parametrize("far_dials", [False, True])
async def test_a_frozen_peer_is_noticed_though_nothing_is_under_way(
    house: Any, request_of: Any, far: subprocess.Popen[str], far_dials: bool
) -> None:
    a, at_a = await house.silo("n1.1", keepalive=0.5)
    if far_dials:
        assert far.stdin is not None
        far.stdin.write(house.endpoints["n1.1"] + "\n")
        far.stdin.flush()
    else:
        (await a.connect("far.1")).send(request_of(0))
    await at_a.until_count(1)
    far.send_signal(signal.SIGSTOP)
    await at_a.until(lambda: bool(at_a.closed))
    assert at_a.closed[0][0].peer == "far.1"


async def test_close_ends_in_time_though_the_peer_is_frozen(
    house: Any, request_of: Any, far: subprocess.Popen[str]
) -> None:
    a, at_a = await house.silo("n1.1", close_timeout=0.5, keepalive=30.0)
    link = await a.connect("far.1")
    link.send(request_of(0))
    await at_a.until_count(1)
    far.send_signal(signal.SIGSTOP)
    for number in range(100):
        link.send(request_of(number, size=1_000_000))
    begun = time.monotonic()
    await a.close()
    assert time.monotonic() - begun < 10
    [(closed, unsent)] = at_a.closed
    assert closed is link
    assert unsent


async def test_a_peer_that_closes_in_another_process_says_goodbye(
    house: Any, request_of: Any, far: subprocess.Popen[str]
) -> None:
    a, at_a = await house.silo("n1.1")
    link = await a.connect("far.1")
    for number in range(1000):
        link.send(request_of(number))
    await at_a.until_count(1)
    assert far.stdin is not None
    far.stdin.close()
    await at_a.until(lambda: bool(at_a.closed))
    assert link.reason == "far.1 said goodbye"
    assert at_a.ids == list(range(1000))
    assert far.stdout is not None
    assert await asyncio.to_thread(far.stdout.read) == "closed\n"


async def test_a_silo_that_dials_again_replaces_its_dead_link(house: Any, request_of: Any) -> None:
    a, at_a = await house.silo("n1.1")
    first = await house.scripted("n1.1")
    await first.write(Frame(batch=b"\x91\x92\x04\x01"))
    await at_a.until_count(1)
    old = a.link("n9.1")
    second = await house.scripted("n1.1")
    await at_a.until(lambda: bool(at_a.closed))
    assert old.closed
    new = a.link("n9.1")
    assert new is not None
    assert new is not old
    new.send(request_of(1))
    frame = await second.read()
    assert frame is not None
    assert frame.batch
