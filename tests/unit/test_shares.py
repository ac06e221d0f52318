import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.shares import Shares, may_take


def fill(shares: Shares, *callers: str) -> dict[str, int]:
    """Let them take as much as they may, in turns."""
    took = dict.fromkeys(callers, 0)
    while any(shares.has_room(caller) for caller in callers):
        for caller in callers:
            if shares.has_room(caller):
                shares.take(caller)
                took[caller] += 1
    return took


def test_one_alone_may_have_nearly_everything() -> None:
    shares = Shares(900)
    assert fill(shares, "greedy") == {"greedy": 701}
    assert shares.has_room("polite")


def test_a_small_room_is_used_to_the_last_place() -> None:
    for limit in range(1, 8):
        assert fill(Shares(limit), "only") == {"only": limit}


@pytest.mark.parametrize("limit", [1, 2, 3, 7, 8, 9, 16, 100])
def test_the_short_cut_says_what_the_rule_says(limit: int) -> None:
    for taken in range(limit + 1):
        for own in range(taken + 1):
            shares = Shares(limit)
            shares.take("one", own)
            shares.take("others", taken - own)
            assert shares.has_room("one") == may_take(own, limit - taken, limit)


@pytest.mark.parametrize("greedy", [1, 2, 3, 10, 30])
def test_who_has_little_finds_room_however_many_want_all(greedy: int) -> None:
    shares = Shares(10_000)
    took = fill(shares, *(f"greedy-{number}" for number in range(greedy)))
    least = min(took.values())
    assert max(took.values()) - least <= 1
    assert least > 9_000 / (greedy + 1)
    for _ in range(least // 10):
        assert shares.has_room("polite")
        shares.take("polite")
    assert shares.taken <= 10_000


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(-5, 20)), max_size=100))
def test_what_is_given_back_is_there_again(steps: list[tuple[str, int]]) -> None:
    shares, held = Shares(50), {"a": 0, "b": 0, "c": 0}
    for caller, amount in steps:
        if amount > 0 and shares.has_room(caller):
            assert shares.taken < 50
            shares.take(caller, amount)
            held[caller] += amount
        elif amount < 0 and held[caller] >= -amount:
            shares.give_back(caller, -amount)
            held[caller] += amount
        assert shares.taken == sum(held.values()) < 50 + 20
        assert shares.callers == sum(1 for amount in held.values() if amount)
