"""The journaled steps of messages as operators see them."""

import math
from collections.abc import Iterable
from typing import Any

from actors import records
from actors.ports import Store
from actors.records import BESIDE, Deltas, Finished, Raised, Read, Started, Waiting
from actors.step_names import shown_path
from cluster.inspection.plain import iso_time
from cluster.inspection.room import Room

_LARGE = {"$omitted": "a large value"}


async def steps_of(
    store: Store, address: str, rows: Iterable[tuple[bytes, bytes]], room: Room
) -> dict[bytes, list[dict[str, Any]]]:
    """The journaled steps of each message, by its number; in the order in which they were called."""
    found: dict[bytes, dict[str, dict[str, Any]]] = {}
    for key, value in rows:
        row = records.journal_rows.decode(value)
        if isinstance(row, Read):
            continue  # it tells which message was read where, and of no step
        number, (path, _, _) = key[1:17], key[17:].partition(b"\0")
        steps = found.setdefault(number, {})
        name = shown_path(path.decode())
        if name not in steps and not room.row():
            continue
        step = steps.setdefault(name, {"name": name, "status": "streaming"})
        match row:
            case Started(function, elapsed):
                step |= {"status": "started", "function": function, "elapsed": elapsed}
            case Finished(function, elapsed, payload):
                step |= {"status": "finished", "function": function, "elapsed": elapsed}
                payload = payload if payload is not None else await _beside(store, address, key, room)
                step["result"] = _LARGE if payload is None else room.value(payload, len(payload))
            case Raised(function, elapsed, failure):
                step |= {"status": "failed", "function": function, "elapsed": elapsed}
                step["error"] = room.text(failure.text)
            case Waiting(function, elapsed, deadline):
                until = iso_time(deadline) if deadline != math.inf else None
                step |= {"status": "waiting", "function": function, "elapsed": elapsed, "until": until}
            case Deltas(deltas):
                step["deltas"] = step.get("deltas", 0) + len(deltas)
    return {
        number: sorted(steps.values(), key=lambda step: float(step.get("elapsed", math.inf)))
        for number, steps in found.items()
    }


async def _beside(store: Store, address: str, key: bytes, room: Room) -> bytes | None:
    if room.left < records.LARGE * 2:
        return None
    rows = await store.read(address, BESIDE + key, BESIDE + key + b"\0", limit=1)
    return rows[0][1] if rows else None
