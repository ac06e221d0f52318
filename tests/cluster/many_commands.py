"""Runs one ``silo`` command after the other in this process: most of what a short one takes is the start of Python.

Reads a JSON list of argument lists from the first argument; writes a JSON list of [status, stdout, stderr].
"""

import contextlib
import io
import json
import logging
import sys

from cluster.cli import app


def run(words: list[str]) -> tuple[int, str, str]:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            app(words, prog_name="silo")
            status: object = 0
        except SystemExit as end:
            status = end.code
    return int(status or 0) if isinstance(status, int | None) else 1, out.getvalue(), err.getvalue()


def is_of_this_command(record: logging.LogRecord) -> bool:
    """Each command has an event loop of its own, and gRPC's one poller may still look for the one before."""
    return "PollerCompletionQueue._handle_events" not in record.getMessage()


if __name__ == "__main__":
    logging.getLogger("asyncio").addFilter(is_of_this_command)
    sys.stdout.write(json.dumps([run(words) for words in json.loads(sys.argv[1])]))
