"""From the path of a stream to the address of its actor, and back to what a URL may hold."""

import hashlib
import zlib
from typing import Final
from urllib.parse import quote, unquote_to_bytes

from actors.address import MAX_KEY_BYTES, is_address

ROOT = "/v1/stream/"
RESERVED = "__ds"
"""First segment of the paths that belong to the protocol itself."""

MAX_PATH_BYTES = 4096

STREAM: Final = "durable_stream"
SUBSCRIPTION: Final = "stream_subscription"
INDEX: Final = "stream_index"
INDEX_PARTS = 16
CHAT_RUN: Final = "chat_run"
COURIER: Final = "webhook_courier"
KEYS: Final = "webhook_keys"
PRESENCE: Final = "channel_presence"
BUILTIN_TYPES: Final = frozenset({STREAM, SUBSCRIPTION, INDEX, COURIER, KEYS, CHAT_RUN, PRESENCE})
"""The actor types of the gateway itself."""


def stream_key(path: str) -> str:
    """The key of the actor that is the stream at ``path``; a path too long for a key is hashed.

    No two paths share a key: the hashed form begins as no quoted path does.
    """
    key = quote(path, safe=" ").replace(" ", "%20")
    if len(key) <= MAX_KEY_BYTES:
        return key
    return f"%sha256-{hashlib.sha256(path.encode()).hexdigest()}"


def check_path(raw: bytes) -> str:
    """The name of a stream from the raw rest of a URL's path. Raises ``ValueError`` that says what is wrong."""
    unquoted = unquote_to_bytes(raw)
    if len(unquoted) > MAX_PATH_BYTES:
        raise ValueError(f"the name of a stream has at most {MAX_PATH_BYTES} bytes, not {len(unquoted)}")
    try:
        path = unquoted.decode()
    except UnicodeDecodeError:
        raise ValueError("the name of a stream must be UTF-8") from None
    if not path:
        raise ValueError(f"a stream needs a name: {ROOT}<name>")
    if "\0" in path:
        raise ValueError("the name of a stream must not contain NUL")
    return path


def path_of_reference(reference: str) -> str:
    """The path in a ``Stream-Forked-From`` header: ``/v1/stream/<path>``. Raises ``ValueError``."""
    if not reference.startswith(ROOT):
        raise ValueError(f"Stream-Forked-From must be the path of a stream, {ROOT}<name>, not {reference!r}")
    return check_path(reference[len(ROOT) :].encode("latin-1", "replace"))


def resources(path: str) -> tuple[str, ...]:
    """Under which names a stream's path may be granted: by its own, and if it may be an actor's channel by the actor's.

    That is said of its form alone, so that nobody learns from a refusal which types of actors there are.
    """
    address, slash, channel = path.partition("/")
    if slash and "/" not in channel and is_address(address):
        return address, path
    return (path,)


def stream_address(path: str) -> str:
    """The address of the stream at ``path``."""
    return f"{STREAM}-{stream_key(path)}"


def index_address(path: str) -> str:
    """The address of the part of the index that knows the stream at ``path``."""
    return f"{INDEX}-{zlib.crc32(path.encode()) % INDEX_PARTS}"
