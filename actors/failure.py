"""Exceptions to Failure envelopes and back."""

import builtins
import sys
import traceback
from typing import Any

from actors import codec, errors
from actors.envelope import Failure


def refusal(request_id: int, error: errors.ActorError) -> Failure:
    """The engine's own refusal or loss of a request."""
    return Failure(request_id, type(error).__name__, _message(error))


def _printable(text: str) -> str:
    """The text without what UTF-8 cannot say."""
    return text.encode("utf-8", "backslashreplace").decode()


def _message(error: BaseException) -> str:
    try:
        return _printable(str(error))
    except Exception:  # a __str__ of the user's
        return f"<{type(error).__name__} whose text cannot be printed>"


def _traceback(error: BaseException) -> str:
    try:
        return _printable("".join(traceback.format_exception(error)))
    except Exception:
        return "".join(traceback.format_tb(error.__traceback__))


def _arguments(error: BaseException) -> bytes:
    attributes = {name: value for name, value in getattr(error, "__dict__", {}).items() if codec.is_plain(value)}
    try:
        return codec.encode([list(error.args), attributes])
    except Exception:  # an argument that cannot travel: the text stands for all
        return codec.encode([[_message(error)], attributes])


def raised(request_id: int, where: str, error: BaseException) -> Failure:
    """What an actor's own code raised, whatever it was: the caller gets ``ActorFailed``."""
    kind = type(error)
    type_name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    type_name = _printable(type_name)
    message = _message(error)
    text = f"{where} raised {type_name}: {message}"
    return Failure(
        request_id, errors.ActorFailed.__name__, text, type_name, message, _traceback(error), _arguments(error)
    )


def to_exception(failure: Failure, *, trusted: bool) -> errors.ActorError:
    """The exception that a caller gets for a Failure."""
    kind = getattr(errors, failure.error, None)
    if not (isinstance(kind, type) and issubclass(kind, errors.ActorError)):
        kind = errors.ActorError  # of a newer release
    if kind is not errors.ActorFailed:
        return kind(failure.text)
    error = errors.ActorFailed(
        failure.text, type_name=failure.type_name, message=failure.message, traceback=failure.traceback
    )
    error.__cause__ = _original(failure, trusted=trusted)
    return error


def _original(failure: Failure, *, trusted: bool) -> BaseException | None:
    """An exception of the original type, made without running its ``__init__``, if the type is loaded here."""
    kind = _find_type(failure.type_name)
    if kind is None:
        return None
    try:
        args, attributes = codec.decode(failure.args, trusted=trusted)
        try:
            original = kind.__new__(kind, *args)
        except Exception:  # its own __new__ wants something else
            original = BaseException.__new__(kind)
        original.args = tuple(args)
        vars(original).update(attributes)
    except Exception:
        return None
    original.add_note(f"Remote traceback:\n{failure.traceback}")
    return original


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
