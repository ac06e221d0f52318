"""``silo dev``: one silo that starts anew when the app's files change."""

import asyncio
import contextlib
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from watchfiles import PythonFilter, awatch

from cluster.exit_status import ExitStatus, complain
from cluster.signals import StopSignals


async def run_and_reload(apps: Sequence[str], command: Sequence[str], *, environment: Mapping[str, str]) -> int:
    """Run ``silo start`` with ``command``, restart it on every change of a Python file beside the apps.

    ``environment``: further settings, which may be secret: everybody can read the arguments of a process.

    A silo that ends by itself (the app does not import any more) is started again at the next change. If the first one
    ends so, before there was any change, the command ends with its exit status.
    """
    folders = _folders(apps)
    for folder in folders:
        if not folder.is_dir():
            return complain(f"there is no folder {folder} to watch", ExitStatus.USAGE)
    signals = StopSignals()
    child = await _start(command, environment)
    first = asyncio.create_task(_give_up_with(child, signals))
    try:
        async for changes in awatch(*folders, watch_filter=PythonFilter(), stop_event=signals.asked, step=100):
            names = ", ".join(sorted({Path(path).name for _, path in changes}))
            print(f"silo: {names} changed; restarting", file=sys.stderr, flush=True)
            first.cancel()
            await _end(child)
            child = await _start(command, environment)
    finally:
        first.cancel()
        await _end(child)
    return signals.exit_status if signals.received is not None else child.returncode or ExitStatus.OK


async def _give_up_with(child: asyncio.subprocess.Process, signals: StopSignals) -> None:
    await child.wait()
    signals.asked.set()


async def _start(command: Sequence[str], settings: Mapping[str, str]) -> asyncio.subprocess.Process:
    # What is set for this command is in ``command``; SILO_ETCD would make the silo a member of a real cluster.
    inherited = {name: value for name, value in os.environ.items() if name not in ("SILO_CONFIG", "SILO_ETCD")}
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "cluster.cli", "start", *command, "--parent-pid", str(os.getpid()),
        start_new_session=True, env={**inherited, **settings},
    )  # fmt: skip


async def _end(child: asyncio.subprocess.Process) -> None:
    if child.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            child.terminate()
        try:
            async with asyncio.timeout(15):
                await child.wait()
        except TimeoutError:
            child.kill()
            await child.wait()


def _folders(apps: Sequence[str]) -> set[Path]:
    """The folder of each app that is a file; the working directory for modules."""
    return {Path(app).resolve().parent if app.endswith(".py") else Path.cwd() for app in apps}
