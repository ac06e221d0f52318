"""Running one silo as a process: the ready line, signals, exit status."""

import asyncio
import contextlib
import ctypes
import json
import logging
import os
import signal
import sys
from collections.abc import Callable, Coroutine
from enum import IntEnum
from typing import Any

from actors.ports import StoreUnavailable
from cluster.directory import StoreMismatch
from cluster.etcd import EtcdError
from cluster.membership import NameTaken
from cluster.silo import Silo
from cluster.store import UnusableStore

log = logging.getLogger("cluster")

_PR_SET_PDEATHSIG = 1


class ExitStatus(IntEnum):
    """What the commands exit with."""

    OK = 0
    FAILED = 1
    USAGE = 2  # a wrong option, or an app that does not import
    UNAVAILABLE = 3  # etcd, the store or every silo is away
    INTERRUPTED = 130  # Ctrl-C
    TERMINATED = 143  # a second SIGTERM


def run(main: Callable[[], Coroutine[Any, Any, int]]) -> int:
    """Run a coroutine function on uvloop, where there is one, and return its result."""
    try:
        import uvloop  # noqa: PLC0415  # not there on Windows

        factory: Callable[[], asyncio.AbstractEventLoop] | None = uvloop.new_event_loop
    except ImportError:
        factory = None
    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(main())


async def serve(make_silo: Callable[[], Silo]) -> int:
    """Run a silo until a signal: the first drains it, a second SIGTERM or Ctrl-C ends it at once."""
    loop = asyncio.get_running_loop()
    received: list[signal.Signals] = []
    asked = asyncio.Event()

    def on_signal(number: signal.Signals) -> None:
        received.append(number)
        if len(received) > 1:
            os._exit(ExitStatus.TERMINATED if number is signal.SIGTERM else ExitStatus.INTERRUPTED)
        log.info("%s: draining; once more ends it at once", number.name)
        asked.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        with contextlib.suppress(NotImplementedError):  # Windows
            loop.add_signal_handler(number, on_signal, number)
    try:
        silo = make_silo()
    except ValueError as error:
        return complain(error, ExitStatus.USAGE)
    starting = asyncio.create_task(silo.start())
    stopping = asyncio.create_task(asked.wait())
    await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
    if not starting.done():
        starting.cancel()
        await asyncio.gather(starting, return_exceptions=True)
        return _status(received)
    stopping.cancel()
    try:
        await starting
    except (ValueError, UnusableStore) as error:
        return complain(error, ExitStatus.USAGE)
    except (EtcdError, StoreUnavailable) as error:
        return complain(error, ExitStatus.UNAVAILABLE)
    except (OSError, NameTaken, StoreMismatch) as error:
        return complain(error, ExitStatus.FAILED)
    print(json.dumps({"ready": True, "silo": silo.name, "grpc": silo.grpc, "http": silo.http}), flush=True)
    await asked.wait()
    await silo.stop()
    return _status(received)


def _status(received: list[signal.Signals]) -> int:
    return ExitStatus.INTERRUPTED if received and received[0] is signal.SIGINT else ExitStatus.OK


def complain(error: object, status: ExitStatus) -> ExitStatus:
    """Say in one line on stderr why the command ends."""
    print(f"silo: {error}", file=sys.stderr, flush=True)
    return status


def die_with_parent(parent: int) -> None:
    """Drain when the process ``parent`` ends, however it ends (Linux), so that no silo is left behind."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        sys.exit(ExitStatus.FAILED)
