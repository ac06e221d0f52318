from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors import MailboxFull
from actors.mailbox import Mailbox
from actors.shares import Shares
from actors.turn import Turn


def turn(payload: bytes, caller: str = "") -> Turn:
    return cast("Turn", SimpleNamespace(request=SimpleNamespace(payload=payload, address="session-1", caller=caller)))


def filled(sizes: Sequence[int], *, limit: int = 1000, limit_bytes: int = 10**9) -> tuple[Mailbox, list[Any]]:
    mailbox = Mailbox(limit, limit_bytes, Shares(10**9))
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
        mailbox.put(turn(b"x" * 44))
    with pytest.raises(MailboxFull):
        mailbox.put(turn(b"x" * 13))
    mailbox.put(turn(b"x" * 12))


@given(st.lists(st.one_of(st.none(), st.integers(0, 60)), max_size=60))
def test_the_limits_hold_whatever_comes_and_goes(steps: list[int | None]) -> None:
    mailbox, inside = Mailbox(5, 100, Shares(10**9)), list[Turn]()
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


def test_callers_take_turns_and_each_one_keeps_its_order() -> None:
    mailbox = Mailbox(100, 10**9, Shares(10**9))
    greedy = [turn(b"g%d" % number, "greedy") for number in range(20)]
    for one in greedy:
        mailbox.put(one)
    polite = [turn(b"p%d" % number, "polite") for number in range(3)]
    for one in polite:
        mailbox.put(one)
    taken = [mailbox.take() for _ in range(23)]
    assert [one for one in taken if one.request.caller == "greedy"] == greedy
    assert [one for one in taken if one.request.caller == "polite"] == polite
    assert [taken.index(one) for one in polite] == [1, 3, 5]


def test_a_greedy_caller_leaves_room_for_others() -> None:
    mailbox = Mailbox(900, 10**9, Shares(10**9))
    for _ in range(900):
        mailbox.put(turn(b"", "greedy"))
    with pytest.raises(MailboxFull, match=r"session-1: 900 messages .* wait already, the limit is 900"):
        mailbox.put(turn(b"", "greedy"))
    for _ in range(50):
        mailbox.put(turn(b"", "polite"))
    with pytest.raises(MailboxFull, match=r"950 messages .*, 900 \(0 bytes\) of them from this caller"):
        mailbox.put(turn(b"", "greedy"))
    with pytest.raises(MailboxFull):
        for number in range(900):
            mailbox.put(turn(b"", f"other-{number}"))
    assert len(mailbox) == 900 + 900 // 8


def test_a_caller_with_large_messages_leaves_room_for_others() -> None:
    mailbox = Mailbox(1000, 9000, Shares(10**9))
    with pytest.raises(MailboxFull):
        for _ in range(100):
            mailbox.put(turn(b"x" * 100, "greedy"))
    assert len(mailbox) == 90
    mailbox.put(turn(b"x" * 100, "polite"))


def test_all_mailboxes_share_the_room_of_their_silo() -> None:
    room = Shares(20_000)
    first, second = Mailbox(1000, 10**9, room), Mailbox(1000, 10**9, room)
    with pytest.raises(MailboxFull, match="bytes wait for actors of this silo already"):
        for _ in range(1000):
            first.put(turn(b"x" * 1000, "greedy"))
    assert 15_000 <= room.taken <= 20_000
    with pytest.raises(MailboxFull):
        second.put(turn(b"", "greedy"))
    second.put(turn(b"", "polite"))
    for mailbox in (first, second):
        list(mailbox.drain())
    assert (room.taken, room.callers) == (0, 0)
