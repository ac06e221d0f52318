"""Frames on the wire: limits, encoding, and what an envelope weighs."""

from typing import Final

import msgspec

from actors.envelope import Envelope, Failure, Item, Query, Reply, Request
from cluster.transport.link_pb2 import Chunk, Frame

METHOD: Final = "/agentsilo.link.v1.Link/Frames"
VERSION: Final = 1
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
FRAME_BYTES: Final = 2 * BATCH_BYTES + 4 * KIB  # what gRPC accepts; see Outgoing for why a batch stays below

_OVERHEAD: Final = 64  # bytes of an ordinary envelope, its payload aside

_encoder = msgspec.msgpack.Encoder()
_batch_decoder = msgspec.msgpack.Decoder(list[Envelope])
_envelope_decoder: msgspec.msgpack.Decoder[Envelope] = msgspec.msgpack.Decoder(Envelope)

encode = _encoder.encode
decode_batch = _batch_decoder.decode


def decode_envelope(data: bytes | bytearray) -> Envelope:
    """One envelope that travelled alone. Raises ``msgspec.DecodeError``."""
    return _envelope_decoder.decode(data)


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
