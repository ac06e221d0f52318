"""Keeps the keys of a JWK Set that others publish, in a file or at a URL."""

import asyncio
import contextlib
import http.client
import logging
import time
import urllib.request
from functools import partial
from pathlib import Path
from typing import Final

import jwt

from cluster.gateway.auth.keys import KeySet

log = logging.getLogger("cluster.gateway")

_MOST_BYTES: Final = 2**20
_PATIENCE: Final = 5.0
"""Seconds for the keys to come."""


class KeysUnavailable(Exception):
    """No keys were ever read: nothing can be said about any token."""


class Jwks:
    """The newest keys that could be read. ``source`` is a path, or a URL (http or https).

    They are read again every ``refresh`` seconds, and, at most every ``cooldown`` seconds, when one is asked for that
    is not there. While that fails the old ones stay. Reading happens in a thread.
    """

    def __init__(self, source: str, *, refresh: float, cooldown: float) -> None:
        self._source = source
        self._is_url = source.startswith(("http://", "https://"))
        self._refresh = refresh
        self._cooldown = cooldown
        self._keys: KeySet | None = None
        self._problem = "they have not been read yet"
        self._next_look = 0.0
        self._reading: asyncio.Task[None] | None = None
        self._keeping: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Read the keys. Raises ``ValueError`` for a file that has none; a URL may be there later."""
        await self._read()
        if self._keys is None and not self._is_url:
            raise ValueError(f"no keys for tokens: {self._source}: {self._problem}")
        self._keeping = asyncio.create_task(self._keep())

    async def stop(self) -> None:
        """Read no more."""
        for task in (self._keeping, self._reading):
            if task is not None:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task

    async def find(self, name: str | None, algorithm: str) -> jwt.PyJWK | None:
        """The key of a name and algorithm, None if there is none. Raises ``KeysUnavailable``."""
        key = self._known(name, algorithm)
        if key is None and self._reading is not None:  # which may have begun before the key was there
            await self._read()
            key = self._known(name, algorithm)
        if key is None and time.monotonic() >= self._next_look:
            await self._read()
            key = self._known(name, algorithm)
        if self._keys is None:
            raise KeysUnavailable(self._problem)
        return key

    def _known(self, name: str | None, algorithm: str) -> jwt.PyJWK | None:
        return self._keys.find(name, algorithm) if self._keys is not None else None

    async def _keep(self) -> None:
        while True:
            await asyncio.sleep(self._refresh if self._keys is not None else min(self._cooldown, self._refresh))
            await self._read()

    async def _read(self) -> None:
        """Read, once for all who ask for it meanwhile."""
        if self._reading is None:
            self._reading = asyncio.create_task(self._replace())
        await asyncio.shield(self._reading)

    async def _replace(self) -> None:
        self._next_look = time.monotonic() + self._cooldown
        try:
            read = partial(_fetch if self._is_url else _load, self._source)
            self._keys = KeySet.read(await asyncio.to_thread(read))
            self._problem = ""
        except (OSError, ValueError, http.client.HTTPException) as error:
            self._problem = str(error)
            kept = "no token can be checked" if self._keys is None else "the keys that were read before stay"
            log.warning("the keys for tokens at %s cannot be read, %s: %s", self._source, kept, error)
        finally:
            self._reading = None


def _load(path: str) -> bytes:
    return Path(path).read_bytes()


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Whoever may answer for the publisher shall not send us elsewhere, above all not to where nothing is encrypted."""

    def redirect_request(
        self, req: object, fp: object, code: object, msg: object, headers: object, newurl: object
    ) -> None:
        """See ``HTTPRedirectHandler``."""


def _fetch(url: str) -> bytes:
    end = time.monotonic() + _PATIENCE
    data = b""
    with urllib.request.build_opener(_NoRedirects()).open(url, timeout=_PATIENCE) as response:
        while chunk := response.read1(2**16):
            data += chunk
            if len(data) > _MOST_BYTES:
                raise ValueError(f"a JWK Set has at most {_MOST_BYTES} bytes")
            if time.monotonic() > end:
                raise TimeoutError("it took too long to come")
    return data
