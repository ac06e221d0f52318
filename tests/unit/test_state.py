"""State: what can be one, how it is stored, and what happens when it cannot be read."""

import contextlib
import threading
import uuid
from dataclasses import dataclass, field
from typing import Any

import msgspec
import pydantic
import pytest

from actors import Actor, ActorError, ActorFailed, ActorRef, SerializationFailed, StateUnreadable, actor_ref, handler
from actors.state import FORMAT, StateCodec
from tests.unit.conftest import Start
from tests.unit.fakes import ScriptedStore, soon


@dataclass
class Data:
    n: int = 0
    names: list[str] = field(default_factory=list)


class Structure(msgspec.Struct):
    n: int = 0
    names: list[str] = []


class Model(pydantic.BaseModel):
    n: int = 0
    names: list[str] = []


class Aliased(pydantic.BaseModel):
    n: int = pydantic.Field(default=0, alias="theNumber", validate_default=False)
    names: list[str] = []


class Computed(pydantic.BaseModel, extra="forbid"):
    n: int = 0
    names: list[str] = []

    @pydantic.computed_field  # type: ignore[prop-decorator]
    @property
    def double(self) -> int:
        return 2 * self.n


KINDS: list[Any] = [Data, Structure, Model, Aliased, Computed]


def counter(kind: Any, **options: Any) -> type[Actor]:
    class Counter(Actor, **options):
        state: kind

        @handler
        async def add(self, name: str) -> int:
            self.state.n += 1
            self.state.names.append(name)
            return int(self.state.n)

        @handler
        async def names(self) -> list[str]:
            return list(self.state.names)

        @handler
        async def look(self) -> None: ...

        @handler
        async def set(self, name: str, value: Any) -> None:
            setattr(self.state, name, value)

        @handler
        async def sabotage(self, field: str) -> None:
            self.state.n = 99
            setattr(self.state, field, threading.Lock())

        @handler
        async def change_and_fail(self) -> None:
            self.state.n += 1
            raise ValueError("changed my mind")

    return Counter


@pytest.mark.parametrize("kind", KINDS)
async def test_state_comes_back_in_another_runtime(start: Start, store: ScriptedStore, kind: type) -> None:
    start(counter(kind), store=store)
    ref = actor_ref("counter-1")
    assert [await soon(ref.add("a")), await soon(ref.add("b"))] == [1, 2]
    start(counter(kind), store=store)
    assert await soon(ref.names()) == ["a", "b"]
    assert await soon(ref.add("c")) == 3


@pytest.mark.parametrize("kind", KINDS)
async def test_two_actors_do_not_share_their_fresh_state(start: Start, kind: type) -> None:
    start(counter(kind))
    await soon(actor_ref("counter-1").add("a"))
    assert await soon(actor_ref("counter-2").names()) == []


@pytest.mark.parametrize("kind", [dict, list, dict[str, int], list[int]])
async def test_plain_containers_can_be_state(start: Start, store: ScriptedStore, kind: Any) -> None:
    class Keeper(Actor):
        state: kind

        @handler
        async def keep(self) -> None:
            if isinstance(self.state, dict):
                self.state["a"] = 1
            else:
                self.state.append(1)

        @handler
        async def tell(self) -> Any:
            return self.state

    start(Keeper, store=store)
    await soon(actor_ref("keeper-1").keep())
    start(Keeper, store=store)
    assert await soon(actor_ref("keeper-1").tell()) in ({"a": 1}, [1])


async def test_references_in_a_state_come_back_as_references(start: Start, store: ScriptedStore) -> None:
    class Friend(Actor):
        async def receive(self, message: str) -> str:
            return f"{self.key} got {message}"

    @dataclass
    class Friends:
        best: ActorRef | None = None
        typed: Friend | None = None
        all: list[ActorRef] = field(default_factory=list)
        by_name: dict[str, ActorRef] = field(default_factory=dict)

    class Person(Actor):
        state: Friends

        @handler
        async def meet(self, friend: ActorRef) -> None:
            self.state.best = friend
            self.state.typed = Friend.ref(friend.key)
            self.state.all.append(friend)
            self.state.by_name[friend.key] = friend

        @handler
        async def greet(self) -> list[str]:
            friends = [self.state.best, self.state.typed, *self.state.all, *self.state.by_name.values()]
            return [await friend.ask("hi") for friend in friends if friend is not None]

    start(Friend, Person, store=store)
    await soon(Person.ref("1").meet(actor_ref("friend-bob")))
    start(Friend, Person, store=store)
    assert await soon(Person.ref("1").greet()) == ["bob got hi"] * 4


async def test_an_actor_that_keeps_nothing_has_nothing_to_do_with_the_store(start: Start, store: ScriptedStore) -> None:
    class Plain(Actor, persist="never"):
        async def receive(self, message: object) -> object:
            return message

    runtime = start(Plain, store=store)
    assert await soon(Plain.ref("1").ask(1)) == 1
    await soon(runtime.drain(limit=3))
    assert store.opened == []
    assert store.attempts == 0


# -- changes of the class -------------------------------------------------------------------------------------------


@dataclass
class Wider:
    n: int = 0
    names: list[str] = field(default_factory=list)
    mood: str = "calm"


@dataclass
class Narrower:
    n: int = 0


@dataclass
class Retyped:
    n: str = ""
    names: list[str] = field(default_factory=list)


@dataclass
class Demanding:
    names: list[str] = field(default_factory=list)
    n: int = 0

    def __post_init__(self) -> None:
        if "a" in self.names:
            raise ValueError("names must not contain a")


class RetypedModel(pydantic.BaseModel):
    n: dict[str, int] = {}
    names: list[str] = []


class RetypedStruct(msgspec.Struct):
    n: list[int] = []
    names: list[str] = []


@pytest.mark.parametrize("kind", [Wider, Model, Structure, Data])
async def test_a_state_class_that_gained_a_field_or_changed_its_kind_loads_old_data(
    start: Start, store: ScriptedStore, kind: type
) -> None:
    start(counter(Data), store=store)
    await soon(actor_ref("counter-1").add("a"))
    start(counter(kind), store=store)
    assert await soon(actor_ref("counter-1").add("b")) == 2
    assert store.state_of("counter-1")["names"] == ["a", "b"]


@pytest.mark.parametrize(
    ("kind", "field"), [(Retyped, "n"), (RetypedModel, "n"), (RetypedStruct, "n"), (Demanding, "names")]
)
async def test_a_state_that_does_not_fit_names_address_and_field_and_is_left_untouched(
    start: Start, store: ScriptedStore, kind: type, field: str
) -> None:
    start(counter(Data), store=store)
    await soon(actor_ref("counter-1").add("a"))
    before = store.bytes_of("counter-1")
    start(counter(kind), store=store)
    for call in (actor_ref("counter-1").names(), actor_ref("counter-1").add("b")):
        with pytest.raises(StateUnreadable) as caught:
            await soon(call)
        assert "counter-1" in str(caught.value)
        assert field in str(caught.value)
        assert kind.__name__ in str(caught.value)
    assert store.bytes_of("counter-1") == before
    start(counter(Data), store=store)
    assert await soon(actor_ref("counter-1").add("b")) == 2


@pytest.mark.parametrize("stored", [b"", b"\x02\x80", b"\x00", FORMAT, FORMAT + b"\xc1", FORMAT + b"\x81\xa1n", b"{}"])
async def test_bytes_of_an_unknown_format_are_refused_and_left_untouched(
    start: Start, store: ScriptedStore, stored: bytes
) -> None:
    start(counter(Data), store=store)
    await soon(actor_ref("counter-1").add("a"))
    store.data.records["counter-1"].state = stored
    runtime = start(counter(Data), store=store)
    with pytest.raises(StateUnreadable, match="counter-1"):
        await soon(actor_ref("counter-1").names())
    await soon(runtime.drain(limit=3))
    assert store.bytes_of("counter-1") == stored


async def test_only_the_actor_whose_state_is_unreadable_suffers(start: Start, store: ScriptedStore) -> None:
    start(counter(Data), store=store)
    await soon(actor_ref("counter-1").add("a"))
    store.data.records["counter-1"].state = b"?"
    start(counter(Data), store=store)
    with pytest.raises(StateUnreadable):
        await soon(actor_ref("counter-1").names())
    assert await soon(actor_ref("counter-2").add("a")) == 1


# -- what cannot be stored ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [Data, Structure, Model])
@pytest.mark.parametrize("field", ["n", "names"])
async def test_a_field_that_cannot_be_stored_is_named_and_the_turn_rolled_back(
    start: Start, store: ScriptedStore, kind: type, field: str
) -> None:
    start(counter(kind), store=store)
    ref = actor_ref("counter-1")
    await soon(ref.add("a"))
    with pytest.raises(SerializationFailed, match=rf"counter-1: state\.{field} "):
        await soon(ref.sabotage(field))
    assert await soon(ref.add("b")) == 2
    assert await soon(ref.names()) == ["a", "b"]
    assert len(store.commits) == 2


async def test_a_one_way_message_whose_state_cannot_be_stored_is_logged(
    start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    start(counter(Data))
    await soon(actor_ref("counter-1").sabotage.send("n"))
    assert await soon(actor_ref("counter-1").names()) == []
    assert any("state.n" in record.getMessage() for record in caplog.records), "the message vanished silently"


async def test_a_state_replaced_by_something_else_is_refused_and_rolled_back(
    start: Start, store: ScriptedStore
) -> None:
    class Careless(Actor):
        state: Data

        @handler
        async def replace(self, value: Any) -> None:
            self.state = value

        @handler
        async def add(self) -> int:
            self.state.n += 1
            return self.state.n

    start(Careless, store=store)
    ref = actor_ref("careless-1")
    assert await soon(ref.add()) == 1
    for value in (None, "oops", 3):
        with pytest.raises((SerializationFailed, ActorFailed), match="state"):
            await soon(ref.replace(value))
    assert await soon(ref.add()) == 2
    start(Careless, store=store)
    assert await soon(ref.add()) == 3


async def test_a_failing_turn_after_a_wrongly_typed_field_is_answered_and_commits_nothing(
    start: Start, store: ScriptedStore
) -> None:
    """A dataclass takes any value in any field: such a state can be committed, but not be rolled back to."""
    start(counter(Data), store=store)
    ref = actor_ref("counter-1")
    with contextlib.suppress(SerializationFailed):  # the best answer
        await soon(ref.set("names", "not a list"))
    with pytest.raises(ActorError):
        await soon(ref.change_and_fail())
    with contextlib.suppress(StateUnreadable):
        await soon(ref.look())
    assert (store.state_of("counter-1") or {"n": 0})["n"] == 0


@dataclass
class Identified:
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    n: int = 0


async def test_an_actor_that_fails_first_keeps_the_state_that_it_was_made_with(start: Start) -> None:
    seen: list[str] = []

    class Named(Actor):
        state: Identified

        async def on_activate(self) -> None:
            seen.append(self.state.id)

        @handler
        async def fail(self) -> None:
            seen.append(self.state.id)
            self.state.n = 1
            raise ValueError

        @handler
        async def id(self) -> str:
            return self.state.id

    start(Named)
    for key in ("1", "2"):
        with pytest.raises(ActorFailed):
            await soon(actor_ref(f"named-{key}").fail())
        seen.append(await soon(actor_ref(f"named-{key}").id()))
    assert len(set(seen[:3])) == 1
    assert len(set(seen)) == 2


def test_encoding_names_the_owner_when_a_class_cannot_be_stored() -> None:
    @dataclass
    class Bad:
        lock: Any = field(default_factory=threading.Lock)

    with pytest.raises(TypeError, match=r"Owner: state\.lock"):
        StateCodec("Owner", Bad)


def test_a_format_byte_precedes_everything_stored() -> None:
    state = StateCodec("Owner", Data)
    assert state.fresh[:1] == FORMAT
    assert state.decode(state.encode(Data(3, ["a"]), "x-1"), "x-1") == Data(3, ["a"])


# -- what another class would drop -------------------------------------------------------------------------------------


@dataclass
class Leaf:
    name: str = ""


@dataclass
class Tree:
    leaves: list[Leaf] = field(default_factory=list)
    by_name: dict[str, Leaf] = field(default_factory=dict)
    tags: set[str] = field(default_factory=set)
    friend: ActorRef | None = None


@dataclass
class GreenLeaf:
    name: str = ""
    green: bool = True


@dataclass
class GreenTree:
    leaves: list[GreenLeaf] = field(default_factory=list)
    by_name: dict[str, GreenLeaf] = field(default_factory=dict)
    tags: set[str] = field(default_factory=set)
    friend: ActorRef | None = None
    height: int = 0


def test_fields_that_a_class_does_not_know_are_found_wherever_they_are() -> None:
    tree = GreenTree([GreenLeaf("a"), GreenLeaf("b")], {"c": GreenLeaf("c")}, {"x", "y"}, actor_ref("counter-1"), 3)
    stored = StateCodec("Owner", GreenTree).encode(tree, "tree-1")
    assert StateCodec("Owner", Tree).unknown_fields(stored, "tree-1") == [
        "the field state.leaves[0].green",
        "the field state.leaves[1].green",
        "the field state.by_name.c.green",
        "the field state.height",
    ]
    assert StateCodec("Owner", GreenTree).unknown_fields(stored, "tree-1") == []


def test_a_class_with_more_fields_drops_none() -> None:
    stored = StateCodec("Owner", Tree).encode(Tree([Leaf("a")], {"c": Leaf("c")}, {"x", "y"}), "tree-1")
    assert StateCodec("Owner", GreenTree).unknown_fields(stored, "tree-1") == []
