"""The ways in which an activation ends: put to sleep, failed, moved, or dropped with its silo."""

import asyncio
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

from actors import failure
from actors.builtin import SUBSCRIBE, TIMER
from actors.commits import Write
from actors.context import current_turn
from actors.envelope import Mode
from actors.errors import ActorError, ClusterUnavailable, ConnectionLost
from actors.lifecycle import Lifecycle
from actors.luggage import pack
from actors.ports import Commit, Route
from actors.status import Status
from actors.turn import Turn

if TYPE_CHECKING:
    from actors.activation import Activation
    from actors.ports import Link

log = logging.getLogger("actors")

FIRST_PAUSE, LONGEST_PAUSE = 0.05, 10.0  # seconds before what failed is tried again
LAST_WORDS = 1.0  # seconds that readers of a deleted channel have to hear of it


async def deactivate(activation: "Activation", reason: str) -> None:
    current_turn.set(Lifecycle(activation))
    try:
        async with asyncio.timeout(activation.runtime.settings.activation_timeout):
            await activation.actor.on_deactivate(reason)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        if not activation.gone:
            log.error("%s: on_deactivate(%r) failed: %s", activation.address, reason, failure.message(error))
    write = None
    if not activation.gone and activation.type.stored:
        try:
            state = (
                activation._state.unsaved(activation.actor.state, activation.address)
                if activation._state is not None
                else None
            )
        except ActorError as error:
            log.error("%s: what changed since the last commit is lost", error)
            state = None
        if activation.durable is not None:
            write = activation.durable.commits.fall_asleep(state)
        elif state is not None and activation._state is not None:
            put: dict[bytes, bytes] = {}
            drop: list[bytes] = []
            state = activation._state.write(state, put, drop)
            write = Write(
                Commit(address=activation.address, epoch=activation.epoch, state=state, put=put, drop=drop), []
            )
    if write is None or await activation.write(write):
        await leave(activation)


async def end_and_renew(activation: "Activation") -> None:
    if activation.durable is not None:
        activation.durable.end_readers()
    loop = activation.runtime.loop
    end = loop.time() + LAST_WORDS
    while any(turn.spec.name == SUBSCRIBE for turn in activation._beside or ()) and loop.time() < end:  # noqa: ASYNC110
        await asyncio.sleep(0.005)
    for other in activation.running():
        if other.task is not None:
            other.task.cancel()
        other.refuse(ConnectionLost(f"{activation.address} was changed from outside while the call ran"))
    activation._turn, activation._beside = None, None
    await leave(activation, renew=True)


def fail(activation: "Activation", turn: Turn | None, error: ActorError) -> None:
    """Nothing that happened since the last commit may be seen: end what runs, start anew for what waits."""
    if activation.gone or activation._failing:
        return
    activation._failing = True
    activation.status = Status.CLOSING
    running = activation.running()
    activation._turn, activation._beside = None, None
    moved = isinstance(error, ConnectionLost)
    activation.setbacks += not moved
    hopeless = activation.setbacks > activation.runtime.settings.max_adoptions
    elsewhere: list[Turn] = []
    for other in running:
        if other.task is not None and other is not turn:
            other.task.cancel()
        if activation.durable is None or other.request.mode is Mode.STREAM:
            other.refuse(error)
        elif moved:
            elsewhere.append(other)
        elif other.row:
            if hopeless and not isinstance(error, ClusterUnavailable):
                other.park_for = f"its turn could not be ended: {error}"
            activation._carried = [*activation._carried, other]
        else:
            other.refuse(error)
    if hopeless and isinstance(error, ClusterUnavailable):
        _refuse_unaccepted(activation, error)
    if moved:
        activation.runtime.handing_on.hand_on(elsewhere, bounce=True, began=True, lost=True)
        activation.runtime.handing_on.hand_on(activation._waiting_turns(), bounce=True)
    activation.runtime.spawn(leave(activation, taken_over=moved))


def _refuse_unaccepted(activation: "Activation", error: ActorError) -> None:
    """The store refuses again and again: senders of what is not stored hear of it, and do not wait for better times."""
    waiting = [*activation._carried, *activation._mailbox.drain()]
    unaccepted = [turn for turn in waiting if turn.request.mode is Mode.SEND and not turn.said]
    activation._carried = [turn for turn in waiting if turn not in unaccepted]
    for turn in unaccepted:
        turn.refuse(error)


async def leave(
    activation: "Activation", *, taken_over: bool = False, renew: bool = False, handing_on: Sequence[Turn] = ()
) -> None:
    """Go. What came in meanwhile is for a new activation: here at once, in its order, if this silo may host one."""
    if activation.gone:
        return
    runtime = activation.runtime
    if activation.durable is not None:
        await activation.durable.written()
    if not handing_on and activation._moves_to is None:
        renew = renew or bool(activation._mailbox or activation._arrivals or activation._carried)
    if renew and activation.setbacks:
        await asyncio.sleep(min(FIRST_PAUSE * 2**activation.setbacks, LONGEST_PAUSE))
        if runtime.activations.get(activation.address) is not activation:
            return  # dropped with its silo
    stays = not taken_over and not runtime.draining and not runtime.directory.newer(activation.type.name)
    if renew and stays and runtime.may_act():
        _renew(activation)
        return
    activation._failing = True  # what comes from now on waits for the next owner, in its order
    moves = activation._moves_to is not None and not taken_over and activation._failure is None
    if moves and await _move(activation):
        return
    try:
        await runtime.directory.release(activation.address, activation.epoch)
    except Exception as error:  # the entry stays ours, and is claimed again or swept
        log.warning("%s: could not be released: %s", activation.address, error)
    if not activation.gone:
        _end(activation)
        runtime.remove(activation)
        runtime.handing_on.hand_on(handing_on, began=True, lost=True)
        _hand_on_mail(activation, moved=moves, has_work=renew and not stays, bounce=taken_over)


def _hand_on_mail(activation: "Activation", *, moved: bool, has_work: bool, bounce: bool) -> None:
    runtime = activation.runtime
    # A fired timer has travelled as such.
    waiting = (turn for turn in activation._waiting_turns() if not moved or turn.request.handler != TIMER)
    # Where others may have it, what came from another silo goes back: what follows it does not come by here.
    runtime.handing_on.hand_on(waiting, bounce=bounce)
    if has_work and activation.durable is not None and activation.durable.rows:
        runtime.revisit(activation.address)  # its host lives on, and nobody else would see to it


async def _move(activation: "Activation") -> bool:
    """Go to another silo with what is in memory, or stay. False if neither is possible."""
    runtime, luggage = activation.runtime, pack(activation)

    def follow(route: Route, link: "Link") -> None:
        if not activation.gone:
            _end(activation)
            runtime.remove(activation)
            waiting = [turn for turn in activation._waiting_turns() if turn.request.handler != TIMER]
            runtime.handing_on.follow(waiting, activation.address, route, link)

    if await runtime.migration.send_away(activation, luggage, activation._moves_to or "", follow=follow):
        return True
    if not activation.gone and not runtime.draining and runtime.may_act():
        log.warning("%s: it stays on %s, because no other silo took it", activation.address, runtime.directory.silo)
        _renew(activation, luggage)
    return activation.gone


def _end(activation: "Activation") -> None:
    activation.status = Status.CLOSED
    activation.runtime.forget_idleness(activation)
    if activation.durable is not None:
        activation.durable.stop()
    for timer in activation.timers_left():
        timer.cancel()


def _renew(activation: "Activation", luggage: bytes = b"") -> None:
    """Activate anew under the same claim, with what was packed for a journey."""
    _end(activation)
    counter = activation.durable.counter if activation.durable is not None else None
    arrivals = list(activation._arrivals.drain()) if activation._arrivals else []
    carried = activation._waiting_turns()
    new = type(activation)(
        activation.runtime,
        activation.address,
        activation.type,
        activation.epoch,
        carried=carried,
        arrivals=arrivals,
        counter=counter,
        setbacks=activation.setbacks,
        luggage=luggage,
    )
    activation.runtime.activations[activation.address] = new
    new.start()


def cut_off(activation: "Activation") -> None:
    """The time for its turns is over: they end here, and the actor goes on elsewhere as they have left it."""
    lost = ConnectionLost(f"{activation.address}: its silo was stopped while the call was under way")
    running = activation.running()
    activation._turn, activation._beside = None, None
    for turn in running:
        if turn.task is not None:
            turn.task.cancel()
        turn.refuse(lost)
    activation.start_waiting()


def vanish(activation: "Activation") -> None:
    """Be gone as if the process had died: nothing is stored, and nobody is told."""
    running = activation.running()
    _end(activation)
    activation._turn, activation._beside = None, None
    for turn in running:
        if turn.task is not None:
            turn.task.cancel()


def drop(activation: "Activation", why: str) -> None:
    """The silo may act no more: forget everything at once, committing and releasing nothing."""
    running = activation.running()
    _end(activation)
    activation._turn, activation._beside = None, None
    lost = ConnectionLost(f"{activation.address}: {why} while the call was under way")
    elsewhere: list[Turn] = []
    for turn in running:
        if turn.task is not None:
            turn.task.cancel()
        if activation.durable is None or turn.request.mode is Mode.STREAM:
            turn.refuse(lost)
        else:
            elsewhere.append(turn)
    activation.runtime.handing_on.hand_on(elsewhere, bounce=True, began=True, lost=not activation.runtime.draining)
    activation.runtime.handing_on.hand_on(activation._waiting_turns(), bounce=True)
