"""Messages that cannot be finished are put aside, so that others go on, and an operator decides about them."""

import asyncio
import itertools
import signal
from collections import Counter

import msgspec
import pytest

from actors import actor_ref
from actors.errors import MessageParked, OutcomeUnknown
from actors.records import JOURNAL, PARKED, Parked
from actors.ref import caller
from cluster.store import open_store
from tests.cluster.waiting import eventually
from tests.durable import faults
from tests.durable.cluster import Cluster
from tests.durable.faults import notes

pytestmark = pytest.mark.parametrize("cluster", ["postgres"], indirect=True, scope="module")

_numbers = itertools.count(1)


def new_address() -> str:
    return f"fragile-n1.{next(_numbers)}"


async def parked_at(cluster: Cluster, address: str) -> list[tuple[str, bytes]]:
    """Message id and row of what is parked there, as an operator's list has it."""
    store = await open_store(cluster.store_url)
    try:
        return [(_id_of(row), row) for found, _, row in await store.flagged(limit=1000) if found == address]
    finally:
        await store.close()


def _id_of(row: bytes) -> str:
    return msgspec.msgpack.decode(row, type=Parked).request.message_id


async def decide(address: str, action: str, message_id: str) -> str:
    answer = await caller().ask(actor_ref(address), "$parked", (action, message_id), {})
    assert isinstance(answer, str)
    return answer


async def rows_left(cluster: Cluster, address: str) -> list[bytes]:
    store = await open_store(cluster.store_url)
    try:
        kinds = (JOURNAL, PARKED)
        return [key for kind in kinds for key, _ in await store.read(address, kind, kind + b"\xff", limit=100)]
    finally:
        await store.close()


@pytest.mark.parametrize("action", ["retry", "skip", "drop"])
async def test_poison_is_parked_and_others_go_on(cluster: Cluster, action: str) -> None:
    address = new_address()
    cluster.plan_kill(address, "touch", "every")
    before = cluster.kills
    async with cluster.attended(), cluster.client(), asyncio.timeout(50):
        receipt = await actor_ref(address).bad.send("bad")
        await actor_ref(address).good.send("good")
        await actor_ref(address).good("better")
        assert cluster.kills - before == 4  # when it came, and when it was adopted
        assert await actor_ref(address).read() == ["good", "better"]
        assert [message_id for message_id, _ in await parked_at(cluster, address)] == [receipt.message_id]
        faults.forget_plans(cluster.folder)

        assert "was lost 4 times while it ran" in await decide(address, action, receipt.message_id)
        seen = ["good", "better", "bad"] if action == "retry" else ["good", "better"]
        await eventually("the decision", lambda: _reads(address, seen))
        await actor_ref(address).good("best")
        assert await actor_ref(address).read() == [*seen, "best"]
        assert await rows_left(cluster, address) == []


async def _reads(address: str, wanted: list[str]) -> bool:
    return bool(await actor_ref(address).read() == wanted)


async def test_who_asks_is_told_that_it_is_parked(cluster: Cluster) -> None:
    address = new_address()
    cluster.plan_kill(address, "touch", "every")
    async with cluster.attended(), cluster.client(), asyncio.timeout(50):
        with pytest.raises(MessageParked, match="was lost 4 times while it ran"):
            await actor_ref(address).bad("bad")
        faults.forget_plans(cluster.folder)
        [(message_id, _)] = await parked_at(cluster, address)
        await decide(address, "retry", message_id)
        await eventually("the retry", lambda: _reads(address, ["bad"]))


async def test_an_ask_that_journals_nothing_is_not_repeated_for_ever(cluster: Cluster) -> None:
    address = new_address()
    cluster.plan_kill(address, "touch", "every")
    before = cluster.kills
    async with cluster.attended(), cluster.client(), asyncio.timeout(50):
        with pytest.raises(OutcomeUnknown):
            await actor_ref(address).bad_at_once()
        assert cluster.kills - before <= 7  # caller and gateway count each for itself; mostly 6
        faults.forget_plans(cluster.folder)
        await actor_ref(address).good("good")
        assert await actor_ref(address).read() == ["good"]


@pytest.mark.parametrize("journaled", [False, True])
async def test_restarts_spend_nothing_of_the_budget(cluster: Cluster, journaled: bool) -> None:
    address = new_address()
    async with cluster.attended(), cluster.client(), asyncio.timeout(50):
        call = asyncio.create_task(actor_ref(address).slow("slow", journaled=journaled))
        waits: list[str] = []
        for number in range(1, 7):
            await eventually("it waits", lambda n=number: call.done() or _waits(cluster, address).total() == n)
            assert not call.done(), call
            where = next(iter(_waits(cluster, address) - Counter(waits)))
            waits.append(where)
            cluster.silos[where.rpartition(" ")[2]].signal(signal.SIGTERM)
        await eventually("it waits again", lambda: call.done() or _waits(cluster, address).total() == 7)
        (cluster.folder / f"{address.partition('-')[2]} may go on").touch()
        await call
        assert await actor_ref(address).read() == ["slow"]
        assert await parked_at(cluster, address) == []


def _waits(cluster: Cluster, address: str) -> Counter[str]:
    found = notes(cluster.folder)
    return Counter({line: count for line, count in found.items() if line.startswith(f"{address} waits on")})


async def test_what_does_not_fit_the_code_is_parked_and_goes_on_when_it_fits_again(cluster: Cluster) -> None:
    address, renamed = new_address(), cluster.folder / "renamed"
    cluster.plan_kill(address, "paid", how=signal.SIGSTOP)
    async with cluster.client("n3"), cluster.attended(), asyncio.timeout(50):
        call = asyncio.create_task(actor_ref(address).pay("order"))
        await eventually("it has paid", lambda: cluster.killed(address))
        renamed.touch()  # the deploy
        cluster.silos["n1"].signal(signal.SIGKILL)
        with pytest.raises(MessageParked) as parked:
            await call
        assert "the code calls Fragile._body as step 'pay' instead" in str(parked.value)
        assert (
            "\n- not called  'charge' (Fragile._body, finished)\n  called      'fetch' (Fragile._body, finished)"
            in str(parked.value)
        )
        renamed.unlink()  # it is rolled back
        [(message_id, _)] = await parked_at(cluster, address)
        await decide(address, "retry", message_id)
        await eventually("the retry", lambda: _reads(address, ["order"]))
        found = notes(cluster.folder)
        assert (found[f"{address} fetch"], found[f"{address} charge"]) == (1, 1)
        assert await rows_left(cluster, address) == []
