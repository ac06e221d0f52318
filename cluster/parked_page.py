"""The page at ``/parked``: messages that are not run any more until an operator decides."""

import json
import logging
from html import escape
from typing import Any
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.types import Receive, Scope, Send

from cluster.gateway.auth import grant_of
from cluster.gateway.problems import Problem, response_for
from cluster.inspection.inspector import Inspector
from cluster.inspection.questions import ParkedQuestion
from cluster.transport.options import is_loopback

log = logging.getLogger("cluster.gateway")

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


class ParkedPage:
    """An ASGI application. Without tokens it is for this machine only: it asks nobody who they are then.

    ``listen``: where the HTTP port is; ``has_auth``: whether requests carry tokens.
    """

    def __init__(self, listen: str, *, has_auth: bool) -> None:
        self.inspector: Inspector | None = None
        """Answers what is asked, once the silo can."""
        self._on_loopback = is_loopback(listen)
        self._has_auth = has_auth

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        request = Request(scope, receive)
        try:
            response = await self._answer(request)
        except Problem as problem:
            response = response_for(problem)
        await response(scope, receive, send)

    async def _answer(self, request: Request) -> Response:
        grant_of(request).check_everything("admin")
        if not self._has_auth and not (self._on_loopback and is_loopback(f"{request.url.hostname}:80")):
            raise Problem(
                403,
                "NotAuthorized",
                "This page asks nobody who they are, so it is served only where the HTTP port listens on loopback, "
                "and only under a name of that. Use `silo parked`, or start the silo with tokens (--auth-secret, "
                "--auth-jwks), or with --http 127.0.0.1:7480 and come through `ssh -L 7480:127.0.0.1:7480`.",
            )
        if request.method not in ("GET", "HEAD"):
            raise Problem(405, "MethodNotAllowed", "this page can only be read", headers={"Allow": "GET, HEAD"})
        if self.inspector is None:
            raise Problem(
                503, "ClusterUnavailable", "The silo is not ready yet; try again.", headers={"Retry-After": "1"}
            )
        return await _parked(request, self.inspector)


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
        raise Problem(400, "ValueError", f"after: {error}") from None
    except Exception as error:
        log.warning("/parked could not be answered: %s", error)
        detail = f"The store could not be read: {error}"
        raise Problem(503, "ClusterUnavailable", detail, headers={"Retry-After": "1"}) from error
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
