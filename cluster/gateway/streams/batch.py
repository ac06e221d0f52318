"""Writes to a stream that are committed together: what comes of each, and what is to be stored of them."""

import time

from actors.effects import Effects
from actors.producers import Producer, Producers
from cluster.gateway.streams import json_mode
from cluster.gateway.streams.stream_state import CLOSED, DATA, Appended, Code, Entry, StreamState, Write


class Batch:
    """Takes one write after the other. Changes the state, and what is known of producers, as if all were stored."""

    __slots__ = ("_before", "_producers", "_state", "effects", "entries", "is_use", "next", "touches_state")

    def __init__(
        self, state: StreamState, end: int, producers: Producers, silent_before: float, effects: Effects
    ) -> None:
        self._state = state
        self._producers = producers
        self._before = silent_before
        self.entries: list[Entry] = []
        self.next = end
        """The position behind the last of the entries."""
        self.effects = effects
        """What is to be committed beside the entries."""
        self.touches_state = False
        self.is_use = False
        """Whether a sliding window begins anew."""

    def add(self, data: bytes, *, close: bool = False) -> None:
        """One more entry."""
        self.entries.append((self.next, data, CLOSED if close else DATA))
        self.next += bool(data)
        self.is_use = True

    def write(self, write: Write) -> Appended:
        """What comes of a write; if it is good, its entry is one more of those that are to be published."""
        state, body = self._state, b""
        if state.closed:
            return self._to_closed(write)
        if write.body:
            if not _is_same_type(write.content_type, state.content_type):
                return self._appended("conflict", detail=f"the stream's content type is {state.content_type!r}")
            try:
                body = to_store(write.body, state.content_type)
            except ValueError as error:
                return self._appended("invalid", detail=str(error))
            if not body:
                return self._appended("invalid", detail="an empty array appends nothing")
        if write.producer is not None:
            name, epoch, seq = write.producer
            verdict = self._producers.judge(name, epoch, seq, self._before, otherwise=state.producers.get(name))
            if verdict.code != "ok":
                return self._appended(verdict.code, detail=verdict.detail, epoch=verdict.epoch, seq=verdict.seq)
        if write.seq is not None:
            if state.seq is not None and write.seq.encode() <= state.seq.encode():
                return self._appended("conflict", detail=f"Stream-Seq must be above {state.seq!r}")
            state.seq = write.seq
            self.touches_state = True
        self.add(body, close=write.close)
        if write.close:
            state.closed, state.next = True, self.next
            self.touches_state = True
        if write.producer is None:
            return self._appended("ok")
        return self._produced(write, write.producer)

    def _produced(self, write: Write, producer: tuple[str, int, int]) -> Appended:
        name, epoch, seq = producer
        self._producers.write(name, Producer(epoch, seq, time.time()), self.effects.put, self.effects.drop)
        if self._state.producers.pop(name, None) is not None:
            self.touches_state = True
        self._state.closed_by = producer if write.close else None
        return self._appended("ok", epoch=epoch, seq=seq)

    def _to_closed(self, write: Write) -> Appended:
        """What a write to a closed stream comes to."""
        if write.producer is not None:
            if write.close and write.producer == self._state.closed_by:
                _, epoch, seq = write.producer
                return self._appended("duplicate", epoch=epoch, seq=seq)
        elif write.close and not write.body:
            self.is_use = True
            return self._appended("duplicate")
        return self._appended("closed", detail="the stream is closed")

    def _appended(self, code: Code, *, detail: str = "", epoch: int | None = None, seq: int | None = None) -> Appended:
        state = self._state
        return Appended(code, state.generation, self.next, state.closed, detail, epoch, seq)


def _is_same_type(content_type: str, other: str) -> bool:
    return content_type == other or json_mode.media_type(content_type) == json_mode.media_type(other)


def to_store(body: bytes, content_type: str) -> bytes:
    """A body as an entry holds it. Raises ``ValueError``."""
    return json_mode.join(json_mode.split(body)) if body and json_mode.is_json(content_type) else body
