"""What cannot be done is refused in clear words, takes no effect, and leaves the actor as it was."""

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from actors import Actor, actor_ref, handler
from actors.errors import ActorFailed, ClusterUnavailable
from actors.records import BESIDE, JOURNAL, LARGE, MESSAGE, OUTBOX, REMINDER, Done, message_rows
from actors.settings import Settings
from cluster import Silo
from tests.cluster.store.processes import run_python
from tests.cluster.waiting import eventually
from tests.conformance.store.postgres_server import shared_server

MiB = 2**20


@dataclass
class Notes:
    texts: list[str] = field(default_factory=list)


class Clumsy(Actor):
    """Does what it must not."""

    state: Notes
    ran: list[str] = []  # noqa: RUF012  # what bodies ran in this process
    gate: asyncio.Event

    async def on_activate(self) -> None:
        if self.key == "eager":
            await self.step("early", self._body, "early")

    @handler
    async def write(self, text: str) -> list[str]:
        self.state.texts.append(text)
        await asyncio.sleep(0)
        return self.state.texts

    @handler
    async def unstorable_step(self) -> None:
        self.state.texts.append("lost")
        await self.publish("lost")
        await self.step("lock", self._lock)

    async def _lock(self) -> object:
        return threading.Lock()

    @handler
    async def large_step(self, size: int) -> int:
        found = await self.step("large", self._large, size)
        self.ran.append("waits")
        await self.gate.wait()
        assert found == bytes([size % 251]) * size
        self.state.texts.append(f"{size}")
        return len(found)

    async def _large(self, size: int) -> bytes:
        self.ran.append("large")
        return bytes([size % 251]) * size

    async def _body(self, name: str) -> str:
        self.ran.append(name)
        return name

    @handler(readonly=True)
    async def step_in_readonly(self) -> None:
        await self.step("one", self._body, "one")

    @handler(readonly=True)
    async def publish_in_readonly(self) -> None:
        await self.publish("one")

    @handler(readonly=True)
    async def remind_in_readonly(self) -> None:
        await self.remind("one", after=1)

    @handler
    async def remind_wrongly(self, after: float, every: float | None) -> None:
        self.state.texts.append("lost")
        await self.remind("one", after=after, every=every)

    @handler
    async def nested_step(self) -> str:
        return str(await self.step("outer", self._outer))

    async def _outer(self) -> str:
        return str(await self.step("inner", self._body, "inner"))

    @handler
    async def go_on_afterwards(self) -> None:
        self.task = asyncio.create_task(self._afterwards())

    async def _afterwards(self) -> None:
        await asyncio.sleep(0.01)
        try:
            await self.step("late", self._body, "late")
        except RuntimeError as error:
            await self.publish(f"late: {error}")

    @handler(readonly=True)
    async def read(self) -> list[str]:
        return self.state.texts


Start = Callable[[], Awaitable[Silo]]


@pytest.fixture(params=["sqlite", "postgres"])
async def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/state.db" if request.param == "sqlite" else shared_server().new_database()


@pytest.fixture
async def start(url: str) -> AsyncIterator[Start]:
    """Starts a silo over the store; it ends with the test."""
    async with AsyncExitStack() as stack:

        async def start() -> Silo:
            silo = Silo([Clumsy], store=url)
            await silo.start()
            stack.push_async_callback(silo.abort)
            return silo

        Clumsy.ran.clear()
        Clumsy.gate = asyncio.Event()
        yield start


async def none_left(silo: Silo, address: str) -> bool:
    """Whether the store has no unsettled message of the actor, and nothing that belonged to one."""
    store = silo.runtime.store
    kinds = (MESSAGE, JOURNAL, OUTBOX, REMINDER, BESIDE + JOURNAL)
    rows = [row for kind in kinds for row in await store.read(address, kind, kind + b"\xff", limit=100)]
    return all(key[:1] == MESSAGE and isinstance(message_rows.decode(row), Done) for key, row in rows)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (("unstorable_step",), "the result of step 'lock' (lock) cannot be stored"),
        (("step_in_readonly",), "step() works only inside a running turn (and not in a readonly one)"),
        (("publish_in_readonly",), "a readonly handler cannot publish"),
        (("remind_in_readonly",), "a readonly handler cannot set reminders"),
        (("remind_wrongly", -1.0, None), "after"),
        (("remind_wrongly", 1.0, 0.0), "every"),
        (("remind_wrongly", 1.0, -5.0), "every"),
        (("remind_wrongly", float("nan"), None), "after"),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
async def test_what_makes_no_sense_is_refused(start: Start, call: tuple[Any, ...], says: str) -> None:
    silo = await start()
    clumsy = actor_ref("clumsy-1")
    await clumsy.write("before")
    name, *arguments = call
    for _ in range(2):
        with pytest.raises(ActorFailed) as failed:
            await getattr(clumsy, name)(*arguments)
        assert says in str(failed.value)
        assert len(failed.value.message.splitlines()) == 1
    assert await clumsy.write("after") == ["before", "after"]
    assert Clumsy.ran == []
    await eventually("nothing is left", lambda: none_left(silo, "clumsy-1"))
    await clumsy.channel().publish("first")
    assert (await anext(clumsy.channel().subscribe())).offset == 0  # what was published in vain took no offset


async def test_a_step_while_activating_fails_the_activation_only(start: Start) -> None:
    await start()
    with pytest.raises(ActorFailed, match="step.. works only inside a running turn"):
        await actor_ref("clumsy-eager").write("no")
    assert await actor_ref("clumsy-2").write("yes") == ["yes"]


async def test_after_its_turn_code_can_publish_but_not_step(start: Start) -> None:
    await start()
    clumsy = actor_ref("clumsy-1")
    await clumsy.go_on_afterwards()
    event = await anext(clumsy.channel().subscribe())
    assert event.data.startswith("late: clumsy-1: step() works only inside a running turn")
    assert Clumsy.ran == []


@pytest.mark.parametrize("size", [LARGE + 1, 5 * MiB, 60 * MiB], ids=["17KiB", "5MB", "60MB"])
async def test_a_large_result_outlives_its_silo(start: Start, size: int) -> None:
    silo = await start()
    await actor_ref("clumsy-1").large_step.send(size)
    await eventually("the step is over", lambda: Clumsy.ran == ["large", "waits"], within=30)
    await silo.abort()
    Clumsy.gate = asyncio.Event()
    Clumsy.gate.set()
    silo = await start()
    clumsy = actor_ref("clumsy-1")
    await eventually("the turn is over", lambda: _reads(clumsy, [f"{size}"]), within=30)
    assert Clumsy.ran == ["large", "waits", "waits"]
    await eventually("nothing is left", lambda: none_left(silo, "clumsy-1"))


async def _reads(clumsy: Any, wanted: list[str]) -> bool:
    return bool(await clumsy.read() == wanted)


async def test_a_result_over_the_limit_fails_the_turn(start: Start) -> None:
    silo = await start()
    size = Settings().max_payload + 1
    with pytest.raises(ActorFailed, match=r"the result of step 'large' has \d+ bytes, the limit is \d+"):
        await actor_ref("clumsy-1").large_step(size)
    assert await actor_ref("clumsy-1").write("after") == ["after"]
    await eventually("nothing is left", lambda: none_left(silo, "clumsy-1"))


async def test_nested_steps_are_known_below_the_outer_one(start: Start) -> None:
    await start()
    assert await actor_ref("clumsy-1").nested_step() == "inner"


FULL_DISK = """
import os, sys
from actors import actor_ref
from actors.errors import ClusterUnavailable, Timeout
from cluster import Silo
from tests.durable.test_bad_input import Clumsy

async def fill_and_free(folder):
    url = f"sqlite:///{folder}/state.db"
    async with Silo([Clumsy], store=url):
        clumsy = actor_ref("clumsy-1")
        await clumsy.write("0")
        open(folder + "/ballast", "wb").write(bytes(3_000_000))
        told, maybe, refused = ["0"], [], []
        for number in range(1, 400):
            text = f"{number} " + "x" * 3000
            try:
                if number % 2:
                    await clumsy.options(timeout=1).write(text)
                else:
                    await clumsy.options(timeout=1).write.send(text)
            except ClusterUnavailable as error:  # certainly not
                assert "the disk is full" in str(error), error
                refused.append(text)
            except Timeout:  # it is tried again until it can be stored
                maybe.append(text)
            else:
                told.append(text)
            if refused or maybe:  # no more, for what was accepted is tried again with growing pauses
                break
        assert refused or maybe, "the disk never was full"
        os.unlink(folder + "/ballast")
        found = await clumsy.write("last")
        assert [text for text in found if text not in maybe] == [*told, "last"], [text[:9] for text in found]
    async with Silo([Clumsy], store=url):
        assert await actor_ref("clumsy-1").read() == found

asyncio.run(fill_and_free(sys.argv[1]))
"""
MOUNT = ("unshare", "--mount", "sh", "-c", 'mount -t tmpfs -o size=4m tmpfs "$0" && exec "$@"')


def test_a_full_disk_fails_turns_and_loses_nothing(tmp_path: Path) -> None:
    prefix = (*MOUNT, str(tmp_path))  # seen by that process alone, and gone with it
    try:
        run_python("", prefix=prefix)
    except (AssertionError, OSError):
        pytest.skip("mounting a small file system is not allowed here")
    run_python(FULL_DISK, tmp_path, prefix=prefix)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ("state.db", "no scheme"),
        ("mysql://x/y", "unknown scheme 'mysql'"),
        ("sqlite://state.db", "sqlite: has no host"),
        ("sqlite:////no/such/folder/state.db", "the directory /no/such/folder does not exist"),
        ("postgresql://postgres@127.0.0.1:1/x", "127.0.0.1"),
    ],
)
async def test_a_wrong_store_is_named_in_one_line(wrong: str, says: str) -> None:
    silo = Silo([Clumsy], store=wrong)
    with pytest.raises(Exception, match=".") as refused:
        await silo.start()
    assert says in str(refused.value)
    assert "\n" not in str(refused.value)
    assert not isinstance(refused.value, AssertionError | KeyError | ClusterUnavailable)
