"""The settings of a gateway."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self


@dataclass(frozen=True, kw_only=True)
class GatewayOptions:
    """Limits and origins of the HTTP gateway. Times in seconds, sizes in bytes.

    ``cors_origins``: origins whose pages may use the gateway, as ``https://app.example``; ``*`` is every origin, and
    then ``cors_credentials`` must be off. ``local_webhooks``: webhooks may go to this machine over plain HTTP, for
    development; nothing else in the local network can be reached either way.
    """

    long_poll_timeout: float = 20.0
    event_stream_lifetime: float = 60.0
    max_body: int = 32 * 2**20
    max_chunk: int = 4 * 2**20
    cors_origins: tuple[str, ...] = ()
    cors_credentials: bool = False
    local_webhooks: bool = True

    def __post_init__(self) -> None:
        if "*" in self.cors_origins and self.cors_credentials:
            raise ValueError(
                "CORS: every origin (*) with credentials would let any page act for its visitor; list origins"
            )
        for name in ("long_poll_timeout", "event_stream_lifetime", "max_body", "max_chunk"):
            if not getattr(self, name) > 0:
                raise ValueError(f"the gateway's {name} must be positive, not {getattr(self, name)!r}")

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Self:
        """Settings from ``SILO_LONG_POLL_TIMEOUT``, ``SILO_CORS_ORIGINS`` (comma separated) and the like."""
        found: dict[str, object] = {}
        for name, convert in (
            ("long_poll_timeout", float),
            ("event_stream_lifetime", float),
            ("max_body", int),
            ("max_chunk", int),
            ("cors_origins", _words),
            ("cors_credentials", _flag),
            ("local_webhooks", _flag),
        ):
            text = environment.get(f"SILO_{name.upper()}")
            if text is not None:
                try:
                    found[name] = convert(text)
                except ValueError:
                    raise ValueError(f"SILO_{name.upper()}={text!r} cannot be read") from None
        return cls(**found)  # type: ignore[arg-type]


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(",") if word.strip())


def _flag(text: str) -> bool:
    if text.lower() not in ("0", "1", "true", "false", "yes", "no", "on", "off"):
        raise ValueError(text)
    return text.lower() in ("1", "true", "yes", "on")
