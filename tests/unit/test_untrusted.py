"""What comes from outside of the cluster is never unpickled."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import cloudpickle
import msgspec
import pytest

from actors import Actor, SerializationFailed, StateUnreadable, codec, handler
from actors.codec import PICKLE, REF
from actors.envelope import Failure, Mode, Reply, Request
from actors.runtime import Runtime
from actors.state import FORMAT, StateCodec
from tests.unit.conftest import Start
from tests.unit.fakes import FakeLink

executed: list[str] = []


def explode(text: str) -> None:
    executed.append(text)


class Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return explode, ("boom",)


@dataclass
class Point:
    x: object = 0


class Target(Actor):
    async def receive(self, message: Any) -> Any:
        return message

    @handler
    async def untyped(self, a, b=None):  # type: ignore[no-untyped-def]  # noqa: ANN201
        return a

    @handler
    async def anything(self, a: Any, *rest: Any, **more: Any) -> Any:
        return a

    @handler
    async def number(self, a: int) -> int:
        return a

    @handler
    async def point(self, a: Point) -> Any:
        return a.x

    @handler
    async def points(self, a: list[Point]) -> Any:
        return a

    @handler
    async def bomb(self, a: Bomb) -> Any:
        return a

    @handler
    async def mapping(self, a: dict[str, Any]) -> Any:
        return a


@pytest.fixture(autouse=True)
def nothing_executed() -> Iterator[None]:
    executed.clear()
    yield
    executed.clear()


def bomb() -> msgspec.msgpack.Ext:
    return msgspec.msgpack.Ext(PICKLE, cloudpickle.dumps(Bomb()))


async def answer(runtime: Runtime, link: FakeLink, name: str, payload: bytes, *, trusted: bool = True) -> Any:
    request = Request(1, "target-1", name, payload, Mode.ASK, 5.0, "m1", trusted=trusted)
    runtime.inbound.on_envelopes(link, [request])
    return await link.answer()


NAMES = ["", "untyped", "anything", "number", "point", "points", "bomb", "mapping"]


@pytest.mark.parametrize("name", NAMES)
async def test_a_pickle_from_outside_is_refused_unread(start: Start, name: str) -> None:
    runtime = start(Target)
    link = FakeLink(trusted=False)
    encode = msgspec.msgpack.encode
    payloads = [
        encode([bomb()]), encode([{"x": bomb()}]), encode([[{"x": bomb()}]]), b"\xc1" + encode(([], {"a": bomb()})),
        b"\xc1" + encode(([], {"a": {"x": bomb()}})),
    ]  # fmt: skip
    for payload in payloads:
        found = await answer(runtime, link, name, payload)  # "trusted" is what the stranger says of itself
        assert isinstance(found, Failure)
        assert found.error == "SerializationFailed"
    assert executed == []


async def test_extra_arguments_from_outside_are_not_unpickled_either(start: Start) -> None:
    runtime = start(Target)
    link = FakeLink(trusted=False)
    payload = b"\xc1" + msgspec.msgpack.encode(([1, bomb()], {"more": bomb()}))
    assert isinstance(await answer(runtime, link, "anything", payload), Failure)
    assert executed == []


@pytest.mark.parametrize("name", NAMES)
async def test_the_same_pickle_from_a_member_is_loaded(start: Start, name: str) -> None:
    """Without this the refusals above would prove nothing."""
    runtime = start(Target)
    link = FakeLink("silo-2.1", trusted=True)
    await answer(runtime, link, name, msgspec.msgpack.encode([bomb()]))
    assert executed


async def test_a_member_that_passes_on_a_strangers_request_keeps_it_untrusted(start: Start) -> None:
    runtime = start(Target)
    link = FakeLink("silo-2.1", trusted=True)
    found = await answer(runtime, link, "untyped", msgspec.msgpack.encode([bomb()]), trusted=False)
    assert isinstance(found, Failure)
    assert executed == []


async def test_an_untrusted_request_that_waited_for_its_activation_is_still_untrusted(start: Start) -> None:
    runtime = start(Target)
    link = FakeLink(trusted=False)
    assert "target-1" not in runtime.activations
    assert isinstance(await answer(runtime, link, "untyped", msgspec.msgpack.encode([bomb()])), Failure)
    assert executed == []


async def test_plain_values_and_references_from_outside_are_welcome(start: Start) -> None:
    runtime = start(Target)
    link = FakeLink(trusted=False)
    ref = msgspec.msgpack.Ext(REF, b"target-2")
    for name, value in [("untyped", {"a": [1, None, b"x"]}), ("", ref), ("point", {"x": 5}), ("number", 5)]:
        found = await answer(runtime, link, name, msgspec.msgpack.encode([value]))
        assert isinstance(found, Reply), found


@pytest.mark.parametrize("code", [0, 4, 127, -1])
async def test_an_unknown_extension_is_refused_from_anyone(start: Start, code: int) -> None:
    runtime = start(Target)
    for link in (FakeLink(trusted=False), FakeLink(trusted=True)):
        found = await answer(runtime, link, "untyped", msgspec.msgpack.encode([msgspec.msgpack.Ext(code, b"x")]))
        assert isinstance(found, Failure)
        assert found.error == "SerializationFailed"


async def test_a_malformed_reference_from_outside_is_refused(start: Start) -> None:
    runtime = start(Target)
    link = FakeLink(trusted=False)
    for address in (b"no address", b"\xff", b"", b"a-" + b"x" * 1000):
        found = await answer(runtime, link, "untyped", msgspec.msgpack.encode([msgspec.msgpack.Ext(REF, address)]))
        assert isinstance(found, Failure)


def test_results_from_strangers_are_not_unpickled() -> None:
    with pytest.raises(SerializationFailed, match="refused"):
        codec.decode(msgspec.msgpack.encode(bomb()), trusted=False)
    assert executed == []


def test_a_stored_state_is_never_unpickled() -> None:
    state = StateCodec("Target", Point)
    with pytest.raises(StateUnreadable):
        state.decode(FORMAT + msgspec.msgpack.encode({"x": bomb()}), "target-1")
    assert executed == []
