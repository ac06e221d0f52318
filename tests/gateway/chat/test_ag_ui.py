"""A turn as AG-UI events: whatever a client has seen when it comes again, it ends up with the text that counts."""

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.gateway.chat.ag_ui import LAST, NOWHERE, AgUiEvent, AgUiStream, Position, as_event, encode
from cluster.gateway.chat.run import Begin, End, Happening, Piece, Reset

HISTORY = [{"id": "u", "role": "user", "content": "go"}]


def stream(after: Position = NOWHERE, *, history: list[dict[str, Any]] | None = HISTORY) -> AgUiStream:
    return AgUiStream(thread_id="t", run_id="r", channel="output", after=after, history=history)


def told(*happenings: Happening, after: Position = NOWHERE) -> list[AgUiEvent]:
    found = stream(after)
    return [event for _, event in [*found.start(), *found.tell([Begin("m"), *happenings])]]


class Client:
    """What a client makes of the events: the text of the one message that it has asked for."""

    def __init__(self) -> None:
        self.text = ""
        self.open = False
        self.last = NOWHERE
        self.finished = False

    def take(self, position: Position, event: AgUiEvent) -> None:
        assert position > self.last
        self.last = position
        match event["type"]:
            case "TEXT_MESSAGE_START":
                assert not self.open
                self.open = True
            case "TEXT_MESSAGE_CONTENT":
                assert self.open
                self.text += str(event["delta"])
            case "TEXT_MESSAGE_END":
                assert self.open
                self.open = False
            case "MESSAGES_SNAPSHOT":
                assert event["messages"] == HISTORY
                self.text = ""
                self.open = False
            case "RUN_FINISHED":
                assert not self.open
                self.finished = True


@st.composite
def turns(draw: st.DrawFn) -> list[Happening]:
    """What a turn publishes: text, other values, and now and then it begins anew from some offset."""
    found: list[Happening] = []
    offset = draw(st.integers(0, 3))
    first = offset
    for kind in draw(st.lists(st.sampled_from(["text", "text", "text", "tool", "custom", "reset"]), max_size=12)):
        if kind == "text":
            found.append(Piece(offset, f"{offset},"))
        elif kind == "tool":
            found.append(Piece(offset, {"type": "TOOL_CALL_START", "toolCallId": "1", "toolCallName": "look"}))
        elif kind == "custom":
            found.append(Piece(offset, {"level": offset}))
        else:
            found.append(Reset(offset, draw(st.integers(first, offset))))
        offset += draw(st.integers(1, 2))
    return [*found, End("committed")]


def counted(happenings: list[Happening]) -> str:
    """The text that counts in the end."""
    texts: dict[int, str] = {}
    for found in happenings:
        if isinstance(found, Reset):
            texts = {offset: text for offset, text in texts.items() if offset < found.first}
        elif isinstance(found, Piece) and isinstance(found.data, str):
            texts[found.offset] = found.data
    return "".join(texts.values())


def known(happenings: list[Happening], upto: int, after: int) -> list[Happening]:
    """What ``follow`` gives to who comes when there are so many entries already, and has seen those up to ``after``."""
    there, later = happenings[:upto], happenings[upto:]
    resets = [found for found in there if isinstance(found, Reset)]
    kept = [
        found
        for found in there
        if (isinstance(found, Piece) and not any(r.first <= found.offset < r.offset for r in resets))
        or (isinstance(found, Reset) and found.first <= after <= found.offset)
    ]
    return [*kept, *later]


@settings(max_examples=500)
@given(st.data())
def test_who_comes_again_ends_up_with_the_text_that_counts(data: st.DataObject) -> None:
    happenings = data.draw(turns())
    client = Client()
    upto = 0
    while not client.finished:
        upto = data.draw(st.integers(upto, len(happenings) - 1))
        mine = known(happenings, upto, client.last.offset)
        found = stream(client.last)
        events = [*found.start(), *found.tell([Begin("m")])]
        while mine:
            size = data.draw(st.integers(1, len(mine)))
            events += found.tell(mine[:size])
            mine = mine[size:]
        for position, event in events[: data.draw(st.integers(1, max(len(events), 1)))]:
            client.take(position, event)
    assert client.text == counted(happenings)


def test_a_turn_begins_and_ends_with_its_ids() -> None:
    ids = {"threadId": "t", "runId": "r"}
    assert told(Piece(4, "a"), Piece(5, "b"), End("committed")) == [
        {"type": "RUN_STARTED", **ids},
        {"type": "TEXT_MESSAGE_START", "messageId": "m", "role": "assistant"},
        {"type": "TEXT_MESSAGE_CONTENT", "messageId": "m", "delta": "ab"},
        {"type": "TEXT_MESSAGE_END", "messageId": "m"},
        {"type": "RUN_FINISHED", **ids},
    ]


def test_a_result_is_the_text_where_nothing_was_published() -> None:
    assert [event.get("delta") for event in told(End("committed", "all"))] == [None, None, "all", None, None]
    assert [event["type"] for event in told(End("committed", {"no": "text"}))] == ["RUN_STARTED", "RUN_FINISHED"]
    assert "all" not in str(told(Piece(0, "a"), End("committed", "all")))
    (last,) = told(End("committed", "all"), after=Position(LAST.offset, 2))
    assert last["type"] == "RUN_FINISHED"


def test_failures_say_nothing_of_what_failed_and_stopping_is_no_failure() -> None:
    for kind in ("failed", "parked"):
        failed = told(Piece(0, "a"), End(kind, None, "secret"))[-1]
        assert (failed["type"], failed["code"]) == ("RUN_ERROR", "RUN_FAILED")
        assert "secret" not in str(failed)
    stopped = told(Piece(0, "a"), End("interrupted", None, "enough"))[-1]
    assert (stopped["type"], stopped["result"]) == ("RUN_FINISHED", {"interrupted": "enough"})


def test_what_was_shown_cannot_be_taken_back_without_the_messages_before_it() -> None:
    found = stream(history=None)
    events = [event for _, event in found.tell([Piece(0, "a"), Reset(1, 0)])]
    assert (events[-1]["type"], events[-1]["code"], found.ended) == ("RUN_ERROR", "EVENTS_GONE", True)
    assert stream(history=None).tell([Reset(1, 0), Piece(2, "b")])[-1][1]["delta"] == "b"


def test_events_of_the_protocol_pass_and_other_values_are_custom_events() -> None:
    call = {"type": "TOOL_CALL_START", "toolCallId": "1", "toolCallName": "look"}
    assert as_event(Piece(0, call), "output") == call
    for data, name in ((7, "output"), ([1], "output"), ({"a": 1}, "output"), ({"type": "mood"}, "mood")):
        assert as_event(Piece(0, data), "output") == {"type": "CUSTOM", "name": name, "value": data}
    for mine in ({"type": "RUN_FINISHED"}, {"type": "TOOL_CALL_START"}, {"type": "MESSAGES_SNAPSHOT", "messages": []}):
        assert as_event(Piece(0, mine), "output")["type"] == "CUSTOM"


def test_the_wire_has_an_id_and_one_line_of_data_for_each_event() -> None:
    found = encode([(Position(3, 1), {"type": "CUSTOM", "value": "a\nb\r\n\n"})]).decode()
    assert found.startswith("id: 3.1\ndata: {")
    assert found.count("\n") == 3
    assert json.loads(found.splitlines()[1].removeprefix("data: "))["value"] == "a\nb\r\n\n"


@given(st.text())
def test_an_id_is_a_position_or_is_refused(text: str) -> None:
    try:
        found = Position.parse(text)
    except ValueError:
        return
    assert Position.parse(str(found)) == found


def test_ids_are_read_back() -> None:
    for position in (Position(-1, 0), Position(0, 1), LAST):
        assert Position.parse(str(position)) == position
    for text in ("", "1", "-2.0", "1.x", "1.0 ", "٣.1", "1" * 30 + ".1"):
        try:
            Position.parse(text)
        except ValueError:
            continue
        raise AssertionError(text)
