"""The Vercel AI SDK's UI message stream, version 1: what its chat sends, and a turn told in its chunks.

Source: ``ai`` 6, ``src/ui-message-stream/ui-message-chunks.ts`` and ``src/ui/process-ui-message-stream.ts``.
"""

import hashlib
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, Literal, TypeAlias

import msgspec

from cluster.gateway.chat.message import Messages
from cluster.gateway.chat.run import Begin, End, Happening, Piece, Reset
from cluster.gateway.json_values import read_json, to_json
from cluster.gateway.problems import bad_request

Chunk: TypeAlias = dict[str, object]
Check: TypeAlias = Callable[[object], bool]

HEADERS: Final = {"X-Vercel-AI-UI-Message-Stream": "v1"}

DONE: Final = b"data: [DONE]\n\n"


class Post(msgspec.Struct, kw_only=True):
    """The body of a ``POST``. What else it holds is for others."""

    id: str
    messages: list[dict[str, Any]]
    trigger: Literal["submit-message", "regenerate-message"] = "submit-message"
    message_id: str | None = msgspec.field(default=None, name="messageId")


def read_post(body: bytes) -> tuple[Post, Messages]:
    """The request in a body, and its messages. Raises ``Problem`` that says what is wrong with it."""
    try:
        post = msgspec.convert(read_json(body), Post)
        return post, Messages(post.messages)
    except ValueError as error:
        raise bad_request(f"this is no request of the AI SDK's chat: {error}") from None


def key_of(post: Post, messages: Messages, last_run: str) -> str:
    """The idempotency key of a request: a repeated one joins the turn that the first has begun.

    Sent again with other content the message is another one. Regenerating begins a new turn; only while that has not
    ended is the same request again the same turn. ``last_run``: id of the last turn that has ended.
    """
    last = messages.last
    digest = hashlib.sha256(
        msgspec.json.encode((last.get("id"), last.get("parts"), last.get("content")), order="sorted")
    )
    if post.trigger == "regenerate-message":
        digest.update(f"\0regenerate\0{post.message_id}\0{last_run}".encode())
    return f"ai-sdk:{digest.hexdigest()}"


class Retracted(Exception):
    """The turn has taken back what was sent already, which this protocol cannot say: the client has to resume."""


class UIMessageStream:
    """A turn as chunks: what ``tell`` makes of what happens."""

    def __init__(self, channel: str) -> None:
        self._message_id = ""
        self._channel = channel
        self._text: str | None = None  # id of the text part that is open
        self._last: int | None = None  # offset of the last entry that was sent

    def tell(self, happenings: Iterable[Happening]) -> list[Chunk]:
        """The chunks for what happened. Raises ``Retracted``."""
        chunks: list[Chunk] = []
        for found in happenings:
            if isinstance(found, Begin):
                # The id is the same whenever the turn is told: a client that has it begins its message anew.
                self._message_id = found.message_id
                chunks.append({"type": "start", "messageId": found.message_id})
            elif isinstance(found, End):
                self._end(found, chunks)
            elif isinstance(found, Reset):
                if self._last is not None and self._last >= found.first:
                    raise Retracted
            elif isinstance(found.data, str):
                self._add_text(found.data, found.offset, chunks)
            else:
                self._add(found, chunks)
        return chunks

    def _add_text(self, text: str, offset: int, chunks: list[Chunk]) -> None:
        if text:
            if self._text is None:
                self._text = f"text-{offset}"
                chunks.append({"type": "text-start", "id": self._text})
            last = chunks[-1] if chunks else {}
            if last.get("type") == "text-delta" and last["id"] == self._text:
                last["delta"] = f"{last['delta']}{text}"
            else:
                chunks.append({"type": "text-delta", "id": self._text, "delta": text})
            self._last = offset

    def _add(self, piece: Piece, chunks: list[Chunk]) -> None:
        chunk = as_chunk(piece, self._channel)
        if chunk["type"] != "message-metadata" and not chunk.get("transient"):
            self._close_text(chunks)
        chunks.append(chunk)
        self._last = piece.offset

    def _close_text(self, chunks: list[Chunk]) -> None:
        if self._text is not None:
            chunks.append({"type": "text-end", "id": self._text})
            self._text = None

    def _end(self, end: End, chunks: list[Chunk]) -> None:
        if end.kind == "committed" and self._last is None and isinstance(end.result, str):
            self._add_text(end.result, 0, chunks)
        self._close_text(chunks)
        if end.kind == "committed":
            chunks.append({"type": "finish", "finishReason": "stop"})
        elif end.kind == "interrupted":
            chunks.append({"type": "abort", "reason": end.reason} if end.reason else {"type": "abort"})
        else:
            chunks.append(failed(self._message_id))


def failed(message_id: str) -> Chunk:
    """What a client is told of a turn that failed: nothing of why, but what to look for in the log."""
    return {"type": "error", "errorText": f"The answer could not be completed (message {message_id})."}


def encode(chunks: Sequence[Chunk]) -> bytes:
    """The chunks as server-sent events."""
    return b"".join(b"data: " + to_json(chunk) + b"\n\n" for chunk in chunks)


def as_chunk(piece: Piece, channel: str) -> Chunk:
    """An item that is no text: as it is if it is a chunk of the protocol, else as a part with data."""
    data = piece.data
    kind = data.get("type") if isinstance(data, dict) else None
    if isinstance(data, dict) and isinstance(kind, str):
        fields = _DATA if kind.startswith("data-") and len(kind) > 5 else _CHUNKS.get(kind)
        if fields is not None and _fits(data, fields):
            return data
    name = kind if isinstance(kind, str) and _NAME.fullmatch(kind) else channel
    return {"type": f"data-{name.removeprefix('data-')}", "id": str(piece.offset), "data": data}


_NAME: Final = re.compile(r"[A-Za-z0-9_.-]{1,100}")


def _anything(_: object) -> bool:
    return True


def _text(value: object) -> bool:
    return isinstance(value, str)


def _flag(value: object) -> bool:
    return isinstance(value, bool)


def _record(value: object) -> bool:
    return isinstance(value, dict)


def _records(value: object) -> bool:
    return isinstance(value, dict) and all(isinstance(each, dict) for each in value.values())


def _fits(data: dict[Any, Any], fields: dict[str, Check]) -> bool:
    """Whether a client will take the chunk: required fields are there, and those it knows are of their type."""
    checks = {**_OPTIONAL, **fields}
    return (
        all(name in data for name in fields)
        and all(isinstance(name, str) for name in data)
        and all(checks[name](value) for name, value in data.items() if name in checks)
    )


_OPTIONAL: Final[dict[str, Check]] = {
    "providerMetadata": _records,
    "toolMetadata": _record,
    "providerExecuted": _flag,
    "dynamic": _flag,
    "preliminary": _flag,
    "transient": _flag,
    "title": _text,
    "filename": _text,
    "signature": _text,
    "inputEncoding": lambda value: value in ("json", "text"),
    "id": _text,
}

_DATA: Final[dict[str, Check]] = {"data": _anything}

_CHUNKS: Final[dict[str, dict[str, Check]]] = {
    "text-start": {"id": _text},
    "text-delta": {"id": _text, "delta": _text},
    "text-end": {"id": _text},
    "reasoning-start": {"id": _text},
    "reasoning-delta": {"id": _text, "delta": _text},
    "reasoning-end": {"id": _text},
    "tool-input-start": {"toolCallId": _text, "toolName": _text},
    "tool-input-delta": {"toolCallId": _text, "inputTextDelta": _text},
    "tool-input-available": {"toolCallId": _text, "toolName": _text, "input": _anything},
    "tool-input-error": {"toolCallId": _text, "toolName": _text, "input": _anything, "errorText": _text},
    "tool-approval-request": {"approvalId": _text, "toolCallId": _text},
    "tool-output-available": {"toolCallId": _text, "output": _anything},
    "tool-output-error": {"toolCallId": _text, "errorText": _text},
    "tool-output-denied": {"toolCallId": _text},
    "source-url": {"sourceId": _text, "url": _text},
    "source-document": {"sourceId": _text, "mediaType": _text, "title": _text},
    "file": {"url": _text, "mediaType": _text},
    "start-step": {},
    "finish-step": {},
    "message-metadata": {"messageMetadata": _anything},
}
"""The chunks that an actor may publish itself. Those that begin and end a stream are the turn's to send."""
