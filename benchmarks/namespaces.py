"""Hosts of one's own on this machine: network namespaces on a bridge, whose cables can be pulled. Linux, as root."""

import asyncio
import contextlib
import ipaddress
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from typing import Self


class NoNamespaces(Exception):
    """This machine does not let us have network namespaces; says why."""


class Network:
    """A bridge that this host has an address on, and hosts beside it. Made by ``open_network``."""

    def __init__(self, number: int) -> None:
        self._number = number
        self._subnet = ipaddress.ip_network((0x0AC00000 + (number % 0x4000) * 256, 24))  # within 10.192.0.0/10
        self._hosts: dict[str, int] = {}
        self.address = str(self._subnet[1])
        """Where this host is reached by the others."""

    def address_of(self, host: str) -> str:
        """The address of a host."""
        return str(self._subnet[self._hosts[host] + 1])

    def command(self, host: str) -> list[str]:
        """What to put before a command that is to run on the host."""
        return ["ip", "netns", "exec", self._namespace(host)]

    async def add(self, host: str) -> None:
        """One more host, with its cable plugged in."""
        number = self._hosts.setdefault(host, len(self._hosts) + 1)
        here, there, namespace = self._cable(host), f"fo{self._number}n{number}", self._namespace(host)
        await _ip("netns", "add", namespace)
        await _ip("link", "add", here, "type", "veth", "peer", "name", there)
        await _ip("link", "set", there, "netns", namespace, "name", "eth0")
        await _ip("link", "set", here, "master", self._bridge, "up")
        for words in (("addr", "add", f"{self.address_of(host)}/24", "dev", "eth0"), ("link", "set", "eth0", "up"),
                      ("link", "set", "lo", "up")):  # fmt: skip
            await _ip("-n", namespace, *words)

    async def cut(self, host: str) -> None:
        """Pull its cable: nobody refuses anything, nothing arrives."""
        await _ip("link", "set", self._cable(host), "down")

    async def mend(self, host: str) -> None:
        """Plug it in again."""
        await _ip("link", "set", self._cable(host), "up")

    async def __aenter__(self) -> Self:
        try:
            await _ip("link", "add", self._bridge, "type", "bridge")
            await _ip("addr", "add", f"{self.address}/24", "dev", self._bridge)
            await _ip("link", "set", self._bridge, "up")
        except NoNamespaces:
            await self._remove()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._remove()

    async def _remove(self) -> None:
        for host in self._hosts:
            for words in (("link", "del", self._cable(host)), ("netns", "del", self._namespace(host))):
                with contextlib.suppress(NoNamespaces):  # it was never made, or went with the other
                    await _ip(*words)
        with contextlib.suppress(NoNamespaces):
            await _ip("link", "del", self._bridge)

    @property
    def _bridge(self) -> str:
        return f"fo{self._number}b"

    def _cable(self, host: str) -> str:
        return f"fo{self._number}h{self._hosts[host]}"

    def _namespace(self, host: str) -> str:
        return f"failover-{self._number}-{host}"


@contextlib.asynccontextmanager
async def open_network(*hosts: str) -> AsyncIterator[Network]:
    """Hosts on a bridge, removed at the end. Raises ``NoNamespaces``."""
    if sys.platform != "linux" or shutil.which("ip") is None:
        raise NoNamespaces("it needs Linux and the command ip (iproute2)")
    if os.geteuid() != 0:
        raise NoNamespaces("it needs root: only root makes network namespaces")
    async with Network(os.getpid()) as network:
        for host in hosts:
            await network.add(host)
        yield network


def free_port(address: str) -> int:
    """A TCP port that is free there now."""
    with socket.socket() as probe:
        probe.bind((address, 0))
        return int(probe.getsockname()[1])


async def _ip(*words: str) -> None:
    done = await asyncio.to_thread(subprocess.run, ["ip", *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise NoNamespaces(f"ip {' '.join(words)}: {done.stderr.strip()}")
