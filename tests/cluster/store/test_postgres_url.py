"""What is said about a URL before anything is connected."""

import sys

import pytest

from cluster.store import PostgresStore, UnusableStore
from cluster.store.postgres_url import parse


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("postgresql://host/db", "postgresql://host/db"),
        ("postgres://me:secret@host:5433/db", "postgresql://host:5433/db"),
        ("postgresql://me:s%40cre%2Ft@[::1]:5432/db?sslmode=verify-full", "postgresql://[::1]:5432/db"),
        ("postgresql://me@one:5432,two:5433/db?target_session_attrs=primary", "postgresql://one:5432,two:5433/db"),
        ("postgresql:///db?host=/run/postgresql", "postgresql:///run/postgresql/db"),
        ("postgresql://%2Frun%2Fpostgresql/db", "postgresql:///run/postgresql/db"),
        ("postgresql://host?dbname=db&password=secret", "postgresql://host/db"),
        ("postgresql://host/db?synchronous_commit=remote_apply", "postgresql://host/db"),
    ],
)
def test_what_messages_call_the_database(url: str, place: str) -> None:
    parsed = parse(url)
    assert parsed.place == place
    assert parsed.dsn == url
    assert "secret" not in repr(parsed)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("postgresql:secret", "two slashes"),
        ("postgresql:/db", "two slashes"),
        ("postgresql://me:secret@host", "names no database"),
        ("postgresql://me:secret@host/", "names no database"),
        ("postgresql://me:secret@host/db/more", "'/' in the name"),
        ("postgresql://me:secret@host:65536/db", "from 1 to 65535"),
        ("postgresql://me:secret@host:0/db", "from 1 to 65535"),
        ("postgresql://me:sec/ret@host/db", "'@' too many"),
        ("postgresql://me:secret/ret", "from 1 to 65535"),
        ("postgresql://me:secret@ret@host/db", "'@' too many"),
        ("postgresql://me:secret#ret@host/db", "in a password it is %23"),
        ("postgresql://me:secret@[::1/db", "malformed"),
        ("postgresql://:secret@host/db", "no user before it"),
        ("postgresql://me:secret@host/db?secret", "part after '?'"),
        ("postgresql://me:secret@host/db?sslmode=on", "sslmode is one of disable, "),
        ("postgresql://me:secret@host/db?port=x", "from 1 to 65535"),
        ("postgresql://me:secret@host/db?synchronous_commit=off", "keeps what it acknowledged"),
        ("postgresql://me:secret@host/db?statement_timeout=1", "chosen by the store itself"),
        ("postgresql://me:sec ret@host/db", "a space"),
        ("postgresql://me:secret\n@host/db", "a control character"),
    ],
)
def test_a_bad_url_is_one_line_without_the_password(url: str, words: str) -> None:
    with pytest.raises(ValueError, match="^store URL: postgresql: ") as refusal:
        parse(url)
    message = str(refusal.value)
    assert words in message
    assert "\n" not in message
    assert "secret" not in message


async def test_a_timeout_is_positive() -> None:
    with pytest.raises(ValueError, match="positive number of seconds"):
        await PostgresStore.open_url("postgresql://host/db", timeout=0)


async def test_without_the_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("cluster.store.postgres_")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "asyncpg", None)
    with pytest.raises(UnusableStore, match=r"^postgresql://host/db: .* pip install 'agentsilo\[postgres\]'$"):
        await PostgresStore.open_url("postgresql://me:secret@host/db")
