"""The HTTP of chats: ``POST`` begins a turn and tells it, ``GET`` tells it again to who was cut off, stop stops it."""

import contextlib
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any, Final
from urllib.parse import unquote_to_bytes

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from actors import ActorRef, actor_ref
from actors.actor_type import ActorType
from actors.address import check_key as check_actor_key
from actors.errors import ClusterUnavailable, OffsetGone
from actors.ref import Options
from actors.runtime import Runtime
from actors.turn_log import WATCH
from cluster.gateway.actors.event_stream import COMMENT, HEARTBEAT
from cluster.gateway.actors.interrupt import interrupt_of
from cluster.gateway.actors.paths import check_key
from cluster.gateway.auth import Grant, grant_of
from cluster.gateway.body import read_body
from cluster.gateway.chat import ag_ui, ai_sdk
from cluster.gateway.chat.chat import Chat
from cluster.gateway.chat.deliveries import Deliveries
from cluster.gateway.chat.event_stream import BreakableStream, BrokenOff
from cluster.gateway.chat.message import Share, share_of
from cluster.gateway.chat.run import Happening, follow
from cluster.gateway.chat.run_index import chat_of_run, note_run
from cluster.gateway.chat.turns import Run, current_run, find_run
from cluster.gateway.hub import Hub
from cluster.gateway.options import GatewayOptions
from cluster.gateway.problems import Problem, bad_request

MEMORY: Final = 60.0
"""Seconds for which a turn that has ended is told to clients that were cut off before they had its end."""


class Chats:
    """Answers the requests to the chats of a gateway. Raises ``ValueError`` for chats that cannot work."""

    def __init__(self, options: GatewayOptions, types: Mapping[str, ActorType], hub: Hub) -> None:
        kinds = {"ai-sdk": AiSdkChat, "ag-ui": AgUiChat}
        self._chats = {chat.path: kinds[chat.protocol](chat, options, types, hub) for chat in options.chats}

    @property
    def paths(self) -> list[str]:
        """Where the chats are."""
        return list(self._chats)

    def find(self, path: bytes) -> "tuple[ChatRoute, str] | None":
        """The chat that a path is of, and what of the path follows; None if it is no chat's. Raises ``Problem``."""
        for prefix, chat in self._chats.items():
            raw = prefix.encode()
            if path == raw or path.startswith(raw + b"/"):
                return chat, path[len(raw) :].decode("latin-1")
        return None


async def _happenings(
    runtime: Runtime, hub: Hub, run: Run, grant: Grant, after: int = -1
) -> AsyncGenerator[Sequence[Happening], None]:
    """What happens in a turn, as long as the silo stays and the grant lasts.

    Raises ``BrokenOff`` where its reader has to come again. An empty batch says that nothing happens.
    """

    def left() -> float:
        return float("inf") if grant.expires is None else grant.expires - time.time()

    batches = follow(runtime.store, hub, run, patience=lambda: min(HEARTBEAT, max(left(), 0.01)), after=after)
    async with contextlib.aclosing(batches):
        try:
            async for batch in batches:
                if left() <= 0:
                    raise BrokenOff
                yield batch
        except ClusterUnavailable:
            raise BrokenOff from None


class ChatRoute:
    """What the protocols have in common: where the chats' actors are, how a turn begins and is stopped."""

    def __init__(self, chat: Chat, options: GatewayOptions, types: Mapping[str, ActorType], hub: Hub) -> None:
        self.chat = chat
        self._options = options
        self._share: Share = share_of(chat, types)
        self._hub = hub

    async def handle(self, request: Request, runtime: Runtime, rest: str) -> Response:
        """Any request below the chat's path. Raises ``Problem`` or an ``ActorError``."""
        raise NotImplementedError

    def address_of(self, raw: str) -> str:
        """The address of a chat from a segment of a path. Raises ``Problem``."""
        try:
            chat_id = unquote_to_bytes(raw.encode("latin-1")).decode()
        except UnicodeDecodeError:
            raise bad_request("the id of a chat must be UTF-8", name="InvalidChatId") from None
        return self.address(chat_id)

    def address(self, chat_id: str) -> str:
        """The address of a chat. Raises ``Problem`` if its id cannot be the key of an actor."""
        try:
            check_actor_key(chat_id)
        except ValueError as error:
            raise bad_request(f"the id of a chat is the key of an actor: {error}", name="InvalidChatId") from None
        return f"{self.chat.actor}-{chat_id}"

    async def begin(self, runtime: Runtime, address: str, key: str, value: object) -> Run:
        """Begin the turn, or join the one that was begun with the same key. Raises ``Problem`` for one of long ago."""
        options = Options(headers=((WATCH, "1"),), idempotency_key=key, outside=True)
        handler = "" if self.chat.handler == "receive" else self.chat.handler
        receipt = await runtime.outbound.send(ActorRef(address, options=options), handler, (value,), {})
        run = await find_run(runtime.store, address, self.chat.channel, message_id=receipt.message_id)
        if run is None:  # it was accepted before, and so much has happened since that its turn is forgotten
            detail = f"{address}: the answer to this message, which was sent before, is not kept any more"
            raise Problem(410, "AnswerGone", detail)
        return run

    async def current(self, runtime: Runtime, address: str) -> Run | None:
        """The turn of the chat that runs, or will next, or was the last."""
        return await current_run(runtime.store, address, self.chat.channel, self.chat.handler)

    async def stop(self, request: Request, runtime: Runtime, address: str) -> Response:
        """Stop the turn that answers now; what it has published stays."""
        grant_of(request).check("interrupt", address)
        reason = interrupt_of(await read_body(request, self._options.max_body)).reason
        run = await self.current(runtime, address)
        stopped = run is not None and run.end is None
        if run is not None and stopped:
            stopped = await actor_ref(address).interrupt(reason, message_id=run.message_id)
        return JSONResponse({"stopped": stopped}, status_code=202, headers={"Cache-Control": "no-store"})


class AiSdkChat(ChatRoute):
    """``POST <path>``, ``GET <path>/<chat>/stream``, ``POST <path>/<chat>/stop``."""

    def __init__(self, chat: Chat, options: GatewayOptions, types: Mapping[str, ActorType], hub: Hub) -> None:
        super().__init__(chat, options, types, hub)
        self._deliveries = Deliveries()

    async def handle(self, request: Request, runtime: Runtime, rest: str) -> Response:
        """See ``ChatRoute``."""
        if not rest:
            _allow(request, "POST")
            return await self._post(request, runtime)
        raw, slash, action = rest[1:].rpartition("/")
        if not slash or not raw or action not in ("stream", "stop"):
            raise Problem(404, "NotFound", f"a chat has {self.chat.path}/<id>/stream and {self.chat.path}/<id>/stop")
        address = self.address_of(raw)
        if action == "stop":
            _allow(request, "POST")
            return await self.stop(request, runtime, address)
        _allow(request, "GET")
        return await self._resume(request, runtime, address)

    async def _post(self, request: Request, runtime: Runtime) -> Response:
        body = await read_body(request, self._options.max_body)
        post, messages = ai_sdk.read_post(body)
        address = self.address(post.id)
        grant = grant_of(request)
        grant.check("send", address)
        grant.check("read", address)
        last = await self.current(runtime, address) if post.trigger == "regenerate-message" else None
        ended = last.message_id if last is not None and last.end is not None else ""
        key = _key_in(request) or ai_sdk.key_of(post, messages, ended)
        run = await self.begin(runtime, address, key, messages.share(self._share))
        return self._told(runtime, run, request, again=False)

    async def _resume(self, request: Request, runtime: Runtime, address: str) -> Response:
        grant_of(request).check("read", address)
        run = await self.current(runtime, address)
        if run is None or (run.end is not None and self._is_over(run, run.end.at, _reader_of(request))):
            return Response(status_code=204, headers={"Cache-Control": "no-store"})
        return self._told(runtime, run, request, again=True)

    def _is_over(self, run: Run, at: float, reader: str) -> bool:
        """Whether there is nothing to resume: the turn has ended, and who asks has seen that, or it is long ago."""
        return time.time() - at > MEMORY or self._deliveries.complete(reader, run.message_id)

    def _told(self, runtime: Runtime, run: Run, request: Request, *, again: bool) -> Response:
        events = self._tell(runtime, run, grant_of(request), _reader_of(request), again=again)
        return BreakableStream(events, ai_sdk.HEADERS)

    async def _tell(
        self, runtime: Runtime, run: Run, grant: Grant, reader: str, *, again: bool
    ) -> AsyncGenerator[bytes, None]:
        stream = ai_sdk.UIMessageStream(self.chat.channel)
        with self._deliveries.to(reader, run.message_id, again=again) as delivery:
            async with contextlib.aclosing(_happenings(runtime, self._hub, run, grant)) as batches:
                try:
                    async for batch in batches:
                        yield ai_sdk.encode(stream.tell(batch)) if batch else COMMENT
                except ai_sdk.Retracted:
                    raise BrokenOff from None
                except (EOFError, OffsetGone):
                    yield ai_sdk.encode([ai_sdk.failed(run.message_id)])
            yield ai_sdk.DONE
            delivery.complete = True


class AgUiChat(ChatRoute):
    """``POST <path>``, ``GET <path>?runId=``, ``GET <path>?threadId=``, ``POST <path>/<thread>/stop``."""

    async def handle(self, request: Request, runtime: Runtime, rest: str) -> Response:
        """See ``ChatRoute``."""
        if rest:
            raw, slash, action = rest[1:].rpartition("/")
            if not slash or not raw or action != "stop":
                raise Problem(404, "NotFound", f"a chat has {self.chat.path} and {self.chat.path}/<thread>/stop")
            _allow(request, "POST")
            return await self.stop(request, runtime, self.address_of(raw))
        _allow(request, "GET, POST")
        if request.method == "POST":
            return await self._post(request, runtime)
        query = request.query_params
        if "runId" in query:
            return await self._join(request, runtime, query["runId"])
        if "threadId" in query:
            return await self._hydrate(request, runtime, self.address(query["threadId"]))
        raise bad_request("say which run (?offset=-1&runId=) to join, or which thread (?threadId=) to load")

    async def _post(self, request: Request, runtime: Runtime) -> Response:
        after = _after_in(request)
        body = await read_body(request, self._options.max_body)
        post, messages = ag_ui.read_post(body)
        address = self.address(post.thread_id)
        grant = grant_of(request)
        grant.check("read", address)
        run_id = request.headers.get("x-run-id") or post.run_id
        run: Run | None
        if after == ag_ui.NOWHERE:
            grant.check("send", address)
            if not await note_run(run_id, self.chat.path, address):
                raise Problem(409, "RunIdTaken", "another thread has a run of this id; ids of runs must be unique")
            run = await self.begin(runtime, address, _key(run_id), messages.share(self._share))
        else:
            run = await find_run(runtime.store, address, self.chat.channel, key=_key(run_id))
        return self._told(runtime, run, grant, run_id, after, history=post.messages)

    async def _join(self, request: Request, runtime: Runtime, run_id: str) -> Response:
        after = _after_in(request)
        address = await chat_of_run(run_id, self.chat.path)
        grant = grant_of(request)
        run = None
        if address is not None and grant.allows("read", address):
            run = await find_run(runtime.store, address, self.chat.channel, key=_key(run_id))
        return self._told(runtime, run, grant, run_id, after, history=None)

    async def _hydrate(self, request: Request, runtime: Runtime, address: str) -> Response:
        grant_of(request).check("read", address)
        run = await self.current(runtime, address)
        active = None
        if run is not None and run.end is None and run.first is not None and run.first.key.startswith(_KEY):
            active = {"runId": run.first.key.removeprefix(_KEY)}
        return JSONResponse(
            {"messages": [], "activeRun": active, "interrupts": None}, headers={"Cache-Control": "no-store"}
        )

    def _told(
        self,
        runtime: Runtime,
        run: Run | None,
        grant: Grant,
        run_id: str,
        after: ag_ui.Position,
        *,
        history: list[dict[str, Any]] | None,
    ) -> Response:
        if run is None:
            raise Problem(404, "RunNotFound", "there is no such run here that these credentials may read")
        stream = ag_ui.AgUiStream(
            thread_id=run.address.partition("-")[2],
            run_id=run_id,
            channel=self.chat.channel,
            after=after,
            history=history,
        )
        return BreakableStream(self._tell(runtime, run, grant, stream, after), {})

    async def _tell(
        self, runtime: Runtime, run: Run, grant: Grant, stream: ag_ui.AgUiStream, after: ag_ui.Position
    ) -> AsyncGenerator[bytes, None]:
        yield ag_ui.encode(stream.start())
        async with contextlib.aclosing(_happenings(runtime, self._hub, run, grant, after.offset)) as batches:
            try:
                async for batch in batches:
                    yield ag_ui.encode(stream.tell(batch)) or COMMENT
                    if stream.ended:
                        return
            except (EOFError, OffsetGone):
                yield ag_ui.encode([(ag_ui.LAST, ag_ui.failed(run.message_id))])


_KEY: Final = "ag-ui:"


def _key(run_id: str) -> str:
    """The idempotency key of a run. Raises ``Problem`` if it would be too long."""
    if not 0 < len(run_id.encode("utf-8", "surrogatepass")) <= 200:
        raise bad_request("the id of a run has 1 to 200 bytes")
    return _KEY + run_id


def _key_in(request: Request) -> str | None:
    key = request.headers.get("idempotency-key")
    return None if key is None else check_key(key)


def _after_in(request: Request) -> ag_ui.Position:
    text = request.headers.get("last-event-id", "")
    try:
        return ag_ui.Position.parse(text) if text else ag_ui.NOWHERE
    except ValueError as error:
        raise bad_request(f"Last-Event-ID: {error}") from None


def _reader_of(request: Request) -> str:
    """What tells clients apart that name themselves in no other way."""
    host = request.client.host if request.client is not None else ""
    return f"{host} {grant_of(request).subject} {request.headers.get('user-agent', '')[:200]}"


def _allow(request: Request, methods: str) -> None:
    if request.method not in methods.split(", "):
        raise Problem(405, "MethodNotAllowed", f"here one can {methods}", headers={"Allow": methods})
