"""Handlers: their parameters, their lanes, and what can be called at all."""

import asyncio
from typing import Any

import pytest

from actors import Actor, SerializationFailed, UnknownActorType, UnknownHandler, actor_ref, handler
from actors.actor_type import ActorType
from actors.handler import Lane
from tests.unit.conftest import Start
from tests.unit.fakes import settle, soon, until


class Shapes(Actor):
    """One handler for each kind of parameter list."""

    @handler
    async def plain(self, a: int, b: str = "b") -> list[Any]:
        return [a, b]

    @handler
    async def untyped(self, a, b=2):  # type: ignore[no-untyped-def]  # noqa: ANN201
        return [a, b]

    @handler
    async def variadic(self, first: int, /, *rest: int, flag: bool = False, **more: str) -> list[Any]:
        return [first, list(rest), flag, more]

    @handler
    async def only(self, a: int, /, *, b: int) -> list[Any]:
        return [a, b]

    @handler
    async def nothing(self) -> None: ...

    @handler
    async def sixteen(self, *numbers: int) -> int:
        return len(numbers)

    async def not_a_handler(self) -> None: ...

    @handler
    async def items(self, n: int) -> Any:
        for i in range(n):
            yield i

    @handler
    async def through_itself(self) -> list[Any]:
        return [
            await self.plain(1),
            [item async for item in self.items(2)],
            [item async for item in self.items.stream(2)],
        ]


@pytest.mark.parametrize(
    ("name", "args", "kwargs", "result"),
    [
        ("plain", (1,), {}, [1, "b"]),
        ("plain", (1, "x"), {}, [1, "x"]),
        ("plain", (), {"a": 1}, [1, "b"]),
        ("plain", (1,), {"b": "x"}, [1, "x"]),
        ("plain", (), {"b": "x", "a": 1}, [1, "x"]),
        ("untyped", ((1, 2),), {}, [(1, 2), 2]),
        ("untyped", (1,), {"b": {3}}, [1, {3}]),
        ("variadic", (1,), {}, [1, [], False, {}]),
        ("variadic", (1, 2, 3), {"flag": True, "x": "y"}, [1, [2, 3], True, {"x": "y"}]),
        ("only", (1,), {"b": 2}, [1, 2]),
        ("nothing", (), {}, None),
        ("sixteen", tuple(range(15)), {}, 15),
        ("sixteen", tuple(range(16)), {}, 16),
        ("sixteen", tuple(range(300)), {}, 300),
    ],
)
async def test_arguments_are_bound_as_python_binds_them(
    start: Start, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], result: object
) -> None:
    start(Shapes)
    assert await soon(getattr(actor_ref("shapes-1"), name)(*args, **kwargs)) == result


@pytest.mark.parametrize(
    ("name", "args", "kwargs", "named"),
    [
        ("plain", (), {}, "'a'"),
        ("plain", (1, "x", 3), {}, "too many positional arguments"),
        ("plain", (1,), {"c": 3}, "'c'"),
        ("plain", (1,), {"a": 3}, "'a'"),
        ("plain", ("x",), {}, "argument 'a'"),
        ("plain", (1, 2), {}, "argument 'b'"),
        ("plain", (1,), {"b": 2}, "argument 'b'"),
        ("variadic", (1, 2, "x"), {}, "argument 'rest'"),
        ("variadic", (1,), {"flag": "x"}, "argument 'flag'"),
        ("variadic", (1,), {"y": 3}, "argument 'more'"),
        ("only", (), {"a": 1, "b": 2}, "'a'"),
        ("only", (1, 2), {}, "too many positional arguments"),
        ("nothing", (1,), {}, "too many positional arguments"),
        ("nothing", (), {"self": 1}, "'self'"),
    ],
)
async def test_arguments_that_do_not_fit_are_refused_and_the_actor_stays_healthy(
    start: Start, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], named: str
) -> None:
    start(Shapes)
    with pytest.raises(SerializationFailed) as caught:
        await soon(getattr(actor_ref("shapes-1"), name)(*args, **kwargs))
    assert f"Shapes.{name}" in str(caught.value)
    assert named in str(caught.value)
    assert await soon(actor_ref("shapes-1").plain(1)) == [1, "b"]


async def test_arguments_of_a_stream_are_checked_too(start: Start) -> None:
    start(Shapes)
    with pytest.raises(SerializationFailed, match=r"Shapes\.items.*argument 'n'"):
        await soon(anext(actor_ref("shapes-1").items.stream("x")))


async def test_a_one_way_message_with_wrong_arguments_is_refused_or_logged(
    start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    start(Shapes)
    try:
        await soon(actor_ref("shapes-1").plain.send("x"))
    except SerializationFailed:
        return
    await soon(actor_ref("shapes-1").nothing())
    assert any("argument 'a'" in record.getMessage() for record in caplog.records), "the message vanished silently"


@pytest.mark.parametrize("name", ["not_a_handler", "missing", "on_activate", "deactivate_", "receive", "address_"])
async def test_only_handlers_can_be_called_and_the_error_lists_them(start: Start, name: str) -> None:
    start(Shapes)
    with pytest.raises(UnknownHandler, match="plain") as caught:
        await soon(getattr(actor_ref("shapes-1"), name)())
    assert repr(name) in str(caught.value)
    assert "shapes-1" in str(caught.value)


@pytest.mark.parametrize("way", ["send", "stream"])
async def test_an_unknown_handler_is_refused_however_it_is_called(start: Start, way: str) -> None:
    start(Shapes)
    remote = actor_ref("shapes-1").missing
    with pytest.raises(UnknownHandler, match="missing"):
        await soon(remote.send() if way == "send" else anext(remote.stream()))


async def test_a_typed_reference_has_only_the_handlers_of_its_class(start: Start) -> None:
    start(Shapes)
    with pytest.raises(AttributeError, match=r"no handler 'missing'.*plain"):
        _ = Shapes.ref("1").missing  # type: ignore[attr-defined]


async def test_an_unknown_type_is_refused_and_the_error_lists_what_is_known(start: Start) -> None:
    start(Shapes)
    with pytest.raises(UnknownActorType, match=r"ghost-1.*'ghost'.*shapes"):
        await soon(actor_ref("ghost-1").ask())


async def test_calling_a_generator_and_streaming_a_call_are_refused_with_the_right_way(start: Start) -> None:
    start(Shapes)
    ref = actor_ref("shapes-1")
    with pytest.raises(UnknownHandler, match=r"async generator.*items\.stream"):
        await soon(ref.items(3))
    with pytest.raises(UnknownHandler, match=r"no async generator.*await ref\.plain"):
        await soon(anext(ref.plain.stream(3)))


async def test_inside_its_actor_a_handler_is_a_plain_method(start: Start) -> None:
    start(Shapes)
    assert await soon(Shapes.ref("1").through_itself()) == [[1, "b"], [0, 1], [0, 1]]


async def test_a_handler_sends_to_its_own_actor_and_it_runs_afterwards(start: Start) -> None:
    order: list[str] = []

    class Looping(Actor):
        @handler
        async def begin(self) -> None:
            await self.end.send("by handler")
            await self.send("by receive")
            order.append("begin ends")

        @handler
        async def end(self, how: str) -> None:
            order.append(how)

        async def receive(self, message: str) -> None:
            order.append(message)

    start(Looping)
    await soon(Looping.ref("1").begin())
    await until(lambda: len(order) == 3, "both messages to itself")
    assert order == ["begin ends", "by handler", "by receive"]


# -- lanes ----------------------------------------------------------------------------------------------------------


def test_lanes_and_public_are_read_off_the_decorator() -> None:
    class Laned(Actor, public=True):
        @handler
        async def turn(self) -> None: ...
        @handler(readonly=True)
        async def read(self) -> None: ...
        @handler(control=True, public=True)
        async def control(self) -> None: ...

    handlers = ActorType.of(Laned).handlers
    assert {name: spec.lane for name, spec in handlers.items() if not spec.builtin} == {
        "turn": Lane.TURN, "read": Lane.READ, "control": Lane.CONTROL, "": Lane.TURN,
    }  # fmt: skip
    assert {name for name, spec in handlers.items() if spec.public} == {"control", "", "$append"}


def laned(gate: asyncio.Event, started: asyncio.Event, activated: asyncio.Event | None = None) -> type[Actor]:
    class Laned(Actor, max_queue=2):
        log_: list[str]

        def __init__(self) -> None:
            self.log_ = []

        async def on_activate(self) -> None:
            if activated is not None:
                await activated.wait()

        @handler
        async def turn(self) -> str:
            started.set()
            await gate.wait()
            return "turn"

        @handler
        async def quick(self) -> str:
            self.log_.append("quick")
            return "quick"

        @handler(readonly=True)
        async def peek(self) -> str:
            return "peek"

        @handler(readonly=True)
        async def peek_later(self) -> str:
            await asyncio.sleep(0)
            return "peek"

        @handler(readonly=True)
        async def watch(self) -> Any:
            yield "watched"

        @handler(control=True)
        async def hurry(self) -> str:
            gate.set()
            return "hurry"

        @handler(control=True)
        async def look(self) -> str:
            return "look"

    return Laned


async def test_readonly_and_control_calls_run_beside_a_running_turn(start: Start) -> None:
    gate, started = asyncio.Event(), asyncio.Event()
    start(laned(gate, started))
    ref = actor_ref("laned-1")
    turn = asyncio.ensure_future(ref.turn())
    queued = asyncio.ensure_future(ref.quick())
    await soon(started.wait())
    assert await soon(ref.peek()) == "peek"
    assert await soon(ref.peek_later()) == "peek"
    assert [item async for item in ref.watch.stream()] == ["watched"]
    assert await soon(ref.look()) == "look"
    assert not turn.done()
    assert not queued.done()
    assert await soon(ref.hurry()) == "hurry"
    assert list(await soon(asyncio.gather(turn, queued))) == ["turn", "quick"]


async def test_a_full_mailbox_does_not_stop_readonly_and_control_calls(start: Start) -> None:
    gate, started = asyncio.Event(), asyncio.Event()
    start(laned(gate, started))
    ref = actor_ref("laned-1")
    running = asyncio.ensure_future(ref.turn())
    await soon(started.wait())
    waiting = [asyncio.ensure_future(ref.quick()) for _ in range(2)]
    await settle()
    assert await soon(ref.peek()) == "peek"
    assert await soon(ref.hurry()) == "hurry"
    await soon(asyncio.gather(running, *waiting))


@pytest.mark.parametrize("name", ["peek", "peek_later", "look"])
async def test_readonly_and_control_calls_that_came_during_activation_do_not_wait_for_a_turn_before_them(
    start: Start, name: str
) -> None:
    gate, started, activated = asyncio.Event(), asyncio.Event(), asyncio.Event()
    start(laned(gate, started, activated))
    ref = actor_ref("laned-1")
    turn = asyncio.ensure_future(ref.turn())
    await settle()
    beside = asyncio.ensure_future(getattr(ref, name)())
    await settle()
    activated.set()
    await soon(started.wait())
    await soon(beside)
    assert not turn.done()
    gate.set()
    await soon(turn)


async def test_a_control_call_that_came_during_activation_can_end_the_turn_before_it(start: Start) -> None:
    gate, started, activated = asyncio.Event(), asyncio.Event(), asyncio.Event()
    start(laned(gate, started, activated))
    ref = actor_ref("laned-1")
    calls = asyncio.gather(ref.turn(), ref.hurry())
    await settle()
    activated.set()
    assert list(await soon(calls)) == ["turn", "hurry"]


async def test_a_failing_readonly_call_leaves_the_turn_beside_it_alone(start: Start) -> None:
    gate, started = asyncio.Event(), asyncio.Event()

    class Both(Actor):
        state: dict[str, int]

        @handler
        async def turn(self) -> dict[str, int]:
            self.state["turn"] = 1
            started.set()
            await gate.wait()
            return self.state

        @handler(readonly=True)
        async def fail(self) -> None:
            raise ValueError

    start(Both)
    turn = asyncio.ensure_future(Both.ref("1").turn())
    await soon(started.wait())
    with pytest.raises(Exception, match="ValueError"):
        await soon(Both.ref("1").fail())
    gate.set()
    assert await soon(turn) == {"turn": 1}
