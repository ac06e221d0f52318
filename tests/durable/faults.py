"""Where the silo processes of these tests kill themselves, and what is written down outside of the system.

A plan is a file named after an address that holds a point and a count: ``before turn#1``. Code under test, and the
store that these silos are given, say which points they reach; whoever reaches the planned one is killed with SIGKILL.
A plan is used up by that, so that the kill happens once in the cluster, unless its count is ``every``. Instead of being
killed it can be stopped (SIGSTOP), for the test to do something before it kills it.
"""

import asyncio
import os
import signal
from collections import Counter
from pathlib import Path
from typing import Any
from urllib.parse import quote

import cluster.silo
from actors import records
from actors.activation import Activation
from actors.calls import ForwardedCall
from actors.envelope import Envelope, Reply, Request
from actors.outbound import Outbound
from actors.ports import Commit
from actors.records import (
    INTERRUPT,
    JOURNAL,
    MESSAGE,
    OUTBOX,
    SIGNAL,
    Deltas,
    Done,
    Finished,
    Pending,
    Raised,
    Read,
    Started,
    Waiting,
)
from actors.step_names import shown_path
from actors.turn import Turn
from cluster.store import LocalStore, open_store

FOLDER = "DURABLE_TEST_FOLDER"
_ROWS: dict[object, str] = {
    Started: "start",
    Finished: "result",
    Raised: "error",
    Deltas: "deltas",
    Waiting: "wait",
}
_OTHERS = {INTERRUPT: "interrupt", SIGNAL: "signal"}

_reached: Counter[tuple[str, str]] = Counter()


def folder() -> Path:
    """Where plans and notes are."""
    return Path(os.environ[FOLDER])


def plan_of(folder: Path, address: str) -> Path:
    """The file of an address's plan; ``.done`` is added to its name when it has come true."""
    return folder / "plans" / quote(address, safe="")


def plan_kill(
    folder: Path, address: str, point: str, count: int | str = 1, how: signal.Signals = signal.SIGKILL
) -> None:
    """Let the silo that reaches the point of the address for the n-th time be killed, or stopped, there."""
    plan = plan_of(folder, address)
    plan.parent.mkdir(exist_ok=True)
    plan.write_text(f"{point}#{count}#{int(how)}")


def reach(address: str, point: str) -> None:
    """This process has come to a point; it ends here if that was planned."""
    plan = plan_of(folder(), address)
    try:
        planned, count, how = plan.read_text().split("#")
    except FileNotFoundError:
        return
    if planned != point:
        return
    _reached[address, point] += 1
    if count != "every":
        if _reached[address, point] != int(count):
            return
        plan.rename(plan.with_name(f"{plan.name}.done"))
    os.kill(os.getpid(), int(how))


def note(line: str) -> None:
    """Add a line to the file that outlives every silo."""
    file = os.open(folder() / "notes", os.O_APPEND | os.O_CREAT | os.O_WRONLY)
    try:
        os.write(file, f"{line}\n".encode())
    finally:
        os.close(file)


def notes(folder: Path) -> Counter[str]:
    """How often each line was noted."""
    file = folder / "notes"
    return Counter(file.read_text().splitlines() if file.exists() else ())


def points_of(commit: Commit) -> list[str]:
    """What a commit is about, in these tests' words."""
    found: dict[str, None] = {}
    ends = commit.state is not None or any(key[:1] == MESSAGE for key in commit.drop)
    for key, value in commit.put.items():
        if key[:1] == MESSAGE:
            row = records.message_rows.decode(value)
            if isinstance(row, Pending):
                found["adopt" if row.adoptions else f"inbox {row.request.handler or 'receive'}"] = None
            ends |= isinstance(row, Done)
        elif key[:1] == JOURNAL:
            row = records.journal_rows.decode(value)
            path = shown_path(key[17:].partition(b"\0")[0].decode())
            found["read" if isinstance(row, Read) else f"{_ROWS[type(row)]} {path}"] = None
        elif key[:1] in _OTHERS:
            found[_OTHERS[key[:1]]] = None
    if ends:
        found["turn"] = None
    if any(key[:1] == OUTBOX for key in commit.drop):
        found["removal"] = None
    return list(found)


def hold(folder: Path, address: str, point: str) -> Path:
    """Let commits of the address that are about ``point`` wait as long as the file that is returned is there."""
    plan_kill(folder, address, "never")
    file = plan_of(folder, address).with_suffix(".hold")
    file.write_text(point)
    return file


async def _held(address: str, point: str) -> None:
    file = plan_of(folder(), address).with_suffix(".hold")
    if file.exists() and file.read_text() == point:
        note(f"{address} held")
        while file.exists():  # noqa: ASYNC110  # it goes from outside
            await asyncio.sleep(0.005)


class FaultyStore:
    """A store whose commits are points that can be planned: ``before`` and ``after`` each of what they are about."""

    def __init__(self, store: LocalStore) -> None:
        self._store = store

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def commit(self, commit: Commit) -> None:
        points = points_of(commit)
        for point in points:
            reach(commit.address, f"before {point}")
            await _held(commit.address, point)
        await self._store.commit(commit)
        for point in points:
            reach(commit.address, f"after {point}")


async def _open_store(url: str) -> Any:
    return FaultyStore(await open_store(url))


def install() -> None:
    """Make this process one that can be killed as planned."""
    answer, deliver, forward = Turn.answer, Outbound.deliver, ForwardedCall.on_envelope
    accept = Activation.accept

    def noted_acceptance(activation: Activation, request: Request, origin: Any) -> None:
        accept(activation, request, origin)
        if request.attempt:
            note(f"{activation.address} repeat")

    def planned_answer(turn: Turn, envelope: Envelope) -> None:
        if isinstance(envelope, Reply):
            reach(turn.address, "before reply")
        answer(turn, envelope)

    def planned_delivery(outbound: Outbound, request: Request) -> Any:
        reach(request.sender, "before delivery")
        return deliver(outbound, request)

    def planned_forwarding(call: ForwardedCall, envelope: Envelope, *, trusted: bool) -> bool:
        reach(call.request.address, "before forward")
        return forward(call, envelope, trusted=trusted)

    cluster.silo.open_store = _open_store  # type: ignore[attr-defined]
    Activation.accept = noted_acceptance  # type: ignore[assignment, method-assign]
    Turn.answer = planned_answer  # type: ignore[assignment, method-assign]
    Outbound.deliver = planned_delivery  # type: ignore[assignment, method-assign]
    ForwardedCall.on_envelope = planned_forwarding  # type: ignore[assignment, method-assign]


def forget_plans(folder: Path) -> None:
    """Plan nothing any more."""
    for plan in folder.glob("plans/*"):
        plan.unlink(missing_ok=True)


def forget(folder: Path) -> None:
    """Begin anew: no plans, no notes."""
    forget_plans(folder)
    (folder / "notes").unlink(missing_ok=True)
