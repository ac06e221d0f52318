"""Other processes for the tests of a store file. Each runs a few lines of Python and speaks through its pipes."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from textwrap import dedent

ROOT = Path(__file__).parents[3]
PRELUDE = """
import asyncio, os, resource, sys
from actors.ports import Commit, StoreUnavailable
from cluster.store import SqliteStore, StoreInUse
def say(word): print(word, flush=True)
def wait(): sys.stdin.readline()
"""


class Helper:
    """A running process: ``heard`` reads a line, ``go`` lets it leave ``wait()``."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self.process = process

    def heard(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def go(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()


@contextmanager
def python(code: str, *arguments: object, prefix: tuple[str, ...] = ()) -> Iterator[Helper]:
    """Run the code, with ``say``, ``wait`` and the store's names at hand; killed at the end unless it has ended."""
    with subprocess.Popen(
        [*prefix, sys.executable, "-c", PRELUDE + dedent(code), *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,  # where the packages are found
    ) as process:
        try:
            yield Helper(process)
        finally:
            if process.poll() is None:
                process.kill()


def run_python(code: str, *arguments: object, prefix: tuple[str, ...] = ()) -> str:
    """Run the code to its end and return what it said."""
    with python(code, *arguments, prefix=prefix) as helper:
        output, _ = helper.process.communicate(timeout=30)
        assert helper.process.returncode == 0
        return output
