"""The router, between a runtime and the silos that it has links to."""

import asyncio
from collections.abc import AsyncIterator, Collection
from typing import Any, ClassVar

import pytest

from actors import Actor, ClusterUnavailable, ConnectionLost, actor_ref, codec, handler
from actors.alone import LonelyDirectory
from actors.calls import AcceptedCall, Call
from actors.envelope import Failure, Leave, Located, Mode, NotHere, Reply, Request, Resolve
from actors.ports import Route
from actors.ref import current_caller
from actors.runtime import Runtime
from actors.settings import Settings
from cluster.clock import SystemClock
from tests.unit.fakes import FakeLink, LoopTime, ScriptedStore, settle, soon, until


class Session(Actor):
    @handler
    async def note(self, value: Any) -> Any:
        return value

    @handler
    async def notes(self, value: Any) -> AsyncIterator[Any]:
        yield value


class Sleeper(Actor, persist="never"):
    """Calls a session, first or last after it has slept through its silo's lease."""

    directory: "ClassVar[RemoteDirectory]"

    @handler
    async def call(self, way: str, *, asleep: bool) -> Any:
        if asleep:
            self.directory.lease_end = 0.0
        session = actor_ref("session-1")
        match way:
            case "ask":
                return await session.note(way)
            case "send":
                return await session.note.send(way)
            case _:
                return [item async for item in session.notes.stream(way)]


class RemoteDirectory(LonelyDirectory):
    """Places everything but sleepers on the silo named ``elsewhere``."""

    elsewhere = "b.1"
    lease_end = float("inf")

    @property
    def deadline(self) -> float:
        return self.lease_end

    def place(self, address: str, but: Collection[str] = ()) -> str:
        own = super().place(address, but)
        return own if address.startswith("sleeper-") else self.elsewhere

    def is_member(self, silo: str) -> bool:
        return True


class FakeTransport:
    """Links to whichever silo is asked for, unless it is down."""

    def __init__(self) -> None:
        self.links: dict[str, FakeLink] = {}
        self.down: set[str] = set()
        self.connects = 0

    def link(self, silo: str) -> FakeLink | None:
        return self.links.get(silo)

    async def connect(self, silo: str) -> FakeLink:
        self.connects += 1
        await asyncio.sleep(0)
        if silo in self.down:
            raise ConnectionError(f"{silo} is down")
        return self.links.setdefault(silo, FakeLink(silo, trusted=True, peer_is_silo=True))


class Here:
    """A silo without activations of its own, and the other ends of its links."""

    def __init__(self, *, settings: Settings | None = None) -> None:
        self.directory = RemoteDirectory(["session", "sleeper"], era=1, name="a.1")
        self.transport = FakeTransport()
        self.runtime = Runtime(
            [Session, Sleeper],
            directory=self.directory,
            transport=self.transport,
            store=ScriptedStore(),
            clock=SystemClock(),
            settings=settings,
        )
        current_caller.set(self.runtime.outbound)

    def link(self, silo: str = "b.1") -> FakeLink:
        return self.transport.links[silo]

    async def resolve(self, silo: str = "b.1", owner: str | None = None) -> None:
        """Answer the question where an address lives."""
        await until(lambda: silo in self.transport.links, f"a link to {silo}")
        question = await self.link(silo).answer()
        assert isinstance(question, Resolve), question
        self.runtime.inbound.on_envelopes(self.link(silo), [Located(question.id, owner or silo, 7)])
        await settle()

    def requests(self, silo: str = "b.1") -> list[Request]:
        found = [envelope for envelope in self.link(silo).sent if isinstance(envelope, Request)]
        self.link(silo).sent.clear()
        return found

    def reply(self, request: Request, value: object = None, silo: str = "b.1") -> None:
        self.runtime.inbound.on_envelopes(self.link(silo), [Reply(request.id, codec.encode(value))])


def values(requests: list[Request]) -> list[object]:
    return [codec.decode(request.payload, trusted=True)[0] for request in requests]


@pytest.fixture
async def here() -> Any:
    here = Here()
    yield here
    await here.runtime.close()


def start(*numbers: int) -> "list[asyncio.Task[Any]]":
    return [asyncio.ensure_future(actor_ref("session-1").options(timeout=60).note(n)) for n in numbers]


async def test_calls_wait_for_the_route_and_then_leave_in_order(here: Here) -> None:
    calls = start(1, 2, 3)
    await here.resolve()
    requests = here.requests()
    assert values(requests) == [1, 2, 3]
    for request in reversed(requests):
        here.reply(request, request.id)
    assert await soon(asyncio.gather(*calls)) == [request.id for request in requests]
    assert here.transport.connects >= 1


async def test_a_warm_route_needs_no_question(here: Here) -> None:
    [first] = start(1)
    await here.resolve()
    here.reply(here.requests()[0])
    await soon(first)
    connects = here.transport.connects
    [second] = start(2)
    await settle()
    [request] = here.requests()
    here.reply(request, "warm")
    assert await soon(second) == "warm"
    assert here.transport.connects == connects


@pytest.mark.parametrize("way", ["ask", "send", "stream"])
async def test_a_turn_that_has_slept_through_the_lease_sends_nothing_over_a_warm_route(here: Here, way: str) -> None:
    Sleeper.directory = here.directory
    sleeper = actor_ref("sleeper-1")
    awake = asyncio.ensure_future(sleeper.call("ask", asleep=False))
    await here.resolve()
    here.reply(here.requests()[0], "told")
    assert await soon(awake) == "told"

    asleep = asyncio.ensure_future(sleeper.options(timeout=1).call(way, asleep=True))
    await settle()
    assert here.requests() == []
    assert not here.runtime.activations
    with pytest.raises(ConnectionLost, match="sleeper-1"):
        await soon(asleep)


async def test_the_silo_that_was_asked_may_name_another_owner(here: Here) -> None:
    [call] = start(1)
    await here.resolve(owner="c.1")
    assert here.requests("b.1") == []
    [request] = here.requests("c.1")
    here.reply(request, "c", silo="c.1")
    assert await soon(call) == "c"


async def test_not_here_looks_again_and_keeps_the_order(here: Here) -> None:
    calls = start(1, 2, 3)
    await here.resolve()
    requests = here.requests()
    here.runtime.inbound.on_envelopes(here.link(), [NotHere(requests[0].id)])
    calls += start(4)
    await settle()
    here.runtime.inbound.on_envelopes(here.link(), [NotHere(request.id) for request in requests[1:]])
    await settle()
    questions = [envelope for envelope in here.link().sent if isinstance(envelope, Resolve)]
    assert len(questions) == 1, "one question for all of them"
    here.runtime.inbound.on_envelopes(here.link(), [Located(questions[0].id, "c.1", 8)])
    await settle()
    again = here.requests("c.1")
    assert values(again) == [1, 2, 3, 4]
    for request in again:
        here.reply(request, silo="c.1")
    await soon(asyncio.gather(*calls))


async def test_a_lost_link_resends_everything_and_says_what_may_have_run(here: Here) -> None:
    calls = start(1, 2)
    await here.resolve()
    first, second = here.requests()
    link = here.transport.links.pop("b.1")
    link.closed = True
    here.directory.elsewhere = "c.1"
    here.runtime.inbound.on_closed(link, [second])
    await here.resolve("c.1")
    again = here.requests("c.1")
    assert values(again) == [1, 2]
    assert [request.attempt for request in again] == [1, 0]
    assert [request.message_id for request in again] == [first.message_id, second.message_id]
    for request in again:
        here.reply(request, "ok", silo="c.1")
    assert await soon(asyncio.gather(*calls)) == ["ok", "ok"]


async def test_a_call_whose_silos_are_lost_again_and_again_ends_as_connection_lost(here: Here) -> None:
    [call] = start(1)
    await here.resolve()
    limit = here.runtime.settings.max_attempts
    for attempt in range(limit + 1):
        [request] = here.requests()
        assert request.attempt == attempt
        link = here.transport.links.pop("b.1")
        link.closed = True
        here.runtime.inbound.on_closed(link, [])
        if attempt < limit:
            await here.resolve()
    with pytest.raises(ConnectionLost, match=r"session-1.*b\.1"):
        await soon(call)


async def test_an_answer_from_a_link_that_the_call_has_left_is_ignored(here: Here) -> None:
    [call] = start(1)
    await here.resolve()
    [request] = here.requests()
    stranger = FakeLink("x.1", trusted=True, peer_is_silo=True)
    here.runtime.inbound.on_envelopes(stranger, [Reply(request.id, codec.encode("forged"))])
    await settle()
    assert not call.done()
    here.reply(request, "true")
    assert await soon(call) == "true"


async def test_a_silo_that_is_down_is_tried_again_until_it_is_up(here: Here) -> None:
    here.transport.down.add("b.1")
    [call] = start(1)
    await until(lambda: here.transport.connects >= 2, "a second attempt")
    here.transport.down.clear()
    await here.resolve()
    here.reply(here.requests()[0], "up")
    assert await soon(call) == "up"


async def test_a_refusal_of_the_asked_silo_reaches_every_waiting_caller(here: Here) -> None:
    calls = start(1, 2)
    await until(lambda: "b.1" in here.transport.links and here.link().sent, "the question")
    question = here.link().sent.pop()
    here.runtime.inbound.on_envelopes(here.link(), [Failure(question.id, "StateUnreadable", "session-1: broken")])
    for failed in await soon(asyncio.gather(*calls, return_exceptions=True)):
        assert type(failed).__name__ == "StateUnreadable"
    [later] = start(3)
    await here.resolve()
    here.reply(here.requests()[0])
    await soon(later)


async def test_a_repeat_is_not_told_that_it_failed_where_the_actor_cannot_be_activated(here: Here) -> None:
    """The silo that had it first may wake up, and pass it on."""
    [call] = start(1)
    await here.resolve()
    link = here.transport.links.pop("b.1")
    link.closed = True
    here.runtime.inbound.on_closed(link, [])
    await until(lambda: "b.1" in here.transport.links and here.link().sent, "the question")
    question = here.link().sent.pop()
    failed = Failure(question.id, "ActorFailed", "session-1: on_activate raised OSError: no coffee", "OSError")
    here.runtime.inbound.on_envelopes(here.link(), [failed])
    with pytest.raises(ConnectionLost, match="no coffee.*may have run"):
        await soon(call)


async def test_a_call_that_was_given_up_while_it_waited_is_never_sent(here: Here) -> None:
    first, second = start(1, 2)
    await until(lambda: "b.1" in here.transport.links and here.link().sent, "the question")
    first.cancel()
    await settle()
    await here.resolve()
    requests = here.requests()
    assert values(requests) == [2]
    here.reply(requests[0])
    await soon(second)


async def test_the_time_that_a_call_waited_is_taken_from_its_timeout() -> None:
    time = LoopTime(asyncio.get_running_loop())
    here = Here()
    [call] = start(1)
    await until(lambda: "b.1" in here.transport.links and here.link().sent, "the question")
    await time.jump(20)
    await here.resolve()
    [request] = here.requests()
    assert 0 < request.timeout <= 40
    call.cancel()
    await here.runtime.close()


async def test_a_remote_call_that_is_not_answered_is_a_timeout_not_a_rejection() -> None:
    from actors import Timeout

    time = LoopTime(asyncio.get_running_loop())
    here = Here()
    [call] = start(1)
    await here.resolve()
    here.requests()
    await time.jump(61)
    with pytest.raises(Timeout):
        await soon(call)
    await here.runtime.close()


async def test_undelivered_calls_are_refused_after_the_delivery_timeout() -> None:
    time = LoopTime(asyncio.get_running_loop())
    here = Here(settings=Settings(delivery_timeout=10))
    here.transport.down.add("b.1")
    [call] = start(1)
    for _ in range(30):
        await time.jump(1)
    with pytest.raises(ClusterUnavailable, match=r"session-1.*b\.1 is down"):
        await soon(call)
    await here.runtime.close()


async def test_routes_are_bounded() -> None:
    here = Here(settings=Settings(max_routes=3))
    for n in range(10):
        call = asyncio.ensure_future(actor_ref(f"session-{n}").note(n))
        await here.resolve()
        [request] = here.requests()
        here.reply(request)
        await soon(call)
    assert here.runtime.router.routes <= 3
    await here.runtime.close()


async def test_a_remote_stream_that_is_left_tells_the_owner(here: Here) -> None:
    stream = actor_ref("session-1").note.stream(1)
    first = asyncio.ensure_future(anext(stream))
    await here.resolve()
    [request] = here.requests()
    assert request.mode is Mode.STREAM
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    await until(lambda: Leave(request.id) in here.link().sent, "the leave")


def handed_on(here: Here, number: int) -> Call:
    """A call that was queued here in an activation that has ended, for the second time."""
    arguments = codec.encode_arguments("session-1", (number,), {}, lambda *_: False)
    request = Request(here.runtime.next_id(), "session-1", "note", arguments, Mode.SEND, 60, f"m{number}", attempt=2)
    call = AcceptedCall(request)
    here.runtime.calls.begin(call, 60)
    here.runtime.router.hold(call, fence=here.directory.silo)
    return call


async def test_what_was_handed_on_goes_first_when_somebody_else_has_the_address_activated_here(here: Here) -> None:
    here.directory.elsewhere = "a.1"
    call = handed_on(here, 1)
    await settle()
    assert call.held_for, "it waits for news of the silos"
    other = FakeLink("c.1", trusted=True, peer_is_silo=True)
    here.runtime.inbound.on_envelopes(other, [Resolve(5, "session-1")])
    assert isinstance(await other.answer(), Located)
    assert not call.held_for
    assert here.runtime.router.is_clear("session-1")


async def test_what_was_handed_on_goes_first_when_somebody_else_learns_here_where_the_address_is(
    here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def elsewhere(address: str) -> Route:
        return Route("b.1", 7)

    monkeypatch.setattr(here.directory, "claim", elsewhere)
    handed_on(here, 1)
    await settle()
    other = FakeLink("c.1", trusted=True, peer_is_silo=True)
    here.runtime.inbound.on_envelopes(other, [Resolve(5, "session-1")])
    assert isinstance(await other.answer(), Located)
    assert values(here.requests()) == [1]


async def test_a_silo_that_only_wakes_an_actor_is_not_let_in_before_its_messages_are_back(here: Here) -> None:
    here.directory.elsewhere = "a.1"
    other = FakeLink("c.1", trusted=True, peer_is_silo=True)

    def send(number: int) -> None:
        arguments = codec.encode_arguments("session-1", (number,), {}, lambda *_: False)
        request = Request(number, "session-1", "note", arguments, Mode.ASK, 60, f"m{number}")
        here.runtime.inbound.on_envelopes(other, [request])

    send(1)
    assert await other.answer() == NotHere(1)
    here.runtime.inbound.on_envelopes(other, [Resolve(2, "session-1", wakes=True)])
    assert isinstance(await other.answer(), Located)
    send(3)
    assert await other.answer() == NotHere(3)
    here.runtime.inbound.on_envelopes(other, [Resolve(4, "session-1")])
    assert isinstance(await other.answer(), Located)
    send(1)
    send(3)
    assert [(await other.answer()).id for _ in range(2)] == [1, 3]


async def test_waking_an_actor_says_that_nothing_waits_for_the_answer(here: Here) -> None:
    waking = asyncio.ensure_future(here.runtime.wake("session-1"))
    await until(lambda: "b.1" in here.transport.links, "a link")
    question = await here.link().answer()
    assert isinstance(question, Resolve)
    assert question.wakes
    here.runtime.inbound.on_envelopes(here.link(), [Located(question.id, "b.1", 7)])
    await soon(waking)
