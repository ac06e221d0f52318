"""Python runs this at its start where the folder is in PYTHONPATH: its wall clock is then wrong by CHAOS_SKEW seconds.

The monotonic clocks, by which leases are counted, go right: a wrong setting does not move them.
"""

import os
import time

_SKEW = float(os.environ.get("CHAOS_SKEW", "0"))
if _SKEW:
    _time, _time_ns = time.time, time.time_ns
    time.time = lambda: _time() + _SKEW
    time.time_ns = lambda: _time_ns() + int(_SKEW * 1e9)
