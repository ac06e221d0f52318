"""The HTTP port: whoever connects, and whatever they do or leave undone, costs little and ends."""

import asyncio
import itertools
import json
import struct
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute, Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from cluster.gateway import GatewayOptions
from cluster.gateway.server import Server
from tests.cluster.waiting import eventually
from tests.gateway.http_client import Gateway

Port = tuple[asyncio.StreamReader, asyncio.StreamWriter]
FAST = GatewayOptions(
    head_timeout=0.3, stall_timeout=0.3, keep_alive_timeout=5, max_head=4096, max_connections=8, max_frame=10_000,
    ping_interval=5,
)  # fmt: skip


MANY = 20_000


class House:
    """A server with a few routes, and what came to them."""

    def __init__(self, options: GatewayOptions) -> None:
        self.bodies: list[bytes] = []
        self.lost: list[str] = []
        self.answered = 0
        self.go = asyncio.Event()
        self.server = Server(options, self.routes())
        self.address = ""

    def routes(self) -> list[BaseRoute]:
        async def take(request: Request) -> Response:
            try:
                self.bodies.append(await request.body())
            except ClientDisconnect:
                self.lost.append("body")
                raise
            return PlainTextResponse(str(len(self.bodies[-1])))

        async def wait(_: Request) -> Response:
            await self.go.wait()
            return PlainTextResponse("waited")

        async def large(request: Request) -> Response:
            self.answered = int(request.query_params["size"])
            return PlainTextResponse(b"x" * self.answered)

        async def fail(_: Request) -> Response:
            raise OSError("the disk is gone")

        return [
            Route("/take", take, methods=["GET", "POST"]), Route("/wait", wait), Route("/large", large),
            Route("/fail", fail), *self.sockets(),
        ]  # fmt: skip

    def sockets(self) -> list[BaseRoute]:
        async def echo(socket: WebSocket) -> None:
            await socket.accept()
            try:
                while True:
                    await socket.send_text(await socket.receive_text())
            except WebSocketDisconnect as error:
                self.lost.append(str(error.code))

        async def flood(socket: WebSocket) -> None:
            await socket.accept()
            try:
                while True:
                    await socket.send_bytes(b"x" * 100_000)
            except WebSocketDisconnect as error:
                self.lost.append(str(error.code))

        async def count(socket: WebSocket) -> None:
            await socket.accept()
            await self.go.wait()
            texts = [await socket.receive_text() for _ in range(MANY)]
            await socket.send_text(f"{len(texts)} {texts == [str(number % 10) for number in range(MANY)]}")
            await socket.close()

        return [WebSocketRoute("/echo", echo), WebSocketRoute("/flood", flood), WebSocketRoute("/count", count)]

    @property
    def connections(self) -> set[Any]:
        assert self.server._server is not None
        return set(self.server._server.server_state.connections)

    @property
    def unsent(self) -> int:
        return max((c.transport.get_write_buffer_size() for c in self.connections), default=0)

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[Port]:
        host, _, port = self.address.rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port), limit=2**16)
        try:
            yield reader, writer
        finally:
            writer.transport.abort()

    async def tell(self, raw: bytes) -> tuple[int, dict[str, str], bytes]:
        """Send this and read to the end."""
        async with asyncio.timeout(20), self.connected() as (reader, writer):
            writer.write(raw)
            return parsed(await reader.read())


def parsed(raw: bytes) -> tuple[int, dict[str, str], bytes]:
    head, _, body = raw.partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    pairs = [line.partition(":") for line in lines[1:]]
    return int(lines[0].split()[1]), {name.lower(): value.strip() for name, _, value in pairs}, body


def check_problem(answer: tuple[int, dict[str, str], bytes], status: int) -> None:
    found, headers, body = answer
    assert found == status
    assert headers["content-type"] == "application/problem+json"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["connection"] == "close"
    assert json.loads(body)["status"] == status


@pytest.fixture
async def open_house() -> AsyncIterator[Callable[[GatewayOptions], Awaitable[House]]]:
    houses: list[House] = []

    async def make(options: GatewayOptions) -> House:
        house = House(options)
        house.address = await house.server.start("127.0.0.1:0")
        houses.append(house)
        await eventually("it listens", lambda: house.server._server is not None and house.server._server.started)
        return house

    yield make
    for house in houses:
        house.go.set()
        await house.server.stop()


@pytest.fixture
async def house(open_house: Callable[[GatewayOptions], Awaitable[House]]) -> House:
    return await open_house(FAST)


# -- heads -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "raw",
    [
        b"BREW /take HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00",
        b"GET /\xff HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /take HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"GET http:// HTTP/1.1\r\nHost: a\r\n\r\n",
        b"CONNECT a:80 HTTP/1.1\r\nHost: a\r\n\r\n",
        b"POST /take HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n",
        b"POST /take HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx",
        b"POST /take HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /take HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"GET /take HTTP/1.1\r\nHost: a\r\nX: a\0b\r\n\r\n",
    ],
)
async def test_what_is_no_http_is_told_so(house: House, raw: bytes) -> None:
    check_problem(await house.tell(raw), 400)


@pytest.mark.parametrize(
    "host",
    [
        "[", "]", "a[b", "[::1", "::1", "[::g]", "[:::]", "[1.2.3.4]", "[v1.x]", "a b", "a/b", "a@b", "a?b", "a#b", "é",
        "a:b", "a:70000", "a:1:2", "a\\b", "<a>",
    ],
)  # fmt: skip
async def test_a_host_that_is_none_is_refused_before_anybody_makes_a_url_of_it(house: House, host: str) -> None:
    check_problem(await house.tell(f"GET /take HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()), 400)


@pytest.mark.parametrize("host", ["", "a", "a:80", "a:", "1.2.3.4:80", "[::1]", "[::ffff:1.2.3.4]:80", "a_b.example."])
async def test_hosts(house: House, host: str) -> None:
    raw = f"GET /take HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
    assert (await house.tell(raw.encode()))[0] == 200


@pytest.mark.parametrize(
    "head",
    [
        b"GET /" + b"x" * 5000 + b" HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /take HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 5000 + b"\r\n\r\n",
        b"GET /take HTTP/1.1\r\nHost: a\r\n" + b"X: y\r\n" * 300 + b"\r\n",
        b"GET /take HTTP/1.1\r\nHost: a\r\n" + b"Long-name: long value\r\n" * 200 + b"\r\n",
        b"GET /echo HTTP/1.1\r\nUpgrade: websocket\r\nConnection: upgrade\r\nX: " + b"x" * 5000 + b"\r\n\r\n",
    ],
)
async def test_a_head_over_the_limit_is_refused(house: House, head: bytes) -> None:
    check_problem(await house.tell(head), 431)


async def test_a_head_that_never_ends_is_refused_long_before_it_is_all_kept(house: House) -> None:
    async with asyncio.timeout(20), house.connected() as (reader, writer):
        writer.write(b"GET /take HTTP/1.1\r\nHost: a\r\nX: ")
        answer = asyncio.create_task(reader.read())
        sent = 0
        while not answer.done() and sent < 2**20:
            writer.write(b"x" * 512)
            sent += 512
            await asyncio.sleep(0)
        check_problem(parsed(await answer), 431)


async def test_a_head_that_drips_is_cut_off(house: House) -> None:
    async with asyncio.timeout(20), house.connected() as (reader, writer):
        writer.write(b"GET /take HTTP/1.1\r\nHost: a\r\n")
        answer = asyncio.create_task(reader.read())
        while not answer.done():
            writer.write(b"X: y\r\n")
            await asyncio.wait({answer}, timeout=0.05)
        check_problem(parsed(answer.result()), 408)


@pytest.mark.parametrize("said", [b"", b"\r\n", b"\r\n\r\n\r\n"])
async def test_who_connects_and_asks_nothing_is_let_go(house: House, said: bytes) -> None:
    async with asyncio.timeout(20), house.connected() as (reader, writer):
        writer.write(said)
        assert await reader.read() == b""


async def test_a_connection_may_rest_between_requests(
    open_house: Callable[[GatewayOptions], Awaitable[House]],
) -> None:
    house = await open_house(GatewayOptions(head_timeout=0.1, keep_alive_timeout=1))
    async with asyncio.timeout(20), house.connected() as (reader, writer):
        for _ in range(2):
            writer.write(b"GET /take HTTP/1.1\r\nHost: a\r\n\r\n")
            await reader.readuntil(b"\r\n\r\n0")
        began = time.monotonic()
        assert await reader.read() == b""
        assert time.monotonic() - began > 0.5, "it had keep_alive_timeout, not head_timeout"


async def test_who_asks_for_more_while_an_answer_is_due_gets_that_answer(house: House) -> None:
    """Half a head waits longer than it may: the time counts when it is its turn."""
    async with asyncio.timeout(20), house.connected() as (reader, writer):
        writer.write(b"GET /wait HTTP/1.1\r\nHost: a\r\n\r\nGET /ta")
        assert not await asyncio.wait_for(_comes(reader), 2 * FAST.head_timeout)
        house.go.set()
        raw = await reader.read()
        assert b"waited" in raw
        check_problem(parsed(raw.partition(b"waited")[2]), 408)


async def _comes(reader: asyncio.StreamReader) -> bool:
    """Whether anything comes within a second."""
    reading = asyncio.create_task(reader._wait_for_data("test"))  # type: ignore[attr-defined]
    done, _ = await asyncio.wait({reading}, timeout=0.5)
    reading.cancel()
    await asyncio.gather(reading, return_exceptions=True)
    return bool(done)


async def test_a_bad_request_behind_a_good_one_takes_nothing_from_it(house: House) -> None:
    async with asyncio.timeout(20), house.connected() as (reader, writer):
        writer.write(b"GET /wait HTTP/1.1\r\nHost: a\r\n\r\nBREW /x HTTP/1.1\r\n\r\n")
        house.go.set()
        status, headers, body = parsed(await reader.read())
        assert (status, body, headers["connection"]) == (200, b"waited", "close")


async def test_requests_without_end_on_one_connection_are_not_all_kept(house: House) -> None:
    async with asyncio.timeout(20), house.connected() as (reader, writer):
        writer.write(b"GET /wait HTTP/1.1\r\nHost: a\r\n\r\n" * 1000)
        await eventually("it has come", lambda: any(c.pipeline for c in house.connections))
        assert max(len(c.pipeline) for c in house.connections) <= 16
        house.go.set()
        assert 2 <= (await reader.read()).count(b"waited") <= 18


async def test_an_upgrade_to_what_is_not_spoken_here_is_an_ordinary_request(house: House) -> None:
    status, headers, body = await house.tell(
        b"GET /take HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n"
    )
    assert (status, headers["connection"], body) == (200, "close", b"0")


async def test_what_fails_and_what_is_not_there_is_told_as_problems(house: House) -> None:
    gateway = Gateway(house.address)
    for path, method, status in (("/none", "GET", 404), ("/take", "PUT", 405), ("/fail", "GET", 500)):
        answer = await gateway(method, path)
        assert (answer.status, answer.json["status"]) == (status, status)
        assert "disk" not in answer.body.decode()
        assert answer.headers["x-content-type-options"] == "nosniff"


# -- bodies ------------------------------------------------------------------------------------------------------------


async def test_a_body_that_drips_is_cut_off_and_counts_for_nothing(house: House) -> None:
    async with asyncio.timeout(20), house.connected() as (reader, writer):
        writer.write(b"POST /take HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n")
        answer = asyncio.create_task(reader.read())
        while not answer.done():
            writer.write(b"x")
            await asyncio.wait({answer}, timeout=0.05)
        check_problem(parsed(answer.result()), 408)
        await eventually("what waits for the body knows", lambda: house.lost == ["body"], within=2)
    await eventually("the connection is gone", lambda: not house.connections)
    assert house.bodies == []


async def test_a_body_that_makes_progress_may_take_its_time(house: House) -> None:
    enough = int(FAST.min_rate * FAST.stall_timeout)
    async with asyncio.timeout(30), house.connected() as (reader, writer):
        writer.write(f"POST /take HTTP/1.1\r\nHost: a\r\nContent-Length: {enough * 20}\r\n\r\n".encode())
        began = time.monotonic()
        for _ in range(20):
            writer.write(b"x" * enough)
            await asyncio.wait({asyncio.create_task(asyncio.sleep(FAST.stall_timeout / 4))})
        assert time.monotonic() - began > 3 * FAST.stall_timeout
        assert b"200 OK" in await reader.readline()
    assert len(house.bodies[0]) == enough * 20


async def test_a_client_that_waits_to_be_asked_for_its_body_is_no_slow_one(house: House) -> None:
    async with asyncio.timeout(20), house.connected() as (reader, writer):
        writer.write(b"GET /wait HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 1000\r\n\r\n")
        assert not await _comes(reader)
        house.go.set()
        assert b"200 OK" in await reader.readline()


async def test_a_request_whose_body_stops_is_taken_back(house: House) -> None:
    async with house.connected() as (_, writer):
        writer.write(b"POST /take HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhalf")
        await eventually("it is there", lambda: any(c.cycle is not None for c in house.connections))
    await eventually("it is gone", lambda: not house.connections)
    assert house.bodies == []


# -- readers that do not read ------------------------------------------------------------------------------------------

LARGE = 64 * 2**20


@pytest.mark.parametrize("connection", ["close", "keep-alive"])
async def test_a_reader_that_never_reads_is_cut_off(house: House, connection: str) -> None:
    async with house.connected() as (reader, writer):
        reader._transport.pause_reading()  # type: ignore[attr-defined]
        writer.write(f"GET /large?size={LARGE} HTTP/1.1\r\nHost: a\r\nConnection: {connection}\r\n\r\n".encode())
        await eventually("it is answered", lambda: house.unsent > LARGE // 2)
        await eventually("it is cut off", lambda: not house.connections)


async def test_also_a_little_that_nobody_takes_ends_with_its_connection(house: House) -> None:
    """What is over when the kernel's buffers are full, on a connection that is being closed already."""
    for size in range(100_000, LARGE, 30_000):
        async with house.connected() as (reader, writer):
            reader._transport.pause_reading()  # type: ignore[attr-defined]
            writer.write(f"GET /large?size={size} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".encode())
            await eventually("it is answered", lambda size=size: house.answered == size)
            left = house.unsent
            await eventually(f"{left} bytes of {size} are given up", lambda: not house.connections)
            if left:
                assert left < 2**16, "less than what a transport is content with by itself"
                return
    raise AssertionError("the kernel takes everything")


async def test_a_reader_that_never_reads_does_not_outlive_the_server(
    open_house: Callable[[GatewayOptions], Awaitable[House]],
) -> None:
    house = await open_house(GatewayOptions(stall_timeout=1000))
    async with house.connected() as (reader, writer):
        reader._transport.pause_reading()  # type: ignore[attr-defined]
        writer.write(f"GET /large?size={LARGE} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        await eventually("it is answered", lambda: house.unsent > LARGE // 2)
        await house.server.stop()
        await eventually("it is cut off", lambda: not house.connections)


async def test_a_reader_that_goes_on_reading_gets_everything(house: House) -> None:
    """However slowly: it takes enough within each ``stall_timeout``."""
    size = 0
    async with asyncio.timeout(60), house.connected() as (reader, writer):
        writer.write(f"GET /large?size={LARGE} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".encode())
        while data := await reader.read(2**18):
            size += len(data)
            await asyncio.sleep(0.002)
    assert size > LARGE


# -- connections -------------------------------------------------------------------------------------------------------


async def test_connections_over_the_limit_are_told_so_and_the_others_go_on(house: House) -> None:
    async with asyncio.timeout(20):
        held = [house.connected() for _ in range(FAST.max_connections)]
        ports = [await connection.__aenter__() for connection in held]
        await eventually("all are there", lambda: len(house.connections) == FAST.max_connections)
        async with house.connected() as (reader, writer):
            answer = parsed(await reader.read())
        check_problem(answer, 503)
        assert answer[1]["retry-after"] == "1"
        reader, writer = ports[0]
        writer.write(b"GET /take HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        assert b"200 OK" in await reader.read()
        for connection in held:
            await connection.__aexit__(None, None, None)
        await eventually("they are gone", lambda: not house.connections)
        assert (await Gateway(house.address)("GET", "/take")).status == 200


# -- WebSockets --------------------------------------------------------------------------------------------------------


def handshake(path: str, *more: str) -> bytes:
    lines = [
        f"GET {path} HTTP/1.1", "Host: a", "Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", *more,
    ]  # fmt: skip
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def frame(opcode: int, data: bytes, *, fin: bool = True) -> bytes:
    length = len(data)
    size = bytes([0x80 | length]) if length < 126 else bytes([0xFE]) + struct.pack("!H", length)
    if length >= 2**16:
        size = bytes([0xFF]) + struct.pack("!Q", length)
    return bytes([(0x80 if fin else 0) | opcode]) + size + b"\0\0\0\0" + data


@asynccontextmanager
async def opened(house: House, path: str) -> AsyncIterator[Port]:
    async with house.connected() as (reader, writer):
        writer.write(handshake(path))
        assert b" 101 " in await reader.readuntil(b"\r\n\r\n")
        yield reader, writer


async def test_a_socket_talks(house: House) -> None:
    async with asyncio.timeout(20), opened(house, "/echo") as (reader, writer):
        writer.write(frame(1, b"hel", fin=False) + frame(0, b"lo"))
        assert await reader.readexactly(7) == b"\x81\x05hello"


@pytest.mark.parametrize(
    "raw",
    [
        b"GET /echo HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
        handshake("/echo").replace(b"GET", b"POST"),
        handshake("/echo").replace(b"dGhl", b"x"),
        handshake("/echo?" + "x" * 3900, "X: " + "y" * 100),
        handshake("/none"),
        handshake("/echo").replace(b"/echo", b"/\xff"),
    ],
)
async def test_a_bad_handshake_is_told_so(open_house: Callable[[GatewayOptions], Awaitable[House]], raw: bytes) -> None:
    house = await open_house(GatewayOptions(max_head=2**16))
    raw = raw.replace(b"x" * 3900, b"x" * 9000)  # more than a line that the parser of handshakes takes
    status, headers, body = await house.tell(raw)
    check_problem((status, headers, body), status)
    assert status in (400, 403, 405)
    await eventually("it is gone", lambda: not house.connections)


@pytest.mark.parametrize(
    "raw",
    [
        frame(1, b"x" * 10_001),
        b"\x81\xff" + struct.pack("!Q", 2**62),
        frame(1, b"x" * 6000, fin=False) + frame(0, b"x" * 6000),
        frame(1, b"", fin=False) + frame(0, b"", fin=False) * 2000,
        frame(1, b"\xff\xfe"),
        b"\x81\x05hello",
        frame(3, b""),
        frame(9, b"x" * 126),
    ],
)
async def test_a_bad_frame_ends_the_socket(house: House, raw: bytes) -> None:
    async with asyncio.timeout(20), opened(house, "/echo") as (reader, writer):
        writer.write(raw)
        end = await reader.read()
        assert end[0] == 0x88
        assert struct.unpack("!H", end[2:4])[0] in (1002, 1007, 1009)
    await eventually("it is gone", lambda: not house.connections and len(house.lost) == 1)


@pytest.mark.parametrize("path", ["/flood", "/echo"])
async def test_a_socket_that_takes_nothing_costs_little_and_ends(
    open_house: Callable[[GatewayOptions], Awaitable[House]], path: str
) -> None:
    """Neither of what the application sends nor of pongs does more wait than one message and what the kernel holds."""
    house = await open_house(GatewayOptions(stall_timeout=2))
    most = 0
    async with asyncio.timeout(60), opened(house, path) as (reader, writer):
        reader._transport.pause_reading()  # type: ignore[attr-defined]
        pings = frame(9, b"x" * 100) * 1000
        for _ in itertools.count():
            if not house.connections:
                break
            if writer.transport.get_write_buffer_size() < 2**20:
                writer.write(pings)
            most = max(most, house.unsent)
            await asyncio.sleep(0.001)
    assert most < 2**19
    await eventually("the application knows", lambda: len(house.lost) == 1)


async def test_many_small_messages_wait_outside_until_they_are_wanted(house: House) -> None:
    async with asyncio.timeout(60), opened(house, "/count") as (reader, writer):
        writer.write(b"".join(frame(1, str(number % 10).encode()) for number in range(MANY)))
        await eventually("some have come", lambda: any(c.queue.qsize() for c in house.connections))
        assert max(c.queue.qsize() for c in house.connections) < 1000
        house.go.set()
        await writer.drain()
        answer = f"{MANY} True".encode()
        assert await reader.readexactly(2 + len(answer)) == bytes([0x81, len(answer)]) + answer
        assert (await reader.readexactly(4))[:2] == b"\x88\x02"
        writer.write(frame(8, b"\x03\xe8"))
        assert await reader.read() == b""


async def test_sockets_count_as_connections_and_end_with_the_server(house: House) -> None:
    async with asyncio.timeout(20), opened(house, "/echo") as (reader, _):
        assert len(house.connections) == 1
        await house.server.stop()
        assert (await reader.read())[:4] == b"\x88\x02\x03\xf4"
