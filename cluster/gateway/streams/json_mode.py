"""JSON mode: the messages in a body, and bodies made of messages."""

from collections.abc import Iterable

import msgspec

_messages = msgspec.json.Decoder(list[msgspec.Raw])


def media_type(content_type: str) -> str:
    """A content type without its parameters, in lower case."""
    return content_type.partition(";")[0].strip().lower()


def is_json(content_type: str) -> bool:
    """Whether a stream of this type keeps the boundaries of JSON messages."""
    return media_type(content_type) == "application/json"


def is_text(content_type: str) -> bool:
    """Whether server-sent events can carry the bytes as they are."""
    return is_json(content_type) or media_type(content_type).startswith("text/")


def split(body: bytes) -> list[bytes]:
    """The messages of a body: the elements of an array, or the one value. Raises ``ValueError`` for what is no JSON."""
    try:
        body.decode()
        value = msgspec.json.decode(body)
        if isinstance(value, list):
            return [bytes(raw) for raw in _messages.decode(body)]
    except RecursionError:
        raise ValueError("the JSON is nested too deeply") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"the body is not JSON: {error}") from None
    return [body.strip()]


def join(messages: Iterable[bytes]) -> bytes:
    """Messages as they are stored: one after the other, with commas between them."""
    return b",".join(messages)


def array(stored: Iterable[bytes]) -> bytes:
    """A JSON array of stored messages."""
    return b"[" + b",".join(stored) + b"]"
