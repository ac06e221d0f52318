"""Dead processes are noticed at once: a connection that breaks is a hint, and what it says is looked into.

A silo whose process has died keeps its actors until its lease ends, which takes seconds. So whoever loses a connection
to it, or is refused one, tries again; and if nobody listens there for another silo either, ends its lease. If all were
wrong the suspect finds its record gone, stops and rejoins: rude, but safe. A silo that is frozen or cut off refuses
nothing, and keeps its lease to the end.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Mapping
from enum import Enum
from random import choice
from typing import Any, Final, Protocol

from cluster.member import Member

log = logging.getLogger("cluster.membership")

_SECOND_OPINION: Final = 1.0  # seconds for another silo to say what it finds


class Finding(Enum):
    """What came of an attempt to reach a silo."""

    ALIVE = "alive"
    """It answered."""
    DEAD = "dead"
    """Nothing listens where it did, or another incarnation."""
    UNKNOWN = "unknown"
    """No answer in time: it may be frozen, or cut off."""


class Witness(Protocol):
    """How the suspicious one looks for itself, asks others, and acts."""

    def members(self) -> Mapping[str, Member]:
        """The members, by silo id."""
        ...

    def silo(self) -> str:
        """The own id."""
        ...

    async def probe(self, suspect: Member) -> Finding:
        """Try to reach a silo on a new connection."""
        ...

    async def ask(self, other: str, suspect: str) -> Finding:
        """What another silo finds when it tries. Raises if that one cannot be asked."""
        ...

    async def revoke(self, suspect: Member) -> None:
        """End the lease of a silo, and with it its membership."""
        ...


class Suspicion:
    """Looks into each hint that a silo may have died, one at a time for each silo."""

    def __init__(self, witness: Witness, *, spawn: Callable[[Coroutine[Any, Any, None]], object]) -> None:
        self._witness = witness
        self._spawn = spawn
        self._under: set[str] = set()

    def suspect(self, silo: str) -> None:
        """A connection to the silo broke without a goodbye, or was refused."""
        if silo in self._witness.members() and silo not in self._under:
            self._under.add(silo)
            self._spawn(self._look_into(silo))

    async def _look_into(self, silo: str) -> None:
        try:
            suspect = self._witness.members().get(silo)
            if suspect is not None and await self._is_dead(suspect):
                log.warning("%s does not listen any more: its lease is ended", silo)
                await self._witness.revoke(suspect)
        except Exception as error:  # then its lease ends by itself
            log.info("whether %s is dead could not be found out: %s", silo, error)
        finally:
            self._under.discard(silo)

    async def _is_dead(self, suspect: Member) -> bool:
        if not suspect.lease or await self._witness.probe(suspect) is not Finding.DEAD:
            return False
        others = [silo for silo in self._witness.members() if silo not in (suspect.silo, self._witness.silo())]
        while others:
            other = choice(others)
            others.remove(other)
            try:
                async with asyncio.timeout(_SECOND_OPINION):
                    return await self._witness.ask(other, suspect.silo) is Finding.DEAD
            except Exception as error:  # it may have died in the same moment
                log.info("%s has no opinion on %s: %r", other, suspect.silo, error)
        return True
