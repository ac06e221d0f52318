"""What the engine reads off an actor class."""

import inspect
import sys
from typing import Any

from actors import builtin
from actors.actor import Actor
from actors.handler import Handler, HandlerSpec, Lane, function_of
from actors.state import StateCodec


class ActorType:
    """What a runtime knows of an actor class: its handlers by name ("" is receive), its state, its options."""

    __slots__ = ("actor", "handlers", "has_on_activate", "name", "options", "state")

    def __init__(self, actor: type[Actor]) -> None:
        self.actor = actor
        self.name = actor._type
        self.options = actor._options
        self.has_on_activate = actor.on_activate is not Actor.on_activate
        self.handlers = {
            name: HandlerSpec(actor, name, handler.function, lane=handler.lane, public=handler.public)
            for name, handler in actor._handlers.items()
        }
        receive: Any = actor.receive
        public = self.options.public or (isinstance(receive, Handler) and receive.public)
        for name, (lane, function) in builtin.HANDLERS.items():
            self.handlers[name] = HandlerSpec(actor, name, function, lane=lane, public=name in builtin.PUBLIC)
        self.handlers[""] = HandlerSpec(actor, "", function_of(receive), lane=Lane.TURN, public=public)
        annotation = _state_annotation(actor)
        self.state = None if annotation is None else StateCodec(actor.__name__, annotation)

    @staticmethod
    def of(actor: "type[Actor]") -> "ActorType":
        """The one ActorType of a class, made at first need."""
        found = vars(actor).get("_actor_type")
        if found is None:
            found = actor._actor_type = ActorType(actor)  # type: ignore[attr-defined]
        return found

    @property
    def stored(self) -> bool:
        """Whether activations have anything to do with the store."""
        return self.options.persist == "turn" or (self.state is not None and self.options.persist == "deactivation")


def _state_annotation(actor: type[Actor]) -> Any:
    for owner in actor.__mro__:
        if owner is Actor:
            return None
        annotation = inspect.get_annotations(owner).get("state")
        if isinstance(annotation, str):
            names = vars(sys.modules[owner.__module__]) if owner.__module__ in sys.modules else {}
            try:
                return eval(annotation, names, dict(vars(owner)))  # noqa: S307  # the user's own source
            except NameError as error:
                raise TypeError(f"{owner.__name__}.state: the annotation cannot be resolved: {error}") from error
        if annotation is not None:
            return annotation
    return None
