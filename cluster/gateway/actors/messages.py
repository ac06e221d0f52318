"""Messages from outside to actors. What may be called is decided where the actor's type is hosted."""

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from actors.errors import NotAuthorized, UnknownHandler
from actors.ref import ActorRef, Options
from actors.runtime import Runtime
from cluster.gateway.problems import bad_request


@dataclass(frozen=True, kw_only=True)
class Message:
    """One message. ``handler`` "" is receive, which takes exactly one argument. ``timeout`` in seconds.

    Raises ``NotAuthorized`` for a handler that actors have of themselves.
    """

    address: str
    handler: str = ""
    args: tuple[object, ...] = ()
    kwargs: Mapping[str, object] = field(default_factory=dict)
    timeout: float | None = None
    idempotency_key: str = ""

    def __post_init__(self) -> None:
        if self.handler.startswith("$"):  # also those that other parts of the gateway call: they check what they send
            raise NotAuthorized(f"{self.address}: {self.handler!r} cannot be called from outside of the cluster")

    async def send(self, runtime: Runtime) -> str:
        """Return its id once it is accepted. Raises an ``ActorError``."""
        return (await runtime.outbound.send(self._ref, self.handler, self.args, dict(self.kwargs))).message_id

    async def ask(self, runtime: Runtime) -> object:
        """Its reply, of what JSON has; or, if the handler is an async generator, the iterator of its items.

        Raises an ``ActorError``. Cancelling ends the wait only.
        """
        actor_type = runtime.types.get(self.address.partition("-")[0])
        spec = actor_type.handlers.get(self.handler) if actor_type is not None else None
        if spec is not None and spec.streams:
            return self._stream(runtime)
        try:
            return await runtime.outbound.ask(self._ref, self.handler, self.args, dict(self.kwargs))
        except UnknownHandler:  # a handler that is not there is NotAuthorized: this one is a generator elsewhere
            return self._stream(runtime)

    def _stream(self, runtime: Runtime) -> AsyncIterator[Any]:
        if self.idempotency_key:
            raise bad_request("a stream cannot have an idempotency key: its items belong to one call")
        return runtime.outbound.stream(self._ref, self.handler, self.args, dict(self.kwargs))

    @property
    def _ref(self) -> ActorRef:
        options = Options(timeout=self.timeout, idempotency_key=self.idempotency_key, outside=True)
        return ActorRef(self.address, options=options)


def arguments_of(value: object, handler: str) -> tuple[tuple[object, ...], Mapping[str, object]]:
    """The arguments in a JSON value: of receive it is the message; of a handler ``{"args": [...], "kwargs": {...}}``.

    Either of the two may be missing, and null is neither. What is not of that form is the handler's only argument.
    """
    if handler and value is None:
        return (), {}
    if not handler or not isinstance(value, dict) or value.keys() - {"args", "kwargs"}:
        return (value,), {}
    args, kwargs = value.get("args", []), value.get("kwargs", {})
    if not isinstance(args, list) or not isinstance(kwargs, dict):
        raise bad_request('the arguments of a handler are {"args": [...], "kwargs": {...}}')
    return tuple(args), kwargs
