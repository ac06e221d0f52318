"""The first frames of a link: each side says who it is, and proves that it belongs to the cluster.

The dialling side sends Hello with a random challenge, the accepting one answers with Hello, its own challenge and its
proof, the dialling one sends Open with its proof. A proof binds both challenges, both ids, the cluster and the
direction, so that it is of no use on any other link.
"""

import secrets
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, Protocol

from google.protobuf.message import DecodeError

from cluster.transport import frame
from cluster.transport.credentials import Credentials
from cluster.transport.link_pb2 import ROLE_CLIENT, ROLE_SILO, Frame, Hello, Open, Refused
from cluster.transport.refusal import Refusal

_NONCE_BYTES: Final = 16
_MAX_ID: Final = 256  # characters


class Stream(Protocol):
    """One side of the RPC, as gRPC offers it to either end."""

    async def read(self) -> object:
        """The next message, or ``grpc.aio.EOF``."""
        ...

    async def write(self, message: bytes, /) -> None: ...


@dataclass(frozen=True, kw_only=True)
class Identity:
    """What this side says about itself on each of its links."""

    id: str
    cluster: str
    credentials: Credentials
    window: int
    max_payload: int

    def hello(self, *, is_silo: bool, nonce: bytes, expected: str = "", proof: bytes = b"") -> bytes:
        """The encoded Hello."""
        hello = Hello(
            version=frame.VERSION,
            oldest_version=frame.OLDEST_VERSION,
            cluster=self.cluster,
            id=self.id,
            role=ROLE_SILO if is_silo else ROLE_CLIENT,
            expected=expected,
            window=self.window,
            max_payload=self.max_payload,
            nonce=nonce,
            proof=proof,
        )
        return Frame(hello=hello).SerializeToString()


@dataclass(frozen=True, kw_only=True)
class Introduction:
    """What the other side has said about itself."""

    id: str
    is_silo: bool
    version: int
    """Of the link protocol: the newest that both sides speak."""
    window: int
    max_payload: int


async def introduce(stream: Stream, identity: Identity, *, expected: str, is_silo: bool) -> tuple[Introduction, bytes]:
    """The dialling side, up to the Open frame, which is returned: sending it opens the link.

    ``expected`` is the id that the other side must have; empty is any. Raises ``Refusal`` whichever side refused, and
    ``EOFError`` if the stream ended.
    """
    nonce = secrets.token_bytes(_NONCE_BYTES)
    await stream.write(identity.hello(is_silo=is_silo, nonce=nonce, expected=expected))
    received = await _read(stream)
    if received.HasField("refused"):
        raise Refusal(received.refused.reason, received.refused.text)
    try:
        hello = _checked(received, identity)
        if expected and hello.id != expected:
            raise Refusal(Refused.SILO, f"{hello.id!r} listens here, not {expected!r}")
        parts = (identity.cluster, identity.id, hello.id, nonce, hello.nonce)
        credentials = identity.credentials
        if credentials.token is None and hello.proof:
            raise Refusal(Refused.CREDENTIALS, "the cluster asks for a token and this side has none configured")
        if not credentials.verify(hello.proof, "accept", *parts):
            raise Refusal(Refused.CREDENTIALS, "the two sides do not have the same token")
    except Refusal as refusal:
        await _tell(stream, refusal)
        raise
    return _introduction(hello), Frame(open=Open(proof=credentials.prove("dial", *parts))).SerializeToString()


async def admit(stream: Stream, identity: Identity, *, closed_to: Callable[[Introduction], str]) -> Introduction | None:
    """The accepting side; None if the dialling side thought better of it. It is refused where ``closed_to`` says why.

    Raises ``Refusal`` whichever side refused: the other side has been told.
    """
    try:
        hello = _checked(await _read(stream), identity)
        if hello.expected and hello.expected != identity.id:
            raise Refusal(Refused.SILO, f"{identity.id!r} listens here, not {hello.expected!r}")
        if hello.id == identity.id:
            raise Refusal(Refused.SILO, f"{hello.id!r} is the id of the silo that it dialled")
        if why := closed_to(_introduction(hello)):
            raise Refusal(Refused.CLOSING, f"{identity.id} takes no {why}")
        nonce = secrets.token_bytes(_NONCE_BYTES)
        parts = (identity.cluster, hello.id, identity.id, hello.nonce, nonce)
        proof = identity.credentials.prove("accept", *parts)
        await stream.write(identity.hello(is_silo=True, nonce=nonce, proof=proof))
        try:
            answer = await _read(stream)
        except EOFError:
            return None
        if not answer.HasField("refused"):
            _check_open(answer, identity, parts)
    except Refusal as refusal:
        await _tell(stream, refusal)
        raise
    if answer.HasField("refused"):
        raise Refusal(answer.refused.reason, answer.refused.text)
    return _introduction(hello)


def _check_open(answer: Frame, identity: Identity, parts: tuple[str | bytes, ...]) -> None:
    if not answer.HasField("open"):
        raise Refusal(Refused.PROTOCOL, "Open was expected")
    if not identity.credentials.verify(answer.open.proof, "dial", *parts):
        raise Refusal(Refused.CREDENTIALS, "the two sides do not have the same token")


async def _tell(stream: Stream, refusal: Refusal) -> None:
    # Where the stream is gone, the refusal is still what the caller must see.
    with suppress(Exception):
        await stream.write(refusal.frame())


def _introduction(hello: Hello) -> Introduction:
    return Introduction(
        id=hello.id,
        is_silo=hello.role == ROLE_SILO,
        version=min(hello.version, frame.VERSION),
        window=hello.window,
        max_payload=hello.max_payload,
    )


def _checked(received: Frame, identity: Identity) -> Hello:
    if not received.HasField("hello"):
        raise Refusal(Refused.PROTOCOL, "Hello was expected")
    hello = received.hello
    if hello.oldest_version > frame.VERSION or hello.version < frame.OLDEST_VERSION:
        ours, theirs = (frame.OLDEST_VERSION, frame.VERSION), (hello.oldest_version, hello.version)
        text = "one side speaks versions {} to {} of the link protocol, the other {} to {}: upgrade the older"
        raise Refusal(Refused.VERSION, text.format(*ours, *theirs))
    if hello.cluster != identity.cluster:
        text = f"one side belongs to cluster {identity.cluster!r}, the other to {hello.cluster!r}"
        raise Refusal(Refused.CLUSTER, text)
    if not hello.id or len(hello.id) > _MAX_ID or len(hello.nonce) < _NONCE_BYTES:
        raise Refusal(Refused.PROTOCOL, "Hello lacks a usable id or nonce")
    if hello.window < frame.MIN_WINDOW or not hello.max_payload:
        raise Refusal(Refused.PROTOCOL, f"a window below {frame.MIN_WINDOW} bytes or no payload limit")
    return hello


async def _read(stream: Stream) -> Frame:
    data = await stream.read()
    if not isinstance(data, bytes):
        raise EOFError("the other side ended the stream during the handshake")
    try:
        return Frame.FromString(data)
    except DecodeError as error:
        raise Refusal(Refused.PROTOCOL, "a frame that cannot be parsed") from error
