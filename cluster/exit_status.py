"""How the commands end."""

import sys
from enum import IntEnum


class ExitStatus(IntEnum):
    """What the commands exit with."""

    OK = 0
    FAILED = 1
    USAGE = 2  # a wrong option, or an app that does not import
    UNAVAILABLE = 3  # etcd, the store or every silo is away
    INTERRUPTED = 130  # Ctrl-C
    TERMINATED = 143  # a second SIGTERM


def complain(error: object, status: ExitStatus) -> ExitStatus:
    """Say in one line on stderr why the command ends, and return the status to end it with."""
    print(f"silo: {error}", file=sys.stderr, flush=True)
    return status
