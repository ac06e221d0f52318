"""The clock by which a silo knows how long it may act."""

import time

_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


class SystemClock:
    """Monotonic time that counts on while the machine sleeps, where the system has such a clock (Linux).

    Setting the wall clock does not touch it.
    """

    def now(self) -> float:
        """Seconds since an arbitrary point, the same for all processes of the machine."""
        return time.clock_gettime(_CLOCK)

    def time(self) -> float:
        """Seconds since 1970, UTC."""
        return time.time()
