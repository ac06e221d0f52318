"""Handshakes of WebSockets: from which pages, with which token, and that a refusal comes before anything is opened."""

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack

import pytest
from starlette.routing import Mount
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocket
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus
from websockets.typing import Subprotocol

from cluster.gateway import GatewayOptions
from cluster.gateway.auth import grant_of
from cluster.gateway.auth.guard import Guard
from cluster.gateway.security import BrowserSecurity
from cluster.gateway.server import Server
from tests.gateway.auth.signing import SECRET, bearer, signed

Serve = Callable[..., Awaitable[str]]


async def tell(scope: Scope, receive: Receive, send: Send) -> None:
    """Says to whoever connects what it may do, and what of the request is seen here."""
    socket = WebSocket(scope, receive, send)
    await socket.accept()
    seen = {"query": scope["query_string"].decode(), "offered": scope["subprotocols"]}
    await socket.send_json({"verbs": sorted(grant_of(socket).verbs), **seen})
    await socket.close()


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    socket = WebSocket(scope, receive, send)
    await socket.accept()
    async for text in socket.iter_text():
        await socket.send_text(text)


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    """Serve this under the gateway's guard; returns host:port."""
    async with AsyncExitStack() as stack:

        async def begin(options: GatewayOptions, served: ASGIApp = tell) -> str:
            guard = Guard(options)
            app = BrowserSecurity(guard.wrap(served), options, open_to_all=options.has_auth)
            server = Server(options, [Mount("/", app)])
            stack.push_async_callback(server.stop)
            return await server.start("127.0.0.1:0")

        yield begin


async def said(
    address: str,
    path: str = "/",
    *,
    headers: Mapping[str, str] | None = None,
    offered: list[str] | None = None,
    host: str | None = None,
) -> str:
    """What the socket says; or the status of the refusal, and its body."""
    where, _, port = address.rpartition(":")
    names = [Subprotocol(name) for name in offered or []] or None
    try:
        async with connect(
            f"ws://{host or address}{path}",
            additional_headers=headers,
            subprotocols=names,
            proxy=None,
            host=where,
            port=int(port),
        ) as socket:
            return f"{socket.subprotocol} {await socket.recv(decode=True)}"
    except InvalidStatus as error:
        response = error.response
        assert response.headers["Content-Type"] == "application/problem+json"
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        return f"{response.status_code} {(response.body or b'').decode()}"


@pytest.mark.parametrize(
    ("origins", "origin", "allowed"),
    [
        ((), None, True),
        ((), "http://{address}", True),
        ((), "https://{address}", True),
        ((), "https://evil.example", False),
        ((), "null", False),
        ((), "", False),
        ((), "http://{address}.evil.example", False),
        (("https://a.example",), "https://a.example", True),
        (("https://a.example",), "https://a.example:444", False),
        (("https://a.example",), "http://a.example", False),
        (("https://a.example",), "https://a.example.evil.example", False),
        (("*",), "https://evil.example", True),
    ],
)
@pytest.mark.parametrize("secret", [None, SECRET])
async def test_pages_of_other_origins_open_no_sockets(
    serve: Serve, origins: tuple[str, ...], origin: str | None, allowed: bool, secret: str | None
) -> None:
    address = await serve(GatewayOptions(cors_origins=origins, auth_secret=secret))
    headers = bearer(signed()) if secret else {}
    if origin is not None:
        headers["Origin"] = origin.format(address=address)
    answer = await said(address, headers=headers)
    if allowed:
        assert '"admin"' in answer
    else:
        assert answer.startswith("403")
        assert "NotAuthorized" in answer


async def test_a_name_that_leads_here_from_elsewhere_opens_no_socket(serve: Serve) -> None:
    """Such a page would be of the same origin. With tokens it does not matter: it has none."""
    open_to_all, guarded = await serve(GatewayOptions()), await serve(GatewayOptions(auth_secret=SECRET))
    evil, page = "evil.example", {"Origin": "http://evil.example"}
    assert (await said(open_to_all, host=evil, headers=page)).startswith("403")
    assert (await said(guarded, host=evil, headers=page)).startswith("401")
    assert '"admin"' in await said(guarded, host=evil, headers={**page, **bearer(signed())})


async def test_a_token_may_be_in_a_header_in_the_url_or_a_subprotocol(serve: Serve) -> None:
    address = await serve(GatewayOptions(auth_secret=SECRET))
    token = signed(verbs=["read"])
    assert await said(address, headers=bearer(token)) == 'None {"verbs":["read"],"query":"","offered":[]}'
    assert '"query":"a=1&b=2"' in await said(address, f"/?a=1&access_token={token}&b=2")
    answer = await said(address, offered=["agentsilo", f"bearer.{token}"])
    assert answer == 'agentsilo {"verbs":["read"],"query":"","offered":["agentsilo"]}'


async def test_without_a_good_token_nothing_is_opened(serve: Serve) -> None:
    address = await serve(GatewayOptions(auth_secret=SECRET))
    long_lived = signed(exp=4_000_000_000)
    for answer in (
        await said(address),
        await said(address, headers=bearer("x")),
        await said(address, f"/?access_token={long_lived}"),
        await said(address, "/?access_token="),
        await said(address, offered=["agentsilo", "bearer.x"]),
        await said(address, f"/?access_token={signed()}", headers=bearer(signed())),
    ):
        assert answer.startswith("401")
        assert "NotAuthenticated" in answer
    assert not (await said(address, offered=["agentsilo", f"bearer.{long_lived}"])).startswith("4")


async def test_messages_on_a_socket_count_as_requests_do_but_wait(serve: Serve) -> None:
    """Also when many sockets of one token share them. None is lost."""
    options = GatewayOptions(auth_secret=SECRET, client_burst=4, client_rate=20)
    address = await serve(options, echo)
    token = bearer(signed())
    async with AsyncExitStack() as stack:
        sockets = [
            await stack.enter_async_context(connect(f"ws://{address}/", additional_headers=token, proxy=None))
            for _ in range(2)
        ]
        began = time.monotonic()
        for socket in sockets:
            for number in range(8):
                await socket.send(str(number))
        for socket in sockets:
            assert [await socket.recv() for _ in range(8)] == [str(number) for number in range(8)]
        assert time.monotonic() - began > (2 * 8 - 2) / 20 - 0.1, "two were left of the burst"


async def test_open_sockets_are_counted(serve: Serve) -> None:
    address = await serve(GatewayOptions(auth_secret=SECRET, client_burst=2, client_rate=0.001))
    token = bearer(signed())
    for _ in range(2):
        assert '"admin"' in await said(address, headers=token)
    assert (await said(address, headers=token)).startswith("429")
