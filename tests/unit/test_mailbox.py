from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors import MailboxFull
from actors.mailbox import Mailbox
from actors.turn import Turn


def turn(payload: bytes) -> Turn:
    return cast("Turn", SimpleNamespace(request=SimpleNamespace(payload=payload, address="session-1")))


def filled(sizes: Sequence[int], *, limit: int = 1000, limit_bytes: int = 10**9) -> tuple[Mailbox, list[Any]]:
    mailbox = Mailbox(limit, limit_bytes)
    turns = [turn(b"x" * size) for size in sizes]
    for one in turns:
        mailbox.put(one)
    return mailbox, turns


def test_turns_leave_in_the_order_of_arrival() -> None:
    mailbox, turns = filled([1, 2, 3])
    assert len(mailbox) == 3
    assert [mailbox.take(), mailbox.take(), mailbox.take()] == turns
    assert not mailbox
    with pytest.raises(IndexError):
        mailbox.take()


def test_draining_takes_everything() -> None:
    mailbox, turns = filled([1, 2, 3])
    assert list(mailbox.drain()) == turns
    assert list(mailbox.drain()) == []


def test_the_number_of_messages_is_bounded_and_the_error_says_what_to_do() -> None:
    mailbox, _ = filled([1, 1], limit=2)
    with pytest.raises(MailboxFull, match=r"session-1: 2 messages \(2 bytes\).*limit is 2 .*max_queue"):
        mailbox.put(turn(b""))
    mailbox.take()
    mailbox.put(turn(b""))
    assert len(mailbox) == 2


def test_the_bytes_are_bounded_but_one_message_is_always_let_in() -> None:
    mailbox, _ = filled([500], limit_bytes=100)
    with pytest.raises(MailboxFull, match="500 bytes"):
        mailbox.put(turn(b"x"))
    mailbox.take()
    for _ in range(2):
        mailbox.put(turn(b"x" * 50))
    with pytest.raises(MailboxFull):
        mailbox.put(turn(b"x"))


@given(st.lists(st.one_of(st.none(), st.integers(0, 60)), max_size=60))
def test_the_limits_hold_whatever_comes_and_goes(steps: list[int | None]) -> None:
    mailbox, inside = Mailbox(5, 100), list[Turn]()
    for size in steps:
        if size is None:
            if inside:
                assert mailbox.take() is inside.pop(0)
            continue
        one = turn(b"x" * size)
        waiting = sum(len(one.request.payload) for one in inside)
        fits = len(inside) < 5 and (not inside or waiting + size <= 100)
        if fits:
            mailbox.put(one)
            inside.append(one)
        else:
            with pytest.raises(MailboxFull):
                mailbox.put(one)
        assert len(mailbox) == len(inside)
