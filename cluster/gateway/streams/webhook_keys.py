"""The keys that sign webhooks: Ed25519, one set for the whole cluster, stored with its state."""

import base64
import hashlib
import time
from typing import TYPE_CHECKING

import msgspec

from actors import Actor, handler
from actors.errors import Rejected
from cluster.gateway.streams.names import KEYS

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

KEPT = 24 * 3600.0
"""Seconds for which a replaced key is still published: longer than any receiver accepts an old signature."""


class SigningKey(msgspec.Struct):
    """A private key, its name, and since when it signs no more (0: it does)."""

    kid: str
    private: bytes
    public: bytes
    replaced: float = 0.0


class KeyState(msgspec.Struct):
    """The newest key is the last one."""

    keys: list[SigningKey] = []


class PublicKey(msgspec.Struct, frozen=True):
    """A key of a JWK Set (RFC 8037)."""

    kid: str
    x: str
    kty: str = "OKP"
    crv: str = "Ed25519"
    use: str = "sig"
    alg: str = "EdDSA"


class Signature(msgspec.Struct, frozen=True):
    """An Ed25519 signature and the key that made it."""

    kid: str
    value: bytes


class WebhookKeys(Actor, type="webhook_keys", idle_timeout=600):
    """Makes the first key when it is needed. Private keys never leave this actor; they are as safe as the store is.

    Raises ``Rejected`` where the package cryptography is not installed.
    """

    state: KeyState

    @handler
    async def public(self) -> list[PublicKey]:
        """The keys with which signatures can be verified, the one that signs now first."""
        self._ready()
        return [PublicKey(key.kid, _text(key.public)) for key in reversed(self.state.keys)]

    @handler
    async def sign(self, message: bytes) -> Signature:
        """Sign with the newest key."""
        self._ready()
        key = self.state.keys[-1]
        return Signature(key.kid, _ed25519().from_private_bytes(key.private).sign(message))

    @handler
    async def rotate(self) -> str:
        """Sign with a new key from now on; return its name. The old ones are published for ``KEPT`` seconds."""
        now = time.time()
        for key in self.state.keys:
            key.replaced = key.replaced or now
        self.state.keys = [key for key in self.state.keys if key.replaced > now - KEPT]
        self._add()
        return self.state.keys[-1].kid

    def _ready(self) -> None:
        if not self.state.keys:
            self._add()

    def _add(self) -> None:
        key = _ed25519().generate()
        public = key.public_key().public_bytes_raw()
        # RFC 7638: the thumbprint of the key names it.
        thumbprint = hashlib.sha256(f'{{"crv":"Ed25519","kty":"OKP","x":"{_text(public)}"}}'.encode()).digest()
        self.state.keys.append(SigningKey(f"ds_{_text(thumbprint)}", key.private_bytes_raw(), public))


def keys_address() -> str:
    """The address of the cluster's keys."""
    return f"{KEYS}-all"


def _ed25519() -> "type[Ed25519PrivateKey]":
    try:
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    except ImportError:
        raise Rejected("webhooks are signed with the package cryptography: pip install cryptography") from None
    return Ed25519PrivateKey


def _text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
