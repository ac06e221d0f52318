"""Where the token of a request is: in a header, in the URL, or among the subprotocols of a WebSocket."""

from typing import Final, NamedTuple
from urllib.parse import parse_qsl, urlencode

from starlette.datastructures import Headers
from starlette.types import Scope

from cluster.gateway.auth.tokens import refused
from cluster.gateway.problems import Problem

_PARAMETER: Final = "access_token"
_SUBPROTOCOL: Final = "bearer."


class Bearer(NamedTuple):
    """A token, and whether it was in the URL."""

    token: str
    from_url: bool


def take_bearer(scope: Scope) -> Bearer:
    """The token of a request. What was not in a header is removed, so that nothing behind this can log or echo it.

    Raises ``Problem`` 401 if there is none, or more than one, or where one should not be.
    """
    headers = Headers(scope=scope)
    from_url = _take_parameter(scope)
    from_subprotocol = _take_subprotocol(scope)
    found = [Bearer(token, from_url=False) for token in [*_from_header(headers), *from_subprotocol]]
    if from_url:
        if scope["type"] == "http" and not _is_event_source(scope, headers):
            raise refused("in a URL it is taken from EventSource and WebSocket only; others have Authorization: Bearer")
        found += [Bearer(token, from_url=True) for token in from_url]
    if len(found) > 1:
        raise refused("there are several")
    if not found:
        raise _missing()
    return found[0]


def _from_header(headers: Headers) -> list[str]:
    found: list[str] = []
    for value in headers.getlist("authorization"):
        scheme, _, token = value.strip().partition(" ")
        if scheme.lower() != "bearer" or not token.strip():
            raise _missing()
        found.append(token.strip())
    return found


def _take_parameter(scope: Scope) -> list[str]:
    query: bytes = scope["query_string"]
    if _PARAMETER.encode() not in query and b"%" not in query:
        return []
    pairs = parse_qsl(query.decode("latin-1"), keep_blank_values=True, encoding="latin-1")
    found = [value for name, value in pairs if name == _PARAMETER]
    if found:
        rest = [pair for pair in pairs if pair[0] != _PARAMETER]
        scope["query_string"] = urlencode(rest, encoding="latin-1").encode("ascii")
    return found


def _take_subprotocol(scope: Scope) -> list[str]:
    offered: list[str] = scope.get("subprotocols", [])
    found = [name.removeprefix(_SUBPROTOCOL) for name in offered if name.startswith(_SUBPROTOCOL)]
    if found:
        scope["subprotocols"] = [name for name in offered if not name.startswith(_SUBPROTOCOL)]
    return found


def _is_event_source(scope: Scope, headers: Headers) -> bool:
    return scope["method"] == "GET" and "text/event-stream" in headers.get("accept", "")


def _missing() -> Problem:
    detail = "this needs a token: Authorization: Bearer TOKEN"
    return Problem(401, "NotAuthenticated", detail, headers={"WWW-Authenticate": 'Bearer realm="agentsilo"'})
