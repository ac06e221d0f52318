"""One fault under load, for ``benchmarks.failover``: who was answered when, and what went wrong meanwhile."""

import asyncio
import contextlib
import contextvars
import itertools
import os
import secrets
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from enum import Enum

import msgspec

from actors import ActorError
from benchmarks.failover_app import Resident
from benchmarks.load import percentile
from benchmarks.process import WorkerFailed, cpu_seconds
from benchmarks.silo_processes import SiloProcesses
from cluster import Client, connect
from cluster.store.sqlite_holder import find_writer

NAMES = ("n1", "n2", "n3")
BIN = 0.05
"""Seconds of a bar of the timeline."""

LEAD = 1.0  # seconds of load before the fault, and at least as much after the last actor is back
PATIENCE = 60.0  # seconds for anything to come back
_GROUP = 500  # actors that are made at a time


class Fault(Enum):
    """What happens to a silo."""

    KILL = "kill"
    FREEZE = "freeze"
    CUT = "cut"
    DRAIN = "drain"


class Load(msgspec.Struct, frozen=True):
    """Callers, one for each actor, that wait so many seconds between an answer and their next call."""

    callers: int
    interval: float


class Tried(msgspec.Struct, kw_only=True):
    """What one fault did. Seconds from the fault."""

    fault: str
    answered: list[float]
    """Until each actor of the lost silo had answered from another process; sorted."""
    silence: list[float]
    """The longest time in which each actor of the lost silo answered nobody; sorted."""
    silence_elsewhere: float
    """The longest time without an answer of any other actor: those whose caller was connected to the lost silo."""
    calls: int
    failed: dict[str, int]
    """Calls that failed, by the name of the error."""
    repeated: int
    """Answers to calls that ran only when they were sent again."""
    wrong: int
    """Answers that show an effect that was lost, or one too many."""
    lost_bars: list[int]
    """Answers of the lost silo's actors in each twentieth of a second, from a second before the fault on."""
    other_bars: list[int]
    """The same of all others."""
    returned: float | None = None
    """How long after it was woken or plugged in the silo was a member again; None if its process was replaced."""
    put_off: int = 0
    """How often the process was let go on, because it was in the middle of a write to the SQLite file."""


@dataclass(frozen=True, slots=True)
class Answered:
    """One answer, and when it came."""

    ended: float
    process: int
    attempt: int


Visit = Callable[[], Awaitable[tuple[int, int, int]]]
"""One call: how many there were, the process that answered, and how often the call was sent before."""


class Caller:
    """Asks one actor again and again, and keeps what it hears."""

    def __init__(self, home: str, visit: Visit, *, interval: float, errors: type[Exception] = ActorError) -> None:
        self.home = home
        self.answers: list[Answered] = []
        self.failed: list[str] = []
        self.wrong = 0
        self._visit = visit
        self._interval = interval
        self._errors = errors

    async def run(self, enough: asyncio.Event, *, start_after: float) -> None:
        """Until it is enough. An actor's count is that of the answers, as long as no call has failed."""
        expected = 0
        await asyncio.sleep(start_after)
        while not enough.is_set():
            try:
                count, process, attempt = await self._visit()
            except self._errors as error:
                self.failed.append(type(error).__name__)
                expected = -1  # it may have run
            else:
                self.answers.append(Answered(time.perf_counter(), process, attempt))
                self.wrong += count != expected + 1 if expected >= 0 else 0
                expected = count
            await asyncio.sleep(self._interval)

    def back_at(self, fault: float, lost: int) -> float | None:
        """When the actor first answered from another process than the lost one, None if it has not."""
        return next((one.ended for one in self.answers if one.ended > fault and one.process != lost), None)

    def silence(self, fault: float) -> float:
        """The longest pause between answers that ended after the fault."""
        times = [one.ended for one in self.answers]
        return max((later - earlier for earlier, later in itertools.pairwise(times) if later > fault))


async def try_fault(silos: SiloProcesses, fault: Fault, victim: str, load: Load) -> Tried:
    """Put load on all silos, do it to one of them, go on until all actors are back, and mend it.

    Raises ``WorkerFailed`` if some do not come back.
    """
    run, process = secrets.token_hex(4), silos.running[victim].pid
    callers = [_caller(NAMES[number % len(NAMES)], f"{run}-{number}", load) for number in range(load.callers)]
    back = [caller.back_at for caller in callers if caller.home == victim]
    async with open_clients(silos) as clients:
        before = await _incarnation(clients[0], victim)
        async with _under_load(callers, clients, load):
            await until("every actor has answered", lambda: all(caller.answers for caller in callers))
            await asyncio.sleep(LEAD)
            began, put_off = await _do(silos, fault, victim)
            await until("every actor is back", lambda: all(at(began, process) for at in back))
            await asyncio.sleep(LEAD)
            ended = time.perf_counter()
            returned = await _wake(silos, fault, lambda: _has_returned(clients[0], victim, before), victim=victim)
    if returned is None:
        await silos.replace(victim)
    tried = sum_up(fault, callers, began=began, ended=ended, victim=victim, process=process)
    tried.returned, tried.put_off = returned, put_off
    return tried


def _caller(home: str, key: str, load: Load) -> Caller:
    return Caller(home, Resident.ref(f"{home}.{key}").options(timeout=PATIENCE).visit, interval=load.interval)


@dataclass(frozen=True, slots=True)
class Connected:
    """A client, and the context in which references go through it."""

    client: Client
    context: contextvars.Context


@contextlib.asynccontextmanager
async def open_clients(silos: SiloProcesses) -> AsyncIterator[list[Connected]]:
    """One that finds the silos in etcd, and one for each silo that goes to that first and to the others after it."""
    endpoints = [silos.running[name].grpc for name in NAMES]
    async with contextlib.AsyncExitStack() as stack:
        found = []
        client = await stack.enter_async_context(connect(etcd=silos.etcd, credentials=silos.credentials))
        found.append(Connected(client, contextvars.copy_context()))
        for number in range(len(endpoints)):
            order = endpoints[number:] + endpoints[:number]
            client = await stack.enter_async_context(connect(order, credentials=silos.credentials))
            found.append(Connected(client, contextvars.copy_context()))
        yield found


@contextlib.asynccontextmanager
async def _under_load(callers: Sequence[Caller], clients: Sequence[Connected], load: Load) -> AsyncIterator[None]:
    """All callers ask, through all clients, each kind of actor through each kind of client."""
    enough = asyncio.Event()
    tasks = []
    for number, caller in enumerate(callers):
        context = clients[number // len(NAMES) % len(clients)].context.copy()
        work = caller.run(enough, start_after=load.interval * number / len(callers))
        tasks.append(asyncio.create_task(work, context=context))
    try:
        yield
        enough.set()
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _do(silos: SiloProcesses, fault: Fault, victim: str) -> tuple[float, int]:
    """When it was done, and how often it was put off."""
    began, put_off = time.perf_counter(), 0
    if fault is Fault.CUT:
        assert silos.network is not None
        await silos.network.cut(victim)
    elif fault is Fault.FREEZE:
        while not await _freeze(silos, victim):
            put_off += 1
            began = time.perf_counter()
    else:
        silos.signal(victim, signal.SIGKILL if fault is Fault.KILL else signal.SIGTERM)
    return began, put_off


async def _freeze(silos: SiloProcesses, victim: str) -> bool:
    """Stop the process, unless it is in the middle of a write to a file that all share: then it goes on."""
    silos.signal(victim, signal.SIGSTOP)
    pid = silos.running[victim].pid
    await asyncio.to_thread(os.waitid, os.P_PID, pid, os.WSTOPPED | os.WNOWAIT)
    holder = find_writer(silos.file) if silos.file is not None else None
    if holder is None or holder.pid != pid:
        return True
    silos.signal(victim, signal.SIGCONT)
    await asyncio.sleep(0.01)
    return False


async def _wake(
    silos: SiloProcesses, fault: Fault, returned: Callable[[], Awaitable[bool]], *, victim: str
) -> float | None:
    """Undo a fault that its process survives; the seconds until that was a member again."""
    if fault in (Fault.KILL, Fault.DRAIN):
        return None
    began = time.perf_counter()
    if fault is Fault.CUT:
        assert silos.network is not None
        await silos.network.mend(victim)
    else:
        silos.signal(victim, signal.SIGCONT)
    await until(f"{victim} has rejoined", returned)
    return time.perf_counter() - began


async def _incarnation(observer: Connected, name: str) -> str:
    return next((member.silo for member in await observer.client.members() if member.name == name), "")


async def _has_returned(observer: Connected, name: str, before: str) -> bool:
    return await _incarnation(observer, name) not in ("", before)


async def until(what: str, condition: Callable[[], bool] | Callable[[], Awaitable[bool]]) -> None:
    """Raise ``WorkerFailed`` if the condition does not come true in time."""
    end = time.perf_counter() + PATIENCE
    while True:
        met = condition()
        if met if isinstance(met, bool) else await met:
            return
        if time.perf_counter() > end:
            raise WorkerFailed(f"not within {PATIENCE:g} s: {what}")
        await asyncio.sleep(0.02)


def sum_up(fault: Fault, callers: Sequence[Caller], *, began: float, ended: float, victim: str, process: int) -> Tried:
    """What the callers saw of a fault, that ``process`` suffered, up to ``ended``."""
    of_victim = [caller for caller in callers if caller.home == victim]
    others = [caller for caller in callers if caller.home != victim]
    back = [at for caller in of_victim if (at := caller.back_at(began, process)) is not None]
    answers = [answer for caller in callers for answer in caller.answers if answer.ended > began]
    failed = Counter(error for caller in callers for error in caller.failed)
    return Tried(
        fault=fault.value,
        answered=sorted(at - began for at in back),
        silence=sorted(caller.silence(began) for caller in of_victim),
        silence_elsewhere=max((caller.silence(began) for caller in others), default=0.0),
        calls=len(answers) + failed.total(),
        failed=dict(failed),
        repeated=sum(answer.attempt > 0 for answer in answers),
        wrong=sum(caller.wrong for caller in callers),
        lost_bars=_bars(of_victim, began - LEAD, ended),
        other_bars=_bars(others, began - LEAD, ended),
    )


def _bars(callers: Sequence[Caller], began: float, ended: float) -> list[int]:
    bars = [0] * int((ended - began) / BIN)
    for caller in callers:
        for answer in caller.answers:
            number = int((answer.ended - began) // BIN)
            if 0 <= number < len(bars):
                bars[number] += 1
    return bars


class Recovered(msgspec.Struct):
    """Many actors of one dead silo, all asked at once. Seconds from its death."""

    first: float
    half: float
    all: float
    cpu: float
    """CPU seconds of the surviving silos meanwhile, all together."""


async def recover(silos: SiloProcesses, victim: str, actors: int) -> Recovered:
    """Kill a silo with so many actors, ask all of them at once, and start another in its place.

    Raises ``WorkerFailed``.
    """
    survivors = [silos.running[name].pid for name in NAMES if name != victim]
    run = secrets.token_hex(4)
    refs = [Resident.ref(f"{victim}.{run}-{number}").options(timeout=PATIENCE) for number in range(actors)]
    async with open_clients(silos) as clients:
        contexts = [one.context for one in clients if one.client is not clients[0].client]

        async def ask(number: int, began: float) -> float:
            await refs[number].visit()
            return time.perf_counter() - began

        async def ask_all(numbers: range) -> list[float]:
            began = time.perf_counter()
            asking = [
                asyncio.create_task(ask(number, began), context=contexts[number % len(contexts)].copy())
                for number in numbers
            ]
            return list(await asyncio.gather(*asking))

        try:
            for first in range(0, actors, _GROUP):
                await ask_all(range(first, min(first + _GROUP, actors)))
            cpu = sum(map(cpu_seconds, survivors))
            silos.signal(victim, signal.SIGKILL)
            answered = sorted(await ask_all(range(actors)))
            cpu = sum(map(cpu_seconds, survivors)) - cpu
        except ActorError as error:
            raise WorkerFailed(f"not all of {actors} actors came back: {error}") from error
    await silos.replace(victim)
    return Recovered(answered[0], percentile(answered, 50), answered[-1], cpu)
