"""What a silo tells about its load, and what it does where others have far less."""

import asyncio
import contextlib
import logging
from collections.abc import Iterator
from typing import Final

from actors.runtime import Runtime
from cluster.etcd import EtcdError
from cluster.membership import Membership
from cluster.rebalancing import Rebalancer

log = logging.getLogger("cluster.silo")

REPORT_EVERY: Final = 2.0
QUIET_FOR: Final = 1.0
"""Seconds without a message after which an activation may be moved to even out loads."""


class LoadReport:
    """Reports the number of activations in the member record, and gives some away where the rebalancer says so."""

    def __init__(self, runtime: Runtime, membership: Membership, rebalancer: Rebalancer | None) -> None:
        self._runtime = runtime
        self._membership = membership
        self._rebalancer = rebalancer

    async def run(self) -> None:
        """Do so every ``REPORT_EVERY`` seconds, until cancelled."""
        while True:
            await asyncio.sleep(REPORT_EVERY)
            load = len(self._runtime.activations)
            member = self._membership.member
            if member is not None and member.load != load:
                with contextlib.suppress(EtcdError):  # the next report will do
                    await self._membership.update(load=load)
            if self._rebalancer is not None and not self._runtime.draining and self._runtime.may_act():
                self._rebalance(self._rebalancer)

    def _rebalance(self, rebalancer: Rebalancer) -> None:
        activations = self._runtime.activations
        moves = rebalancer.plan(self._idle(), len(activations), self._membership.view.members)
        for address, silo in moves:
            activations[address].request_deactivation("migration", to=silo)
        if moves:
            log.info("%d idle actors move to silos that have fewer, of %d here", len(moves), len(activations))

    def _idle(self) -> Iterator[str]:
        quiet_since = self._runtime.loop.time() - QUIET_FOR
        for address, activation in self._runtime.activations.items():
            if activation.rests_since(quiet_since):
                yield address
