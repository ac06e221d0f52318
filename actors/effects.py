"""What a turn has done to the world: gathered while it runs, committed when it ends."""

from actors.envelope import Request
from actors.records import ChannelItem, Reminder


class Effects:
    """Everything of a turn's commit but the state and the answer."""

    __slots__ = ("drop", "erase", "items", "put", "reminders", "renew", "sends", "signals")

    def __init__(self) -> None:
        self.put: dict[bytes, bytes] = {}
        self.drop: list[bytes] = []
        self.erase = False
        """Remove everything else that is stored of the actor."""
        self.renew = False
        """Activate anew afterwards, from what is stored then."""
        self.sends: list[Request] = []
        """Messages to other actors: they leave when they are durable."""
        self.items: dict[str, list[ChannelItem]] = {}
        """Entries of channels, by the channel's name."""
        self.signals: list[tuple[str, bytes]] = []
        """Signals by name, encoded."""
        self.reminders: dict[str, Reminder | None] = {}
        """Reminders set, and (None) cancelled, by name."""

    def published(self) -> "Effects":
        """Only what it has published."""
        kept = Effects()
        kept.items = self.items
        return kept

    def __bool__(self) -> bool:
        gathered = self.put or self.drop or self.sends or self.items or self.reminders or self.signals
        return bool(gathered or self.erase or self.renew)
