"""Which databases are a store, how they become one, and who may use it."""

import asyncio
import gc
from collections.abc import Callable, Iterator

import pytest
import uvloop

from actors.ports import Commit, Due, Fenced, Opened, StoreUnavailable
from cluster.store import PostgresStore, StoreInUse, UnusableStore, postgres_schema
from cluster.store.postgres_migrations import APPLY, MIGRATIONS, REVISION
from tests.cluster.store.processes import python
from tests.conformance.store.postgres_server import PostgresServer, shared_server


@pytest.fixture(scope="session")
def server() -> PostgresServer:
    return shared_server()


@pytest.fixture
def url(server: PostgresServer) -> Iterator[str]:
    url = server.lend_database()
    yield url
    server.take_back(url)


async def open_and_close(url: str, *, alone: bool = False, timeout: float = 5) -> str:
    store = await PostgresStore.open_url(url, timeout=timeout)
    try:
        if alone:
            await store.lock_exclusively()
        return store.id
    finally:
        await store.close()


async def shown(store: PostgresStore, setting: str) -> object:
    session = store._writer._session
    assert session is not None
    return await session._connection.fetchval(f"SHOW {setting}")


async def test_silos_that_create_the_store_at_once_agree_on_its_id(url: str) -> None:
    assert len(set(await asyncio.gather(*(open_and_close(url) for _ in range(8))))) == 1


async def test_an_acknowledgement_means_that_the_log_is_on_disk(server: PostgresServer) -> None:
    url = server.new_database()
    for default, ours in (("off", "on"), ("local", "on"), ("remote_write", "on"), ("remote_apply", "remote_apply")):
        server.execute(f"ALTER DATABASE {url.rpartition('/')[2]} SET synchronous_commit = {default}")
        store = await PostgresStore.open_url(url)
        assert await shown(store, "synchronous_commit") == ours
        await store.close()


async def test_defaults_that_would_break_the_fence_do_not_count(server: PostgresServer) -> None:
    url = server.new_database()
    for setting in ("default_transaction_isolation = 'repeatable read'", "default_transaction_read_only = on"):
        server.execute(f"ALTER DATABASE {url.rpartition('/')[2]} SET {setting}")
    store = await PostgresStore.open_url(url)
    assert await shown(store, "transaction_isolation") == "read committed"
    assert await store.open("session-1", 1) == Opened()
    await store.close()


async def test_a_store_shares_its_database_with_other_schemas(server: PostgresServer, url: str) -> None:
    server.execute("CREATE TABLE actors (mine text)", "INSERT INTO actors VALUES ('kept')", url=url)
    await open_and_close(url)
    assert server.execute("SELECT mine FROM actors", url=url) == ["kept"]
    server.execute("DROP TABLE actors", url=url)


@pytest.mark.parametrize(
    "table", ["something (id text)", "store (id text, name text)", "store (id text, format text, era bigint)"]
)
async def test_a_schema_of_another_application_is_refused(server: PostgresServer, url: str, table: str) -> None:
    server.execute("CREATE SCHEMA agentsilo", f"CREATE TABLE agentsilo.{table}", url=url)
    with pytest.raises(UnusableStore, match="belongs to another application; it was not touched"):
        await open_and_close(url)
    assert (
        len(server.execute("SELECT relname FROM pg_class WHERE relnamespace = 'agentsilo'::regnamespace", url=url)) == 1
    )


async def test_a_newer_schema_is_refused_untouched(server: PostgresServer, url: str) -> None:
    await open_and_close(url)
    server.execute("UPDATE agentsilo.store SET format = 99", url=url)
    with pytest.raises(UnusableStore, match=r"newer release \(format 99, this release knows 2\); it was not touched"):
        await open_and_close(url)
    assert server.execute("SELECT format FROM agentsilo.store", url=url) == [99]
    assert server.execute("SELECT count(*) FROM agentsilo.sessions", url=url) == [0]


@pytest.fixture
def new_release(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """From the call on, there is one migration more."""
    more = (*MIGRATIONS, ("CREATE TABLE agentsilo.news ()",))
    return lambda: monkeypatch.setattr(postgres_schema, "MIGRATIONS", more)


async def test_an_older_schema_is_upgraded_once(
    url: str, server: PostgresServer, new_release: Callable[[], None]
) -> None:
    store = await PostgresStore.open_url(url)
    await store.open("session-1", 1)
    await store.commit(Commit(address="session-1", epoch=1, state=b"kept"))
    await store.close()
    new_release()
    assert set(await asyncio.gather(*(open_and_close(url) for _ in range(4)))) == {store.id}
    assert server.execute("SELECT format FROM agentsilo.store", url=url) == [3]
    store = await PostgresStore.open_url(url)
    assert await store.open("session-1", 2) == Opened(b"kept")
    await store.close()


@pytest.fixture
async def format_1(url: str, server: PostgresServer, monkeypatch: pytest.MonkeyPatch) -> str:
    """The id of a store of the first release, with states."""
    with monkeypatch.context() as first_release:
        first_release.setattr(postgres_schema, "MIGRATIONS", MIGRATIONS[:1])
        first_release.setattr(postgres_schema, "REVISION", 1)
        store_id = await open_and_close(url)
    assert server.execute("SELECT format FROM agentsilo.store", url=url) == [1]
    server.execute(
        "UPDATE agentsilo.store SET era = 7",
        "INSERT INTO agentsilo.actors VALUES ('session-1', 5, 'kept'), ('session-2', 6, NULL), "
        "('session-3', 1, convert_to(repeat('x', 100000), 'UTF8'))",
        url=url,
    )
    return store_id


async def test_a_store_of_the_first_release_keeps_what_it_has(format_1: str, server: PostgresServer, url: str) -> None:
    assert set(await asyncio.gather(*(open_and_close(url) for _ in range(4)))) == {format_1}
    store = await PostgresStore.open_url(url)
    assert await store.raise_era(0) == 7
    assert await store.due(9.0, hosts=(), limit=9) == []
    with pytest.raises(Fenced):
        await store.open("session-1", 4)
    assert await store.open("session-1", 5) == Opened(b"kept")
    assert await store.open("session-2", 6) == Opened()
    await store.commit(Commit(address="session-3", epoch=1, put={b"k": b"v"}, wake=1.0))
    assert await store.open("session-3", 2, "a.1") == Opened(b"x" * 100_000, {b"k": b"v"})
    assert await store.due(9.0, hosts=(), limit=9) == [Due(1.0, "session-3")]
    await store.close()
    new = await PostgresStore.open_url(server.new_database())  # made by this release
    described = []
    for place in (url, new._writer._url.dsn):
        columns = server.execute(DESCRIBE, url=place)
        described.append(columns)
    assert described[0] == described[1]
    await new.close()


DESCRIBE = """
SELECT concat_ws(' ', table_name, column_name, data_type, collation_name, is_nullable, column_default)
FROM information_schema.columns WHERE table_schema = 'agentsilo'
UNION ALL SELECT indexdef FROM pg_indexes WHERE schemaname = 'agentsilo'
UNION ALL SELECT oid::regprocedure::text FROM pg_proc WHERE pronamespace = 'agentsilo'::regnamespace
ORDER BY 1
"""


OLD_APPLY = APPLY.replace("actor.host = '')", "actor.host <> excluded.host)")
"""As release 0.1.0 had it: an epoch that is given twice opens an actor twice."""


async def test_the_function_of_an_older_release_is_replaced_while_that_goes_on(
    server: PostgresServer, url: str
) -> None:
    assert OLD_APPLY != APPLY
    old = await PostgresStore.open_url(url)
    server.execute(OLD_APPLY, "COMMENT ON FUNCTION agentsilo.apply IS NULL", url=url)
    await old.open("session-1", 5, "a.1")
    assert (await old.open("session-1", 5, "b.1")) == Opened(), "that is how it was"
    assert len(set(await asyncio.gather(*(open_and_close(url) for _ in range(4))))) == 1
    with pytest.raises(Fenced):
        await old.open("session-1", 5, "a.1")
    await old.commit(Commit(address="session-1", epoch=5, state=b"goes on"))
    assert server.execute(COMMENT, url=url) == [f"revision {REVISION}"]
    await old.close()


async def test_the_function_of_a_newer_release_stays(server: PostgresServer, url: str) -> None:
    await open_and_close(url)
    newer = APPLY.replace("DECLARE", "-- of the future\nDECLARE")
    server.execute(newer, "COMMENT ON FUNCTION agentsilo.apply IS 'revision 99'", url=url)
    await open_and_close(url)
    assert server.execute(COMMENT, url=url) == ["revision 99"]
    (body,) = server.execute("SELECT prosrc FROM pg_proc WHERE proname = 'apply'", url=url)
    assert "of the future" in str(body)


COMMENT = "SELECT obj_description(to_regproc('agentsilo.apply'), 'pg_proc')"


async def test_an_upgrade_takes_as_long_as_it_takes(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    await open_and_close(url)
    monkeypatch.setattr(postgres_schema, "MIGRATIONS", (*MIGRATIONS, ("SELECT pg_sleep(1)",)))
    stores = await asyncio.gather(*(PostgresStore.open_url(url, timeout=0.5) for _ in range(2)))
    for store in stores:
        assert await shown(store, "statement_timeout") == await shown(store, "lock_timeout") == "400ms"
        await store.close()


async def test_nobody_upgrades_a_schema_in_use(url: str, new_release: Callable[[], None]) -> None:
    old = await PostgresStore.open_url(url)
    new_release()
    with pytest.raises(StoreInUse, match=r"silos of an older release use this store \(format 2\)"):
        await open_and_close(url)
    await old.close()
    await open_and_close(url)


async def test_a_failed_migration_changes_nothing(
    url: str, server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    await open_and_close(url)
    monkeypatch.setattr(postgres_schema, "MIGRATIONS", (*MIGRATIONS, ("CREATE TABLE agentsilo.news ()", "SELECT 1/0")))
    with pytest.raises(UnusableStore, match="division by zero"):
        await open_and_close(url)
    assert server.execute("SELECT to_regclass('agentsilo.news')::text", url=url) == [None]


async def test_what_the_server_refuses(server: PostgresServer, url: str) -> None:
    host = f"127.0.0.1:{server.port}"
    database = url.rpartition("/")[2]
    server.execute("CREATE ROLE guest LOGIN PASSWORD 'right'")
    for refused, words in (
        (f"postgresql://guest:secret@{host}/{database}", "password authentication failed"),
        (f"postgresql://nobody:secret@{host}/{database}", "password authentication failed"),
        (f"postgresql://postgres@{host}/nowhere", 'database "nowhere" does not exist'),
        (f"postgresql://guest:right@{host}/{database}", "permission denied"),
        (f"{url}?sslmod=require", "unrecognized configuration parameter"),
        (f"{url}?sslmode=require", "no TLS connection as sslmode asks for"),
    ):
        with pytest.raises(UnusableStore, match=f"^postgresql://{host}/") as refusal:
            await open_and_close(refused)
        assert words in str(refusal.value)
        assert "secret" not in str(refusal.value)
        assert "\n" not in str(refusal.value)


async def test_an_empty_schema_of_ones_own_is_enough(server: PostgresServer, url: str) -> None:
    server.execute("CREATE ROLE limited LOGIN PASSWORD 'right'")
    server.execute("CREATE SCHEMA agentsilo AUTHORIZATION limited", url=url)
    store = await PostgresStore.open_url(url.replace("postgres@", "limited:right@"))
    assert await store.open("session-1", 1) == Opened()
    await store.close()


async def test_a_database_that_cannot_hold_every_address_is_refused(server: PostgresServer) -> None:
    server.execute("CREATE DATABASE latin ENCODING LATIN1 LOCALE 'C' TEMPLATE template0")
    with pytest.raises(UnusableStore, match="encoding is LATIN1"):
        await open_and_close(server.url("latin"))


async def test_an_embedded_silo_keeps_others_out_until_it_closes(url: str) -> None:
    embedded = await PostgresStore.open_url(url)
    await embedded.lock_exclusively()
    with pytest.raises(StoreInUse, match="an embedded silo has this store for itself"):
        await open_and_close(url)
    await embedded.close()
    await open_and_close(url, alone=True)


async def test_silos_of_a_cluster_keep_an_embedded_one_out(url: str) -> None:
    first, second = await PostgresStore.open_url(url), await PostgresStore.open_url(url)
    for store in (first, second):
        with pytest.raises(StoreInUse, match="An embedded silo must be alone"):
            await store.lock_exclusively()
    assert await first.open("session-1", 1) == Opened()
    await first.close()
    await second.lock_exclusively()
    with pytest.raises(StoreUnavailable, match="closed"):
        await first.lock_exclusively()
    await second.close()


async def test_an_embedded_silo_takes_its_lock_again(server: PostgresServer, url: str) -> None:
    embedded = await PostgresStore.open_url(url)
    await embedded.lock_exclusively()
    session = embedded._writer._session
    assert session is not None
    server.execute(f"SELECT pg_terminate_backend({session.backend[0]})")
    assert await embedded.open("session-1", 1) == Opened()
    with pytest.raises(StoreInUse):
        await open_and_close(url)
    await embedded.close()


async def test_an_embedded_silo_that_lost_its_database_to_another_is_refused(server: PostgresServer, url: str) -> None:
    embedded = await PostgresStore.open_url(url)
    await embedded.lock_exclusively()
    writer = embedded._writer
    async with writer._using:  # it cannot connect again yet
        assert writer._session is not None
        server.execute(f"SELECT pg_terminate_backend({writer._session.backend[0]})")
        other = await PostgresStore.open_url(url)
    with pytest.raises(StoreUnavailable, match="another silo uses this store"):
        await embedded.open("session-1", 1)
    await other.close()
    assert await embedded.open("session-1", 1) == Opened()
    await embedded.close()


HOLD_ALONE = """
from cluster.store import PostgresStore
async def main():
    store = await PostgresStore.open_url(sys.argv[1])
    await store.lock_exclusively()
    say("held")
    wait()
asyncio.run(main())
"""


async def test_death_gives_the_lock_back(url: str) -> None:
    with python(HOLD_ALONE, url) as embedded:
        assert embedded.heard() == "held"
        with pytest.raises(StoreInUse):
            await open_and_close(url)
        embedded.process.kill()
        embedded.process.wait()
    await open_and_close(url, alone=True)


async def test_a_dropped_store_gives_the_lock_back(url: str) -> None:
    store = await PostgresStore.open_url(url)
    task = store._writer._task
    assert task is not None
    del store
    gc.collect()
    await task
    await open_and_close(url, alone=True)


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_either_kind_of_loop_also_when_nobody_closes(
    url: str, new_loop: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    async def main() -> PostgresStore:
        store = await PostgresStore.open_url(url)
        await asyncio.gather(*(store.open(f"session-{number}", 2) for number in range(100)))
        with pytest.raises(Fenced):
            await store.commit(Commit(address="session-1", epoch=1, state=b"old"))
        return store

    with asyncio.Runner(loop_factory=new_loop) as runner:
        store = runner.run(main())
        with pytest.raises(RuntimeError, match="the event loop in which it was opened"):
            asyncio.run(_open_in_another_loop(store))
    asyncio.run(open_and_close(url, alone=True))


async def _open_in_another_loop(store: PostgresStore) -> None:
    await store.open("session-1", 1)


async def test_sessions_of_the_dead_are_forgotten(server: PostgresServer, url: str) -> None:
    await open_and_close(url)
    row = "INSERT INTO agentsilo.sessions (id, touched) VALUES (gen_random_uuid(), now() - interval '{}')"
    server.execute(row.format("6 days"), row.format("8 days"), url=url)
    await open_and_close(url)
    assert server.execute("SELECT count(*) FROM agentsilo.sessions", url=url) == [1]
