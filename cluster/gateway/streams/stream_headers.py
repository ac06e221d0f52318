"""What the headers and the query of a stream request say. Everything malformed is a ``Problem``."""

import re
from collections.abc import Mapping
from datetime import datetime
from functools import lru_cache
from typing import Final

from starlette.datastructures import QueryParams
from starlette.requests import Request

from cluster.gateway.problems import bad_request
from cluster.gateway.streams.names import path_of_reference, stream_address
from cluster.gateway.streams.offsets import NOW, START, Offset, parse_offset
from cluster.gateway.streams.stream_state import Creation, Fork, Lifetime, Write

_WHOLE = re.compile(r"0|[1-9][0-9]{0,15}")
_DIGITS = re.compile(r"[0-9]{1,16}")
_RFC3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)")
_LARGEST = 2**53 - 1
_CONTENT_TYPE = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+/[!#$%&'*+.^_`|~0-9A-Za-z-]+\s*(;.*)?")
_MOST_NAME = 1024

EXPOSED: Final = (
    "ETag", "Location", "Stream-Next-Offset", "Stream-Cursor", "Stream-Up-To-Date", "Stream-Closed", "Stream-TTL",
    "Stream-Expires-At", "Stream-SSE-Data-Encoding", "Producer-Epoch", "Producer-Seq", "Producer-Expected-Seq",
    "Producer-Received-Seq", "Retry-After",
)  # fmt: skip
"""What a page of another origin may read of a response."""


_KNOWN: Final = {
    name.encode(): name
    for name in (
        "content-type", "stream-seq", "stream-closed", "stream-ttl", "stream-expires-at", "stream-forked-from",
        "stream-fork-offset", "stream-fork-sub-offset", "producer-id", "producer-epoch", "producer-seq",
    )
}  # fmt: skip
"""The headers that say something of a stream."""


def headers_of(request: Request) -> Mapping[str, str]:
    """Those of the headers that say something of a stream, by name in lower case; the first of each."""
    headers = reversed(request.scope["headers"])
    return {_KNOWN[name]: value.decode("latin-1") for name, value in headers if name in _KNOWN}


def creation_of(path: str, headers: Mapping[str, str], body: bytes) -> Creation:
    """What a PUT asks for."""
    return Creation(
        path=path,
        body=body,
        content_type=_content_type(headers),
        lifetime=_lifetime(headers),
        close=_closes(headers),
        fork=_fork(headers),
    )


def write_of(headers: Mapping[str, str], body: bytes) -> Write:
    """What a POST asks for."""
    close, content_type = _closes(headers), _content_type(headers) if body else ""
    if not body and not close:
        raise bad_request("the body is empty: there is nothing to append")
    if body and not content_type:
        raise bad_request("an append needs a Content-Type")
    return Write(
        body=body, content_type=content_type, close=close, seq=headers.get("stream-seq"), producer=_producer(headers)
    )


def _content_type(headers: Mapping[str, str]) -> str:
    found = headers.get("content-type")
    return _checked_type(found) if found else ""


@lru_cache(maxsize=64)
def _checked_type(text: str) -> str:
    found = text.strip()
    if found and not _CONTENT_TYPE.fullmatch(found):
        raise bad_request(f"the Content-Type {found[:80]!r} is malformed")
    return found


def _closes(headers: Mapping[str, str]) -> bool:
    found = headers.get("stream-closed")
    return found is not None and found.lower() == "true"


def _lifetime(headers: Mapping[str, str]) -> Lifetime:
    ttl, expires_at = headers.get("stream-ttl"), headers.get("stream-expires-at")
    if ttl is not None and expires_at is not None:
        raise bad_request("Stream-TTL and Stream-Expires-At exclude each other")
    if ttl is not None:
        if not _WHOLE.fullmatch(ttl) or int(ttl) > 10**10:
            raise bad_request(f"Stream-TTL is a whole number of seconds without sign or leading zero, not {ttl[:80]!r}")
        return Lifetime(ttl=int(ttl))
    if expires_at is not None:
        try:
            if not _RFC3339.fullmatch(expires_at):
                raise ValueError(expires_at)
            return Lifetime(expires_at=expires_at, expires=datetime.fromisoformat(expires_at.upper()).timestamp())
        except (ValueError, OverflowError):
            raise bad_request(f"Stream-Expires-At is a time as in RFC 3339, not {expires_at[:80]!r}") from None
    return Lifetime()


def _fork(headers: Mapping[str, str]) -> Fork | None:
    source = headers.get("stream-forked-from")
    offset, sub_offset = headers.get("stream-fork-offset"), headers.get("stream-fork-sub-offset")
    if source is None:
        if offset is not None or sub_offset is not None:
            raise bad_request("Stream-Fork-Offset and Stream-Fork-Sub-Offset need Stream-Forked-From")
        return None
    count = 0
    if sub_offset is not None:
        if not _WHOLE.fullmatch(sub_offset):
            raise bad_request(f"Stream-Fork-Sub-Offset is a whole number, not {sub_offset[:80]!r}")
        count = int(sub_offset)
        if count and offset is None:
            raise bad_request("Stream-Fork-Sub-Offset needs Stream-Fork-Offset: behind the tail there is nothing")
    try:
        if offset is not None:
            parse_offset(offset)
        return Fork(stream_address(path_of_reference(source)), offset, count)
    except ValueError as error:
        raise bad_request(str(error)) from None


def _producer(headers: Mapping[str, str]) -> tuple[str, int, int] | None:
    name, epoch, seq = headers.get("producer-id"), headers.get("producer-epoch"), headers.get("producer-seq")
    if name is None and epoch is None and seq is None:
        return None
    if name is None or epoch is None or seq is None:
        raise bad_request("Producer-Id, Producer-Epoch and Producer-Seq go together")
    if not 0 < len(name.encode()) <= _MOST_NAME:
        raise bad_request(f"Producer-Id is text of 1 to {_MOST_NAME} bytes")
    return name, _number("Producer-Epoch", epoch), _number("Producer-Seq", seq)


def _number(header: str, text: str) -> int:
    if not _DIGITS.fullmatch(text) or int(text) > _LARGEST:
        raise bad_request(f"{header} is a whole number up to 2^53-1, not {text[:80]!r}")
    return int(text)


def offset_of(query: QueryParams) -> Offset | str | None:
    """The ``offset`` of a GET: one of this server's, "-1", "now", or None where there is none."""
    found = query.getlist("offset")
    if not found:
        return None
    if len(found) > 1:
        raise bad_request("there are several offsets")
    if found[0] in (START, NOW):
        return found[0]
    try:
        return parse_offset(found[0])
    except ValueError as error:
        raise bad_request(str(error)) from None


def live_of(query: QueryParams) -> str | None:
    """How a GET waits for what comes: "long-poll", "sse", or None for not at all."""
    found = query.getlist("live")
    if not found:
        return None
    if found not in (["long-poll"], ["sse"]):
        raise bad_request(f"live is long-poll or sse, not {','.join(found)[:80]!r}")
    if "offset" not in query:
        raise bad_request("a live read needs an offset")
    return found[0]
