"""The promises, checked while the world runs (``LiveChecks``) and when it has come to rest (``check_*``)."""

import bisect

import msgspec

from actors.ports import Commit, Fenced
from actors.runtime import Runtime
from cluster.directory import ERA_BITS
from tests.simulation.history import History, Op
from tests.simulation.store import SharedStore
from tests.simulation.subjects import DURABLE, STORED


def kind_of(address: str) -> str:
    return address.partition("-")[0]


class LiveChecks:
    """Sees every write of the store and every answer at the moment of it."""

    strict_reads = False  # readonly calls see what the turn beside them has not committed yet: a known gap

    def __init__(self, history: History, store: SharedStore) -> None:
        self.history = history
        self.committed: dict[str, list[str]] = {}
        self.opened: dict[str, int] = {}
        self.claims: dict[str, list[tuple[float, int]]] = {}  # by address: when, and the revision
        self.owners: dict[tuple[str, int], str] = {}
        store.on_open, store.on_commit, store.on_fenced = self.on_open, self.on_commit, self.on_fenced

    def on_open(self, process: str, address: str, epoch: int) -> None:
        self.history.note(f"store: {process} opens with epoch {epoch}", address=address)
        self._one_owner(process, address, epoch, "opens")
        self.opened[address] = max(epoch, self.opened.get(address, 0))

    def on_commit(self, process: str, commit: Commit) -> None:
        address, epoch = commit.address, commit.epoch
        entries = msgspec.msgpack.decode((commit.state or b" ")[1:])["entries"]
        self.history.note(f"store: {process} commits {len(entries)} entries with epoch {epoch}", address=address)
        self._one_owner(process, address, epoch, "commits")
        before = self.committed.get(address, [])
        if entries[: len(before)] != before:
            self.history.violate(
                "no committed effect is lost", f"commit of epoch {epoch}", address=address,
                expected=f"the {len(before)} entries before, {before[-3:]} last, and more",
                actual=f"{len(entries)} entries, {entries[-3:]} last, by {process}",
            )  # fmt: skip
        self.committed[address] = entries

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
        self._owned(op)
        assert op.ended is not None
        took, allowed = op.ended - op.started, op.timeout * (1 + 1 / 64) + 0.2 + op.slack
        if op.mode != "stream" and took > allowed:
            self.history.violate(
                "calls end by their deadline", op.id, address=op.address, expected=f"an end within {allowed:.2f} s",
                actual=f"{op} after {took:.2f} s",
            )  # fmt: skip

    def _owned(self, op: Op) -> None:
        """A turn that began when another owner had claimed the address already may run, but not answer."""
        began = self.history.ran_when.get(op.id)
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
        if op.handler == "peek" and not self.strict_reads:
            return
        entries = self.committed.get(op.address, [])
        if op.position is not None:
            seen = op.position[2]
            if seen > len(entries) or (op.appends and entries[seen - 1] != op.id):
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


def check_effects(history: History, committed: dict[str, list[str]]) -> None:
    """Success is once, rejection never, the unknown at most once."""
    for op in history.ops.values():
        runs = history.runs.get(op.id, [])
        durable = kind_of(op.address) in DURABLE
        applied = committed.get(op.address, []).count(op.id) if durable else len(runs)
        allowed = _allowed(op, durable=durable)
        if op.appends and applied not in allowed:
            history.violate(
                "effects fit outcomes", op.id, address=op.address,
                expected=f"{' or '.join(map(str, allowed))} effects: it ended {op.outcome or 'with its caller'}",
                actual=f"{applied} effects; its handler began {len(runs)} times: {runs}",
            )  # fmt: skip
        if len(runs) > 1:
            history.violate(
                "a message runs at most once", op.id, address=op.address, expected="one run at most",
                actual=f"it ran at {runs}",
            )  # fmt: skip


def _allowed(op: Op, *, durable: bool) -> tuple[int, ...]:
    if op.mode == "send" and op.outcome == "ok":
        return (0, 1)  # accepted is in a mailbox; the durable inbox is not built yet
    if op.outcome == "ok":
        return (0, 1) if op.left else (1,)
    if op.outcome in ("rejected", "cycle"):
        return (0,)
    if op.outcome == "failed":
        return (0,) if durable else (0, 1)  # what is not durable is not rolled back; on_activate can fail, too
    return (0, 1)


def check_real_time(history: History) -> None:
    """Who asks after an answer was there sees at least what that answer saw, and never an older owner."""
    by_address: dict[str, list[Op]] = {}
    for op in history.ops.values():
        if op.outcome == "ok" and op.position is not None and op.handler != "peek":
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


def check_order(history: History, committed: dict[str, list[str]]) -> None:
    """Messages of one sender to one actor take effect in the order sent, where their fate is known.

    Two are compared only if no link ended between them: an accepted message that sits on a silo which was cut off or
    lost its lease is overtaken by what its sender sends by another way.
    """
    places: dict[str, tuple[int, int, int]] = {}
    for (address, epoch, life), ids in history.ran_at.items():
        if kind_of(address) not in DURABLE:
            places.update({id: (epoch, life, place) for place, id in enumerate(ids)})
    for address, entries in committed.items():
        if kind_of(address) in DURABLE:
            places.update({id: (0, 0, place) for place, id in enumerate(entries)})
    last: dict[tuple[str, str], Op] = {}
    for op in history.ops.values():
        if op.outcome != "ok" or op.id not in places or not op.sender:
            continue
        before = last.get((op.sender, op.address))
        if before is not None and places[op.id] < places[before.id] and _undisturbed(history, before, op):
            history.violate(
                "order of sender and actor", op.id, address=op.address,
                expected=f"{op.sender} sent {before.id} first, so {op.id} comes after it",
                actual=f"{op.id} at {places[op.id]}, {before.id} at {places[before.id]}",
            )  # fmt: skip
        last[op.sender, op.address] = op


def _undisturbed(history: History, first: Op, second: Op) -> bool:
    at = bisect.bisect(history.disturbed, first.started)
    ran = max(history.ran_when.get(first.id, 0.0), history.ran_when.get(second.id, 0.0))
    return at == len(history.disturbed) or history.disturbed[at] > ran


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


def check_links(history: History, name: str, runtime: Runtime) -> None:
    """A call whose link is gone was told so."""
    for call in runtime.calls.values():
        if call.link is not None and call.link.closed:
            history.violate(
                "calls on a lost link end", call.request.message_id, address=call.request.address,
                expected=f"{name} to end or resend it when the link to {call.link.peer} closed",
                actual="it is still under way on the closed link",
            )  # fmt: skip


def leaks_of(runtime: Runtime) -> str:
    """What a runtime still holds that nobody waits for."""
    found = {
        "calls": [f"{type(c).__name__} {c.request.address}.{c.request.handler}" for c in runtime.calls.values()],
        "streams": [str(key[1]) for key in runtime._streams],
        "held": list(runtime._router._held),
        "claims": list(runtime._claims),
        "activations": list(runtime.activations),
        "tasks": [task.get_coro().__qualname__ for task in runtime._tasks],  # type: ignore[union-attr]
    }
    return ", ".join(f"{name}: {what}" for name, what in found.items() if what)
