"""What Python's own library does with one of its modules: files read with ``ast``, uses counted and quoted."""

import ast
import sys
import sysconfig
from collections import Counter
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from threading import Lock

LIBRARY = Path(sysconfig.get_path("stdlib"))
MOST_QUOTES = 2
"""Of one file."""

_FOREIGN = frozenset({"__pycache__", "dist-packages", "site-packages"})
_ASIDE = frozenset({"ensurepip", "idlelib", "lib2to3", "test", "tests", "turtledemo"})
_PART_SIZE = 400_000  # bytes
_AROUND = 5  # lines
_MOST_TEXT = 300  # characters: a small model reads slowly
_parsing = Lock()  # two threads that parse at a time confuse Python before 3.13 (SystemError: recursion depth mismatch)


@dataclass
class Part:
    """Neighbouring files of the library, which one reader reads."""

    number: int
    name: str
    paths: list[str]


@dataclass
class Reading:
    """What was read, and what the module is used for there."""

    files: int = 0
    lines: int = 0
    users: int = 0
    """Files that use it."""
    uses: dict[str, int] = field(default_factory=dict)
    """How often each name of the module is used."""
    quotes: list[str] = field(default_factory=list)
    used_in: dict[str, int] = field(default_factory=dict)
    """How often it is used in each file that uses it."""

    def add(self, other: "Reading") -> None:
        """What was read elsewhere."""
        self.files += other.files
        self.lines += other.lines
        self.users += other.users
        self.uses = dict((Counter(self.uses) + Counter(other.uses)).most_common())
        self.quotes += other.quotes
        self.used_in |= other.used_in

    def most_of_it(self, count: int) -> list[str]:
        """The files, at most so many, that use it most."""
        return sorted(self.used_in, key=lambda path: (-self.used_in[path], path))[:count]


def is_known(module: object) -> bool:
    """Whether the library has a module of that name."""
    return isinstance(module, str) and module in sys.stdlib_module_names


@cache
def divide(*, thorough: bool = False) -> list[Part]:
    """The library, in order and in parts of about the same size; with ``thorough`` also its tests and tools."""
    left_out = _FOREIGN if thorough else _FOREIGN | _ASIDE
    parts: list[Part] = []
    room = 0
    for path in sorted(LIBRARY.rglob("*.py")):
        relative = path.relative_to(LIBRARY)
        if left_out.intersection(relative.parts):
            continue
        if room <= 0:
            parts.append(Part(len(parts) + 1, "", []))
            room = _PART_SIZE
        parts[-1].paths.append(str(relative))
        room -= path.stat().st_size
    for part in parts:
        part.name = f"{_top(part.paths[0])} to {_top(part.paths[-1])}"
    return parts


def _top(path: str) -> str:
    return path.partition("/")[0].removesuffix(".py")


def read(path: str, module: str) -> Reading:
    """Read one file of the library."""
    source = source_of(path)
    lines = source.splitlines()
    reading = Reading(1, len(lines))
    try:
        with _parsing:
            tree = ast.parse(source)
    except (SyntaxError, ValueError):  # a file that is broken on purpose
        return reading
    uses: Counter[str] = Counter()
    for name, line in _uses(tree, module):
        if not uses[name] and len(reading.quotes) < MOST_QUOTES:
            reading.quotes.append(f"{path}:{line}: {lines[line - 1].strip()}")
        uses[name] += 1
    if uses:
        reading.uses, reading.users, reading.used_in = dict(uses), 1, {path: uses.total()}
    return reading


def passage(path: str, module: str) -> str:
    """What a file of the library says of itself, and the code around its first use of the module."""
    source = source_of(path)
    with _parsing:
        tree = ast.parse(source)
    about = (ast.get_docstring(tree) or path).partition("\n\n")[0]
    lines = source.splitlines()
    first = next((line for _, line in _uses(tree, module)), 1)
    code = "\n".join(lines[max(0, first - _AROUND) : first + _AROUND])
    return f"{about[:_MOST_TEXT]}\n\n{code[:_MOST_TEXT]}"


def source_of(path: str) -> str:
    """The text of a file of the library."""
    return (LIBRARY / path).read_bytes().decode(errors="replace")


def _uses(tree: ast.Module, module: str) -> list[tuple[str, int]]:
    """The names of the module that the code uses, with their lines."""
    modules: set[str] = set()
    names: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules.update(alias.asname or alias.name for alias in node.names if alias.name == module)
        elif isinstance(node, ast.ImportFrom) and node.module == module and not node.level:
            names.update({alias.asname or alias.name: alias.name for alias in node.names})
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in modules:
            found.append((node.attr, node.lineno))
        elif isinstance(node, ast.Name) and node.id in names:
            found.append((names[node.id], node.lineno))
    return sorted(found, key=lambda use: use[1])
