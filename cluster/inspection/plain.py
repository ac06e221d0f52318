"""MessagePack values and times as plain data. Nothing is loaded: what was pickled is named, not restored."""

import base64
import math
from datetime import UTC, datetime

import msgspec

from actors import codec


def _extension(code: int, data: memoryview) -> object:
    if code == codec.REF:
        return f"actor_ref({bytes(data).decode()!r})"
    if code == codec.PICKLE:
        return f"<a pickled value of {len(data)} bytes>"
    return f"<MessagePack extension {code} of {len(data)} bytes>"


_decoder = msgspec.msgpack.Decoder(ext_hook=_extension)


def plain(payload: bytes | msgspec.Raw) -> object:
    """A MessagePack value as what JSON can say: keys are text, bytes become base64."""
    try:
        return _plain(_decoder.decode(payload))
    except (msgspec.DecodeError, RecursionError, TypeError, UnicodeDecodeError) as error:
        return f"<{len(bytes(payload))} bytes that cannot be decoded: {error}>"


def _plain(value: object) -> object:
    if isinstance(value, dict):
        return {key if isinstance(key, str) else str(_plain(key)): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def iso_time(seconds: float) -> str:
    """Seconds since 1970 in ISO 8601, UTC."""
    try:
        return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
    except (OverflowError, ValueError):
        return f"{seconds} s since 1970"
