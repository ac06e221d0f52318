"""Runs one ``silo`` command after the other in this process: most of what a short one takes is the start of Python.

Reads a JSON list of argument lists from the first argument; writes a JSON list of [status, stdout, stderr].
"""

import contextlib
import io
import json
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


if __name__ == "__main__":
    sys.stdout.write(json.dumps([run(words) for words in json.loads(sys.argv[1])]))
