"""Spans of time as users give them."""

import math
from datetime import timedelta


def seconds(what: str, span: timedelta | float, *, positive: bool = False) -> float:
    """The span in seconds. Raises ``ValueError`` unless it is finite and not negative (or ``positive``)."""
    value = span.total_seconds() if isinstance(span, timedelta) else float(span)
    if not math.isfinite(value) or value < 0 or (positive and value == 0):
        least = "a positive" if positive else "a non-negative"
        raise ValueError(f"{what} must be {least} number of seconds or timedelta, not {span!r}")
    return value
