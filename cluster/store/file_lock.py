"""Who may use a store file: many silos of one cluster, or one embedded silo alone.

A kernel lock on ``<file>.lock`` beside the store, because it ends with the process that holds it, however that ends.
The lock file is never removed: removing it while another process waits on it would let two processes hold "the" lock.
"""

import fcntl
import os
from pathlib import Path

from cluster.store.errors import StoreInUse, UnusableStore


class FileLock:
    """A shared lock on a store file, taken when this is made, that can be made exclusive.

    Raises ``StoreInUse`` if another holder has it exclusively, ``UnusableStore`` if the lock file cannot be opened.
    Not thread-safe: one thread at a time.
    """

    def __init__(self, store: Path) -> None:
        self._store = store
        self._file = -1
        self.exclusive = False
        try:
            # One lock however the file is reached; the store itself may not exist yet.
            self._file = os.open(f"{store.resolve()}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise UnusableStore(f"{store}: cannot open the lock file {store}.lock: {error.strerror}") from error
        try:
            self.take_shared()
        except BaseException:
            self.release()
            raise

    def take_shared(self) -> None:
        """Hold the lock together with others, as the silos of a cluster on one host do."""
        if not self._flock(fcntl.LOCK_SH):
            raise StoreInUse(
                f"{self._store}: {self._holder()} has this store for itself. Stop it, give this silo a store of its "
                "own, or join the silos to one cluster with --etcd"
            )
        self.exclusive = False

    def take_exclusively(self) -> None:
        """Hold the lock alone. Raises ``StoreInUse`` and keeps or retakes the shared lock if another process has it."""
        if self.exclusive:
            return
        if not self._flock(fcntl.LOCK_EX):
            # Changing a lock gives the old one up first, so it has to be taken again.
            self.take_shared()
            raise StoreInUse(
                f"{self._store}: another silo uses this store. An embedded silo must be alone on its store: stop the "
                "other, or join the silos to one cluster with --etcd"
            )
        self.exclusive = True
        os.ftruncate(self._file, 0)
        os.pwrite(self._file, f"{os.getpid()}\n".encode(), 0)  # for the message of whoever comes second

    def release(self) -> None:
        """Give the lock up. May be called again."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
            self.exclusive = False

    def _flock(self, kind: int) -> bool:
        try:
            fcntl.flock(self._file, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError as error:
            raise UnusableStore(f"{self._store}: cannot lock {self._store}.lock: {error.strerror}") from error
        return True

    def _holder(self) -> str:
        pid = os.pread(self._file, 32, 0).decode(errors="replace").strip()
        return f"an embedded silo (process {pid})" if pid.isdecimal() else "an embedded silo"
