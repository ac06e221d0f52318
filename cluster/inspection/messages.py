"""Stored messages as operators see them, with their arguments."""

import msgspec

from actors import codec
from actors.envelope import Mode, Request
from actors.records import Parked
from cluster.inspection.plain import iso_time
from cluster.inspection.room import Room


def describe(request: Request, room: Room, **more: object) -> dict[str, object]:
    """A message, and ``more`` of it."""
    payload = request.payload
    try:
        args, kwargs = codec.split_arguments(payload)
    except msgspec.DecodeError:
        args, kwargs = [msgspec.Raw(payload)], {}
    found: dict[str, object] = {
        "message_id": request.message_id,
        "handler": request.handler or "receive",
        "mode": Mode(request.mode).name.lower(),
        "sender": request.sender or None,
        **more,
        "args": [room.value(arg, len(bytes(arg))) for arg in args],
        "kwargs": {name: room.value(arg, len(bytes(arg))) for name, arg in kwargs.items()},
    }
    if request.key:
        found["idempotency_key"] = request.key
    if request.headers:
        found["headers"] = dict(request.headers)
    return found


def describe_parked(row: Parked, room: Room) -> dict[str, object]:
    """A parked message, with why it is there."""
    return describe(row.request, room, reason=room.text(row.reason), since=iso_time(row.since))
