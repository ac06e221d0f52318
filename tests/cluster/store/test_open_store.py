from pathlib import Path

import pytest

from cluster.store import MemoryStore, SqliteStore, open_store


async def test_memory_is_a_new_store_each_time() -> None:
    first, second = await open_store("memory:"), await open_store("memory:")
    assert isinstance(first, MemoryStore)
    assert first.id != second.id


@pytest.mark.parametrize(
    ("url", "file"),
    [
        ("sqlite:///silo.db", "silo.db"),
        ("sqlite:///a%20folder/with%3Fmark.db", "a folder/with?mark.db"),
        ("sqlite:///{absolute}/other.db", "other.db"),
    ],
)
async def test_sqlite_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str, file: str) -> None:
    (tmp_path / "a folder").mkdir()
    monkeypatch.chdir(tmp_path)
    store = await open_store(url.format(absolute=tmp_path))
    monkeypatch.chdir("/")  # a relative path means the directory of then
    await store.open("session-1", 1)
    await store.close()
    assert isinstance(store, SqliteStore)
    assert (tmp_path / file).read_bytes().startswith(b"SQLite format 3\0")


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("", "no scheme"),
        ("silo.db", "no scheme"),
        ("mysql://root@host/db", "unknown scheme 'mysql'"),
        ("postgresql://me:secret@host", "names no database"),
        ("postgres:secret", "needs two slashes"),
        ("memory://", "'//' cannot follow"),
        ("sqlite:", "three slashes"),
        ("sqlite:silo.db", "not 'silo.db'"),
        ("sqlite:/silo.db", "not '/silo.db'"),
        ("sqlite://silo.db", "'silo.db' stands in its place"),
        ("sqlite://me:secret@host/silo.db", "'host' stands in its place"),
        ("sqlite://", "names no file"),
        ("sqlite:///", "names no file"),
        ("sqlite:////folder/", "names no file"),
        ("sqlite:///silo.db?mode=ro", "no query"),
        ("sqlite:///silo.db#1", "no fragment"),
        ("sqlite:///:memory:", "use memory:"),
        ("sqlite:///a%00b", "zero byte"),
    ],
)
async def test_a_bad_url_is_one_line_that_names_the_part(url: str, words: str) -> None:
    with pytest.raises(ValueError, match="^store URL: ") as refusal:
        await open_store(url)
    message = str(refusal.value)
    assert words in message
    assert "\n" not in message
    assert "secret" not in message
