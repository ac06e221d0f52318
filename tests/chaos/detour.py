"""A way between two network namespaces that takes its time: this process carries the packets, as it has no netem.

A host whose packets shall be late gets a route to the other one over a TUN device. What the kernel wants to send there
comes here, waits, and is put into the network of the run, which forwards it. Connections stay as they are and notice
nothing but the delay; filters see the addresses that they know.
"""

import asyncio
import fcntl
import os
import struct
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

_TUN = Path("/dev/net/tun")
_TUNSETIFF = 0x400454CA  # linux/if_tun.h
_IFF_TUN_WITHOUT_HEADER = 0x0001 | 0x1000
_LARGEST = 65536
_WAY_BACK = "late"

Command = Callable[..., Awaitable[None]]


def has_detours() -> bool:
    """Whether this machine has such devices."""
    return _TUN.exists()


class Detours:
    """The late ways of a run. ``run`` runs a command. Call ``close`` in the end."""

    def __init__(self, run: Command) -> None:
        self.carried = 0
        """How many packets have been made late."""
        self._run = run
        self._devices: dict[str, int] = {}
        self._delays: dict[str, float] = {}

    async def add(self, host: str, routes: dict[str, str], *, delay: float) -> None:
        """From now on, what ``host`` sends to the addresses is late by so many seconds. ``routes``: to its own ones."""
        await self._device(host)
        self._delays[host] = delay
        for target, source in routes.items():
            await self._run("ip", "-n", host, "route", "replace", target, "dev", _name(host), "src", source)

    async def remove(self, host: str, targets: list[str]) -> None:
        """Undo ``add``. What is under way still arrives."""
        for target in targets:
            await self._run("ip", "-n", host, "route", "del", target, "dev", _name(host))

    def close(self) -> None:
        """The devices go with their descriptors."""
        for device in self._devices.values():
            asyncio.get_running_loop().remove_reader(device)
            os.close(device)
        self._devices.clear()

    async def _device(self, host: str) -> None:
        if _WAY_BACK not in self._devices:
            self._devices[_WAY_BACK] = _open(_WAY_BACK)
            await self._run("ip", "link", "set", _WAY_BACK, "up")
            _set("ip_forward", 1)
            # Answers take the straight way: that is no forgery.
            _set("conf/all/rp_filter", 0)
            _set(f"conf/{_WAY_BACK}/rp_filter", 0)
        if host in self._devices:
            return
        device = self._devices[host] = _open(_name(host))
        await self._run("ip", "link", "set", _name(host), "netns", host)
        await self._run("ip", "-n", host, "link", "set", _name(host), "up")
        for interface in ("all", "eth0"):
            await self._run(
                "ip", "netns", "exec", host, "sh", "-c", f"echo 0 >/proc/sys/net/ipv4/conf/{interface}/rp_filter"
            )
        asyncio.get_running_loop().add_reader(device, self._arrived, host, device)

    def _arrived(self, host: str, device: int) -> None:
        with suppress(BlockingIOError):
            while packet := os.read(device, _LARGEST):
                if packet[0] >> 4 == 4:  # devices that are new send some IPv6
                    self.carried += 1
                    asyncio.get_running_loop().call_later(self._delays[host], self._deliver, packet)

    def _deliver(self, packet: bytes) -> None:
        if (way_back := self._devices.get(_WAY_BACK)) is not None:
            with suppress(BlockingIOError):  # lost, as packets may be
                os.write(way_back, packet)


def _name(host: str) -> str:
    return f"{host}-{_WAY_BACK}"


def _open(name: str) -> int:
    device = os.open(_TUN, os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(device, _TUNSETIFF, struct.pack("16sH14x", name.encode(), _IFF_TUN_WITHOUT_HEADER))
    return device


def _set(setting: str, value: int) -> None:
    Path("/proc/sys/net/ipv4", setting).write_text(f"{value}\n")
