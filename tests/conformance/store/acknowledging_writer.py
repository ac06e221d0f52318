"""Run by test_durability: count up in the states and records of some addresses, and tell of every attempt and
acknowledgement.

Commit number n of an address puts the records n (hot and cold), and drops those of n - 3, in one commit with the state.
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
    opened = await store.open(address, epoch, "writer.1")
    number = int(opened.state or b"0")
    while True:
        number += 1
        os.write(1, f"try {address} {number}\n".encode())
        name, old = b"%08d" % number, b"%08d" % (number - 3)
        commit = Commit(
            address=address,
            epoch=epoch,
            state=b"%d" % number,
            put={b"\5" + name: name, b"\x80" + name: name * 50},
            drop=[b"\5" + old],
            cut=[(b"\x80", b"\x80" + old + b"\0")],
            wake=float(number),
        )
        await store.commit(commit)
        os.write(1, f"done {address} {number}\n".encode())


async def main(url: str, epoch: str, addresses: str) -> None:
    store = await open_store(url)
    await asyncio.gather(*(count_up(store, f"session-{number}", int(epoch)) for number in range(int(addresses))))


asyncio.run(main(*sys.argv[1:]))
