"""``/openapi.json``: what the gateway serves, in OpenAPI 3.1. A test calls everything as it is described here."""

from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

Schema = dict[str, Any]

_PROBLEM: Final[Schema] = {
    "type": "object",
    "description": "Problem details (RFC 9457); `type` names the error's class.",
    "required": ["type", "title", "status", "detail"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
    },
}
_PROBLEMS: Final[Mapping[int, str]] = {
    400: "The request makes no sense; `detail` says why.",
    401: "Credentials are needed, or these are not valid.",
    403: "These credentials, or this page, may not do this; or the handler is not public.",
    404: "There is nothing of this name.",
    405: "Not with this method.",
    408: "The request came too slowly.",
    409: "It does not fit what is there.",
    410: "What was there is gone.",
    413: "The body is too large.",
    422: "The arguments do not fit the handler.",
    426: "This is a WebSocket.",
    429: "Too much at once; try again after `Retry-After`.",
    431: "The head of the request is too large.",
    502: "The actor failed, or its silo was lost.",
    503: "The cluster cannot take this now; try again after `Retry-After`.",
    504: "No answer in time; the turn, if it runs, goes on.",
}
_ALWAYS: Final = (400, 401, 403, 405, 408, 413, 429, 431, 503, 504)

_OFFSET: Final[Schema] = {
    "type": "string",
    "description": "An offset of `Stream-Next-Offset`, `-1` or `now`; needed where `live` is given.",
    "pattern": "^(-1|now|[0-9]{16}_[0-9]{16})$",
}
_NUMBER: Final = "^[0-9]{1,15}$"
_ANY: Final[Schema] = {"description": "Any JSON value."}


def document(chats: Sequence[tuple[str, str]] = (), *, authenticated: bool) -> Schema:
    """The description. ``chats``: paths of chat routes and their protocols. ``authenticated``: a token is needed."""
    paths = {**_actors(), **_streams(), **_service()}
    for path, protocol in chats:
        paths |= _chat(path, protocol)
    try:
        release = version("agentsilo")
    except PackageNotFoundError:  # run from a checkout that was never installed
        release = "0"
    found: Schema = {
        "openapi": "3.1.0",
        "info": {
            "title": "agentsilo gateway",
            "version": release,
            "description": "Messages to actors, their channels, durable streams. Any silo answers for all.",
        },
        "paths": paths,
        "components": {
            "schemas": {"Problem": _PROBLEM},
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}},
        },
    }
    if authenticated:
        found["security"] = [{"token": []}]
    return found


# -- operations --------------------------------------------------------------------------------------------------------


def _operation(
    summary: str,
    responses: Mapping[int, Schema],
    *,
    also: Sequence[int] = (),
    parameters: Sequence[Schema] = (),
    body: Schema | None = None,
    open_to_all: bool = False,
) -> Schema:
    found: Schema = {"summary": summary, "responses": {str(status): what for status, what in responses.items()}}
    for status in sorted({*_ALWAYS, *also} - responses.keys()):
        found["responses"][str(status)] = {
            "description": _PROBLEMS[status],
            "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}},
        }
    if parameters:
        found["parameters"] = list(parameters)
    if body is not None:
        found["requestBody"] = body
    if open_to_all:
        found["security"] = []
    return found


def _path(name: str, description: str, **schema: Any) -> Schema:
    return {
        "name": name, "in": "path", "required": True, "description": description,
        "schema": {"type": "string", "minLength": 1, **schema},
    }  # fmt: skip


def _query(name: str, description: str, **schema: Any) -> Schema:
    return {"name": name, "in": "query", "description": description, "schema": {"type": "string", **schema}}


def _header(name: str, description: str, **schema: Any) -> Schema:
    return {"name": name, "in": "header", "description": description, "schema": {"type": "string", **schema}}


def _json(description: str, schema: Schema) -> Schema:
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def _takes_json(schema: Schema, *, required: bool = False) -> Schema:
    return {"required": required, "content": {"application/json": {"schema": schema}}}


_EVENTS: Final[Schema] = {
    "description": "Server-sent events.",
    "content": {"text/event-stream": {"schema": {"type": "string"}}},
}


# -- /v1/actors --------------------------------------------------------------------------------------------------------

_ADDRESS = _path("address", "`<type>-<key>`, as in `session-42`.", pattern=r"^[a-z][a-z0-9_]*-[A-Za-z0-9._~-]{1,200}$")
_HANDLER = _path("handler", "A handler that is public.", pattern="^[A-Za-z][A-Za-z0-9_]{0,99}$")
_KEY = _header(
    "Idempotency-Key", "The same key to the same address is the same message: it runs once.",
    pattern="^[A-Za-z0-9._-]{1,200}$",
)  # fmt: skip
_TIMEOUT = _query("timeout", "Seconds to wait.", pattern=r"^[1-9][0-9]{0,3}(\.[0-9]{1,3})?$")
_ARGUMENTS: Final[Schema] = {
    "type": "object",
    "properties": {"args": {"type": "array"}, "kwargs": {"type": "object"}},
    "additionalProperties": False,
}
_ACCEPTED = _json(
    "Accepted: it takes effect, whatever fails.",
    {"type": "object", "required": ["message_id"], "properties": {"message_id": {"type": "string"}}},
)
_OUTCOMES: Final = (404, 409, 422, 502)


def _actors() -> Schema:
    reply: Schema = {
        "description": "The reply; of an async generator its items as events.",
        "content": {"application/json": {"schema": _ANY}, **_EVENTS["content"]},
    }
    root = "/v1/actors/{address}"
    message, call = _takes_json(_ANY), _takes_json(_ARGUMENTS)
    return {
        f"{root}/send": {
            "post": _operation(
                "Send a message to `receive`.", {202: _ACCEPTED}, also=_OUTCOMES, body=message,
                parameters=[_ADDRESS, _KEY, _TIMEOUT],
            )
        },
        f"{root}/send/{{handler}}": {
            "post": _operation(
                "Send a message to a handler.", {202: _ACCEPTED}, also=_OUTCOMES, body=call,
                parameters=[_ADDRESS, _HANDLER, _KEY, _TIMEOUT],
            )
        },
        f"{root}/ask": {
            "post": _operation(
                "Ask `receive` and wait for its reply.", {200: reply}, also=_OUTCOMES, body=message,
                parameters=[_ADDRESS, _KEY, _TIMEOUT],
            )
        },
        f"{root}/ask/{{handler}}": {
            "post": _operation(
                "Ask a handler and wait for its reply.", {200: reply}, also=_OUTCOMES, body=call,
                parameters=[_ADDRESS, _HANDLER, _KEY, _TIMEOUT],
            )
        },
        f"{root}/interrupt": {
            "post": _operation(
                "Stop the turn that runs now, if one does.",
                {202: _json("Noted, durably.", {"type": "object"})},
                also=_OUTCOMES,
                parameters=[_ADDRESS],
                body=_takes_json({"type": "object", "properties": {"reason": {"type": "string", "maxLength": 1000}}}),
            )
        },
        f"{root}/events": {
            "get": _operation(
                "A channel's entries, and those to come.",
                {200: _EVENTS, 204: {"description": "The channel has ended: there is nothing more to come."}},
                also=(404, 410, 502),
                parameters=[
                    _ADDRESS,
                    _query("channel", "The channel's name, by default `output`.", pattern="^[A-Za-z0-9$_.-]{1,100}$"),
                    _query("after", "Only what is behind this offset.", pattern="^[0-9]{1,18}$"),
                    _query("compact", "Merge what is there already into few pieces.", enum=["0", "1"]),
                    _header("Last-Event-ID", "As `after`; what `EventSource` sends.", pattern="^[0-9]{1,18}$"),
                ],
            )
        },
        f"{root}/ws": {
            "get": _operation(
                "A WebSocket of JSON frames: many actors on one connection.",
                {101: {"description": "The WebSocket is open."}},
                also=(404, 426),
                parameters=[_ADDRESS],
            )
        },
    }  # fmt: skip


# -- /v1/stream --------------------------------------------------------------------------------------------------------

_NAME = _path("name", "Of the stream; `<address>/<channel>` is the channel of an actor.")
_NEXT: Final[Schema] = {"Stream-Next-Offset": {"description": "Where it ends.", "schema": {"type": "string"}}}
_ANY_BODY: Final[Schema] = {"content": {"*/*": {"schema": {}}}}


def _streams() -> Schema:
    """The Durable Streams protocol, whose own documents say more."""
    entries: Schema = {"description": "Entries of the stream.", "headers": _NEXT, "content": {"*/*": {"schema": {}}}}
    nothing: Schema = {"description": "Done, or nothing came in time.", "headers": _NEXT}
    producer = [
        _header("Producer-Id", "Of an idempotent producer; the three go together.", pattern="^[A-Za-z0-9._-]{1,100}$"),
        _header("Producer-Epoch", "Of its present life.", pattern=_NUMBER),
        _header("Producer-Seq", "Of this append.", pattern=_NUMBER),
    ]
    closed = _header("Stream-Closed", "`true` closes the stream.", enum=["true", "false"])
    return {
        "/v1/stream/{name}": {
            "put": _operation(
                "Create a stream.",
                {
                    200: {"description": "It is there.", "headers": _NEXT},
                    201: {"description": "Created.", "headers": _NEXT},
                },
                also=(404, 409),
                body=_ANY_BODY,
                parameters=[
                    _NAME,
                    closed,
                    _header("Stream-TTL", "Seconds without use after which it goes.", pattern="^(0|[1-9][0-9]{0,8})$"),
                    _header("Stream-Expires-At", "When it goes (RFC 3339).", format="date-time"),
                    _header(
                        "Stream-Forked-From",
                        "The stream that it begins with.",
                        pattern="^/v1/stream/[A-Za-z0-9._-]{1,100}$",
                    ),
                    _header("Stream-Fork-Offset", "Where it parts from that one.", pattern="^[0-9]{16}_[0-9]{16}$"),
                    _header(
                        "Stream-Fork-Sub-Offset", "How much of the next append it has.", pattern="^(0|[1-9][0-9]{0,8})$"
                    ),
                ],
            ),
            "post": _operation(
                "Append to a stream, or close it.",
                {200: nothing, 204: nothing},
                also=(404, 409, 410),
                body=_ANY_BODY,
                parameters=[_NAME, closed, *producer, _header("Stream-Seq", "Must rise from append to append.")],
            ),
            "get": _operation(
                "Read a stream.",
                {200: entries, 204: nothing, 304: {"description": "As you have it."}},
                also=(404, 410),
                parameters=[
                    _NAME,
                    {"name": "offset", "in": "query", "schema": _OFFSET},
                    _query("live", "Wait for what comes.", enum=["long-poll", "sse"]),
                    _query("cursor", "Of the read before."),
                    _header("If-None-Match", "The `ETag` of what you have."),
                ],
            ),
            "head": _operation(
                "Look at a stream.",
                {200: {"description": "What it is, and where it ends.", "headers": _NEXT}},
                also=(404, 410),
                parameters=[_NAME],
            ),
            "delete": _operation(
                "Delete a stream.", {204: {"description": "It is gone."}}, also=(404, 410), parameters=[_NAME]
            ),
        }
    }


# -- chats, and the service itself -------------------------------------------------------------------------------------


_MESSAGES: Final[Schema] = {"type": "array", "minItems": 1, "items": {"type": "object"}}
_AI_SDK_POST: Final[Schema] = {
    "type": "object",
    "required": ["id", "messages"],
    "properties": {
        "id": {"type": "string", "description": "Of the chat: the key of its actor."},
        "messages": {**_MESSAGES, "description": "The last is the user's."},
        "trigger": {"enum": ["submit-message", "regenerate-message"]},
        "messageId": {"type": ["string", "null"]},
    },
}
_AG_UI_POST: Final[Schema] = {
    "type": "object",
    "required": ["threadId", "runId", "messages"],
    "properties": {
        "threadId": {"type": "string", "description": "Of the chat: the key of its actor."},
        "runId": {"type": "string", "minLength": 1, "maxLength": 200},
        "messages": {**_MESSAGES, "description": "The last is the user's."},
    },
}


def _chat(path: str, protocol: str) -> Schema:
    chat = _path("chat", "Of the chat: the key of its actor.", pattern="^[A-Za-z0-9._~-]{1,200}$")
    post = _operation(
        f"A message of a chat; the answer streams ({protocol}).",
        {200: _EVENTS},
        also=(404, 409, 410, 422, 502),
        body=_takes_json(_AI_SDK_POST if protocol == "ai-sdk" else _AG_UI_POST, required=True),
    )
    stop = _operation(
        "Stop the answer that runs.",
        {202: _json("Whether there was one.", {"type": "object", "required": ["stopped"]})},
        also=(404, 422, 502),
        parameters=[chat],
        body=_takes_json({"type": "object", "properties": {"reason": {"type": "string", "maxLength": 1000}}}),
    )
    if protocol == "ai-sdk":
        nothing: Schema = {"description": "Nothing runs."}
        resume = _operation(
            "Go on with the answer that runs.", {200: _EVENTS, 204: nothing}, also=(404, 502), parameters=[chat]
        )
        return {
            path: {"post": post}, f"{path}/{{chat}}/stream": {"get": resume}, f"{path}/{{chat}}/stop": {"post": stop}
        }  # fmt: skip
    active = _json("What runs in the thread.", {"type": "object"})
    active["content"] |= _EVENTS["content"]
    join = _operation(
        "Join a run, or ask what runs in a thread.",
        {200: active},
        also=(404, 502),
        parameters=[_query("runId", "Of the run."), _query("threadId", "Of the chat."), _query("offset", "-1.")],
    )
    return {path: {"post": post, "get": join}, f"{path}/{{chat}}/stop": {"post": stop}}


def _service() -> Schema:
    ready: Schema = {
        "type": "object",
        "required": ["ready"],
        "properties": {"ready": {"type": "boolean"}, "reason": {"type": "string"}},
    }
    return {
        "/healthz": {"get": _operation("Whether the process works.", {200: _json("It does.", {})}, open_to_all=True)},
        "/readyz": {
            "get": _operation(
                "Whether the silo takes messages.",
                {200: _json("It does.", ready), 503: _json("Not now.", ready)},
                open_to_all=True,
            )
        },
        "/openapi.json": {
            "get": _operation("This description.", {200: _json("OpenAPI 3.1.", {"type": "object"})}, open_to_all=True)
        },
    }


def openapi_route(chats: Sequence[tuple[str, str]] = (), *, authenticated: bool) -> Route:
    """``/openapi.json``; for everybody, as the description is no secret."""
    body = msgspec.json.encode(document(chats, authenticated=authenticated))
    headers = {"Cache-Control": "no-cache", "X-Content-Type-Options": "nosniff", "Access-Control-Allow-Origin": "*"}

    async def describe(_: Request) -> Response:
        return Response(body, media_type="application/json", headers=headers)

    return Route("/openapi.json", describe)
