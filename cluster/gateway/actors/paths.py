"""Paths and queries of requests to actors. Everything malformed is a ``Problem``."""

import math
import re
from typing import Final, NamedTuple
from urllib.parse import unquote_to_bytes

from starlette.datastructures import Headers, QueryParams

from actors.address import parse_address
from cluster.gateway.problems import Problem, bad_request

ROOT: Final = "/v1/actors/"

_MOST_PATH: Final = 4096
_MOST_SECONDS: Final = 24 * 3600.0
_WAIT = re.compile(r'(?:^|[,;])\s*wait\s*=\s*"?(\d{1,6})"?\s*(?=$|[,;])', re.IGNORECASE)
_SECONDS = re.compile(r"\d{1,6}(\.\d{1,6})?")
_OFFSET = re.compile(r"\d{1,18}")


class Path(NamedTuple):
    """What is asked of which actor: "send", "ask", "interrupt", "events" or "ws"; ``handler`` "" is receive."""

    address: str
    action: str
    handler: str = ""


def parse_path(raw: bytes) -> Path:
    """Take apart what follows ``ROOT`` in a URL's path, still percent-encoded."""
    if len(raw) > _MOST_PATH:
        raise bad_request(f"the path has more than {_MOST_PATH} bytes")
    try:
        address, *rest = (unquote_to_bytes(part).decode() for part in raw.split(b"/"))
    except UnicodeDecodeError:
        raise bad_request("the path must be percent-encoded UTF-8") from None
    check_address(address)
    match rest:
        case ["send" | "ask" | "interrupt" | "events" | "ws" as action]:
            return Path(address, action)
        case ["send" | "ask" as action, handler] if handler:
            return Path(address, action, handler)
    raise Problem(
        404, "NotFound", f"an actor has {ROOT}ADDRESS/send, ask, send/HANDLER, ask/HANDLER, interrupt, events, ws"
    )


def check_address(address: str) -> None:
    """Raise ``Problem`` 400 for what is no address."""
    try:
        parse_address(address)
    except ValueError as error:
        raise bad_request(str(error)) from None


def resources(address: str, channel: str | None = "output") -> tuple[str, ...]:
    """The names under which an actor, or one of its channels, may be granted. An empty one is no channel."""
    return (address, f"{address}/{channel}") if channel else (address,)


def timeout_of(query: QueryParams, headers: Headers) -> float | None:
    """How long a client waits for a reply: ``?timeout=2.5``, or the preference ``wait=2`` (RFC 7240), in seconds."""
    found = query.get("timeout")
    if found is None:
        preferred = _WAIT.search(",".join(headers.getlist("prefer")))
        if preferred is None:
            return None
        found = preferred[1]
    if not _SECONDS.fullmatch(found):
        raise bad_request(f"timeout is a number of seconds above 0, not {found[:80]!r}")
    return check_timeout(float(found))


def check_timeout(seconds: float) -> float:
    """Raise ``Problem`` 400 for a time that nobody can wait."""
    if not (math.isfinite(seconds) and 0 < seconds <= _MOST_SECONDS):
        raise bad_request(f"timeout is a number of seconds above 0, of at most {_MOST_SECONDS:.0f}")
    return seconds


def check_key(key: str) -> str:
    """Raise ``Problem`` 400 for what cannot be an idempotency key."""
    try:
        size = len(key.encode())
    except UnicodeEncodeError:
        size = 0
    if not 0 < size <= 256:
        raise bad_request("an idempotency key is text of 1 to 256 bytes")
    return key


def offset_of(text: str, what: str) -> int:
    """An offset in a header or query."""
    if not (text.isascii() and _OFFSET.fullmatch(text)):
        raise bad_request(f"{what} is the offset of an event, a whole number, not {text[:80]!r}")
    return int(text)


def flag_of(query: QueryParams, name: str) -> bool:
    """Whether ``?name=1`` is in a query."""
    found = query.get(name, "0")
    if found not in ("0", "1", "false", "true"):
        raise bad_request(f"{name} is 0 or 1, not {found[:80]!r}")
    return found in ("1", "true")
