"""Known bugs of durable work, to be switched on one at a time; see ``plants.py``."""

from contextlib import AbstractContextManager
from functools import partial
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import msgspec

from actors.admission import Admission
from actors.channel_log import ChannelLog, Cut, read_items
from actors.commits import Commits
from actors.effects import Effects
from actors.envelope import Mode
from actors.inbox import Inbox
from actors.journal import Journal
from actors.outbox import Outbox
from actors.ports import Store
from actors.records import ChannelItem, Reminder, Started
from actors.reminders import Reminders
from actors.steering import Steering
from actors.turn import Turn
from actors.wake_up import WakeUp

if TYPE_CHECKING:
    from tests.simulation.world import World

Bug = AbstractContextManager[Any]


def no_dedupe(world: "World") -> Bug:
    """A message that comes again is a new one."""
    enter = Inbox.enter

    def forgetful(self: Inbox, turn: Turn, keyed: Any = None) -> bool:
        if turn.request.number or turn.request.key:
            return enter(self, turn, keyed)
        self.add(turn)
        return True

    return patch.object(Inbox, "enter", forgetful)


def no_numbers(world: "World") -> Bug:
    """What an outbox delivers again is new."""
    return patch.object(Inbox, "_is_next", lambda self, turn: True)


def done_dropped_early(world: "World") -> Bug:
    """The answer of a settled message is not kept."""
    return patch.object(Inbox, "keep_answer", lambda self, turn, answer, put: False)


def outbox_swapped(world: "World") -> Bug:
    """The messages of one turn leave in the wrong order."""
    add = Outbox.add
    return patch.object(Outbox, "add", lambda self, rows: add(self, rows[::-1]))


def outbox_early(world: "World") -> Bug:
    """A turn's messages leave before its commit."""
    gather = Commits._gather

    def hasty(self: Commits, effects: Effects) -> tuple[dict[bytes, bytes], list[bytes]]:
        waiting = len(self._then)
        found = gather(self, effects)
        for then in self._then[waiting:]:
            if isinstance(then, partial) and then.func.__name__ == "add":
                self._then.remove(then)
                then()
        return found

    return patch.object(Commits, "_gather", hasty)


def outbox_forgotten(world: "World") -> Bug:
    """What a former activation left to be delivered stays where it is."""
    return patch.object(Outbox, "restore", lambda self, number, request: None)


def accepted_early(world: "World") -> Bug:
    """A sender is told that its message is accepted before it is durable."""
    admit = Admission.admit

    def hasty(self: Admission, turn: Turn) -> None:
        turn.accepted()
        admit(self, turn)

    return patch.object(Admission, "admit", hasty)


def journal_ignored(world: "World") -> Bug:
    """Steps run again, whatever the journal says."""

    def take(self: Journal, path: str, label: str) -> None:
        self._use(path)

    return patch.object(Journal, "take", take)


def once_not_marked(world: "World") -> Bug:
    """That a once step was started is not journaled."""
    record = Journal.record

    async def silent(self: Journal, path: str, row: Any, **more: Any) -> None:
        if not isinstance(row, Started):
            await record(self, path, row, **more)

    return patch.object(Journal, "record", silent)


def no_wake(world: "World") -> Bug:
    """Nobody is told that work is left: it waits for the next caller."""
    return patch.object(WakeUp, "time", lambda self: None)


def reminder_skips(world: "World") -> Bug:
    """A reminder is advanced twice."""
    following = Reminders._following

    def twice(self: Reminders, row: Reminder) -> Reminder | None:
        found = following(self, row)
        return msgspec.structs.replace(found, due=found.due + found.every) if found is not None else None

    return patch.object(Reminders, "_following", twice)


def reminder_fires_again(world: "World") -> Bug:
    """A reminder becomes a message and stays as it was."""

    def stay(self: Reminders, fired: Any, put: dict[bytes, bytes], drop: list[bytes]) -> None:
        self._firing.discard(fired.name)

    return patch.object(Reminders, "advance", stay)


def skipped_silently(world: "World") -> Bug:
    """A reader whose place was trimmed goes on with what is retained."""

    async def skip(self: ChannelLog, store: Store, address: str, offset: int) -> list[tuple[int, ChannelItem]]:
        return await read_items(store, address, self.name, offset, self.end)

    return patch.object(ChannelLog, "read", skip)


def trimmed_too_much(world: "World") -> Bug:
    """One entry more goes than the limits say."""
    trim = ChannelLog.trim

    def eager(self: ChannelLog, put: dict[bytes, bytes], cut: list[Cut], first: int) -> None:
        trim(self, put, cut, min(first + 1, self.next - 1) if first > self.first else first)

    return patch.object(ChannelLog, "trim", eager)


def shown_early(world: "World") -> Bug:
    """Readers of a channel see its entries before they are durable."""
    publish = Commits.publish

    def hasty(self: Commits, name: str, items: list[ChannelItem], put: dict[bytes, bytes]) -> int:
        first = publish(self, name, items, put)
        self._then.pop()()
        return first

    return patch.object(Commits, "publish", hasty)


def interrupt_not_heard(world: "World") -> Bug:
    """What a commit lets out stays where it is if the turn was interrupted meanwhile."""
    return patch("actors.writing.Interrupted", type("Other", (BaseException,), {}))


def steered_and_run(world: "World") -> Bug:
    """A message that a turn has read runs all the same."""
    return patch.object(Steering, "settled", lambda self, answer: [])


def counted_twice(world: "World") -> Bug:
    """The rows of the inbox are miscounted where several requests are admitted together."""
    add_message = Commits.add_message

    def again(self: Commits, put: dict[bytes, bytes], turn: Turn) -> None:
        self._durable.rows += turn.request.mode is Mode.ASK and bool(put)
        add_message(self, put, turn)

    return patch.object(Commits, "add_message", again)
