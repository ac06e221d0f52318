"""Random trees of programs, three layers of actors that run them, and what must have come of them in the end.

A program is a list of commands, each a list of a name and its arguments; what one layer asks of, and sends to, the
next is again a program.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from random import Random
from typing import Any, TypeAlias

from actors import Actor, StepInterrupted, actor_ref, handler
from actors.errors import ActorFailed
from tests.durable.faults import note, reach

Program: TypeAlias = list[list[Any]]

LAYERS = 3
KEYS = 4


@dataclass
class Tally:
    """What an actor has done. ``sent`` and ``received`` number the letters of each pair of actors."""

    count: int = 0
    programs: list[str] = field(default_factory=list)
    once: int = 0
    interrupted: int = 0
    failures: int = 0
    reminded: dict[str, int] = field(default_factory=dict)
    sent: dict[str, int] = field(default_factory=dict)
    received: dict[str, int] = field(default_factory=dict)
    disorder: list[str] = field(default_factory=list)


class Refusal(Exception):
    """What programs raise on purpose."""


class Interpreter(Actor, type="layer0", placement="random"):
    """Runs programs, whatever happens to its silo."""

    state: Tally

    @handler
    async def run(self, program: Program) -> int:
        """Run a program; return how much this has added to ``count``."""
        before = self.state.count
        for command, *arguments in program:
            await getattr(self, f"_{command}")(*arguments)
        reach(self.address, "turn ends")
        return self.state.count - before

    @handler
    async def letter(self, sender: str, number: int, program: Program) -> None:
        """A program that was sent. Letters of one sender are numbered from 1."""
        if number != self.state.received.get(sender, 0) + 1:
            self.state.disorder.append(f"{sender}: {number} after {self.state.received.get(sender, 0)}")
        self.state.received[sender] = number
        await self.run(program)

    @handler(readonly=True)
    async def tally(self) -> Tally:
        return self.state

    async def on_reminder(self, name: str) -> None:
        await asyncio.sleep(0)
        self.state.reminded[name] = self.state.reminded.get(name, 0) + 1

    async def _begin(self, program: str) -> None:
        self.state.programs.append(program)
        note(f"run {program} {self.address} {self.context.message_id} {self._activation.runtime.directory.silo}")

    async def _add(self, amount: int) -> None:
        self.state.count += amount

    async def _pause(self, milliseconds: int) -> None:
        await asyncio.sleep(milliseconds / 1000)

    async def _ask(self, target: str, program: Program) -> None:
        await actor_ref(target).run(program)

    async def _ask_in_vain(self, target: str, program: Program) -> None:
        try:
            await actor_ref(target).run(program)
        except ActorFailed:
            self.state.failures += 1

    async def _ask_many(self, *asked: list[Any]) -> None:
        await asyncio.gather(*(self._ask(target, program) for target, program in asked))

    async def _send(self, target: str, program: Program) -> None:
        number = self.state.sent[target] = self.state.sent.get(target, 0) + 1
        await actor_ref(target).letter.send(self.address, number, program)

    async def _step(self, name: str) -> None:
        self.state.count += await self.step(name, self._body, name)

    async def _steps(self, *names: str) -> None:
        self.state.count += sum(await asyncio.gather(*(self.step(name, self._body, name) for name in names)))

    async def _step_in_vain(self, name: str) -> None:
        try:
            await self.step(name, self._broken, name)
        except Refusal:
            self.state.failures += 1

    async def _once(self, name: str) -> None:
        try:
            self.state.once += await self.step(name, self._body, name, once=True)
        except StepInterrupted:
            self.state.interrupted += 1

    async def _stream(self, name: str, length: int) -> None:
        deltas = [
            delta async for delta in self.stream_step(name, self._deltas, 0, length, resume=self._rest, channel=name)
        ]
        assert deltas == list(range(length)), deltas
        self.state.count += length

    async def _publish(self, item: str) -> None:
        await self.publish(item)

    async def _remind(self, name: str) -> None:
        await self.remind(name, after=0.01)

    async def _fail(self) -> None:
        raise Refusal

    async def _body(self, name: str) -> int:
        note(f"begun {name}")
        await asyncio.sleep(0.001)
        reach(self.address, "in step")
        return 1

    async def _broken(self, name: str) -> None:
        await self._body(name)
        raise Refusal

    async def _deltas(self, first: int, length: int) -> AsyncIterator[int]:
        for number in range(first, length):
            reach(self.address, "in stream")
            yield number
            await asyncio.sleep(0.001)

    def _rest(self, deltas: list[int], _: int, length: int) -> AsyncIterator[int]:
        return self._deltas(len(deltas), length)


class Interpreter1(Interpreter, type="layer1"):
    pass


class Interpreter2(Interpreter, type="layer2"):
    pass


POINTS = (
    *("turn ends", "in step", "in stream", "before turn", "after turn", "before reply", "before delivery"),
    *("before removal", "after removal", "before inbox letter", "after inbox letter", "before inbox $reminder"),
    *("before adopt", "after adopt"),
)
"""Where a silo may be killed while it runs a program."""


class Programs:
    """Makes programs and reckons what comes of them."""

    def __init__(self, seed: int) -> None:
        self._random = Random(seed)
        self._names = 0
        self.count: Counter[str] = Counter()
        self.programs: dict[str, list[str]] = {}
        self.once: Counter[str] = Counter()
        self.failures: Counter[str] = Counter()
        self.reminders: dict[str, list[str]] = {}
        self.items: dict[str, list[str]] = {}
        self.streams: dict[tuple[str, str], int] = {}
        self.letters: Counter[tuple[str, str]] = Counter()
        self.steps: list[str] = []
        self.once_steps: list[str] = []

    def addresses(self) -> list[str]:
        return [f"layer{layer}-{key}" for layer in range(LAYERS) for key in range(KEYS)]

    def address(self, layer: int) -> str:
        return f"layer{layer}-{self._random.randrange(KEYS)}"

    def program(self, address: str) -> Program:
        """A program for an actor."""
        commands = [self._command(address) for _ in range(self._random.randint(1, 5))]
        if self._random.random() < 0.3:  # it may have nothing to commit but what it asked others
            return commands
        name = self._name()
        self.programs.setdefault(address, []).append(name)
        return [["begin", name], *commands]

    def _command(self, address: str) -> list[Any]:
        layer, random = int(address[5]), self._random
        deeper = ["ask", "ask", "ask_many", "ask_in_vain", "send", "send"] if layer + 1 < LAYERS else []
        kinds = ["add", "pause", "step", "steps", "step_in_vain", "once", "stream", "publish", "remind"]
        kind = random.choice([*kinds, *deeper])
        below = self.address(layer + 1)
        match kind:
            case "add":
                amount = random.randint(1, 9)
                self.count[address] += amount
                return [kind, amount]
            case "pause":
                return [kind, random.randint(0, 20)]
            case "ask":
                return [kind, below, self.program(below)]
            case "ask_many":
                targets = random.sample(range(KEYS), 2)
                return [
                    kind,
                    *([f"layer{layer + 1}-{key}", self.program(f"layer{layer + 1}-{key}")] for key in targets),
                ]
            case "ask_in_vain":
                self.failures[address] += 1
                return [
                    kind,
                    below,
                    [["add", 1], ["publish", "never"], ["send", self.address(LAYERS - 1), []], ["fail"]],
                ]
            case "send":
                self.letters[address, below] += 1
                return [kind, below, self.program(below)]
            case "publish":
                item = self._name()
                self.items.setdefault(address, []).append(item)
                return [kind, item]
            case "remind":
                name = self._name()
                self.reminders.setdefault(address, []).append(name)
                return [kind, name]
            case "stream":
                name, length = self._name(), random.randint(1, 30)
                self.streams[address, name] = length
                self.count[address] += length
                return [kind, name, length]
            case _:
                names = [self._name() for _ in range(3 if kind == "steps" else 1)]
                self._reckon_steps(kind, address, names)
                return [kind, *names]

    def _reckon_steps(self, kind: str, address: str, names: list[str]) -> None:
        if kind == "once":
            self.once[address] += 1
            self.once_steps += names
            return
        self.steps += names
        if kind == "step_in_vain":
            self.failures[address] += 1
        else:
            self.count[address] += len(names)

    def _name(self) -> str:
        self._names += 1
        return f"x{self._names}"
