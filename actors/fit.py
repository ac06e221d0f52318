"""Which values survive MessagePack under an annotation: come back equal and of the same type."""

import datetime as dt
import decimal
import uuid
from typing import Any

import msgspec

from actors import codec
from actors.ref import ActorRef

_info = msgspec.inspect
_SIMPLE: dict[type, type] = {
    _info.NoneType: type(None),
    _info.BoolType: bool,
    _info.IntType: int,
    _info.FloatType: float,
    _info.StrType: str,
    _info.BytesType: bytes,
    _info.ByteArrayType: bytearray,
    _info.DateTimeType: dt.datetime,
    _info.TimeType: dt.time,
    _info.DateType: dt.date,
    _info.TimeDeltaType: dt.timedelta,
    _info.UUIDType: uuid.UUID,
    _info.DecimalType: decimal.Decimal,
}
_ITEMS: dict[type, type] = {
    _info.ListType: list,
    _info.SetType: set,
    _info.FrozenSetType: frozenset,
    _info.VarTupleType: tuple,
}


class Fit:
    """Tells for one annotation whether a value needs no more than plain MessagePack.

    It does not if the annotation is open somewhere (Any, a class that msgspec does not know), or if an instance of a
    subclass could hide in it: that would arrive as the annotated class, without what the subclass added.
    """

    __slots__ = ("_models", "_types")

    def __init__(self, annotation: Any) -> None:
        self._models: set[type] = set()
        try:
            closed, self._types = self._look_at(_info.type_info(annotation))
        except (TypeError, NameError):
            closed, self._types = False, frozenset[type]()
        if not closed:
            self._types = frozenset()

    def __call__(self, value: object) -> bool:
        return type(value) in self._types and not any(model.__subclasses__() for model in self._models)

    def _look_at(self, node: _info.Type) -> tuple[bool, frozenset[type]]:
        """Whether the type is closed, and which runtime types its values have."""
        kind = type(node)
        if isinstance(node, _info.UnionType):
            return self._all(node.types)
        if isinstance(node, _info.Metadata):
            return self._look_at(node.type)
        if kind in _SIMPLE:
            return True, frozenset({_SIMPLE[kind]})
        if isinstance(node, _info.ListType | _info.SetType | _info.FrozenSetType | _info.VarTupleType):
            return self._look_at(node.item_type)[0], frozenset({_ITEMS[kind]})
        if isinstance(node, _info.TupleType):
            return self._all(node.item_types)[0], frozenset({tuple})
        if isinstance(node, _info.DictType):
            return self._all((node.key_type, node.value_type))[0], frozenset({dict})
        if isinstance(node, _info.LiteralType):
            return True, frozenset(map(type, node.values))
        if isinstance(node, _info.EnumType):
            return True, frozenset({node.cls})
        if isinstance(node, _info.CustomType):
            return self._look_at_custom(node.cls)
        return self._look_at_model(node)

    def _look_at_model(self, node: _info.Type) -> tuple[bool, frozenset[type]]:
        if isinstance(node, _info.TypedDictType):
            return self._all(tuple(field.type for field in node.fields))[0], frozenset({dict})
        if not isinstance(node, _info.StructType | _info.DataclassType | _info.NamedTupleType):
            return False, frozenset()
        closed = node.cls in self._models
        if not closed:
            self._models.add(node.cls)
            closed = self._all(tuple(field.type for field in node.fields))[0]
        return closed, frozenset({node.cls})

    def _look_at_custom(self, kind: type) -> tuple[bool, frozenset[type]]:
        if issubclass(kind, ActorRef) or hasattr(kind, "handler_names"):
            return True, frozenset({ActorRef})
        if codec.is_pydantic(kind):
            self._models.add(kind)
            return True, frozenset({kind})
        return False, frozenset()

    def _all(self, nodes: tuple[_info.Type, ...]) -> tuple[bool, frozenset[type]]:
        looks = [self._look_at(node) for node in nodes]
        types: frozenset[type] = frozenset().union(*(types for _, types in looks))
        return all(closed for closed, _ in looks), types
