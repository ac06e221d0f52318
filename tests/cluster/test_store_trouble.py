"""The store is held, gone, frozen or full, or its disk hangs, and comes back, under silos that are called all the time.

What was accepted is not lost, what cannot be stored is refused with the reason, no call hangs, actors without a store
answer, the lease goes on, and everything works again by itself.
"""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pytest

from actors import Actor, actor_ref, handler
from actors.errors import ClusterUnavailable, OutcomeUnknown, Timeout
from cluster import connect
from tests.cluster.house import House, calling_from, membership_of, silo_id
from tests.cluster.processes import Cluster
from tests.cluster.store.hanging_disk import HangingDisk, can_hang, hanging_disk
from tests.cluster.store.processes import Helper, python
from tests.cluster.store.test_sqlite_processes import HOLD_THE_WRITE_LOCK
from tests.cluster.waiting import answered, eventually
from tests.conformance.store.postgres_server import PostgresServer

NO_HANG = 40.0  # seconds
CALL = 10.0  # seconds that callers wait; a store waits for 5 before it refuses
SHORT = 2.0  # seconds, and less than a store waits for anything
WRITERS = 6


END_SESSIONS = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()
"""


@dataclass
class Lines:
    lines: list[str] = field(default_factory=list)


class Diary(Actor):
    """Keeps what it is told, with something large beside it."""

    state: Lines

    @handler
    async def write(self, line: str, ballast: bytes = b"") -> int:
        if ballast:
            await self.step("ballast", self._same, ballast)
        self.state.lines.append(line)
        return len(self.state.lines)

    async def _same(self, ballast: bytes) -> bytes:
        return ballast

    @handler(readonly=True)
    async def read(self) -> list[str]:
        return self.state.lines


class Bystander(Actor, persist="never"):
    """Needs no store."""

    @handler
    async def echo(self, word: str) -> str:
        return word


class Trouble:
    """Something that happens to a store, and passes."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.ballast = 0
        """How many bytes a message takes, until the store is in trouble."""

    async def begin(self) -> None:
        raise NotImplementedError

    async def end(self) -> None:
        raise NotImplementedError


class Held(Trouble):
    """Another process is in the middle of a transaction, as a silo that was frozen there would be."""

    def __init__(self, file: Path, stack: AsyncExitStack) -> None:
        super().__init__(f"sqlite:///{file}")
        self._file = file
        self._stack = stack
        self._holder: Helper | None = None

    async def begin(self) -> None:
        self._holder = self._stack.enter_context(python(HOLD_THE_WRITE_LOCK, self._file))
        assert await asyncio.to_thread(self._holder.heard) == "held"

    async def end(self) -> None:
        assert self._holder is not None
        self._holder.go()
        assert await asyncio.to_thread(self._holder.heard) == "free"


class Killed(Trouble):
    """The database crashes, and is started again."""

    def __init__(self, server: PostgresServer) -> None:
        super().__init__(server.new_database())
        self._server = server

    async def begin(self) -> None:
        self._server.kill()

    async def end(self) -> None:
        self._server.launch()
        await asyncio.to_thread(self._server.wait_until_ready)


class Frozen(Trouble):
    """The database answers nobody, and then goes on."""

    def __init__(self, server: PostgresServer) -> None:
        super().__init__(server.new_database())
        self._server = server

    async def begin(self) -> None:
        self._server.freeze()

    async def end(self) -> None:
        self._server.thaw()


class Full(Trouble):
    """The database cannot make its files larger: a limit of the kernel for its processes, as a full disk would."""

    def __init__(self, server: PostgresServer) -> None:
        super().__init__(server.new_database())
        self._server = server
        self.ballast = 300_000

    async def begin(self) -> None:
        self._server.limit_files(24 * 2**20)  # above the size of its log files, which are made in advance

    async def end(self) -> None:
        self._server.limit_files(None)


class Hanging(Trouble):
    """The disk below the SQLite file hangs without an error, and goes on."""

    def __init__(self, disk: HangingDisk) -> None:
        super().__init__(f"sqlite:///{disk.folder}/state.db")
        self._disk = disk

    async def begin(self) -> None:
        await self._disk.hang()

    async def end(self) -> None:
        await self._disk.go_on()


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    server = PostgresServer()  # not the shared one: it is killed and frozen here
    yield server
    server.stop()


@pytest.fixture
async def trouble(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Trouble]:
    async with AsyncExitStack() as stack:
        if request.param == "held":
            yield Held(tmp_path / "state.db", stack)
            return
        if request.param == "hanging":
            yield Hanging(stack.enter_context(hanging_disk(tmp_path)))
            return
        server: PostgresServer = request.getfixturevalue("server")
        kinds: dict[str, Callable[[PostgresServer], Trouble]] = {"killed": Killed, "frozen": Frozen, "full": Full}
        yield kinds[request.param](server)
        server.thaw()


HANGING = ["hanging"] if can_hang() else []
ALL = pytest.mark.parametrize("trouble", ["held", "killed", "frozen", "full", *HANGING], indirect=True)


class Writers:
    """Write to their diaries all the time, and note what they were told."""

    def __init__(self, ballast: int) -> None:
        self.told: list[list[str]] = [[] for _ in range(WRITERS)]
        self.maybe: set[str] = set()
        self.refusals: list[str] = []
        self.stop = False
        self.ballast = ballast

    async def write(self, number: int) -> None:
        diary, count = Diary.ref(str(number)), 0
        while not self.stop:
            count += 1
            line = f"{number}.{count}"
            try:
                async with asyncio.timeout(NO_HANG):
                    if count % 2:
                        await diary.options(timeout=CALL).write(line, os.urandom(self.ballast))
                    else:
                        await diary.options(timeout=CALL).write.send(line)
            except ClusterUnavailable as error:
                self.refusals.append(str(error))
            except OutcomeUnknown:
                self.maybe.add(line)
            else:
                self.told[number].append(line)

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[None]:
        """They write meanwhile, and end what they have begun."""
        tasks = [asyncio.create_task(self.write(number)) for number in range(WRITERS)]
        try:
            yield
            self.stop = True
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def in_trouble(self) -> None:
        """Some were not told that they have written."""
        await eventually(
            "some are refused, or wait in vain", lambda: len(self.refusals) + len(self.maybe) >= 2, within=NO_HANG
        )

    async def written(self, more: int) -> None:
        wanted = [len(told) + more for told in self.told]
        await eventually(
            f"{more} more lines in each diary: {[len(told) for told in self.told]}, {self.refusals[-1:]}",
            lambda: all(len(told) >= least for told, least in zip(self.told, wanted, strict=True)),
            within=NO_HANG,
        )


@ALL
async def test_the_store_is_in_trouble_and_comes_back(house: House, trouble: Trouble) -> None:
    (silo,) = await house.start("n1", actors=[Diary, Bystander], store=trouble.url)
    incarnation, lost = silo_id(silo), []
    membership_of(silo).on_change = lambda: lost.append(silo_id(silo)) if silo_id(silo) != incarnation else None
    with calling_from(silo):
        writers = Writers(0)
        async with writers.writing():
            await writers.written(3)
            writers.ballast = trouble.ballast
            await trouble.begin()
            await writers.in_trouble()
            assert silo.runtime.may_act()
            assert await actor_ref("bystander-1").echo("here") == "here"
            await trouble.end()
            writers.ballast = 0
            await writers.written(3)
        for refusal in writers.refusals:
            assert refusal.startswith("diary-")
            assert _says_why(refusal), refusal
            assert "\n" not in refusal
        assert (silo_id(silo), lost) == (incarnation, [])
        for number, told in enumerate(writers.told):
            found, _ = await answered("the diary is read", Diary.ref(str(number)).read, within=NO_HANG)
            assert len(found) == len(set(found)), "a line was written twice"
            assert [line for line in found if line not in writers.maybe] == told


def _says_why(refusal: str) -> bool:
    whys = ("another process held it", "nothing was written", "already under way", "did not answer in time")
    return any(why in refusal for why in whys)


@pytest.mark.parametrize("trouble", ["held", "frozen"], indirect=True)
async def test_a_silo_leaves_in_time_while_its_store_does_not_answer(house: House, trouble: Trouble) -> None:
    (silo,) = await house.start("n1", actors=[Diary, Bystander], store=trouble.url)
    with calling_from(silo):
        await asyncio.gather(*(Diary.ref(str(number)).write("one") for number in range(WRITERS)))
        await trouble.begin()
        writing = [asyncio.create_task(Diary.ref(str(number)).write("two")) for number in range(WRITERS)]
        await asyncio.sleep(0)
        async with asyncio.timeout(NO_HANG):
            await silo.stop()
            outcomes = await asyncio.gather(*writing, return_exceptions=True)
        assert all(isinstance(outcome, ClusterUnavailable | OutcomeUnknown) for outcome in outcomes), outcomes
        await trouble.end()
    (again,) = await house.start("n2", actors=[Diary, Bystander], store=trouble.url)
    with calling_from(again):
        for number in range(WRITERS):
            found, _ = await answered("the diary is read", Diary.ref(str(number)).read, within=NO_HANG)
            assert found in (["one"], ["one", "two"])


@pytest.mark.parametrize("trouble", ["frozen", *HANGING], indirect=True)
async def test_a_disk_that_hangs_keeps_calls_until_their_deadline_and_nothing_else(
    house: House, trouble: Trouble
) -> None:
    (silo,) = await house.start("n1", actors=[Diary, Bystander], store=trouble.url)
    membership, incarnation = membership_of(silo), silo_id(silo)
    with calling_from(silo):
        await asyncio.gather(*(Diary.ref(key).write("one") for key in ("ask", "send")))
        assert await actor_ref("bystander-old").echo("before") == "before"
        before = membership.deadline
        await trouble.begin()
        ask = Diary.ref("ask").options(timeout=SHORT, idempotency_key="ask")
        send = Diary.ref("send").options(timeout=SHORT, idempotency_key="send")
        asleep = Diary.ref("asleep").options(timeout=SHORT)
        async with asyncio.timeout(NO_HANG):
            outcomes = await asyncio.gather(
                ask.write("two"), send.write.send("two"), asleep.read(), return_exceptions=True
            )
        assert [type(outcome) for outcome in outcomes] == [Timeout] * 3, outcomes
        assert await actor_ref("bystander-old").echo("meanwhile") == "meanwhile"
        assert await actor_ref("bystander-new").echo("meanwhile") == "meanwhile"
        await eventually(
            "the lease outlives its term", lambda: membership.deadline > before + house.lease_ttl, within=NO_HANG
        )
        assert (silo_id(silo), silo.runtime.may_act()) == (incarnation, True)
        await trouble.end()
        assert await ask.options(timeout=NO_HANG).write("two") == 2, "it took effect twice, or never"
        await send.options(timeout=NO_HANG).write.send("two")
        for key, lines in {"ask": ["one", "two"], "send": ["one", "two"], "asleep": []}.items():
            await eventually(f"{key} has {lines}", partial(_has, key, lines), within=NO_HANG)
    assert silo_id(silo) == incarnation


async def _has(key: str, lines: list[str]) -> bool:
    return await Diary.ref(key).options(timeout=NO_HANG).read() == lines


if HANGING:

    async def test_a_process_whose_disk_hangs_leaves_the_cluster_and_ends_with_the_disk(
        cluster: Cluster, tmp_path: Path
    ) -> None:
        """Nothing can end a process in the middle of writing there. Others do not take it for a member any more."""
        with hanging_disk(tmp_path) as disk:
            cluster.store_url = f"sqlite:///{disk.folder}/state.db"
            n1, n2 = await cluster.start("n1", "n2")
            (ready,) = await n2.ready()
            async with connect(ready["grpc"], cluster=cluster.name) as client:
                counter = actor_ref("counter-n1.a")
                assert await counter.add() == 1
                await disk.hang()
                with pytest.raises(Timeout):
                    await counter.options(timeout=SHORT, idempotency_key="k").add()
                n1.signal(signal.SIGTERM)

                async def has_left() -> bool:
                    return [member.name for member in await client.members()] == ["n2"]

                await eventually("n1 has left", has_left, within=NO_HANG)
                await n1.said("the store did not end within 15 s", within=NO_HANG)
                await disk.go_on()
                ended = await n1.ended(within=NO_HANG)
                assert ended.status == 0, ended.err
                again, _ = await answered(
                    "n2 has it", counter.options(timeout=CALL, idempotency_key="k").add, within=NO_HANG
                )
                assert (again, await counter.value()) == (2, 2), "what timed out took effect twice, or never"


async def test_sessions_that_the_database_ends_are_not_noticed(house: House, server: PostgresServer) -> None:
    url = server.new_database()
    (silo,) = await house.start("n1", actors=[Diary], store=url)
    with calling_from(silo):
        writers = Writers(0)
        async with writers.writing():
            for _ in range(5):
                await writers.written(2)
                server.execute(END_SESSIONS, url=url)
            await writers.written(2)
        assert (writers.refusals, writers.maybe) == ([], set())
        for number, told in enumerate(writers.told):
            assert await Diary.ref(str(number)).read() == told
