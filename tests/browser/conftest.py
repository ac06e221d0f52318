"""A browser, and silos for its pages, for all tests here; a fresh context for each of them."""

from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
import pytest_asyncio
from playwright.async_api import Browser, BrowserContext

from cluster.etcd import EtcdServer
from tests.browser.chromium import Complaints, chromium
from tests.browser.stage import Stage, Truth, staged
from tests.browser.story_page import StoryPage
from tests.cluster.conftest import etcd_server  # noqa: F401  # a fixture

OpenPage = Callable[..., Awaitable[StoryPage]]


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def browser(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Browser]:
    async with chromium(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def staging(
    etcd_server: EtcdServer,  # noqa: F811
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[tuple[Stage, Truth]]:
    async with staged(etcd_server, tmp_path_factory.mktemp("stage")) as staging:
        yield staging


@pytest_asyncio.fixture(loop_scope="session")
async def stage(staging: tuple[Stage, Truth]) -> Stage:
    """All silos are there, the network works, and the model has nothing to say."""
    stage, _ = staging
    await stage.model.begin()
    if len(stage.alive) < 2:
        await stage.start(2 - len(stage.alive))
    return stage


@pytest.fixture
def truth(staging: tuple[Stage, Truth]) -> Truth:
    return staging[1]


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    """A story of the test's own."""
    return str(request.node.name).removeprefix("test_").replace("_", "-").replace("[", "-").replace("]", "")


@pytest.fixture
def complaints() -> Complaints:
    return Complaints()


@pytest_asyncio.fixture(loop_scope="session")
async def context(browser: Browser, complaints: Complaints) -> AsyncIterator[BrowserContext]:
    """A browser of somebody's. At the end nothing may have gone wrong in it that the test has not expected."""
    context = await browser.new_context(viewport={"width": 900, "height": 700})
    yield context
    await context.close()
    assert complaints.unexpected == []


@pytest.fixture
def open_page(stage: Stage, context: BrowserContext, complaints: Complaints) -> OpenPage:
    """Opens a story in a new tab."""

    async def open_page(name: str, *, url: str = "") -> StoryPage:
        page = await context.new_page()
        complaints.watch(page)
        story = StoryPage(page, url or stage.url)
        await story.open(name)
        return story

    return open_page
