"""Python runs this at its start where the folder is in PYTHONPATH: its wall clock is then wrong by CHAOS_SKEW seconds.

It goes wrong by another CHAOS_DRIFT seconds in each second, until that makes 3 seconds.

The monotonic clocks, by which leases are counted, go right: a wrong setting does not move them. The Python half of gRPC
is told the right time, as its half in C is: deadlines go from the one to the other, and a clock of a machine that is
wrong is wrong for both.
"""

import os
import sys
import time

_SKEW = float(os.environ.get("CHAOS_SKEW", "0"))
_DRIFT = float(os.environ.get("CHAOS_DRIFT", "0"))
_MOST = 3.0
if _SKEW or _DRIFT:
    _time, _time_ns, _monotonic = time.time, time.time_ns, time.monotonic
    _begin = _monotonic()

    def _wrong() -> float:
        return _SKEW + min(max(_DRIFT * (_monotonic() - _begin), -_MOST), _MOST)

    def _wrong_time() -> float:
        if sys._getframe(1).f_globals.get("__name__", "").partition(".")[0] == "grpc":
            return _time()
        return _time() + _wrong()

    time.time = _wrong_time
    time.time_ns = lambda: _time_ns() + int(_wrong() * 1e9)
