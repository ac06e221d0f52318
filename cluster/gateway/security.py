"""Headers that every response carries, and what browsers ask before they let a page of another origin in."""

from collections.abc import Awaitable
from functools import lru_cache

from starlette.datastructures import MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cluster.gateway.body import refuse
from cluster.gateway.options import GatewayOptions
from cluster.gateway.problems import Problem
from cluster.gateway.streams.stream_headers import EXPOSED
from cluster.transport.options import is_loopback

_METHODS = "GET, HEAD, PUT, POST, DELETE, OPTIONS"
_ALLOWED = (
    "Authorization, Cache-Control, Content-Type, If-None-Match, Idempotency-Key, Last-Event-ID, Stream-Seq, "
    "Stream-TTL, Stream-Expires-At, Stream-Closed, Stream-Forked-From, Stream-Fork-Offset, Stream-Fork-Sub-Offset, "
    "Producer-Id, Producer-Epoch, Producer-Seq, Prefer, X-Run-Id"
)


class BrowserSecurity:
    """Middleware: no sniffing of types, and other origins only as configured.

    Unless ``open_to_all``, only names of this machine are answered to: a page whose own name resolves to this machine
    would be of the same origin otherwise.
    """

    def __init__(self, app: ASGIApp, options: GatewayOptions, *, open_to_all: bool) -> None:
        self._app = app
        self._options = options
        self._open_to_all = open_to_all
        policy = b"cross-origin" if options.cors_origins else b"same-origin"
        self._own = [
            (b"x-content-type-options", b"nosniff"),
            (b"referrer-policy", b"no-referrer"),
            (b"cross-origin-resource-policy", policy),
        ]
        if options.has_auth:
            self._own.append((b"vary", b"Authorization"))

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """See ASGI. No coroutine of its own, which would be there for as long as the response takes."""
        if scope["type"] not in ("http", "websocket"):
            return self._app(scope, receive, send)
        host, origin = _host_and_origin(scope)

        def send_with_headers(message: Message) -> Awaitable[None]:
            if message["type"] in ("http.response.start", "websocket.http.response.start"):
                headers = message["headers"]
                message["headers"] = [*headers, *[header for header in self._own if header not in headers]]
                if self._options.cors_origins:
                    self._let_in(MutableHeaders(scope=message), origin)
            return send(message)

        method = scope.get("method", "WEBSOCKET")
        if method == "OPTIONS":
            preflight = {
                "Access-Control-Allow-Methods": _METHODS,
                "Access-Control-Allow-Headers": _ALLOWED,
                "Access-Control-Max-Age": "600",
            }
            return Response(status_code=204, headers=preflight)(scope, receive, send_with_headers)
        problem = self._problem(method, host, origin)
        if problem is not None:
            return refuse(problem, scope, receive, send_with_headers)
        return self._app(scope, receive, send_with_headers)

    def _problem(self, method: str, host: str, origin: str | None) -> Problem | None:
        """What a browser is told that was led here by a page which has no business here."""
        if not self._open_to_all and not _is_of_this_machine(host):
            return Problem(403, "NotAuthorized", "this gateway answers only under a name of this machine")
        allowed = self._options.cors_origins
        if origin is None or method in ("GET", "HEAD") or "*" in allowed or origin in allowed:
            return None
        if origin.partition("://")[2] == host:
            return None
        detail = "pages of this origin may not write here, or open a WebSocket; see SILO_CORS_ORIGINS"
        return Problem(403, "NotAuthorized", detail)

    def _let_in(self, headers: MutableHeaders, origin: str | None) -> None:
        options = self._options
        headers.add_vary_header("Origin")
        if origin is None or not ("*" in options.cors_origins or origin in options.cors_origins):
            return
        headers["Access-Control-Allow-Origin"] = "*" if "*" in options.cors_origins else origin
        headers["Access-Control-Expose-Headers"] = ", ".join(EXPOSED)
        if options.cors_credentials:
            headers["Access-Control-Allow-Credentials"] = "true"


def _host_and_origin(scope: Scope) -> tuple[str, str | None]:
    """The first of each."""
    host: bytes | None = None
    origin: bytes | None = None
    for name, value in scope["headers"]:
        if name == b"host":
            host = value if host is None else host
        elif name == b"origin":
            origin = value if origin is None else origin
    return (host or b"").decode("latin-1"), None if origin is None else origin.decode("latin-1")


@lru_cache(maxsize=256)
def _is_of_this_machine(host: str) -> bool:
    return is_loopback(host if ":" in host.rpartition("]")[2] else f"{host}:80")
