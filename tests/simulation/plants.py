"""Known bugs, to be switched on one at a time: whoever finds none of them would find no other either.

Each is a patch of the real code inside the simulation.
"""

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, ExitStack
from typing import TYPE_CHECKING, Any, NamedTuple
from unittest.mock import patch

from actors import execution
from actors.activation import Activation
from actors.calls import Call
from actors.envelope import Envelope, NotHere, Request
from actors.handing_on import HandingOn
from actors.inbound import Inbound
from actors.mailbox import Mailbox
from actors.migration import Migration
from actors.older_code import Abstention
from actors.ports import Link, Route
from actors.router import Router
from actors.turn import Turn
from cluster.directory import EtcdDirectory
from cluster.etcd import Op
from cluster.membership import Membership, MembershipView
from tests.simulation import durable_plants as durable
from tests.simulation import wait_plants as wait

if TYPE_CHECKING:
    from tests.simulation.world import World


class Plant(NamedTuple):
    """``seeds`` must suffice to find it by a check named in ``finds``, with these kinds of faults and calls (or all).

    With chosen kinds of calls all clients call the same few actors, or those in ``among``.
    """

    enter: "Callable[[World], AbstractContextManager[Any]]"
    seeds: range
    finds: tuple[str, ...]
    faults: tuple[str, ...] = ()
    calls: tuple[str, ...] = ()
    among: tuple[str, ...] = ()


def _no_fence(world: "World") -> AbstractContextManager[Any]:
    """The store takes what a lower epoch writes."""
    return patch.object(world.store, "fence", new=False)


def _no_deadline(world: "World") -> AbstractContextManager[Any]:
    """A silo acts on until etcd tells it that its lease is gone."""

    def deadline(self: Membership) -> float:
        return float("-inf") if self._lost or self._keep_alive is None else float("inf")

    return patch.object(Membership, "deadline", property(deadline))


def _blind_claim(world: "World") -> AbstractContextManager[Any]:
    """A claim overwrites whatever owner there is."""

    async def claim(self: EtcdDirectory, address: str) -> Route:
        put = Op.put(self._keys.actor(address), self.silo.encode())
        result = await self._write(address, self._keys.actor(address), Op.txn([], [put], []))
        return Route(self.silo, self._epoch(result.revision))

    return patch.object(EtcdDirectory, "claim", claim)


def _missed_event(world: "World") -> AbstractContextManager[Any]:
    """The watch drops the news that a silo is gone."""
    on_event = MembershipView.on_event

    def deaf(self: MembershipView, key: str, value: bytes | None, revision: int) -> bool:
        return value is not None and on_event(self, key, value, revision)

    return patch.object(MembershipView, "on_event", deaf)


def _no_ask_first(world: "World") -> AbstractContextManager[Any]:
    """After NotHere the next owner is looked for at once, though other NotHeres are still on their way."""
    hold = Router.hold

    def forgetful(self: Router, call: Call, **fence: str) -> None:
        hold(self, call)

    return patch.object(Router, "hold", forgetful)


def _let_in_early(world: "World") -> AbstractContextManager[Any]:
    """After NotHere a silo lets in later messages before the sender has asked again."""
    return patch.object(Inbound, "_bounced", property(lambda self: set(), lambda self, value: None), create=True)


def _early_reply(world: "World") -> AbstractContextManager[Any]:
    """The answer leaves before the commit."""

    async def commit(turn: Turn, answer: Envelope, state: bytes) -> None:
        turn.origin.send(answer)
        turn.left = True
        if await turn.activation.commit(turn, answer, state):
            turn.activation.settle(turn, answer)

    return patch.object(execution, "_commit", commit)


def _no_roll_back(world: "World") -> AbstractContextManager[Any]:
    """What a failed turn changed stays in memory, and is committed with the next."""
    return patch.object(Activation, "roll_back", lambda self, turn: None)


def _lost_on_closed(world: "World") -> AbstractContextManager[Any]:
    """Nobody is told that a link has gone: calls hang until their deadlines."""
    return patch.object(Inbound, "on_closed", lambda self, link, unsent: None)


def _resent_when_lost(world: "World") -> AbstractContextManager[Any]:
    """What was under way on a lost link is sent again, though it may have run."""
    on_closed = Inbound.on_closed

    def resend(self: Inbound, link: Any, unsent: list[Envelope]) -> None:
        sent = [call.request for call in self._runtime.calls.values() if call.link is link and call.request.handler]
        on_closed(self, link, [*unsent, *sent])

    return patch.object(Inbound, "on_closed", resend)


def _not_here_but_run(world: "World") -> AbstractContextManager[Any]:
    """A silo that is closing an activation runs the message and says NotHere, too."""
    accept = Activation.accept

    def both(self: Activation, request: Request, origin: Any) -> None:
        accept(self, request, origin)
        if self.status.value == "active" and self.waiting > 1 and getattr(origin, "peer_is_silo", False):
            origin.send(NotHere(request.id))

    return patch.object(Activation, "accept", both)


def _old_luggage(world: "World") -> AbstractContextManager[Any]:
    """What was once offered for an address is kept, and goes with whatever comes next."""
    offers: dict[str, bytes] = {}
    offered = Migration._offered

    def keep(self: Migration, link: Any, address: str, luggage: bytes) -> None:
        offered(self, link, address, offers.setdefault(address, luggage))

    return patch.object(Migration, "_offered", keep)


def _queue_left_behind(world: "World") -> AbstractContextManager[Any]:
    """What waits for an actor that moves does not go with it, but asks where it is now."""

    def look(self: HandingOn, turns: Iterable[Turn], address: str, route: Route, link: Link) -> None:
        self.hand_on(turns)

    return patch.object(HandingOn, "follow", look)


def _queue_turned_away(world: "World") -> AbstractContextManager[Any]:
    """What comes ahead of an actor that moves is not kept for it, but sent back to look for it."""
    return patch.object(Migration, "keep", lambda self, guest, request: False)


def _no_abstention(world: "World") -> AbstractContextManager[Any]:
    """Older code takes whatever it can read, as if there were no versions."""

    async def claims_all(self: Abstention, address: str) -> None:
        return None

    stack = ExitStack()
    stack.enter_context(patch.object(Abstention, "check", claims_all))
    stack.enter_context(patch("actors.older_code.check", lambda activation, opened: None))
    return stack


def _last_in_first_out(world: "World") -> AbstractContextManager[Any]:
    """The mailbox gives out the newest message."""

    def take(self: Mailbox) -> Turn:
        turn = list(self)[-1]
        self.discard(turn)
        return turn

    return patch.object(Mailbox, "take", take)


FENCED = "only the highest epoch writes"
OLD = "an old owner answers nothing"
EFFECTS, ORDER, REPLIES = ("effects fit outcomes", "order of sender and actor", "replies are seen after their commit")
ONCE, ACCEPTED, SENT = (
    "effects are committed once",
    "accepted messages are durable",
    "what a turn sends arrives once, in order",
)
STEP, SETTLED = "a finished step never runs again, a once step never twice", "everything accepted is settled"
RUNS = "a message runs at most once"
WAKES = "what is left to do wakes somebody"
GATE, READ = "messages leave after their turn's commit", "readers see what is durable"
REMINDER, SKIPPED = "a reminder has one effect for one due time", "no due time of a reminder is passed over"
RETAINED = "what is retained is the end of what was published"
SIGNAL, TIMEOUT, WAIT = (
    "a signal continues one wait",
    "a timeout comes at its time, and only without a signal",
    "a wait ends once, and keeps its deadline",
)
CONVERGES, CALM, REAL_TIME = (
    "every actor answers in the end",
    "calls succeed while nothing is wrong",
    "answers follow real time",
)

DROPS = "older code drops nothing"
CUT, MOVES, TALLIES = ("cut_peer", "cut_one_way"), ("pipeline", "rest", "append"), ("tally-a", "tally-b")

PLANTS = {
    "no_fence": Plant(_no_fence, range(20), (FENCED, "no committed effect is lost"), ("cut_off",)),
    "no_deadline": Plant(_no_deadline, range(13, 52), (REAL_TIME, OLD), ("cut_etcd", "deaf_to_etcd", "cut_off")),
    "blind_claim": Plant(_blind_claim, range(10), (CALM, FENCED, REAL_TIME, OLD)),
    "missed_event": Plant(_missed_event, range(20), (CONVERGES, CALM, "every call ends", SETTLED), ("crash",)),
    "no_ask_first": Plant(_no_ask_first, range(21, 56), (ORDER,), ("drain",), ("pipeline", "rest")),
    "let_in_early": Plant(_let_in_early, range(6, 40), (ORDER,), ("watch_lag",), ("pipeline", "rest")),
    "early_reply": Plant(_early_reply, range(5), (REPLIES,)),
    "no_roll_back": Plant(_no_roll_back, range(5), (EFFECTS,)),
    "lost_on_closed": Plant(_lost_on_closed, range(2, 20), ("calls on a lost link end",)),
    "resent_when_lost": Plant(
        _resent_when_lost, range(20), (EFFECTS, RUNS, "readers see every entry once, in order"), ("reset",)
    ),
    "not_here_but_run": Plant(_not_here_but_run, range(5, 25), (EFFECTS, ONCE, RUNS)),
    "old_luggage": Plant(_old_luggage, range(20), ("what moves is as it was left",), ("drain",), ("rest", "append")),
    "queue_left_behind": Plant(_queue_left_behind, range(6, 60), (ORDER,), CUT, MOVES, TALLIES),
    "queue_turned_away": Plant(_queue_turned_away, range(3, 40), (ORDER,), CUT, MOVES, TALLIES),
    "no_abstention": Plant(
        _no_abstention, range(20), ("older code drops nothing",), ("crash", "drain"), ("sign", "rest")
    ),
    "last_in_first_out": Plant(_last_in_first_out, range(5), (ORDER,)),
    "no_dedupe": Plant(durable.no_dedupe, range(3, 20), (ONCE, EFFECTS), ("reset",), ("append", "pipeline")),
    "no_numbers": Plant(durable.no_numbers, range(4, 20), (ONCE, SENT), ("cut_peer", "cut_one_way"), ("burst",)),
    "done_dropped_early": Plant(durable.done_dropped_early, range(3, 20), (ONCE,), ("reset",), ("append", "pipeline")),
    "outbox_swapped": Plant(durable.outbox_swapped, range(5), (SENT,), ("drain",), ("burst",)),
    "outbox_early": Plant(durable.outbox_early, range(20), (GATE, SENT), ("store_slow",), ("burst",)),
    "outbox_forgotten": Plant(durable.outbox_forgotten, range(20), (SETTLED, SENT, WAKES), ("crash",), ("burst",)),
    "accepted_early": Plant(durable.accepted_early, range(10), (ACCEPTED,), ("crash",), ("pipeline",)),
    "journal_ignored": Plant(durable.journal_ignored, range(20), (STEP,), ("crash", "cut_etcd"), ("work",)),
    "once_not_marked": Plant(durable.once_not_marked, range(20), (STEP,), ("crash", "cut_etcd"), ("work",)),
    "no_wake": Plant(durable.no_wake, range(5), (WAKES,), ("crash",), ("pipeline", "burst")),
    "reminder_skips": Plant(durable.reminder_skips, range(10), (SKIPPED,), ("drain",), ("plan",)),
    "reminder_fires_again": Plant(durable.reminder_fires_again, range(5), (REMINDER, ONCE), ("drain",), ("plan",)),
    "interrupt_not_heard": Plant(
        durable.interrupt_not_heard, range(2, 20), (SETTLED,), ("store_slow",), ("stir", "rest")
    ),
    "steered_and_run": Plant(durable.steered_and_run, range(20), (ONCE,), calls=("stir", "rest")),
    "counted_twice": Plant(durable.counted_twice, range(20), (SETTLED,), calls=("stir", "rest")),
    "skipped_silently": Plant(
        durable.skipped_silently, range(20), ("readers see every entry once, in order",), calls=("brief",)
    ),
    "trimmed_too_much": Plant(durable.trimmed_too_much, range(20), (RETAINED,), calls=("brief",)),
    "early_signal_forgotten": Plant(wait.early_signal_forgotten, range(5), (SIGNAL,), calls=("visit", "rest")),
    "signal_forgotten_with_its_silo": Plant(
        wait.signal_forgotten_with_its_silo, range(5), (SIGNAL, TIMEOUT), calls=("visit", "rest")
    ),
    "signal_not_waited_for": Plant(
        wait.signal_not_waited_for, range(12, 20), (TIMEOUT,), ("store_slow",), ("visit", "rest")
    ),
    "signal_taken_and_kept": Plant(wait.signal_taken_and_kept, range(5), (SIGNAL,), calls=("visit", "rest")),
    "wake_time_of_wait_not_stored": Plant(wait.wake_time_not_stored, range(5), (WAKES,), calls=("visit", "rest")),
    "signal_wakes_nobody": Plant(wait.signal_wakes_nobody, range(5), (WAKES,), calls=("visit", "rest")),
    "wait_begins_anew": Plant(wait.begins_anew, range(5), (WAIT,), calls=("visit", "rest")),
    "shown_early": Plant(durable.shown_early, range(20), (READ,), ("store_slow",), ("announce", "publish")),
}
