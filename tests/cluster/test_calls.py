"""Calls from actor to actor and from clients, between silos: values, errors, order, limits."""

import asyncio
import time
from typing import Any

import pytest

from actors import actor_ref
from actors.errors import (
    ActorFailed,
    CallCycle,
    MailboxFull,
    PayloadTooLarge,
    SerializationFailed,
    Timeout,
    UnknownActorType,
    UnknownHandler,
)
from actors.ref import ActorRef
from cluster import Silo
from tests.cluster.house import House, calling_from
from tests.cluster.house_actors import Counter, Echo, OutOfInk, Point, Unannounced
from tests.cluster.waiting import eventually

MIB = 2**20


@pytest.fixture
async def pair(house: House) -> tuple[Silo, Silo]:
    n1, n2 = await house.start("n1", "n2")
    return n1, n2


# -- values ------------------------------------------------------------------------------------------------------------


async def test_an_actor_calls_an_actor_on_another_silo(pair: tuple[Silo, Silo]) -> None:
    with calling_from(pair[0]):
        relay, counter = actor_ref("relay-n1.a"), actor_ref("counter-n2.a")
        assert await relay.call(counter, "add", [3]) == 3
        assert (await relay.where(), await counter.where()) == ("n1", "n2")


async def test_references_travel_and_still_work_where_they_arrive(pair: tuple[Silo, Silo]) -> None:
    with calling_from(pair[0]):
        own = await actor_ref("relay-n2.a").own()
        assert own == actor_ref("relay-n2.a")
        assert isinstance(own, ActorRef)
        assert await own.where() == "n2"
        assert await actor_ref("echo-n2.a").echo({"to": [own]}) == {"to": [own]}
        await actor_ref("counter-n2.a").befriend(actor_ref("counter-n1.b"))
        assert await actor_ref("counter-n2.a").ask_friend() == 10
        await actor_ref("counter-n2.a").sleep()  # the reference is in the state now, in the store
        assert await actor_ref("counter-n2.a").ask_friend() == 20


@pytest.mark.parametrize(
    "value",
    [
        None, True, 0, -(2**63), 2**64 - 1, 2**100, 1.5, float("inf"), "ü\0", b"\x00\xff", (1, 2), {3, 4},
        {"a": [1, {"b": None}]}, {1: 2}, {(1, 2): "tuple key"}, 1 + 2j, Point(1, 2, ["x"]), [Point(1, 2)],
        Unannounced("me"), range(3), KeyError("k").args, int,
    ],
    ids=repr,
)  # fmt: skip
async def test_values_arrive_as_what_they_were(pair: tuple[Silo, Silo], value: Any) -> None:
    with calling_from(pair[0]):
        back = await actor_ref("echo-n2.a").echo(value)
    assert back == value
    assert type(back) is type(value)


async def test_annotated_arguments_arrive_as_what_the_handler_says(pair: tuple[Silo, Silo]) -> None:
    with calling_from(pair[0]):
        assert await Echo.ref("n2.a").move(Point(1, 2)) == Point(2, 2, ["Point"])
        assert await actor_ref("echo-n2.a").move({"x": 1, "y": 2}) == Point(2, 2, ["Point"])
        with pytest.raises(SerializationFailed, match="move: argument 'point'"):
            await actor_ref("echo-n2.a").move({"x": "one", "y": 2})


async def test_no_value_is_shared_between_sender_and_receiver(pair: tuple[Silo, Silo]) -> None:
    for name in ("n1", "n2"):  # also on the same silo
        with calling_from(pair[0]):
            sent = {"list": [1]}
            back = await actor_ref(f"echo-{name}.a").echo(sent)
            back["list"].append(2)
            assert sent == {"list": [1]}


# -- errors ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["n1", "n2"])
async def test_what_an_actor_raises_reaches_the_caller(pair: tuple[Silo, Silo], name: str) -> None:
    with calling_from(pair[0]):
        with pytest.raises(ActorFailed, match=f"faulty-{name}.a.fail raised .*OutOfInk: green") as failed:
            await actor_ref(f"faulty-{name}.a").fail()
    assert failed.value.type_name.endswith("house_actors.OutOfInk")
    assert failed.value.message == "green"
    assert "in fail" in failed.value.traceback
    cause = failed.value.__cause__
    assert isinstance(cause, OutOfInk)
    assert (cause.args, cause.colour) == (("green",), "green")


async def test_the_cause_of_a_cause_is_in_the_traceback(pair: tuple[Silo, Silo]) -> None:
    with calling_from(pair[0]):
        with pytest.raises(ActorFailed) as failed:
            await actor_ref("faulty-n2.a").fail_with_a_cause()
    assert isinstance(failed.value.__cause__, ValueError)
    assert "KeyError: 'nothing'" in failed.value.traceback


async def test_a_failure_two_silos_away_comes_all_the_way(pair: tuple[Silo, Silo]) -> None:
    with calling_from(pair[0]):
        with pytest.raises(ActorFailed, match="relay-n2.a.call raised") as failed:
            await actor_ref("relay-n2.a").call(actor_ref("faulty-n1.a"), "fail", [])
    assert isinstance(failed.value.__cause__, ActorFailed)
    assert "OutOfInk" in failed.value.traceback


async def test_a_turn_that_failed_changed_nothing(pair: tuple[Silo, Silo]) -> None:
    with calling_from(pair[0]):
        faulty = actor_ref("faulty-n2.a")
        with pytest.raises(ActorFailed):
            await faulty.fail()
        with pytest.raises(SerializationFailed, match=r"faulty-n2.a.unsendable: its result \(lock\)"):
            await faulty.unsendable()
        assert await faulty.add() == 1


async def test_an_actor_that_cannot_be_activated_tells_every_caller_and_tries_again(pair: tuple[Silo, Silo]) -> None:
    with calling_from(pair[0]):
        stillborn = actor_ref("faulty-n2.stillborn")
        for _ in range(2):
            failures = await asyncio.gather(*(stillborn.add() for _ in range(5)), return_exceptions=True)
            for failure in failures:
                assert isinstance(failure, ActorFailed), failure
                assert "faulty-n2.stillborn: on_activate raised" in str(failure)
                assert isinstance(failure.__cause__, OutOfInk)
    await eventually("nothing is left of it", lambda: not pair[1].runtime.activations)


async def test_unknown_handlers_and_types_list_what_is_known(house: House) -> None:
    (n1,) = await house.start("n1", actors=[Counter])
    await house.start("n2", actors=[Counter, Echo])
    with calling_from(n1):
        with pytest.raises(
            UnknownHandler, match=r"echo-n2.a: Echo has no handler 'sing' \(known: echo, make, move, size\)"
        ):
            await actor_ref("echo-n2.a").sing()
        with pytest.raises(UnknownHandler, match="async generator"):
            async for _ in actor_ref("echo-n2.a").echo.stream(1):
                pass
        with pytest.raises(
            UnknownActorType, match=r"tale-1: no silo hosts the type 'tale' \(known types: counter, echo\)"
        ):
            await actor_ref("tale-1").ask(1)


@pytest.mark.parametrize("through", ["n1", "n2", "n3"])
async def test_a_call_that_comes_back_gets_an_error_that_names_the_cycle(house: House, through: str) -> None:
    (n1, *_) = await house.start("n1", "n2", "n3")
    with calling_from(n1):
        first = actor_ref("relay-n1.a")
        with pytest.raises(ActorFailed) as failed:
            await first.options(timeout=10).call_back(actor_ref(f"relay-{through}.b"))
        text = f"call cycle relay-n1.a -> relay-{through}.b -> relay-n1.a"
        assert text in str(failed.value)
        cause = failed.value.__cause__
        assert isinstance(cause, ActorFailed)
        assert isinstance(cause.__cause__, CallCycle)
        assert await first.ping() == "pong", "it is free again"


async def test_two_callers_that_wait_for_each_other_are_no_cycle(pair: tuple[Silo, Silo]) -> None:
    """A asks B while B serves somebody else: B gets to it when it is free."""
    with calling_from(pair[0]):
        busy = asyncio.create_task(actor_ref("counter-n2.b").add_slowly(1))
        await eventually("b is busy", lambda: "counter-n2.b" in pair[1].runtime.activations)
        waiting = asyncio.create_task(actor_ref("relay-n1.a").call(actor_ref("counter-n2.b"), "add", [1]))
        await actor_ref("counter-n2.b").finish()
        assert (await busy, await waiting) == (1, 2)


@pytest.mark.parametrize("name", ["n1", "n2"])
async def test_a_deadline_passes_while_the_actor_is_busy(pair: tuple[Silo, Silo], name: str) -> None:
    """The very first call activates the actor, and may have run: that must not be told as a rejection."""
    with calling_from(pair[0]):
        counter = actor_ref(f"counter-{name}.a")
        started = time.monotonic()
        with pytest.raises(Timeout, match=f"counter-{name}.a.add_slowly: no answer in time"):
            await counter.options(timeout=0.3).add_slowly(1)
        with pytest.raises(Timeout):
            await counter.options(timeout=0.3).add(10)  # queued behind it: its time passes before it runs
        assert time.monotonic() - started < 3
        await counter.finish()
        assert await counter.add(1) == 2, "the turn went on to its end, and what was late did not run"


async def test_a_full_mailbox_refuses_from_afar_and_keeps_what_it_took(pair: tuple[Silo, Silo]) -> None:
    with calling_from(pair[0]):
        valve = actor_ref("valve-n2.a")
        asks = [asyncio.create_task(valve.ask(number)) for number in range(12)]
        await eventually("the rest is refused", lambda: sum(ask.done() for ask in asks) >= 8)
        refused = [ask for ask in asks if ask.done()]
        for ask in refused:
            with pytest.raises(MailboxFull, match="valve-n2.a: 3 messages"):
                await ask
        with pytest.raises(MailboxFull):
            await valve.send("one way")
        await valve.open()
        taken = [await ask for ask in asks if ask not in refused]
        assert taken == [0, 1, 2, 3]
        assert await valve.noted() == taken


# -- large ones --------------------------------------------------------------------------------------------------------


async def test_64_mib_pass_while_small_calls_go_on(pair: tuple[Silo, Silo]) -> None:
    with calling_from(pair[0]):
        large, small = actor_ref("echo-n2.large"), actor_ref("echo-n2.small")
        await small.echo(0)
        there = asyncio.create_task(large.size(bytes(64 * MIB)))
        waits = []
        while not there.done():
            started = time.monotonic()
            assert await small.echo(1) == 1
            waits.append(time.monotonic() - started)
        assert await there == 64 * MIB
        assert len(waits) >= 5, "the small ones came to a standstill"
        assert len(await large.make(64 * MIB)) == 64 * MIB


async def test_what_is_over_the_limit_is_refused_before_it_travels(pair: tuple[Silo, Silo]) -> None:
    with calling_from(pair[0]):
        echo = actor_ref("echo-n2.a")
        with pytest.raises(PayloadTooLarge, match="echo-n2.a.size"):
            await echo.size(bytes(65 * MIB))
        assert not pair[1].runtime.activations
        with pytest.raises(PayloadTooLarge, match="echo-n2.a.make: its result"):
            await echo.make(65 * MIB)
        assert await echo.size(b"x") == 1


# -- order -------------------------------------------------------------------------------------------------------------


async def test_messages_of_one_sender_are_processed_in_order_while_the_actor_comes_and_goes(
    pair: tuple[Silo, Silo],
) -> None:
    """It deactivates at every fifth message: what is queued then must not be overtaken or lost."""
    with calling_from(pair[0]):
        ledger = actor_ref("ledger-n2.a")
        await asyncio.gather(*(ledger.send(number) for number in range(200)))
        await eventually("all were noted", lambda: _noted(ledger, 200))
        assert await ledger.noted() == list(range(200))


async def test_messages_of_one_sender_are_all_processed_once_across_a_move(house: House) -> None:
    """The owner stops in the middle: the rest is processed on another silo, in the order in which it was accepted."""
    n1, n2, n3 = await house.start("n1", "n2", "n3")
    with calling_from(n3):
        ledger = actor_ref("ledger-n1.a")

        async def send_all() -> None:
            for number in range(1, 301):
                await ledger.send(number)

        sending = asyncio.create_task(send_all())
        await eventually("some were noted", lambda: "ledger-n1.a" in n1.runtime.activations)
        stopping = asyncio.create_task(n1.stop())
        await sending
        await stopping
        await eventually("all were noted", lambda: _noted(ledger, 300))
        assert await ledger.noted() == list(range(1, 301))
        assert await ledger.where() in ("n2", "n3")
    assert not n1.runtime.activations
    assert n2.ready


async def _noted(ledger: ActorRef, count: int) -> bool:
    return len(await ledger.noted()) >= count
