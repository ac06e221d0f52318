"""The server crashes, restarts, freezes or is blocked: bounded waiting, true refusals, recovery without help."""

import asyncio
import ssl
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Literal

import asyncpg
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from actors.ports import Commit, Opened, StoreUnavailable
from cluster.store import PostgresStore, UnusableStore
from tests.cluster.store.postgres_locks import WAITING, holding
from tests.cluster.store.postgres_proxy import Cut, proxy
from tests.conformance.store.postgres_server import PostgresServer

QUICK = 1.0  # seconds that a store waits, where a test waits for it


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    server = PostgresServer()  # not the shared one: it is killed and frozen here
    yield server
    server.stop()


@pytest.fixture
async def url(server: PostgresServer) -> AsyncIterator[str]:
    """A store that has been made already: it is opened quickly, and making it takes longer."""
    url = server.lend_database()
    await (await PostgresStore.open_url(url)).close()
    yield url
    server.take_back(url)


@pytest.fixture(autouse=True)
async def no_hang() -> AsyncIterator[None]:
    async with asyncio.timeout(30):
        yield


async def test_a_quick_restart_is_not_noticed(server: PostgresServer, url: str) -> None:
    store = await PostgresStore.open_url(url, timeout=20)
    written: dict[str, int] = {}
    stop = asyncio.Event()
    hundred = asyncio.Event()

    async def count_up(address: str) -> None:
        await store.open(address, 1)
        while not stop.is_set():
            number = written.get(address, 0) + 1
            await store.commit(Commit(address=address, epoch=1, state=b"%d" % number))
            written[address] = number
            if sum(written.values()) >= 100:
                hundred.set()

    tasks = [asyncio.create_task(count_up(f"session-{number}")) for number in range(8)]
    for _ in range(2):
        hundred.clear()
        await hundred.wait()
        server.kill()
        server.launch()
        await asyncio.to_thread(server.wait_until_ready)
    hundred.clear()
    await hundred.wait()
    stop.set()
    await asyncio.gather(*tasks)
    for address, number in written.items():
        assert await store.open(address, 1) == Opened(b"%d" % number)
    await store.close()


@pytest.mark.parametrize("seed", range(2))
async def test_every_answer_is_true_whatever_happens(server: PostgresServer, url: str, seed: int) -> None:
    randomness = Random(seed)
    stop = False
    answers: Counter[str] = Counter()
    told = asyncio.Condition()
    acknowledged: Counter[str] = Counter()

    async def count_up(store: PostgresStore, address: str) -> None:
        number = 0
        while not stop:
            number += 1
            try:
                name = b"%d" % number
                await store.commit(Commit(address=address, epoch=1, state=name, put={b"\x80" + name: name}))
                acknowledged[f"{address} {number}"] += 1
                answer = "done"
            except StoreUnavailable:
                answer = "refused"
            async with told:
                answers[answer] += 1
                told.notify_all()

    async with proxy(server.port) as between:
        store = await PostgresStore.open_url(between.url(url), timeout=QUICK)
        addresses = [f"session-{number}" for number in range(8)]
        await asyncio.gather(*(store.open(address, 1) for address in addresses))
        server.note_writes(url)
        tasks = [asyncio.create_task(count_up(store, address)) for address in addresses]
        faults: tuple[Cut | Literal["kill"], ...] = ("before", "after", "at once", "late", "kill")
        for fault in randomness.choices(faults, k=15):
            if fault == "kill":
                server.kill()
                server.launch()
                await asyncio.to_thread(server.wait_until_ready)
            else:
                between.deliver.clear()
                between.cut = fault
            async with told:
                enough = answers["done"] + randomness.randint(1, 200)
                await told.wait_for(lambda: answers["done"] >= enough)  # noqa: B023 - called here
            between.deliver.set()
        between.cut, stop = None, True
        await asyncio.gather(*tasks)
        await store.close()
    written = Counter(map(str, server.execute(
        "SELECT address || ' ' || convert_from(state, 'UTF8') FROM agentsilo.written", url=url
    )))  # fmt: skip
    assert written == acknowledged
    records = server.execute("SELECT address || ' ' || convert_from(value, 'UTF8') FROM agentsilo.records", url=url)
    assert Counter(map(str, records)) == acknowledged


async def test_a_server_that_is_gone_is_refused_in_time_and_found_again(server: PostgresServer, url: str) -> None:
    store = await PostgresStore.open_url(url, timeout=QUICK)
    await store.open("session-1", 1)
    await store.commit(Commit(address="session-1", epoch=1, state=b"before"))
    server.kill()
    outcomes = await asyncio.gather(
        store.commit(Commit(address="session-1", epoch=1, state=b"lost")),
        store.open("session-2", 1),
        return_exceptions=True,
    )
    assert [type(outcome) for outcome in outcomes] == [StoreUnavailable, StoreUnavailable]
    with pytest.raises(StoreUnavailable, match="^postgresql://127.0.0.1:") as refusal:
        await PostgresStore.open_url(url, timeout=QUICK)
    assert "\n" not in str(refusal.value)
    server.launch()
    await asyncio.to_thread(server.wait_until_ready)
    assert await store.open("session-1", 1) == Opened(b"before")
    await store.commit(Commit(address="session-1", epoch=1, state=b"after"))
    await store.close()


async def test_closing_while_the_server_is_gone(server: PostgresServer, url: str) -> None:
    store = await PostgresStore.open_url(url, timeout=QUICK)
    server.kill()
    commit = asyncio.create_task(store.commit(Commit(address="session-1", epoch=1, state=b"lost")))
    await asyncio.sleep(0)
    await store.close()
    with pytest.raises(StoreUnavailable):
        await commit
    server.launch()
    await asyncio.to_thread(server.wait_until_ready)


async def test_a_frozen_server_is_refused_in_time_and_goes_on(server: PostgresServer, url: str) -> None:
    store = await PostgresStore.open_url(url, timeout=QUICK)
    await store.open("session-1", 1)
    await store.commit(Commit(address="session-1", epoch=1, state=b"before"))
    server.freeze()
    try:
        for _ in range(2):  # on the old connection, then without one
            with pytest.raises(StoreUnavailable, match="nothing was written"):
                await store.commit(Commit(address="session-1", epoch=1, state=b"frozen"))
            await asyncio.sleep(0)  # what is called in the same step counts as called before the report
        with pytest.raises(StoreUnavailable, match="no connection within"):
            await PostgresStore.open_url(url, timeout=QUICK)
    finally:
        server.thaw()
    assert await store.open("session-1", 1) == Opened(b"before")
    await store.close()


async def test_what_a_freeze_caught_is_answered_when_it_is_known(server: PostgresServer, url: str) -> None:
    store = await PostgresStore.open_url(url, timeout=QUICK)
    await asyncio.gather(store.open("session-1", 1), store.open("session-2", 1))
    async with holding(url, "SELECT FROM agentsilo.actors WHERE address = 'session-1' FOR UPDATE") as somebody_waits:
        caught = asyncio.create_task(store.commit(Commit(address="session-1", epoch=1, state=b"caught")))
        await somebody_waits()
        server.freeze()
        try:
            with pytest.raises(StoreUnavailable):
                await store.commit(Commit(address="session-2", epoch=1, state=b"behind it"))
            assert not caught.done()
        finally:
            server.thaw()
        with pytest.raises(StoreUnavailable, match="nothing was written"):
            await caught
    assert await store.open("session-1", 1) == Opened()
    assert await store.open("session-2", 1) == Opened()
    await store.commit(Commit(address="session-1", epoch=1, state=b"after"))
    await store.close()


async def test_nothing_is_applied_on_top_of_a_refusal(server: PostgresServer, url: str) -> None:
    store = await PostgresStore.open_url(url, timeout=QUICK)
    await asyncio.gather(store.open("session-1", 1), store.open("session-2", 1))
    async with holding(url, "SELECT FROM agentsilo.actors WHERE address = 'session-1' FOR UPDATE") as somebody_waits:
        blocked = asyncio.create_task(store.commit(Commit(address="session-1", epoch=1, state=b"blocked")))
        await somebody_waits()
        behind_it = asyncio.create_task(store.commit(Commit(address="session-1", epoch=1, state=b"behind")))
        at_once: list[asyncio.Future[object]] = []
        (job,) = store._writer._group
        on_top = Commit(address="session-1", epoch=1, state=b"on top of a gap")
        job.answer.add_done_callback(lambda _: at_once.append(store._writer.submit(on_top, 0)))  # type: ignore[arg-type]
        another = asyncio.create_task(store.commit(Commit(address="session-2", epoch=1, state=b"another")))
        outcomes = await asyncio.gather(blocked, behind_it, another, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [StoreUnavailable, StoreUnavailable, type(None)]
    assert "an earlier operation of this actor was refused" in str(outcomes[1])
    with pytest.raises(StoreUnavailable, match="an earlier operation of this actor was refused"):
        await at_once[0]
    await store.commit(Commit(address="session-1", epoch=1, state=b"called after the report"))
    assert await store.open("session-1", 1) == Opened(b"called after the report")
    await store.close()


async def test_a_session_that_was_ended_by_somebody_is_replaced(server: PostgresServer, url: str) -> None:
    store = await PostgresStore.open_url(url)
    await store.open("session-1", 1)
    server.execute("DELETE FROM agentsilo.sessions", url=url)
    await store.commit(Commit(address="session-1", epoch=1, state=b"one"))
    assert await store.open("session-1", 1) == Opened(b"one")
    await store.close()


async def test_a_store_that_was_replaced_is_not_written(server: PostgresServer, url: str) -> None:
    store = await PostgresStore.open_url(url)
    session = store._writer._session
    assert session is not None
    await store.open("session-1", 1)
    server.execute(
        "UPDATE agentsilo.store SET id = 'another'", f"SELECT pg_terminate_backend({session.backend[0]})", url=url
    )
    with pytest.raises(StoreUnavailable, match="replaced by another store while it was in use; restart"):
        await store.commit(Commit(address="session-1", epoch=1, state=b"one"))
    await store.close()


async def test_cancelling_the_opening_leaves_nothing(server: PostgresServer, url: str) -> None:
    server.freeze()
    try:
        opening = asyncio.create_task(PostgresStore.open_url(url))
        await asyncio.sleep(0)
        opening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await opening
    finally:
        server.thaw()
    store = await PostgresStore.open_url(url)
    await store.lock_exclusively()
    await store.close()


async def test_cancelled_calls_take_effect(server: PostgresServer, url: str) -> None:
    store = await PostgresStore.open_url(url)
    await store.open("session-1", 1)
    async with store._writer._using:
        calls = [
            asyncio.create_task(store.commit(Commit(address="session-1", epoch=1, state=state)))
            for state in (b"one", b"two")
        ]
        await asyncio.sleep(0)
        for call in calls:
            call.cancel()
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
    assert all(isinstance(outcome, asyncio.CancelledError) for outcome in outcomes)
    assert await store.open("session-1", 1) == Opened(b"two")
    closing = asyncio.create_task(store.close())
    await asyncio.sleep(0)
    closing.cancel()
    await asyncio.gather(closing, return_exceptions=True)
    await store.close()
    assert store._writer._task is not None
    assert store._writer._task.done()


def certificate(folder: Path) -> ssl.SSLContext:
    """A server's side of TLS, for localhost; the certificate is ``folder/ca.pem``."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    (folder / "ca.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    form = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    (folder / "key.pem").write_bytes(key.private_bytes(serialization.Encoding.PEM, *form))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "ca.pem", folder / "key.pem")
    return context


async def test_encryption_as_sslmode_says(server: PostgresServer, url: str, tmp_path: Path) -> None:
    """The server of the tests has no TLS: something before it has."""
    context = certificate(tmp_path)
    encrypted = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal encrypted
        try:
            assert await reader.readexactly(8) == b"\0\0\0\x08\x04\xd2\x16\x2f"  # SSLRequest
            writer.write(b"S")
            await writer.start_tls(context)
            encrypted += 1
            server_reader, server_writer = await asyncio.open_connection("127.0.0.1", server.port)
            back = asyncio.create_task(relay(server_reader, writer))
            await relay(reader, server_writer)
            await back
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1 << 20):
            writer.write(data)
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as listener:
        port = listener.sockets[0].getsockname()[1]
        front = url.replace(f"127.0.0.1:{server.port}", f"localhost:{port}")
        for mode in ("sslmode=require", f"sslmode=verify-full&sslrootcert={tmp_path}/ca.pem"):
            store = await PostgresStore.open_url(f"{front}?{mode}")
            assert await store.open("session-1", 1) == Opened()
            await store.close()
        assert encrypted == 2
        (tmp_path / "other").mkdir()
        certificate(tmp_path / "other")
        with pytest.raises(UnusableStore, match="no TLS connection as sslmode asks for"):
            await PostgresStore.open_url(f"{front}?sslmode=verify-full&sslrootcert={tmp_path}/other/ca.pem")


async def test_a_deadlock_with_somebody_else_is_got_over(server: PostgresServer, url: str) -> None:
    server.execute("ALTER DATABASE " + url.rpartition("/")[2] + " SET deadlock_timeout = '50ms'", "SELECT 1")
    store = await PostgresStore.open_url(url)
    await asyncio.gather(store.open("session-1", 1), store.open("session-2", 1))
    lock = "SELECT FROM agentsilo.actors WHERE address = '{}' FOR UPDATE"
    somebody = await asyncpg.connect(url)
    onlooker = await asyncpg.connect(url)
    transaction = somebody.transaction()
    await transaction.start()
    await somebody.execute(lock.format("session-2"))
    both = [Commit(address=f"session-{number}", epoch=1, state=b"new") for number in (1, 2)]
    commits = asyncio.gather(*(store.commit(commit) for commit in both))
    while not await onlooker.fetch(WAITING):  # noqa: ASYNC110 - the server tells nobody
        await asyncio.sleep(0)
    with suppress(asyncpg.DeadlockDetectedError):  # one of the two is told, whoever that is
        await somebody.execute(lock.format("session-1"))
    await transaction.rollback()
    await commits
    assert [await store.state(f"session-{number}") for number in (1, 2)] == [b"new", b"new"]
    for connection in (somebody, onlooker):
        await connection.close()
    await store.close()
    assert "deadlock detected" in "".join(server._log)
