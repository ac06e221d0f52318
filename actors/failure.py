"""Exceptions to Failure envelopes and back."""

import builtins
import sys
import traceback
from typing import Any

import msgspec

from actors import codec, errors
from actors.envelope import Failure


def refusal(request_id: int, error: errors.ActorError) -> Failure:
    """The engine's own refusal or loss of a request."""
    if isinstance(error, errors.OffsetGone):
        return Failure(request_id, type(error).__name__, message(error), args=codec.encode(error.first))
    if not isinstance(error, errors.ActorFailed):
        return Failure(request_id, type(error).__name__, message(error))
    cause = error.__cause__  # an actor that could not be activated: its failure is passed on whole
    original = codec.encode(_original_of(cause)) if cause is not None else b""
    return Failure(
        request_id, type(error).__name__, message(error), error.type_name, error.message, error.traceback, original
    )


def of_one_attempt(failed: Failure) -> Failure:
    """Why this attempt of a request did not run: that says nothing about those before it."""
    return Failure(
        failed.id, errors.ConnectionLost.__name__, f"{failed.text}; an earlier attempt may have run, or may run yet"
    )


MAX_TEXT = 64 * 1024


def _printable(text: str) -> str:
    """The text without what UTF-8 cannot say, and without the middle if it is very long."""
    if len(text) > MAX_TEXT:
        text = f"{text[: MAX_TEXT // 2]}\n... {len(text) - MAX_TEXT} characters left out ...\n{text[-MAX_TEXT // 2 :]}"
    return text.encode("utf-8", "backslashreplace").decode()


def message(error: BaseException) -> str:
    """The exception's text, whatever its ``__str__`` does."""
    try:
        return _printable(str(error))
    except Exception:  # a __str__ of the user's
        return f"<{type(error).__name__} whose text cannot be printed>"


def _traceback(error: BaseException) -> str:
    try:
        return _printable("".join(traceback.format_exception(error)))
    except Exception:
        return "".join(traceback.format_tb(error.__traceback__))


def _original_of(error: BaseException, depth: int = 8) -> list[object]:
    """The arguments, plain attributes and cause of an exception: what the caller's is made of."""
    attributes = {name: value for name, value in getattr(error, "__dict__", {}).items() if codec.is_plain(value)}
    args: object = list(error.args)
    try:
        fits = len(codec.encode(args)) <= MAX_TEXT
    except Exception:
        fits = False
    if not fits:  # an argument that cannot travel, or should not: the text stands for all
        args = [message(error)]
    cause = error.__cause__
    described = [_type_name(cause), *_original_of(cause, depth - 1)] if cause is not None and depth else None
    return [args, attributes, described]


def _type_name(error: BaseException) -> str:
    kind = type(error)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    return _printable(name)


def raised(request_id: int, where: str, error: BaseException) -> Failure:
    """What an actor's own code raised, whatever it was: the caller gets ``ActorFailed``."""
    type_name = _type_name(error)
    text = message(error)
    return Failure(
        request_id,
        errors.ActorFailed.__name__,
        f"{where} raised {type_name}: {text}",
        type_name,
        text,
        _traceback(error),
        codec.encode(_original_of(error)),
    )


def to_exception(failure: Failure, *, trusted: bool) -> errors.ActorError:
    """The exception that a caller gets for a Failure."""
    kind = getattr(errors, failure.error, None)
    if not (isinstance(kind, type) and issubclass(kind, errors.ActorError)):
        kind = errors.ActorError  # of a newer release
    if kind is errors.OffsetGone:
        return errors.OffsetGone(failure.text, first=msgspec.msgpack.decode(failure.args or b"\0", type=int))
    if kind is not errors.ActorFailed:
        return kind(failure.text)
    error = errors.ActorFailed(
        failure.text, type_name=failure.type_name, message=failure.message, traceback=failure.traceback
    )
    error.__cause__ = _original(failure, trusted=trusted)
    if error.__cause__ is not None:
        error.__cause__.add_note(f"Remote traceback:\n{failure.traceback}")
    return error


def to_original(failure: Failure) -> BaseException:
    """The exception that was raised here before, of its own type if that is loaded."""
    return _original(failure, trusted=True) or to_exception(failure, trusted=True)


def _original(failure: Failure, *, trusted: bool) -> BaseException | None:
    """An exception of the original type, if that is loaded here."""
    try:
        return _make(failure.type_name, *codec.decode(failure.args, trusted=trusted))
    except Exception:  # of another release, or nothing that can be made
        return None


def _make(
    type_name: str, args: list[object], attributes: dict[str, object], cause: list[Any] | None
) -> BaseException | None:
    """Make an exception without running its ``__init__``."""
    kind = _find_type(type_name)
    if kind is None:
        return None
    try:
        made = kind.__new__(kind, *args)
    except Exception:  # its own __new__ wants something else
        made = BaseException.__new__(kind)
    made.args = tuple(args)
    vars(made).update(attributes)
    if cause is not None:
        made.__cause__ = _make(*cause)
    return made


def _find_type(type_name: str) -> type[BaseException] | None:
    module_name, _, name = type_name.rpartition(".")
    found: Any = getattr(builtins, name, None) if not module_name else None
    while module_name and found is None:
        module = sys.modules.get(module_name)  # never imported because a message said so
        if module is not None:
            found = module
            for part in name.split("."):
                found = getattr(found, part, None)
            break
        module_name, _, outer = module_name.rpartition(".")
        name = f"{outer}.{name}"
    return found if isinstance(found, type) and issubclass(found, BaseException) else None
