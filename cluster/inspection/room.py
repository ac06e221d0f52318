"""The room in an answer, so that it stays below what a message may have."""

from typing import Final

import msgspec

from cluster.inspection.plain import plain

MOST_BYTES: Final = 8 * 2**20

_ROW = 400  # about what the names and numbers of a row take in an answer


class Room:
    """What is left of an answer's size. One value takes at most half of it, so that the others are not crowded out."""

    def __init__(self, size: int) -> None:
        self.left = size

    def value(self, payload: bytes | msgspec.Raw, size: int) -> object:
        """The value, or how large it is."""
        if size > self.left // 2:
            return {"$omitted": f"{size} bytes"}
        self.left -= size
        return plain(payload)

    def text(self, text: str) -> str:
        """The text, or the beginning of it."""
        kept = text[: max(self.left // 8, 80)]
        self.left -= len(kept)
        return kept if kept == text else f"{kept}... ({len(text)} characters)"

    def row(self) -> bool:
        """Whether there is room for one more row."""
        self.left -= _ROW
        return self.left > 0
