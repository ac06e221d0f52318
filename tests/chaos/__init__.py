"""Real silos, etcd and stores under a workload and faults that are drawn from a seed; then the history is checked.

    python -m tests.chaos --minutes 10                          # a seed is drawn and printed
    python -m tests.chaos --seed 7 --store postgres             # the same faults at the same times
    python -m tests.chaos --faults kill freeze --minutes 1      # only these kinds
    python -m tests.chaos --plant no_fence --minutes 2          # with a known bug switched on in the silos

**What runs** (``fleet.py``): three or more ``silo start`` processes over an etcd of three members and one store. Each
silo and member has a network namespace of its own, in which it sees the others over a bridge (``wires.py``); an SQLite
file is on a disk without much room (``small_disk.py``). All of that is inside of namespaces of this run: nothing of it
can be left behind. Where that is not possible (no root, no ``ip`` or ``nft``) proxies take the place of the wires, and
the run says so.

**Workload** (``workload.py``, ``readers.py``, over the actors of ``town.py``): counters, transfers between accounts,
channels with readers that leave and come back by another silo or over HTTP, reminders. Calls whose outcome is
unknown are repeated with their idempotency key, some at once, some in the end.

**Faults** (``faults.py``): a seed gives the same faults at the same times; what they hit depends on the machine.

**Checks** (``counters.py``, ``checks.py``), when the faults are over and everything has come to rest.
"""
