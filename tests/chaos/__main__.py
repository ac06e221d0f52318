"""``python -m tests.chaos``: see the docstring of the package. Exit status: 0 all promises held, 1 one was broken."""
# ruff: noqa: T201  # the command's output

import argparse
import asyncio
import json
import random
import shutil
import signal
import sys
import tempfile
from pathlib import Path
from typing import get_args

from tests.chaos.detour import has_detours
from tests.chaos.faults import KINDS, usable
from tests.chaos.fleet import StoreKind
from tests.chaos.plants import PLANTS
from tests.chaos.run import Plan, Result, Run
from tests.chaos.wires import enter, why_not


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0, help="how long there are faults")
    parser.add_argument("--seed", type=int, help="what the faults are drawn from; drawn itself if not given")
    parser.add_argument("--faults", nargs="+", choices=KINDS, default=[], help="the kinds of faults to draw from")
    parser.add_argument("--store", choices=get_args(StoreKind), default="sqlite")
    parser.add_argument("--silos", type=int, default=3)
    parser.add_argument("--no-namespaces", action="store_true", help="proxies instead of network namespaces")
    parser.add_argument("--plant", choices=sorted(PLANTS), default="", help="switch a known bug on")
    parser.add_argument("--rest", type=float, default=120.0, help="seconds to come to rest in when the faults are over")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="keep the history and all logs there")
    parser.add_argument("--json", action="store_true", help="the result as JSON on stdout")
    options = parser.parse_args(arguments)
    seed = options.seed if options.seed is not None else random.randrange(1_000_000)
    obstacle = "that was asked for (--no-namespaces)" if options.no_namespaces else why_not()
    if not obstacle:
        enter("tests.chaos", [*arguments, *(() if options.seed is not None else ("--seed", str(seed)))])
    kinds = usable(options.faults, wires=not obstacle, store=options.store)
    if obstacle:
        tell(f"no network namespaces, proxies instead: {obstacle}")
        without = sorted(set(usable(options.faults, wires=True, store=options.store)) - set(kinds))
        tell(f"left out for that: {', '.join(without) or 'nothing'}")
    elif not has_detours():
        tell("left out: lag, as this machine has no /dev/net/tun")
    plan = Plan(
        seed, options.minutes * 60, kinds, store=options.store, silos=options.silos, wires=not obstacle,
        plant=options.plant, rest=options.rest,
    )  # fmt: skip
    replay = replay_of(plan, options.faults, namespaces=not options.no_namespaces)
    tell(f"seed {seed}, {len(plan.faults())} faults of the kinds {' '.join(kinds)}\nagain: {replay}")
    result = asyncio.run(_run(plan, options.keep))
    if result is None:
        tell("stopped")
        return 130
    report(result, replay, as_json=options.json)
    return 1 if result.violations else 0


async def _run(plan: Plan, keep: Path | None) -> Result | None:
    """None: a signal has ended it. Nothing is left behind but what is kept."""
    task = asyncio.ensure_future(_run_in_folder(plan, keep))
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, task.cancel)
    try:
        return await task
    except asyncio.CancelledError:
        return None


async def _run_in_folder(plan: Plan, keep: Path | None) -> Result:
    with tempfile.TemporaryDirectory(prefix="chaos-") as name:
        folder = Path(name)
        try:
            result = await Run(plan, folder, tell).run()
            if keep is not None:
                result.history.write(folder / "history.jsonl")
        finally:
            if keep is not None:
                shutil.copytree(folder, keep, dirs_exist_ok=True, ignore=shutil.ignore_patterns("data"))
        return result


def replay_of(plan: Plan, kinds: list[str], *, namespaces: bool) -> str:
    """The command for the same faults at the same times."""
    words = [
        "python -m tests.chaos",
        f"--minutes {plan.seconds / 60:g}",
        f"--seed {plan.seed}",
        f"--store {plan.store}",
    ]
    words += [f"--silos {plan.silos}"] if plan.silos != 3 else []
    words += [f"--faults {' '.join(kinds)}"] if kinds else []
    words += [] if namespaces else ["--no-namespaces"]
    words += [f"--plant {plan.plant}"] if plan.plant else []
    return " ".join(words)


def report(result: Result, replay: str, *, as_json: bool) -> None:
    """What was found, and the figures."""
    if as_json:
        faults = [str(fault) for fault in result.faults]
        found = [violation._asdict() for violation in result.violations]
        print(json.dumps({"violations": found, "figures": result.figures, "timeline": faults, "replay": replay}))
        return
    for name, figure in result.figures.items():
        print(f"{name}: {', '.join(f'{k} {v}' for k, v in figure.items()) if isinstance(figure, dict) else figure}")
    for violation in result.violations[:20]:
        print(f"\nVIOLATION of {violation}")
    if len(result.violations) > 20:
        print(f"\n... and {len(result.violations) - 20} more")
    print(f"\n{len(result.violations)} violations" if result.violations else "\nall promises held")
    print(f"again: {replay}")


def tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
