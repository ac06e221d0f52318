"""What the example's readers make of source files."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from examples import survey
from examples.survey import Reading, divide, is_known, passage, read


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A library of its own."""
    monkeypatch.setattr(survey, "LIBRARY", tmp_path)
    divide.cache_clear()
    yield tmp_path
    divide.cache_clear()


def write(library: Path, path: str, text: str = "") -> None:
    file = library / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def test_uses_are_counted_under_whatever_name_they_go(library: Path) -> None:
    write(
        library,
        "one.py",
        "import json, os as system\n"
        "import os.path\n"
        "from os import fork as split, getpid\n"
        "system.close(1)\n"
        "x = [split(), getpid(), split()]  # os.close\n"
        "json.loads('os.close')\n"
        "os.close(2)\n",
    )
    assert read("one.py", "os") == Reading(
        files=1,
        lines=7,
        users=1,
        uses={"close": 1, "fork": 2, "getpid": 1},
        quotes=["one.py:4: system.close(1)", "one.py:5: x = [split(), getpid(), split()]  # os.close"],
        used_in={"one.py": 4},
    )


@pytest.mark.parametrize("text", ["print('os')", "from .os import fork\nfork()", "def (", "\0", ""])
def test_a_file_without_a_use_has_nothing_but_lines(library: Path, text: str) -> None:
    write(library, "one.py", text)
    assert read("one.py", "os") == Reading(1, len(text.splitlines()))


def test_a_passage_has_what_the_file_says_of_itself_and_the_first_use(library: Path) -> None:
    filling = "".join(f"x = {number}\n" for number in range(20))
    write(library, "one.py", f'"""About one.\n\nAt length."""\nimport os\n{filling}os.close(1)\n{filling}')
    text = passage("one.py", "os")
    assert text.startswith("About one.\n\nx = 16\n")
    assert "os.close(1)\nx = 0\n" in text
    assert "At length" not in text + passage("one.py", "sys").partition("\n\n")[0]


def test_the_files_that_use_it_most_come_first() -> None:
    found = Reading(used_in={"a": 1, "c": 3})
    found.add(Reading(used_in={"b": 3}))
    assert found.most_of_it(2) == ["b", "c"]
    assert found.most_of_it(9) == ["b", "c", "a"]


def test_readings_add_up() -> None:
    found = Reading(1, 10, 1, {"a": 1, "b": 3}, ["q"])
    found.add(Reading(2, 5, 0, {"a": 4}, ["r"]))
    assert found == Reading(3, 15, 1, {"a": 5, "b": 3}, ["q", "r"])
    assert [*found.uses] == ["a", "b"]


def test_every_file_is_in_one_part(library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(survey, "_PART_SIZE", 10)
    for path in ("a.py", "b/c.py", "b/test/d.py", "e.py", "site-packages/f.py", "g.txt"):
        write(library, path, "x" * 7)
    usual, all_of_it = divide(), divide(thorough=True)
    assert [(part.number, part.name, part.paths) for part in usual] == [
        (1, "a to b", ["a.py", "b/c.py"]),
        (2, "e to e", ["e.py"]),
    ]
    assert [path for part in all_of_it for path in part.paths] == ["a.py", "b/c.py", "b/test/d.py", "e.py"]


def test_only_modules_of_the_library_are_known() -> None:
    assert is_known("os")
    assert not any(map(is_known, ["no_such_module", (("os",), {"thorough": True}), ["os"], None]))
