"""Research in Python's own library: which of its files use a module, and how. ``python -m examples.research --help``.

An agent divides the work among readers on all silos, tells what they find, has the language model write a note on every
file that uses the module, can be given another subject meanwhile, asks before it writes its report, and goes on
elsewhere when its silo dies.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TypeVar

from actors import Actor, handler
from examples.local_model import Endpoint, complete
from examples.survey import Part, Reading, divide, is_known, passage, read

T = TypeVar("T")

READERS = 6
"""Parts of the library that are read at a time."""
WRITERS = 4
"""Notes that are written at a time."""
END = "\n\n"
"""The last piece of every report."""

_PATIENCE = timedelta(days=3)
_NAMES = 5
_QUOTES = 8
_TOKENS = 24


@dataclass(frozen=True)
class Scope:
    """How much work a research is."""

    thorough: bool = False
    """Also the library's tests and tools, three times as many files."""
    parts: int | None = None
    """Only so many of the parts that the library is divided into."""
    documents: int = 0
    """How many of the files that use the module get a note, at most: those that use it most."""
    tokens: int = 64
    """How long a note is, at most."""


NO_NOTES = Scope()
"""All of the library but its tests and tools is read, and the language model writes nothing but the last words."""


@dataclass
class Notebook:
    """What an agent remembers of its last research."""

    module: str = ""
    found: Reading = field(default_factory=Reading)
    report: str = ""
    notes: dict[str, str] = field(default_factory=dict)
    """What the language model says of files."""


class Research(Actor, public=True, idle_timeout=60):
    """An agent. Its channel "output" has plans, findings and its question, "report" the report while it is written."""

    state: Notebook

    @handler(public=True)
    async def investigate(self, module: str, *, scope: Scope = NO_NOTES) -> str:
        """Read the library, and return the report: "" if the signal "approval" has said no.

        Raises ``ValueError`` for an unknown module. Sent with ``on_busy="steer"`` while another research is under way,
        it gives that one another subject.
        """
        if not is_known(module):
            raise ValueError(f"Python's library has no module {module!r}")
        subject: str | None = module
        while subject is not None:
            self.state.module, self.state.found, self.state.report = subject, Reading(), ""
            self.state.notes = {}
            subject = await self._survey(subject, scope) or await self._annotate(subject, scope)
        await self.step("ask", self._ask)
        if not await self.wait_for("approval", timeout=_PATIENCE):
            return ""
        pieces = self.stream_step("report", self._write, resume=self._write_on, channel="report")
        self.state.report = "".join([piece async for piece in pieces])
        return self.state.report

    @handler(readonly=True, public=True)
    async def notes(self) -> Notebook:
        """What the last research has found."""
        return self.state

    async def _survey(self, module: str, scope: Scope) -> str | None:
        """Have everything read. Returns another module if that is wanted instead: what is under way is finished."""
        parts = await self.step(f"plan {module}", self._plan, module, scope)
        for some in _in_turn(parts, READERS):
            readings = await asyncio.gather(
                *(self.step(f"read {module} {part.number}", self._have_read, module, part) for part in some)
            )
            for reading in readings:
                self.state.found.add(reading)
            if (wanted := await self._wanted()) is not None:
                return wanted
        return None

    async def _annotate(self, module: str, scope: Scope) -> str | None:
        """Have notes written on the files that use it. Returns as ``_survey`` does."""
        files = self.state.found.most_of_it(scope.documents)
        numbered = [*enumerate(files, 1)]
        for some in _in_turn(numbered, WRITERS):
            notes = await asyncio.gather(
                *(
                    self.step(f"note {module} {path}", self._have_noted, path, number, len(files), scope.tokens)
                    for number, path in some
                )
            )
            self.state.notes |= {path: note for (_, path), note in zip(some, notes, strict=True)}
            if (wanted := await self._wanted()) is not None:
                return wanted
        return None

    async def _wanted(self) -> str | None:
        wanted: str | None = None
        async for other in self.steering():
            module = other[0][0] if isinstance(other, tuple) and other[0] else other  # the scope stays as it is
            if is_known(module):
                wanted = module
        return wanted

    async def _plan(self, module: str, scope: Scope) -> list[Part]:
        parts = (await asyncio.to_thread(divide, thorough=scope.thorough))[: scope.parts]
        await self.publish({"plan": module, "parts": [part.name for part in parts]})
        return parts

    async def _have_read(self, module: str, part: Part) -> Reading:
        reader = Reader.ref(f"{self.key}.{part.number}").options(timeout=None, cancel_with_caller=True)
        reading: Reading = await reader.read(module, part.paths)
        finding = {"files": reading.files, "users": reading.users, "uses": reading.uses, "quotes": reading.quotes}
        await self.publish({"read": module, "part": part.number, "of": part.name, **finding})
        return reading

    async def _have_noted(self, path: str, number: int, count: int, tokens: int) -> str:
        module = self.state.module
        writer = Reader.ref(f"{self.key}.note.{number % WRITERS}").options(timeout=None, cancel_with_caller=True)
        note: str = await writer.annotate(module, path, tokens)
        await self.publish({"noted": module, "file": path, "number": number, "count": count, "note": note})
        return note

    async def _ask(self) -> None:
        found = self.state.found
        question = f"{found.users} of {found.files} files use {self.state.module}. Shall I write the report?"
        await self.publish({"question": question})

    async def _write(self) -> AsyncIterator[str]:
        async for piece in self._write_on([]):
            yield piece

    async def _write_on(self, pieces: list[str]) -> AsyncIterator[str]:
        """The report, without the pieces that are there."""
        if pieces and pieces[-1] == END:
            return
        known = [*_facts(self.state)]
        for piece in known[len(pieces) :]:
            yield piece
        async for word in _last_words(self.state, "".join(pieces[len(known) :])):
            yield word
        yield END


class Reader(Actor, idle_timeout=5):
    """Reads a part of the library, one file after the other, or has the language model say what is in a file."""

    @handler
    async def read(self, module: str, paths: list[str]) -> Reading:
        """What all of them have. A file that was read is not read again if the silo is lost."""
        found = Reading()
        for path in paths:
            found.add(await self.step(path, read, path, module))
        return found

    @handler
    async def annotate(self, module: str, path: str, tokens: int) -> str:
        """A sentence or two on what the file uses the module for. Raises if no language model is configured."""
        return str(await self.step("write", self._write, module, path, tokens))

    async def _write(self, module: str, path: str, tokens: int) -> str:
        begun = f"This code uses {module} to"
        text = f"{await asyncio.to_thread(passage, path, module)}\n\n{begun}"
        title = f"How Python's library uses {module}: {path}"
        pieces = complete(text, title=title, max_tokens=tokens)
        return begun + "".join([piece.replace("\n", " ") async for piece in pieces])


def _in_turn(items: Sequence[T], count: int) -> Iterator[Sequence[T]]:
    """So many at a time."""
    for first in range(0, len(items), count):
        yield items[first : first + count]


def _facts(notebook: Notebook) -> Iterator[str]:
    """What can be counted and quoted."""
    module, found = notebook.module, notebook.found
    yield f"# How Python's library uses {module}\n\n"
    yield f"{found.users} of {found.files} files ({found.lines:,} lines) use it, {sum(found.uses.values())} times.\n\n"
    for name, count in list(found.uses.items())[:_NAMES]:
        yield f"- `{module}.{name}`: {count} times\n"
    yield "\n"
    for quote in found.quotes[:_QUOTES]:
        yield f"    {quote}\n"
    for path, note in notebook.notes.items():
        yield f"\n{path}: {note}\n"


async def _last_words(notebook: Notebook, begun: str) -> AsyncIterator[str]:
    """How the language model goes on from there, if there is one."""
    try:
        endpoint = Endpoint.from_environment()
    except RuntimeError:
        return
    opening = f"\nProgrammers who read this say that {notebook.module} is"
    if not begun:
        yield opening
    async for piece in complete((begun or opening).strip(), max_tokens=_TOKENS, endpoint=endpoint):
        yield piece.replace("\n", " ")


if __name__ == "__main__":
    from examples.investigation import main

    main()
