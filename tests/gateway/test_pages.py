"""The folder of web pages that a silo serves, and what must not come out of it."""

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from cluster import Silo
from cluster.gateway import GatewayOptions
from tests.cluster.processes import Processes
from tests.gateway.conftest import Open
from tests.gateway.http_client import Gateway

SECRET = "not for you"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Pages, with secrets beside and between them."""
    folder = tmp_path / "pages"
    (folder / "more").mkdir(parents=True)
    (folder / "index.html").write_text("<h1>Front</h1>")
    (folder / "page.js").write_text("export {}")
    (folder / "more" / "index.html").write_text("<h1>More</h1>")
    (folder / "empty").mkdir()
    (tmp_path / "secret.txt").write_text(SECRET)
    (tmp_path / "pages-too").mkdir()
    (tmp_path / "pages-too" / "secret.txt").write_text(SECRET)
    for hidden in (".env", ".git/config"):
        (folder / hidden).parent.mkdir(exist_ok=True)
        (folder / hidden).write_text(SECRET)
    (folder / "link.txt").symlink_to(tmp_path / "secret.txt")
    (folder / "out").symlink_to(tmp_path)
    (folder / "loop").symlink_to(folder / "loop")
    os.mkfifo(folder / "pipe")
    return folder


@pytest.fixture
async def pages(folder: Path) -> AsyncIterator[Gateway]:
    options = GatewayOptions(pages=str(folder))
    async with Silo([Open], store="memory:", http="127.0.0.1:0", gateway=options) as silo:
        assert silo.http is not None
        yield Gateway(silo.http)


@pytest.mark.parametrize(
    ("path", "content", "kind"),
    [
        ("/", b"<h1>Front</h1>", "text/html"),
        ("/index.html", b"<h1>Front</h1>", "text/html"),
        ("/more/", b"<h1>More</h1>", "text/html"),
        ("/more/?a=b", b"<h1>More</h1>", "text/html"),
        ("/page.js", b"export {}", "javascript"),
    ],
)
async def test_a_file_is_served_with_what_keeps_browsers_safe(
    pages: Gateway, path: str, content: bytes, kind: str
) -> None:
    answer = await pages("GET", path)
    assert (answer.status, answer.body) == (200, content)
    assert kind in answer.headers["content-type"]
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["cache-control"] == "no-cache"
    policy = answer.headers["content-security-policy"]
    assert "default-src 'self'" in policy
    assert "unsafe" not in policy
    head = await pages("HEAD", path)
    assert (head.status, head.headers["content-length"], head.body) == (200, str(len(content)), b"")


async def test_a_browser_that_has_it_is_told_so(pages: Gateway) -> None:
    etag = (await pages("GET", "/page.js")).headers["etag"]
    again = await pages("GET", "/page.js", headers={"If-None-Match": etag})
    assert (again.status, again.body) == (304, b"")


async def test_the_name_of_a_folder_leads_into_it(pages: Gateway) -> None:
    answer = await pages("GET", "/more")
    assert answer.status == 307
    assert answer.headers["location"].endswith("/more/")


@pytest.mark.parametrize(
    "path",
    [
        "/nothing.html", "/empty/", "/empty", "/index.html/more",
        "/.env", "/.git/config", "/.git/", "/more/.hidden", "/%2Eenv", "/./.env",
        "/../secret.txt", "/more/../../secret.txt", "/%2e%2e/secret.txt", "/..%2fsecret.txt", "/..%5csecret.txt",
        "/more/%2e%2e/%2e%2e/secret.txt", "/../pages-too/secret.txt", "//etc/passwd", "/%2fetc/passwd", "/etc/passwd",
        "/link.txt", "/out/secret.txt", "/out/", "/loop", "/pipe", "/%00", "/index.html%00.js", "/%ff", "/%C3%28",
        "/" + 300 * "a", "/" + 2000 * "a/", "/CON", "/index.html.", "/\\secret.txt",
    ],
)  # fmt: skip
async def test_nothing_else_comes_out_of_it(pages: Gateway, path: str) -> None:
    answer = await pages("GET", path)
    assert answer.status == 404, answer.body
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json["type"] == "NotFound"
    assert "content-security-policy" in answer.headers
    assert SECRET.encode() not in answer.body


async def test_an_unreadable_file_is_not_there(pages: Gateway, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "page.js").chmod(0)
    if os.geteuid() == 0:  # who may read everything
        access = os.access
        monkeypatch.setattr(os, "access", lambda path, mode: access(path, mode) and Path(path).stat().st_mode & 0o444)
    assert (await pages("GET", "/page.js")).status == 404


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "TRACE"])
async def test_pages_can_only_be_read(pages: Gateway, method: str) -> None:
    answer = await pages(method, "/index.html", "x")
    assert (answer.status, answer.headers["allow"]) == (405, "GET, HEAD")
    assert answer.json["type"] == "MethodNotAllowed"


async def test_pages_hide_nothing_of_the_gateway(pages: Gateway, folder: Path) -> None:
    for name in ("healthz", "readyz", "v1"):
        (folder / name).write_text("wrong") if name != "v1" else (folder / name / "stream").mkdir(parents=True)
    (folder / "v1" / "stream" / "s").write_text("wrong")
    assert (await pages("GET", "/healthz")).json == {"status": "ok"}
    assert (await pages("GET", "/readyz")).json == {"ready": True}
    assert (await pages.put("s", "hello", Content_Type="text/plain")).status == 201
    assert (await pages.get("s")).body == b"hello"


async def test_a_page_of_another_name_for_this_machine_gets_nothing(pages: Gateway) -> None:
    assert (await pages("GET", "/", headers={"Host": "rebound.example"})).status == 403


async def test_without_the_setting_there_are_none(gateway: Gateway) -> None:
    assert (await gateway("GET", "/")).status == 404


def test_a_folder_that_is_not_there_is_said_at_once(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no folder .*/nowhere .*SILO_PAGES"):
        GatewayOptions(pages=str(tmp_path / "nowhere"))


async def test_the_command_serves_them(processes: Processes, folder: Path) -> None:
    silo = processes.silo("n1", "--pages", folder)
    (ready,) = await silo.ready()
    assert (await Gateway(ready["http"])("GET", "/")).body == b"<h1>Front</h1>"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--pages", "nowhere", "--http", "127.0.0.1:0"], "there is no folder nowhere"),
        (["--pages", "."], "add --http HOST:PORT"),
    ],
)
async def test_the_command_says_why_it_cannot(processes: Processes, options: list[str], words: str) -> None:
    ended = await processes.run("start", "tests.cluster.house_actors", "--listen", "127.0.0.1:0", *options)
    assert ended.status == 2
    assert words in ended.err
