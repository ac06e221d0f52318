"""What a silo serves over HTTP: health checks, the gateway and the page of parked messages."""

from typing import TYPE_CHECKING

from starlette.routing import Route

from actors.runtime import actor_types
from cluster.gateway import Gateway, GatewayOptions
from cluster.gateway.app import PREFIX
from cluster.gateway.health import health_routes
from cluster.gateway.openapi import openapi_route
from cluster.gateway.server import Server
from cluster.parked_page import ParkedPage
from cluster.transport.options import is_loopback

if TYPE_CHECKING:
    from cluster.silo import Silo


class HttpSide:
    """The HTTP port of one silo. Raises ``ValueError`` where it would let in whoever comes."""

    def __init__(self, silo: "Silo", listen: str, options: GatewayOptions, *, insecure: bool) -> None:
        if not (insecure or options.has_auth or is_loopback(listen)):
            raise ValueError(
                f"at {listen} the HTTP gateway would ask nobody who they are: give it keys for tokens (--auth-secret "
                "or --auth-jwks), listen on loopback (--http 127.0.0.1:PORT), or start with --insecure to let in "
                "whoever reaches it"
            )
        self._silo = silo
        self._listen = listen
        self._options = options
        self._insecure = insecure
        self.gateway: Gateway | None = None
        self.parked_page = ParkedPage(listen, has_auth=options.has_auth)
        self._server: Server | None = None

    async def start(self) -> str:
        """Serve, and return the bound address. Raises ``OSError`` for one that cannot be used."""
        options, silo = self._options, self._silo
        types = actor_types(silo.actors)
        self.gateway = Gateway(silo._serving_runtime, options, open_to_all=self._insecure, types=types)
        await self.gateway.start()
        routes = [
            *health_routes(lambda: silo.condition),
            openapi_route([(chat.path, chat.protocol) for chat in options.chats], authenticated=options.has_auth),
            Route("/parked", self.gateway.authenticated(self.parked_page)),
            *self.gateway.mounts,
        ]
        self._server = Server(options, routes, direct={PREFIX: self.gateway})
        return await self._server.start(self._listen)

    def close(self) -> None:
        """The silo drains: let connections that last look for another one."""
        if self.gateway is not None:
            self.gateway.close()

    async def stop(self) -> None:
        """Serve no more."""
        if self._server is not None:
            await self._server.stop()
        if self.gateway is not None:
            await self.gateway.stop()
