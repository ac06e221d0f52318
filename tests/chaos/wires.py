"""The network between the silos, and the members of etcd: one namespace for each, on a bridge, in which packets can be
lost, and late.

All of it is inside of a network and mount namespace of this process (``enter``), so the kernel takes it away with the
last process in there, however that ends. Nothing of it can be seen, or be in the way, outside.
"""

import asyncio
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.chaos.detour import Detours

INSIDE = "CHAOS_NAMESPACE"
BRIDGE_ADDRESS = "10.77.0.254"

_NAMES = "/run/netns" if Path("/run/netns").is_dir() else "/run"

# Everything that a run needs, tried in namespaces that end with the command.
_TRIAL = (
    "set -e; mount -t tmpfs tmpfs /run; ip link set lo up; ip netns add trial; ip link add chaos type bridge; "
    "ip link add trial type veth peer name eth0 netns trial; "
    "ip netns exec trial nft 'table inet chaos { chain in { type filter hook input priority 0; "
    "ip saddr 10.77.0.1 drop; numgen random mod 100 < 10 drop; }; }'"
)


def why_not() -> str:
    """What keeps this machine from having network namespaces with packet filters, "" if nothing does."""
    if sys.platform != "linux":
        return "this is not Linux"
    if os.geteuid() != 0:
        return "only root may make network namespaces"
    missing = [name for name in ("unshare", "ip", "nft", "mount", "setpriv") if shutil.which(name) is None]
    if missing:
        return f"these commands are missing: {', '.join(missing)} (apt install iproute2 nftables util-linux)"
    tried = subprocess.run(
        ["unshare", "--net", "--mount", "sh", "-c", _TRIAL], capture_output=True, text=True, check=False
    )
    return "" if tried.returncode == 0 else f"the kernel refuses: {tried.stderr.strip()}"


def enter(module: str, arguments: Sequence[str]) -> None:
    """Go on as the same process in namespaces of its own. Returns there only."""
    if os.environ.get(INSIDE) != str(os.getpid()):
        os.environ[INSIDE] = str(os.getpid())
        os.execvp("unshare", ["unshare", "--net", "--mount", sys.executable, "-m", module, *arguments])


def leash() -> tuple[str, ...]:
    """What starts a command so that the kernel kills it with this process, also where it is frozen."""
    setpriv = shutil.which("setpriv") if sys.platform == "linux" else None
    return (setpriv, "--pdeathsig", "KILL", "--") if setpriv is not None else ()


class Wires:
    """Namespaces with one address each, all in one net."""

    def __init__(self) -> None:
        self._hosts: dict[str, str] = {}
        self._drops: dict[str, set[str]] = {}  # by host: whose packets do not arrive
        self._loss: dict[str, int] = {}  # by host: percent of its packets that are lost
        self.detours = Detours(_run)

    async def start(self) -> None:
        # Names of namespaces are mounts there, and the mounts are this process's own.
        await _run("mount", "-t", "tmpfs", "tmpfs", _NAMES)
        await _run("ip", "link", "set", "lo", "up")
        await _run("ip", "link", "add", "chaos", "type", "bridge")
        await _run("ip", "address", "add", f"{BRIDGE_ADDRESS}/24", "dev", "chaos")
        await _run("ip", "link", "set", "chaos", "up")

    async def add(self, host: str) -> str:
        """A namespace of that name; its address."""
        address = f"10.77.0.{len(self._hosts) + 1}"
        await _run("ip", "netns", "add", host)
        await _run("ip", "link", "add", host, "type", "veth", "peer", "name", "eth0", "netns", host)
        await _run("ip", "link", "set", host, "master", "chaos", "up")
        for words in (("address", "add", f"{address}/24", "dev", "eth0"), ("link", "set", "lo", "up")):
            await _run("ip", "-n", host, *words)
        await _run("ip", "-n", host, "link", "set", "eth0", "up")
        self._hosts[host], self._drops[host], self._loss[host] = address, set(), 0
        return address

    def inside(self, host: str) -> tuple[str, ...]:
        """What runs a command in there, as the same process."""
        return ("ip", "netns", "exec", host, *leash())

    async def unplug(self, host: str) -> None:
        """Take its link down: nothing comes in or goes out."""
        await _run("ip", "link", "set", host, "down")

    async def plug(self, host: str) -> None:
        """Undo ``unplug``."""
        await _run("ip", "link", "set", host, "up")

    async def drop(self, source: str, target: str) -> None:
        """Let no packet of the one arrive at the other. The way back stays open."""
        self._drops[target].add(self._hosts[source])
        await self._filter(target)

    async def undrop(self, source: str, target: str) -> None:
        """Undo ``drop``."""
        self._drops[target].discard(self._hosts[source])
        await self._filter(target)

    async def lose(self, host: str, percent: int) -> None:
        """Lose so many of the packets that come in; 0 loses none."""
        self._loss[host] = percent
        await self._filter(host)

    async def delay(self, source: str, targets: Sequence[str], seconds: float) -> None:
        """Let what the one sends to the others arrive that much later. The way back is as it was."""
        routes = {self._hosts[target]: self._hosts[source] for target in targets}
        await self.detours.add(source, routes, delay=seconds)

    async def undelay(self, source: str, targets: Sequence[str]) -> None:
        """Undo ``delay``."""
        await self.detours.remove(source, [self._hosts[target] for target in targets])

    async def _filter(self, host: str) -> None:
        rules = [f"ip saddr {address} drop" for address in sorted(self._drops[host])]
        if self._loss[host]:
            rules.append(f"numgen random mod 100 < {self._loss[host]} drop")
        chain = "; ".join(["type filter hook input priority 0", *rules])
        await _run(
            "ip", "netns", "exec", host, "nft", f"flush ruleset; table inet chaos {{ chain in {{ {chain}; }}; }}"
        )


async def _run(*command: str) -> None:
    process = await asyncio.create_subprocess_exec(
        *command, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    said, _ = await process.communicate()
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}: {said.decode().strip()}")
