"""``on_activate`` and ``on_deactivate``, which run without a message."""

from typing import TYPE_CHECKING

from actors.context import Context

if TYPE_CHECKING:
    from actors.activation import Activation

LIFECYCLE = "lifecycle"  # stands for the message id in the chain of calls made by on_activate and on_deactivate


class Lifecycle:
    """What stands in for a turn while on_activate or on_deactivate runs."""

    __slots__ = ("activation", "address")

    gathers = steers = reads_only = False
    goes_on = True

    def __init__(self, activation: "Activation") -> None:
        self.activation = activation
        self.address = activation.address

    @property
    def context(self) -> Context:
        """There is no message."""
        raise LookupError

    @property
    def chain(self) -> tuple[tuple[str, str], ...]:
        """The address waits for the calls that its own hooks make."""
        return ((self.address, LIFECYCLE),)
