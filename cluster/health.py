"""``/healthz`` and ``/readyz``: what load balancers and orchestrators ask."""

import asyncio
import contextlib
import socket
from collections.abc import Callable, Iterator

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers: signals are the silo's to handle."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class HealthServer:
    """Serves ``/healthz`` (200 while the process works) and ``/readyz`` (503 while it takes no messages)."""

    def __init__(self, is_ready: Callable[[], bool]) -> None:
        self._is_ready = is_ready
        self._server: _Server | None = None
        self._task: asyncio.Task[None] | None = None

    async def start(self, listen: str) -> str:
        """Listen on ``host:port`` (port 0 picks one) and return the bound address.

        Raises ``ValueError`` for what is no such address, ``OSError`` for one that cannot be used.
        """
        host, _, port = listen.rpartition(":")
        if not host or not port.isdecimal() or int(port) > 65_535:
            raise ValueError(f"the HTTP address {listen!r} must be host:port, as in 127.0.0.1:7480")
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        bound = socket.socket(family, socket.SOCK_STREAM)
        try:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.bind((host.strip("[]"), int(port)))
        except OSError as error:
            bound.close()
            raise OSError(f"cannot listen on {listen}: {error}") from error
        config = uvicorn.Config(
            self._app(), log_config=None, access_log=False, lifespan="off", timeout_graceful_shutdown=1
        )
        self._server = _Server(config)
        self._task = asyncio.create_task(self._server.serve(sockets=[bound]))
        return f"{host}:{bound.getsockname()[1]}"

    async def stop(self) -> None:
        """Stop listening; requests under way have a second to end."""
        if self._server is not None and self._task is not None:
            self._server.should_exit = True
            await self._task

    def _app(self) -> Starlette:
        async def health(_: Request) -> JSONResponse:
            return JSONResponse({"status": "ok"})

        async def ready(_: Request) -> JSONResponse:
            is_ready = self._is_ready()
            return JSONResponse({"ready": is_ready}, status_code=200 if is_ready else 503)

        return Starlette(routes=[Route("/healthz", health), Route("/readyz", ready)])
