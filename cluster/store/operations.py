"""What a store's writer is asked to do, and what it answers: the same for every kind of database."""

from math import isfinite
from typing import Final, TypeAlias

import msgspec
from msgspec import UNSET

from actors.ports import Commit, Fenced, Opened

LONGEST_KEY: Final = 700
LARGEST_VALUE: Final = 128 * 1024 * 1024
LARGEST_NUMBER: Final = 2**63 - 1


class Open(msgspec.Struct, frozen=True):
    """Raise the epoch and note the host; the outcome is what is stored."""

    address: str
    epoch: int
    host: str


class RaiseEra(msgspec.Struct, frozen=True):
    """Raise the store's era; the outcome is the era."""

    atleast: int


Operation: TypeAlias = Open | Commit | RaiseEra
Answer: TypeAlias = Opened | int | None
Outcome: TypeAlias = Answer | Fenced


def check(operation: Operation) -> int:
    """The number of bytes that the operation carries. Raises ``ValueError`` for one that no store takes.

    To be called before the operation meets others: what cannot be stored is refused to its caller alone.
    """
    if isinstance(operation, RaiseEra):
        _check_number("an era", operation.atleast)
        return 0
    _check_text(operation.address)
    _check_number(f"{operation.address}: an epoch", operation.epoch)
    if isinstance(operation, Open):
        _check_text(operation.host)
        return 0
    return _check_effects(operation)


def _check_effects(commit: Commit) -> int:
    size = 0
    if commit.state is not None:
        size = _checked_size(commit, "the state", commit.state)
    for key, value in commit.put.items():
        if not 0 < len(key) <= LONGEST_KEY:
            raise _unfit_key(commit, key)
        size += len(key) + _checked_size(commit, "a record", value)
    for key in commit.drop:
        if not 0 < len(key) <= LONGEST_KEY:
            raise _unfit_key(commit, key)
        size += len(key)
    wake = commit.wake
    if wake is not UNSET and wake is not None and not isfinite(wake):
        raise ValueError(f"{commit.address}: the wake-up time is not finite: {wake}")
    return size


def _unfit_key(commit: Commit, key: bytes) -> ValueError:
    return ValueError(f"{commit.address}: the key of a record has 1 to {LONGEST_KEY} bytes, not {len(key)}")


def _checked_size(commit: Commit, what: str, value: bytes) -> int:
    size = len(value)
    if size > LARGEST_VALUE:
        raise ValueError(
            f"{commit.address}: {what} has {size:,} bytes; up to {LARGEST_VALUE:,} can be stored as one value"
        )
    return size


def _check_number(what: str, number: int) -> None:
    if not 0 <= number <= LARGEST_NUMBER:
        raise ValueError(f"{what} is from 0 to 2**63 - 1, not {number}")


def _check_text(text: str) -> None:
    if not text.isascii():
        text.encode()  # raises UnicodeEncodeError, a ValueError
