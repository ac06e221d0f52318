"""The way of an activation from its claim to its first turn."""

import asyncio
import logging
from collections.abc import Iterable
from typing import TYPE_CHECKING

from actors import arriving, failure, leaving, older_code
from actors.builtin import OWN
from actors.commits import Write
from actors.context import current_turn
from actors.durable import Durable
from actors.envelope import Request
from actors.errors import ClusterUnavailable
from actors.lifecycle import Lifecycle
from actors.luggage import Luggage, put_back_attributes, put_back_timers, unpack
from actors.older_code import LeftToNewer
from actors.ports import Commit, Fenced, Opened, StoreUnavailable
from actors.records import Pending
from actors.status import Status
from actors.turn import NOBODY, Turn

if TYPE_CHECKING:
    from actors.activation import Activation

log = logging.getLogger("actors")


def start(activation: "Activation") -> None:
    """Activate: at once if there is nothing to load and nothing to run first, else in the background."""
    needs_time = activation._state is not None or activation.durable is not None or activation.type.has_on_activate
    if needs_time or activation._luggage:
        activation.runtime.spawn(activate(activation))
        return
    try:
        _make_actor(activation)
    except Exception as error:
        _report_failure(activation, error)
    else:
        _begin(activation)


def _make_actor(activation: "Activation") -> None:
    activation.actor._activation = activation
    activation.actor.__init__()  # type: ignore[misc]  # after address and state are there for it to use


def _report_failure(activation: "Activation", error: BaseException) -> None:
    log.error("%s: activation failed: %s", activation.address, failure.message(error), exc_info=error)
    fail_activation(activation, error)


def _begin(activation: "Activation") -> None:
    activation.status = Status.ACTIVE
    activation.runtime.watch_idleness(activation)
    if activation.durable is not None:
        activation.durable.start()
        if activation._arrivals:
            activation._arriving = True
            activation.runtime.spawn(arriving.take_arrivals(activation))
    if activation._closing_for is None:
        for turn in activation._mailbox.take_beside():
            activation._run_beside(turn)
    activation.start_waiting()


async def activate(activation: "Activation") -> None:
    """Load what is stored, run on_activate, then start what waits. A failure ends the activation."""
    current_turn.set(Lifecycle(activation))
    luggage, activation._luggage = unpack(activation._luggage, activation.address), b""
    try:
        if activation._state is not None or activation.durable is not None:
            await _load(activation, luggage)
        async with asyncio.timeout(activation.runtime.settings.activation_timeout):
            _make_actor(activation)
            put_back_attributes(activation, luggage)
            await activation.actor.on_activate()
        put_back_timers(activation, luggage)
    except (StoreUnavailable, Fenced) as error:
        fail_activation(activation, ClusterUnavailable(f"{activation.address}: its state could not be loaded: {error}"))
        if activation.durable is not None and isinstance(error, StoreUnavailable):
            # It may have taken this silo for the host all the same: then nobody else sees to what waits there.
            activation.runtime.revisit(activation.address)
    except LeftToNewer as error:
        await _leave_to_newer(activation, error)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        if not activation.gone:
            _report_failure(activation, error)
    else:
        if activation.status is Status.ACTIVATING:
            _begin(activation)
    finally:
        if activation._ready is not None:
            activation._ready.set_result(None)
            activation._ready = None


async def _load(activation: "Activation", luggage: Luggage) -> None:
    try:
        async with asyncio.timeout(activation.runtime.settings.activation_timeout):
            opened = await _open(activation) if activation.type.stored else Opened(luggage.state)
    except TimeoutError:
        raise StoreUnavailable("the store did not answer in time") from None
    if activation.type.stored:
        older_code.check(activation, opened)
    if activation._state is not None:
        activation.actor.state = activation._state.restore(opened, activation.address)
    if activation.durable is not None:
        _restore(activation, activation.durable.load(opened), activation.durable)


async def _open(activation: "Activation") -> Opened:
    store, directory = activation.runtime.store, activation.runtime.directory
    try:
        return await store.open(activation.address, activation.epoch, directory.silo)
    except Fenced as fenced:  # either the claim is stale, or the directory lost its past
        activation.epoch = await directory.outrun(activation.address, fenced.stored)
        return await store.open(activation.address, activation.epoch, directory.silo)


def _restore(activation: "Activation", rows: Iterable[tuple[bytes, Pending]], durable: Durable) -> None:
    """Queue the messages that the store knows, then those that only the former activation here knew, in order."""
    carried = {turn.request.message_id: turn.again(activation) for turn in activation._carried}
    activation._carried = ()
    known = []
    for number, row in rows:
        turn = carried.get(row.request.message_id) or _recovered(activation, row.request)
        turn.number, turn.row, turn.adoptions, turn.reminder = number, True, row.adoptions, None
        turn.into = row.into
        known.append(turn)
    for turn in [*(turn for turn in known if turn.recovered), *carried.values()]:
        if turn.row:
            durable.inbox.add(turn)
            activation._mailbox.put(turn, beyond_limit=True)
            turn.accepted()
        elif turn.request.number:  # its sender tries again
            turn.refuse(ClusterUnavailable(f"{turn.where}: not accepted"))
        elif turn.request.handler not in OWN:  # reminders fire again, timers are gone
            durable.inbox.add(turn)
            activation._mailbox.put(turn, beyond_limit=True)
            activation._admit(turn)


def _recovered(activation: "Activation", request: Request) -> Turn:
    """A message that a lost silo, or the silo before a drain, has left."""
    spec = activation.type.handlers.get(request.handler)
    turn = Turn(activation, request, NOBODY, spec or activation.type.handlers[""], float("inf"))
    turn.recovered = turn.said = turn.left = True
    if spec is None:
        turn.park_for = f"there is no handler {request.handler!r} any more"
    elif request.outside and not spec.public:
        turn.park_for = str(arriving.not_public(request))
    return turn


async def _leave_to_newer(activation: "Activation", error: LeftToNewer) -> None:
    """Give the address up: what waits goes to whichever silo may have it, and so does what is due there."""
    if activation.gone:
        return
    activation.runtime.abstention.note(activation.address, error)
    activation.status = Status.CLOSING
    activation._failing = True
    await activation.write(Write(Commit(address=activation.address, epoch=activation.epoch, asleep=True), []))
    activation.runtime.spawn(leaving.leave(activation, taken_over=True))


def fail_activation(activation: "Activation", error: BaseException) -> None:
    """Everyone who waits gets the error; the next message after that finds a new activation."""
    if activation.gone:
        return
    activation._failure = error
    activation.status = Status.CLOSING
    activation._failing = True
    stored = False
    again: list[Turn] = []
    for turn in activation._waiting_turns():
        stored |= turn.row or (turn.said and activation.durable is not None)
        if turn.row and not turn.said:  # it will run: its caller waits for the next activation
            again.append(turn)
        else:
            turn.tell(activation.failed_to_activate)
        if turn.said and activation.durable is None:
            log.error("%s: an accepted message is lost, because the actor cannot be activated", turn.where)
    if stored:  # it is known to the store, and to be tried again
        activation.runtime.revisit(activation.address)
    activation.runtime.spawn(leaving.leave(activation, handing_on=again))
