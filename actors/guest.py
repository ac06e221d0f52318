"""The other side of a link, as one who calls actors here: what it has under way, and what it may."""

from typing import TYPE_CHECKING

from actors.envelope import Envelope, Item, Mode, Request
from actors.errors import MailboxFull
from actors.ref import INTERRUPT
from actors.settings import Settings
from actors.shares import Shares

if TYPE_CHECKING:
    from actors.ports import Link
    from actors.runtime import Runtime

_OVERHEAD = 1000  # bytes that a message takes beside its payload, about


class Room:
    """How much may be under way for others in all, shared fairly by those who call."""

    __slots__ = ("bytes", "calls", "refused", "streams")

    def __init__(self, settings: Settings) -> None:
        self.calls = Shares(settings.max_calls)
        self.streams = Shares(settings.max_streams)
        self.bytes = Shares(settings.max_call_bytes)
        self.refused = 0
        """How many requests there was no room for."""

    def stops(self, request: Request) -> bool:
        """Whether it is to stop something, which makes room: it is let in for an eighth longer."""
        return request.handler == INTERRUPT and self.calls.taken < self.calls.limit * 9 // 8


class Guest:
    """A link that remembers which requests have come over it, until they are answered.

    What answers them uses it in the place of the link.
    """

    __slots__ = ("_open", "_room", "link", "peer", "peer_is_silo", "trusted")

    def __init__(self, link: "Link", room: Room) -> None:
        self.link = link
        self._room = room
        self._open: dict[int, tuple[str, Mode, int]] = {}
        self.peer = link.peer
        self.peer_is_silo = link.peer_is_silo
        self.trusted = link.trusted

    @property
    def closed(self) -> bool:
        """Whether the link is gone."""
        return self.link.closed

    def enter(self, request: Request) -> MailboxFull | None:
        """A request has come: count it, or say why it has to go."""
        caller, mode = request.caller, request.mode
        room = self._room
        kind = room.streams if mode is Mode.STREAM else room.calls
        if not (kind.has_room(caller) and room.bytes.has_room(caller)) and not room.stops(request):
            room.refused += 1
            return MailboxFull(
                f"{request.address}: this silo has {kind.taken:,} of at most {kind.limit:,} calls or streams under way "
                f"({room.bytes.taken:,} of {room.bytes.limit:,} bytes), shared by {kind.callers:,} callers; send less "
                "or later"
            )
        if request.id not in self._open:
            size = len(request.payload) + _OVERHEAD
            self._open[request.id] = caller, mode, size
            kind.take(caller)
            room.bytes.take(caller, size)
        return None

    def send(self, envelope: Envelope) -> None:
        """See ``Link.send``."""
        if type(envelope) is not Item:
            self.over(envelope.id)
        self.link.send(envelope)

    def over(self, request_id: int) -> None:
        """Nobody waits for an answer to this request any more."""
        entry = self._open.pop(request_id, None)
        if entry is not None:
            caller, mode, size = entry
            (self._room.streams if mode is Mode.STREAM else self._room.calls).give_back(caller)
            self._room.bytes.give_back(caller, size)

    def leave(self) -> None:
        """The link is gone."""
        for request_id in list(self._open):
            self.over(request_id)


class LocalCaller:
    """Where answers to this runtime's own calls go when the actor lives here."""

    def __init__(self, runtime: "Runtime") -> None:
        self._runtime = runtime

    def send(self, envelope: Envelope) -> None:
        """Answer a call of this runtime."""
        self._runtime.on_answer(envelope, None)
