"""Values of actors as JSON, and back."""

from typing import Final

import msgspec

from actors import codec
from actors.errors import SerializationFailed
from actors.ref import ActorRef
from cluster.gateway.problems import Problem, bad_request

UNREADABLE = {"unreadable": "this value is of a Python type that JSON cannot say"}

MOST_VALUES: Final = 2**20
"""In one message. Each takes some hundred bytes in memory, and time in which nobody else is served."""


def check_count(text: bytes | str) -> None:
    """Raise ``Problem`` 413 for JSON of too many values, before it is taken apart. What looks like some counts, too."""
    count = sum(map(text.count, ",[{")) if isinstance(text, str) else sum(map(text.count, (b",", b"[", b"{")))
    if count > MOST_VALUES:
        raise Problem(413, "PayloadTooLarge", f"a message has at most {MOST_VALUES} values; send it in parts")


def read_json(text: bytes | str) -> object:
    """The value that a client sent. Raises ``Problem`` for what is no JSON, or is beyond what messages can carry."""
    check_count(text)
    try:
        value: object = msgspec.json.decode(text)
        plain = codec.is_plain(value)
    except RecursionError:
        raise bad_request("the JSON is nested too deeply") from None
    except (msgspec.MsgspecError, UnicodeError) as error:
        raise bad_request(f"this is no JSON: {error}") from None
    if not plain:
        raise Problem(422, "SerializationFailed", "a message carries whole numbers of up to 64 bits; send text instead")
    return value


def to_json(value: object) -> bytes:
    """A value as JSON: NaN and the infinities are null, bytes base64, times ISO text. Raises ``ValueError``."""
    try:
        return _encoder.encode(value)
    except Exception as error:  # whatever a value's own conversion raises
        raise ValueError(f"{type(value).__name__} cannot be told as JSON: {error}") from error


def readable(data: bytes | msgspec.Raw) -> object:
    """An encoded value that a member of the cluster stored or sent. Pickles stay closed here."""
    try:
        return codec.decode(data, trusted=False)
    except SerializationFailed:
        return UNREADABLE


def _hook(value: object) -> object:
    if isinstance(value, ActorRef):
        return value.address
    raise NotImplementedError


_encoder = msgspec.json.Encoder(enc_hook=_hook)
