"""A link from each silo to the next, so that somebody notices at once that one has died, though nobody calls it.

Silos that have no business with each other have no link. What a dead one had under way without a caller (turns, steps,
reminders) would wait for the end of its lease.
"""

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Final

from actors.errors import NotAuthorized
from actors.ports import Transport
from cluster.member import Member
from cluster.membership import Membership

_EVERY: Final = 1.0  # seconds between looks at the link, which ends without news of the members


def next_silo(silo: str, members: Mapping[str, Member]) -> str | None:
    """Who comes after a silo in the ring of all members; None if it is the only one, or none of them."""
    ring = sorted(members)
    if silo not in members or len(ring) < 2:
        return None
    return ring[(ring.index(silo) + 1) % len(ring)]


async def watch_neighbour(membership: Membership, transport: Callable[[], Transport | None]) -> None:
    """Keep a link to the next silo, until cancelled. Whoever refuses it, or breaks it, is suspected."""
    while True:
        changed = asyncio.ensure_future(membership.changed())
        try:
            neighbour, through = next_silo(membership.silo, membership.view.members), transport()
            if neighbour is not None and through is not None:
                with suppress(ConnectionError, NotAuthorized):
                    await through.connect(neighbour)
            await asyncio.wait({changed}, timeout=_EVERY)
        finally:
            changed.cancel()
