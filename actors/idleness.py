"""Putting idle activations to sleep, at no cost per message."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from actors.activation import Activation


class Idleness:
    """Looks at each activation when it might have been idle for long enough, late by at most an eighth of that."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._due: dict[float, dict[Activation, None]] = {}

    def watch(self, activation: Activation) -> None:
        """Deactivate it once nothing has run or waited for its ``idle_timeout``."""
        self._look_at(activation, activation.last_used + activation.type.options.idle_timeout)

    def forget(self, activation: Activation) -> None:
        """It has ended: keep nothing of it."""
        self._due.get(activation.idle_slot, {}).pop(activation, None)

    def close(self) -> None:
        """Look at nothing any more."""
        self._due.clear()

    def _look_at(self, activation: Activation, when: float) -> None:
        timeout = activation.type.options.idle_timeout
        if timeout == float("inf"):
            return
        grain = min(max(timeout / 8, 0.02), 5.0)
        slot = (int(when / grain) + 1) * grain
        due = self._due.get(slot)
        if due is None:
            due = self._due[slot] = {}
            self._loop.call_at(slot, self._look, slot)
        due[activation] = None
        activation.idle_slot = slot

    def _look(self, slot: float) -> None:
        now = self._loop.time()
        for activation in self._due.pop(slot, ()):
            if activation.gone:
                continue
            due = activation.last_used + activation.type.options.idle_timeout
            if activation.busy:
                self._look_at(activation, now + activation.type.options.idle_timeout)
            elif due <= now:
                activation.request_deactivation("idle")
            else:
                self._look_at(activation, due)
