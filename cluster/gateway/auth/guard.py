"""What requests pass before anything of the gateway looks at them: who asks, and whether it asks for too much."""

import re
from collections.abc import Awaitable
from contextlib import nullcontext
from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from actors.ref import current_client
from cluster.gateway.auth.bearer import take_bearer
from cluster.gateway.auth.clients import Clients, name_of_address, name_of_token
from cluster.gateway.auth.grant import Grant
from cluster.gateway.auth.tokens import Tokens
from cluster.gateway.body import refuse
from cluster.gateway.options import GatewayOptions
from cluster.gateway.problems import Problem

_OTHER_CREDENTIALS: Final = re.compile(
    r"(GET|HEAD) /v1/stream/__ds/jwks\.json|POST /v1/stream/__ds/subscriptions/[^/]+/(callback|ack|release)"
)
"""What everybody may read, and what the holder of a wake calls with the token of that."""


class Guard:
    """Middleware, the same for all of a silo's applications that are not open to everybody.

    Where tokens are configured, a request needs one. Its grant is in ``scope["state"]["grant"]``: who answers it checks
    that before it looks anything up, so that what is refused is refused in the same way whether it exists or not. How
    many requests, and messages on sockets, may come is limited for each token, and for each address that sends none;
    without tokens not for this machine, whose users are trusted then.
    """

    def __init__(self, options: GatewayOptions) -> None:
        self._tokens = Tokens(options) if options.has_auth else None
        self.clients = Clients(options)

    async def start(self) -> None:
        """Read the keys of tokens. Raises ``ValueError`` for a file that has none."""
        if self._tokens is not None:
            await self._tokens.start()

    async def stop(self) -> None:
        """End what ``start`` began."""
        if self._tokens is not None:
            await self._tokens.stop()

    def wrap(self, app: ASGIApp) -> ASGIApp:
        """The application, behind the guard."""
        return _Guarded(self, app)

    def asks_nobody(self, scope: Scope) -> bool:
        """Whether whoever sends the request may do everything, as often as he likes."""
        return self._tokens is None and not name_of_address(scope)

    async def identify(self, scope: Scope) -> str:
        """Find the grant of a request. Returns the name under which it is counted, "" for not at all."""
        address = name_of_address(scope)
        if self._tokens is None:
            return address
        state = scope.setdefault("state", {})
        if scope["type"] == "http" and _OTHER_CREDENTIALS.fullmatch(f"{scope['method']} {scope['path']}"):
            state["grant"] = Grant()
            return address or "this machine"
        try:
            token, from_url = take_bearer(scope)
            state["grant"] = await self._tokens.grant(token, from_url=from_url)
        except Problem:
            self.clients.count(address or "this machine")
            raise
        return name_of_token(token)


class _Guarded:
    def __init__(self, guard: Guard, app: ASGIApp) -> None:
        self._guard = guard
        self._app = app

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        kind = scope["type"]
        if kind == "websocket" or (kind == "http" and not self._guard.asks_nobody(scope)):
            return self._check(scope, receive, send)
        return self._app(scope, receive, send)

    async def _check(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            client = await self._guard.identify(scope)
            request = self._guard.clients.admitted(client) if client else nullcontext()
        except Problem as problem:
            await refuse(problem, scope, receive, send)
            return
        current_client.set(client)
        with request:
            if scope["type"] == "websocket":
                send = _choosing_subprotocol(scope, send)
                receive = _paced(self._guard.clients, client, receive) if client else receive
            await self._app(scope, receive, send)


def _paced(clients: Clients, client: str, receive: Receive) -> Receive:
    """A message on a socket counts as a request does, but waits instead of being refused."""

    async def paced() -> Message:
        message = await receive()
        if message["type"] == "websocket.receive":
            await clients.pace(client)
        return message

    return paced


def _choosing_subprotocol(scope: Scope, send: Send) -> Send:
    """Browsers want one of the subprotocols that they offered, and the token is none."""
    offered: list[str] = scope.get("subprotocols", [])
    if not offered:
        return send

    async def choose(message: Message) -> None:
        if message["type"] == "websocket.accept" and message.get("subprotocol") is None:
            message = {**message, "subprotocol": offered[0]}
        await send(message)

    return choose
