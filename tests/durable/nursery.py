"""Starts ``silo`` commands as forks of a process that has imported everything: a fresh Python takes over a second each.

The arguments name the modules of the commands' actors. Reads one JSON object a line: the command's words, its
environment and settings, and the files for its output; answers each with the process id. The commands end with this
process, which ends with its input.
"""

import ctypes
import gc
import importlib
import json
import os
import signal
import sys
from functools import partial
from typing import Any

import cluster.cli
from actors.settings import Settings
from cluster.cli import app
from tests.durable import faults

_PR_SET_PDEATHSIG = 1


def _become(order: dict[str, Any]) -> None:
    """Run the command in this process, which is a fork, and end it."""
    status: object = 1
    try:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.setsid()
        for target, name in enumerate(("/dev/null", order["out"], order["err"])):
            flags = os.O_RDONLY if target == 0 else os.O_WRONLY | os.O_CREAT | os.O_APPEND
            os.dup2(os.open(name, flags), target)
        os.environ.update(order["env"])
        faults.install()
        cluster.cli.Settings = partial(Settings, **order["settings"])  # type: ignore[assignment, attr-defined]
        app(order["words"], prog_name="silo")
    except SystemExit as end:
        status = end.code
    finally:
        os._exit(status if isinstance(status, int) else 1)


def main() -> None:
    """Serve until the end of the input."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the commands
    for name in sys.argv[1:]:
        importlib.import_module(name)
    gc.freeze()
    for line in sys.stdin:
        pid = os.fork()
        if not pid:
            _become(json.loads(line))
        sys.stdout.write(f"{pid}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
