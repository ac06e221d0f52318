"""A WebSocket: any number of actors, requests and subscriptions over one connection."""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Coroutine
from typing import Any, Final

import msgspec
from starlette.types import Receive, Send

from actors import actor_ref
from actors.errors import ActorError
from actors.runtime import Runtime
from cluster.gateway.actors.attendance import Reader
from cluster.gateway.actors.frames import (
    AskFrame,
    ClientFrame,
    InterruptFrame,
    PingFrame,
    SendFrame,
    SubscribeFrame,
    UnsubscribeFrame,
    id_of,
    read_frame,
)
from cluster.gateway.actors.paths import check_address, resources
from cluster.gateway.actors.presence import Attendee, Presence
from cluster.gateway.auth import Grant, Verb
from cluster.gateway.hosted import HostedTypes
from cluster.gateway.hub import Hub
from cluster.gateway.json_values import UNREADABLE, read_json, to_json
from cluster.gateway.options import GatewayOptions
from cluster.gateway.problems import Problem, as_problem, bad_request

log = logging.getLogger("cluster.gateway")

_MOST_DATA: Final = 1024
_HOUR: Final = 3600.0
_VERBS: Final[dict[type, Verb]] = {
    SendFrame: "send",
    AskFrame: "ask",
    SubscribeFrame: "read",
    InterruptFrame: "interrupt",
}


class Socket:
    """One connection. What it has begun goes on when it ends; only its waiting is given up."""

    def __init__(
        self,
        runtime: Runtime,
        hub: Hub,
        presence: Presence,
        hosted: HostedTypes,
        *,
        grant: Grant,
        address: str,
        options: GatewayOptions,
    ) -> None:
        self._runtime = runtime
        self._hub = hub
        self._presence = presence
        self._hosted = hosted
        self._grant = grant
        self._address = address
        self._options = options
        self._send: Send
        self._task: asyncio.Task[Any] | None = None
        self._ending: tuple[int, str] | None = None
        self._requests: dict[int | str, asyncio.Task[None]] = {}
        self._subscriptions: dict[int | str, asyncio.Task[None]] = {}

    async def run(self, receive: Receive, send: Send) -> None:
        """Serve the client until it leaves, or must."""
        self._send = send
        self._task = asyncio.current_task()
        expiry = None
        if self._grant.expires is not None:
            left = max(self._grant.expires - time.time(), 0)
            expiry = asyncio.get_running_loop().call_later(left, self.end, 1008, "the credentials have expired")
        try:
            await send({"type": "websocket.accept"})
            await self._read(receive)
        except OSError:  # the client has left while it was told something
            pass
        except asyncio.CancelledError:
            if self._ending is None:
                raise
            assert self._task is not None
            self._task.uncancel()
        finally:
            if expiry is not None:
                expiry.cancel()
            await self._give_up_all()
        if self._ending is not None:
            code, reason = self._ending
            try:
                async with asyncio.timeout(1):
                    await send({"type": "websocket.close", "code": code, "reason": reason})
            except (OSError, RuntimeError, TimeoutError):  # it is gone, or closed already, or takes nothing
                pass

    def end(self, code: int, reason: str) -> None:
        """Close it with that code (RFC 6455, 7.4) and reason."""
        if self._ending is None and self._task is not None:
            self._ending = code, reason
            self._task.cancel()

    async def _give_up_all(self) -> None:
        tasks = [*self._requests.values(), *self._subscriptions.values()]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def _read(self, receive: Receive) -> None:
        while self._ending is None:
            message = await receive()
            if message["type"] == "websocket.disconnect":
                return
            if message["type"] == "websocket.receive":
                await self._take(message.get("text"))

    async def _take(self, text: str | None) -> None:
        """One frame from the client."""
        if text is None:
            self._ending = 1003, "frames are text: JSON"
            return
        if len(text) > self._options.max_frame:
            self._ending = 1009, f"a frame has at most {self._options.max_frame} bytes"
            return
        try:
            value = read_json(text)
        except Problem as problem:
            if problem.status == 400:
                self._ending = 1007, "frames are JSON"
                return
            await self._fail(id_of(msgspec.json.decode(text)), problem)
            return
        try:
            await self._start(read_frame(value))
        except (Problem, ActorError) as error:
            await self._fail(id_of(value), error)

    async def _start(self, frame: ClientFrame) -> None:
        if isinstance(frame, UnsubscribeFrame):
            await self._unsubscribe(frame.id)
            return
        if isinstance(frame, PingFrame):
            await self._tell(f'{{"type":"pong","id":{_text(frame.id)}}}')
            return
        address = self._address if frame.address is None else frame.address
        check_address(address)
        channel = frame.channel if isinstance(frame, SubscribeFrame) else None
        self._grant.check(_VERBS[type(frame)], *resources(address, channel))
        self._hosted.check(self._runtime, address)
        if frame.id in self._requests or frame.id in self._subscriptions:
            raise bad_request("something with this id is open already", name="IdInUse")
        if isinstance(frame, SubscribeFrame):
            held, limit, what = self._subscriptions, self._options.max_socket_subscriptions, "subscriptions"
        else:
            held, limit, what = self._requests, self._options.max_socket_requests, "requests"
        if len(held) >= limit:
            raise Problem(429, "TooManyRequests", f"a WebSocket has at most {limit} {what} open at once")
        task = held[frame.id] = asyncio.create_task(self._run(frame, address))
        task.add_done_callback(lambda _: held.pop(frame.id))  # also if it was cancelled before it began

    async def _unsubscribe(self, id: int | str) -> None:
        task = self._subscriptions.get(id) or self._requests.get(id)
        if task is None:
            raise Problem(404, "NotFound", "nothing with this id is open")
        task.cancel()
        await asyncio.wait({task})
        await self._tell(f'{{"type":"end","id":{_text(id)},"reason":"unsubscribed"}}')

    async def _run(self, frame: ClientFrame, address: str) -> None:
        try:
            try:
                await self._work(frame, address)
            except (Problem, ActorError) as error:
                await self._fail(frame.id, error)
            except OSError:
                raise
            except Exception as error:
                log.exception("a WebSocket's %s to %s could not be served", type(frame).__name__, address)
                await self._fail(frame.id, error)
        except OSError:  # the client has left
            pass

    def _work(self, frame: ClientFrame, address: str) -> Coroutine[Any, Any, None]:
        match frame:
            case SendFrame():
                return self._on_send(frame, address)
            case AskFrame():
                return self._on_ask(frame, address)
            case SubscribeFrame():
                return self._on_subscribe(frame, address)
            case InterruptFrame():
                return self._on_interrupt(frame, address)
        raise AssertionError(frame)

    async def _on_send(self, frame: SendFrame, address: str) -> None:
        message_id = await frame.to(address).send(self._runtime)
        await self._tell(f'{{"type":"accepted","id":{_text(frame.id)},"message_id":{_text(message_id)}}}')

    async def _on_ask(self, frame: AskFrame, address: str) -> None:
        reply = await frame.to(address).ask(self._runtime)
        if not isinstance(reply, AsyncIterator):
            try:
                value = to_json(reply).decode()
            except ValueError as error:
                raise Problem(502, "SerializationFailed", f"{address}: the message ran, but {error}") from None
            await self._tell(f'{{"type":"result","id":{_text(frame.id)},"value":{value}}}')
            return
        try:
            async for item in reply:
                await self._tell(f'{{"type":"item","id":{_text(frame.id)},"value":{_text(item)}}}')
        finally:
            await reply.aclose()  # type: ignore[attr-defined]  # an async generator: tells the actor that nobody reads
        await self._tell(f'{{"type":"end","id":{_text(frame.id)},"reason":"done"}}')

    async def _on_interrupt(self, frame: InterruptFrame, address: str) -> None:
        interrupted = _text(await actor_ref(address).interrupt(frame.reason, message_id=frame.message_id))
        await self._tell(f'{{"type":"result","id":{_text(frame.id)},"value":{{"interrupted":{interrupted}}}}}')

    async def _on_subscribe(self, frame: SubscribeFrame, address: str) -> None:
        try:
            channel = actor_ref(address).channel(frame.channel)
        except ValueError as error:
            raise bad_request(str(error)) from None
        async with contextlib.AsyncExitStack() as stack:
            follower = await stack.enter_async_context(self._hub.follow(channel, frame.after, compact=frame.compact))
            if follower.position > follower.end:
                raise bad_request(
                    f"the offset {frame.after} is beyond the tail of the channel", name="OffsetBeyondTail"
                )
            offsets = f'"next":{follower.position},"tail":{follower.end}'
            await self._tell(f'{{"type":"subscribed","id":{_text(frame.id)},{offsets}}}')
            if frame.presence:
                attendee = await stack.enter_async_context(self._presence.join(channel, self._reader(frame)))
                watching = asyncio.create_task(self._tell_presence(frame.id, attendee))
                stack.callback(watching.cancel)
            start = f'{{"type":"event","id":{_text(frame.id)},'
            while True:
                try:
                    entries = await follower.entries(_HOUR)
                except TimeoutError:
                    continue
                except EOFError:
                    break
                for entry in entries:
                    await self._tell(start + entry.frame)
        await self._tell(f'{{"type":"end","id":{_text(frame.id)},"reason":"closed"}}')

    def _reader(self, frame: SubscribeFrame) -> Reader:
        if len(to_json(frame.data)) > _MOST_DATA:
            raise bad_request(f"the data of a reader has at most {_MOST_DATA} bytes")
        return Reader(self._presence.new_id(), frame.name, frame.data, self._grant.subject)

    async def _tell_presence(self, id: int | str, attendee: Attendee) -> None:
        """Tell who reads the channel, and then who comes and goes."""
        start = f'{{"type":"presence","id":{_text(id)},'
        with contextlib.suppress(OSError):
            readers, own = _text(attendee.readers), _text(attendee.reader.id)
            await self._tell(f'{start}"event":"state","you":{own},"readers":{readers}}}')
            while True:
                for change in await attendee.changes():
                    await self._tell(f'{start}"event":"{change.event}","reader":{_text(change.reader)}}}')

    async def _fail(self, id: int | str | None, error: Exception) -> None:
        problem = _text(as_problem(error).details)
        await self._tell(f'{{"type":"error","id":{_text(id)},"problem":{problem}}}')

    async def _tell(self, text: str) -> None:
        if self._ending is not None:
            raise ConnectionError
        try:
            await self._send({"type": "websocket.send", "text": text})
        except RuntimeError:  # it was closed while this waited for its turn
            raise ConnectionError from None


def _text(value: object) -> str:
    try:
        return to_json(value).decode()
    except ValueError:
        return to_json(UNREADABLE).decode()
