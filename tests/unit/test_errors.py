import copy
import inspect
import pickle

import pytest

import actors
from actors import errors

CLASSES = [kind for kind in vars(errors).values() if inspect.isclass(kind) and kind.__module__ == errors.__name__]


def drawn_tree() -> dict[str, str]:
    """Each error's parent by name, read from the drawing in the module's docstring."""
    parents: dict[str, str] = {}
    path: list[str] = []
    for line in inspect.cleandoc(errors.__doc__ or "").splitlines():
        indented = line.replace("├──", "   ").replace("└──", "   ").replace("│", " ")
        words = indented.split()
        if not line.startswith(" ") or not words:
            continue
        depth = (len(indented) - len(indented.lstrip()) - 4) // 4
        path[depth:] = [words[0]]
        if depth:
            parents[words[0]] = path[depth - 1]
    return parents


def test_the_tree_is_as_the_module_draws_it() -> None:
    assert drawn_tree() == {
        kind.__name__: kind.__mro__[1].__name__
        for kind in CLASSES
        if issubclass(kind, Exception) and kind is not actors.ActorError
    }
    assert actors.ActorError.__base__ is Exception


def test_the_tree_groups_errors_as_the_contract_says() -> None:
    rejected = {
        "UnknownActorType", "UnknownHandler", "Busy", "MailboxFull", "PayloadTooLarge", "NotAuthorized",
        "SerializationFailed", "ClusterUnavailable",
    }  # fmt: skip
    tree = drawn_tree()
    assert rejected <= {name for name, parent in tree.items() if parent == "Rejected"}
    assert {name for name, parent in tree.items() if parent == "OutcomeUnknown"} == {
        "Timeout", "ConnectionLost", "MessageParked",
    }  # fmt: skip
    assert tree["ActorFailed"] == tree["TurnInterrupted"] == "ActorError"


@pytest.mark.parametrize("kind", CLASSES)
def test_every_error_is_public_and_documented(kind: type[Exception]) -> None:
    assert getattr(actors, kind.__name__) is kind
    assert len(kind.__doc__ or "") > 20


@pytest.mark.parametrize("kind", CLASSES)
@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, lambda error: pickle.loads(pickle.dumps(error))])
def test_every_error_can_be_copied_and_pickled(kind: type[Exception], duplicate: object) -> None:
    error = kind("session-1: what happened")
    again = duplicate(error)  # type: ignore[operator]
    assert type(again) is kind
    assert str(again) == "session-1: what happened"


def test_a_pickled_actor_failure_keeps_what_it_knows_of_the_remote_exception() -> None:
    error = actors.ActorFailed("text", type_name="app.Oops", message="no", traceback="Traceback ...")
    error.add_note("a note")
    again = pickle.loads(pickle.dumps(error))
    assert (again.type_name, again.message, again.traceback) == ("app.Oops", "no", "Traceback ...")
    assert str(again) == "text"
