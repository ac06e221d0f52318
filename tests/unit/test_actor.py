"""Classes of actors: options, definition errors, inheritance, and what an actor knows of itself."""

import asyncio
import functools
import logging
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

import pytest

from actors import Actor, ActorFailed, Context, Retention, actor_ref, handler
from actors.actor_type import ActorType
from actors.runtime import Runtime, actor_types
from tests.unit.conftest import Start
from tests.unit.fakes import soon

# -- class options --------------------------------------------------------------------------------------------------


def test_the_defaults_are_those_of_the_contract() -> None:
    class Session(Actor):
        pass

    options = Session._options
    assert Session._type == "session"
    assert (options.persist, options.max_queue, options.public) == ("turn", 1000, False)


def test_options_are_read_off_the_class() -> None:
    class Session(Actor, type="chat", persist="never", idle_timeout=0.5, max_queue=3, placement="hash", public=True):
        pass

    assert Session._type == "chat"
    assert Session._options == ("never", 0.5, 3, "hash", True, Retention(), "queue", ())
    assert Session.ref("1").address == "chat-1"


def test_a_subclass_inherits_options_but_not_the_type() -> None:
    class First(Actor, type="chat", persist="never", max_queue=3):
        pass

    class Second(First, max_queue=4):
        pass

    assert Second._type == "second"
    assert (Second._options.persist, Second._options.max_queue) == ("never", 4)
    assert First._options.max_queue == 3


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"type": "Chat"}, "Chat"),
        ({"type": "a-b"}, "a-b"),
        ({"type": ""}, "type"),
        ({"persist": "sometimes"}, "persist"),
        ({"idle_timeout": 0}, "idle_timeout"),
        ({"idle_timeout": -1}, "idle_timeout"),
        ({"idle_timeout": float("nan")}, "idle_timeout"),
        ({"max_queue": 0}, "max_queue"),
        ({"max_queue": 1.5}, "max_queue"),
        ({"placement": "nowhere"}, "placement"),
    ],
)
def test_an_option_that_makes_no_sense_is_an_error_that_names_class_and_option(
    options: dict[str, Any], named: str
) -> None:
    with pytest.raises(ValueError, match="class Session") as caught:

        class Session(Actor, **options):
            pass

    assert named in str(caught.value)


def test_an_unknown_option_is_an_error() -> None:
    with pytest.raises(TypeError, match="timeout_idle"):

        class Session(Actor, timeout_idle=3):  # type: ignore[call-arg, unused-ignore]
            pass


def test_two_classes_of_one_type_are_refused_together() -> None:
    class One(Actor, type="same"):
        pass

    class Two(Actor, type="same"):
        pass

    with pytest.raises(ValueError, match='"same"') as caught:
        actor_types([One, Two])
    assert "One" in str(caught.value)
    assert "Two" in str(caught.value)


def test_one_class_may_be_given_twice() -> None:
    class One(Actor):
        pass

    assert list(actor_types([One, One])) == ["one"]


# -- definition errors ----------------------------------------------------------------------------------------------


def test_a_handler_must_be_async() -> None:
    with pytest.raises(TypeError, match=r"write.*async def"):

        @handler  # type: ignore[arg-type]
        def write(self: Any) -> None: ...


def test_a_handler_cannot_be_readonly_and_control() -> None:
    with pytest.raises(TypeError, match="not both"):
        handler(readonly=True, control=True)


@pytest.mark.parametrize(
    "name", ["ask", "send", "options", "address", "key", "type", "state", "context", "log", "deactivate", "ref"]
)
def test_a_handler_cannot_have_a_name_that_references_use(name: str) -> None:
    async def function(self: Any) -> None: ...

    with pytest.raises(TypeError, match=rf"Session\.{name}"):
        type("Session", (Actor,), {name: handler(function)})


def test_a_handler_that_no_reference_can_reach_is_refused() -> None:
    with pytest.raises(TypeError, match="_secret"):

        class Session(Actor):
            @handler
            async def _secret(self) -> None: ...


def test_a_receive_that_is_not_async_is_refused() -> None:
    with pytest.raises(TypeError, match="receive"):

        class Session(Actor):
            def receive(self, message: object) -> int:  # type: ignore[override]
                return 1

        ActorType.of(Session)


def test_a_receive_that_yields_is_refused() -> None:
    with pytest.raises(TypeError, match="receive"):

        class Session(Actor):
            async def receive(self, message: object) -> Any:
                yield 1

        ActorType.of(Session)


def test_a_plain_method_cannot_hide_an_inherited_handler() -> None:
    class First(Actor):
        @handler
        async def write(self) -> int:
            return 1

    with pytest.raises(TypeError, match=r"Second\.write.*@handler"):

        class Second(First):
            async def write(self) -> int:  # type: ignore[override]
                return 2


@pytest.mark.parametrize("annotation", [int, str, "NoSuchName", Callable[[], None], set[int]])
def test_a_state_that_cannot_be_a_state_is_an_error_that_names_it(annotation: object) -> None:
    kind = type("Session", (Actor,), {"__annotations__": {"state": annotation}})
    with pytest.raises(TypeError, match=r"Session\.state"):
        ActorType.of(kind)


def test_a_state_whose_fields_have_no_defaults_is_refused() -> None:
    @dataclass
    class Story:
        text: str

    class Session(Actor):
        state: Story

    with pytest.raises(TypeError, match=r"Session\.state.*default"):
        ActorType.of(Session)


# -- inheritance ----------------------------------------------------------------------------------------------------


class Base(Actor):
    @handler
    async def greet(self, name: str) -> str:
        return f"hello {name}"

    @handler
    async def twice(self, name: str) -> str:
        return 2 * await self.greet(name)

    async def receive(self, message: object) -> object:
        return ["base", message]


class Polite(Base):
    @handler
    async def greet(self, name: str) -> str:
        return "dear " + await super().greet(name)


async def test_handlers_are_inherited_and_overridden(start: Start) -> None:
    start(Base, Polite)
    assert await soon(Base.ref("1").twice("x")) == "hello xhello x"
    assert await soon(Polite.ref("1").twice("x")) == "dear hello xdear hello x"
    assert await soon(Polite.ref("1").ask(1)) == ["base", 1]
    assert Polite.handler_names() == {"greet", "twice"}


async def test_handlers_of_a_mixin_that_is_no_actor_can_be_called(start: Start) -> None:
    class Countable:
        @handler
        async def count(self) -> int:
            return 3

    class Session(Countable, Actor):
        pass

    start(Session)
    assert await soon(actor_ref("session-1").count()) == 3


async def test_handlers_of_all_base_classes_can_be_called(start: Start) -> None:
    class Left(Actor):
        @handler
        async def left(self) -> str:
            return "left"

        @handler
        async def both(self) -> str:
            return "left"

    class Right(Actor):
        @handler
        async def right(self) -> str:
            return "right"

        @handler
        async def both(self) -> str:
            return "right"

    class Session(Left, Right):
        pass

    start(Session)
    ref = actor_ref("session-1")
    assert [await soon(ref.left()), await soon(ref.right()), await soon(ref.both())] == ["left", "right", "left"]


async def test_an_inherited_state_annotation_counts(start: Start) -> None:
    @dataclass
    class Story:
        turns: int = 0

    class First(Actor):
        state: Story

    class Second(First):
        async def receive(self, message: object) -> int:
            self.state.turns += 1
            return self.state.turns

    start(Second)
    assert [await soon(Second.ref("1").ask()), await soon(Second.ref("1").ask())] == [1, 2]


def doubled(function: Callable[[Any, int], Coroutine[Any, Any, int]]) -> Callable[[Any, int], Coroutine[Any, Any, int]]:
    @functools.wraps(function)
    async def wrapper(self: Any, message: int) -> int:
        return 2 * await function(self, message)

    return wrapper


async def test_decorators_of_handlers_and_of_receive_take_effect(start: Start) -> None:
    class Session(Actor):
        @doubled
        async def receive(self, message: int) -> int:
            return message

        @handler
        @doubled
        async def number(self, message: int) -> int:
            return message

    start(Session)
    ref = actor_ref("session-1")
    assert await soon(ref.number(4)) == 8
    assert await soon(ref.ask(4)) == 8


async def test_an_actor_without_receive_says_so(start: Start) -> None:
    class Session(Actor):
        pass

    start(Session)
    with pytest.raises(ActorFailed, match=r"has no receive\(\)"):
        await soon(Session.ref("1").ask())


# -- what an actor knows of itself ----------------------------------------------------------------------------------


class Knowing(Actor):
    seen: list[Context]

    def __init__(self) -> None:
        self.seen = []
        self.made_for = self.address

    @handler
    async def look(self) -> dict[str, Any]:
        self.seen.append(self.context)
        return self.context._asdict() | {"address": self.address, "key": self.key, "made_for": self.made_for}

    @handler
    async def look_through(self, other: str) -> Any:
        return await actor_ref(other).look()

    @handler
    async def last(self) -> dict[str, Any]:
        return self.seen[-1]._asdict()

    @handler
    async def scribble(self) -> dict[str, str]:
        self.context.headers["left"] = "over"
        return self.context.headers

    @handler
    async def say(self, text: str) -> None:
        self.log.warning("said %s", text)


async def test_an_actor_knows_its_address_and_key(start: Start) -> None:
    start(Knowing)
    seen = await soon(Knowing.ref("a-b").look())
    assert (seen["address"], seen["key"], seen["made_for"]) == ("knowing-a-b", "a-b", "knowing-a-b")


async def test_the_context_tells_of_the_message(start: Start) -> None:
    runtime = start(Knowing)
    before = runtime.loop.time()
    seen = await soon(Knowing.ref("1").options(timeout=50, headers={"trace": "t1"}).look())
    assert seen["sender"] == ""
    assert seen["headers"] == {"trace": "t1"}
    assert before + 49 < seen["deadline"] <= runtime.loop.time() + 50
    assert seen["message_id"]


async def test_the_context_of_a_one_way_message_has_its_receipts_id(start: Start) -> None:
    start(Knowing)
    receipt = await soon(Knowing.ref("1").look.send())
    assert (await soon(Knowing.ref("1").last()))["message_id"] == receipt.message_id


async def test_a_call_without_a_timeout_has_no_deadline(start: Start) -> None:
    start(Knowing)
    assert (await soon(Knowing.ref("1").options(timeout=None).look()))["deadline"] is None


async def test_the_sender_is_the_calling_actor_not_the_first_caller(start: Start) -> None:
    start(Knowing)
    seen = await soon(Knowing.ref("1").options(headers={"a": "b"}).look_through("knowing-2"))
    assert seen["sender"] == "knowing-1"
    assert seen["address"] == "knowing-2"
    assert seen["headers"] == {}


async def test_headers_that_a_handler_changes_are_not_seen_by_later_messages(start: Start) -> None:
    start(Knowing)
    assert await soon(Knowing.ref("1").scribble()) == {"left": "over"}
    assert (await soon(Knowing.ref("2").look()))["headers"] == {}


async def test_there_is_no_context_outside_of_a_message(start: Start) -> None:
    found: list[str] = []

    class Hooked(Actor):
        async def on_activate(self) -> None:
            with pytest.raises(RuntimeError, match="hooked-1") as caught:
                _ = self.context
            found.append(str(caught.value))

        async def on_deactivate(self, reason: str) -> None:
            with pytest.raises(RuntimeError, match="hooked-1") as caught:
                _ = self.context
            found.append(str(caught.value))

        async def receive(self, message: object) -> None:
            found.append(self.context.message_id)

    runtime = start(Hooked)
    await soon(Hooked.ref("1").ask())
    actor = runtime.activations["hooked-1"].actor
    with pytest.raises(RuntimeError, match="only while a message"):
        _ = actor.context
    await soon(runtime.drain(limit=3))
    assert len(found) == 3


async def test_the_log_is_bound_to_the_address(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    start(Knowing)
    await soon(Knowing.ref("7").say("hi"))
    record = next(record for record in caplog.records if record.getMessage() == "said hi")
    assert record.levelno == logging.WARNING
    assert record.address == "knowing-7"  # type: ignore[attr-defined]


async def test_an_actors_own_options_leave_the_timeout_alone_unless_told(start: Start) -> None:
    class Chain(Actor):
        deadline: float | None = 0.0

        @handler
        async def begin(self) -> None:
            await self.options(headers={"a": "b"}).end.send()

        @handler
        async def end(self) -> None:
            self.deadline = self.context.deadline

        @handler
        async def tell(self) -> float | None:
            return self.deadline

    start(Chain)
    await soon(Chain.ref("1").begin())
    deadline = await soon(Chain.ref("1").tell())
    assert deadline is not None
    assert deadline > 0


async def test_actors_do_not_share_what_their_instances_hold(start: Start) -> None:
    start(Knowing)
    await soon(Knowing.ref("1").look())
    runtime = actor_ref("knowing-2")
    with pytest.raises(ActorFailed, match="IndexError"):
        await soon(runtime.last())


async def test_context_variables_of_the_caller_are_not_seen_by_the_actor(start: Start) -> None:
    from contextvars import ContextVar

    variable: ContextVar[str] = ContextVar("variable", default="unset")

    class Session(Actor):
        @handler
        async def now(self) -> str:
            return variable.get()

        @handler
        async def later(self) -> str:
            await asyncio.sleep(0)
            return variable.get()

    start(Session)
    variable.set("mine")
    assert [await soon(Session.ref("1").now()), await soon(Session.ref("1").later())] == ["unset", "unset"]


def test_a_runtime_needs_a_running_loop() -> None:
    with pytest.raises(RuntimeError):
        Runtime([], directory=None, transport=None, store=None, clock=None)  # type: ignore[arg-type]
