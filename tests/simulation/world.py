"""One run: a cluster of real silos and clients on simulated ports, from a seed to a verdict."""

import asyncio
import gc
import itertools
import random
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Any
from unittest.mock import patch

import msgspec

import cluster.client
import cluster.silo
import cluster.transport.transport
from actors import ActorError, actor_ref
from actors.builtin import RESOLVE
from actors.records import PARKED, Parked
from actors.ref import _open_callers
from actors.runtime import Runtime
from actors.turn import Turn
from cluster.etcd import Event
from tests.simulation import checks, faults
from tests.simulation.brief import BRIEF, BriefReader
from tests.simulation.clerk import CLERKS, relieve
from tests.simulation.deed import DEED, NEW, Versions
from tests.simulation.directory import EtcdPath, SimEtcdClient
from tests.simulation.durable_checks import DurableChecks, items_of, unsettled
from tests.simulation.etcd import Etcd
from tests.simulation.history import History, Op
from tests.simulation.leaks import check_links, leaks_of
from tests.simulation.log_records import recorded
from tests.simulation.loop import START, Process, SimLoop, Stuck
from tests.simulation.network import Network, SimDial, SimLink, SimListener
from tests.simulation.node import SETTINGS, Node, SimClock
from tests.simulation.plants import Plant
from tests.simulation.pupil import PUPIL, PupilReader
from tests.simulation.readers import Reader
from tests.simulation.store import SharedStore, SimStore
from tests.simulation.subjects import STAGE, Stage
from tests.simulation.workload import ADDRESSES, SCRAP, Workload

CALM, FAULTS, RECOVERY, AFTER = 1.5, 9.0, 10.0, 1.5  # seconds of each phase
LIMIT = 240.0  # virtual seconds for a whole run


class World:
    """Everything of one run.

    ``plant`` is a known bug to switch on, ``only`` the kinds of faults to draw from; ``trace`` notes every envelope.
    """

    def __init__(self, seed: int, *, plant: Plant | None = None, only: Sequence[str] = (), trace: bool = False) -> None:
        self.seed = seed
        self.plant = plant
        self.trace = trace
        self.random = random.Random(f"{seed} world")
        self.loop = SimLoop(random.Random(f"{seed} loop"))
        latency = self.random.choice((0.0005, 0.003, 0.02))
        self.network = Network(self.loop, random.Random(f"{seed} network"), latency=latency)
        self.etcd = Etcd(self.loop, random.Random(f"{seed} etcd"))
        self.path = EtcdPath(self.etcd, self.network, random.Random(f"{seed} path"))
        self.store = SharedStore(self.loop, random.Random(f"{seed} store"))
        self.history = History(self.loop)
        self.live = checks.LiveChecks(self.history, self.store)
        self.history.on_reply = self._on_reply
        self.etcd.on_write = self._on_directory
        self.stage = Stage(self.history, random.Random(f"{seed} stage"))
        self.frozen_for: dict[Process, float] = {}
        dice = random.Random(f"{seed} versions")
        self.versions = Versions(dice, mixed=dice.random() < 0.3 if plant is None else "sign" in plant.calls)
        self.nodes = [Node(self, index) for index in range(self.random.randint(2, 4))]
        self.clients: list[Process] = []
        self.client_tasks: list[asyncio.Task[None]] = []
        self.client_runtimes: dict[str, Runtime] = {}
        self.workloads: list[Workload] = []
        self.readers: list[Reader] = []
        self.reading: list[asyncio.Task[None]] = []
        only = only or (plant.faults if plant is not None else ())
        self.faults = faults.draw(self.random, silos=len(self.nodes), length=FAULTS, only=only)

    # -- what the faults and nodes use ------------------------------------------------------------------------------

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def wait_for(self, task: "asyncio.Task[Any]", process: Process) -> None:
        """Wait until a task of a process is done or the process dead."""
        while not task.done() and not process.dead:  # noqa: ASYNC110  # virtual time
            await asyncio.sleep(0.05)

    def process(self, name: str, host: str) -> Process:
        made = Process(name, host)
        made.context.run(STAGE.set, self.stage)
        return made

    def client_host(self, index: int) -> str:
        return f"127.0.1.{index + 1}"

    def favoured(self, other: int) -> int:
        """The index of the silo that has the clients' favourite actor; if none has it, a neighbour of ``other``."""
        entry = self.etcd.kvs.get(f"/default/actors/{self.stage.favourite.replace('-', '/', 1)}")
        owner = entry.value.decode().partition(".")[0] if entry is not None else ""
        names = [node.name for node in self.nodes]
        return names.index(owner) if owner in names else (other + 1) % len(names)

    # -- the run ----------------------------------------------------------------------------------------------------

    def run(self) -> History:
        """Run to the end, or to the first violation, which ``History.violations`` then holds."""
        with self._simulated(), recorded(self.history):
            try:
                self.loop.run(self._main(), until=START + LIMIT)
            except Stuck as stuck:
                self.history.violate("the run ends", "world", expected="an end", actual=str(stuck))
            finally:
                _open_callers.clear()
                self.loop.close()
        return self.history

    @contextmanager
    def _simulated(self) -> Iterator[None]:
        tokens = random.Random(f"{self.seed} tokens")

        async def open_store(_: str) -> SimStore:
            return SimStore(self.store)

        SimDial.network = SimListener.network = self.network
        SimEtcdClient.path = self.path
        SimLink.serials = itertools.count(1)
        SimLink.history = self.history
        SimLink.trace = self._trace if self.trace else None
        with ExitStack() as stack:
            for module, name, fake in (
                ("cluster.reaching_etcd", "EtcdClient", SimEtcdClient),
                ("cluster.silo", "open_store", open_store),
                ("cluster.silo", "SystemClock", SimClock),
                ("cluster.client", "EtcdClient", SimEtcdClient),
                ("cluster.client", "SystemClock", SimClock),
                ("cluster.transport.transport", "Dial", SimDial),
                ("cluster.transport.transport", "Listener", SimListener),
                ("cluster.transport.transport", "GrpcLink", SimLink),
                ("secrets", "token_hex", lambda size=16: tokens.randbytes(size).hex()),
                ("secrets", "token_bytes", lambda size=16: tokens.randbytes(size)),
                ("secrets", "randbits", tokens.getrandbits),
                ("cluster.suspicion", "sample", random.Random(f"{self.seed} suspicion").sample),
                ("actors.durable_state", "_WORTH_A_DELTA", 256),
                ("actors.durable_state", "_MOST_DELTAS", 6),
                ("actors.state_delta", "_BLOCK", 32),
            ):
                stack.enter_context(patch(f"{module}.{name}", fake))
            stack.enter_context(patch.object(Turn, "__hash__", lambda turn: turn.request.id))
            if self.plant is not None:
                stack.enter_context(self.plant.enter(self))
            gc.disable()  # finalizers run where the program says, not where memory runs short
            try:
                yield
            finally:
                gc.enable()

    async def _main(self) -> None:
        for node in self.nodes:
            await node.start()
        for index in range(self.random.randint(2, 3)):
            process = self.process(f"client{index}", self.client_host(index))
            self.clients.append(process)
            seed = random.Random(f"{self.seed} client {index}")
            calls, among = (self.plant.calls, self.plant.among) if self.plant is not None else ((), ())
            pace = seed.choice((0.1, 0.2, 0.4))
            workload = Workload(
                self.stage, process.name, seed, pace=pace, only=calls, among=among, signs=self.versions.mixed
            )
            self.workloads.append(workload)
            self.client_tasks.append(self.loop.spawn(process, self._client(workload)))
            seed = random.Random(f"{self.seed} readers {index}")
            readers = [Reader(self.stage, self.store, process.name, seed) for _ in range(2)]
            seed = random.Random(f"{self.seed} brief {index}")
            readers.append(BriefReader(self.stage, self.store, process.name, seed))
            readers.append(
                PupilReader(self.stage, self.store, process.name, random.Random(f"{self.seed} pupil {index}"))
            )
            self.readers += readers
        await self._until(
            lambda: len(self.client_runtimes) == len(self.clients), 2, "clients connect", self.loop.pending
        )
        await self._phase("calm", CALM)
        afflictions = [self.loop.spawn(self.loop.outside, faults.inflict(self, fault)) for fault in self.faults]
        await self._phase("faults", FAULTS)
        while not all(affliction.done() for affliction in afflictions):
            await self._phase("faults", 0.2)
        for affliction in afflictions:
            affliction.result()
        self.store.failing = self.store.slow = self.path.slow = self.stage.fragile = 0.0
        self.versions.finish()
        for node in self.nodes:
            await node.restart()
        if self.versions.mixed and all(node.version != NEW for node in self.nodes):
            await self.nodes[0].drain()
            await self.nodes[0].restart()
        operator = self.loop.spawn(self.loop.outside, self._operate())
        await self._phase("recovery", RECOVERY)
        await self._phase("after", AFTER)
        for workload in self.workloads:
            workload.running = False
        await self._phase("ending", 0.1)
        await self._until(
            lambda: all(workload.finished and not workload.open for workload in self.workloads),
            30,
            "every call ends",
            self._open,
        )
        relief = self.loop.create_task(
            relieve(self.stage, self.workloads[0].client, self.store),
            context=next(iter(self.client_runtimes.values())).context.copy(),
        )
        await self._until(
            lambda: not unsettled(self.store), 60, "everything accepted is settled", lambda: unsettled(self.store)
        )
        await self.sleep(2.0)  # what nobody waits for any more arrives, and its turn may wait for a signal, too
        await self._until(
            lambda: not unsettled(self.store), 60, "everything accepted is settled", lambda: unsettled(self.store)
        )
        operator.cancel()
        relief.cancel()
        self.history.phase = "final"
        await self._until(lambda: not self._behind(), 15, "readers come to the end", self._behind)
        for reading in self.reading:
            reading.cancel()
        await self._judge()

    def _behind(self) -> str:
        """The readers that have not seen all of their channel."""
        behind = []
        for reader in self.readers:
            stored = items_of(self.store, reader.address, reader.channel)
            if stored and (not reader.events or reader.events[-1].offset < stored[-1][0]):
                behind.append(f"{reader.name}: {reader.events[-1:]} of {stored[-1][0]}")
        return "; ".join(behind)

    async def _operate(self) -> None:
        """Somebody looks after parked messages."""
        while True:
            await asyncio.sleep(0.5)
            for address in list(self.store.data.records):
                for row in self.store.rows(address, PARKED).values():
                    message_id = msgspec.msgpack.decode(row, type=Parked).request.message_id
                    self.history.note(f"the operator retries {message_id}", address=address)
                    runtime = next(iter(self.client_runtimes.values()))
                    asked = runtime.outbound.ask(
                        actor_ref(address).options(timeout=4.0), RESOLVE, ("retry", message_id), {}
                    )
                    with suppress(ActorError):
                        await self.loop.create_task(asked, context=runtime.context.copy())

    async def _client(self, workload: Workload) -> None:
        while True:
            try:
                async with cluster.client.connect(etcd="sim", settings=SETTINGS) as client:
                    assert client._runtime is not None
                    self.client_runtimes[workload.client] = client._runtime
                    readers = [reader for reader in self.readers if reader.name.startswith(workload.client)]
                    self.reading += [asyncio.create_task(reader.run()) for reader in readers]
                    await workload.run()
                    await asyncio.Event().wait()  # for the final reads
            except ActorError as error:
                self.history.note(f"cannot connect: {error}")
                await asyncio.sleep(0.2)

    async def _phase(self, name: str, length: float) -> None:
        self.history.phase = name
        self.history.note(f"-- {name}")
        end = self.loop.time() + length
        while self.loop.time() < end:
            await asyncio.sleep(min(0.25, max(end - self.loop.time(), 0.001)))
            for owner, runtime in self._runtimes():
                check_links(self.history, owner, runtime)
            self._stop_if_violated()

    def _stop_if_violated(self) -> None:
        for failure in self.loop.failures:
            self.history.violate("no exception is lost", "event loop", expected="none", actual=failure)
        self.loop.failures.clear()
        for task in self.client_tasks:
            if task.done():
                error = repr(task.exception())
                self.history.violate("clients go on", "client", expected="no exception", actual=error)
        if self.history.violations:
            for lost in self.loop.take_lost_exceptions():
                self.history.note(f"nobody has taken an exception of {lost}")
            raise Stuck("stopped at the first violation")

    def _runtimes(self) -> list[tuple[str, Runtime]]:
        silos = [(node.process.name, node.runtime) for node in self.nodes if not node.process.frozen]
        found = [(name, runtime) for name, runtime in silos if runtime is not None]
        return found + list(self.client_runtimes.items())

    async def _until(self, condition: Any, limit: float, what: str, actual: Any) -> None:
        end = self.loop.time() + limit
        while not condition():
            await asyncio.sleep(0.1)
            self._stop_if_violated()
            if self.loop.time() > end:
                self.history.violate(what, "world", expected=f"within {limit:g} s", actual=actual())
                self._stop_if_violated()

    def _open(self) -> str:
        return "; ".join(str(op) for op in self.history.ops.values() if op.ended is None) or self.loop.pending()

    async def _judge(self) -> None:
        """The cluster rests: compare what everybody saw with what there is."""
        history = self.history
        history.phase = "final"
        runtime = next(iter(self.client_runtimes.values()))
        for address in [*ADDRESSES, SCRAP, BRIEF, PUPIL, *CLERKS, *([DEED] if self.versions.mixed else [])]:
            before = self.live.committed.get(address, [])
            reading = self.loop.create_task(self._read(address), context=runtime.context.copy())
            entries = await reading
            if entries is not None:
                after = self.live.committed.get(address, [])
                checks.check_final(history, address, entries, before=before, after=after)
        effects = {address: self.live.effects(address) for address in {**self.live.committed, **self.live.erased}}
        checks.check_effects(history, effects)
        checks.check_real_time(history)
        checks.check_order(history, effects, self.live.parked)
        self.live.waits.check(effects)
        DurableChecks(history, self.live, self.store).check(self.readers)
        checks.check_streams(history)
        self._stop_if_violated()

        def leaks() -> str:
            return "\n".join(f"{owner}: {left}" for owner, runtime in self._runtimes() if (left := leaks_of(runtime)))

        await self._until(lambda: not leaks(), 12, "nothing is left behind", leaks)
        self.loop.failures += self.loop.take_lost_exceptions()
        for node in self.nodes:
            await node.drain()
        self._stop_if_violated()

    async def _read(self, address: str) -> list[str] | None:
        try:
            found: list[str] = await actor_ref(address).options(timeout=4.0).entries()
        except ActorError as error:
            self.history.violate(
                "every actor answers in the end", "final read", address=address, expected="its entries",
                actual=repr(error),
            )  # fmt: skip
            return None
        return found

    # -- what is noticed --------------------------------------------------------------------------------------------

    def _on_reply(self, op: Op) -> None:
        caller = self.stage.callers[op.id]
        op.slack = self.frozen_for.get(caller, 0.0)
        self.live.on_reply(op)
        if self.history.phase in ("calm", "after") and op.outcome not in ("ok", "cycle"):
            began = op.started - self.loop.time()
            planned = op.planned_failure or op.outcome == "failed"
            if not planned and began > -(CALM if self.history.phase == "calm" else AFTER):
                self.history.violate(
                    "calls succeed while nothing is wrong",
                    op.id,
                    address=op.address,
                    expected="success",
                    actual=str(op),
                )

    def _on_directory(self, event: Event) -> None:
        name, value = event.kv.key.removeprefix("/default/"), event.kv.value.decode()
        if name.startswith("actors/"):
            address = name.removeprefix("actors/").replace("/", "-", 1)
            if value:
                self.live.on_claim(address, event.kv.mod_revision)
            told = f"owned by {value}" if value else "released"
            self.history.note(f"etcd: {told} (revision {event.kv.mod_revision})", address=address)
        elif name.startswith("silos/"):
            self.history.note(f"etcd: {name} {'is a member' if value else 'is gone'}")

    def _trace(self, process: str, link: Any, envelopes: list[Any]) -> None:
        for envelope in envelopes:
            address = getattr(envelope, "address", "")
            if not address:
                runtimes = dict(self._runtimes())
                call = runtimes[process].calls.get(envelope.id) if process in runtimes else None
                address = call.request.address if call is not None else "?"
            what = f"{type(envelope).__name__} {envelope.id} {getattr(envelope, 'message_id', '')}"
            self.history.note(f"from {link.peer}: {what} {getattr(envelope, 'text', '')}", address=address)
