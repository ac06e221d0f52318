"""Values of actors as JSON, and back."""

import msgspec

from actors import codec
from actors.errors import SerializationFailed
from actors.ref import ActorRef
from cluster.gateway.problems import Problem, bad_request

UNREADABLE = {"unreadable": "this value is of a Python type that JSON cannot say"}


def read_json(text: bytes | str) -> object:
    """The value that a client sent. Raises ``Problem`` for what is no JSON, or is beyond what messages can carry."""
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
