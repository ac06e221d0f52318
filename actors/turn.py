"""One message being handled: a turn, or a call in the read-only or control lane."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING, Any

from actors import codec, failure
from actors.actor import Context, current_turn
from actors.envelope import Accepted, End, Envelope, Item, Mode, Reply, Request, item_cost
from actors.errors import ActorError, PayloadTooLarge, SerializationFailed, Timeout
from actors.handler import HandlerSpec, Lane

if TYPE_CHECKING:
    from actors.activation import Activation
    from actors.ports import Link
    from actors.runtime import LocalCaller

log = logging.getLogger("actors")


LIFECYCLE = "lifecycle"  # stands for the message id in the chain of calls made by on_activate and on_deactivate


class Lifecycle:
    """What stands in for a turn while on_activate or on_deactivate runs."""

    __slots__ = ("address",)

    def __init__(self, address: str) -> None:
        self.address = address

    @property
    def context(self) -> Context:
        """There is no message."""
        raise LookupError

    @property
    def chain(self) -> tuple[tuple[str, str], ...]:
        """The address waits for the calls that its own hooks make."""
        return ((self.address, LIFECYCLE),)


class _Unsendable(Exception):
    """A result cannot be sent, or a state not be stored, for this reason."""

    def __init__(self, reason: ActorError) -> None:
        super().__init__(str(reason))
        self.reason = reason


class Turn:
    """A request on its way through an activation: queued, running, settled."""

    __slots__ = ("_context", "_room", "activation", "credit", "expires", "left", "origin", "request", "spec", "task")

    def __init__(
        self,
        activation: "Activation",
        request: Request,
        origin: "Link | LocalCaller",
        spec: HandlerSpec,
        expires: float,
    ) -> None:
        self.activation = activation
        self.request = request
        self.origin = origin
        self.spec = spec
        self.expires = expires
        self.task: asyncio.Task[None] | None = None
        self.credit = request.credit
        self.left = False
        self._room: asyncio.Future[None] | None = None
        self._context: Context | None = None

    @property
    def address(self) -> str:
        """The address of the actor."""
        return self.request.address

    @property
    def where(self) -> str:
        """The address and handler, for messages."""
        return f"{self.request.address}.{self.spec.name or 'receive'}"

    @property
    def context(self) -> Context:
        """What user code may know of the message."""
        if self._context is None:
            request = self.request
            deadline = self.expires if self.expires != float("inf") else None
            headers = dict(request.headers)
            self._context = Context(request.sender, request.message_id, deadline, request.key, headers)
        return self._context

    @property
    def chain(self) -> tuple[tuple[str, str], ...]:
        """The turns that wait while a call made by this one is under way."""
        if self.spec.lane is not Lane.TURN:
            return self.request.chain
        return (*self.request.chain, (self.request.address, self.request.message_id))

    def start(self) -> None:
        """Run the handler: at once if it cannot suspend, else as a task."""
        runtime = self.activation.runtime
        context = runtime.context.copy()
        if self.spec.suspends or self.spec.streams:
            self.task = runtime.loop.create_task(self._run(), context=context)
        else:
            context.run(self._run_now)

    def _run_now(self) -> None:
        """Run a handler that has no point at which it could suspend."""
        current_turn.set(self)
        try:
            answer, state = self._call_now()
        except Exception as error:  # of the engine: the turn must end all the same
            self._broken(error)
            return
        if state is None and not self._must_wait():
            self.activation.settle(self, answer)
        else:
            self.task = self.activation.runtime.loop.create_task(self._finish(answer, state))

    def _call_now(self) -> tuple[Envelope, bytes | None]:
        try:
            args, kwargs = self.spec.decode_arguments(self.request.payload, trusted=self.request.trusted)
        except SerializationFailed as error:
            self._log_if_unheard(error)
            return failure.refusal(self.request.id, SerializationFailed(f"{self.address}: {error}")), None
        try:
            self.spec.function(self.activation.actor_for(self), *args, **kwargs).send(None)
        except StopIteration as stop:
            return self._succeeded(stop.value)
        except BaseException as error:
            return self._failed(error), None
        raise AssertionError(f"{self.where}: a coroutine without an await suspended")

    async def _run(self) -> None:
        current_turn.set(self)
        try:
            answer, state = await self._call()
            if state is None and not self._must_wait():
                self.activation.settle(self, answer)
            else:
                await self._commit(answer, state)
        except Exception as error:  # of the engine: the turn must end all the same
            self._broken(error)
        finally:
            self.task = None  # a task holds its context, and that this turn: without the cycle both go at once

    async def _finish(self, answer: Envelope, state: bytes | None) -> None:
        try:
            await self._commit(answer, state)
        except Exception as error:  # of the engine
            self._broken(error)
        finally:
            self.task = None

    async def _call(self) -> tuple[Envelope, bytes | None]:
        try:
            args, kwargs = self.spec.decode_arguments(self.request.payload, trusted=self.request.trusted)
        except SerializationFailed as error:
            self._log_if_unheard(error)
            return failure.refusal(self.request.id, SerializationFailed(f"{self.address}: {error}")), None
        result = None
        try:
            if self.spec.streams:
                await self._pump(self.spec.function(self.activation.actor_for(self), *args, **kwargs))
            else:
                result = await self.spec.function(self.activation.actor_for(self), *args, **kwargs)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            return self._failed(error), None
        return self._succeeded(result)

    def _log_if_unheard(self, error: BaseException) -> None:
        if self.request.mode is Mode.SEND:
            log.error("%s failed, and its sender waits for no answer: %s", self.where, error, exc_info=error)

    def _broken(self, error: Exception) -> None:
        log.error("%s: the turn could not be ended in good order", self.where, exc_info=error)
        self.activation.fail_turn(self, ActorError(f"{self.where}: internal error: {error!r}; nothing was committed"))

    def _must_wait(self) -> bool:
        """Whether the answer tells of what a commit that is under way has yet to make durable."""
        return self.spec.lane is Lane.CONTROL and self.activation.committing is not None

    async def _commit(self, answer: Envelope, state: bytes | None) -> None:
        while self._must_wait():
            committing = self.activation.committing
            if committing is not None:
                await asyncio.shield(committing)
            try:
                state = self.activation.unsaved(self)
            except SerializationFailed as error:
                answer, state = failure.refusal(self.request.id, error), None
        if state is None or await self.activation.commit(self, state):
            self.activation.settle(self, answer)

    async def _pump(self, items: AsyncGenerator[Any, None]) -> None:
        """Send the items while the reader has room for them. A reader that left stops nothing."""
        unread = 0
        async with contextlib.aclosing(items):
            async for item in items:
                if self._read_by_nobody():
                    unread += 1
                    if unread % 64 == 0:  # a generator that never waits must not hold up the loop
                        await asyncio.sleep(0)
                    continue
                payload = self._encode(item, "item")
                await self._room_for_more()
                if not self._read_by_nobody() and self.activation.runtime.may_act():
                    self.credit -= item_cost(payload)
                    self.origin.send(Item(self.request.id, payload))

    def _read_by_nobody(self) -> bool:
        return self.left or self.request.mode is not Mode.STREAM

    async def _room_for_more(self) -> None:
        limit = self.activation.runtime.settings.call_timeout
        while self.credit <= 0 and not self.left:
            self._room = self.activation.runtime.loop.create_future()
            try:
                async with asyncio.timeout(limit):
                    await self._room
            except TimeoutError:  # a reader that takes nothing must not hold the actor for ever
                self.activation.runtime.forget_stream(self)
                self.origin.send(
                    failure.refusal(self.request.id, Timeout(f"{self.where}: its reader took nothing for {limit:g} s"))
                )
                self.leave()

    def add_credit(self, amount: int) -> None:
        """The reader has room again."""
        self.credit += amount
        self._wake()

    def leave(self) -> None:
        """The reader is gone."""
        self.left = True
        self._wake()

    def _wake(self) -> None:
        if self._room is not None and not self._room.done():
            self._room.set_result(None)

    def _encode(self, value: object, what: str) -> bytes:
        runtime = self.activation.runtime
        try:
            payload = codec.encode(value, self.spec.fits_result if self.request.typed else codec.is_plain)
        except Exception as error:  # whatever a value's own pickling raises
            text = f"{self.where}: its {what} ({type(value).__name__}) cannot be serialized: {error}"
            raise _Unsendable(SerializationFailed(f"{text}; the turn committed nothing")) from error
        if len(payload) > runtime.settings.max_payload:
            try:
                runtime.check_size(payload, f"{self.where}: its {what}")
            except PayloadTooLarge as error:
                raise _Unsendable(error) from None
        return payload

    def _succeeded(self, value: object) -> tuple[Envelope, bytes | None]:
        """The answer for a result, and the state to commit before it may leave."""
        request = self.request
        try:
            answer: Envelope
            if request.mode is Mode.ASK:
                answer = Reply(request.id, self._encode(value, "result"))
            else:
                answer = End(request.id)
            try:
                return answer, self.activation.unsaved(self)
            except SerializationFailed as error:
                raise _Unsendable(error) from None
        except _Unsendable as error:
            return self._failed(error), None

    def _failed(self, error: BaseException) -> Envelope:
        self.activation.roll_back(self)
        self._log_if_unheard(error)
        if isinstance(error, _Unsendable):
            return failure.refusal(self.request.id, error.reason)
        return failure.raised(self.request.id, self.where, error)

    def accepted(self) -> None:
        """Tell the sender of a one-way message that it is in the mailbox."""
        if self.request.mode is Mode.SEND:
            self.origin.send(Accepted(self.request.id))

    def refuse(self, error: ActorError) -> None:
        """Send the reason why the request will not run."""
        if self.request.mode is Mode.STREAM:
            self.activation.runtime.forget_stream(self)
        self.origin.send(failure.refusal(self.request.id, error))

    def answer(self, envelope: Envelope) -> None:
        """Send the final answer. A one-way message was answered when it was accepted."""
        if self.request.mode is Mode.STREAM:
            self.activation.runtime.forget_stream(self)
        if self.request.mode is not Mode.SEND and not self.left:
            self.origin.send(envelope)
