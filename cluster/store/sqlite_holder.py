"""Which process holds a SQLite file for writing, so that whoever waits for it can be told (Linux)."""

from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

_WRITE_LOCK: Final = 120  # the byte of the file FILE-shm whose lock is that of the one writer (SQLite's WAL mode)
_STATES: Final = {"T": "stopped", "t": "stopped by a debugger"}


class Holder(NamedTuple):
    """A process that holds the file."""

    pid: int
    state: str
    """What hinders it, as far as that can be seen: "stopped" by a signal, for example; else empty."""

    def __str__(self) -> str:
        if self.state.startswith("stopped"):
            return f"process {self.pid}, which is {self.state} (continue or end it),"
        return f"process {self.pid}"


def find_writer(path: Path) -> Holder | None:
    """Who is in the middle of a write now; None if nobody is, or that cannot be told.

    Only looks at the kernel's table of locks: to open the file and close it again would end all locks of this process.
    """
    with suppress(OSError, ValueError):
        inode = str(Path(f"{path}-shm").stat().st_ino)
        for line in Path("/proc/locks").read_text().splitlines():
            _, _, _, kind, pid, file, first, last, *_ = line.split()  # those who only wait have a word more
            if kind == "WRITE" and file.rpartition(":")[2] == inode and int(first) <= _WRITE_LOCK <= int(last):
                return Holder(int(pid), _STATES.get(_state_of(int(pid)), ""))
    return None


def _state_of(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
