"""A silo is killed at every boundary of a turn that does everything: the turn counts as if nothing had happened."""

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any, NamedTuple

import pytest

from actors import actor_ref
from actors.channel import Event
from actors.records import JOURNAL, MESSAGE, OUTBOX, Done, message_rows
from cluster.client import Client
from cluster.store import open_store
from tests.cluster.waiting import eventually
from tests.durable.app import DELTAS, LETTERS
from tests.durable.cluster import Cluster
from tests.durable.faults import notes

_numbers = itertools.count(1)
TEXT = "".join(DELTAS)

EITHER = (1, 2)  # it is due at once, and its turn may run when the silo is killed


class Case(NamedTuple):
    """Where a silo is killed, and what is seen of that: how often bodies run, and what the turn learns of ``bill``."""

    point: str
    nth: int = 1
    plan: tuple[int, ...] = (1,)
    bill: int = 1
    interrupted: bool = False
    reminders: tuple[int, ...] = (1,)
    of: str = "worker"


ASKED = [
    Case("turn begins"),
    Case("in plan", plan=(2,)),
    Case("before result plan", plan=(2,)),
    Case("after result plan"),
    Case("before start bill"),
    Case("after start bill", bill=0, interrupted=True),
    Case("in bill", interrupted=True),
    Case("before result bill", interrupted=True),
    Case("after result bill"),
    Case("at d0 "),
    Case("before deltas draft", 2),
    Case("after deltas draft", 2),
    Case("at d3 "),
    Case("before result draft"),
    Case("after result draft"),
    Case("turn ends"),
    Case("before turn"),
    Case("after turn"),
    Case("before reply", reminders=EITHER),
    Case("before delivery", reminders=EITHER),
    Case("before delivery", 4, reminders=EITHER),
    Case("before removal", reminders=EITHER),
    Case("after removal", reminders=EITHER),
    Case("before inbox $reminder"),
    Case("after inbox $reminder"),
    Case("in reminder", reminders=(2,)),
    Case("before turn", 2, reminders=(2,)),
    Case("after turn", 2),
    Case("before turn", of="ledger"),
    Case("after turn", of="ledger"),
    Case("before inbox receive", of="postbox"),
    Case("after inbox receive", of="postbox"),
    Case("before turn", of="postbox"),
    Case("after turn", of="postbox"),
]
SENT = [
    Case("before inbox work"),
    Case("after inbox work", plan=(1, 2)),  # its turn has begun meanwhile
    Case("turn begins"),
    Case("in bill", interrupted=True),
    Case("after deltas draft", 3),
    Case("before turn"),
    Case("after turn"),
    Case("before removal", reminders=EITHER),
    Case("after inbox $reminder"),
]


def name_of(value: object) -> str | None:
    return f"{value.of} {value.point}#{value.nth}".replace(" ", "-") if isinstance(value, Case) else None


class Scene:
    """The actors of one case."""

    def __init__(self, cluster: Cluster, case: Case) -> None:
        # The worker lives on a silo of its own, and so does whom it tells: only the one that is meant dies.
        key = f"x{next(_numbers)}"
        self.cluster = cluster
        self.worker = f"worker-n1.{key}"
        self.ledger, self.postbox = f"ledger-n2.{key}", f"postbox-n2.{key}"
        self.case = case
        cluster.plan_kill(getattr(self, case.of), case.point, case.nth)

    async def follow(self, client: Client, channel: str, count: int) -> list[tuple[int, Any, str]]:
        async with aclosing(actor_ref(self.worker).channel(channel).subscribe()) as events:  # type: ignore[type-var]
            return [(event.offset, event.data, event.kind) async for event in _first(events, count)]

    async def check(self, job: str) -> None:
        case, worker = self.case, actor_ref(self.worker)
        wanted = [f"{job} {number}" for number in range(LETTERS)]
        for target in (self.ledger, self.postbox):
            await eventually(f"{target} has all", lambda t=target: _has(t, wanted))
            assert await actor_ref(target).read() == wanted
        await eventually("the reminder", lambda: _reminded(self.worker))
        await eventually("the kill", lambda: self.cluster.killed(getattr(self, case.of)))
        await eventually("nothing is left to do", self._nothing_left)
        state = await worker.read()
        assert state.jobs == [job]
        assert state.results == [self.result(job)]
        assert state.reminded == ["later"]
        assert await actor_ref(self.ledger).read() == wanted
        assert await actor_ref(self.postbox).read() == wanted
        noted = notes(self.cluster.folder)
        assert noted[f"{self.worker} plan {job}"] in case.plan
        assert noted[f"{self.worker} bill {job}"] == case.bill
        assert noted[f"{self.worker} start {job}"] == (2 if case.point == "at d0 " else 1)
        assert noted[f"{self.worker} reminder"] in case.reminders

    def result(self, job: str) -> str:
        return f"plan of {job}|{'interrupted' if self.case.interrupted else f'bill of {job}'}|{TEXT}"

    async def _nothing_left(self) -> bool:
        """Whether the store has no unsettled message, journal row or outbox row of the actors."""
        store = await open_store(self.cluster.store_url)
        try:
            for address in (self.worker, self.ledger, self.postbox):
                rows = await store.read(address, MESSAGE, OUTBOX + b"\xff", limit=100)
                if any(
                    key[:1] in (JOURNAL, OUTBOX) or not isinstance(message_rows.decode(row), Done) for key, row in rows
                ):
                    return False
            return True
        finally:
            await store.close()


async def _first(events: AsyncIterator[Event], count: int) -> AsyncIterator[Event]:
    number = 0
    async for event in events:
        yield event
        number += 1
        if number == count:
            return


async def _has(address: str, wanted: list[str]) -> bool:
    return len(await actor_ref(address).read()) >= len(wanted)


async def _reminded(address: str) -> bool:
    return bool((await actor_ref(address).read()).reminded)


@pytest.mark.parametrize("case", ASKED, ids=name_of)
async def test_an_ask_survives_a_kill(cluster: Cluster, case: Case) -> None:
    scene = Scene(cluster, case)
    async with cluster.attended(), cluster.client("n3") as client, asyncio.timeout(30):
        readers = [asyncio.create_task(scene.follow(client, "draft", len(DELTAS))) for _ in range(2)]
        events = asyncio.create_task(scene.follow(client, "output", 2))
        result = await actor_ref(scene.worker).work("job", [scene.ledger, scene.postbox])
        assert result == scene.result("job")
        await scene.check("job")
        for reader in readers:
            assert await reader == [(offset, delta, "item") for offset, delta in enumerate(DELTAS)]
        assert await events == [(0, "job begins", "item"), (1, "job ends", "item")]
        assert await scene.follow(client, "draft", len(DELTAS)) == await readers[0]


@pytest.mark.parametrize("case", SENT, ids=name_of)
async def test_a_send_survives_a_kill(cluster: Cluster, case: Case) -> None:
    scene = Scene(cluster, case)
    async with cluster.attended(), cluster.client("n1", "n3") as client, asyncio.timeout(30):
        await actor_ref(scene.worker).work.send("job", [scene.ledger, scene.postbox])
        await scene.check("job")
        assert await scene.follow(client, "draft", len(DELTAS)) == [
            (n, delta, "item") for n, delta in enumerate(DELTAS)
        ]
        assert await scene.follow(client, "output", 2) == [(0, "job begins", "item"), (1, "job ends", "item")]
