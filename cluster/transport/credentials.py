"""Who may open links, and how both sides prove it."""

import hmac
from dataclasses import dataclass, field
from pathlib import Path

import grpc


@dataclass(frozen=True, kw_only=True)
class Credentials:
    """What the members of a cluster share: a token, certificates, both, or nothing.

    ``token`` is a random secret known to every silo and client. It never crosses the wire: each side proves that it
    knows it by answering the other's random challenge. With ``tls_ca``, ``tls_cert`` and ``tls_key`` (paths of PEM
    files; all three or none) links are encrypted and both sides verify the other's certificate against the CA. The
    accepting side's certificate must name the host of its endpoint, or ``tls_server_name`` where that is set.

    Files are read whenever a silo starts to listen or a link is dialled, so that renewed certificates need no restart
    of the dialling side. Raises ``ValueError`` for an empty token or an incomplete set of paths.
    """

    token: str | None = field(default=None, repr=False)
    tls_ca: str | None = None
    tls_cert: str | None = None
    tls_key: str | None = None
    tls_server_name: str | None = None

    def __post_init__(self) -> None:
        if self.token is not None and not self.token:
            raise ValueError("the token is empty: give a random one, or None for no token")
        paths = (self.tls_ca, self.tls_cert, self.tls_key)
        if any(paths) and not all(paths):
            raise ValueError("TLS needs all of tls_ca, tls_cert and tls_key: both sides verify each other")

    @property
    def tls(self) -> bool:
        """Whether links are encrypted and verified by certificates."""
        return self.tls_ca is not None

    @property
    def none(self) -> bool:
        """Whether nothing protects links: good for one machine only."""
        return self.token is None and not self.tls

    def prove(self, *parts: str | bytes) -> bytes:
        """The answer to a challenge that only a holder of the token can give; empty without a token."""
        if self.token is None:
            return b""
        proof = hmac.new(self.token.encode(), digestmod="sha256")
        for part in parts:
            data = part.encode() if isinstance(part, str) else part
            # Lengths keep ("ab", "c") and ("a", "bc") apart.
            proof.update(len(data).to_bytes(8, "big") + data)
        return proof.digest()

    def verify(self, proof: bytes, *parts: str | bytes) -> bool:
        """Whether the other side knows the token; compares in constant time. True without a token."""
        return self.token is None or hmac.compare_digest(proof, self.prove(*parts))

    def for_server(self) -> grpc.ServerCredentials | None:
        """What a listening port asks of those who dial; None is plain text. Raises ``OSError`` for unreadable files."""
        if self.tls_ca is None or self.tls_cert is None or self.tls_key is None:
            return None
        pair = (Path(self.tls_key).read_bytes(), Path(self.tls_cert).read_bytes())
        return grpc.ssl_server_credentials([pair], Path(self.tls_ca).read_bytes(), require_client_auth=True)

    def for_channel(self) -> grpc.ChannelCredentials | None:
        """What a dialled connection shows and asks for; None is plain text. Raises ``OSError`` for unreadable files."""
        if self.tls_ca is None or self.tls_cert is None or self.tls_key is None:
            return None
        ca, key, cert = (Path(path).read_bytes() for path in (self.tls_ca, self.tls_key, self.tls_cert))
        return grpc.ssl_channel_credentials(ca, key, cert)
