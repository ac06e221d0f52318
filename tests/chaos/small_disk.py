"""A file system without much room, which can be filled: in memory, in the mount namespace of the run."""

import errno
import shutil
import subprocess
from pathlib import Path

_SIZE = 256
"""In MB: what a store may grow to in a run of about an hour."""
_CHUNK = bytes(1 << 20)


class SmallDisk:
    """``mount`` it before anybody looks for it; it is gone with the namespace, or with ``unmount``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._ballast = folder / "ballast"

    def mount(self) -> None:
        self.folder.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={_SIZE}m", "tmpfs", str(self.folder)], check=True)

    def fill(self) -> None:
        """Leave no room at all."""
        with self._ballast.open("wb", buffering=0) as file:
            try:
                while file.write(_CHUNK):
                    pass
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise

    def empty(self) -> None:
        """Undo ``fill``."""
        self._ballast.unlink(missing_ok=True)

    def unmount(self, *, keep: Path) -> None:
        """Copy what is there, for those who look into it later, and take it away."""
        self.empty()
        shutil.copytree(self.folder, keep)
        subprocess.run(["umount", "--lazy", str(self.folder)], check=True)
