"""Which path speaks which chat protocol with which handler of which actor type."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal, Self, TypeAlias, cast, get_args

from actors.address import check_type

ChatProtocol: TypeAlias = Literal["ai-sdk", "ag-ui"]

PROTOCOLS: Final[tuple[str, ...]] = get_args(ChatProtocol)

_PATH = re.compile(r"(/[A-Za-z0-9._~-]+)+")
_TAKEN = ("v1", "healthz", "readyz", "metrics", "dashboard", "openapi.json", "parked")
_FORM = '"<protocol>:<path>=<actor type>.<handler>[/<channel>]", as in "ai-sdk:/api/chat=session.write"'


@dataclass(frozen=True)
class Chat:
    """A route for chat clients. The id of a chat is the key of its actor: chat "42" talks to ``<actor>-42``.

    ``path``: where the clients send to, as ``/api/chat``. ``actor``: the actor's type. ``handler``: its handler,
    which must be ``public=True`` and take one argument. ``channel``: where the handler publishes its answer.
    ``protocol``: "ai-sdk" (Vercel AI SDK) or "ag-ui" (AG-UI events, as TanStack AI speaks them).
    """

    path: str
    actor: str
    handler: str = "receive"
    protocol: ChatProtocol = "ai-sdk"
    channel: str = "output"

    def __post_init__(self) -> None:
        if not _PATH.fullmatch(self.path) or {".", ".."} & set(self.path.split("/")):
            raise ValueError(
                f"the path of a chat is like /api/chat: plain segments, no slash at the end: {self.path!r}"
            )
        if self.path.split("/")[1] in _TAKEN:
            raise ValueError(f"the chat's path {self.path} belongs to the gateway itself; choose another")
        if self.protocol not in PROTOCOLS:
            raise ValueError(f"the chat at {self.path}: protocol {self.protocol!r} is none of {', '.join(PROTOCOLS)}")
        check_type(self.actor)
        if not self.handler.isidentifier():
            raise ValueError(f"the chat at {self.path}: {self.handler!r} is not the name of a handler")
        if not self.channel or "/" in self.channel or self.channel.startswith("$"):
            raise ValueError(f"the chat at {self.path}: {self.channel!r} is not the name of a channel of an actor")

    @classmethod
    def parse(cls, text: str) -> Self:
        """A chat from one line of configuration. Raises ``ValueError`` that says what it must look like."""
        protocol, colon, rest = text.strip().partition(":")
        path, equals, target = rest.partition("=")
        actor, dot, rest = target.partition(".")
        handler, _, channel = rest.partition("/")
        if not (colon and equals and dot):
            raise ValueError(f"the chat {text!r} must be {_FORM}")
        return cls(path, actor, handler, cast(ChatProtocol, protocol), channel or "output")

    def __str__(self) -> str:
        return f"{self.protocol}:{self.path}={self.actor}.{self.handler}/{self.channel}"


def parse_chats(texts: str | Iterable[str]) -> tuple[Chat, ...]:
    """Chats from lines of configuration, or from text that separates them by space or comma. Raises ``ValueError``."""
    found = [
        Chat.parse(text) for text in (re.split(r"[\s,]+", texts.strip()) if isinstance(texts, str) else texts) if text
    ]
    check_paths(found)
    return tuple(found)


def check_paths(chats: Iterable[Chat]) -> None:
    """Raise ``ValueError`` if one chat's path is another's, or lies below it."""
    known: list[str] = []
    for chat in chats:
        for other in known:
            if f"{chat.path}/".startswith(f"{other}/") or f"{other}/".startswith(f"{chat.path}/"):
                raise ValueError(f"two chats cannot be at {other} and {chat.path}: give each a path of its own")
        known.append(chat.path)
