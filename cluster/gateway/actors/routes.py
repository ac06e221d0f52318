"""``/v1/actors/{address}/...``: from a request to what answers it."""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from typing import Final, TypeVar
from weakref import WeakSet

import msgspec
from starlette.requests import ClientDisconnect, HTTPConnection, Request
from starlette.responses import Response

from actors import actor_ref
from actors.runtime import Runtime
from cluster.gateway.actors.event_stream import items_response
from cluster.gateway.actors.events import ChannelEvents
from cluster.gateway.actors.interrupt import interrupt_of
from cluster.gateway.actors.messages import Message, arguments_of
from cluster.gateway.actors.paths import ROOT, Path, check_key, parse_path, resources, timeout_of
from cluster.gateway.actors.presence import Presence
from cluster.gateway.actors.socket import Socket
from cluster.gateway.auth import Verb, grant_of
from cluster.gateway.body import read_body
from cluster.gateway.hosted import HostedTypes
from cluster.gateway.hub import Hub
from cluster.gateway.json_values import read_json, to_json
from cluster.gateway.options import GatewayOptions
from cluster.gateway.problems import Problem

T = TypeVar("T")

_VERBS: Final[dict[str, Verb]] = {
    "send": "send", "ask": "ask", "interrupt": "interrupt", "events": "read", "ws": "read",
}  # fmt: skip


class ActorRoutes:
    """Answers the requests to one actor, whichever silo it lives on."""

    def __init__(self, options: GatewayOptions, hub: Hub, hosted: HostedTypes) -> None:
        self._options = options
        self._hub = hub
        self._hosted = hosted
        self._presence = Presence()
        self._events = ChannelEvents(hub)
        self._sockets: WeakSet[Socket] = WeakSet()

    def close(self) -> None:
        """Let the clients of WebSockets go: the silo is about to leave."""
        for socket in list(self._sockets):
            socket.end(1012, "this silo is leaving; connect again")

    def socket(self, connection: HTTPConnection, runtime: Runtime, raw: bytes) -> Socket:
        """The WebSocket at the raw path behind ``ROOT``. Raises ``Problem`` or an ``ActorError``."""
        path = parse_path(raw)
        if path.action != "ws":
            raise Problem(404, "NotFound", f"the WebSocket of an actor is {ROOT}ADDRESS/ws")
        grant = grant_of(connection)
        names = resources(path.address)
        if not any(grant.allows(verb, *names) for verb in _VERBS.values()):
            grant.check("read", *names)
        self._hosted.check(runtime, path.address)
        socket = Socket(
            runtime, self._hub, self._presence, self._hosted, grant=grant, address=path.address, options=self._options
        )
        self._sockets.add(socket)
        return socket

    async def handle(self, request: Request, runtime: Runtime, raw: bytes) -> Response:
        """Any request to the raw path behind ``ROOT``. Raises ``Problem`` or an ``ActorError``."""
        path = parse_path(raw)
        if path.action == "ws" and request.method == "GET":
            raise Problem(426, "UpgradeRequired", "this is a WebSocket", headers={"Upgrade": "websocket"})
        grant = grant_of(request)
        channel = request.query_params.get("channel", "output") if path.action == "events" else None
        grant.check(_VERBS[path.action], *resources(path.address, channel))
        method = "GET" if path.action in ("events", "ws") else "POST"
        if request.method != method:
            raise Problem(
                405, "MethodNotAllowed", f"{path.action} is a {method}", headers={"Allow": f"{method}, OPTIONS"}
            )
        self._hosted.check(runtime, path.address)
        match path.action:
            case "events":
                return await self._events.respond(request, path.address, grant.expires)
            case "interrupt":
                return await self._interrupt(request, path.address)
            case "send":
                message = await self._message(request, path)
                return _told({"message_id": await message.send(runtime)}, status=202)
        return await self._ask(request, runtime, await self._message(request, path))

    async def _message(self, request: Request, path: Path) -> Message:
        timeout = timeout_of(request.query_params, request.headers)
        key = request.headers.get("idempotency-key")
        body = await read_body(request, self._options.max_body)
        args, kwargs = arguments_of(read_json(body) if body.strip() else None, path.handler)
        return Message(
            address=path.address,
            handler=path.handler,
            args=args,
            kwargs=kwargs,
            timeout=timeout,
            idempotency_key="" if key is None else check_key(key),
        )

    async def _ask(self, request: Request, runtime: Runtime, message: Message) -> Response:
        reply = await _unless_gone(request, message.ask(runtime))
        if isinstance(reply, AsyncIterator):
            return await items_response(reply)
        try:
            body = to_json(reply)
        except ValueError as error:
            raise Problem(502, "SerializationFailed", f"{message.address}: the message ran, but {error}") from None
        return Response(body, media_type="application/json", headers={"Cache-Control": "no-store"})

    async def _interrupt(self, request: Request, address: str) -> Response:
        interrupt = interrupt_of(await read_body(request, self._options.max_body))
        interrupted = await actor_ref(address).interrupt(interrupt.reason, message_id=interrupt.message_id)
        return _told({"interrupted": interrupted}, status=202)


async def _unless_gone(request: Request, work: Coroutine[None, None, T]) -> T:
    """The result of the work, unless the client goes before that: then nobody waits for it any more."""
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnect
        return working.result()
    finally:
        working.cancel()
        leaving.cancel()


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _told(body: object, *, status: int) -> Response:
    return Response(
        msgspec.json.encode(body), status, headers={"Cache-Control": "no-store"}, media_type="application/json"
    )
