"""What the commands have in common: their options, Ctrl-C, and what they exit with."""

from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.contest import Contestant
from benchmarks.peer import installed
from cluster.exit_status import ExitStatus
from cluster.serve import run

Seconds = Annotated[float, typer.Option(min=0.05, help="How long each figure is measured in each round.")]
Rounds = Annotated[int, typer.Option(min=1, help="How often every contestant is measured.")]
Json = Annotated[Path | None, typer.Option(help="Write all figures to this file; - prints them instead of the table.")]
Only = Annotated[list[str] | None, typer.Option(help="A row of the table to measure; repeatable. Default: all.")]
Check = Annotated[bool, typer.Option("--check", help="Exit with status 1 unless the targets are measured and met.")]


def check_names(only: Sequence[str] | None, known: Sequence[str]) -> None:
    """Raise ``typer.BadParameter`` for an unknown name."""
    if unknown := sorted(set(only or ()) - set(known)):
        raise typer.BadParameter(f"unknown: {', '.join(unknown)} (known: {', '.join(known)})", param_hint="--only")


def choose(contestants: Sequence[Contestant], only: Sequence[str] | None) -> tuple[list[Contestant], dict[str, str]]:
    """Those that take part, and by name why others do not. Raises ``typer.BadParameter`` for an unknown name."""
    check_names(only, [contestant.name for contestant in contestants])
    chosen = [contestant for contestant in contestants if not only or contestant.name in only]
    missing = {one.name: f"{one.requires} is not installed" for one in chosen if not installed(one.requires)}
    return [contestant for contestant in chosen if contestant.name not in missing], missing


def execute(main: Callable[[], Coroutine[Any, Any, ExitStatus]]) -> None:
    """Run a benchmark to its exit status; Ctrl-C ends its processes and gives 130."""
    try:
        status = run(main)
    except KeyboardInterrupt:
        typer.echo("interrupted", err=True)
        status = ExitStatus.INTERRUPTED
    raise typer.Exit(status)


def verdict(failed: dict[str, str], *, met: bool) -> ExitStatus:
    """FAILED if a contestant broke down or targets were to be met and are not."""
    return ExitStatus.OK if met and not failed else ExitStatus.FAILED
