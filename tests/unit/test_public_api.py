import inspect
import subprocess
import sys
from collections import Counter

import pytest

import actors


def test_exports_are_sorted_unique_and_exist() -> None:
    assert actors.__all__ == sorted(actors.__all__)
    assert len(set(actors.__all__)) == len(actors.__all__)
    assert all(hasattr(actors, name) for name in actors.__all__)


def test_every_public_name_is_exported_exactly_once() -> None:
    found = {name for name, thing in vars(actors).items() if not name.startswith("_") and not inspect.ismodule(thing)}
    assert found == set(actors.__all__)
    things = Counter(id(getattr(actors, name)) for name in actors.__all__)
    assert set(things.values()) == {1}


@pytest.mark.parametrize("name", actors.__all__)
def test_every_public_name_is_documented(name: str) -> None:
    documentation = inspect.getdoc(getattr(actors, name)) or ""
    assert len(documentation.split()) >= 5, f"{name} has no docstring of its own"
    assert documentation != inspect.getdoc(tuple)


@pytest.mark.parametrize("kind", [actors.Actor, actors.ActorRef])
def test_every_public_method_is_documented(kind: type) -> None:
    undocumented = [
        name
        for name, member in vars(kind).items()
        if not name.startswith("_") and not inspect.ismemberdescriptor(member) and not inspect.getdoc(member)
        and name != "receive"
    ]  # fmt: skip
    assert undocumented == []


def test_the_model_brings_no_network_library_along() -> None:
    script = "import sys, actors, actors.runtime; print([m for m in ('grpc', 'uvloop', 'cluster') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
