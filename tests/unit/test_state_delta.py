"""Deltas of large states: whatever changed, the state comes back; small changes stay small."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors import state_delta


def test_an_appended_item_costs_what_it_weighs() -> None:
    history = [f"message {number}" for number in range(70_000)]
    old = msgspec.msgpack.encode({"history": history, "turns": 1})
    new = msgspec.msgpack.encode({"history": [*history, "one more"], "turns": 2})
    delta = state_delta.difference(old, new, limit=len(new) // 8)
    assert delta is not None
    assert len(delta) < 60
    assert state_delta.apply(old, [delta]) == new


def test_what_moves_everything_is_no_delta() -> None:
    old = msgspec.msgpack.encode([f"message {number}" for number in range(10_000)])
    new = msgspec.msgpack.encode(["in front", *(f"message {number}" for number in range(10_000))])
    assert state_delta.difference(old, new, limit=len(new) // 8) is None


def test_a_shorter_state_is_cut() -> None:
    old, new = b"a" * 100_000, b"a" * 50_000
    delta = state_delta.difference(old, new, limit=10_000)
    assert delta is not None
    assert len(delta) < 20
    assert state_delta.apply(old, [delta]) == new


@given(st.data())
def test_any_sequence_of_changes_comes_back(data: st.DataObject) -> None:
    state = base = data.draw(st.binary(max_size=64)) * data.draw(st.integers(0, 400))
    deltas = []
    for _ in range(data.draw(st.integers(1, 5))):
        at = data.draw(st.integers(0, len(state)))
        removed = data.draw(st.integers(0, 50))
        changed = state[:at] + data.draw(st.binary(max_size=50)) + state[at + removed :]
        delta = state_delta.difference(state, changed, limit=10**9)
        assert delta is not None
        deltas.append(delta)
        state = changed
    assert state_delta.apply(base, deltas) == state


@pytest.mark.parametrize("size", [1023, 1024, 1025, 2048])
def test_block_borders(size: int) -> None:
    old, new = b"x" * size, b"x" * size + b"y"
    delta = state_delta.difference(old, new, limit=10**6)
    assert delta is not None
    assert state_delta.apply(old, [delta]) == new
