"""``/v1/stream/<name>``: the Durable Streams protocol over free-standing streams."""

from collections.abc import Mapping
from typing import Final
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import Response

from actors.ports import Store
from cluster.gateway.auth import grant_of
from cluster.gateway.body import read_body
from cluster.gateway.json_values import check_count
from cluster.gateway.options import GatewayOptions
from cluster.gateway.problems import Problem, bad_request
from cluster.gateway.streams import json_mode
from cluster.gateway.streams.appender import Appender
from cluster.gateway.streams.entries import StreamSource
from cluster.gateway.streams.live import LiveReader
from cluster.gateway.streams.names import ROOT, path_of_reference, resources, stream_key
from cluster.gateway.streams.offsets import NOW, START, Offset
from cluster.gateway.streams.reading import Page, cacheable
from cluster.gateway.streams.stream import Stream
from cluster.gateway.streams.stream_headers import creation_of, headers_of, live_of, offset_of, write_of
from cluster.gateway.streams.stream_state import Appended, Code, Outcome, View, Write
from cluster.gateway.streams.stream_writer import PATIENCE

_PROBLEMS: Final[dict[Code, tuple[int, str]]] = {
    "missing": (404, "StreamNotFound"),
    "gone": (410, "StreamGone"),
    "closed": (409, "StreamClosed"),
    "conflict": (409, "StreamConflict"),
    "invalid": (400, "BadRequest"),
    "fenced": (403, "ProducerFenced"),
    "gap": (409, "ProducerGap"),
    "unreachable": (503, "ClusterUnavailable"),
}


class Streams:
    """Answers the requests to one stream, whichever silo its actor lives on."""

    def __init__(self, options: GatewayOptions, live: LiveReader) -> None:
        self._options = options
        self._live = live
        self._appender = Appender()

    async def handle(self, request: Request, store: Store, path: str) -> Response:
        """Any request to the stream at ``path``. Raises ``Problem`` or an ``ActorError``."""
        if request.method == "POST":
            return await self._append(request, path)
        stream = Stream.ref(stream_key(path)).options(timeout=PATIENCE)
        match request.method:
            case "PUT":
                return await self._create(request, path, stream)
            case "DELETE":
                _checked(await stream.remove())
                return Response(status_code=204)
            case "HEAD":
                view = _view(_checked(await stream.look(use=False)))
                return Response(headers={**_describe(view), "Cache-Control": "no-store"})
            case "GET":
                return await self._read(request, StreamSource(store), stream)
        raise Problem(405, "MethodNotAllowed", f"a stream knows no {request.method}", headers={"Allow": METHODS})

    async def _create(self, request: Request, path: str, stream: Stream) -> Response:
        body = await read_body(request, self._options.max_body)
        wanted = creation_of(path, headers_of(request), body)
        if json_mode.is_json(wanted.content_type) or wanted.fork is not None:
            check_count(body)
        if wanted.fork is not None:
            source = path_of_reference(request.headers["stream-forked-from"])
            grant_of(request).check("read", *resources(source))
        outcome = await stream.create(wanted)
        while outcome.code == "again":
            outcome = await stream.create(wanted)
        view = _view(_checked(outcome))
        headers = {**_place(view), "Content-Type": view.content_type}
        if outcome.code != "created":
            return Response(headers=headers)
        return Response(status_code=201, headers={**headers, "Location": root_of(request) + quote(path)})

    async def _append(self, request: Request, path: str) -> Response:
        write = write_of(headers_of(request), await read_body(request, self._options.max_body))
        if json_mode.is_json(write.content_type):
            check_count(write.body)
        return response_to(write, await self._appender.append(path, write))

    async def _read(self, request: Request, source: StreamSource, stream: Stream) -> Response:
        live, offset = live_of(request.query_params), offset_of(request.query_params)
        view = _view(_checked(await stream.look(use=True)))
        position = position_of(offset, view)
        cursor, until = request.query_params.get("cursor"), grant_of(request).expires
        if live == "sse":
            return self._live.events(source, view, position, cursor, until=until)
        if live == "long-poll":
            return await self._live.poll(source, view, position, cursor, wait=offset == NOW, until=until)
        page = await Page.read(source, view, position, limit=self._options.max_chunk)
        if offset == NOW:
            return page.response(cache=False)
        return cacheable(request, page)


def root_of(request: Request) -> str:
    """The URL of all streams, as the client calls it."""
    return f"{request.url.scheme}://{request.url.netloc}{ROOT}"


METHODS: Final = "GET, HEAD, PUT, POST, DELETE, OPTIONS"


def position_of(offset: Offset | str | None, view: View) -> int:
    """The position of an offset in a stream. Raises ``Problem`` for one that is not within it."""
    if offset is None or offset == START:
        return 0
    if offset == NOW:
        return view.next
    assert isinstance(offset, Offset)
    if offset.generation < view.born and offset != Offset(0, 0):
        raise Problem(410, "OffsetGone", f"the offset {offset} is of a stream that had this name before")
    if offset.generation > view.generation or offset.position > view.next:
        raise bad_request(f"the offset {offset} is beyond the tail of the stream", name="OffsetBeyondTail")
    return offset.position


def _checked(outcome: Outcome) -> Outcome:
    found = _PROBLEMS.get(outcome.code)
    if found is None:
        return outcome
    status, name = found
    raise Problem(status, name, outcome.detail, headers={"Retry-After": "1"} if status == 503 else {})


class _Done(Response):
    """A response without a body, made with as little as it takes."""

    def __init__(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        self.status_code = status
        self.raw_headers = headers
        self.body = b""
        self.background = None


def response_to(write: Write, appended: Appended) -> Response:
    """The response to a write. Raises ``Problem`` if it was refused."""
    if appended.code in _PROBLEMS:
        raise _refusal(appended, write)
    headers = [(b"stream-next-offset", b"%016d_%016d" % (appended.generation, appended.next))]
    if appended.closed:
        headers.append((b"stream-closed", b"true"))
    if appended.epoch is not None and appended.seq is not None:
        headers += ((b"producer-epoch", b"%d" % appended.epoch), (b"producer-seq", b"%d" % appended.seq))
    if write.producer is not None and write.body and appended.code == "ok":
        headers.append((b"content-length", b"0"))
        return _Done(200, headers)
    return _Done(204, headers)


def _refusal(appended: Appended, write: Write) -> Problem:
    status, name = _PROBLEMS[appended.code]
    headers: dict[str, str] = {}
    if appended.code == "closed":
        headers = _place(appended)
    elif appended.code == "fenced":
        headers = {"Producer-Epoch": str(appended.epoch)}
    elif appended.code == "gap" and write.producer is not None:
        headers = {"Producer-Expected-Seq": str(appended.seq), "Producer-Received-Seq": str(write.producer[2])}
    return Problem(status, name, appended.detail, headers=headers)


def _view(outcome: Outcome) -> View:
    assert outcome.view is not None
    return outcome.view


def _place(end: View | Appended) -> dict[str, str]:
    headers = {"Stream-Next-Offset": str(Offset(end.generation, end.next))}
    return headers | ({"Stream-Closed": "true"} if end.closed else {})


def _describe(view: View) -> Mapping[str, str]:
    headers = {"Content-Type": view.content_type, **_place(view)}
    if view.lifetime.ttl is not None:
        headers["Stream-TTL"] = str(view.lifetime.ttl)
    if view.lifetime.expires_at:
        headers["Stream-Expires-At"] = view.lifetime.expires_at
    return headers
