"""Messages on their way into an activation: those that cannot run, those that must be looked up first, and its own."""

from typing import TYPE_CHECKING

from actors import codec, failure
from actors.address import listed
from actors.builtin import REMINDER, TIMER
from actors.envelope import Failure, Mode, Request
from actors.errors import CallCycle, ClusterUnavailable, MailboxFull, NotAuthorized, UnknownHandler
from actors.handler import HandlerSpec
from actors.lifecycle import LIFECYCLE
from actors.reminders import Due
from actors.status import Status
from actors.turn import NOBODY, Turn

if TYPE_CHECKING:
    from actors.activation import Activation


def let_arrive(activation: "Activation", turn: Turn) -> None:
    """Keep a message, and what comes after it, until it is known whether it is new."""
    if activation._arrivals is None:
        activation._arrivals = activation.new_mailbox()
    try:
        activation._arrivals.put(turn)
    except MailboxFull as error:
        turn.refuse(error)
        return
    if activation._takes and not activation._arriving:
        activation._arriving = True
        activation.runtime.spawn(take_arrivals(activation))


async def take_arrivals(activation: "Activation") -> None:
    """Find out, in their order, which messages are new, and let those in."""
    assert activation.durable is not None
    inbox = activation.durable.inbox
    while activation._arrivals and activation._takes:
        turn = activation._arrivals.first()
        keyed = None
        if inbox.must_look_up(turn.request):
            try:
                keyed = await inbox.look_up(turn.request)
                trouble = None
            except Exception as error:
                trouble = error
            if not activation._arrivals or activation._arrivals.first() is not turn:
                continue  # the activation has ended meanwhile
            if trouble is not None:
                activation._arrivals.take()
                turn.refuse(ClusterUnavailable(f"{turn.where}: not accepted: {trouble}"))
                continue
        if not activation.runtime.may_act():
            activation.runtime.stop_acting()
            return
        activation._arrivals.take()
        if inbox.enter(turn, keyed):
            activation._enter(turn)
    activation._arriving = False
    if activation._closing_for is not None:
        activation._schedule_next()


def handler_of(activation: "Activation", request: Request) -> HandlerSpec | Failure:
    """What the request means to run, or why it is refused. What only newer code may know is taken for ``receive``."""
    spec = activation.type.handlers.get(request.handler)
    if spec is None and may_be_for_newer(activation, request):
        return activation.type.handlers[""]  # which never runs it
    if request.outside and (spec is None or not spec.public):
        return failure.refusal(request.id, not_public(request))
    if spec is None or (request.mode is not Mode.SEND and (request.mode is Mode.STREAM) is not spec.streams):
        return failure.refusal(request.id, unknown_handler(activation, request, spec))
    return spec


def unknown_handler(activation: "Activation", request: Request, spec: HandlerSpec | None) -> UnknownHandler:
    name = request.handler or "receive"
    if spec is None:
        known = ", ".join(sorted(activation.type.actor.handler_names())) or "none but receive"
        kind = activation.type.actor.__name__
        newer = activation.runtime.directory.newer(activation.type.name)
        where = f" on {activation.runtime.directory.silo}, with version {activation.runtime.version!r} of the code"
        hint = f"; {listed(newer)} may know it, where the actor goes when it has slept or its silo is drained"
        return UnknownHandler(
            f"{activation.address}: {kind} has no handler {name!r}{where if newer else ''} (known: {known})"
            f"{hint if newer else ''}"
        )
    if spec.streams:
        return UnknownHandler(f"{activation.address}: {name!r} is an async generator: iterate ref.{name}.stream(...)")
    return UnknownHandler(f"{activation.address}: {name!r} is no async generator: call `await ref.{name}(...)`")


def may_be_for_newer(activation: "Activation", request: Request) -> bool:
    """Whether a message for a handler that is not known here waits, because the actor may move to newer code."""
    if activation.durable is None or (request.on_busy or activation.type.options.on_busy) != "queue":
        return False
    return not activation._takes or bool(activation.runtime.directory.newer(activation.type.name))


def not_public(request: Request) -> NotAuthorized:
    """The refusal of a message from outside: the same whether there is such a handler or not."""
    return NotAuthorized(
        f"{request.address}: {request.handler or 'receive'!r} cannot be called from outside of the cluster; "
        "@handler(public=True), or public=True on the class for receive, allows that"
    )


def is_waiting_for(activation: "Activation", request: Request) -> bool:
    if activation._turn is not None:
        return (activation.address, activation._turn.request.message_id) in request.chain
    return activation.status is not Status.ACTIVE and (activation.address, LIFECYCLE) in request.chain


def cycle(activation: "Activation", request: Request) -> CallCycle:
    path = [address for address, _ in request.chain]
    path = [*path[path.index(activation.address) :], activation.address]
    return CallCycle(
        f"call cycle {' -> '.join(path)}: {activation.address} waits in its own turn for this call and could never run "
        "it. Use send(), or a @handler(readonly=True) or @handler(control=True)"
    )


def remind(activation: "Activation", due: Due) -> bool:
    """A reminder is due: make it a message of its own. False if there is no room for it now."""
    assert activation.durable is not None
    if activation.status is not Status.ACTIVE or activation._closing_for is not None or activation._mailbox.is_full:
        return False
    request = Request(
        0, activation.address, REMINDER, codec.encode([due.name]), Mode.SEND, 0.0, f"{due.row.id}@{due.row.due}",
        activation.address, attempt=1,
    )  # fmt: skip
    turn = Turn(activation, request, NOBODY, activation.type.handlers[REMINDER], float("inf"))
    turn.reminder = due
    activation.durable.inbox.add(turn)
    activation._mailbox.put(turn)
    activation.durable.admission.admit(turn)
    return True


def run_timer(activation: "Activation", number: int) -> None:
    """A timer has fired: queue its turn."""
    request = Request(
        0, activation.address, TIMER, codec.encode([number]), Mode.SEND, 0.0, f"timer {number}", activation.address
    )
    turn = Turn(activation, request, NOBODY, activation.type.handlers[TIMER], float("inf"))
    turn.said = True
    if activation.status is Status.ACTIVE and activation._closing_for is None and not activation._mailbox.is_full:
        activation._mailbox.put(turn)
        activation._schedule_next()
