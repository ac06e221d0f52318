"""The gateway as an ASGI application: from the path of a request to what answers it."""

import logging
from collections.abc import Awaitable, Callable, Mapping
from functools import lru_cache
from typing import Final

from starlette.requests import ClientDisconnect, HTTPConnection, Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from actors.actor_type import ActorType
from actors.errors import ActorError
from actors.ref import current_caller
from actors.runtime import Runtime
from cluster.gateway.actors.paths import ROOT as ACTORS
from cluster.gateway.actors.routes import ActorRoutes
from cluster.gateway.auth import Verb, grant_of
from cluster.gateway.auth.guard import Guard
from cluster.gateway.body import Incoming
from cluster.gateway.chat.routes import Chats
from cluster.gateway.hosted import HostedTypes
from cluster.gateway.hub import Hub
from cluster.gateway.options import GatewayOptions
from cluster.gateway.pages import Pages
from cluster.gateway.problems import Problem, bad_request, response_for
from cluster.gateway.security import BrowserSecurity
from cluster.gateway.streams.actor_channels import ActorChannels
from cluster.gateway.streams.free_standing import Streams
from cluster.gateway.streams.live import LiveReader
from cluster.gateway.streams.names import RESERVED, ROOT, check_path, resources
from cluster.gateway.streams.subscription_routes import Subscriptions

log = logging.getLogger("cluster.gateway")

_VERBS: Final[Mapping[str, Verb]] = {"GET": "read", "HEAD": "read", "POST": "send", "PUT": "send"}
"""What one does to a stream; everything else takes it away from others."""


PREFIX: Final = "/v1/"
_ACTORS: Final = ACTORS.encode()


class Gateway:
    """Serves ``/v1/...`` for one silo.

    ``runtime`` gives the silo's engine, or None while it takes no messages: then everything is answered with 503.
    ``types``: the actor types that the silo hosts. Raises ``ValueError`` for chats that do not fit them.
    """

    def __init__(
        self,
        runtime: Callable[[], Runtime | None],
        options: GatewayOptions | None = None,
        *,
        open_to_all: bool = False,
        types: Mapping[str, ActorType] | None = None,
    ) -> None:
        self._runtime = runtime
        self._options = options or GatewayOptions()
        self._hub = Hub(runtime)
        self._live = LiveReader(self._options, self._hub)
        hosted = HostedTypes()
        self._actors = ActorRoutes(self._options, self._hub, hosted)
        self._streams = Streams(self._options, self._live)
        self._channels = ActorChannels(self._options, self._live, hosted)
        self._subscriptions = Subscriptions(self._options)
        self._chats = Chats(self._options, types or {}, self._hub)
        self._guard = Guard(self._options)
        everybody = open_to_all or self._options.has_auth
        self._app: ASGIApp = BrowserSecurity(self._guard.wrap(self._serve), self._options, open_to_all=everybody)
        self._pages: list[Mount] = []
        if self._options.pages is not None:
            pages = BrowserSecurity(Pages(self._options.pages), self._options, open_to_all=everybody)
            self._pages = [Mount("/", pages)]

    @property
    def mounts(self) -> list[BaseRoute]:
        """Where it belongs beside ``/v1/``. The last ones take what nothing else does."""
        chats = [route for path in self._chats.paths for route in (Route(path, self), Mount(path, self))]
        return [*chats, *self._pages]

    def authenticated(self, app: ASGIApp) -> ASGIApp:
        """Another application that is told who asks, in the way of the gateway."""
        return self._guard.wrap(app)

    async def start(self) -> None:
        """Read the keys of tokens. Raises ``ValueError`` for a file that has none."""
        await self._guard.start()

    async def stop(self) -> None:
        """End what ``start`` began."""
        await self._guard.stop()

    def close(self) -> None:
        """Let live readers go: the silo is about to leave."""
        self._actors.close()
        self._hub.close()

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """See ASGI."""
        return self._app(scope, receive, send)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await self._converse(scope, receive, send)
            return
        response = await self._respond(scope, receive)  # what is not needed any more is gone while it is sent
        if response is not None:
            await response(scope, receive, send)

    async def _respond(self, scope: Scope, receive: Receive) -> Response | None:
        """What to answer; None if the client has left."""
        incoming = Incoming(scope, receive)
        request = Request(scope, incoming.receive)
        try:
            response = await self._answer(request)
        except (Problem, ActorError) as error:
            response = response_for(error)
        except ClientDisconnect:
            return None
        except Exception as error:
            log.exception("%s %s could not be answered", request.method, request.url.path)
            response = response_for(error)
        await incoming.drain()
        return response

    async def _converse(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            raw = _raw_path(scope)
            if not raw.startswith(_ACTORS):
                raise Problem(404, "NotFound", f"WebSockets are under {ACTORS}")
            socket = self._actors.socket(HTTPConnection(scope), self._serving(), raw[len(ACTORS) :])
        except (Problem, ActorError) as error:
            await response_for(error)(scope, receive, send)
        else:
            await socket.run(receive, send)

    def _serving(self) -> Runtime:
        """The engine, for what is called in this task."""
        runtime = self._runtime()
        if runtime is None:
            raise Problem(503, "ClusterUnavailable", "this silo takes no messages now", headers={"Retry-After": "1"})
        current_caller.set(runtime.outbound)
        return runtime

    async def _answer(self, request: Request) -> Response:
        runtime = self._serving()
        raw = _raw_path(request.scope)
        chat = self._chats.find(raw)
        if chat is not None:
            return await chat[0].handle(request, runtime, chat[1])
        if raw.startswith(_ACTORS):
            return await self._actors.handle(request, runtime, raw[len(ACTORS) :])
        path, names = _stream_at(raw)
        if not names:
            return await self._subscriptions.handle(request, runtime.store, path)
        grant_of(request).check(_VERBS.get(request.method, "admin"), *names)
        channel = self._channels.find(runtime, path)
        if channel is not None:
            return await self._channels.handle(request, runtime, channel)
        return await self._streams.handle(request, runtime.store, path)


@lru_cache(maxsize=512)
def _stream_at(raw: bytes) -> tuple[str, tuple[str, ...]]:
    """The name of the stream at a path, and the names under which it may be granted; raises ``Problem`` for another.

    Without these it is the rest of a path that belongs to the protocol itself, which has verbs of its own.
    """
    before, found, name = raw.partition(ROOT.encode())
    if before or not found:  # the prefix in another spelling would be another name for the same
        raise Problem(404, "NotFound", f"actors are under {ACTORS}, streams under {ROOT}")
    try:
        path = check_path(name)
    except ValueError as error:
        raise bad_request(str(error)) from None
    if path.partition("/")[0] == RESERVED:
        return path.removeprefix(RESERVED).lstrip("/"), ()
    return path, resources(path)


def _raw_path(scope: Scope) -> bytes:
    """The path as the client has sent it, percent-encoded."""
    raw: bytes = scope.get("raw_path") or scope["path"].encode()
    return raw.partition(b"?")[0]
