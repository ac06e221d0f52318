"""A disk that hangs without an error: a file system of its own, which the kernel freezes (FIFREEZE).

Whoever writes there stands still in the kernel, where no signal reaches it, until the file system is thawed. So it is
mounted, frozen and thawed by a process of its own, which thaws it in any case: when it is told to, when nobody is left
to tell it, and after ``LIMIT`` seconds.
"""

import asyncio
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.cluster.store.processes import Helper, python

LIMIT = 100
"""Seconds that a disk hangs at the longest: a test has 120."""

_KEEPER = """
import fcntl, select, subprocess
FREEZE, THAW = 0xC0045877, 0xC0045878  # linux/fs.h
image, folder, limit = sys.argv[1], sys.argv[2], float(sys.argv[3])
with open(image, "wb") as file:
    file.truncate(64 << 20)
try:
    subprocess.run(["mkfs.ext4", "-q", "-F", image], check=True, capture_output=True)
    subprocess.run(["mount", "-o", "loop", image, folder], check=True, capture_output=True)
except (OSError, subprocess.CalledProcessError) as error:
    say(f"refused: {error} {getattr(error, 'stderr', b'').decode().strip()}".replace(chr(10), " "))
    raise SystemExit
try:
    say("mounted")
    while sys.stdin.readline():
        root = os.open(folder, os.O_RDONLY)
        fcntl.ioctl(root, FREEZE, 0)
        try:
            say("frozen")
            select.select([sys.stdin], [], [], limit)
        finally:
            fcntl.ioctl(root, THAW, 0)
            os.close(root)
        sys.stdin.readline()
        say("thawed")
finally:
    subprocess.run(["umount", "--lazy", folder], check=True)
"""


class HangingDisk:
    """A mounted file system. Its folder is empty in the beginning."""

    def __init__(self, folder: Path, keeper: Helper) -> None:
        self.folder = folder
        self._keeper = keeper

    async def hang(self) -> None:
        """From now on, writing to it does not end."""
        await self._tell("frozen")

    async def go_on(self) -> None:
        """Everything that was begun there goes on."""
        await self._tell("thawed")

    async def _tell(self, answer: str) -> None:
        self._keeper.go()
        assert await asyncio.to_thread(self._keeper.heard) == answer, f"after {LIMIT} s it goes on by itself"


@cache
def can_hang() -> bool:
    """Whether this machine mounts the image of a file system: that takes root, mkfs.ext4 and loop devices."""
    if sys.platform != "linux" or os.geteuid() != 0 or shutil.which("mkfs.ext4") is None:
        return False
    with TemporaryDirectory() as folder:
        image = Path(folder, "image")
        image.write_bytes(bytes(1 << 20))
        subprocess.run(["mkfs.ext4", "-q", "-F", image], check=True, capture_output=True)
        if subprocess.run(["mount", "-o", "loop", image, folder], check=False, capture_output=True).returncode:
            return False
        subprocess.run(["umount", folder], check=True)
        return True


@contextmanager
def hanging_disk(folder: Path) -> Iterator[HangingDisk]:
    """Mount one below the folder, where ``can_hang``; it goes on, and is unmounted, at the end."""
    disk = folder / "disk"
    disk.mkdir()
    with python(_KEEPER, folder / "disk.img", disk, LIMIT) as keeper:
        assert keeper.heard() == "mounted"
        try:
            yield HangingDisk(disk, keeper)
        finally:
            assert keeper.process.stdin is not None
            keeper.process.stdin.close()
            assert keeper.process.wait(timeout=30) == 0
