"""One read of a stream: what was there, and what the response says of it."""

from typing import NamedTuple, Self

from starlette.requests import Request
from starlette.responses import Response

from cluster.gateway.streams import json_mode
from cluster.gateway.streams.entries import Source
from cluster.gateway.streams.offsets import Offset
from cluster.gateway.streams.stream_state import View

_CACHE = "private, max-age=60, stale-while-revalidate=300"


class Page(NamedTuple):
    """Entries of a stream from one position up to another."""

    view: View
    first: int
    end: int
    entries: list[bytes]

    @classmethod
    async def read(cls, source: Source, view: View, first: int, *, limit: int) -> Self:
        """What a view has from a position on, about ``limit`` bytes of it."""
        entries = await source.read(view, first, limit=limit)
        return cls(view, first, first + len(entries), entries)

    @property
    def at_tail(self) -> bool:
        """Whether nothing follows, as far as was known."""
        return self.end == self.view.next

    @property
    def closed(self) -> bool:
        """Whether nothing will ever follow."""
        return self.at_tail and self.view.closed

    @property
    def body(self) -> bytes:
        """The entries as one body of the stream's content type."""
        if json_mode.is_json(self.view.content_type):
            return json_mode.array(self.entries)
        return b"".join(self.entries)

    @property
    def etag(self) -> str:
        """Changes with everything that a response to the same request may show."""
        return f'"{self.view.id}:{self.first}:{self.end}{":c" if self.closed else ""}"'

    @property
    def headers(self) -> dict[str, str]:
        """Where the page ends."""
        headers = {"Stream-Next-Offset": str(Offset(self.view.generation, self.end))}
        if self.at_tail:
            headers["Stream-Up-To-Date"] = "true"
        if self.closed:
            headers["Stream-Closed"] = "true"
        return headers

    def response(self, *, cache: bool, cursor: str | None = None) -> Response:
        """The page as a response of its own."""
        headers = {**self.headers, "Content-Type": self.view.content_type}
        headers |= {"ETag": self.etag, "Cache-Control": _CACHE} if cache else {"Cache-Control": "no-store"}
        if cursor is not None:
            headers["Stream-Cursor"] = cursor
        return Response(self.body, headers=headers)


def cacheable(request: Request, page: Page) -> Response:
    """The page, or 304 if the client has it."""
    known = request.headers.get("if-none-match", "")
    if page.etag in (tag.strip().removeprefix("W/") for tag in known.split(",")):
        return Response(status_code=304, headers={**page.headers, "ETag": page.etag, "Cache-Control": _CACHE})
    return page.response(cache=True)
