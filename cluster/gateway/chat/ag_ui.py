"""AG-UI events, as TanStack AI reads them from server-sent events with ids: what it sends, and a turn told in events.

Source: ``@ag-ui/core`` 1, and ``@tanstack/ai-client`` 0.33, ``src/connection-adapters.ts``.
"""

import re
from collections.abc import Iterable
from typing import Any, Final, NamedTuple, Self, TypeAlias

import msgspec

from cluster.gateway.chat.message import Messages
from cluster.gateway.chat.run import Begin, End, Happening, Piece, Reset
from cluster.gateway.json_values import read_json, to_json
from cluster.gateway.problems import bad_request

AgUiEvent: TypeAlias = dict[str, object]


class Post(msgspec.Struct, kw_only=True, rename="camel"):
    """The body of a ``POST``, ``RunAgentInput``. What else it holds is for others."""

    thread_id: str
    run_id: str
    messages: list[dict[str, Any]]


def read_post(body: bytes) -> tuple[Post, Messages]:
    """The request in a body, and its messages. Raises ``Problem`` that says what is wrong with it."""
    try:
        post = msgspec.convert(read_json(body), Post)
        return post, Messages(post.messages)
    except ValueError as error:
        raise bad_request(f"this is no RunAgentInput of AG-UI: {error}") from None


class Position(NamedTuple):
    """Where an event stands: the entry of the channel that it comes of, and its place among the events of that."""

    offset: int
    place: int

    def __str__(self) -> str:
        return f"{self.offset}.{self.place}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """The position in an event's id. Raises ``ValueError``."""
        found = re.fullmatch(r"(-1|\d{1,19})\.(\d{1,6})", text, re.ASCII)
        if found is None:
            raise ValueError(f"{text!r} is no id of an event of this stream")
        return cls(int(found[1]), int(found[2]))


Events: TypeAlias = list[tuple[Position, AgUiEvent]]

NOWHERE: Final = Position(-2, 0)
_BEGIN: Final = Position(-1, 0)
_END: Final = 2**62
LAST: Final = Position(_END, 3)
"""Of the event that ends the run."""

GONE: Final = "EVENTS_GONE"


class AgUiStream:
    """A turn as events with positions; it is over when ``ended``.

    ``after``: where a client has been that comes again. What stands up to there is left out. ``history``: the messages
    before the answer, if they are known: with them what was sent can be taken back.
    """

    def __init__(
        self,
        *,
        thread_id: str,
        run_id: str,
        channel: str,
        after: Position = NOWHERE,
        history: list[dict[str, Any]] | None = None,
    ) -> None:
        self._ids: AgUiEvent = {"threadId": thread_id, "runId": run_id}
        self._message_id = ""
        self._channel = channel
        self._after = after
        self._history = history
        self._open = False  # whether a text is
        self._pieces: list[Piece] = []  # what counts of the answer
        self._sent = after.offset
        self.ended = False

    def start(self) -> Events:
        """The beginning."""
        return self._new([(_BEGIN, {"type": "RUN_STARTED", **self._ids})])

    def tell(self, happenings: Iterable[Happening]) -> Events:
        """The events for what happened."""
        events: Events = []
        for found in happenings:
            if isinstance(found, Begin):
                self._message_id = found.message_id
            elif isinstance(found, End):
                self._end(found, events)
            elif isinstance(found, Reset):
                self._take_back(found, events)
            else:
                self._pieces.append(found)
                self._sent = max(self._sent, found.offset)
                self._add(found, events, seen=self._after.offset)
        return self._new(events)

    def _new(self, events: Events) -> Events:
        return [(position, event) for position, event in events if position > self._after]

    def _add(self, piece: Piece, events: Events, *, seen: int) -> None:
        """Texts become one event, but not over what a client has seen."""
        if not isinstance(piece.data, str):
            event = as_event(piece, self._channel)
            if event["type"] not in _BESIDE:
                self._close_text(Position(piece.offset, 0), events)
            events.append((Position(piece.offset, 1), event))
            return
        if not piece.data:
            return
        if not self._open:
            self._open = True
            started: AgUiEvent = {"type": "TEXT_MESSAGE_START", "messageId": self._message_id, "role": "assistant"}
            events.append((Position(piece.offset, 0), started))
        position, last = events[-1] if events else (NOWHERE, {})
        if last.get("type") == "TEXT_MESSAGE_CONTENT" and position.offset > seen:
            events[-1] = (Position(piece.offset, 1), {**last, "delta": f"{last['delta']}{piece.data}"})
        else:
            content: AgUiEvent = {"type": "TEXT_MESSAGE_CONTENT", "messageId": self._message_id, "delta": piece.data}
            events.append((Position(piece.offset, 1), content))

    def _close_text(self, position: Position, events: Events) -> None:
        if self._open:
            self._open = False
            events.append((position, {"type": "TEXT_MESSAGE_END", "messageId": self._message_id}))

    def _take_back(self, reset: Reset, events: Events) -> None:
        """If something was sent that does not count any more, all that counts is told anew."""
        self._pieces = [piece for piece in self._pieces if piece.offset < reset.first]
        if self._sent < reset.first:
            return
        if self._history is None:
            self.ended = True
            message = "the answer was begun anew; join its run again to see it"
            events.append((Position(reset.offset, 0), {"type": "RUN_ERROR", "message": message, "code": GONE}))
            return
        self._open = False
        anew: Events = [(NOWHERE, {"type": "MESSAGES_SNAPSHOT", "messages": self._history})]
        for piece in self._pieces:
            self._add(piece, anew, seen=-1)
        events += [(Position(reset.offset, place), event) for place, (_, event) in enumerate(anew)]

    def _end(self, end: End, events: Events) -> None:
        if end.kind == "committed" and not self._pieces and isinstance(end.result, str):
            self._add(Piece(_END, end.result), events, seen=_END)
        self._close_text(Position(_END, 2), events)
        last = failed(self._message_id)
        if end.kind == "committed":
            last = {"type": "RUN_FINISHED", **self._ids}
        elif end.kind == "interrupted":
            last = {"type": "RUN_FINISHED", **self._ids, "result": {"interrupted": end.reason}}
        self.ended = True
        events.append((LAST, last))


def failed(message_id: str) -> AgUiEvent:
    """What a client is told of a turn that failed: nothing of why, but what to look for in the log."""
    text = f"the answer could not be completed (message {message_id})"
    return {"type": "RUN_ERROR", "message": text, "code": "RUN_FAILED"}


def encode(events: Events) -> bytes:
    """The events as server-sent events with ids."""
    return b"".join(f"id: {position}\ndata: ".encode() + to_json(event) + b"\n\n" for position, event in events)


_BESIDE: Final = ("CUSTOM", "RAW", "STATE_SNAPSHOT", "STATE_DELTA")
"""Events that may come in the middle of a text."""

_OWN: Final[dict[str, tuple[str, ...]]] = {
    "TOOL_CALL_START": ("toolCallId", "toolCallName"),
    "TOOL_CALL_ARGS": ("toolCallId", "delta"),
    "TOOL_CALL_END": ("toolCallId",),
    "TOOL_CALL_RESULT": ("messageId", "toolCallId", "content"),
    "STEP_STARTED": ("stepName",),
    "STEP_FINISHED": ("stepName",),
    "REASONING_START": ("messageId",),
    "REASONING_MESSAGE_START": ("messageId", "role"),
    "REASONING_MESSAGE_CONTENT": ("messageId", "delta"),
    "REASONING_MESSAGE_END": ("messageId",),
    "REASONING_END": ("messageId",),
    "CUSTOM": ("name",),
    "RAW": (),
    "STATE_SNAPSHOT": (),
    "STATE_DELTA": (),
}
"""The events that an actor may publish itself, with the texts that they must have. The others are the turn's."""


def as_event(piece: Piece, channel: str) -> AgUiEvent:
    """An item that is no text: as it is if it is an event of the protocol, else as one with a name and a value."""
    data = piece.data
    kind = data.get("type") if isinstance(data, dict) else None
    if isinstance(data, dict) and isinstance(kind, str):
        texts = _OWN.get(kind)
        if texts is not None and all(isinstance(data.get(name), str) for name in texts):
            return data
        return {"type": "CUSTOM", "name": kind, "value": data}
    return {"type": "CUSTOM", "name": channel, "value": data}
