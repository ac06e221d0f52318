"""The order of versions of a user's code, as operators give them: ``silo start --version``."""

import re
from functools import lru_cache
from typing import TypeAlias

LONGEST = 100  # characters

_Token: TypeAlias = tuple[int, int, str]
Order: TypeAlias = tuple[bool, tuple[_Token, ...], bool, tuple[_Token, ...]]

_PARTS = re.compile(r"v?(?P<numbers>\d+(?:\.\d+)*)?(?P<rest>.*)", re.ASCII | re.DOTALL)
_TOKENS = re.compile(r"\d+|\D+", re.ASCII)


@lru_cache(maxsize=1024)
def order(version: str) -> Order:
    """What versions are compared by; two that have the same are as good as equal.

    No version is older than any. Then the numbers at the front decide, one by one (1.9 before 1.10; 1.2 is 1.2.0, and
    a ``v`` before them says nothing). Of equal numbers those with a text behind them come first (1.2rc1 before 1.2),
    unless it begins with ``+`` (1.2 before 1.2+fix). Texts compare as text, numbers in them as numbers.
    """
    parts = _PARTS.fullmatch(version)
    assert parts is not None  # it fits everything
    numbers = [_token(number) for number in (parts["numbers"] or "").split(".")] if parts["numbers"] else []
    while numbers and numbers[-1] == _token("0"):
        numbers.pop()
    rest = parts["rest"]
    is_final = bool(parts["numbers"]) and (not rest or rest.startswith("+"))
    return bool(version), tuple(numbers), is_final, tuple(_token(token) for token in _TOKENS.findall(rest))


def _token(text: str) -> _Token:
    if not text.isdigit():
        return 0, 0, text
    digits = text.lstrip("0")  # compared as text of equal length: a number of thousands of digits is no int
    return 1, len(digits), digits


def check(version: str) -> str:
    """The version as it is. Raises ``ValueError`` if it makes none."""
    if len(version) > LONGEST or not version.isprintable() or version != version.strip():
        raise ValueError(
            f"the version of the code {version!r} must be one line of at most {LONGEST} characters without space around"
        )
    return version
