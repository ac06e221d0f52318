"""The web pages that come with an app: the files of a folder, served beside the gateway and so of the same origin."""

import os
import stat
from collections.abc import Mapping
from pathlib import PurePath
from typing import Final

from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.staticfiles import StaticFiles
from starlette.types import Receive, Scope, Send

from cluster.gateway.problems import Problem, response_for

HEADERS: Final[Mapping[str, str]] = {
    # Nothing from other sites and no scripts between the lines, so that a text which got into a page cannot run. A
    # page may be stricter by a <meta> of its own.
    "Content-Security-Policy": (
        "default-src 'self'; img-src 'self' data:; object-src 'none'; base-uri 'none'; form-action 'self'; "
        "frame-ancestors 'none'"
    ),
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",  # a browser asks whether it has changed, so a new version is there at once
}


class Pages(StaticFiles):
    """Serves the readable files of a folder to whoever asks, ``index.html`` for a folder, and never a listing.

    Nothing outside of the folder, not even through a symbolic link, and no names that begin with a dot. Everything else
    is answered with problem details: 404, or 405 for what only reads do not need.
    """

    def __init__(self, folder: str) -> None:
        super().__init__(directory=folder, html=True)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http":
            await super().__call__(scope, receive, send)
            return
        try:
            response = await self.get_response(self.get_path(scope), scope)
        except HTTPException as error:
            response = _refusal(error)
        except OSError:  # a name that this file system cannot have
            response = _refusal(HTTPException(404))
        response.headers.update(HEADERS)
        await response(scope, receive, send)

    def lookup_path(self, path: str) -> tuple[str, os.stat_result | None]:
        """The file of a path, if there is one to show."""
        if any(part.startswith(".") for part in PurePath(path).parts):
            return "", None
        full, found = super().lookup_path(path)
        if found is not None and not (stat.S_ISDIR(found.st_mode) or os.access(full, os.R_OK)):
            return "", None
        return full, found


def _refusal(error: HTTPException) -> Response:
    if error.status_code == 405:
        return response_for(Problem(405, "MethodNotAllowed", "pages can only be read", headers=error.headers))
    return response_for(Problem(404, "NotFound", "there is no such page"))
