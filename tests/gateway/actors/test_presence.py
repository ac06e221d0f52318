"""Readers of a channel see who else is there, on whichever silo."""

from typing import Any

import pytest

from actors import actor_ref
from cluster import Silo
from cluster.gateway import GatewayOptions
from cluster.gateway.actors import attendance, presence
from cluster.gateway.actors.attendance import ChannelPresence, presence_key
from tests.cluster.house import House, calling_from
from tests.cluster.waiting import eventually
from tests.gateway.actors.conftest import Desk
from tests.gateway.actors.socket_client import Frames, opened
from tests.gateway.http_client import Gateway


async def enter(ws: Frames, name: str, *, id: int = 1, **more: Any) -> list[str]:
    """Subscribe so that one is seen; the names of those who were there."""
    joined = await ws.call(type="subscribe", id=id, presence=True, name=name, **more)
    assert joined["type"] == "subscribed"
    state = await ws.next()
    assert (state["type"], state["id"], state["event"]) == ("presence", id, "state")
    assert state["you"] in [reader["id"] for reader in state["readers"]]
    return sorted(reader["name"] for reader in state["readers"])


async def heard(ws: Frames, *, within: float = 20.0) -> tuple[str, str]:
    frame = await ws.next()
    assert frame["type"] == "presence", frame
    return frame["event"], frame["reader"]["name"]


async def test_who_comes_and_who_goes(gateway: Gateway) -> None:
    async with opened(gateway) as first, opened(gateway) as second:
        assert await enter(first, "ann", data={"colour": "red"}) == ["ann"]
        await second.send(type="subscribe", id=9)  # sees, and is not seen
        assert (await second.next())["type"] == "subscribed"
        assert await enter(second, "bob") == ["ann", "bob"]
        assert await heard(first) == ("join", "bob")
        assert await enter(second, "bob elsewhere", id=3, channel="other") == ["bob elsewhere"]
        await second.call(type="unsubscribe", id=1)
        assert await heard(first) == ("leave", "bob")
        await actor_ref("desk-1").say("x")
        assert (await first.next())["type"] == (await second.next())["type"] == "event"
        await second.send(type="subscribe", id=1, presence=True, name="bob", after=0)
        assert [frame["type"] for frame in await second.take(2)] == ["subscribed", "presence"]
        assert await heard(first) == ("join", "bob")
    async with opened(gateway) as third:
        assert await enter(third, "cy", after=0) == ["cy"]


@pytest.mark.parametrize("wrong", [{"name": "x" * 129}, {"name": 5}, {"data": "x" * 1024}, {"presence": "yes"}])
async def test_readers_say_little_of_themselves(gateway: Gateway, wrong: dict[str, Any]) -> None:
    async with opened(gateway) as ws:
        frame = {"type": "subscribe", "id": 1, "presence": True, **wrong}
        while (told := await ws.call(**frame))["type"] == "subscribed":
            frame = {"type": "ping", "id": 2}
        assert (told["type"], told["problem"]["status"]) == ("error", 400)


async def test_readers_see_each_other_across_silos_and_are_missed_when_theirs_dies(house: House) -> None:
    silos = await house.start("a", "b", actors=[Desk], http="127.0.0.1:0", gateway=GatewayOptions())
    gateways = [Gateway(silo.http) for silo in silos if silo.http is not None]
    address = f"channel_presence-{presence_key('desk-1', 'output')}"
    async with opened(gateways[0]) as ann, opened(gateways[1]) as bob:
        await enter(ann, "ann")
        await eventually("it is known to the cluster", lambda: any(address in s.runtime.activations for s in silos))
        await enter(bob, "bob")
        assert await heard(ann) == ("join", "bob")
        async with opened(gateways[1]) as cy:
            await enter(cy, "cy")
            assert await heard(ann) == ("join", "cy")
        assert await heard(ann) == ("leave", "cy")
        await silos[1].abort()
        assert await heard(ann) == ("leave", "bob")


async def test_nobody_seems_to_go_when_the_silo_that_counts_dies(house: House) -> None:
    """Three silos: the one that has the list dies, and it is made anew from what the other two say."""
    silos = await house.start("a", "b", "c", actors=[Desk], http="127.0.0.1:0", gateway=GatewayOptions())
    address = f"channel_presence-{presence_key('desk-1', 'output')}"
    with calling_from(silos[0]):
        await ChannelPresence.ref(presence_key("desk-1", "output")).attend("nobody", [], 1.0, 0)
    owner = next(silo for silo in silos if address in silo.runtime.activations)
    left = [silo for silo in silos if silo is not owner]
    gateways = [Gateway(silo.http) for silo in left if silo.http is not None]
    async with opened(gateways[0]) as ann, opened(gateways[1]) as bob:
        await enter(ann, "ann")
        if await enter(bob, "bob") == ["bob"]:  # his silo has not heard of her yet
            assert await heard(bob) == ("join", "ann")
        assert await heard(ann) == ("join", "bob")
        await owner.abort()
        await eventually("another has it", lambda: any(address in silo.runtime.activations for silo in left))
        async with opened(gateways[1]) as cy:
            await enter(cy, "cy")
            for ws in (ann, bob):
                assert await heard(ws) == ("join", "cy")
        for ws in (ann, bob):
            assert await heard(ws) == ("leave", "cy")


async def test_nothing_is_left_when_all_have_gone(silo: Silo, gateway: Gateway) -> None:
    async with opened(gateway) as ws:
        await enter(ws, "ann")
    assert silo._http_side is not None
    assert silo._http_side.gateway is not None
    rooms = silo._http_side.gateway._actors._presence._rooms
    await eventually("nobody is counted any more", lambda: not rooms)
    key = presence_key("desk-1", "output")
    assert (await ChannelPresence.ref(key).attend("other", [], 1.0, 0)).readers == []


async def test_there_is_a_limit_to_who_is_seen(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(presence, "MOST", 1)
    async with opened(gateway) as ws:
        await enter(ws, "ann")
        await ws.send(type="subscribe", id=2, presence=True)
        assert (await ws.next())["type"] == "subscribed"
        assert (await ws.next())["problem"]["status"] == 429


async def test_a_gateway_that_is_silent_has_nobody(silo: Silo) -> None:
    actor = ChannelPresence.ref("x")
    reader = attendance.Reader("1", "ann")
    await actor.attend("one", [reader], 0.05, 0)
    assert (await actor.attend("two", [], 60.0, 0)).readers == [reader]

    async def is_gone() -> bool:
        return (await actor.attend("two", [], 60.0, 0)).readers == []

    await eventually("it is not counted any more", is_gone)
    found = await actor.attend("two", [], 60.0, 0)
    assert (await actor.attend("two", [], 60.0, found.version)).readers is None
