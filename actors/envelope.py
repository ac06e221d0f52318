"""What runtimes say to each other. A frame on a link is one MessagePack array of these.

Every envelope is an array whose first element is its tag. ``id`` belongs to the side that sent the ``Request`` or
``Resolve`` and means something on that link only. Fields may be added at the end, with a default: an older peer
ignores what it does not know, a newer one fills in the default.

A new kind is a new version of the link protocol (``cluster/transport/frame.py``), and goes over links whose ``version``
is at least that. Its tag says what becomes of it where it is not known all the same. 13 to 63: its ``id`` is one of
the sender's, which gets a ``Failure``. From 64 on: its ``id`` is one of the receiver's, where it counts as a
``Failure``.
"""

from enum import IntEnum

import msgspec

FIRST_ANSWER = 64
"""The first of the tags whose envelopes answer something."""


class Mode(IntEnum):
    """What the sender of a request waits for."""

    ASK = 0  # a Reply or Failure
    SEND = 1  # Accepted or Failure
    STREAM = 2  # any number of Items, then End or Failure


class Request(msgspec.Struct, array_like=True, tag=1):
    """One message to an actor."""

    id: int
    address: str
    handler: str  # "" is receive
    payload: bytes  # see codec: the arguments as one MessagePack value
    mode: Mode
    timeout: float  # seconds left when it was sent; 0 is none
    message_id: str
    sender: str = ""  # address of the sending actor
    chain: tuple[tuple[str, str], ...] = ()  # (address, message id) of the turns that wait for this call
    typed: bool = False  # the sender decodes the result by the handler's annotations
    key: str = ""  # idempotency key
    headers: dict[str, str] = {}
    credit: int = 0  # STREAM: how much may be sent before Credit, see item_cost
    trusted: bool = True  # it came from an authenticated member: pickles in it may be loaded
    attempt: int = 0  # how often it was sent before without an answer
    done: tuple[str, ...] = ()  # message ids to this address whose recorded answers the sender has
    number: bytes = b""  # from an actor's outbox: rises from message to message of that sender
    previous: bytes = b""  # the number of the message before it to this address, if that may not have arrived
    outside: bool = False  # on behalf of somebody outside of the cluster: public handlers only, values as JSON has them
    on_busy: str = ""  # what it does to a running turn; "": what the actor's class says
    cancel_with_caller: bool = False  # interrupt it when its caller gives up or is gone
    client: str = ""  # which client it came from, if no actor sent it

    @property
    def caller(self) -> str:
        """Who shares room fairly with others; the messages of one caller stay in order."""
        return self.sender or self.client


class Reply(msgspec.Struct, array_like=True, tag=2):
    """The result of an ASK."""

    id: int
    payload: bytes
    recorded: bool = False  # kept for repeats until the sender says that it has it


class Failure(msgspec.Struct, array_like=True, tag=3):
    """The request failed. ``error`` names a class of ``actors.errors``; the rest describes an ActorFailed."""

    id: int
    error: str
    text: str
    type_name: str = ""
    message: str = ""
    traceback: str = ""
    args: bytes = b""  # the original exception's arguments, encoded
    recorded: bool = False


class Accepted(msgspec.Struct, array_like=True, tag=4):
    """A SEND is in the mailbox (or durable inbox) of its actor."""

    id: int
    recorded: bool = False
    message_id: str = ""  # of the first message with its idempotency key, if that is another one


class Item(msgspec.Struct, array_like=True, tag=5):
    """One item of a STREAM."""

    id: int
    payload: bytes


class End(msgspec.Struct, array_like=True, tag=6):
    """A STREAM came to its natural end."""

    id: int


class Credit(msgspec.Struct, array_like=True, tag=7):
    """The reader of a STREAM has room for so much more, in units of ``item_cost``."""

    id: int
    amount: int


class Leave(msgspec.Struct, array_like=True, tag=8):
    """The caller no longer listens for request ``id``. Stops nothing but the sending of its items."""

    id: int


class Resolve(msgspec.Struct, array_like=True, tag=9):
    """Activate the address on the receiving silo, unless it lives elsewhere already; answered by Located or Failure."""

    id: int
    address: str
    wakes: bool = False  # nothing waits for the answer: messages that were turned away may still be on their way back


class Located(msgspec.Struct, array_like=True, tag=10):
    """The owner of the address asked for by Resolve."""

    id: int
    silo: str
    epoch: int


class NotHere(msgspec.Struct, array_like=True, tag=11):
    """The receiving silo does not own the address of request ``id``, which took no effect yet. Look again."""

    id: int
    began: bool = False  # it had begun to run when the silo gave the address up, or is stored and will run
    lost: bool = False  # it had begun, and the address was not given up in good order: that may happen so often


class Query(msgspec.Struct, array_like=True, tag=12):
    """A question about the cluster rather than to an actor, e.g. who its members are; answered by Reply or Failure."""

    id: int
    topic: str
    argument: str = ""
    payload: bytes = b""


Envelope = Request | Reply | Failure | Accepted | Item | End | Credit | Leave | Resolve | Located | NotHere | Query


def item_cost(payload: bytes) -> int:
    """What an item takes of its stream's credit: 1, and 1 more for every 64 KiB."""
    return 1 + (len(payload) >> 16)
