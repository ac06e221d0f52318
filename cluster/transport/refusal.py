"""Why a link was not opened.

    ConnectionError
    └── LinkRefused
        ├── WrongCluster         the other side belongs to another cluster
        ├── WrongSilo            another silo listens behind the endpoint now
        └── UnsupportedVersion   no version of the protocol that both speak

Bad or missing credentials are ``actors.errors.NotAuthorized``.
"""

from typing import Final

from actors.errors import NotAuthorized
from cluster.transport.link_pb2 import Frame, Refused


class LinkRefused(ConnectionError):
    """One of the two sides did not want the link. Nothing was sent over it."""


class WrongCluster(LinkRefused):
    """The other side belongs to another cluster."""


class WrongSilo(LinkRefused):
    """Not the expected silo listens behind the endpoint: it is gone, and its port was taken by another incarnation."""


class UnsupportedVersion(LinkRefused):
    """There is no version of the link protocol that both sides speak."""


_ERRORS: Final[dict[int, type[Exception]]] = {
    Refused.VERSION: UnsupportedVersion,
    Refused.CLUSTER: WrongCluster,
    Refused.SILO: WrongSilo,
    Refused.CREDENTIALS: NotAuthorized,
}


class Refusal(Exception):
    """A reason not to open the link, to be told to the other side."""

    def __init__(self, reason: Refused.Reason.ValueType, text: str) -> None:
        super().__init__(text)
        self.reason = reason
        self.text = text

    def frame(self) -> bytes:
        """The frame that tells the other side."""
        return Frame(refused=Refused(reason=self.reason, text=self.text)).SerializeToString()

    def error(self, where: str) -> Exception:
        """What the dialling caller gets to see: a ``LinkRefused`` or ``NotAuthorized``."""
        return _ERRORS.get(self.reason, LinkRefused)(f"no link to {where}: {self.text}")
