"""Durable cursors over streams that wake workers (protocol, 6 and 7)."""

import asyncio
import hmac
import random
import secrets
import time
from datetime import UTC, datetime
from urllib.parse import quote

import msgspec

from actors import Actor, actor_ref, handler
from cluster.gateway.streams.names import COURIER, INDEX, INDEX_PARTS, RESERVED, stream_address
from cluster.gateway.streams.offsets import START, Offset
from cluster.gateway.streams.stream_state import Outcome, Write
from cluster.gateway.streams.subscription_state import (
    Ack,
    Delivery,
    Grasp,
    Link,
    StreamInfo,
    SubscriptionConfig,
    SubscriptionInfo,
    SubscriptionOutcome,
    SubscriptionState,
)

_LEASE, _RETRY = "lease", "retry"
_LONGEST_DELIVERY = 30.0
_BACKOFF = (1.0, 60.0)
_JITTER = 0.2


class Subscription(Actor, type="stream_subscription", idle_timeout=60):
    """One subscription. Streams tell it of their appends in the commits of those, so that it misses none.

    At most one wake is in flight or held at a time; its generation fences off whoever held one before.
    """

    state: SubscriptionState

    # -- what clients ask -------------------------------------------------------------------------------------------

    @handler
    async def configure(self, name: str, config: SubscriptionConfig, root: str) -> SubscriptionOutcome:
        """Make the subscription; an equal one may be there already."""
        state = self.state
        if state.config is not None:
            return SubscriptionOutcome("ok" if state.config == config else "conflict", self._info())
        now = time.time()
        if config.pattern is not None:
            parts = [actor_ref(f"{INDEX}-{part}") for part in range(INDEX_PARTS)]
            await asyncio.gather(*(part.watch(self.address, config.pattern, now) for part in parts))
        state.name, state.config, state.root = name, config, root
        state.created_at = datetime.fromtimestamp(now, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        await self._add(config.streams)
        return SubscriptionOutcome("created", self._info())

    @handler
    async def look(self) -> SubscriptionOutcome:
        """The subscription as it is."""
        return SubscriptionOutcome("missing") if self.state.config is None else SubscriptionOutcome("ok", self._info())

    @handler
    async def remove(self) -> None:
        """Delete the subscription, if there is one."""
        if self.state.config is not None:
            if self.state.config.pattern is not None:
                for part in range(INDEX_PARTS):
                    await actor_ref(f"{INDEX}-{part}").unwatch.send(self.address)
            for path in {*self.state.links, *self.state.explicit}:
                await actor_ref(stream_address(path)).unwatch.send(self.address)
            await self.delete()

    @handler
    async def add_streams(self, paths: tuple[str, ...]) -> SubscriptionOutcome:
        """Add streams by name, each from its tail on."""
        if self.state.config is None:
            return SubscriptionOutcome("missing")
        await self._add(paths)
        return SubscriptionOutcome("ok")

    @handler
    async def remove_stream(self, path: str) -> SubscriptionOutcome:
        """Forget a stream that was added by name; what the pattern matches stays."""
        state = self.state
        if state.config is None:
            return SubscriptionOutcome("missing")
        state.explicit.pop(path, None)
        if state.link_type(path) is None:
            state.links.pop(path, None)
            await actor_ref(stream_address(path)).unwatch.send(self.address)
        return SubscriptionOutcome("ok")

    async def _add(self, paths: tuple[str, ...]) -> None:
        for path in paths:
            self.state.explicit[path] = True
            if path not in self.state.links:
                self.state.links[path] = Link(START, START)  # nobody has processed any of it; the stream says more
                await actor_ref(stream_address(path)).watch.send(self.address, path, from_start=False)

    # -- what streams tell ------------------------------------------------------------------------------------------

    @handler
    async def linked(self, path: str, acked: str, tail: str) -> None:
        """A stream tells of its appends from now on; what is up to ``acked`` does not count."""
        state = self.state
        if state.link_type(path) is None:
            await actor_ref(stream_address(path)).unwatch.send(self.address)
            return
        link = state.links.get(path)
        if link is None or link.acked == START:
            state.links[path] = Link(acked, tail)
        else:
            link.tail = max(link.tail, tail)
        await self._wake_if_pending(path)

    @handler
    async def touched(self, path: str, tail: str) -> None:
        """A stream has grown."""
        link = self.state.links.get(path)
        if link is not None:
            link.tail = max(link.tail, tail)
            await self._wake_if_pending(path)

    @handler
    async def vanished(self, path: str) -> None:
        """A stream was deleted. One that was added by name may come again, and then counts from its beginning."""
        if path in self.state.explicit:
            link = self.state.links.get(path)
            if link is not None:
                link.acked = link.tail
            await actor_ref(stream_address(path)).watch.send(self.address, path, from_start=True)
        else:
            self.state.links.pop(path, None)

    # -- what workers do --------------------------------------------------------------------------------------------

    @handler
    async def claim(self, worker: str) -> SubscriptionOutcome:
        """Hold the wake that is in flight, or a new one if there is work."""
        state = self.state
        if state.config is None:
            return SubscriptionOutcome("missing")
        if state.config.type != "pull-wake":
            return SubscriptionOutcome("wrong_type")
        if state.holder is not None and state.lease_until > time.time():
            return SubscriptionOutcome("claimed", holder=state.holder, generation=state.generation)
        if state.holder is not None:  # its lease has ended, which the reminder has yet to say
            await self._end_wake()
        if not self._pending():
            await self._ask_for_tails()
        if not self._pending():
            return SubscriptionOutcome("nothing")
        if not state.wake_id:
            self._new_wake()
        state.token = secrets.token_urlsafe(24)
        state.holder = worker
        await self._begin_lease()
        return SubscriptionOutcome("ok", self._info(), self._grasp())

    @handler
    async def acknowledge(self, grasp: Grasp, acks: list[Ack], done: bool) -> SubscriptionOutcome:  # noqa: FBT001
        """Note what was processed; ``done`` ends the wake, else its lease begins anew."""
        state = self.state
        if state.config is None:
            return SubscriptionOutcome("missing")
        if not self._is_held(grasp):
            return SubscriptionOutcome("fenced", generation=state.generation)
        if any(ack.stream not in state.links for ack in acks):
            return SubscriptionOutcome("invalid")
        self._apply(acks)
        if not done:
            await self._begin_lease()
            return SubscriptionOutcome("ok")
        return SubscriptionOutcome("ok", next_wake=await self._end_wake())

    @handler
    async def give_back(self, grasp: Grasp) -> SubscriptionOutcome:
        """End a wake without having processed anything."""
        if self.state.config is None:
            return SubscriptionOutcome("missing")
        if not self._is_held(grasp):
            return SubscriptionOutcome("fenced", generation=self.state.generation)
        await self._end_wake()
        return SubscriptionOutcome("ok")

    @handler
    async def delivered(self, delivery: Delivery, arrived: bool, done: bool) -> None:  # noqa: FBT001
        """What came of a delivery: whether the webhook has it, and whether that has processed it all."""
        state = self.state
        if not self._is_held(delivery.grasp):
            return
        if arrived:
            state.failures = 0
            if done:
                self._apply([Ack(info.path, info.tail_offset) for info in delivery.streams])
                await self._end_wake()
            return
        shortest, longest = _BACKOFF
        wait = min(shortest * 2 ** min(state.failures, 10), longest) * (1 + random.uniform(-_JITTER, _JITTER))
        state.failures += 1
        state.next_attempt = time.time() + wait
        await self.remind(_RETRY, after=wait)
        await self._end_wake()

    # -- wakes ------------------------------------------------------------------------------------------------------

    async def on_reminder(self, name: str) -> None:
        """A lease may have ended, or it is time to try again."""
        if name == _LEASE and self.state.wake_id and self.state.lease_until <= time.time():
            await self._end_wake()
        elif name == _LEASE and self.state.wake_id:
            await self._begin_lease(self.state.lease_until - time.time())
        elif name == _RETRY:
            self.state.next_attempt = 0.0
            await self._wake_if_pending()

    async def _wake_if_pending(self, path: str | None = None) -> bool:
        """Begin a wake if there is work and none is under way; return whether there is work."""
        state = self.state
        pending = self._pending()
        if state.config is None or not pending:
            return False
        if state.wake_id or state.next_attempt > time.time():
            return True
        self._new_wake()
        if state.config.webhook_url is not None:
            await self._begin_lease()
            await self._deliver(state.config.webhook_url)
        elif state.config.wake_stream is not None:
            event = {
                "type": "wake",
                "subscription_id": state.name,
                "stream": path if path in pending else pending[0],
                "generation": state.generation,
                "ts": int(time.time() * 1000),
            }
            write = Write(msgspec.json.encode(event), "application/json")
            await actor_ref(stream_address(state.config.wake_stream)).append.send([write])
        return True

    async def _deliver(self, url: str) -> None:
        state = self.state
        assert state.config is not None
        delivery = Delivery(
            subscription=state.name,
            url=url,
            local=state.config.webhook_local,
            callback_url=f"{state.root}{RESERVED}/subscriptions/{quote(state.name, safe='')}/callback",
            grasp=self._grasp(),
            streams=self._streams(),
            timeout=min(max(state.config.lease_ttl_ms / 1000, 5.0), _LONGEST_DELIVERY),
        )
        await actor_ref(f"{COURIER}-{self.key}").deliver.send(self.address, delivery)

    def _new_wake(self) -> None:
        self.state.generation += 1
        self.state.wake_id = f"w_{secrets.token_hex(8)}"
        self.state.token = secrets.token_urlsafe(24)
        self.state.holder = None

    async def _begin_lease(self, seconds: float | None = None) -> None:
        assert self.state.config is not None
        length = self.state.config.lease_ttl_ms / 1000 if seconds is None else seconds
        self.state.lease_until = time.time() + length
        await self.remind(_LEASE, after=length)

    async def _end_wake(self) -> bool:
        """The subscription is idle; return whether it is woken again, or will be."""
        state = self.state
        state.wake_id = state.token = ""
        state.holder = None
        await self.cancel_reminder(_LEASE)
        return await self._wake_if_pending()

    def _is_held(self, grasp: Grasp) -> bool:
        state = self.state
        return (
            bool(state.wake_id)
            and state.lease_until > time.time()
            and hmac.compare_digest(state.token.encode(), grasp.token.encode())
            and (grasp.wake_id, grasp.generation) == (state.wake_id, state.generation)
        )

    def _grasp(self) -> Grasp:
        return Grasp(self.state.wake_id, self.state.generation, self.state.token)

    def _pending(self) -> list[str]:
        return [path for path, link in self.state.links.items() if link.pending]

    def _apply(self, acks: list[Ack]) -> None:
        for ack in acks:
            link = self.state.links.get(ack.stream)
            if link is not None:
                link.acked = max(link.acked, min(ack.offset, link.tail))

    async def _ask_for_tails(self) -> None:
        """Learn of appends whose news are still on their way."""
        paths = list(self.state.links)
        found: list[Outcome] = await asyncio.gather(
            *(actor_ref(stream_address(path)).look(use=False) for path in paths)
        )
        for path, outcome in zip(paths, found, strict=True):
            if outcome.view is not None:
                self.state.links[path].tail = str(Offset(outcome.view.generation, outcome.view.next))

    def _streams(self) -> list[StreamInfo]:
        return [
            StreamInfo(path, self.state.link_type(path) or "glob", link.acked, link.tail, link.pending)
            for path, link in self.state.links.items()
        ]

    def _info(self) -> SubscriptionInfo:
        state = self.state
        assert state.config is not None
        return SubscriptionInfo(
            state.name, state.config, state.root, state.created_at, self._streams(), state.failures > 0
        )
