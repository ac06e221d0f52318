"""What a reader needs who joins a channel late: the text so far in few pieces, and nothing that was superseded."""

from typing import Any, Final, NamedTuple

DELTA: Final = "delta"
"""The field of a dict that holds a piece of a text; the others say what text it is."""


class Entry(NamedTuple):
    """An entry of a channel, or several that were merged: ``offset`` is that of the last one."""

    offset: int
    kind: str
    data: Any
    turn: str
    begins: bool = False
    """Whether a stream begins here: a reset goes back to such an entry, and to no other one."""


class _Run:
    """Entries that are pieces of one text."""

    __slots__ = ("entry", "like", "pieces")

    def __init__(self, entry: Entry) -> None:
        self.entry = entry  # the first one
        self.like, piece = _split(entry)
        self.pieces = [(entry.offset, piece)]

    def continues(self, other: "_Run") -> bool:
        """Whether its first entry goes on with the text of another run."""
        if self.like is None or self.entry.begins:
            return False
        return self.entry.turn == other.entry.turn and self.like == other.like

    def merged(self) -> Entry:
        """All of them as one."""
        if len(self.pieces) == 1:
            return self.entry
        text = "".join(piece for _, piece in self.pieces)
        data = text if self.like == "" else {**self.entry.data, DELTA: text}
        return self.entry._replace(offset=self.pieces[-1][0], data=data)


def _split(entry: Entry) -> tuple[dict[str, Any] | str | None, str]:
    """What tells an entry's text from others, and its piece of it; None if it is not to be merged."""
    data = entry.data
    if entry.kind == "item" and entry.turn:
        if type(data) is str:
            return "", data
        if type(data) is dict and type(data.get(DELTA)) is str:
            return {name: value for name, value in data.items() if name != DELTA}, data[DELTA]
    return None, ""


class Compactor:
    """Merges entries that are added in order.

    Of one turn, strings that follow each other become one string, and so do the fields "delta" of dicts that are equal
    but for them; not over the beginning of a stream, as a reset may come back to that. What a "reset" supersedes is
    left out, and the reset too, unless the reader has something of it: what is below the offset ``given``. Everything
    else stays.
    """

    __slots__ = ("_given", "_runs", "size")

    def __init__(self, given: int = 0) -> None:
        self._given = given
        self._runs: list[_Run] = []
        self.size = 0
        """About how much is held: entries, and characters of texts."""

    def add(self, entry: Entry) -> None:
        """The next entry. Entries of which nothing is known but their bytes are kept as they are."""
        if entry.kind == "reset" and type(entry.data) is int:
            self._discard(entry.data)
            if entry.data >= self._given:
                return
        last = self._runs[-1] if self._runs else None
        run = _Run(entry)
        self.size += 1 + len(run.pieces[0][1])
        if last is not None and run.continues(last):
            last.pieces += run.pieces
        else:
            self._runs.append(run)

    def _discard(self, first: int) -> None:
        """What has an offset from ``first`` on was told in vain."""
        resets: list[_Run] = []
        while self._runs and self._runs[-1].entry.offset >= first:
            run = self._runs.pop()
            if run.entry.kind == "reset" and run.entry.data < first:  # it reaches further, into what the reader has
                resets.insert(0, run)
        if self._runs:
            last = self._runs[-1]
            last.pieces = [piece for piece in last.pieces if piece[0] < first]
        self._runs += resets

    def take(self) -> list[Entry]:
        """What was added, merged; from now on the reader has it."""
        merged = [run.merged() for run in self._runs]
        if merged:
            self._given = merged[-1].offset + 1
        self._runs, self.size = [], 0
        return merged
