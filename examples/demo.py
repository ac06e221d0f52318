"""``make demo``: a dozen co-writing sessions on three silos, with sleep, a crash and another idea in mid-sentence; then
an agent that does research. Every promise is checked.
"""

import argparse
import asyncio
import contextlib
import os
import signal
import sys
import tempfile
import time
from collections import Counter
from functools import partial
from itertools import islice
from pathlib import Path

from cluster import Client, connect
from cluster.local_cluster import LocalCluster
from examples.checks import Checks
from examples.conversation import Conversation
from examples.investigation import INSTEAD, SHORT, SUBJECT, investigating
from examples.local_model import model_in_environment
from examples.reader import Reader
from examples.stage import Row, Stage
from examples.story import END, Session, Story

OPENINGS = {
    "lighthouse": "The lighthouse keeper found a letter addressed to the sea.",
    "tram": "The last tram of the night had one passenger too many.",
    "archive": "In the archive of lost sounds, somebody was humming.",
    "orchard": "Every tree in the orchard had been given a name.",
    "island": "The island was on no map, and it liked it that way.",
    "clock": "At noon all the clocks in the village began to disagree.",
    "baker": "The baker put a secret into every seventh loaf.",
    "robot": "The old robot had learned to be afraid of the rain.",
    "dragon": "The dragon came to the library to return a book.",
    "piano": "The piano played only when nobody listened.",
    "harbour": "A ship without a shadow entered the harbour.",
    "winter": "That winter the snow fell upwards.",
}
SECOND_LINE = "The next morning everything was different."
OTHER_IDEA = "But all of that was a dream of the cat, who"
SLEEP_LIMIT = 30.0
ANSWER_LIMIT = 30.0
MID_SENTENCE = 8
"""Pieces of each paragraph that are there when the silo is killed, or somebody has another idea."""


class Demo:
    """The acts, and what was checked in them."""

    def __init__(
        self, client: Client, cluster: LocalCluster, stage: Stage, checks: Checks, *, sessions: int = len(OPENINGS)
    ) -> None:
        self.openings = dict(islice(OPENINGS.items(), sessions))
        self.client = client
        self.cluster = cluster
        self.stage = stage
        self.check = checks
        self.readers = {name: Reader(name, partial(self._show, name)) for name in self.openings}
        self.pieces = Counter[str]()
        """How many pieces of its paragraph each session has told."""
        self.writing: set[str] = set()
        """The sessions that write now ..."""
        self.mid_sentence = asyncio.Event()
        """... and whether all of them have told a few."""
        for name in self.openings:
            stage.rows[f"session-{name}"] = Row()

    async def follow_placements(self) -> None:
        """Keep the view of who lives where up to date."""
        while True:
            with contextlib.suppress(ConnectionError):
                self.stage.place(await self.client.placements("session"))
            await asyncio.sleep(0.3)

    def _show(self, name: str, piece: str) -> None:
        row = self.stage.rows[f"session-{name}"]
        row.text += piece
        self.pieces[name] += 1
        row.status = "writing" if self.pieces[name] > 1 else "thinking"
        if all(self.pieces[name] >= MID_SENTENCE for name in self.writing):
            self.mid_sentence.set()

    def begin(self, *names: str) -> None:
        """These are about to write."""
        self.pieces.clear()
        self.writing = set(names)
        self.mid_sentence.clear()

    async def write(self, name: str, line: str) -> None:
        """Add a line to a story and read the continuation as it comes."""
        await self.readers[name].write(line)
        self.stage.rows[f"session-{name}"].status = ""

    async def write_all(self, lines: dict[str, str]) -> None:
        """All stories at once."""
        self.begin(*lines)
        started = time.monotonic()
        before = sum(len(reader.text) for reader in self.readers.values())
        await asyncio.gather(*(self.write(name, line) for name, line in lines.items()))
        grown = sum(len(reader.text) for reader in self.readers.values()) - before
        self.stage.say(f"  {len(lines)} stories grew by {grown} characters in {time.monotonic() - started:.1f} s")

    async def stored(self) -> dict[str, Story]:
        """Every story as its session remembers it."""
        names = list(self.openings)
        stories = await asyncio.gather(*(Session.ref(name).options(timeout=ANSWER_LIMIT).read() for name in names))
        return dict(zip(names, stories, strict=True))

    async def play(self) -> None:
        """All acts, unattended."""
        self.stage.say(f"Act 1: {len(self.openings)} sessions write at once, placed over three silos", style="bold")
        await self.write_all(self.openings)
        stories = await self.stored()  # those who finished first sleep already: this wakes them
        placements = await self.client.placements("session")
        spread = Counter(placements.values())
        self.check(
            f"the sessions live on 3 silos: {dict(sorted(spread.items()))}",
            fulfilled=len(spread) == 3 and spread.total() == len(self.openings),
        )
        self.check_texts(stories, turns=1, what="each session remembers exactly what was streamed")

        self.stage.say("Act 2: idle sessions go to sleep, and wake up with their story", style="bold")
        self.check("all sessions went to sleep", fulfilled=await self.all_asleep())
        stories = await self.stored()
        self.check_texts(stories, turns=1, what="all of them woke up with their story")

        self.stage.say("Act 3: one silo is killed with SIGKILL in mid-sentence", style="bold")
        writing = asyncio.create_task(self.write_all(dict.fromkeys(self.openings, SECOND_LINE)))
        victim, orphans = await self.kill_one(writing)
        await writing
        self.check_texts(await self.stored(), turns=2, what="no story misses a word or has one twice; no call failed")
        homes = {silo for address, silo in (await self.client.placements("session")).items() if address in orphans}
        self.check(
            f"the {len(orphans)} that were cut short were finished on {sorted(homes)}",
            fulfilled=bool(homes) and victim not in homes,
        )

        self.stage.say("Act 4: somebody has another idea in mid-sentence", style="bold")
        await self.redirect(next(iter(self.openings)))

    def check_texts(self, stories: dict[str, Story], *, turns: int, what: str) -> None:
        """Compare what the sessions remember with what was read while they wrote."""
        wrong = [n for n, story in stories.items() if story.text != self.readers[n].text or story.turns != turns]
        empty = [name for name, story in stories.items() if len(story.text) <= len(self.openings[name]) + len(END)]
        flaws = {name: reader.flaws for name, reader in self.readers.items() if reader.flaws}
        details = f" (wrong: {wrong}, empty: {empty}, flaws: {flaws})" if wrong or empty or flaws else ""
        self.check(what + details, fulfilled=not details)

    async def redirect(self, name: str) -> None:
        """Let a session go on, and interrupt it with another line as soon as the model writes."""
        reader, session = self.readers[name], Session.ref(name)
        before = reader.text
        self.begin(name)
        writing = asyncio.create_task(reader.write(SECOND_LINE))
        await self.in_mid_sentence(writing)
        await asyncio.gather(writing, reader.write(OTHER_IDEA, on_busy="interrupt"))
        self.stage.rows[f"session-{name}"].status = ""
        left, _, other = reader.text.removeprefix(before).partition(END)
        self.stage.say(f"  {left} ...\n  {other.strip()}")
        story = await session.options(timeout=ANSWER_LIMIT).read()
        self.check("the model was stopped while it wrote", fulfilled=await self.interruptions(name, story.turns) == 1)
        went_on = left.startswith(SECOND_LINE) and other.startswith(OTHER_IDEA) and other.endswith(END)
        self.check(
            "what it had written stays, and it went on from the other idea",
            fulfilled=went_on and story.text == reader.text and not reader.flaws,
        )

    async def interruptions(self, name: str, turns: int) -> int:
        """How many of a session's turns were interrupted, as its channel of turns tells."""
        found: list[bool] = []
        async for event in Session.ref(name).channel("$turns").subscribe():
            if event.data["event"] == "committed":
                found.append("reason" in event.data)
                if len(found) == turns:
                    break
        return sum(found)

    async def all_asleep(self) -> bool:
        """Wait until no session is active."""
        end = time.monotonic() + SLEEP_LIMIT
        while time.monotonic() < end:
            if not await self.client.placements("session"):
                return True
            await asyncio.sleep(0.2)
        return False

    async def in_mid_sentence(self, writing: "asyncio.Task[None]") -> None:
        """Return when all that write have told a few pieces, or are done."""
        mid_sentence = asyncio.create_task(self.mid_sentence.wait())
        await asyncio.wait({mid_sentence, writing}, return_when=asyncio.FIRST_COMPLETED)
        mid_sentence.cancel()

    async def kill_one(self, writing: "asyncio.Task[None]") -> tuple[str, list[str]]:
        """Kill the silo with the most sessions in mid-sentence; return its name, and these sessions."""
        await self.in_mid_sentence(writing)
        placements = await self.client.placements("session")
        busy = [address for address in placements if self.stage.rows[address].status]
        victim = Counter(placements[address] for address in busy).most_common(1)[0][0] if busy else "n1"
        process = next(silo for silo in self.cluster.silos if silo.name == victim)
        os.kill(process.pid, signal.SIGKILL)
        orphans = [address for address in busy if placements[address] == victim and self.stage.rows[address].status]
        self.stage.say(f"  {victim} (pid {process.pid}) is dead; {len(orphans)} sessions were writing there")
        self.check("it died while sessions were writing on it", fulfilled=bool(orphans))
        return victim, orphans


async def run(*, interactive: bool, sessions: int, stories_only: bool) -> int:
    """Set the stage, play, and tell what was checked. Returns the exit status."""
    stage = Stage()
    checks = Checks(stage.say)
    with tempfile.TemporaryDirectory(prefix="agentsilo-demo-") as directory:
        stage.say("Starting the language model (the first time its weights are unpacked) ...")
        async with model_in_environment() as model:
            stage.say(f"The model is {model.model} at {model.url}. Starting etcd and three silos ...")
            async with LocalCluster(
                ["examples.story"], silos=3, directory=Path(directory), options=["--log-level", "error"]
            ) as cluster:
                async with connect(etcd=cluster.etcd) as client:
                    if interactive:
                        await Conversation(client, cluster, list(OPENINGS)).run()
                        return 0
                    demo = Demo(client, cluster, stage, checks, sessions=sessions)
                    follow = asyncio.create_task(demo.follow_placements())
                    try:
                        with stage:
                            await demo.play()
                    finally:
                        follow.cancel()
            if stories_only:
                return checks.exit_status()
            stage.say(f"Act 5: on three new silos, an agent looks up how Python's library uses {SUBJECT}", style="bold")
            async with investigating(stage, checks, SHORT) as investigation:
                await investigation.play(SUBJECT, INSTEAD)
    return checks.exit_status()


def main() -> None:
    """Entry point of ``python -m examples.demo``."""
    parser = argparse.ArgumentParser(prog="python -m examples.demo", description=__doc__)
    parser.add_argument("--interactive", action="store_true", help="write yourself")
    parser.add_argument("--stories-only", action="store_true", help="without the agent that does research")
    parser.add_argument(
        "--sessions",
        type=int,
        choices=range(6, len(OPENINGS) + 1),
        default=len(OPENINGS),
        metavar="N",
        help="how many stories are written, 6 to %(default)s (default %(default)s)",
    )
    options = parser.parse_args()
    playing = run(interactive=options.interactive, sessions=options.sessions, stories_only=options.stories_only)
    try:
        sys.exit(asyncio.run(playing))
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
