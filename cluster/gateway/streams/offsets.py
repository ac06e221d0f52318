"""Offsets as the Durable Streams protocol shows them: ``<generation>_<position>``, 16 digits each.

A position counts the appends of a stream. The generation rises when a deleted name is used again: no offset ever
means two things.
"""

import re
from typing import Final, NamedTuple

START: Final = "-1"
NOW: Final = "now"

_OFFSET = re.compile(r"([0-9]{16})_([0-9]{16})")


class Offset(NamedTuple):
    """A place between two appends."""

    generation: int
    position: int

    def __str__(self) -> str:
        return f"{self.generation:016d}_{self.position:016d}"


def parse_offset(text: str) -> Offset:
    """Read what ``str`` wrote. Raises ``ValueError``."""
    found = _OFFSET.fullmatch(text)
    if found is None:
        raise ValueError(f"the offset {text[:80]!r} is none of this server's; use one of Stream-Next-Offset, -1 or now")
    return Offset(int(found[1]), int(found[2]))
