"""What requests pass before anything of the gateway looks at them."""

from starlette.types import ASGIApp

from cluster.gateway.options import GatewayOptions


class Guard:
    def __init__(self, options: GatewayOptions) -> None:
        self._options = options

    def wrap(self, app: ASGIApp) -> ASGIApp:
        return app

    async def start(self) -> None:
        pass

    async def stop(self) -> None:
        pass
