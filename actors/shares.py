"""Room that several callers share, so that none of them can take all of it from the others."""

from typing import Final

_GREED: Final = 8
_RESERVE: Final = 8


def may_take(own: int, free: int, limit: int) -> bool:
    """Whether a caller that has ``own`` of something may take more while ``free`` of ``limit`` is left for everybody.

    It may have eight times what is left, an eighth of the limit aside; of that eighth, no more than is left. So one
    caller alone comes to about three quarters, n of them that want all to 1/(n + 1) each at least, and each that comes
    anew, however much it wants, leaves half of what it finds to the next.
    """
    return own < max(_GREED * (free - limit // _RESERVE), free)


def with_reserve(limit: int) -> int:
    """What several callers may have together of something of which one alone may have ``limit``."""
    return limit + limit // _RESERVE


class Shares:
    """Counts what each caller has of a limited room. Who has nothing left is forgotten."""

    __slots__ = ("_of", "limit", "taken")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.taken = 0
        """By all together. Above the limit by one piece at most, where pieces are larger than 1."""
        self._of: dict[str, int] = {}

    @property
    def callers(self) -> int:
        """How many have something."""
        return len(self._of)

    def of(self, caller: str) -> int:
        """What the caller has."""
        return self._of.get(caller, 0)

    def has_room(self, caller: str) -> bool:
        """Whether the caller may take more."""
        if self.taken + self.taken < self.limit:  # while half of it is left everybody may, as ``may_take`` would say
            return True
        return may_take(self._of.get(caller, 0), self.limit - self.taken, self.limit)

    def take(self, caller: str, amount: int = 1) -> None:
        """Count so much more, whether there is room or not."""
        self.taken += amount
        self._of[caller] = self._of.get(caller, 0) + amount

    def give_back(self, caller: str, amount: int = 1) -> None:
        """Count so much less."""
        self.taken -= amount
        left = self._of[caller] - amount
        if left:
            self._of[caller] = left
        else:
            del self._of[caller]
