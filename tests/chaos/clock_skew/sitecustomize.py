"""Python runs this at its start where the folder is in PYTHONPATH: its wall clock is then wrong by CHAOS_SKEW seconds.

It goes wrong by another CHAOS_DRIFT seconds in each second, until that makes 3 seconds.

The monotonic clocks, by which leases are counted, go right: a wrong setting does not move them.
"""

import os
import time

_SKEW = float(os.environ.get("CHAOS_SKEW", "0"))
_DRIFT = float(os.environ.get("CHAOS_DRIFT", "0"))
_MOST = 3.0
if _SKEW or _DRIFT:
    _time, _time_ns, _monotonic = time.time, time.time_ns, time.monotonic
    _begin = _monotonic()

    def _wrong() -> float:
        return _SKEW + min(max(_DRIFT * (_monotonic() - _begin), -_MOST), _MOST)

    time.time = lambda: _time() + _wrong()
    time.time_ns = lambda: _time_ns() + int(_wrong() * 1e9)
