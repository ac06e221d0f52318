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
from random import sample
from typing import Any, Final, Protocol

from cluster.member import Member

log = logging.getLogger("cluster.membership")

_SECOND_OPINION: Final = 1.0  # seconds for other silos to say what they find
_ASKED: Final = 3  # at a time: one that is frozen must not be what everybody waits for
_PAUSES: Final = (0.05, 0.1, 0.2, 0.4)  # seconds between looks: a process that is dying may not refuse anybody yet


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
            for pause in (*_PAUSES, None):
                if not await self._is_unclear(silo) or pause is None:
                    return  # what stays unclear is left to the lease, which ends by itself
                await asyncio.sleep(pause)
        finally:
            self._under.discard(silo)

    async def _is_unclear(self, silo: str) -> bool:
        """Look once, and act on what is found. Whether it is worth another look."""
        suspect = self._witness.members().get(silo)
        if suspect is None or not suspect.lease:
            return False
        try:
            finding = await self._find_out(suspect)
            if finding is Finding.DEAD:
                await self._witness.revoke(suspect)
                log.warning("%s does not listen any more: its lease is ended", silo)
        except Exception as error:
            log.info("whether %s is dead could not be found out: %s", silo, error)
            return True
        return finding is Finding.UNKNOWN

    async def _find_out(self, suspect: Member) -> Finding:
        """Dead only if another silo finds the same, unless there is none that can be asked."""
        finding = await self._witness.probe(suspect)
        if finding is not Finding.DEAD:
            return finding
        others = [silo for silo in self._witness.members() if silo not in (suspect.silo, self._witness.silo())]
        others = sample(others, len(others))
        for first in range(0, len(others), _ASKED):
            opinion = await self._ask(others[first : first + _ASKED], suspect.silo)
            if opinion is not None:
                return opinion
        return finding

    async def _ask(self, others: list[str], suspect: str) -> Finding | None:
        """What the first of them says that answers; None if none does."""
        asking = [asyncio.ensure_future(self._witness.ask(other, suspect)) for other in others]
        try:
            for answer in asyncio.as_completed(asking, timeout=_SECOND_OPINION):
                try:
                    return await answer
                except Exception as error:  # it may have died in the same moment
                    log.info("no opinion on %s: %r", suspect, error)
        finally:
            for ask in asking:
                ask.cancel()
            await asyncio.gather(*asking, return_exceptions=True)
        return None
