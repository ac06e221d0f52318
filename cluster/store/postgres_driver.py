"""asyncpg, as far as the store uses it, with the types that it does not declare."""

from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any, NamedTuple, Protocol, cast

import asyncpg


class ServerVersion(NamedTuple):
    """Of which only this part matters."""

    major: int


class Connection(Protocol):
    """An ``asyncpg.Connection``. A request that fails raises ``PostgresError``, ``InterfaceError`` or ``OSError``."""

    async def execute(self, query: str, *arguments: object) -> str: ...
    async def fetch(self, query: str, *arguments: object) -> list[Any]: ...
    async def fetchval(self, query: str, *arguments: object) -> Any: ...
    def transaction(self) -> AbstractAsyncContextManager[object]: ...
    def get_server_version(self) -> ServerVersion: ...
    def add_termination_listener(self, callback: Callable[[object], None]) -> None: ...
    def is_closed(self) -> bool: ...
    async def close(self) -> None: ...
    def terminate(self) -> None:
        """Drop it at once; what waits for an answer gets ``ConnectionDoesNotExistError``."""
        ...


async def connect(dsn: str, *, timeout: float, settings: Mapping[str, str]) -> Connection:
    """Connect within ``timeout`` seconds, with settings for the session."""
    driver: Any = asyncpg
    return cast(Connection, await driver.connect(dsn, timeout=timeout, server_settings=dict(settings)))


def sqlstate(error: asyncpg.PostgresError) -> str:
    """The error's code, as in https://www.postgresql.org/docs/current/errcodes-appendix.html, or an empty text."""
    return getattr(error, "sqlstate", None) or ""


def is_fatal(error: asyncpg.PostgresError) -> bool:
    """Whether the error ends the connection."""
    return getattr(error, "severity_en", None) in ("FATAL", "PANIC")


def one_line(error: BaseException) -> str:
    """The first line of an error's text: PostgreSQL's go on with details."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
