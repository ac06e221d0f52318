"""A grant: which verbs a request may use on which resources."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Final, Literal, NoReturn, TypeAlias, get_args

from starlette.requests import HTTPConnection

from cluster.gateway.problems import Problem
from cluster.gateway.streams.index import matches

Verb: TypeAlias = Literal["send", "ask", "read", "interrupt", "admin"]

VERBS: Final[tuple[Verb, ...]] = get_args(Verb)


@dataclass(frozen=True, kw_only=True)
class Grant:
    """What the sender of a request may do.

    ``patterns`` are globs over resources: the address of an actor, or the name of a free-standing stream. ``*`` is any
    run of characters without "/", ``**`` any number of segments. ``expires``: seconds since 1970, None for never.
    """

    subject: str = ""
    patterns: tuple[str, ...] = ()
    verbs: frozenset[Verb] = frozenset()
    expires: float | None = None

    def allows(self, verb: Verb, *names: str) -> bool:
        """Whether the verb may be used on a resource. It may have several ``names``; one that is allowed is enough."""
        if verb not in self.verbs:
            return False
        return "**" in self.patterns or any(_matches(pattern, name) for pattern in self.patterns for name in names)

    def check(self, verb: Verb, *names: str) -> None:
        """Raise ``Problem`` 403 unless ``allows``. It says nothing about whether the resource exists."""
        if not self.allows(verb, *names):
            _refuse(verb)

    def check_pattern(self, verb: Verb, pattern: str) -> None:
        """Raise ``Problem`` 403 unless the verb may be used on whatever the glob matches, now and ever."""
        if verb not in self.verbs or not any(_covers(own, pattern) for own in self.patterns):
            _refuse(verb)

    def check_everything(self, verb: Verb) -> None:
        """Raise ``Problem`` 403 unless the verb may be used on every resource."""
        self.check_pattern(verb, "**")


def _refuse(verb: Verb) -> NoReturn:
    raise Problem(403, "NotAuthorized", f"these credentials do not allow {verb!r} here")


def _covers(own: str, pattern: str) -> bool:
    """Whether everything that ``pattern`` matches is matched by ``own``; False also if that is not easily seen.

    A ``*`` in the one stands for a run without "/", and so does a ``*`` in the other that takes it as a character.
    """
    return own in ("**", pattern) or ("**" not in pattern.split("/") and _matches(own, pattern))


_matches = lru_cache(maxsize=1024)(matches)

ALL: Final = Grant(patterns=("**",), verbs=frozenset(VERBS))
"""The grant of everybody where the gateway asks nobody who they are."""


def grant_of(connection: HTTPConnection) -> Grant:
    """The grant of a request or WebSocket, as the gateway's authentication has found it."""
    found = connection.scope.get("state", {}).get("grant", ALL)
    assert isinstance(found, Grant)
    return found
