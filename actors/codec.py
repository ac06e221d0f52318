"""Values to bytes and back: MessagePack by msgspec, typed by annotations.

What MessagePack cannot say travels as an extension: a reference (1), or a cloudpickle (2) that is loaded only when it
came from an authenticated member of the cluster. Stored state never contains pickles.
"""

import io
import pickle
import sys
import typing
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import cloudpickle
import msgspec

from actors.errors import SerializationFailed
from actors.ref import ActorRef, Steered

REF = 1
PICKLE = 2
STEERED = 3

_CACHE = "__msgspec_cache__"

_SCALARS = frozenset({type(None), bool, float, str, bytes})
_MIN_INT, _MAX_INT = -(2**63), 2**64 - 1


def is_plain(value: object) -> bool:
    """Whether the value comes back from MessagePack equal and of the same type, without annotations."""
    kind = type(value)
    if kind in _SCALARS:
        return True
    if kind is int:
        return _MIN_INT <= value <= _MAX_INT  # type: ignore[operator]
    if kind is list:
        return all(map(is_plain, value))  # type: ignore[call-overload]
    if kind is dict:
        items = value.items()  # type: ignore[attr-defined]
        return all((type(key) is str or type(key) is int) and is_plain(key) and is_plain(item) for key, item in items)
    return kind is ActorRef


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]  # cloudpickle has no types
    """Also pickles classes of ``__main__`` and of functions that msgspec has seen: it leaves a cache in them."""

    def reducer_override(self, obj: Any) -> Any:
        """See ``pickle.Pickler``."""
        if isinstance(obj, type) and _CACHE in vars(obj) and (obj.__module__ == "__main__" or "<" in obj.__qualname__):
            type.__delattr__(obj, _CACHE)  # such a class travels by value, its cache cannot; msgspec makes it anew
        return super().reducer_override(obj)


def _pickle(value: object) -> bytes:
    buffer = io.BytesIO()
    _Pickler(buffer).dump(value)
    return buffer.getvalue()


def _encode_extension(value: object) -> object:
    if isinstance(value, ActorRef):
        return msgspec.msgpack.Ext(REF, value.address.encode())
    if is_pydantic(type(value)):
        return value.model_dump(round_trip=True, by_alias=True)  # type: ignore[attr-defined]
    raise NotImplementedError  # TypeError in msgspec's words


def _encode_or_pickle(value: object) -> object:
    try:
        return _encode_extension(value)
    except NotImplementedError:
        return msgspec.msgpack.Ext(PICKLE, _pickle(value))


def is_pydantic(kind: object) -> bool:
    """Whether ``kind`` is a pydantic model class, without importing pydantic."""
    pydantic = sys.modules.get("pydantic")
    return pydantic is not None and isinstance(kind, type) and issubclass(kind, pydantic.BaseModel)


def _decode_extension(code: int, data: memoryview) -> object:
    if code == REF:
        return ActorRef(bytes(data).decode())
    if code == STEERED:
        return Steered(bytes(data).decode())
    if code == PICKLE:
        raise ValueError("a pickled value from outside the cluster is refused")
    raise ValueError(f"unknown MessagePack extension {code}")


def _decode_extension_trusted(code: int, data: memoryview) -> object:
    if code == PICKLE:
        return pickle.loads(data)  # noqa: S301  # only reached for authenticated peers
    return _decode_extension(code, data)


def convert_custom(kind: type, value: object) -> object:
    """Msgspec's hook for annotations that it does not know: references, pydantic models, any other class."""
    if isinstance(value, ActorRef):
        return value  # Session.ref("42") is annotated as Session, and is a reference
    if is_pydantic(kind):
        return kind.model_validate(value)  # type: ignore[attr-defined]
    if isinstance(value, kind):
        return value
    raise ValueError(f"Expected `{kind.__name__}`, got `{type(value).__name__}`")


_plain = msgspec.msgpack.Encoder(enc_hook=_encode_or_pickle)
_stored = msgspec.msgpack.Encoder(enc_hook=_encode_extension)


def decoder(annotation: Any, *, trusted: bool) -> msgspec.msgpack.Decoder[Any]:
    """A decoder for an annotation. Raises ``TypeError`` for what msgspec cannot decode unambiguously."""
    hook = _decode_extension_trusted if trusted else _decode_extension
    return msgspec.msgpack.Decoder(annotation, dec_hook=convert_custom, ext_hook=hook)


_any = decoder(Any, trusted=False)
_any_trusted = decoder(Any, trusted=True)
_raws = msgspec.msgpack.Decoder(list[msgspec.Raw])
_raw_call = msgspec.msgpack.Decoder(tuple[list[msgspec.Raw], dict[str, msgspec.Raw]])


def decode(payload: bytes | msgspec.Raw, *, trusted: bool) -> Any:
    """Decode a self-describing value. Raises ``SerializationFailed``."""
    try:
        return (_any_trusted if trusted else _any).decode(payload)
    except Exception as error:  # a pickle can raise anything
        raise SerializationFailed(f"a value could not be decoded: {error}") from error


def encode(value: object, fits: Callable[[object], bool] = is_plain) -> bytes:
    """Encode one value: as plain MessagePack if it fits, else pickled, so that it arrives as what it was.

    A ``msgspec.Raw`` is encoded already. Raises whatever the value raises when it cannot be encoded.
    """
    if type(value) is msgspec.Raw:
        return bytes(value)
    if is_plain(value) or fits(value):
        try:
            return _plain.encode(value)
        except OverflowError:  # a large int, deep inside
            pass
    return _plain.encode(msgspec.msgpack.Ext(PICKLE, _pickle(value)))


def encode_outside(value: object) -> bytes:
    """Encode a result for somebody outside of the cluster: as plain MessagePack, of what JSON has.

    Times are ISO text, bytes base64, sets arrays, objects maps, references their addresses. Raises whatever the value
    raises that is nothing of that kind.
    """
    return _plain.encode(msgspec.to_builtins(value, str_keys=True, enc_hook=_tell_outside))


def _tell_outside(value: object) -> object:
    return value.address if isinstance(value, ActorRef) else _encode_extension(value)


def convert_outside(value: object, annotation: Any) -> Any:
    """Fit a value that came as JSON to an annotation. Raises ``msgspec.ValidationError`` or what a model raises."""
    return msgspec.convert(value, annotation, str_keys=True, dec_hook=_convert_outside)


def _convert_outside(kind: type, value: object) -> object:
    if isinstance(value, str) and issubclass(kind, ActorRef):
        return ActorRef(value)
    return convert_custom(kind, value)


def encode_arguments(
    where: str,
    args: tuple[object, ...],
    kwargs: dict[str, object],
    fits: Callable[[int | str, object], bool],
) -> bytes:
    """Encode the arguments of a call: an array of the positional ones; with named ones 0xC1 and ``[[...], {...}]``.

    ``fits`` tells whether the parameter at an index or of a name is annotated so that plain MessagePack says enough.
    Raises ``SerializationFailed`` that names the argument.
    """
    if not kwargs and all(map(_is_scalar, args)):
        return _plain.encode(args)
    with suppress(Exception):  # what is wrong is told below, where they are encoded one by one
        if not kwargs and all(is_plain(arg) or fits(i, arg) for i, arg in enumerate(args)):
            return _plain.encode(args)
    positional = [
        msgspec.Raw(_encode_argument(f"{where}: argument {i + 1}", arg, i, fits)) for i, arg in enumerate(args)
    ]
    if not kwargs:
        return _plain.encode(positional)
    named = {
        name: msgspec.Raw(_encode_argument(f"{where}: argument {name!r}", arg, name, fits))
        for name, arg in kwargs.items()
    }
    return b"\xc1" + _plain.encode((positional, named))


def _is_scalar(value: object) -> bool:
    kind = type(value)
    return kind is bytes or (kind in _SCALARS and kind is not str) or (kind is str and value.isascii())  # type: ignore[attr-defined]


def _encode_argument(
    what: str, value: object, parameter: int | str, fits: Callable[[int | str, object], bool]
) -> bytes:
    try:
        return encode(value, lambda value: fits(parameter, value))
    except Exception as error:  # whatever a value's own pickling raises
        raise SerializationFailed(
            f"{what} ({type(value).__name__}) cannot be serialized: {error}; nothing was sent"
        ) from error


def split_arguments(payload: bytes) -> tuple[Sequence[msgspec.Raw], dict[str, msgspec.Raw]]:
    """The arguments of a call, still encoded one by one. Raises ``msgspec.DecodeError`` on other bytes."""
    if payload[:1] == b"\xc1":  # a byte that MessagePack never uses
        return _raw_call.decode(payload[1:])
    return _raws.decode(payload), {}


def arity(payload: bytes) -> int:
    """The number of arguments if they are positional and at most 15, else -1."""
    first = payload[0] if payload else 0
    return first & 0x0F if first & 0xF0 == 0x90 else -1


def is_extension(raw: msgspec.Raw) -> bool:
    """Whether an encoded value is an extension rather than a plain one."""
    first = bytes(memoryview(raw)[:1])[0]
    return 0xC7 <= first <= 0xC9 or 0xD4 <= first <= 0xD8


def convert(value: object, annotation: Any) -> Any:
    """Fit a live object, that came as a pickle, to an annotation. Raises ``msgspec.ValidationError``.

    What is an instance of the annotated class or container stays itself: a copy would lose what a subclass added.
    """
    kind = typing.get_origin(annotation) or annotation
    try:
        converted = msgspec.convert(value, annotation, dec_hook=convert_custom)
    except msgspec.ValidationError as mismatch:
        if isinstance(kind, type) and isinstance(value, kind):
            return value
        try:
            builtins = msgspec.to_builtins(value, enc_hook=_encode_extension)
            return msgspec.convert(builtins, annotation, dec_hook=convert_custom)
        except Exception:
            raise mismatch from None
    return value if isinstance(kind, type) and isinstance(value, kind) else converted


def encode_stored(value: object) -> bytes:
    """Encode what a store keeps: no pickles. Raises ``TypeError`` or ``ValueError`` for what does not fit."""
    return _stored.encode(value)
