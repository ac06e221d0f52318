"""``/healthz`` and ``/readyz``: what load balancers and orchestrators ask a silo."""

from collections.abc import Callable
from typing import Literal, TypeAlias

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

Condition: TypeAlias = Literal["joining", "ready", "draining", "fenced", "stopped"]
"""Of a silo. Fenced: its lease has ended or may have, so it must do nothing until it has joined anew."""

_HEADERS = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}


def health_routes(condition: Callable[[], Condition]) -> list[Route]:
    """200 at ``/healthz`` while the process works; at ``/readyz`` while the silo takes messages, else 503 and why."""

    async def health(_: Request) -> Response:
        return JSONResponse({"status": "ok"}, headers=_HEADERS)

    async def ready(_: Request) -> Response:
        reason = condition()
        if reason == "ready":
            return JSONResponse({"ready": True}, headers=_HEADERS)
        return JSONResponse({"ready": False, "reason": reason}, status_code=503, headers=_HEADERS)

    return [Route("/healthz", health), Route("/readyz", ready)]
