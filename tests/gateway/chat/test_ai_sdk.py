"""A turn as the chunks of the AI SDK's UI message stream."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.gateway.chat.ai_sdk import (
    Chunk,
    Post,
    Retracted,
    UIMessageStream,
    as_chunk,
    encode,
    key_of,
    read_post,
)
from cluster.gateway.chat.message import Messages
from cluster.gateway.chat.run import Begin, End, Happening, Piece, Reset
from cluster.gateway.problems import Problem
from tests.gateway.node import install_packages


def told(*happenings: Happening) -> list[Chunk]:
    return UIMessageStream("output").tell([Begin("m"), *happenings])


def text_of(chunks: list[Chunk]) -> str:
    return "".join(str(chunk["delta"]) for chunk in chunks if chunk["type"] == "text-delta")


def test_text_is_one_part_and_merged_in_each_batch() -> None:
    assert told(Piece(4, "a"), Piece(5, ""), Piece(6, "b"), End("committed")) == [
        {"type": "start", "messageId": "m"},
        {"type": "text-start", "id": "text-4"},
        {"type": "text-delta", "id": "text-4", "delta": "ab"},
        {"type": "text-end", "id": "text-4"},
        {"type": "finish", "finishReason": "stop"},
    ]


@given(st.lists(st.one_of(st.text(), st.integers(), st.fixed_dictionaries({"type": st.text()}))), st.data())
def test_text_is_whole_and_parts_are_well_formed_however_it_comes(items: list[Any], data: st.DataObject) -> None:
    stream = UIMessageStream("output")
    chunks: list[Chunk] = []
    happenings: list[Happening] = [*(Piece(offset, item) for offset, item in enumerate(items)), End("committed", "x")]
    while happenings:
        size = data.draw(st.integers(1, len(happenings)))
        chunks += stream.tell(happenings[:size])
        happenings = happenings[size:]
    texts = [item for item in items if isinstance(item, str)]
    anything = any(item != "" for item in items)
    assert text_of(chunks) == ("".join(texts) if anything else "x")
    open_part = None
    for chunk in chunks:
        if chunk["type"] == "text-start":
            assert open_part is None
            open_part = chunk["id"]
        elif chunk["type"] == "text-delta":
            assert chunk["id"] == open_part
        else:
            assert chunk["type"] != "text-end" or chunk["id"] == open_part
            open_part = None
    assert chunks[-1]["type"] == "finish"


def test_how_a_turn_ends() -> None:
    assert told(End("committed", "all"))[1:-1] == told(Piece(0, "all"), End("committed", "more"))[1:-1]
    assert [chunk["type"] for chunk in told(End("committed", 7))] == ["start", "finish"]
    assert told(Piece(0, "a"), End("interrupted", None, "enough"))[-2:] == [
        {"type": "text-end", "id": "text-0"},
        {"type": "abort", "reason": "enough"},
    ]
    assert told(End("interrupted"))[-1] == {"type": "abort"}
    for kind in ("failed", "parked"):
        failed = told(End(kind, None, "secret"))[-1]
        assert failed["type"] == "error"
        assert "secret" not in str(failed)


def test_text_that_was_sent_cannot_be_taken_back() -> None:
    stream = UIMessageStream("output")
    stream.tell([Piece(3, "a"), Piece(4, "b")])
    assert text_of(stream.tell([Reset(7, 5), Piece(8, "c")])) == "c"
    with pytest.raises(Retracted):
        stream.tell([Reset(9, 8)])
    assert text_of(told(Reset(2, 0), Piece(3, "a"))) == "a"


CHUNKS: list[dict[str, Any]] = [
    {"type": "tool-input-start", "toolCallId": "1", "toolName": "look"},
    {"type": "tool-input-delta", "toolCallId": "1", "inputTextDelta": "{"},
    {"type": "tool-input-available", "toolCallId": "1", "toolName": "look", "input": {"a": [1]}, "dynamic": True},
    {"type": "tool-input-error", "toolCallId": "1", "toolName": "look", "input": 1, "errorText": "no"},
    {"type": "tool-approval-request", "toolCallId": "1", "approvalId": "2"},
    {"type": "tool-output-available", "toolCallId": "1", "output": None, "preliminary": True},
    {"type": "tool-output-error", "toolCallId": "1", "errorText": "no"},
    {"type": "tool-output-denied", "toolCallId": "1"},
    {"type": "text-start", "id": "t"},
    {"type": "text-delta", "id": "t", "delta": "x", "providerMetadata": {"p": {"a": 1}}},
    {"type": "text-end", "id": "t"},
    {"type": "reasoning-start", "id": "t"},
    {"type": "reasoning-delta", "id": "t", "delta": "x"},
    {"type": "reasoning-end", "id": "t"},
    {"type": "source-url", "sourceId": "s", "url": "https://example.org"},
    {"type": "source-document", "sourceId": "s", "mediaType": "text/plain", "title": "T", "filename": "f"},
    {"type": "file", "url": "https://example.org/f", "mediaType": "image/png"},
    {"type": "start-step"},
    {"type": "finish-step"},
    {"type": "message-metadata", "messageMetadata": {"a": 1}},
    {"type": "data-mood", "data": 3},
    {"type": "data-mood", "id": "1", "data": None, "transient": True},
]


@pytest.mark.parametrize("chunk", CHUNKS, ids=lambda chunk: str(chunk["type"]))
def test_chunks_of_the_protocol_pass(chunk: dict[str, Any]) -> None:
    assert as_chunk(Piece(3, chunk), "output") == chunk


@pytest.mark.parametrize("chunk", [chunk for chunk in CHUNKS if len(chunk) > 1], ids=lambda chunk: str(chunk["type"]))
def test_a_chunk_that_no_client_would_take_is_data(chunk: dict[str, Any]) -> None:
    for name in chunk.keys() - {"type", "input", "output", "messageMetadata", "data"}:
        found = as_chunk(Piece(3, {**chunk, name: 1.5}), "output")
        assert found["type"] == f"data-{chunk['type'].removeprefix('data-')}", name
        assert found["data"] == {**chunk, name: 1.5}


def test_all_chunks_that_the_package_knows_are_known() -> None:
    """But those that begin and end a stream, which are the turn's to send."""
    install_packages()
    source = Path(__file__).parents[1] / "node_modules/ai/src/ui-message-stream/ui-message-chunks.ts"
    kinds = set(re.findall(r"type: z.literal\('([a-z-]+)'\)", source.read_text()))
    assert kinds - {str(chunk["type"]) for chunk in CHUNKS} == {"start", "finish", "abort", "error"}
    for kind in ("start", "finish", "abort", "error"):
        mine = {"type": kind, "errorText": "x"}
        assert as_chunk(Piece(1, mine), "output") == {"type": f"data-{kind}", "id": "1", "data": mine}


def test_other_values_are_data_under_the_name_of_their_type_or_channel() -> None:
    assert as_chunk(Piece(1, {"type": "mood", "a": 1}), "output")["type"] == "data-mood"
    for data in (7, None, [1], {"a": 1}, {"type": 3}, {"type": "no name\n"}, {"type": ""}):
        assert as_chunk(Piece(1, data), "output") == {"type": "data-output", "id": "1", "data": data}


def test_the_wire_has_one_line_of_data_for_each_chunk() -> None:
    found = encode([{"type": "data-x", "data": {"text": "a\n\r\n", "bytes": b"\x00"}}])
    assert found.startswith(b"data: {")
    assert found.endswith(b"}\n\n")
    assert found.count(b"\n") == 2
    assert json.loads(found[6:])["data"]["text"] == "a\n\r\n"


def message(text: str, id: str = "m1") -> dict[str, Any]:
    return {"id": id, "role": "user", "parts": [{"type": "text", "text": text}]}


def key(*messages: dict[str, Any], trigger: Any = "submit-message", last_run: str = "") -> str:
    post = Post(id="c", messages=list(messages), trigger=trigger)
    return key_of(post, Messages(post.messages), last_run)


def test_the_same_message_has_the_same_key() -> None:
    assert key(message("a")) == key(message("a")) == key(message("older"), message("a"), last_run="7")
    assert (
        len({key(message("a")), key(message("b")), key(message("a", "m2")), key(message("a"), trigger=REGENERATE)}) == 4
    )
    assert key(message("a"), trigger=REGENERATE) == key(message("a"), trigger=REGENERATE)
    assert key(message("a"), trigger=REGENERATE) != key(message("a"), trigger=REGENERATE, last_run="7")


REGENERATE = "regenerate-message"


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b"{}", b"\xff", b'{"id":"c"}', b'{"id":1,"messages":[]}', b'{"id":"c","messages":[]}',
     b'{"id":"c","messages":[1]}', b'{"id":"c","messages":[{"role":"assistant"}]}',
     b'{"id":"c","messages":[{"role":"user"}],"trigger":"resume-stream"}', b"[" * 100_000],
)  # fmt: skip
def test_what_is_no_request_of_a_chat_is_refused(body: bytes) -> None:
    with pytest.raises(Problem) as found:
        read_post(body)
    assert found.value.status == 400
