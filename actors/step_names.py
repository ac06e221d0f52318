"""How steps are known: by names, by the path of names where one runs inside of another, and by their function."""

from collections.abc import Callable
from typing import Any, Final

MAX_NAME: Final = 200
BELOW: Final = "\x1e"  # between the name of a step and that of one inside of it
WAIT: Final = "\x1d"  # before the name of what a turn waits for


def label_of(function: Callable[..., Any]) -> str:
    """What tells one function from another over a restart."""
    inner = getattr(function, "func", function)  # of a partial
    return str(getattr(inner, "__qualname__", type(inner).__qualname__))


def shown_path(path: str) -> str:
    """The path of a step as it is told: names of outer steps first."""
    return path.replace(BELOW, " > ").replace(WAIT, "wait_for ")


def check_name(of: str, name: str) -> None:
    """Raise ``ValueError`` unless it is a name."""
    if not name or len(name.encode()) > MAX_NAME or not name.isprintable():
        raise ValueError(f"{of}'s name is printable text of 1 to {MAX_NAME} bytes, not {name!r}")


def quoted(path: str) -> str:
    """The same, as messages show it."""
    return repr(shown_path(path))
