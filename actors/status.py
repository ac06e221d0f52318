"""Where an activation is on its way."""

from enum import Enum


class Status(Enum):
    """From the claim to the release of an address."""

    ACTIVATING = "activating"  # claimed; what is stored is read, and on_activate runs; messages queue
    ACTIVE = "active"
    CLOSING = "closing"  # on_deactivate, last commit and release are under way; messages queue
    CLOSED = "closed"
