"""The release before this one, as files: taken from the repository's own history."""

import io
import subprocess
import tarfile
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Self

ROOT = Path(__file__).parents[2]


class NotInThisClone(Exception):
    """The history does not reach back to the release."""


@dataclass(frozen=True)
class Release:
    """What ``releases.toml`` says of a release."""

    version: str
    commit: str

    @classmethod
    def previous(cls) -> Self:
        return cls(**tomllib.loads((Path(__file__).parent / "releases.toml").read_text())["previous"])

    def unpack(self, folder: Path, *, repository: Path = ROOT) -> Path:
        """Put the release's packages into a new folder, which is then a ``PYTHONPATH``. Raises ``NotInThisClone``."""
        archived = _git(repository, "archive", "--format=tar", self.commit, "actors", "cluster")
        if archived.returncode != 0:
            shallow = _git(repository, "rev-parse", "--is-shallow-repository").stdout.strip() == b"true"
            raise NotInThisClone(
                f"release {self.version}, commit {self.commit}, is not in {repository}"
                f"{', a shallow clone: `git fetch --unshallow` brings it' if shallow else ''} "
                f"(`git fetch origin {self.commit}` brings it alone; a clone in CI needs the whole history): "
                f"{archived.stderr.decode().strip()}"
            )
        tree = folder / f"release-{self.version}"
        tree.mkdir()
        with tarfile.open(fileobj=io.BytesIO(archived.stdout)) as archive:
            archive.extractall(tree, filter="data")
        return tree


def _git(repository: Path, *words: str) -> "subprocess.CompletedProcess[bytes]":
    return subprocess.run(["git", "-C", repository, *words], capture_output=True, check=False)
