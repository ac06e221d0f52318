"""Work without a caller: addresses that somebody has to see to because their silo was lost, or a reminder is due."""

import asyncio
import hashlib
import logging
from typing import TYPE_CHECKING

from actors.errors import ActorError
from actors.ports import Due

if TYPE_CHECKING:
    from actors.runtime import Runtime

log = logging.getLogger("actors")

_EVERY = 1.0
_PAGE = 200
_AT_ONCE = 16
_FIRST_DELAY, _LONGEST_DELAY = 0.5, 30.0


class Agenda:
    """Looks into the store every second, and when members change, and activates this silo's share of what is due."""

    def __init__(self, runtime: "Runtime") -> None:
        self._runtime = runtime
        self._later: dict[str, tuple[float, float]] = {}  # when to try again, and the pause before that
        self._again: dict[str, None] = {}
        self._wake = asyncio.Event()
        self._slots = asyncio.Semaphore(_AT_ONCE)
        self._ready = True

    def revisit(self, address: str) -> None:
        """Something durable waits there, and its activation could not be made or kept: try again soon."""
        self._again[address] = None
        self._put_off(address)

    async def run(self) -> None:
        """Look, until cancelled."""
        runtime = self._runtime
        while True:
            changed = asyncio.ensure_future(runtime.directory.changed())
            try:
                if runtime.may_act() and not runtime.draining:
                    await self._look()
                await asyncio.wait({changed}, timeout=_EVERY)
            except Exception as error:
                if self._ready:
                    log.warning("the store cannot say what is due: %s", error)
                self._ready = False
                await asyncio.sleep(_EVERY)
            else:
                self._ready = True
            finally:
                changed.cancel()

    async def _look(self) -> None:
        runtime = self._runtime
        after: Due | None = None
        hosts = runtime.directory.members()
        while True:
            page = await runtime.store.due(runtime.clock.time(), hosts=hosts, after=after, limit=_PAGE)
            addresses = [due.address for due in page if self._is_for_now(due.address)]
            if after is None:  # now that the store answers
                addresses += [address for address in self._again if self._may_try(address)]
            if addresses:
                await asyncio.wait([runtime.spawn(self._see_to(address)) for address in addresses])
            if len(page) < _PAGE:
                return
            after = page[-1]

    def _is_for_now(self, address: str) -> bool:
        return address not in self._runtime.activations and self._is_mine(address) and self._may_try(address)

    def _is_mine(self, address: str) -> bool:
        """Whether this silo is the one that sees to the address, as all of them reckon it; placement says where."""
        directory = self._runtime.directory
        able = directory.members(address.partition("-")[0])
        return bool(able) and max(able, key=lambda silo: _weight(silo, address)) == directory.silo

    def _may_try(self, address: str) -> bool:
        later = self._later.get(address)
        return later is None or later[0] <= self._runtime.loop.time()

    def _put_off(self, address: str) -> None:
        _, pause = self._later.get(address, (0.0, _FIRST_DELAY / 2))
        pause = min(pause * 2, _LONGEST_DELAY)
        self._later[address] = self._runtime.loop.time() + pause, pause

    async def _see_to(self, address: str) -> None:
        async with self._slots:
            reason = await self._activate(address)
        if reason is None:
            self._again.pop(address, None)
            self._later.pop(address, None)
        else:
            self._put_off(address)
            log.warning("%s has work to do and cannot be activated: %s", address, reason)

    async def _activate(self, address: str) -> str | None:
        """Make sure that the address is active somewhere; return why it cannot be."""
        try:
            await self._runtime.wake(address)
            activation = self._runtime.activations.get(address)
            failed = await activation.ready() if activation is not None else None
        except (ActorError, ConnectionError) as error:
            return str(error)
        except Exception as error:
            log.exception("%s could not be seen to", address)
            return repr(error)
        return failed.text if failed is not None else None


def _weight(silo: str, address: str) -> bytes:
    return hashlib.blake2b(f"{silo} {address}".encode(), digest_size=8).digest()
