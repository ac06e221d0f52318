"""What the caller is told of an exception in an actor's code."""

import asyncio
import logging
import threading
from typing import Any, Self

import msgspec
import pytest

from actors import Actor, ActorFailed, CallCycle, actor_ref, handler
from actors.failure import raised, to_exception
from tests.unit.conftest import Start
from tests.unit.fakes import soon


class OddInit(Exception):
    def __init__(self, code: int, *, detail: str) -> None:
        super().__init__(f"code {code}")
        self.code = code
        self.detail = detail
        self.lock = threading.Lock()  # cannot be pickled


class OddNew(Exception):
    def __new__(cls, *, code: int) -> Self:
        error = super().__new__(cls)
        error.code = code  # type: ignore[attr-defined]
        return error

    def __init__(self, *, code: int) -> None:
        super().__init__(f"code {code}")


class UnprintableError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("not even this works")


class WrongText(Exception):
    def __str__(self) -> str:
        return 42  # type: ignore[return-value]  # noqa: PLE0307


class Outer:
    class Inner(Exception):
        pass


class Quits(BaseException):
    pass


def raising(error: BaseException) -> type[Actor]:
    class Failing(Actor, type="failing"):
        state: dict[str, int]

        @handler
        async def fail(self) -> None:  # runs in one go
            self.state["n"] = 1
            raise error

        @handler
        async def fail_later(self) -> None:  # runs as a task
            self.state["n"] = 1
            await asyncio.sleep(0)
            raise error

        @handler
        async def peek(self) -> dict[str, int]:
            return self.state

    return Failing


async def failure_of(start: Start, error: BaseException, name: str = "fail") -> ActorFailed:
    """What the caller gets; the actor must go on answering, with its state rolled back."""
    start(raising(error))
    ref = actor_ref("failing-1")
    with pytest.raises(ActorFailed) as caught:
        await soon(getattr(ref, name)())
    assert await soon(ref.peek()) == {}
    return caught.value


BOTH = pytest.mark.parametrize("name", ["fail", "fail_later"])


@BOTH
async def test_a_failure_carries_type_message_traceback_and_cause(start: Start, name: str) -> None:
    failed = await failure_of(start, KeyError("who"), name)
    assert failed.type_name == "KeyError"
    assert failed.message == "'who'"
    assert "Traceback" in failed.traceback
    assert f"in {name}" in failed.traceback
    assert "failing-1" in str(failed)
    assert name in str(failed)
    assert type(failed.__cause__) is KeyError
    assert failed.__cause__.args == ("who",)
    assert any("in fail" in note for note in failed.__cause__.__notes__)


@BOTH
async def test_an_exception_with_an_odd_init_and_an_unpicklable_attribute_arrives(start: Start, name: str) -> None:
    failed = await failure_of(start, OddInit(7, detail="why"), name)
    assert failed.type_name.endswith("test_failure.OddInit")
    cause = failed.__cause__
    assert isinstance(cause, OddInit)
    assert (cause.code, cause.detail, str(cause)) == (7, "why", "code 7")


async def test_an_exception_with_an_odd_new_arrives(start: Start) -> None:
    failed = await failure_of(start, OddNew(code=7))
    assert isinstance(failed.__cause__, OddNew)
    assert str(failed.__cause__) == "code 7"


async def test_an_exception_with_unpicklable_arguments_still_has_a_cause_of_its_type(start: Start) -> None:
    failed = await failure_of(start, Outer.Inner("broken", threading.Lock()))
    assert "broken" in failed.message
    assert isinstance(failed.__cause__, Outer.Inner)


async def test_a_nested_exception_class_is_found(start: Start) -> None:
    failed = await failure_of(start, Outer.Inner("deep"))
    assert failed.type_name.endswith("Outer.Inner")
    assert type(failed.__cause__) is Outer.Inner


async def test_an_os_error_keeps_its_number(start: Start) -> None:
    cause = (await failure_of(start, FileNotFoundError(2, "No such file"))).__cause__
    assert type(cause) is FileNotFoundError
    assert (cause.errno, cause.strerror) == (2, "No such file")


async def test_an_exception_group_arrives_with_its_members(start: Start) -> None:
    cause = (await failure_of(start, ExceptionGroup("two", [ValueError(1), KeyError(2)]))).__cause__
    assert isinstance(cause, ExceptionGroup)
    assert [type(error) for error in cause.exceptions] == [ValueError, KeyError]


async def test_notes_travel(start: Start) -> None:
    error = ValueError("x")
    error.add_note("the user had asked twice")
    cause = (await failure_of(start, error)).__cause__
    assert cause is not None
    assert "the user had asked twice" in cause.__notes__


@BOTH
@pytest.mark.parametrize("error", [UnprintableError("x"), WrongText("x")])
async def test_an_exception_that_cannot_be_printed_is_no_harm(start: Start, name: str, error: Exception) -> None:
    failed = await failure_of(start, error, name)
    assert type(error).__name__ in failed.type_name


@BOTH
@pytest.mark.parametrize(
    "error", [SystemExit(3), asyncio.CancelledError("mine"), GeneratorExit(), Quits("bye"), StopAsyncIteration(1)]
)
async def test_a_base_exception_in_a_handler_does_not_harm_the_runtime(
    start: Start, name: str, error: BaseException
) -> None:
    failed = await failure_of(start, error, name)
    assert failed.type_name.endswith(type(error).__name__)
    assert type(failed.__cause__) is type(error)


@BOTH
async def test_a_stop_iteration_in_a_handler_is_not_taken_for_its_result(start: Start, name: str) -> None:
    assert (await failure_of(start, StopIteration("not a result"), name)).type_name == "RuntimeError"


async def test_a_local_exception_type_still_has_its_name_and_text(start: Start) -> None:
    class LocalError(Exception):
        pass

    failed = await failure_of(start, LocalError("here"))
    assert failed.type_name.endswith("LocalError")
    assert failed.message == "here"
    assert failed.__cause__ is None


async def test_an_actor_error_that_a_handler_raises_itself_is_a_failure_of_that_actor(start: Start) -> None:
    failed = await failure_of(start, CallCycle("somewhere else"))
    assert type(failed.__cause__) is CallCycle
    assert failed.type_name == "actors.errors.CallCycle"


async def test_a_failure_names_every_actor_that_it_came_through(start: Start) -> None:
    class Front(Actor):
        @handler
        async def call(self) -> Any:
            return await actor_ref("failing-1").fail()

    start(Front, raising(KeyError("deep")))
    with pytest.raises(ActorFailed) as caught:
        await soon(Front.ref("1").call())
    inner = caught.value.__cause__
    assert isinstance(inner, ActorFailed)
    assert inner.type_name == "KeyError"
    assert "front-1" in str(caught.value)
    assert "failing-1" in str(caught.value)


@BOTH
async def test_a_one_way_message_that_fails_is_logged(
    start: Start, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    start(raising(ValueError("lost?")))
    ref = actor_ref("failing-1")
    await soon(getattr(ref, name).send())
    assert await soon(ref.peek()) == {}
    logged = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert len(logged) == 1
    assert "failing-1" in logged[0].getMessage()
    assert logged[0].exc_info is not None


@pytest.mark.parametrize("error", [ValueError("\ud800"), ValueError("x", b"\xff"), Outer.Inner({1: {2}})])
def test_any_failure_can_be_put_on_the_wire(error: Exception) -> None:
    failure = raised(1, "failing-1.fail", error)
    again = msgspec.msgpack.decode(msgspec.msgpack.encode(failure), type=type(failure))
    assert isinstance(to_exception(again, trusted=True), ActorFailed)


def test_a_type_name_from_the_wire_never_imports_a_module() -> None:
    import sys

    assert "antigravity" not in sys.modules
    failure = raised(1, "x", ValueError())
    failure.type_name = "antigravity.Error"
    assert to_exception(failure, trusted=True).__cause__ is None
    assert "antigravity" not in sys.modules


@pytest.mark.parametrize("name", ["os.system", "builtins.print", "int", "..", ".", "actors", "actors.errors.", "a b.c"])
def test_a_type_name_from_the_wire_that_is_no_exception_makes_no_cause(name: str) -> None:
    failure = raised(1, "x", ValueError())
    failure.type_name = name
    assert to_exception(failure, trusted=True).__cause__ is None


@pytest.mark.parametrize("error", ["Nonsense", "pickle", "__name__", "annotations"])
def test_an_error_name_from_a_newer_peer_is_an_actor_error(error: str) -> None:
    failure = raised(1, "x", ValueError())
    failure.error = error
    from actors import ActorError

    assert isinstance(to_exception(failure, trusted=False), ActorError)
