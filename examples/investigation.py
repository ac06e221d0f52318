"""``python -m examples.research``: somebody who has an agent do research, and looks whether the report is right."""

import argparse
import asyncio
import contextlib
import os
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from actors import ActorError, Steered
from cluster import Client, connect
from cluster.local_cluster import LocalCluster
from examples.checks import Checks
from examples.local_model import model_in_environment
from examples.research import Research, Scope
from examples.stage import Stage
from examples.survey import Part, Reading, divide, is_known, read, source_of

SUBJECT, INSTEAD = "subprocess", "threading"
DOCUMENTS = 120
SHORT = Scope(documents=12, tokens=24)
"""What ``make demo`` has time for."""
LIMIT = 3600.0
"""Seconds that the whole research may take."""


class Investigation:
    """One research, followed from its first plan to its report."""

    def __init__(self, client: Client, cluster: LocalCluster, stage: Stage, checks: Checks, *, scope: Scope) -> None:
        self.scope = scope
        self.client = client
        self.cluster = cluster
        self.stage = stage
        self.check = checks
        self.agent = Research.ref("library")
        self.events: list[dict[str, Any]] = []
        """What the agent has published."""
        self.flaws: list[str] = []
        """Where the channel did not give every entry once and in order."""
        self._news = asyncio.Condition()

    async def follow(self) -> None:
        """Tell what the agent publishes, while it does."""
        after = -1
        async for event in self.agent.channel("output").subscribe():
            if event.kind != "item" or event.offset != after + 1:
                self.flaws.append(f"{event.kind} {event.offset} after {after}")
            after = event.offset
            if event.kind == "item":
                self.stage.say(f"  {_in_words(event.data)}")
                async with self._news:
                    self.events.append(event.data)
                    self._news.notify_all()

    async def reached(self, what: Callable[[], bool], asking: "asyncio.Task[str]") -> None:
        """Return when what was published is enough for this. Raises what the research fails with before that."""
        reaching = asyncio.create_task(self._reach(what))
        try:
            await asyncio.wait({reaching, asking}, return_when=asyncio.FIRST_COMPLETED)
            if not reaching.done():
                raise RuntimeError(f"the research has ended before that: {await asking!r}")
        finally:
            reaching.cancel()

    async def _reach(self, what: Callable[[], bool]) -> None:
        async with self._news:
            await self._news.wait_for(what)

    def parts_read(self, module: str) -> list[int]:
        """The parts of the library of which there is a finding."""
        return [event["part"] for event in self.events if event.get("read") == module]

    def noted(self, module: str) -> dict[str, str]:
        """The notes there are, by file; one that came twice is a flaw."""
        found: dict[str, str] = {}
        for event in self.events:
            if event.get("noted") == module:
                if event["file"] in found:
                    self.flaws.append(f"two notes on {event['file']}")
                found[event["file"]] = event["note"]
        return found

    async def play(self, subject: str, instead: str) -> None:
        """Ask for one subject, then for another, kill the agent's silo, and approve of the report."""
        started = time.monotonic()
        agent = self.agent.options(timeout=LIMIT)
        asking = asyncio.create_task(agent.investigate(subject, scope=self.scope))
        tasks: list[asyncio.Task[Any]] = [asking, asyncio.create_task(self.follow())]
        try:
            await self.reached(lambda: bool(self.noted(subject)), asking)
            self.stage.say(f'  You: "{instead} instead!"', style="bold")
            redirecting = asyncio.create_task(agent.options(on_busy="steer").investigate(instead))
            tasks.append(redirecting)
            await self.reached(lambda: bool(self.noted(instead)), asking)
            victim = await self._kill_its_silo()
            await self.reached(lambda: "question" in self.events[-1], asking)
            home = (await self.client.placements("research")).get(self.agent.address, "asleep")
            self.check(f"the agent went on without {victim}: it is on {home} now", fulfilled=home != victim)
            self.check("it has asked before it writes", fulfilled=not (await agent.notes()).report)
            self.stage.say('  You: "yes"', style="bold")
            await agent.signal("approval", value=True)
            report = await asking
            self.check("the other subject was taken by the turn that ran", fulfilled=_is_steered(await redirecting))
            self.stage.say(f"  The report, after {time.monotonic() - started:.0f} s:\n\n{report}")
            await self._check_report(subject, instead, report)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _kill_its_silo(self) -> str:
        home = (await self.client.placements("research"))[self.agent.address]
        kill(self.cluster, home)
        self.stage.say(f"  {home}, which hosts the agent, is dead", style="bold")
        return home

    async def _check_report(self, subject: str, instead: str, report: str) -> None:
        scope = self.scope
        parts = (await asyncio.to_thread(divide, thorough=scope.thorough))[: scope.parts]
        numbers = [part.number for part in parts]
        self.check(
            f"all of {len(parts)} parts were read once for {subject}, and once for {instead}",
            fulfilled=sorted(self.parts_read(subject)) == sorted(self.parts_read(instead)) == numbers,
        )
        before, counted = self.noted(subject), await asyncio.to_thread(count, subject, parts)
        wanted = len(counted.most_of_it(scope.documents))
        self.check(f"{len(before)} of {wanted} notes were written for {subject}", fulfilled=len(before) < wanted)
        counted = await asyncio.to_thread(count, instead, parts)
        written = self.noted(instead)
        listed = [f"\n{path}: {note}\n" for path, note in written.items() if note.strip()]
        self.check(
            f"the report has the notes on {len(listed)} files that use {instead}, all that were wanted",
            fulfilled=sorted(written) == sorted(counted.most_of_it(scope.documents))
            and len(listed) == len(written)
            and all(note in report for note in listed),
        )
        self.check(f"its readers lost no entry and got none twice{_listed(self.flaws)}", fulfilled=not self.flaws)
        notes = await self.agent.notes()
        self.check(
            "it has counted right, whichever silo did it",
            fulfilled=(notes.module, notes.found.uses) == (instead, counted.uses),
        )
        streamed = await self._streamed(len(report))
        self.check("the report is what was streamed and what is stored", fulfilled=report == streamed == notes.report)

    async def _streamed(self, length: int) -> str:
        text = ""
        async for event in self.agent.channel("report").subscribe():
            text += str(event.data)
            if len(text) >= length:
                break
        return text

    async def converse(self) -> None:
        """Let a person decide."""
        print("Type the name of a module, also while it reads. yes or no answers it. /stop, /kill n2, /quit.")
        following = [asyncio.create_task(self.follow()), asyncio.create_task(self._tell_report())]
        try:
            while (line := (await asyncio.to_thread(input)).strip()) != "/quit":
                try:
                    await self._do(line)
                except (ActorError, ValueError) as error:
                    print(f"{type(error).__name__}: {error}")
        except EOFError:
            pass
        finally:
            for task in following:
                task.cancel()

    async def _do(self, line: str) -> None:
        if line in ("yes", "no"):
            await self.agent.signal("approval", line == "yes")
        elif line == "/stop":
            await self.agent.interrupt("you asked for it")
        elif line.startswith("/kill "):
            kill(self.cluster, line.removeprefix("/kill ").strip())
        elif is_known(line):
            await self.agent.options(on_busy="steer").investigate.send(line, scope=self.scope)
        elif line:
            print(f"Python's library has no module {line}")

    async def _tell_report(self) -> None:
        async for event in self.agent.channel("report").subscribe():
            print(event.data, end="", flush=True)


def kill(cluster: LocalCluster, name: str) -> None:
    """End a silo's process, without any goodbye."""
    for silo in cluster.silos:
        if silo.name == name and silo.process.returncode is None:
            os.kill(silo.pid, signal.SIGKILL)


def count(module: str, parts: list[Part]) -> Reading:
    """The uses of a module, counted here and now."""
    found = Reading()
    for path in [path for part in parts for path in part.paths]:
        if module in source_of(path):
            found.add(read(path, module))
    return found


def _is_steered(answer: object) -> bool:
    return isinstance(answer, Steered)


def _listed(flaws: list[str]) -> str:
    return f": {', '.join(flaws)}" if flaws else ""


def _in_words(event: dict[str, Any]) -> str:
    if "plan" in event:
        return f"The plan for {event['plan']}: {len(event['parts'])} parts"
    if "question" in event:
        return f"It asks: {event['question']}"
    if "noted" in event:
        return f"{event['noted']}, note {event['number']} of {event['count']}, {event['file']}: {event['note']}"
    most = ", ".join(f"{name} {times}x" for name, times in list(event["uses"].items())[:3])
    return f"{event['read']}, {event['of']}: {event['users']} of {event['files']} files {most}".rstrip()


@contextlib.asynccontextmanager
async def investigating(stage: Stage, checks: Checks, scope: Scope) -> AsyncIterator[Investigation]:
    """An agent on a cluster of its own. The model is in the environment."""
    options = ["--log-level", "error"]
    with tempfile.TemporaryDirectory(prefix="agentsilo-research-") as directory:
        async with LocalCluster(["examples.research"], silos=3, directory=Path(directory), options=options) as cluster:
            async with connect(etcd=cluster.etcd) as client:
                yield Investigation(client, cluster, stage, checks, scope=scope)


async def run(options: argparse.Namespace) -> int:
    """Start the model and the cluster, and do it. Returns the exit status."""
    stage = Stage()
    checks = Checks(stage.say)
    stage.say("Starting the language model, etcd and three silos ...")
    scope = SHORT if options.short else Scope(thorough=True, documents=DOCUMENTS)
    scope = replace(scope, parts=options.parts, documents=options.documents or scope.documents)
    async with model_in_environment(), investigating(stage, checks, scope) as investigation:
        if options.interactive:
            await investigation.converse()
            return 0
        await investigation.play(options.module, options.instead)
    return checks.exit_status()


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"at least 1 is needed, not {text}")
    return number


def main() -> None:
    """Entry point of ``python -m examples.research``."""
    parser = argparse.ArgumentParser(
        prog="python -m examples.research", description=sys.modules[Research.__module__].__doc__
    )
    parser.add_argument("module", nargs="?", default=SUBJECT, help="what to look for first (default %(default)s)")
    parser.add_argument("--instead", default=INSTEAD, help="what it is told to look for then (default %(default)s)")
    parser.add_argument(
        "--documents", type=_positive, metavar="N", help=f"notes on at most N files (default {DOCUMENTS}: minutes)"
    )
    parser.add_argument("--parts", type=_positive, metavar="N", help="read only N of the library's parts")
    parser.add_argument(
        "--short",
        action="store_true",
        help=f"a minute's work: without the library's tests and tools, and short notes on {SHORT.documents} files",
    )
    parser.add_argument("--interactive", action="store_true", help="decide yourself")
    options = parser.parse_args()
    for module in (options.module, options.instead):
        if not is_known(module):
            parser.error(f"Python's library has no module {module!r}")
    with contextlib.suppress(KeyboardInterrupt):
        sys.exit(asyncio.run(run(options)))
    sys.exit(130)
