"""An actor's state: from an annotation to stored bytes and back."""

import dataclasses
import typing
from collections.abc import Iterator
from typing import Any

import msgspec

from actors import codec
from actors.errors import SerializationFailed, StateUnreadable

FORMAT = b"\x01"  # first byte of everything stored: what follows is one MessagePack value


class StateCodec:
    """Makes, stores and loads the state of one actor class."""

    __slots__ = ("_decoder", "_owner", "annotation", "fresh")

    def __init__(self, owner: str, annotation: Any) -> None:
        self.annotation = annotation
        self._owner = owner
        kind = typing.get_origin(annotation) or annotation
        known = dataclasses.is_dataclass(kind) or codec.is_pydantic(kind) or kind in (dict, list)
        if not known and not (isinstance(kind, type) and issubclass(kind, msgspec.Struct)):
            raise TypeError(
                f"{owner}.state: {annotation!r} must be a dataclass, msgspec.Struct or pydantic model (or dict, list)"
            )
        try:
            self._decoder = codec.decoder(annotation, trusted=False)
        except TypeError as error:
            raise TypeError(f"{owner}.state: {annotation!r} cannot be stored: {error}") from error
        try:
            self.fresh = self.encode(self.new(), owner)
        except SerializationFailed as error:
            raise TypeError(str(error)) from error

    def new(self) -> Any:
        """The state of an actor that was never stored."""
        try:
            return (typing.get_origin(self.annotation) or self.annotation)()
        except Exception as error:
            raise TypeError(f"{self._owner}.state: every field needs a default: {error}") from error

    def encode_checked(self, state: object, where: str, *, unless: bytes) -> bytes | None:
        """The bytes to store, known to load again; None if they equal ``unless``. Raises like ``encode``."""
        encoded = self.encode(state, where)
        if encoded == unless:
            return None
        try:
            self._decoder.decode(memoryview(encoded)[1:])
        except Exception as error:
            raise SerializationFailed(
                f"{where}: the state cannot be stored, because it would not load again: {error}"
            ) from error
        return encoded

    def encode(self, state: object, where: str) -> bytes:
        """The bytes of the state. Raises ``SerializationFailed`` that names the field."""
        try:
            return FORMAT + codec.encode_stored(state)
        except Exception as error:  # a field's own type can raise anything
            field = self._culprit(state)
            raise SerializationFailed(f"{where}: state{field} cannot be stored: {error}") from error

    def decode(self, stored: bytes, address: str) -> Any:
        """The state that was stored. Raises ``StateUnreadable`` that names address and field."""
        if stored[:1] != FORMAT:
            raise StateUnreadable(
                f"{address}: the stored state has format {stored[:1].hex() or 'none'}, this release reads "
                f"{FORMAT.hex()}; the {len(stored)} stored bytes were left untouched"
            )
        try:
            return self._decoder.decode(stored[1:])
        except Exception as error:  # msgspec's, or a model's own validation
            name = getattr(self.annotation, "__qualname__", self.annotation)
            raise StateUnreadable(
                f"{address}: the stored state does not fit {name}: {error}; the {len(stored)} stored bytes were left "
                "untouched. Make the class read the old data (a new field needs a default), or delete the actor"
            ) from error

    def unknown_fields(self, stored: bytes, address: str) -> list[str]:
        """The names of stored fields and items that would be gone if the state were stored again by this class.

        Raises ``StateUnreadable``.
        """
        again = self.encode(self.decode(stored, address), address)
        before, after = msgspec.msgpack.decode(stored[1:]), msgspec.msgpack.decode(again[1:])
        return [f"the field {path}" for path in _missing(before, after, "state")]

    @staticmethod
    def _culprit(state: object) -> str:
        kind = type(state)
        markers = ("__dataclass_fields__", "__struct_fields__", "model_fields")
        names: list[str] = [name for marker in markers for name in getattr(kind, marker, ())]
        for name in names:
            try:
                codec.encode_stored(getattr(state, name))
            except Exception:
                return f".{name}"
        return ""


def _missing(before: object, after: object, path: str) -> Iterator[str]:
    """Where something is in the one value and not in the other."""
    if isinstance(before, dict) and isinstance(after, dict):
        for name, value in before.items():
            if name in after:
                yield from _missing(value, after[name], f"{path}.{name}")
            else:
                yield f"{path}.{name}"
    elif isinstance(before, list) and isinstance(after, list):
        for number, value in enumerate(before):
            if number < len(after):
                yield from _missing(value, after[number], f"{path}[{number}]")
            else:
                yield f"{path}[{number}]"
