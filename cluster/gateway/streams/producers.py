"""Idempotent producers: whether an append is new, a repeat, or out of turn (protocol, 5.2.1)."""

from typing import NamedTuple

from cluster.gateway.streams.stream_state import Code, Producer


class Verdict(NamedTuple):
    """What to do with a producer's append; epoch and sequence number are for its answer."""

    code: Code
    epoch: int
    seq: int
    detail: str = ""


def judge(known: Producer | None, epoch: int, seq: int) -> Verdict:
    """Compare an append with what its producer has written last."""
    if known is None:
        if seq:
            return Verdict("gap", epoch, 0, f"a new producer begins with sequence number 0, not {seq}")
        return Verdict("ok", epoch, 0)
    if epoch < known.epoch:
        return Verdict("fenced", known.epoch, known.seq, f"the producer has begun epoch {known.epoch}")
    if epoch > known.epoch:
        if seq:
            return Verdict("invalid", known.epoch, known.seq, f"a new epoch begins with sequence number 0, not {seq}")
        return Verdict("ok", epoch, 0)
    if seq <= known.seq:
        return Verdict("duplicate", known.epoch, known.seq)
    if seq > known.seq + 1:
        return Verdict("gap", known.epoch, known.seq + 1, f"sequence number {known.seq + 1} is expected, not {seq}")
    return Verdict("ok", epoch, seq)
