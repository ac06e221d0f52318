"""What a handler gets of the messages that a chat client sends: as much as it asks for."""

import typing
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal, TypeAlias

from actors.actor_type import ActorType
from actors.handler import Lane
from cluster.gateway.chat.chat import Chat

Share: TypeAlias = Literal["text", "message", "messages"]

_TEXTS: Final = (str, object, Any)


def share_of(chat: Chat, types: Mapping[str, ActorType]) -> Share:
    """What the chat's handler gets, by the annotation of its one parameter.

    ``str``, or none: the text of the last user message. A list or other sequence: all messages, as the client sends
    them. Anything else, as a dict or dataclass: the last user message. Raises ``ValueError`` for a handler that is not
    there, is not public, or takes another number of arguments.
    """
    where = f"the chat at {chat.path}: {chat.actor}.{chat.handler}"
    found = types.get(chat.actor)
    if found is None:
        raise ValueError(
            f"{where}: this silo hosts no actor type {chat.actor!r} (it hosts: {', '.join(sorted(types))})"
        )
    spec = found.handlers.get("" if chat.handler == "receive" else chat.handler)
    if spec is None:
        known = ", ".join(sorted(name for name in found.handlers if name and not name.startswith("$"))) or "none"
        raise ValueError(f"{where}: there is no such handler (handlers: {known})")
    if not spec.public:
        raise ValueError(f"{where} may not be called from outside: mark it @handler(public=True)")
    if spec.lane is not Lane.TURN:
        raise ValueError(f"{where} is readonly or control: what it does is no turn that could be followed")
    if spec.streams:
        raise ValueError(f"{where} is a generator, whose items are lost when a client goes: publish them to a channel")
    if found.options.persist != "turn":
        raise ValueError(f'{where}: a chat needs an actor with persist="turn", not {found.options.persist!r}')
    if not spec.parameters or spec.required > 1:
        raise ValueError(f"{where} must take one argument: the text, the message or the messages of the client")
    return _share(_annotation(spec.function, spec.parameters[0].name))


def _annotation(function: typing.Callable[..., object], name: str) -> object:
    try:
        return typing.get_type_hints(function).get(name, str)
    except Exception:  # names that only type checkers know
        return str


def _share(annotation: object) -> Share:
    if annotation in _TEXTS:
        return "text"
    origin = typing.get_origin(annotation) or annotation
    if isinstance(origin, type) and issubclass(origin, Sequence):
        return "messages"
    return "message"


class Messages:
    """The messages of a chat as its client sent them; the last is what the user wants answered."""

    def __init__(self, messages: list[dict[str, Any]]) -> None:
        if not messages or messages[-1].get("role") != "user":
            raise ValueError(
                "the last of the messages must be the user's: what an actor is asked is a message of a user, not an "
                "answer to be continued"
            )
        self._all = messages
        self.last = messages[-1]

    def share(self, share: Share) -> object:
        """What the handler gets."""
        return self._all if share == "messages" else self.last if share == "message" else text_of(self.last)


def text_of(message: Mapping[str, object]) -> str:
    """The text of a message: its ``content``, or its text parts joined."""
    content = message.get("content")
    if isinstance(content, str):
        return content
    parts = message.get("parts", content)
    if not isinstance(parts, list):
        return ""
    texts = (part for part in parts if isinstance(part, dict) and part.get("type") == "text")
    return "".join(text for part in texts if isinstance(text := part.get("text", part.get("content")), str))
