"""The settings of a gateway."""

import dataclasses
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self, TypeVar, get_type_hints

from cluster.gateway.chat.chat import Chat, check_paths, parse_chats

T = TypeVar("T")

SHORTEST_SECRET: Final = 32
"""Bytes. RFC 7518, 3.2: a key for HS256 is as long as its hash, or can be found out from any token."""


def _setting(meaning: str, *, default: T, secret: bool = False) -> T:
    return dataclasses.field(default=default, metadata={"help": meaning}, repr=not secret)


@dataclass(frozen=True, kw_only=True)
class GatewayOptions:
    """Limits, origins and keys of the HTTP gateway. Times in seconds, sizes in bytes.

    Each is also an option of ``silo start``, ``up`` and ``dev`` (``--max-body``), a variable of the environment
    (``SILO_MAX_BODY``) and a key of the TOML file (``max_body``). Raises ``ValueError`` for what makes no sense.
    """

    auth_secret: str | None = _setting(
        "Secret that signs tokens (HS256). Better from the environment.", default=None, secret=True
    )
    auth_jwks: str | None = _setting("File or URL of the public keys of tokens (JWKS).", default=None)
    auth_issuer: str | None = _setting("The iss that tokens must have.", default=None)
    auth_audience: str | None = _setting("The aud that tokens must have.", default=None)
    auth_leeway: float = _setting("Seconds by which the clocks of issuers may differ from this one.", default=10.0)
    auth_require_expiry: bool = _setting("Tokens must have an exp.", default=True)
    auth_url_lifetime: float = _setting("Seconds that tokens in a URL (access_token=) may live at most.", default=300.0)
    auth_jwks_refresh: float = _setting("Seconds after which the JWKS is read again.", default=300.0)
    auth_jwks_cooldown: float = _setting("Seconds between two looks for a key that is not known.", default=10.0)
    cors_origins: tuple[str, ...] = _setting("Origins whose pages may come, comma separated, or *.", default=())
    cors_credentials: bool = _setting("Browsers may send cookies and the like; not with *.", default=False)
    client_rate: float = _setting("Requests a second for each token, or else address.", default=10_000.0)
    client_burst: int = _setting("Requests that may come at once for each of these.", default=20_000)
    client_concurrency: int = _setting("Requests and streams open at once for each of these.", default=20_000)
    max_connections: int = _setting("Connections of the HTTP port.", default=20_000)
    max_head: int = _setting("Bytes of a request's head.", default=64 * 2**10)
    max_body: int = _setting("Bytes of a request's body.", default=32 * 2**20)
    max_chunk: int = _setting("Bytes, about, of one answer of a stream.", default=4 * 2**20)
    max_frame: int = _setting("Bytes of a WebSocket message.", default=2**20)
    max_socket_requests: int = _setting("Requests that are open at once on a WebSocket.", default=64)
    max_socket_subscriptions: int = _setting("Subscriptions that are open at once on a WebSocket.", default=256)
    head_timeout: float = _setting("Seconds that the head of a request may take.", default=10.0)
    keep_alive_timeout: float = _setting("Seconds between two requests on a connection.", default=75.0)
    stall_timeout: float = _setting("Seconds in which a client must send or take enough.", default=20.0)
    min_rate: int = _setting("Bytes a second that are enough.", default=240)
    ping_interval: float = _setting("Seconds between pings on a WebSocket, and for their answers.", default=20.0)
    long_poll_timeout: float = _setting("Seconds that a long poll of a stream waits.", default=20.0)
    event_stream_lifetime: float = _setting("Seconds that server-sent events of a stream last.", default=60.0)
    local_webhooks: bool | None = _setting(
        "Webhooks may go to this machine over plain HTTP; by default where nobody needs a token.", default=None
    )
    pages: str | None = _setting("Folder of web pages that is served to everybody at /.", default=None)
    chats: tuple[Chat, ...] = _setting(
        "A chat for clients: ai-sdk:/PATH=TYPE.HANDLER, or ag-ui:...; repeatable.", default=()
    )

    def __post_init__(self) -> None:
        check_paths(self.chats)
        if "*" in self.cors_origins and self.cors_credentials:
            raise ValueError(
                "CORS: every origin (*) with credentials would let any page act for its visitor; list origins"
            )
        for setting in dataclasses.fields(self):
            value = getattr(self, setting.name)
            if type(value) in (int, float) and not (value > 0 and math.isfinite(value)) and setting.name not in _ZERO:
                raise ValueError(f"the gateway's {setting.name} must be positive, not {value!r}")
        for name in _ZERO:
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"the gateway's {name} must not be negative, not {getattr(self, name)!r}")
        for origin in self.cors_origins:
            scheme, found, host = origin.partition("://")
            if (origin != "*" and not (scheme and found and host)) or "/" in host:
                raise ValueError(f"cors_origins: {origin!r} is no origin; one looks like https://app.example")
        if self.auth_secret is not None and len(self.auth_secret.encode()) < SHORTEST_SECRET:
            raise ValueError(
                f"the gateway's auth_secret has less than {SHORTEST_SECRET} bytes and could be guessed from a token; "
                "`openssl rand -hex 32` makes a good one"
            )
        if self.pages is not None and not Path(self.pages).is_dir():
            raise ValueError(f"there is no folder {self.pages} with pages to serve (--pages, SILO_PAGES)")
        if not self.has_auth and (self.auth_issuer is not None or self.auth_audience is not None):
            raise ValueError("auth_issuer and auth_audience are checked in tokens: give auth_secret or auth_jwks, too")

    @property
    def allows_local_webhooks(self) -> bool:
        """Whether webhooks may go to this machine."""
        return not self.has_auth if self.local_webhooks is None else self.local_webhooks

    @property
    def has_auth(self) -> bool:
        """Whether requests need a token."""
        return self.auth_secret is not None or self.auth_jwks is not None

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Self:
        """Settings from ``SILO_LONG_POLL_TIMEOUT``, ``SILO_CORS_ORIGINS`` (comma separated) and the like.

        Raises ``ValueError`` that names the variable.
        """
        found: dict[str, Any] = {}
        for name, convert in _READERS.items():
            text = environment.get(variable(name))
            if text:
                try:
                    found[name] = convert(text)
                except ValueError as error:
                    raise ValueError(f"{variable(name)}={_shown(name, text)} cannot be read: {error}") from None
        return cls(**found)

    def to_environment(self) -> dict[str, str]:
        """What ``from_environment`` makes the same settings of: how they get to another process, unseen by others."""
        found: dict[str, str] = {}
        for setting in dataclasses.fields(self):
            value = getattr(self, setting.name)
            text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
            found[variable(setting.name)] = "" if value is None else text
        return found


def variable(name: str) -> str:
    """The variable of the environment for a setting."""
    return f"SILO_{OPTIONS.get(name, name).upper()}"


OPTIONS: Final = {"chats": "chat"}
"""Settings that are given once for each of theirs, by an option that is called like one."""

_ZERO: Final = ("auth_leeway",)
"""Settings that may be 0."""


def _shown(name: str, text: str) -> str:
    return "..." if name == "auth_secret" else repr(text)


def words(text: str) -> tuple[str, ...]:
    """What is between the commas."""
    return tuple(word.strip() for word in text.split(",") if word.strip())


def _flag(text: str) -> bool:
    if text.lower() not in ("0", "1", "true", "false", "yes", "no", "on", "off"):
        raise ValueError(text)
    return text.lower() in ("1", "true", "yes", "on")


_BY_TYPE: Final[dict[object, Any]] = {
    float: float,
    int: int,
    bool: _flag,
    bool | None: _flag,
    str | None: str,
    tuple[str, ...]: words,
    tuple[Chat, ...]: parse_chats,
}
_READERS: Final = {name: _BY_TYPE[kind] for name, kind in get_type_hints(GatewayOptions).items()}
