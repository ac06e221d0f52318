"""Addresses: one string, ``"<type>-<key>"``, that names an actor for ever, wherever it lives now."""

import re
import unicodedata
from collections.abc import Iterable
from functools import lru_cache
from typing import NamedTuple

MAX_KEY_BYTES = 256

_TYPE = re.compile(r"[a-z][a-z0-9_]*")
_WORD_START = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")


class Address(NamedTuple):
    """The two parts of an address. ``str()`` joins them again."""

    type: str
    key: str

    def __str__(self) -> str:
        return f"{self.type}-{self.key}"


@lru_cache(maxsize=65_536)
def parse_address(text: str) -> Address:
    """Split an address into type and key.

    The type ends at the first ``-``; the key is 1 to 256 bytes of UTF-8 without ``/``, control characters or
    surrounding space. Raises ``ValueError`` that says which rule was broken.
    """
    if not isinstance(text, str):
        raise TypeError(f'an address is a string, as in "session-42", not {text!r}')
    type_name, dash, key = text.partition("-")
    if not dash:
        raise ValueError(f'malformed address {text!r}: expected "<type>-<key>", as in "session-42"')
    return Address(check_type(type_name, text), check_key(key, text))


def is_address(text: str) -> bool:
    """Whether ``parse_address`` would take it."""
    if "-" not in text:  # most names that are none: an error takes longer to make
        return False
    try:
        parse_address(text)
    except ValueError:
        return False
    return True


def check_type(type_name: str, address: str | None = None) -> str:
    """Return ``type_name`` if it can be the type of an address, else raise ``ValueError``."""
    if not _TYPE.fullmatch(type_name):
        where = f"malformed address {address!r}: type" if address is not None else "actor type"
        raise ValueError(f"{where} {type_name!r} must be lower case: [a-z][a-z0-9_]*")
    return type_name


def check_key(key: str, address: str | None = None) -> str:
    """Return ``key`` if it can be the key of an address, else raise ``ValueError``."""
    where = f"malformed address {address!r}" if address is not None else f"malformed key {key!r}"
    try:
        size = len(key.encode())
    except UnicodeEncodeError:
        raise ValueError(f"{where}: the key is not valid UTF-8") from None
    if not 1 <= size <= MAX_KEY_BYTES:
        raise ValueError(f"{where}: the key must have 1 to {MAX_KEY_BYTES} bytes of UTF-8, not {size}")
    if "/" in key:
        raise ValueError(f"{where}: the key must not contain '/'")
    if any(unicodedata.category(char) == "Cc" for char in key):
        raise ValueError(f"{where}: the key must not contain control characters")
    if key != key.strip():
        raise ValueError(f"{where}: the key must not begin or end with space")
    return key


def type_name_of(class_name: str) -> str:
    """The default actor type of a class: its name in snake_case (``ResearchAgent`` -> ``research_agent``)."""
    return _WORD_START.sub("_", class_name).lower().lstrip("_")


OWN_TYPES: set[str] = set()
"""Types that the platform hosts for itself: users are not told of them."""


def listed(types: Iterable[str]) -> str:
    """The types that a user can mean, for messages and tables."""
    return ", ".join(sorted(set(types) - OWN_TYPES)) or "none"
