"""Keys and tokens for tests, and a server that publishes a JWK Set."""

import asyncio
import base64
import json
import time
import warnings
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, HMACAlgorithm, OKPAlgorithm, RSAAlgorithm

SECRET = "a secret of the tests that is long enough for each of the hashes that there are"

RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)
OTHER_RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)
SHORT_RSA = rsa.generate_private_key(public_exponent=65537, key_size=1024)
EC = ec.generate_private_key(ec.SECP256R1())
ED = ed25519.Ed25519PrivateKey.generate()
PEM = RSA.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


class In(NamedTuple):
    """A time so many seconds from when the token is made."""

    seconds: int


def claims(**changed: Any) -> dict[str, Any]:
    """Of a token that may do everything for a minute; None leaves a claim out."""
    now = int(time.time())
    found = {"act": "**", "verbs": ["send", "ask", "read", "interrupt", "admin"], "iat": now, "exp": now + 60}
    found |= {name: now + value.seconds if isinstance(value, In) else value for name, value in changed.items()}
    return {name: value for name, value in found.items() if value is not None}


def signed(key: Any = SECRET, algorithm: str = "HS256", *, kid: str | None = None, **changed: Any) -> str:
    with warnings.catch_warnings(category=jwt.warnings.InsecureKeyLengthWarning, action="ignore"):
        return jwt.encode(claims(**changed), key, algorithm=algorithm, headers={"kid": kid} if kid else None)


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def part(value: object) -> str:
    """A part of a token that no library would make."""
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def forged(header: object, payload: object, *, key: bytes = SECRET.encode()) -> str:
    """With a good signature by HS256, whatever it says; libraries refuse to make such tokens."""
    token = f"{part(header)}.{part(payload)}"
    return f"{token}.{part(HMACAlgorithm(HMACAlgorithm.SHA256).sign(token.encode(), key))}"


def jwk(key: Any, kid: str | None, **more: object) -> dict[str, Any]:
    """The public half, as a set has it."""
    public = key.public_key()
    if isinstance(key, rsa.RSAPrivateKey):
        found = RSAAlgorithm.to_jwk(public, as_dict=True)
    elif isinstance(key, ec.EllipticCurvePrivateKey):
        found = ECAlgorithm.to_jwk(public, as_dict=True)
    else:
        found = OKPAlgorithm.to_jwk(public, as_dict=True)
    return {**found, **({"kid": kid} if kid else {}), **more}


class Publisher:
    """Publishes whatever it is told to, counts who asks, and answers only while it may."""

    def __init__(self) -> None:
        self.keys: list[dict[str, Any]] = []
        self.body: bytes | None = None
        self.raw: bytes | None = None
        self.status = 200
        self.asked = 0
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self.url = ""

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        self.asked += 1
        await self.may_answer.wait()
        body = json.dumps({"keys": self.keys}).encode() if self.body is None else self.body
        head = f"HTTP/1.1 {self.status} X\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode()
        writer.write(head + body if self.raw is None else self.raw)
        writer.close()


@asynccontextmanager
async def published(*keys: dict[str, Any]) -> AsyncIterator[Publisher]:
    publisher = Publisher()
    publisher.keys = list(keys)
    server = await asyncio.start_server(publisher.answer, "127.0.0.1", 0)
    publisher.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/keys"
    try:
        yield publisher
    finally:
        publisher.may_answer.set()
        server.close()
