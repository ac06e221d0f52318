"""The promises, checked while the world runs (``LiveChecks``) and when it has come to rest (``check_*``)."""

import bisect

import msgspec

from actors import codec, state_delta
from actors.ports import Commit, Fenced
from actors.records import DELTA, MESSAGE, OUTBOX, PARKED, REMINDER, Parked, Pending, Reminder, message_rows
from cluster.directory import ERA_BITS
from tests.simulation.clerk import rests_until
from tests.simulation.deed import DEED, SignatureCheck
from tests.simulation.history import History, Op
from tests.simulation.loop import SKEW, WALL
from tests.simulation.store import SharedStore
from tests.simulation.subjects import DURABLE, STORED, kind_of
from tests.simulation.wait_checks import WaitChecks

EXCUSES = (
    "not delivered",  # nobody could be reached for long
    "could not be loaded",  # the store is away
    "could not be stored",  # likewise
    "not accepted",  # likewise
    "cannot be read now",  # likewise
    "asked not to wait",  # an earlier attempt may run yet
    "on_activate raised",  # as planned, and likewise
    "closed here",  # the silo of the calling turn has stopped
)


class LiveChecks:
    """Sees every write of the store and every answer at the moment of it."""

    def __init__(self, history: History, store: SharedStore) -> None:
        self.history = history
        self.store = store
        self.committed: dict[str, list[str]] = {}
        self.erased: dict[str, list[str]] = {}  # by address: the entries of all that was deleted there
        self.reminders: set[str] = set()  # the ids of their rows
        self.parked: set[str] = set()  # effects of messages that were parked at some time
        self.waits = WaitChecks(history, store)
        self.signatures = SignatureCheck(history, store)
        self.opened: dict[str, int] = {}
        self.claims: dict[str, list[tuple[float, int]]] = {}  # by address: when, and the revision
        self.owners: dict[tuple[str, int], str] = {}
        store.on_open, store.on_commit, store.on_fenced = (self.on_open, self.on_commit, self.on_fenced)

    def on_open(self, process: str, address: str, epoch: int) -> None:
        self.history.note(f"store: {process} opens with epoch {epoch}", address=address)
        self._one_owner(process, address, epoch, "opens")
        self.opened[address] = max(epoch, self.opened.get(address, 0))

    def on_commit(self, process: str, commit: Commit) -> None:
        address, epoch = commit.address, commit.epoch
        self._one_owner(process, address, epoch, "commits")
        for key, value in commit.put.items():
            if key.startswith(PARKED):
                parked = msgspec.msgpack.decode(value, type=Parked)
                self.parked.add(effect_of(parked))
                if "does not fit the code" in parked.reason:
                    self.history.violate(
                        "a turn fits its journal", effect_of(parked), address=address, expected="the same steps",
                        actual=parked.reason,
                    )  # fmt: skip
        if commit.erase:
            self.erased.setdefault(address, []).extend(self.committed.pop(address, []))
        before = self.committed.get(address, [])
        changed = commit.state is not None or any(key.startswith(DELTA) for key in commit.put)
        entries = self._stored(address) if changed else before
        for key, value in commit.put.items():
            if key.startswith(REMINDER):
                self._advances(address, msgspec.msgpack.decode(value, type=Reminder))
        self.history.note(f"store: {process} commits {_shown(commit, entries)}", address=address)
        self.waits.on_commit(commit)
        if entries[: len(before)] != before:
            self.history.violate(
                "no committed effect is lost", f"commit of epoch {epoch}", address=address,
                expected=f"the {len(before)} entries before, {before[-3:]} last, and more",
                actual=f"{len(entries)} entries, {entries[-3:]} last, by {process}",
            )  # fmt: skip
        for entry in entries[len(before) :]:
            self._caused(address, entry, before)
        self.committed[address] = entries
        if address == DEED and changed:
            self.signatures.on_commit(process)
        self._wakes(address)

    def _wakes(self, address: str) -> None:
        """Whatever is left to be done wakes somebody in time, should this silo die now."""
        record, now = self.store.data.records[address], WALL + self.history.loop.time() + SKEW
        times = [now for key in record.records if key.startswith(OUTBOX)]
        rests = rests_until(self.store, address)
        times += [
            max(rests, now) if rests is not None else now
            for row in self.store.rows(address, MESSAGE).values()
            if row[1:2] == b"\x01" and rests != float("inf")
        ]  # the tag of Pending
        times += [msgspec.msgpack.decode(row, type=Reminder).due for row in self.store.rows(address, REMINDER).values()]
        if times and (record.wake is None or record.wake > min(times)):
            self.history.violate(
                "what is left to do wakes somebody", address, address=address, expected=f"{min(times)} or before",
                actual=str(record.wake),
            )  # fmt: skip

    def _stored(self, address: str) -> list[str]:
        state = state_delta.apply(
            self.store.data.records[address].state or b"", self.store.rows(address, DELTA).values()
        )
        entries: list[str] = msgspec.msgpack.decode(state[1:])["entries"]
        return entries

    def _advances(self, address: str, row: Reminder) -> None:
        """A reminder goes on to its next time, and passes over none that is to come."""
        latest = WALL + self.history.loop.time() + row.every + SKEW
        if row.id in self.reminders and row.due > latest:
            self.history.violate(
                "no due time of a reminder is passed over", row.id, address=address,
                expected=f"{latest} or before", actual=str(row.due),
            )  # fmt: skip
        self.reminders.add(row.id)

    def _caused(self, address: str, entry: str, before: list[str]) -> None:
        """An entry is about to be committed: what caused it was committed before, and it itself was not."""
        if entry in before:
            self.history.violate(
                "effects are committed once", entry, address=address, expected="one effect", actual="a second one"
            )
        burst = self.history.work.bursts.get(entry.partition("/")[0])
        if burst is not None and "/" in entry and entry.partition("/")[0] not in self.effects(burst.source):
            self.history.violate(
                "messages leave after their turn's commit", entry, address=address,
                expected=f"a commit of {burst.source} first", actual="its turn is not in the store",
            )  # fmt: skip

    def effects(self, address: str) -> list[str]:
        """Everything that ever took effect there, in order."""
        return self.erased.get(address, []) + self.committed.get(address, [])

    def on_claim(self, address: str, revision: int) -> None:
        """The directory has a new owner for the address."""
        self.claims.setdefault(address, []).append((self.history.loop.time(), revision))

    def on_fenced(self, process: str, fenced: Fenced) -> None:
        self.history.note(
            f"store: {process} is fenced: epoch {fenced.epoch} against {fenced.stored}", address=fenced.address
        )

    def _one_owner(self, process: str, address: str, epoch: int, what: str) -> None:
        highest = self.opened.get(address, 0)
        if epoch < highest:
            self.history.violate(
                "only the highest epoch writes", f"epoch {epoch}", address=address,
                expected=f"an epoch of at least {highest}, which has opened it",
                actual=f"{process} {what} with epoch {epoch}",
            )  # fmt: skip
        owner = self.owners.setdefault((address, epoch), process)
        if owner != process:
            self.history.violate(
                "an epoch has one owner", f"epoch {epoch}", address=address, expected=owner, actual=f"{process} {what}"
            )

    def on_reply(self, op: Op) -> None:
        """A caller has just got its answer."""
        if op.outcome == "cycle" and op.address not in [address for address, _ in op.ancestors]:
            self.history.violate(
                "CallCycle only in a cycle", op.id, address=op.address,
                expected=f"no CallCycle: the chain is {op.ancestors}", actual=op.error,
            )  # fmt: skip
        self._durable(op)
        self._kept(op)
        self._owned(op)
        assert op.ended is not None
        took, allowed = (op.ended - op.started, op.timeout * (1 + 1 / 64) + 0.2 + op.slack)
        if op.mode != "stream" and took > allowed:
            self.history.violate(
                "calls end by their deadline", op.id, address=op.address, expected=f"an end within {allowed:.2f} s",
                actual=f"{op} after {took:.2f} s",
            )  # fmt: skip

    def _owned(self, op: Op) -> None:
        """A turn that began when another owner had claimed the address already may run, but not answer."""
        began = self.history.ran_when.get((op.effect, op.position[0])) if op.position is not None else None
        if op.outcome != "ok" or op.position is None or began is None:
            return
        revision = op.position[0] & ((1 << ERA_BITS) - 1)
        for claimed, newer in self.claims.get(op.address, []):
            if newer > revision and claimed < began:
                self.history.violate(
                    "an old owner answers nothing", op.id, address=op.address,
                    expected=f"no answer: revision {newer} was claimed {began - claimed:.3f} s before the turn began",
                    actual=f"{op} from revision {revision}",
                )  # fmt: skip
                return

    def _durable(self, op: Op) -> None:
        if op.outcome != "ok" or kind_of(op.address) not in DURABLE:
            return
        entries = self.committed.get(op.address, [])
        if op.handler == "glance" or kind_of(op.address) == "scrap":  # control calls see the turn beside them
            return
        if op.position is not None:
            seen = op.position[2]
            if seen > len(entries) or (op.appends and entries[seen - 1] != op.effect):
                self.history.violate(
                    "replies are seen after their commit", op.id, address=op.address,
                    expected=f"entry {seen} in the store" + (f" to be {op.id}" if op.appends else ""),
                    actual=f"the store has {len(entries)} entries, {entries[-3:]} last",
                )  # fmt: skip
        elif op.mode == "stream" and not op.left and op.id not in entries:
            self.history.violate(
                "replies are seen after their commit", op.id, address=op.address,
                expected="the stream's end after its turn's commit", actual="it is not in the store",
            )  # fmt: skip

    def _kept(self, op: Op) -> None:
        """What a durable actor accepted is in the store, and its calls outlive its silo."""
        if kind_of(op.address) not in DURABLE:
            return
        if op.mode == "send" and op.outcome == "ok" and not op.planned_failure:
            rows = self.store.rows(op.address, MESSAGE).values()
            waits = any(
                op.effect == effect_of(row) for row in map(message_rows.decode, rows) if isinstance(row, Pending)
            )
            if not waits and op.effect not in self.effects(op.address) and op.effect not in self.parked:
                self.history.violate(
                    "accepted messages are durable", op.id, address=op.address,
                    expected="its row or effect in the store",
                    actual="neither is there",
                )  # fmt: skip
        excused = kind_of(op.address) == "scrap" or any(text in op.error for text in EXCUSES)
        if op.mode != "stream" and op.error.startswith("ConnectionLost") and not excused:
            self.history.violate(
                "calls of durable actors outlive their silo", op.id, address=op.address, expected="an answer",
                actual=str(op),
            )  # fmt: skip


def effect_of(row: Pending | Parked) -> str:
    """The entry that a message leaves: its first argument is called like that."""
    payload = codec.decode(row.request.payload, trusted=True)
    arguments = payload if isinstance(payload, list) else []
    return str(arguments[0]) if arguments else ""


def _shown(commit: Commit, entries: list[str]) -> str:
    rows = [f"+{key[0]:x}" for key in commit.put] + [f"-{key[0]:x}" for key in commit.drop]
    state = f"{len(entries)} entries" if commit.state is not None else "no state"
    return f"{state}, rows {' '.join(rows[:12])}{' and erases' * commit.erase} with epoch {commit.epoch}"


def check_effects(history: History, effects: dict[str, list[str]]) -> None:
    """Success is once, rejection never, the unknown at most once. Several calls may be one message."""
    messages: dict[tuple[str, str], list[Op]] = {}
    for op in history.ops.values():
        if op.appends:
            messages.setdefault((op.address, op.effect), []).append(op)
    for (address, effect), ops in messages.items():
        kind = kind_of(address)
        runs = history.runs.get(effect, [])
        applied = effects.get(address, []).count(effect) if kind in DURABLE else len(runs)
        allowed = _allowed(ops, durable=kind in DURABLE)
        if applied not in allowed and not (kind == "scrap" and applied > 1):  # what was deleted is not told from new
            told = ", ".join(op.outcome or "with its caller" for op in ops)
            history.violate(
                "effects fit outcomes", ops[0].id, address=address,
                expected=f"{' or '.join(map(str, allowed))} effects: it ended {told}",
                actual=f"{applied} effects; its handler began {len(runs)} times: {runs}",
            )  # fmt: skip
        if len(runs) > 1 and (kind not in DURABLE or ops[0].mode == "stream"):
            history.violate(
                "a message runs at most once", ops[0].id, address=address, expected="one run at most",
                actual=f"it ran at {runs}",
            )  # fmt: skip


def _allowed(ops: list[Op], *, durable: bool) -> tuple[int, ...]:
    outcomes = {op.outcome for op in ops}
    if "ok" in outcomes and not all(op.left for op in ops if op.outcome == "ok"):
        lost = not durable and ops[0].mode == "send"  # accepted is in a mailbox only
        return (0, 1) if lost else (1,)
    if outcomes <= {"rejected", "cycle"} or (durable and outcomes <= {"rejected", "cycle", "failed"}):
        return (0,)  # what is not durable is not rolled back; on_activate can fail, too
    return (0, 1)


def check_real_time(history: History) -> None:
    """Who asks after an answer was there sees at least what that answer saw, and never an older owner."""
    by_address: dict[str, list[Op]] = {}
    for op in history.ops.values():
        told_again = op.keyed or op.again or op.handler in ("peek", "glance") or kind_of(op.address) == "scrap"
        if op.outcome == "ok" and op.position is not None and not told_again:
            by_address.setdefault(op.address, []).append(op)
    for address, ops in by_address.items():
        ended = sorted(ops, key=lambda op: op.ended or 0.0)
        newest: Op | None = None
        at = 0
        for op in sorted(ops, key=lambda op: op.started):
            while at < len(ended) and (ended[at].ended or 0.0) < op.started:
                if newest is None or _place(ended[at]) > _place(newest):
                    newest = ended[at]
                at += 1
            if newest is None:
                continue
            before, now = _place(newest), _place(op)
            assert newest.position is not None
            assert op.position is not None
            stale = op.position[0] < newest.position[0]
            if stale or now < before or (op.appends and now == before):
                history.violate(
                    "answers follow real time", op.id, address=address,
                    expected=f"later than {newest}",
                    actual=f"{op}, called {op.started - (newest.ended or 0):.3f} s after",
                )  # fmt: skip


def _place(op: Op) -> tuple[int, int, int]:
    assert op.position is not None
    return (0, 0, op.position[2]) if kind_of(op.address) in DURABLE else op.position


def check_order(history: History, effects: dict[str, list[str]], parked: set[str]) -> None:
    """Messages of one sender to one actor take effect in the order sent, where their fate is known.

    For what is not durable two are compared only if no link ended between them: an accepted message that sits on a silo
    which was cut off or lost its lease is overtaken by what its sender sends by another way. The same holds for an ask
    that waits and a later send, which is in the durable inbox. What is durable may be overtaken only by what was sent
    before its answer was there, and only while a silo drains or a link has said goodbye: it waits at the end of that
    link, and what comes later goes another way. Or its turn ran in its place, the commit was refused, and a link ended
    before its sender heard of that: what the sender repeats then is accepted behind what came meanwhile.
    """
    places: dict[str, tuple[int, int, int]] = {}
    for (address, epoch, life), ids in history.ran_at.items():
        if kind_of(address) not in DURABLE:
            places.update({id: (epoch, life, place) for place, id in enumerate(ids)})
    for address, entries in effects.items():
        if kind_of(address) in DURABLE:
            places.update({id: (0, 0, place) for place, id in enumerate(entries)})
    last: dict[tuple[str, str], Op] = {}
    for op in history.ops.values():
        if (
            op.outcome != "ok"
            or op.id not in places
            or not op.sender
            or op.id in parked
            or op.mode == "stream"
            or kind_of(op.address) in ("scrap", "pupil")  # what steers a turn overtakes what waits for its end
        ):
            continue
        before = last.get((op.sender, op.address))
        if before is None or places[op.id] > places[before.id]:
            last[op.sender, op.address] = op
            continue
        strict = kind_of(op.address) in DURABLE and (before.mode, op.mode) != ("ask", "send")
        if not (_may_be_overtaken if strict else _disturbed)(history, before, op):
            history.violate(
                "order of sender and actor", op.id, address=op.address,
                expected=f"{op.sender} sent {before.id} first, so {op.id} comes after it",
                actual=f"{op.id} at {places[op.id]}, {before.id} at {places[before.id]}",
            )  # fmt: skip
        last[op.sender, op.address] = op


def _may_be_overtaken(history: History, first: Op, second: Op) -> bool:
    if first.ended is not None and first.ended <= second.started:
        return False
    refused = len(history.runs.get(first.id, ())) > 1 and _disturbed(history, first, second)
    return refused or history.parts_between(first.started, _ran(history, first, second))


def _disturbed(history: History, first: Op, second: Op) -> bool:
    at = bisect.bisect(history.disturbed, first.started)
    return at < len(history.disturbed) and history.disturbed[at] <= _ran(history, first, second)


def _ran(history: History, first: Op, second: Op) -> float:
    """When the later one of them ran."""
    return max(when for (op, _), when in history.ran_when.items() if op in (first.id, second.id))


def check_streams(history: History) -> None:
    """Items are a prefix, in order; the natural end means all of them."""
    for op in history.ops.values():
        if op.mode != "stream":
            continue
        complete = op.outcome == "ok" and not op.left
        if op.items != list(range(len(op.items))) or (complete and len(op.items) != op.count):
            history.violate(
                "stream items are a prefix in order", op.id, address=op.address,
                expected=f"0 to {op.count - 1}" if complete else "a prefix of 0, 1, 2, ...",
                actual=f"{op.items[:20]} ... ({len(op.items)} items), {op.outcome}",
            )  # fmt: skip


def check_final(history: History, address: str, entries: list[str], *, before: list[str], after: list[str]) -> None:
    """What the actor says in the end lies between what the store had before the question and after the answer."""
    durable = kind_of(address) in DURABLE
    if kind_of(address) in STORED and (
        entries[: len(before)] != before or (durable and after[: len(entries)] != entries)
    ):
        history.violate(
            "the state is what was committed", "final read", address=address,
            expected=f"{len(before)} entries, {before[-5:]} last, or what came after them",
            actual=f"{len(entries)} entries, {entries[-5:]} last",
        )  # fmt: skip
