"""How often a step's body is tried."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Retry:
    """How often a step's body is run again when it raises, and after which pauses (seconds).

    The pause before the n-th retry is ``delay * factor ** (n - 1)``, at most ``longest``. ``on``: which exceptions are
    worth it. What the last attempt raises is the step's outcome, and is journaled as such.
    """

    attempts: int = 3
    delay: float = 0.5
    factor: float = 2.0
    longest: float = 60.0
    on: type[Exception] | tuple[type[Exception], ...] = Exception

    def __post_init__(self) -> None:
        if self.attempts < 1 or self.delay < 0 or self.factor < 1 or self.longest < 0:
            raise ValueError(f"attempts from 1, delay and longest from 0 and factor from 1 are needed, not {self}")
