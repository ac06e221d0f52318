"""Ends connections whose client takes nothing of what it asked for."""

import asyncio


class StallGuard:
    """Watches what waits to be taken by the client of one connection.

    The transport is told to say so as soon as the kernel takes no more: what a client leaves there is bounded by the
    kernel and by what the application sends at once. Who does not take ``rate`` bytes a second on average over
    ``patience`` seconds is cut off, also when the connection is being closed already.
    """

    def __init__(self, transport: asyncio.Transport, *, patience: float, rate: int) -> None:
        self._transport = transport
        self._patience = patience
        self._rate = rate
        self._left = 0
        self._timer: asyncio.TimerHandle | None = None
        transport.set_write_buffer_limits(high=0)

    def paused(self) -> None:
        """The client takes less than there is."""
        self._watch()

    def ended(self) -> None:
        """The client has taken everything, or is gone."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _watch(self) -> None:
        self._left = self._transport.get_write_buffer_size()
        self._timer = asyncio.get_running_loop().call_later(self._patience, self._look)

    def _look(self) -> None:
        taken = self._left - self._transport.get_write_buffer_size()
        if taken < self._rate * self._patience:
            self._transport.abort()
        else:
            self._watch()
