"""``python -m tests.simulation``: run seeds, report the first one that breaks a promise."""
# ruff: noqa: T201  # the command's output

import argparse
import sys
import time

from tests.simulation.faults import KINDS
from tests.simulation.plants import PLANTS
from tests.simulation.world import World


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seeds", type=int, default=1000, help="how many seeds to run")
    parser.add_argument("--from", type=int, default=0, dest="first", help="the first of them")
    parser.add_argument("--seed", type=int, help="run only this one")
    parser.add_argument("--plant", choices=sorted(PLANTS), help="switch a known bug on")
    parser.add_argument("--faults", nargs="+", choices=KINDS, default=[], help="the kinds of faults to draw from")
    parser.add_argument("--verbose", action="store_true", help="print the whole history")
    parser.add_argument("--keep-going", action="store_true", help="run all seeds and list those that fail")
    options = parser.parse_args()
    seeds = range(options.first, options.first + options.seeds) if options.seed is None else [options.seed]
    started = time.monotonic()
    failed = 0
    for done, seed in enumerate(seeds, start=1):
        if not run(seed, plant=options.plant, only=options.faults, verbose=options.verbose, brief=options.keep_going):
            failed += 1
            if not options.keep_going:
                print(f"seed {seed} failed, the {done}. of this run")
                return 1
        if done % 100 == 0:
            print(f"{done} seeds, {done / (time.monotonic() - started) * 60:.0f} a minute", file=sys.stderr)
    took = time.monotonic() - started
    print(f"{len(seeds)} seeds in {took:.1f} s, {len(seeds) / took * 60:.0f} a minute, {failed} failed")
    return 1 if failed else 0


def run(seed: int, *, plant: str | None, only: list[str], verbose: bool, brief: bool) -> bool:
    """Run one seed; print what failed, from a second run that notes every envelope."""
    planted = PLANTS[plant] if plant is not None else None
    world = World(seed, plant=planted, only=only)
    history = world.run()
    if verbose and not history.violations:
        print(history.everything())
        print(f"digest {history.digest()}, {len(history.ops)} calls, {world.loop.steps} callbacks")
    if not history.violations:
        return True
    if brief:
        found = history.violations[0]
        print(f"seed {seed}: {found.check} in phase {found.phase}: {found.id} {found.address}: {found.actual[:150]}")
        return False
    again = World(seed, plant=planted, only=only, trace=True)
    history = again.run()
    violation = history.violations[0]
    print(f"seed {seed}: {violation}\n\nfaults:")
    print("\n".join(f"  {fault}" for fault in again.faults) or "  none")
    print(f"\nhistory of {violation.address or 'everything'} (seconds, process):")
    print(history.everything() if verbose else history.about(violation))
    chosen = f" --plant {plant}" if plant is not None else ""
    chosen += f" --faults {' '.join(only)}" if only else ""
    print(f"\nreplay: python -m tests.simulation --seed {seed}{chosen}")
    return False


sys.exit(main())
