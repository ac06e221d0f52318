"""What a grant allows."""

import re
from fnmatch import translate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.gateway.auth import ALL, Grant
from cluster.gateway.problems import Problem
from cluster.gateway.streams.index import matches
from cluster.gateway.streams.names import resources


def grant(*patterns: str) -> Grant:
    return Grant(patterns=patterns, verbs=frozenset({"read"}))


@pytest.mark.parametrize(
    ("pattern", "name", "allowed"),
    [
        ("session-42", "session-42", True),
        ("session-42", "session-421", False),
        ("session-42", "session-4", False),
        ("session-*", "session-42", True),
        ("session-*", "session-", True),
        ("session-*", "sessions-42", False),
        ("session-*", "session-42/output", False),
        ("session-*", "x/session-42", False),
        ("*", "session-42", True),
        ("*", "a/b", False),
        ("**", "a/b/c", True),
        ("**", "", True),
        ("a/**", "a/b/c", True),
        ("a/**", "ab", False),
        ("a/*/c", "a/b/c", True),
        ("a/*/c", "a/b/b/c", False),
        ("session-4?", "session-42", False),
        ("session-[4]2", "session-42", False),
        ("session-.*", "session-42", False),
        ("Session-42", "session-42", False),
        ("session-%34%32", "session-42", False),
        ("*/**", "a", True),
        ("session-**", "session-1/x", False),
        ("", "session-42", False),
    ],
)
def test_patterns(pattern: str, name: str, allowed: bool) -> None:
    assert grant(pattern).allows("read", name) is allowed


def test_verbs_are_all_that_is_allowed() -> None:
    assert not grant("**").allows("send", "a")
    assert not Grant().allows("read", "a")
    assert ALL.allows("admin", "a/b")
    with pytest.raises(Problem) as refused:
        grant("**").check("admin", "a")
    assert (refused.value.status, refused.value.name) == (403, "NotAuthorized")


def test_everything_is_not_what_a_star_matches() -> None:
    """The name "**" is matched by "*", but whoever has that has not everything."""
    for patterns in (("*",), ("*/*", "*"), ("a/**",), ("**/*",), ("*",) * 5):
        with pytest.raises(Problem):
            grant(*patterns).check_everything("read")
    grant("a", "**").check_everything("read")


TEXT = st.text("ab*/", max_size=8)


@given(own=TEXT, pattern=TEXT, name=st.text("ab/", max_size=8))
def test_who_may_use_a_pattern_may_use_whatever_that_matches(own: str, pattern: str, name: str) -> None:
    try:
        grant(own).check_pattern("read", pattern)
    except Problem:
        return
    if matches(pattern, name):
        assert grant(own).allows("read", name)


@given(pattern=st.text("ab*", max_size=8), name=st.text("ab", max_size=8))
def test_a_star_is_what_everybody_takes_it_for(pattern: str, name: str) -> None:
    if pattern != "**":
        assert grant(pattern).allows("read", name) is bool(re.fullmatch(translate(pattern), name))


def test_the_channel_of_an_actor_may_be_granted_by_the_actor_whatever_its_type() -> None:
    assert resources("session-42/output") == ("session-42", "session-42/output")
    assert resources("nobody-42/output") == ("nobody-42", "nobody-42/output")
    for path in ("session-42", "session-42/a/b", "a/b/c", "Session-42/x", "session-/x", "/x", "", "x"):
        assert resources(path) == (path,)
