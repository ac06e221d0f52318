"""Values cross as values: in one process as between two, whatever they are."""

import collections
import dataclasses
import datetime as dt
import decimal
import enum
import os
import pathlib
import subprocess
import sys
import threading
import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pydantic
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from actors import Actor, ActorRef, PayloadTooLarge, SerializationFailed, actor_ref, codec, handler
from actors.settings import Settings
from tests.unit.conftest import Start
from tests.unit.fakes import soon


class Colour(enum.Enum):
    RED = "red"
    PAIR = (1, 2)


class Plain(enum.Enum):
    A = "a"


class Level(enum.IntEnum):
    LOW = 1


@dataclass
class Point:
    x: int = 0
    tags: list[str] = field(default_factory=list)


@dataclass
class Point3(Point):
    z: int = 0


class Struct(msgspec.Struct):
    when: dt.datetime
    points: dict[str, Point] = {}


class Model(pydantic.BaseModel):
    name: str = ""
    seen: set[int] = set()


class Aliased(pydantic.BaseModel):
    user_name: str = pydantic.Field(default="", alias="userName")


class Computed(pydantic.BaseModel, extra="forbid"):
    n: int = 1

    @pydantic.computed_field  # type: ignore[prop-decorator]
    @property
    def double(self) -> int:
        return 2 * self.n


class Pair(NamedTuple):
    left: int
    right: str


class Custom:
    def __init__(self, value: object) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and vars(other) == vars(self)

    def __hash__(self) -> int:
        return 1


class Shape(ABC):
    @abstractmethod
    def area(self) -> int: ...


@dataclass
class Square(Shape):
    side: int = 2

    def area(self) -> int:
        return self.side**2


NAIVE = dt.datetime(2026, 1, 2)  # noqa: DTZ001  # such values exist
NOW = dt.datetime(2026, 1, 2, 3, 4, 5, 678, tzinfo=dt.UTC)

VALUES: list[object] = [
    None, True, False, 0, -1, 2**63, 2**64 - 1, 2**64, -(2**63) - 1, 10**50, 1.5, float("inf"),
    "", "é🙂", b"", b"\x00\xff",
    bytearray(b"x"), [], [1, [2, [None]]], {}, {"a": {"b": [1]}}, {1: "one"}, {(1, 2): "pair"}, {True: 1}, (),
    (1, "a"),
    [(1, 2)], {"a": (1,)}, {1, 2}, frozenset({1}), 1 + 2j, range(3), slice(1, 2), ..., NOW, NOW.date(), NOW.time(),
    NAIVE, dt.timedelta(days=1, microseconds=1), uuid.UUID(int=5), decimal.Decimal("1.10"),
    pathlib.PurePosixPath("/a"), Colour.RED, Colour.PAIR, Level.LOW, Point(1, ["a"]), Point3(1, [], 3),
    Struct(NOW, {"p": Point()}),
    Model(name="x", seen={1}), Aliased(userName="x"), Computed(n=4), Pair(1, "x"), Custom([1]), Square(3), Point, len,
    collections.OrderedDict(a=1), collections.defaultdict(list, {"a": [1]}), collections.Counter("aab"),
    collections.deque([1], maxlen=3), actor_ref("session-1"),
    [actor_ref("session-1")], {"who": actor_ref("session-1")},
    {actor_ref("session-1"): 1}, {actor_ref("session-1")}, ValueError("x").args, b"x" * 70_000, "x" * 70_000,
    list(range(20)),
]  # fmt: skip


def named(values: list[Any]) -> list[Any]:
    return [pytest.param(value, id=f"{type(value).__name__}-{repr(value)[:30]}") for value in values]


class Echo(Actor):
    """Says what it got, and what it made of it."""

    kept: list[Any]

    def __init__(self) -> None:
        self.kept = []

    async def receive(self, message: Any) -> Any:
        return message

    @handler
    async def echo(self, value):  # type: ignore[no-untyped-def]  # noqa: ANN201
        return value

    @handler
    async def stream(self, value: Any) -> Any:
        yield value

    @handler
    async def keep(self, value: Any) -> None:
        self.kept.append(value)

    @handler
    async def spoil(self, value: list[Any]) -> list[Any]:
        value.append("spoiled")
        self.kept.append(value)
        return value

    @handler
    async def tell(self) -> Any:
        return self.kept[-1]

    @handler
    async def name_of_type(self, value: Any) -> str:
        return type(value).__qualname__


# -- without annotations --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", named(VALUES))
async def test_a_value_arrives_as_what_it_was_without_annotations(start: Start, value: object) -> None:
    start(Echo)
    ref = actor_ref("echo-1")
    for result in (await soon(ref.ask(value)), await soon(ref.echo(value)), await soon(ref.echo(value=value))):
        assert result == value
        assert type(result) is type(value)
    assert await soon(ref.name_of_type(value)) == type(value).__qualname__
    assert [item async for item in ref.stream.stream(value)] == [value]


TEXT = st.text(st.characters(exclude_categories=["Cs"]))
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXT | st.binary(),
    lambda inner: (
        st.lists(inner)
        | st.dictionaries(TEXT | st.integers(), inner)
        | st.tuples(inner, inner)
        | st.builds(Custom, inner)
    ),
    max_leaves=12,
)


@given(PLAIN)
@settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow])
def test_any_nested_value_survives_encoding_without_annotations(value: object) -> None:
    again = codec.decode(codec.encode(value), trusted=True)
    assert again == value
    assert repr(type(again)) == repr(type(value))


# -- with annotations -----------------------------------------------------------------------------------------------

ANNOTATED: list[tuple[Any, object]] = [
    (Any, Point(1)), (object, Point(1)), (int, 5), (int, 2**64), (int, -(10**40)), (float, 1.5), (str, "x"),
    (bytes, b"x"),
    (bytearray, bytearray(b"x")), (bool, True), (None, None), (Point, Point(1, ["a"])), (Point | None, None),
    (Point | None, Point(2)), (list[Point], [Point(1)]), (dict[str, Point], {"a": Point(1)}),
    (Struct, Struct(NOW, {"a": Point()})),
    (Model, Model(name="x", seen={1, 2})), (list[Model], [Model()]), (Model | None, None),
    (Aliased, Aliased(userName="x")),
    (Computed, Computed(n=3)), (tuple[int, str], (1, "a")), (tuple[int, ...], (1, 2)), (tuple, (1, (2,))),
    (set[int], {1}),
    (frozenset[str], frozenset({"a"})), (dict[int, str], {1: "a"}), (dict[tuple[int, int], str], {(1, 2): "a"}),
    (dt.datetime, NOW), (dt.datetime, NAIVE), (dt.date, NOW.date()), (dt.timedelta, dt.timedelta(days=3)),
    (uuid.UUID, uuid.UUID(int=7)), (decimal.Decimal, decimal.Decimal("1.10")), (Colour, Colour.RED),
    (Colour, Colour.PAIR),
    (Level, Level.LOW), (Pair, Pair(1, "x")), (Custom, Custom([1])), (list[Custom], [Custom(1)]),
    (Custom | None, Custom(2)),
    (Point | Pair, Point(1)), (Point | Custom, Custom(3)), (ActorRef, actor_ref("session-1")),
    (list[ActorRef], [actor_ref("session-1")]), (dict[str, ActorRef], {"a": actor_ref("session-1")}),
    (ActorRef | None, actor_ref("session-1")), (ActorRef | str, actor_ref("session-1")),
    (Actor, actor_ref("session-1")),
    (set[ActorRef], {actor_ref("session-1")}), (dict[ActorRef, int], {actor_ref("session-1"): 1}),
    (complex, 1j), (pathlib.PurePosixPath, pathlib.PurePosixPath("/a")), (Sequence[int], [1, 2]), (type, Point),
    ("NotThere", Point(1)),
    (Shape, Square(3)), (list[Shape], [Square(3)]), (Point, Point3(1, ["a"], 3)),
    (list[Point], [Point3(1, ["a"], 3)]),
    (list, [Point(1), (2,)]), (dict, {"a": NOW}), (dict[str, Any], {"a": Point(1), "b": (1,), "c": NOW}),
    (list[Any], [Point(1)]),
    (list[object], [{1}]), (int, Level.LOW), (float, 3),
]  # fmt: skip


def annotated_echo(annotation: Any) -> type[Actor]:
    class Typed(Actor):
        @handler
        async def echo(self, value):  # type: ignore[no-untyped-def]  # noqa: ANN202
            self.got = type(value)
            return value

        @handler
        async def stream(self, value):  # type: ignore[no-untyped-def]  # noqa: ANN202
            yield value

    Typed._handlers["echo"].function.__annotations__ = {"value": annotation, "return": annotation}
    Typed._handlers["stream"].function.__annotations__ = {"value": annotation, "return": Sequence[annotation]}
    return Typed


@pytest.mark.parametrize(
    ("annotation", "value"),
    [pytest.param(a, v, id=f"{getattr(a, '__name__', a)}-{type(v).__name__}") for a, v in ANNOTATED],
)
async def test_a_value_that_fits_its_annotation_arrives_as_what_it_was(
    start: Start, annotation: Any, value: object
) -> None:
    start(annotated_echo(annotation))
    ref = actor_ref("typed-1")
    for result in (await soon(ref.echo(value)), await soon(ref.echo(value=value))):
        assert result == value
    assert [item async for item in ref.stream.stream(value)] == [value]


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        (int, "5"), (str, 5), (Point, {"x": "no"}), (Point, 3), (list[int], ["a"]), (Model, {"seen": "no"}),
        (tuple[int, int], (1,)),
        (ActorRef, "session-1"), (Custom, 3), (dt.datetime, "yesterday"), (Plain, "blue"), (None, 1), (int, None),
        (list[int], [(1,)]), (dict[str, int], {"a": (1,)}), (bytes, "x"),
        (Point | None, 5), (Custom, Point()),
    ],
)  # fmt: skip
async def test_an_argument_that_does_not_fit_its_annotation_is_refused_by_name(
    start: Start, annotation: Any, value: object
) -> None:
    start(annotated_echo(annotation))
    with pytest.raises(SerializationFailed, match=r"Typed\.echo.*argument 'value'"):
        await soon(actor_ref("typed-1").echo(value))


async def test_an_argument_of_a_caller_that_does_not_know_the_class_is_decoded_by_the_annotation(start: Start) -> None:
    start(annotated_echo(Point))
    assert await soon(actor_ref("typed-1").echo({"x": 3, "tags": ["a"]})) == Point(3, ["a"])


async def test_a_result_that_does_not_fit_its_annotation_arrives_as_it_is(start: Start) -> None:
    class Liar(Actor):
        @handler
        async def lie(self, value: Any) -> int:
            return value  # type: ignore[no-any-return]

    start(Liar)
    for value in ("text", None, [1], Point(1), (1, 2), Custom(3)):
        assert await soon(actor_ref("liar-1").lie(value)) == value


# -- values, not objects --------------------------------------------------------------------------------------------


async def test_a_receiver_never_sees_a_later_change_of_the_senders_object(start: Start) -> None:
    start(Echo)
    ref = actor_ref("echo-1")
    for value in ([1], Point(1, ["a"]), Custom([1])):
        before = (
            dataclasses.replace(value) if isinstance(value, Point) else codec.decode(codec.encode(value), trusted=True)
        )
        await soon(ref.keep.send(value))
        if isinstance(value, list):
            value.append(2)
        elif isinstance(value, Point):
            value.x = 99
        else:
            value.value.append(2)  # type: ignore[attr-defined]
        assert await soon(ref.tell()) == before


async def test_a_sender_never_sees_what_the_receiver_did_to_its_argument(start: Start) -> None:
    start(Echo)
    value = [1]
    result = await soon(actor_ref("echo-1").spoil(value))
    assert result == [1, "spoiled"]
    assert value == [1]


async def test_a_caller_that_changes_a_result_changes_nothing_in_the_actor(start: Start) -> None:
    start(Echo)
    ref = actor_ref("echo-1")
    result = await soon(ref.spoil([1]))
    result.append("mine")
    assert await soon(ref.tell()) == [1, "spoiled"]


async def test_an_actor_that_changes_what_it_yielded_changes_nothing_for_the_reader(start: Start) -> None:
    class Yields(Actor):
        @handler
        async def items(self) -> Any:
            item = [1]
            yield item
            item.append(2)
            yield item

    start(Yields)
    assert [item async for item in actor_ref("yields-1").items.stream()] == [[1], [1, 2]]


async def test_two_arguments_that_are_one_object_are_two_values(start: Start) -> None:
    class Two(Actor):
        @handler
        async def same(self, left: list[int], right: list[int]) -> bool:
            return left is right

    start(Two)
    one = [1]
    assert await soon(Two.ref("1").same(one, one)) is False


# -- what cannot be serialized --------------------------------------------------------------------------------------


def iter_of_nothing() -> Iterator[None]:
    yield from ()


class Unsendable:
    def __reduce__(self) -> str | tuple[Any, ...]:
        raise RuntimeError("I will not travel")


def endless() -> list[Any]:
    loop: list[Any] = []
    loop.append(loop)
    return loop


BAD = [threading.Lock(), Unsendable(), [Unsendable()], {"a": threading.Lock()}, iter_of_nothing(), "\ud800"]


@pytest.mark.parametrize("value", named(BAD))
async def test_an_argument_that_cannot_be_serialized_is_refused_before_anything_is_sent(
    start: Start, value: object
) -> None:
    runtime = start(Echo)
    ref = actor_ref("echo-1")
    for call in (ref.echo(1, value), ref.echo.send(1, value), anext(ref.stream.stream(1, value))):
        with pytest.raises(SerializationFailed, match=r"echo-1\.\w+: argument 2 .*nothing was sent"):
            await soon(call)
    with pytest.raises(SerializationFailed, match="argument 'value'"):
        await soon(ref.echo(value=value))
    with pytest.raises(SerializationFailed, match=r"echo-1\.receive: argument 1"):
        await soon(ref.send(value))
    assert not runtime.activations


async def test_an_argument_that_contains_itself_arrives_or_is_refused(start: Start) -> None:
    start(Echo)
    try:
        result = await soon(actor_ref("echo-1").echo(endless()))
    except SerializationFailed as error:
        assert "argument 1" in str(error)  # noqa: PT017
    else:
        assert result[0] is result


@pytest.mark.parametrize("annotation", [Any, Point, list[int], Custom, Model])
async def test_an_annotated_argument_that_cannot_be_serialized_is_refused_by_name(
    start: Start, annotation: Any
) -> None:
    start(annotated_echo(annotation))
    with pytest.raises(SerializationFailed, match=r"typed-1\.echo: argument 1 .*nothing was sent"):
        await soon(actor_ref("typed-1").echo(threading.Lock()))


async def test_a_bad_field_of_an_annotated_argument_is_refused_by_name(start: Start) -> None:
    start(annotated_echo(Point))
    with pytest.raises(SerializationFailed, match=r"typed-1\.echo: argument 1 .*nothing was sent"):
        await soon(actor_ref("typed-1").echo(Point(threading.Lock())))  # type: ignore[arg-type]


async def test_a_bad_result_is_an_error_for_the_caller_only(start: Start) -> None:
    class Bad(Actor):
        state: dict[str, int]

        @handler
        async def bad(self) -> Any:
            self.state["n"] = 1
            return threading.Lock()

        @handler
        async def bad_typed(self) -> Point:
            self.state["n"] = 1
            return Point(threading.Lock())  # type: ignore[arg-type]

        @handler
        async def bad_items(self) -> Any:
            self.state["n"] = 1
            yield 1
            yield threading.Lock()

        @handler
        async def good(self) -> dict[str, int]:
            return self.state

    start(Bad)
    ref = actor_ref("bad-1")
    for call, what in ((ref.bad(), "result"), (ref.bad_typed(), "result")):
        with pytest.raises(SerializationFailed, match=rf"bad-1\.bad\w*: its {what}"):
            await soon(call)
        assert await soon(ref.good()) == {}
    items = []
    with pytest.raises(SerializationFailed, match=r"bad-1\.bad_items: its item"):
        async for item in ref.bad_items.stream():
            items.append(item)  # noqa: PERF401
    assert items == [1]
    assert await soon(ref.good()) == {}


async def test_payloads_over_the_limit_are_refused_and_the_actor_stays_healthy(start: Start) -> None:
    class Big(Actor):
        state: dict[str, int]

        @handler
        async def take(self, value: bytes) -> int:
            return len(value)

        @handler
        async def give(self, size: int) -> bytes:
            self.state["n"] = size
            return b"x" * size

        @handler
        async def pour(self, size: int) -> Any:
            yield b""
            yield b"x" * size

        @handler
        async def stored(self) -> dict[str, int]:
            return self.state

    runtime = start(Big, settings=Settings(max_payload=1000))
    ref = actor_ref("big-1")
    for call in (ref.take(b"x" * 1001), ref.take.send(b"x" * 1001), ref.send("x" * 1001)):
        with pytest.raises(PayloadTooLarge, match=r"big-1\.\w+ has 10\d\d bytes, the limit is 1000"):
            await soon(call)
    assert not runtime.activations
    assert await soon(ref.take(b"x" * 900)) == 900
    with pytest.raises(PayloadTooLarge, match=r"big-1\.give: its result has 20\d\d bytes"):
        await soon(ref.give(2000))
    items = []
    with pytest.raises(PayloadTooLarge, match=r"big-1\.pour: its item has 20\d\d bytes"):
        async for item in ref.pour.stream(2000):
            items.append(item)  # noqa: PERF401
    assert items == [b""]
    assert len(await soon(ref.give(900))) == 900
    assert await soon(ref.stored()) == {"n": 900}


@given(st.binary(max_size=40))
def test_garbage_instead_of_arguments_is_a_refusal(data: bytes) -> None:
    from actors.actor_type import ActorType

    spec = ActorType.of(Echo).handlers["echo"]
    refused, args, kwargs = "", (), dict[str, Any]()
    try:
        args, kwargs = spec.decode_arguments(data, trusted=False)
    except SerializationFailed as error:
        refused = str(error)
    assert "Echo.echo" in refused or len(args) + len(kwargs) == 1


async def test_references_inside_anything_still_work_on_arrival(start: Start) -> None:
    @dataclass
    class Letter:
        to: ActorRef
        copies: list[ActorRef] = field(default_factory=list)

    class Post(Actor):
        @handler
        async def deliver(self, letter: Letter, note: Any = None) -> list[Any]:
            return [await ref.echo("x") for ref in (letter.to, *letter.copies, *([note] if note else []))]

        @handler
        async def typed(self, echo: Echo) -> Any:
            return await echo.echo("typed")

        @handler
        async def own(self) -> ActorRef:
            return self.own_ref

    start(Echo, Post)
    letter = Letter(actor_ref("echo-1"), [Echo.ref("2")])  # type: ignore[list-item]
    assert await soon(Post.ref("1").deliver(letter, actor_ref("echo-3"))) == ["x", "x", "x"]
    assert await soon(Post.ref("1").typed(Echo.ref("1"))) == "typed"
    own = await soon(Post.ref("1").own())
    assert own == actor_ref("post-1")
    assert await soon(own.typed(Echo.ref("1"))) == "typed"


async def test_an_argument_that_fits_in_no_way_is_refused_with_the_reason(start: Start) -> None:
    start(annotated_echo(str))
    for value in (object(), lambda: 1):
        with pytest.raises(SerializationFailed, match=r"typed-1: .*'value': Expected `str`, got"):
            await soon(actor_ref("typed-1").echo(value))


def test_classes_of_a_script_travel_also_after_msgspec_has_seen_them(tmp_path: Path) -> None:
    """Such classes are pickled by value, with the cache that msgspec leaves in them."""
    script = tmp_path / "script.py"
    script.write_text(
        "import enum\n"
        "from dataclasses import dataclass\n"
        "import msgspec\n"
        "from actors import codec\n"
        "@dataclass\n"
        "class Inner:\n"
        "    n: int = 0\n"
        "class Colour(enum.Enum):\n"
        "    RED = 'r'\n"
        "for value in (Inner(3), Colour.RED):\n"
        "    msgspec.msgpack.Decoder(type(value)).decode(msgspec.msgpack.encode(value))\n"
        "    assert codec.decode(codec.encode(value), trusted=True) == value\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    subprocess.run([sys.executable, str(script)], check=True, timeout=60, env=environment)
