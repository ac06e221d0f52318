"""How ``silo tail`` prints an entry of an actor's channel of turns."""

from collections.abc import Callable
from datetime import datetime
from typing import Any

from cluster.cli_output import as_line, in_short, printable, span


def turn_line(entry: dict[str, Any]) -> str:
    """When, what happened to which handler's turn, the rest in words, and the end of the message's id."""
    event, at = str(entry.get("event", "?")), entry.get("at")
    when = _clock(at) if isinstance(at, int | float) else "?"
    words = [f"{name} {shown}" for name, show in _DETAILS.items() if (shown := _shown(show, entry.get(name)))]
    line = f"{when}  {event:<14} {entry.get('handler', '?')}  {', '.join(words)}".rstrip()
    return printable(f"{line}  [{entry.get('message_id', '?')}]").replace("\n", " ")


def _shown(show: Callable[[Any], str], value: object) -> str:
    if value is None or value in ("", [], {}):
        return ""
    try:
        return show(value)
    except Exception:  # written by another release: show it as it is
        return as_line(in_short(value))


def _clock(at: float) -> str:
    moment = datetime.fromtimestamp(at).astimezone()
    return moment.strftime("%H:%M:%S.") + f"{moment.microsecond // 1000:03}"


def _until(at: float) -> str:
    return datetime.fromtimestamp(at).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def _steps(steps: list[list[Any]]) -> str:
    return " ".join(f"{name} ({span(seconds)})" for name, seconds in steps)


def _published(ranges: dict[str, list[list[int]]]) -> str:
    return " ".join(f"{name} {first}-{end - 1}" for name, parts in ranges.items() for first, end in parts)


_DETAILS: dict[str, Callable[[Any], str]] = {
    "step": str,
    "steps": _steps,
    "name": str,
    "until": _until,
    "waited": span,
    "seconds": span,
    "published": _published,
    "reason": str,
    "error": lambda error: f"{error['type']}: {error['message']}",
    "into": str,
    "result": lambda result: as_line(in_short(result)),
}
"""In the order in which they are told. What is not here is in ``--json`` only."""
