"""Messages whose activation is gone go on to the next one, in their order."""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from actors.calls import AcceptedCall, Call
from actors.envelope import Mode, NotHere
from actors.errors import ConnectionLost
from actors.guest import LocalCaller
from actors.ports import Link, Route
from actors.turn import Turn

if TYPE_CHECKING:
    from actors.runtime import Runtime


class HandingOn:
    """Finds a way for what was queued in an activation that has ended or moved."""

    def __init__(self, runtime: "Runtime") -> None:
        self._runtime = runtime

    def hand_on(self, turns: Iterable[Turn], *, bounce: bool = False, began: bool = False, lost: bool = False) -> None:
        """Messages were queued in an activation that ended: let them find the next one, in their order.

        ``bounce`` leaves that to the silos that sent them, where those still wait for an answer. ``began``: they had
        begun to run; ``lost``: and not in good order, which may happen to each so often and no more.
        """
        runtime = self._runtime
        fence = "" if bounce or runtime.draining else runtime.directory.silo
        for call in self._calls_again(turns, bounce=bounce, began=began, lost=lost):
            runtime.router.hold(call, fence=fence)

    def follow(self, turns: Iterable[Turn], address: str, route: Route, link: Link) -> None:
        """Messages were queued in an activation that has moved, over this link: let them go after it."""
        if self._runtime.transport.link(route.silo) is link:
            self._runtime.router.follow(address, route, self._calls_again(turns), link)
        else:  # it ends: what is sent on it may be lost
            self.hand_on(turns)

    def _calls_again(
        self, turns: Iterable[Turn], *, bounce: bool = False, began: bool = False, lost: bool = False
    ) -> Iterator[Call]:
        """The calls of messages that were queued in an activation; see ``hand_on``."""
        order = 0
        for turn, repeats in _with_joiners(turns):
            request, origin = turn.request, turn.origin
            self._runtime.forget_stream(turn)
            call: Call | None
            unheard = turn.left or (not isinstance(origin, LocalCaller) and origin.closed)
            if turn.activation.durable is not None and (unheard or turn.said):
                continue  # it is in the durable inbox, or nobody was promised anything
            may_run = turn.row or (began and not repeats)
            if may_run:
                request.attempt = max(1, request.attempt + lost)
            if request.attempt > self._runtime.settings.max_attempts:
                turn.refuse(ConnectionLost(f"{turn.where}: its silo was lost {request.attempt} times while it ran"))
                continue
            if turn.said or unheard:  # nobody waits for an answer, so this runtime sees to it
                request.mode = Mode.SEND
                request.id = self._runtime.next_id()
                call = AcceptedCall(request)
                self._runtime.calls.begin(call, self._runtime.settings.delivery_timeout)
            elif isinstance(origin, LocalCaller):
                call = self._runtime.calls.get(request.id)
                order = max(order, request.id)
            elif bounce and origin.peer_is_silo:  # type: ignore[union-attr]
                origin.send(NotHere(request.id, may_run, lost))
                continue
            else:
                call = self._runtime.begin_forwarding(request, origin)  # type: ignore[arg-type]
            if call is not None:
                call.order = order
                yield call


def _with_joiners(turns: Iterable[Turn]) -> Iterator[tuple[Turn, bool]]:
    """Each turn, and in its place those that repeat it; whether it is one of those."""
    for turn in turns:
        for joiner, _ in _with_joiners(turn.joiners or ()):
            yield joiner, True
        yield turn, False
