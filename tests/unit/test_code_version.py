"""Versions of a user's code: their order, and what is no version."""

import itertools
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.code_version import LONGEST, check, order
from actors.release import RELEASE

ASCENDING = [
    "", "blue", "green", "green2", "green10", "0.9", "1", "1.2rc1", "1.2rc2", "1.2rc10", "1.2", "1.2+fix", "1.2.1",
    "1.9", "1.10", "2", "10.0", "2024.12.31", "2025.1.1-1", "2025.1.1-9", "2025.1.1-10", "2025.1.1",
]  # fmt: skip


@pytest.mark.parametrize(("older", "newer"), list(itertools.combinations(ASCENDING, 2)))
def test_versions_rise(older: str, newer: str) -> None:
    assert order(older) < order(newer)


@pytest.mark.parametrize(("one", "other"), [("1.2", "1.2.0"), ("v1.2", "1.2"), ("1.02", "1.2"), ("", "")])
def test_versions_that_are_as_good_as_equal(one: str, other: str) -> None:
    assert order(one) == order(other)


@given(st.lists(st.text(max_size=20), min_size=3, max_size=3))
def test_any_texts_can_be_put_in_order(versions: list[str]) -> None:
    """A member's record may hold anything: no silo may stumble over it."""
    a, b, c = sorted(versions, key=order)
    assert order(a) <= order(b) <= order(c)
    assert order(a) <= order(c)


def test_a_number_of_many_digits_is_a_number() -> None:
    assert order("9" * 10_000) < order("1" + "0" * 10_000)


@pytest.mark.parametrize("version", ["1.2\n", " 1", "1 ", "a\tb", "x" * (LONGEST + 1), "\0"])
def test_what_makes_no_version_is_refused(version: str) -> None:
    with pytest.raises(ValueError, match="the version of the code"):
        check(version)


@pytest.mark.parametrize("version", ["", "1.2", "53ff70c", "release of Monday", "x" * LONGEST])
def test_what_is_one(version: str) -> None:
    assert check(version) == version


def test_the_release_is_the_one_that_the_package_says() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    assert project["version"] == RELEASE
