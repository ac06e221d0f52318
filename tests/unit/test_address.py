import unicodedata
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from actors import Actor, actor_ref
from actors.address import MAX_KEY_BYTES, Address, check_key, check_type, parse_address, type_name_of

TYPES = st.from_regex(r"[a-z][a-z0-9_]*", fullmatch=True)
CHARACTERS = st.characters(exclude_categories=["Cc", "Cs"], exclude_characters="/")
KEYS = st.text(CHARACTERS, min_size=1, max_size=80).filter(
    lambda key: key == key.strip() and len(key.encode()) <= MAX_KEY_BYTES
)


@given(TYPES, KEYS)
def test_an_address_survives_parsing_and_joining(type_name: str, key: str) -> None:
    address = parse_address(f"{type_name}-{key}")
    assert address == Address(type_name, key)
    assert str(address) == f"{type_name}-{key}"


@given(st.text(max_size=40))
@example("")
@example("-")
@example("a-")
@example("-a")
@example("a--")
@example("a-\ud800")
def test_any_text_either_parses_into_an_address_that_joins_to_it_or_is_a_value_error(text: str) -> None:
    address: Address | None = None
    reason = ""
    try:
        address = parse_address(text)
    except ValueError as error:
        reason = str(error)
    if address is None:
        assert repr(text) in reason
        assert reason.partition(repr(text))[2].strip(": ")  # the reason follows the address
    else:
        assert str(address) == text
        assert "/" not in address.key
        assert not any(unicodedata.category(char) == "Cc" for char in address.key)


@given(st.text())
def test_a_type_is_accepted_exactly_when_it_matches_the_contract(text: str) -> None:
    valid = bool(text) and text[0] in "abcdefghijklmnopqrstuvwxyz"
    valid = valid and all(char in "abcdefghijklmnopqrstuvwxyz0123456789_" for char in text)
    try:
        assert check_type(text) == text
        accepted = True
    except ValueError:
        accepted = False
    assert accepted == valid


def test_the_type_ends_at_the_first_dash() -> None:
    assert parse_address("session-a-b-c") == ("session", "a-b-c")
    assert parse_address("session--") == ("session", "-")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("session", 'expected "<type>-<key>"'),
        ("", 'expected "<type>-<key>"'),
        ("-42", "must be lower case"),
        ("Session-42", "must be lower case"),
        ("9lives-1", "must be lower case"),
        ("_a-1", "must be lower case"),
        ("séance-1", "must be lower case"),
        ("session\n-1", "must be lower case"),
        ("a b-1", "must be lower case"),
        ("session-", "1 to 256 bytes"),
        ("session-" + "x" * 257, "1 to 256 bytes"),
        ("session-" + "é" * 129, "1 to 256 bytes"),
        ("session-a/b", "'/'"),
        ("session-a\nb", "control"),
        ("session-a\x00", "control"),
        ("session-\x7f", "control"),
        ("session-\x85b", "control"),
        ("session- a", "space"),
        ("session-a ", "space"),
        ("session-a\u00a0", "space"),
        ("session-\u3000a", "space"),
        ("session-\ud800", "UTF-8"),
    ],
)
def test_a_malformed_address_is_a_value_error_that_says_why(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match="malformed address") as caught:
        actor_ref(text)
    assert reason in str(caught.value)


@pytest.mark.parametrize("key", ["x" * 256, "é" * 128, "a b", "日本語", "-", "a-b", "🙂", "..", "%2F", "a\u200db"])
def test_a_key_within_the_rules_is_accepted(key: str) -> None:
    assert check_key(key) == key
    assert actor_ref(f"session-{key}").key == key


def test_a_typed_reference_checks_its_key() -> None:
    class Session(Actor):
        pass

    assert Session.ref("42").address == "session-42"
    for key in ("", "a/b", " a", "a\n", "x" * 257):
        with pytest.raises(ValueError, match="malformed key"):
            Session.ref(key)


@pytest.mark.parametrize(
    ("class_name", "type_name"),
    [
        ("Session", "session"),
        ("ResearchAgent", "research_agent"),
        ("HTTPServer", "http_server"),
        ("MyHTTPServer", "my_http_server"),
        ("Agent2", "agent2"),
        ("Agent2Go", "agent2_go"),
        ("A", "a"),
        ("LLM", "llm"),
        ("snake_case", "snake_case"),
        ("_Private", "private"),
        ("Two_Words", "two_words"),
    ],
)
def test_the_default_type_is_the_class_name_in_snake_case(class_name: str, type_name: str) -> None:
    assert type_name_of(class_name) == type_name
    assert type(class_name, (Actor,), {})._type == type_name  # type: ignore[attr-defined]


@given(st.from_regex(r"[A-Z][A-Za-z0-9]*", fullmatch=True))
def test_the_default_type_of_any_class_in_capitals_is_a_valid_type(class_name: str) -> None:
    assert check_type(type_name_of(class_name)).replace("_", "") == class_name.lower()


@pytest.mark.parametrize("address", [42, None, b"session-42"])
def test_what_is_no_string_is_no_address(address: Any) -> None:
    with pytest.raises(TypeError, match="an address is a string"):
        actor_ref(address)
