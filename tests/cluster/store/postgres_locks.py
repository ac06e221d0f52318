"""Somebody else in a store's database, who holds locks and sees who waits for them."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import asyncpg

WAITING = "SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"


@asynccontextmanager
async def holding(url: str, statement: str) -> AsyncIterator[Callable[[], Awaitable[None]]]:
    """Hold what the statement locks; gives a function that returns when somebody waits for a lock."""
    # Two connections: what a transaction has seen of the others stays as it was.
    holder, onlooker = await asyncpg.connect(url), await asyncpg.connect(url)

    async def somebody_waits() -> None:
        while not await onlooker.fetch(WAITING):  # noqa: ASYNC110 - the server tells nobody
            await asyncio.sleep(0)

    try:
        async with holder.transaction():
            await holder.execute(statement)
            yield somebody_waits
    finally:
        await holder.close()
        await onlooker.close()
