"""How much memory a process takes, and which objects take it."""

import gc
import os
import sys
from collections import Counter
from pathlib import Path
from typing import Any

_KIB = 1024


def proportional_memory(pid: int | str = "self") -> int:
    """Bytes of RAM that the process takes: its own pages, and its share of those that it shares (PSS).

    Raises ``OSError`` where there is no /proc/<pid>/smaps_rollup, as everywhere but on Linux.
    """
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == "Pss":
            return int(value.split()[0]) * _KIB
    raise OSError(f"/proc/{pid}/smaps_rollup does not tell Pss")


def resident_memory(pid: int | str = "self") -> int:
    """Bytes of RAM that the process holds (RSS), found out quickly. Raises ``OSError`` where there is no /proc."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class Census:
    """All objects of this process by type: how many, and how many bytes of their own.

    Bytes are those of ``sys.getsizeof``. It does not see the attributes of instances with a ``__dict__`` that nobody
    has asked for (Python keeps them in a block beside the object), nor what C libraries allocate.
    """

    def __init__(self) -> None:
        gc.collect()
        self.count: Counter[str] = Counter()
        self.size: Counter[str] = Counter()
        found: list[Any] = gc.get_objects()
        seen: set[int] = set()
        while found:
            thing = found.pop()
            if id(thing) in seen:
                continue
            seen.add(id(thing))
            name = f"{type(thing).__module__}.{type(thing).__qualname__}".removeprefix("builtins.")
            self.count[name] += 1
            self.size[name] += sys.getsizeof(thing, 0)
            # What the collector tracks is in the list already; the rest hangs below that.
            found.extend(child for child in gc.get_referents(thing) if not gc.is_tracked(child))
