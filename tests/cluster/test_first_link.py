"""Which of several endpoints a client goes to."""

import asyncio

import pytest

from actors.errors import NotAuthorized
from actors.ports import Link
from cluster.first_link import first_link
from tests.unit.fakes import FakeLink

LIMIT = 60
"""Seconds that none of these tests needs."""


class Endpoints:
    """Some answer, some refuse, and those that are not known are frozen."""

    def __init__(self, **known: Link | Exception) -> None:
        self.known = known
        self.tried: list[str] = []
        self.waiting: set[str] = set()

    async def connect(self, endpoint: str) -> Link:
        self.tried.append(endpoint)
        found = self.known.get(endpoint)
        if found is None:
            self.waiting.add(endpoint)
            try:
                await asyncio.Event().wait()
            finally:
                self.waiting.remove(endpoint)
        if isinstance(found, Exception):
            raise found
        assert found is not None
        return found

    async def first_of(self, *names: str) -> Link:
        async with asyncio.timeout(LIMIT):
            return await first_link(names, self.connect, nobody="there is none")


async def test_one_that_is_frozen_holds_nobody_up() -> None:
    link = FakeLink(trusted=True)
    endpoints = Endpoints(good=link)
    assert await endpoints.first_of("frozen", "good", "better") is link
    assert endpoints.tried == ["frozen", "good"]
    await asyncio.sleep(0)  # what was cancelled ends
    assert not endpoints.waiting


async def test_one_that_refuses_costs_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cluster.first_link._HEAD_START", 2 * LIMIT)
    link = FakeLink(trusted=True)
    endpoints = Endpoints(dead=ConnectionRefusedError("nobody listens"), good=link)
    assert await endpoints.first_of("dead", "good") is link


async def test_every_reason_is_told_in_order() -> None:
    endpoints = Endpoints(a=ConnectionError("a is away"), b=ConnectionError("b is away"))
    with pytest.raises(ConnectionError, match="^a is away; b is away$"):
        await endpoints.first_of("a", "b")
    with pytest.raises(ConnectionError, match="^there is none$"):
        await endpoints.first_of()


async def test_bad_credentials_are_tried_once() -> None:
    endpoints = Endpoints(a=NotAuthorized("not with this token"), b=FakeLink(trusted=True))
    with pytest.raises(NotAuthorized):
        await endpoints.first_of("a", "b")
    assert endpoints.tried == ["a"]
