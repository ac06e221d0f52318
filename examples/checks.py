"""What an example promises, and whether it was kept."""

from collections.abc import Callable


class Checks:
    """Notes of promises, each told when it is checked."""

    def __init__(self, say: Callable[..., None]) -> None:
        self._say = say
        self._kept: list[bool] = []

    def __call__(self, what: str, *, fulfilled: bool) -> None:
        """Note whether a promise was kept."""
        self._kept.append(fulfilled)
        self._say(f"  {'ok  ' if fulfilled else 'FAIL'} {what}", style="" if fulfilled else "bold red")

    def exit_status(self) -> int:
        """0 if there were promises and all were kept, else 1; it is told how many."""
        self._say(f"\n{sum(self._kept)} of {len(self._kept)} checks passed", style="bold")
        return 0 if self._kept and all(self._kept) else 1
