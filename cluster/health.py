"""The silo's HTTP port: ``/healthz`` and ``/readyz`` for load balancers, ``/parked`` for operators."""

import asyncio
import contextlib
import ipaddress
import json
import logging
import socket
from collections.abc import Callable, Iterator, Sequence
from html import escape
from typing import Any
from urllib.parse import urlencode

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import BaseRoute, Route

from cluster.inspect import Inspector, ParkedQuestion

log = logging.getLogger("cluster.health")

_NO_CACHE = {"Cache-Control": "no-store", "Vary": "Accept", "X-Content-Type-Options": "nosniff"}
_PAGE_HEADERS = {**_NO_CACHE, "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'"}
_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>Parked messages</title>
<style>
body {{ font: 15px/1.4 system-ui, sans-serif; margin: 2em; color-scheme: light dark }}
table {{ border-collapse: collapse }}
th, td {{ text-align: left; vertical-align: top; padding: .3em 1.5em .3em 0 }}
pre {{ margin: .5em 0; white-space: pre-wrap; overflow-wrap: anywhere }}
</style>
<h1>Parked messages</h1>
<p>They are not run any more until somebody decides: <code>silo parked retry|skip|drop ADDR MESSAGE_ID</code></p>
{content}
"""


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers: signals are the silo's to handle."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class HealthServer:
    """Serves ``/healthz`` (200 while the process works) and ``/readyz`` (503 while it takes no messages).

    ``/parked`` lists parked messages, to this machine only: it asks nobody who they are. ``routes``: what else it
    serves.
    """

    def __init__(self, is_ready: Callable[[], bool], routes: Sequence[BaseRoute] = ()) -> None:
        self.inspector: Inspector | None = None
        """Answers what ``/parked`` asks, once the silo can."""
        self._is_ready = is_ready
        self._routes = routes
        self._loopback = False
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
        self._loopback = _is_loopback(bound.getsockname()[0])
        config = uvicorn.Config(
            self._app(),
            log_config=None,
            access_log=False,
            lifespan="off",
            timeout_graceful_shutdown=1,
            timeout_keep_alive=75,
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

        async def parked(request: Request) -> Response:
            if not self._loopback or not _is_loopback(request.url.hostname or ""):
                return _problem(
                    403,
                    "NotAuthorized",
                    "This page asks nobody who they are, so it is served only where the HTTP port listens on loopback, "
                    "and only under a name of that. Use `silo parked`, or start the silo with --http 127.0.0.1:7480 "
                    "and come through `ssh -L 7480:127.0.0.1:7480`.",
                )
            if self.inspector is None:
                return _problem(503, "ClusterUnavailable", "The silo is not ready yet; try again.")
            return await _parked(request, self.inspector)

        own = [Route("/healthz", health), Route("/readyz", ready), Route("/parked", parked)]
        return Starlette(routes=[*own, *self._routes])


def _is_loopback(host: str) -> bool:
    """Whether the host is this machine and nothing else. Other names may be anybody's, whatever they resolve to."""
    try:
        return host == "localhost" or ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _problem(status: int, error: str, detail: str) -> JSONResponse:
    """Problem details (RFC 9457) whose type names the error's class."""
    content = {"type": error, "status": status, "detail": detail}
    return JSONResponse(content, status_code=status, media_type="application/problem+json", headers=_NO_CACHE)


async def _parked(request: Request, inspector: Inspector) -> Response:
    """A page of parked messages; ``?type=T`` lists those of one type, ``?after=ADDR/KEY`` goes on behind a message."""
    type_name = request.query_params.get("type", "")
    question = ParkedQuestion(type=type_name)
    if "after" in request.query_params:
        address, _, key = request.query_params["after"].partition("/")
        question.after = (address, key)
    try:
        found: Any = await inspector.parked(question)
    except ValueError as error:
        return _problem(400, "ValueError", f"after: {error}")
    except Exception as error:
        log.warning("/parked could not be answered: %s", error)
        return _problem(503, "ClusterUnavailable", f"The store could not be read: {error}")
    more = None
    if found["after"] is not None:
        more = "/parked?" + urlencode({**({"type": type_name} if type_name else {}), "after": "/".join(found["after"])})
    if "application/json" in request.headers.get("accept", ""):
        return JSONResponse({"parked": found["parked"], "next": more}, headers=_NO_CACHE)
    rows = "".join(map(_row, found["parked"]))
    head = "<tr><th>Address<th>Message<th>Handler<th>Since<th>Reason"
    content = f"<table>{head}{rows}</table>" if rows else "<p>No message is parked.</p>"
    if more is not None:
        content += f'<p><a href="{escape(more)}">More</a></p>'
    return HTMLResponse(_PAGE.format(content=content), headers=_PAGE_HEADERS)


def _row(row: dict[str, Any]) -> str:
    first, _, rest = row["reason"].partition("\n")
    arguments = json.dumps({"args": row["args"], "kwargs": row["kwargs"]}, ensure_ascii=False, indent=1)
    whole = f"{rest}\n\n{arguments}".strip()
    reason = f"<details><summary>{escape(first)}</summary><pre>{escape(whole)}</pre></details>"
    cells = "".join(f"<td>{escape(row[name])}" for name in ("address", "message_id", "handler", "since"))
    return f"<tr>{cells}<td>{reason}"
