"""The ``@handler`` decorator, and what the engine knows of each handler."""

import dis
import inspect
import typing
from collections.abc import AsyncIterator, Callable, Coroutine
from enum import Enum
from functools import partial
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar, overload

import msgspec

from actors import codec
from actors.envelope import Request
from actors.errors import SerializationFailed
from actors.fit import Fit
from actors.ref import Receipt

A = TypeVar("A", contravariant=True)
P = ParamSpec("P")
R = TypeVar("R", covariant=True)
T = TypeVar("T", covariant=True)


class Lane(Enum):
    """How a handler's calls are scheduled beside the others of the same activation."""

    TURN = "turn"  # exclusive, in order
    READ = "readonly"  # beside a running turn
    CONTROL = "control"  # never queued behind a turn


class Handle(Protocol[P, R]):
    """``ref.name`` of a plain handler."""

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, R]: ...
    def send(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, Receipt]: ...


class StreamHandle(Protocol[P, T]):
    """``ref.name`` of an async-generator handler."""

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> AsyncIterator[T]: ...
    def send(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, Receipt]: ...
    def stream(self, *args: P.args, **kwargs: P.kwargs) -> AsyncIterator[T]: ...


class Handler:
    """A method marked as callable by message.

    Inside the actor ``self.name(...)`` is the plain method; ``self.name.send(...)`` sends to the own address.
    """

    def __init__(self, function: Callable[..., Any], *, lane: Lane, public: bool) -> None:
        self.function = function
        self.lane = lane
        self.public = public
        self.name = function.__name__
        self.__doc__ = function.__doc__
        self.__wrapped__ = function

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        return self if instance is None else BoundHandler(self, instance)


def function_of(method: "Callable[..., Any] | Handler") -> Callable[..., Any]:
    """The function that the decorator was put on, or the method itself."""
    return method.function if isinstance(method, Handler) else method


class BoundHandler:
    """A handler seen from inside its own actor."""

    __slots__ = ("_handler", "_instance")

    def __init__(self, handler: Handler, instance: Any) -> None:
        self._handler = handler
        self._instance = instance

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        return self._handler.function(self._instance, *args, **kwargs)

    def send(self, /, *args: Any, **kwargs: Any) -> Coroutine[Any, Any, Receipt]:
        """Send to the own address: it runs as a turn of its own, after this one."""
        return getattr(self._instance.own_ref, self._handler.name).send(*args, **kwargs)  # type: ignore[no-any-return]

    def stream(self, /, *args: Any, **kwargs: Any) -> Any:
        return self(*args, **kwargs)


class TypedHandler(Protocol[P, R]):
    """The type of a decorated method: a descriptor, so that ``Session.ref("42").name`` is checked."""

    def __get__(self, instance: Any, owner: Any = None) -> Handle[P, R]: ...


class TypedStreamHandler(Protocol[P, T]):
    """The type of a decorated async generator."""

    def __get__(self, instance: Any, owner: Any = None) -> StreamHandle[P, T]: ...


class HandlerDecorator(Protocol):
    """What ``@handler(...)`` with arguments returns."""

    @overload
    def __call__(self, function: Callable[Concatenate[Any, P], AsyncIterator[T]], /) -> TypedStreamHandler[P, T]: ...
    @overload
    def __call__(self, function: Callable[Concatenate[Any, P], Coroutine[Any, Any, R]], /) -> TypedHandler[P, R]: ...


@overload
def handler(function: Callable[Concatenate[Any, P], AsyncIterator[T]], /) -> TypedStreamHandler[P, T]: ...
@overload
def handler(function: Callable[Concatenate[Any, P], Coroutine[Any, Any, R]], /) -> TypedHandler[P, R]: ...
@overload
def handler(*, readonly: bool = False, control: bool = False, public: bool = False) -> HandlerDecorator: ...
def handler(
    function: Callable[..., Any] | None = None,
    /,
    *,
    readonly: bool = False,
    control: bool = False,
    public: bool = False,
) -> Any:
    """Mark an ``async def`` method, or an async generator, as callable by message.

    ``readonly``: runs beside a running turn, and sees the state of the last commit; a call that changes it, or sends,
    publishes or reminds, fails with ``RuntimeError``. ``control``: never queued behind a turn, so that it can talk to
    one that runs. ``public``: may also be called through the HTTP gateway.
    """
    if readonly and control:
        raise TypeError("a handler is readonly or control, not both")
    lane = Lane.READ if readonly else Lane.CONTROL if control else Lane.TURN

    def decorate(function: Callable[..., Any]) -> Handler:
        if not (inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function)):
            raise TypeError(f"@handler {function.__qualname__} must be `async def`")
        return Handler(function, lane=lane, public=public)

    return decorate if function is None else decorate(function)


_SUSPENDING = {"GET_AWAITABLE", "GET_AITER", "BEFORE_ASYNC_WITH"}


class HandlerSpec:
    """What the engine and typed callers know of one handler: its lane, its parameters, how its values decode."""

    __slots__ = (
        "_arguments",
        "_by_arity",
        "_fits",
        "_result",
        "_signature",
        "builtin",
        "fits_result",
        "function",
        "lane",
        "name",
        "parameters",
        "public",
        "required",
        "result_typed",
        "streams",
        "suspends",
        "where",
    )  # fmt: skip

    def __init__(self, owner: type, name: str, function: Callable[..., Any], *, lane: Lane, public: bool) -> None:
        self.name = name
        self.builtin = name.startswith("$")
        self.where = f"{owner.__name__}.{name or 'receive'}"
        self.function = function
        self.lane = lane
        self.public = public
        self.streams = inspect.isasyncgenfunction(function)
        # A coroutine without a point at which it can suspend needs no task: it is run to its end in one go.
        self.suspends = _may_suspend(function)
        self._signature = inspect.signature(function)
        self.parameters = list(self._signature.parameters.values())[1:]
        hints = _hints(owner, function)
        self._arguments = {p.name: _usable(hints.get(p.name, Any)) for p in self.parameters}
        self._fits = {name: Fit(annotation) for name, annotation in self._arguments.items()}
        simple = all(p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) for p in self.parameters)
        self.required = sum(p.default is p.empty for p in self.parameters) if simple else -1
        self._by_arity: dict[tuple[int, bool], msgspec.msgpack.Decoder[Any]] = {}
        result = hints.get("return", Any)
        if self.streams and result is not Any:
            result = (typing.get_args(result) or (Any,))[0]
        result = _usable(result)
        self.result_typed = result is not Any
        self.fits_result = Fit(result)
        self._result = {trusted: codec.decoder(result, trusted=trusted) for trusted in (False, True)}

    def fits(self, parameter: int | str, value: object) -> bool:
        """Whether the parameter at an index or of a name is annotated so that plain MessagePack says enough."""
        if isinstance(parameter, int):
            if parameter >= len(self.parameters):
                return False
            parameter = self.parameters[parameter].name
        fit = self._fits.get(parameter)
        return fit is not None and fit(value)

    def decode_arguments_of(self, request: Request) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Decode and check the arguments of a request. Raises ``SerializationFailed`` that names the argument."""
        if request.outside:
            return self._decode_one_by_one(request.payload, self._decode_outside)
        return self.decode_arguments(request.payload, trusted=request.trusted)

    def _decode_outside(self, name: str, raw: msgspec.Raw) -> Any:
        try:
            return codec.convert_outside(codec.decode(raw, trusted=False), self._arguments[name])
        except Exception as error:
            raise SerializationFailed(f"{self.where}: argument {name!r}: {error}") from error

    def decode_arguments(self, payload: bytes, *, trusted: bool) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Decode and check the arguments of a call. Raises ``SerializationFailed`` that names the argument."""
        count = codec.arity(payload)
        if self.required != -1 and self.required <= count <= len(self.parameters):
            found = self._by_arity.get((count, trusted))
            if found is None:
                annotations = tuple(self._arguments[p.name] for p in self.parameters[:count])
                found = codec.decoder(tuple[annotations] if count else tuple[()], trusted=trusted)  # type: ignore[valid-type]
                self._by_arity[count, trusted] = found
            try:
                return found.decode(payload), {}
            except Exception:  # noqa: S110  # the slow way finds which argument it was, or that a pickle fits after all
                pass
        return self._decode_one_by_one(payload, partial(self._decode_argument, trusted=trusted))

    def _decode_one_by_one(
        self, payload: bytes, decode: Callable[[str, msgspec.Raw], Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        try:
            raw_args, raw_kwargs = codec.split_arguments(payload)
        except msgspec.DecodeError as error:
            raise SerializationFailed(f"{self.where}: the arguments are not MessagePack: {error}") from error
        try:
            bound = self._signature.bind(None, *raw_args, **raw_kwargs)
        except TypeError as error:
            raise SerializationFailed(f"{self.where}{self._signature}: {error}") from None
        for name, value in list(bound.arguments.items())[1:]:
            kind = self._signature.parameters[name].kind
            if kind is inspect.Parameter.VAR_POSITIONAL:
                bound.arguments[name] = tuple(decode(name, raw) for raw in value)
            elif kind is inspect.Parameter.VAR_KEYWORD:
                bound.arguments[name] = {k: decode(name, raw) for k, raw in value.items()}
            else:
                bound.arguments[name] = decode(name, value)
        return bound.args[1:], bound.kwargs

    def _decode_argument(self, name: str, raw: msgspec.Raw, *, trusted: bool) -> Any:
        annotation = self._arguments[name]
        try:
            if annotation is Any:
                return codec.decode(raw, trusted=trusted)
            if codec.is_extension(raw):
                return codec.convert(codec.decode(raw, trusted=trusted), annotation)
            return codec.decoder(annotation, trusted=trusted).decode(raw)
        except Exception as error:
            raise SerializationFailed(f"{self.where}: argument {name!r}: {error}") from error

    def decode_result(self, payload: bytes, *, trusted: bool) -> Any:
        """Decode a result that was encoded for a typed caller. An annotation that was not kept is no error."""
        try:
            return self._result[trusted].decode(payload)
        except msgspec.ValidationError:
            return codec.decode(payload, trusted=trusted)


def _may_suspend(function: Callable[..., Any]) -> bool:
    try:
        return any(step.opname in _SUSPENDING for step in dis.get_instructions(function))
    except TypeError:  # compiled code has no instructions to look at
        return True


def _hints(owner: type, function: Callable[..., Any]) -> dict[str, Any]:
    try:
        return typing.get_type_hints(function, localns={owner.__name__: owner}, include_extras=True)
    except Exception:  # names that exist for type checkers only: such annotations are taken one by one
        annotations = getattr(function, "__annotations__", {})
        return {name: annotation for name, annotation in annotations.items() if not isinstance(annotation, str)}


def _usable(annotation: Any) -> Any:
    """The annotation if msgspec can decode to it, else Any."""
    if annotation is None:
        return type(None)
    if annotation in (inspect.Parameter.empty, object) or isinstance(annotation, TypeVar):
        return Any
    try:
        codec.decoder(annotation, trusted=False)
    except Exception:  # msgspec refuses what is ambiguous or not a type at all
        return Any
    return annotation
