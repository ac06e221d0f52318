import asyncio
import copy
import pickle
from contextvars import Context

import pytest

from actors import Actor, ActorRef, Receipt, actor_ref, handler
from actors.ref import close_caller, open_caller
from tests.unit.conftest import Start
from tests.unit.fakes import soon


class Session(Actor):
    async def receive(self, message: object) -> object:
        return message

    @handler
    async def write(self, prompt: str) -> str:
        return prompt.upper()


class Other(Actor, type="session"):
    pass


def test_references_to_one_address_are_one_value() -> None:
    refs = {actor_ref("session-1"), Session.ref("1"), Other.ref("1"), actor_ref("session-1").options(timeout=3)}
    assert len(refs) == 1
    assert actor_ref("session-1") != actor_ref("session-2")
    assert actor_ref("session-1") != "session-1"


def test_a_reference_shows_its_parts() -> None:
    ref = actor_ref("session-a-b")
    assert (ref.address, ref.type, ref.key) == ("session-a-b", "session", "a-b")
    assert repr(ref) == "actor_ref('session-a-b')"
    assert repr(ref.write) == "actor_ref('session-a-b').write"


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, lambda ref: pickle.loads(pickle.dumps(ref))])
@pytest.mark.parametrize("ref", [actor_ref("session-1"), Session.ref("1"), actor_ref("session-1").options(timeout=2)])
def test_a_reference_can_be_copied_and_pickled(ref: object, duplicate: object) -> None:
    again = duplicate(ref)  # type: ignore[operator]
    assert type(again) is ActorRef
    assert again == ref


def test_a_reference_cannot_be_pointed_elsewhere() -> None:
    ref = actor_ref("session-1")
    with pytest.raises(AttributeError):
        ref.address = "session-2"
    with pytest.raises(AttributeError):
        ref.colour = "red"


def test_special_names_are_no_handlers() -> None:
    ref = actor_ref("session-1")
    for name in ("__len__", "__await__", "_private", "__deepcopy__", "__array__"):
        assert not hasattr(ref, name)


@pytest.mark.parametrize("timeout", [0, -1, float("nan")])
def test_a_timeout_that_is_no_positive_number_is_refused(timeout: float) -> None:
    with pytest.raises(ValueError, match="timeout"):
        actor_ref("session-1").options(timeout=timeout)


@pytest.mark.parametrize("headers", [{"a": 1}, {1: "a"}, {"a": None}])
def test_headers_that_are_no_strings_are_refused(headers: object) -> None:
    with pytest.raises((TypeError, ValueError), match="header"):
        actor_ref("session-1").options(headers=headers)  # type: ignore[arg-type]


async def test_options_make_a_new_reference_and_leave_the_old_one_alone(start: Start) -> None:
    start(Session)
    plain = Session.ref("1")
    with_both = plain.options(timeout=5).options(headers={"a": "b"})
    assert with_both is not plain
    assert await soon(with_both.write("x")) == "X"
    with pytest.raises(AttributeError):
        _ = with_both.missing  # type: ignore[attr-defined]


def test_without_a_runtime_a_call_says_what_to_do() -> None:
    with pytest.raises(RuntimeError, match=r"no runtime is open here.*connect"):
        _ = Context().run(actor_ref("session-1").ask, 1)


async def test_a_context_that_is_older_than_the_runtime_finds_the_only_one_that_is_open(start: Start) -> None:
    old = Context()
    runtime = start(Session)
    open_caller(runtime.outbound)
    try:
        assert await soon(asyncio.get_running_loop().create_task(old.run(actor_ref("session-1").ask, 1))) == 1
        second = start(Session)
        open_caller(second.outbound)
        with pytest.raises(RuntimeError, match="several runtimes"):
            _ = old.run(actor_ref("session-1").ask, 1)
        close_caller(second.outbound)
    finally:
        close_caller(runtime.outbound)
    close_caller(runtime.outbound)  # once more is no error


async def test_ask_and_send_reach_receive_and_default_to_none(start: Start) -> None:
    start(Session)
    ref = actor_ref("session-1")
    assert await soon(ref.ask("x")) == "x"
    assert await soon(ref.ask()) is None
    assert isinstance(await soon(ref.send()), Receipt)


async def test_every_receipt_has_an_id_of_its_own(start: Start) -> None:
    start(Session)
    receipts = [await soon(actor_ref(f"session-{n % 3}").send(n)) for n in range(50)]
    start(Session)
    receipts += [await soon(actor_ref(f"session-{n % 3}").send(n)) for n in range(50)]
    assert len({receipt.message_id for receipt in receipts}) == 100
    assert all(receipt.message_id for receipt in receipts)
