"""The HTTP port of a silo: a socket, and uvicorn on it with limits."""

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Final

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from cluster.gateway.connection import HttpConnection, ServerConfig
from cluster.gateway.options import GatewayOptions
from cluster.gateway.problems import Problem, response_for
from cluster.gateway.socket_connection import SocketConnection

_BACKLOG = 2048
_FORWARDED: Final = frozenset({b"x-forwarded-for", b"x-forwarded-proto"})
"""What a proxy in front says of its client; it is believed where uvicorn believes it."""


class _Uvicorn(uvicorn.Server):
    """uvicorn without its signal handlers: signals are the silo's to handle."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class Server:
    """Serves routes over HTTP and WebSocket. What no route answers gets problem details.

    ``direct``: applications by the beginning of the paths to which they answer everything. They get requests at once:
    the way through routes and their error handling is long, and each open connection holds on to it.
    """

    def __init__(
        self,
        options: GatewayOptions,
        routes: Sequence[BaseRoute],
        *,
        direct: Mapping[str, ASGIApp] = MappingProxyType({}),
    ) -> None:
        self._options = options
        self._routed = Starlette(routes=routes, exception_handlers={HTTPException: _refuse, Exception: _fail})
        self._direct = direct
        self._server: _Uvicorn | None = None
        self._task: asyncio.Task[None] | None = None
        self._behind_proxy: ProxyHeadersMiddleware | None = None

    async def start(self, listen: str) -> str:
        """Listen on ``host:port`` (port 0 picks one) and return the bound address.

        Raises ``ValueError`` for what is no such address, ``OSError`` for one that cannot be used.
        """
        bound, address = _bind(listen)
        options = self._options
        config = ServerConfig(
            self._app,
            http=HttpConnection,
            ws=SocketConnection,
            ws_max_size=options.max_frame,
            ws_ping_interval=options.ping_interval,
            ws_ping_timeout=options.ping_interval,
            ws_per_message_deflate=False,
            log_config=None,
            log_level="warning",  # below that it logs URLs, and there may be tokens in them
            access_log=False,
            server_header=False,
            interface="asgi3",
            proxy_headers=False,  # see _app
            lifespan="off",
            backlog=_BACKLOG,
            timeout_graceful_shutdown=1,
            timeout_keep_alive=options.keep_alive_timeout,  # type: ignore[arg-type]  # it is only slept for
        )
        config.gateway = options
        self._behind_proxy = ProxyHeadersMiddleware(self._route, config.forwarded_allow_ips)  # type: ignore[arg-type]
        self._server = _Uvicorn(config)
        self._task = asyncio.create_task(self._server.serve(sockets=[bound]))
        return address

    def _app(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        for name, _ in scope["headers"]:
            if name in _FORWARDED:
                assert self._behind_proxy is not None
                return self._behind_proxy(scope, receive, send)  # type: ignore[arg-type]
        return self._route(scope, receive, send)

    def _route(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        for prefix, app in self._direct.items():
            if scope["path"].startswith(prefix):
                return app(scope, receive, send)
        return self._routed(scope, receive, send)

    async def stop(self) -> None:
        """Stop listening; requests under way have a second to end, and clients to take what is theirs."""
        if self._server is None or self._task is None:
            return
        self._server.should_exit = True
        await self._task
        for connection in list(self._server.server_state.connections):
            connection.transport.abort()


def _bind(listen: str) -> tuple[socket.socket, str]:
    host, _, port = listen.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65_535:
        raise ValueError(f"the HTTP address {listen!r} must be host:port, as in 127.0.0.1:7480")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((host.strip("[]"), int(port)))
        bound.listen(_BACKLOG)  # who connects before uvicorn runs waits a moment
    except OSError as error:
        bound.close()
        raise OSError(f"cannot listen on {listen}: {error}") from error
    return bound, f"{host}:{bound.getsockname()[1]}"


async def _refuse(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    name = {404: "NotFound", 405: "MethodNotAllowed"}.get(error.status_code, "BadRequest")
    detail = "nothing is here" if error.status_code == 404 else error.detail
    return response_for(Problem(error.status_code, name, detail, headers=error.headers))


async def _fail(_: Request, error: Exception) -> Response:  # uvicorn logs it
    return response_for(error)
