"""Frames on the wire: limits, encoding, and what an envelope weighs."""

from collections.abc import Iterator
from typing import Final, NamedTuple, get_args

import msgspec

from actors.envelope import FIRST_ANSWER, Envelope, Failure, Item, Query, Reply, Request
from cluster.transport.link_pb2 import Chunk, Frame

METHOD: Final = "/agentsilo.link.v1.Link/Frames"
VERSION: Final = 2
"""Of the link protocol. Whatever the other side must know to make sense of what this one sends is a new version, and is
sent over links of that version (``Link.version``) only. So that both may be upgraded one by one, a release speaks all
versions that the release before it spoke.

1: release 0.1.0. An envelope of an unknown kind ends the link, and so does Bye, whatever waits for an answer.
2: such an envelope is answered (see ``actors.envelope``), and so is Bye.
"""
GOODBYE: Final = 2
"""The version from which on a link outlives its first Bye."""
OLDEST_VERSION: Final = 1

KIB: Final = 1024
MIB: Final = 1024 * KIB
MIN_WINDOW: Final = 64 * KIB
DEFAULT_WINDOW: Final = 16 * MIB
DEFAULT_MAX_PAYLOAD: Final = 65 * MIB  # 64 MiB of payload, and room for the rest of its envelope
BATCH_BYTES: Final = 256 * KIB
BATCH_ENVELOPES: Final = 1000
LARGE_BYTES: Final = 128 * KIB  # an envelope above this travels in chunks of this size
CHUNKS_UNDER_WAY: Final = 1 * MIB  # what a small message may have to wait behind
CREDIT_BYTES: Final = 256 * KIB  # credit is returned at the latest when so much is owed
AHEAD_BYTES: Final = 512 * KIB  # unread by the peer; above it only full batches leave. More than any release owes
FRAME_BYTES: Final = 2 * BATCH_BYTES + 4 * KIB  # what gRPC accepts; see Outgoing for why a batch stays below

_OVERHEAD: Final = 64  # bytes of an ordinary envelope, its payload aside


class Unknown(NamedTuple):
    """An envelope of a kind that a newer release has added."""

    tag: int
    id: int

    @property
    def answers(self) -> bool:
        """Whether its id is one of this side's, and something here waits for it."""
        return self.tag >= FIRST_ANSWER


_encoder = msgspec.msgpack.Encoder()
_batch_decoder = msgspec.msgpack.Decoder(list[Envelope])
_envelope_decoder: msgspec.msgpack.Decoder[Envelope] = msgspec.msgpack.Decoder(Envelope)

_raw_decoder = msgspec.msgpack.Decoder(list[msgspec.Raw])
_KNOWN: Final = frozenset(kind.__struct_config__.tag for kind in get_args(Envelope))

encode = _encoder.encode
decode_batch = _batch_decoder.decode


def decode_one_by_one(data: bytes) -> Iterator[Envelope | Unknown]:
    """The envelopes of a batch with kinds that are not known here. Raises ``msgspec.DecodeError``."""
    for raw in _raw_decoder.decode(data):
        yield decode_or_name(bytes(raw))


def decode_or_name(data: bytes | bytearray) -> Envelope | Unknown:
    """One envelope, or what it says of itself if its kind is not known here. Raises ``msgspec.DecodeError``."""
    try:
        return _envelope_decoder.decode(data)
    except msgspec.ValidationError:
        head = msgspec.msgpack.decode(data)
        if not (isinstance(head, list) and len(head) > 1 and type(head[0]) is type(head[1]) is int):
            raise
        if head[0] in _KNOWN or head[0] < 0:
            raise
        return Unknown(head[0], head[1])


def batch_frame(batch: bytes) -> bytes:
    """A frame with an encoded array of envelopes."""
    return Frame(batch=batch).SerializeToString()


def chunk_frame(id: int, total: int, data: bytes) -> bytes:
    """A frame with one piece of a large envelope."""
    return Frame(chunk=Chunk(id=id, total=total, data=data)).SerializeToString()


def weigh(envelope: Envelope) -> int:
    """About how many bytes the envelope takes on the wire, without encoding it. Long text may take more."""
    # Replies and requests first: this runs for each envelope.
    if isinstance(envelope, Reply):
        return _OVERHEAD + len(envelope.payload)
    if isinstance(envelope, Request):
        if not envelope.headers:
            return _OVERHEAD + len(envelope.payload)
        headers = sum(len(name) + len(value) for name, value in envelope.headers.items())
        return _OVERHEAD + len(envelope.payload) + headers
    if isinstance(envelope, Item | Query):
        return _OVERHEAD + len(envelope.payload)
    if isinstance(envelope, Failure):
        text = len(envelope.text) + len(envelope.message) + len(envelope.traceback)
        return _OVERHEAD + text + len(envelope.args)
    return _OVERHEAD
