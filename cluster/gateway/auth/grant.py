"""A grant: which verbs a request may use on which resources."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Final, Literal, TypeAlias, get_args

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

    def allows(self, verb: Verb, resource: str) -> bool:
        """Whether the verb may be used on the resource."""
        return verb in self.verbs and any(_matches(pattern, resource) for pattern in self.patterns)

    def check(self, verb: Verb, resource: str) -> None:
        """Raise ``Problem`` 403 unless ``allows``. It says nothing about whether the resource exists."""
        if not self.allows(verb, resource):
            raise Problem(403, "NotAuthorized", f"these credentials do not allow {verb!r} here")


_matches = lru_cache(maxsize=4096)(matches)

ALL: Final = Grant(patterns=("**",), verbs=frozenset(VERBS))
"""The grant of everybody where the gateway asks nobody who they are."""


def grant_of(connection: HTTPConnection) -> Grant:
    """The grant of a request or WebSocket, as the gateway's authentication has found it."""
    found = connection.scope.get("state", {}).get("grant", ALL)
    assert isinstance(found, Grant)
    return found
