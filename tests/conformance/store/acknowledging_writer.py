"""Run by test_durability: count up in the states of some addresses, and tell of every attempt and acknowledgement.

Arguments: the store's URL, the epoch, the number of addresses.
"""

import asyncio
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[3]))

from actors.ports import Commit, Store
from cluster.store import open_store


async def count_up(store: Store, address: str, epoch: int) -> None:
    number = int(await store.open(address, epoch) or b"0")
    while True:
        number += 1
        os.write(1, f"try {address} {number}\n".encode())
        await store.commit(Commit(address, epoch, b"%d" % number))
        os.write(1, f"done {address} {number}\n".encode())


async def main(url: str, epoch: str, addresses: str) -> None:
    store = await open_store(url)
    await asyncio.gather(*(count_up(store, f"session-{number}", int(epoch)) for number in range(int(addresses))))


asyncio.run(main(*sys.argv[1:]))
