"""The promises about durable work, checked when the world has come to rest."""

from collections import Counter
from collections.abc import Iterable, Sequence

import msgspec

from actors.records import (
    BESIDE,
    CHANNEL,
    JOURNAL,
    MESSAGE,
    OUTBOX,
    PARKED,
    ChannelHead,
    ChannelItem,
    Pending,
    channel_items,
    item_key,
    message_rows,
    offset_of,
)  # fmt: skip
from tests.simulation.brief import BRIEF, BriefReader, check_briefs
from tests.simulation.checks import LiveChecks
from tests.simulation.durable_work import Reminded
from tests.simulation.history import History
from tests.simulation.pupil import PUPIL
from tests.simulation.readers import Reader
from tests.simulation.store import SharedStore
from tests.simulation.subjects import DURABLE, kind_of


def unsettled(store: SharedStore) -> str:
    """What the store still has of work that was accepted and is not done."""
    found = []
    for address, record in store.data.records.items():
        kinds: Counter[str] = Counter()
        for key, value in record.records.items():
            if key.startswith(MESSAGE) and isinstance(message_rows.decode(value), Pending):
                kinds["messages"] += 1
            for kind, name in (
                (OUTBOX, "outbox"), (JOURNAL, "journal"), (BESIDE + JOURNAL, "journal"), (PARKED, "parked"),
            ):  # fmt: skip
                kinds[name] += key.startswith(kind)
        kinds["wake-up time"] += record.wake is not None
        if any(kinds.values()):
            found.append(f"{address}: {+kinds}")
    return "; ".join(found)


def items_of(store: SharedStore, address: str, channel: str) -> list[tuple[int, ChannelItem]]:
    """All entries of a channel that the store has, by offset."""
    prefix = item_key(channel, 0)[:-8]
    return [(offset_of(key), channel_items.decode(value)) for key, value in store.rows(address, prefix).items()]


class DurableChecks:
    """Compares what durable turns have set going with what came of it."""

    def __init__(self, history: History, live: LiveChecks, store: SharedStore) -> None:
        self.history = history
        self.live = live
        self.store = store
        self.addresses = sorted({*live.committed, *live.erased})

    def check(self, readers: list[Reader]) -> None:
        """All of them."""
        self._check_bursts()
        self._check_steps()
        self._check_reminders()
        for address in [address for address in self.addresses if kind_of(address) == "author"]:
            for channel in ("output", "tale", "draft"):
                self._check_channel(address, channel)
        self._check_publications()
        self._check_toils()
        if not self.live.parked.intersection(self.history.work.briefs):
            check_briefs(self.history, self.store, self.live.effects(BRIEF), items_of)
        for reader in readers:
            if not isinstance(reader, BriefReader):
                self._check_reader(reader)

    def _violate(self, check: str, id: str, address: str, *, expected: object, actual: object) -> None:
        self.history.violate(check, id, address=address, expected=str(expected), actual=str(actual))

    def _check_bursts(self) -> None:
        """What a committed turn sent arrives once and in order; what another one sent, never."""
        pairs: dict[tuple[str, str], list[str]] = {}
        for source in self.addresses:
            for op in self.live.effects(source):
                burst = self.history.work.bursts.get(op)
                if burst is not None:
                    sent = [f"{op}/{number}" for number in range(burst.messages)]
                    pairs.setdefault((source, burst.target), []).extend(sent)
        for burst in self.history.work.bursts.values():
            pairs.setdefault((burst.source, burst.target), [])
        for (source, target), sent in pairs.items():
            arrived = [entry for entry in self._arrived(target) if self._is_of(entry, source)]
            durable = kind_of(target) in DURABLE
            exact = durable and not self.live.parked.intersection(sent)
            if arrived != sent if exact else not self._may_be(arrived, sent, lossless=durable):
                self._violate(
                    "what a turn sends arrives once, in order", f"{source} to {target}", target,
                    expected=_difference(sent, arrived), actual=_difference(arrived, sent),
                )  # fmt: skip

    def _arrived(self, target: str) -> list[str]:
        if kind_of(target) in DURABLE:
            return self.live.effects(target)
        runs = self.history.runs.items()
        return [entry for entry, ran in runs for address, _ in ran if address == target]

    def _is_of(self, entry: str, source: str) -> bool:
        burst = self.history.work.bursts.get(entry.partition("/")[0])
        return burst is not None and "/" in entry and burst.source == source

    @staticmethod
    def _may_be(arrived: list[str], sent: list[str], *, lossless: bool) -> bool:
        return sorted(arrived) == sorted(sent) if lossless else not Counter(arrived) - Counter(sent)

    def _check_steps(self) -> None:
        """What a step's body sends arrives once if the step has returned, and never if it has raised."""
        for (op, name), run in self.history.work.steps.items():
            if not run.sends_to:
                continue
            applied = self.live.effects(run.sends_to).count(f"{op}/{name}")
            allowed = {None: (0, 1), "raised": (0,)}.get(run.value, (1,))
            if applied not in allowed:
                self._violate(
                    "what a step sends arrives with its result", f"{op}/{name}", run.sends_to,
                    expected=f"{allowed} effects of {run}", actual=applied,
                )  # fmt: skip

    def _check_reminders(self) -> None:
        """One effect for one due time, and none is lost."""
        cancelled = {name: op for op, name in self.history.work.cancelled.items()}
        for name, reminded in self.history.work.reminders.items():
            effects = self.live.effects(reminded.address)
            times = [float(entry.partition("!")[2]) for entry in effects if entry.startswith(f"{name}!")]
            over = cancelled.get(name, "") in effects
            if not self._fits(reminded, times, kept=name in effects, over=over):
                self._violate(
                    "a reminder has one effect for one due time", name, reminded.address,
                    expected=f"{reminded}{', cancelled' * over}{', not committed' * (name not in effects)}",
                    actual=f"it took effect for {times}",
                )  # fmt: skip

    @staticmethod
    def _fits(reminded: Reminded, times: list[float], *, kept: bool, over: bool) -> bool:
        if not kept:
            return not times
        if not reminded.every:
            return len(times) == 1 or (over and not times)
        periods = [(time - times[0]) / reminded.every for time in times]
        regular = all(abs(period - round(period)) < 0.001 for period in periods)
        return regular and len(set(map(round, periods))) == len(times) and over

    def _check_channel(self, address: str, channel: str) -> None:
        """Dense offsets; what committed turns published, once and in order; what others published, never."""
        items = items_of(self.store, address, channel)
        heads = self.store.rows(address, CHANNEL + channel.encode())
        head = msgspec.msgpack.decode(heads[CHANNEL + channel.encode()], type=ChannelHead) if heads else ChannelHead(0)
        if [offset for offset, _ in items] != list(range(head.next)):
            self._violate(
                "offsets are dense", channel, address, expected=f"0 to {head.next - 1}", actual=[o for o, _ in items]
            )
        told = {
            op: told
            for op, told in self.history.work.told.items()
            if (told.address, told.channel) == (address, channel)
        }
        found = [item for item in _as_read(items) if item.partition(".")[0] in told]
        done = [op for op in self.live.effects(address) if op in told]
        expected = [f"{op}.{number}" for op in done for number in range(told[op].items)]
        if channel == "output":
            matches = found == expected
        else:  # of a stream whose turn was given up at its limits there may be more
            matches = [item for item in found if item.partition(".")[0] in done] == expected
        if not matches and not self.live.parked.intersection(told):
            self._violate(
                "what turns publish is there once, in order", channel, address,
                expected=_difference(expected, found), actual=_difference(found, expected),
            )  # fmt: skip

    def _check_publications(self) -> None:
        """From outside: success is once, rejection never, the unknown at most once."""
        allowed = {"ok": (1,), "rejected": (0,)}
        for op in self.history.ops.values():
            if op.mode != "publish":
                continue
            count = _as_read(items_of(self.store, op.address, "output")).count(op.id)
            if count not in allowed.get(op.outcome, (0, 1)):
                self._violate(
                    "publications fit outcomes", op.id, op.address, expected=f"{op.outcome}: {allowed}", actual=count
                )

    def _check_toils(self) -> None:
        """What a stopped turn published is there from its beginning on, or not at all; else it is all there."""
        read = _as_read(items_of(self.store, PUPIL, "output"))
        effects = self.live.effects(PUPIL)
        for op, count in self.history.work.toils.items():
            found = [item for item in read if item.partition(".")[0] == op]
            expected = [f"{op}.{number}" for number in range(count)]
            if op not in effects or op in self.history.work.cut_short:
                expected = expected[: len(found)]
            if found != expected and op not in self.live.parked:
                self._violate(
                    "what is left of a turn that was stopped", op, PUPIL, expected=_difference(expected, found),
                    actual=_difference(found, expected),
                )  # fmt: skip

    def _check_reader(self, reader: Reader) -> None:
        """Every reader has read what the store has."""
        stored = items_of(self.store, reader.address, reader.channel)
        seen = [(event.offset, event.kind, event.data) for event in reader.events if event.kind != "closed"]
        truth = [(offset, item.kind, msgspec.msgpack.decode(item.data)) for offset, item in stored]
        erased = kind_of(reader.address) == "scrap"
        if seen != truth and not (erased and [event for event in seen if event in truth] == truth):
            self._violate(
                "readers see what was published", reader.name, reader.address,
                expected=_difference(truth, seen), actual=_difference(seen, truth),
            )  # fmt: skip


def _as_read(items: Iterable[tuple[int, ChannelItem]]) -> list[str]:
    """What a reader has in the end who discards what a reset says."""
    kept: list[tuple[int, str]] = []
    for offset, item in items:
        data = msgspec.msgpack.decode(item.data)
        if item.kind == "reset":
            kept = [(other, text) for other, text in kept if other < data]
        else:
            kept.append((offset, data))
    return [text for _, text in kept]


def _difference(these: Sequence[object], those: Sequence[object]) -> str:
    at = next(
        (n for n, pair in enumerate(zip(these, those, strict=False)) if pair[0] != pair[1]), min(len(these), len(those))
    )
    return f"{len(these)}, from {at} on {these[at : at + 6]}"
