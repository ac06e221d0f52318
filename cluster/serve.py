"""Running one silo as a process: the ready line, signals, exit status."""

import asyncio
import contextlib
import ctypes
import gc
import json
import logging
import os
import signal
import sys
from collections.abc import Callable, Coroutine
from typing import Any, NoReturn

from actors.ports import StoreUnavailable
from cluster.directory import NewerFormat, StoreMismatch
from cluster.etcd import EtcdError
from cluster.exit_status import ExitStatus, complain
from cluster.membership import NameTaken
from cluster.signals import StopSignals
from cluster.silo import Silo
from cluster.store import UnusableStore

log = logging.getLogger("cluster")

_PR_SET_PDEATHSIG = 1

CANCEL_LIMIT = 2.0


def run(main: Callable[[], Coroutine[Any, Any, int]]) -> int:
    """Run a coroutine function on uvloop, where there is one, and return its result."""
    try:
        import uvloop  # not there on Windows

        factory: Callable[[], asyncio.AbstractEventLoop] | None = uvloop.new_event_loop
    except ImportError:
        factory = None
    # What is loaded now stays, and calls under way are no garbage: with Python's own thresholds each burst of calls
    # would make the collector walk over every activation.
    gc.freeze()
    gc.set_threshold(10_000, 20, 50)
    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(main())


async def serve(make_silo: Callable[[], Silo]) -> int:
    """Run a silo until a signal: the first drains it, a second SIGTERM or Ctrl-C ends it at once."""
    allow_many_connections()
    signals = StopSignals()
    try:
        silo = make_silo()
    except ValueError as error:
        return complain(error, ExitStatus.USAGE)
    starting = asyncio.create_task(silo.start())
    stopping = asyncio.create_task(signals.wait())
    await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
    if not starting.done():
        starting.cancel()
        await asyncio.gather(starting, return_exceptions=True)
        return signals.exit_status
    stopping.cancel()
    try:
        await starting
    except (ValueError, UnusableStore, NewerFormat) as error:
        return complain(error, ExitStatus.USAGE)
    except (EtcdError, StoreUnavailable) as error:
        return complain(error, ExitStatus.UNAVAILABLE)
    except (OSError, NameTaken, StoreMismatch) as error:
        return complain(error, ExitStatus.FAILED)
    print(json.dumps({"ready": True, "silo": silo.name, "grpc": silo.grpc, "http": silo.http}), flush=True)
    stopping = asyncio.create_task(signals.wait())
    drained = asyncio.create_task(silo.stopped.wait())
    await asyncio.wait({stopping, drained}, return_when=asyncio.FIRST_COMPLETED)
    await silo.stop()
    await _end_tasks(signals.exit_status)
    await _end_threads(signals.exit_status)
    return signals.exit_status


def allow_many_connections() -> None:
    """Lift the limit of open files, one for each connection, as far as it goes without asking."""
    try:
        import resource  # not there on Windows
    except ImportError:
        return
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):  # macOS names a limit that it does not take
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


async def _end_tasks(status: int) -> None:
    """Cancel what handlers have left running; a process must not live on for one that will not be cancelled."""
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    if tasks:
        _, stuck = await asyncio.wait(tasks, timeout=CANCEL_LIMIT)
        if stuck:
            log.error(
                "%d tasks will not be cancelled, for example %r; the process ends without them", len(stuck), stuck.pop()
            )
            _end_now(status)


async def _end_threads(status: int) -> None:
    """Wait for what handlers run in asyncio's threads; Python would wait for that for as long as it takes."""
    ending = asyncio.create_task(asyncio.get_running_loop().shutdown_default_executor())
    _, stuck = await asyncio.wait({ending}, timeout=CANCEL_LIMIT)
    if stuck:
        log.error("a function still runs in a thread, %g s after the end; the process ends without it", CANCEL_LIMIT)
        _end_now(status)


def _end_now(status: int) -> NoReturn:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def die_with_parent(parent: int) -> None:
    """Drain when the process ``parent`` ends, however it ends (Linux), so that no silo is left behind."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        sys.exit(ExitStatus.FAILED)
