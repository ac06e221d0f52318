import asyncio
import shutil
import subprocess
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from cluster.etcd import EtcdClient, EtcdServer, EtcdUnavailable, Tls
from tests.cluster.etcd.waiting import MonotonicClock, started, take

_CURVE = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ca.pem, and server.pem and client.pem signed by it, each with its key; other.pem is a stranger's authority."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is needed to make certificates")
    folder = tmp_path_factory.mktemp("certificates")

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)

    for authority in ("ca", "other"):
        names = ["-subj", f"/CN={authority}", "-days", "2"]
        openssl("req", "-x509", *_CURVE, "-keyout", f"{authority}.key", "-out", f"{authority}.pem", *names)
    (folder / "names").write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\nextendedKeyUsage=serverAuth,clientAuth\n")
    for name in ("server", "client"):
        openssl("req", *_CURVE, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}")
        signing = ["-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2", "-extfile", "names"]
        openssl("x509", "-req", "-in", f"{name}.csr", "-out", f"{name}.pem", *signing)
    return folder


@pytest.fixture
async def server(folder: Path) -> AsyncIterator[EtcdServer]:
    tls = Tls(ca=folder / "ca.pem", cert=folder / "server.pem", key=folder / "server.key")
    async with EtcdServer(tls=tls, unsafe_no_fsync=True) as server:
        yield server


async def test_mutual_tls(server: EtcdServer, folder: Path, stack: AsyncExitStack) -> None:
    mine = Tls(ca=folder / "ca.pem", cert=str(folder / "client.pem"), key=folder / "client.key")
    client = await stack.enter_async_context(EtcdClient([server.endpoint], tls=mine))
    watch = await started(await stack.enter_async_context(client.watch("/w")))
    await client.put("/w", b"1")
    await take(watch, 1)
    keep_alive = client.keep_alive(await client.grant(60), clock=MonotonicClock())
    async with asyncio.timeout(15):
        await keep_alive.wait_confirmed()

    # A DNS name, and no scheme: TLS files say enough.
    async with EtcdClient([f"localhost:{server.client_port}"], tls=mine) as named:
        await named.put("/w", b"2")

    for stranger in (Tls(ca=folder / "ca.pem"), Tls(ca=folder / "other.pem", cert=mine.cert, key=mine.key), None):
        with pytest.raises(EtcdUnavailable) as caught:
            await EtcdClient([server.endpoint], tls=stranger, timeout=1).connect()
        assert server.endpoint in str(caught.value)
    with pytest.raises(EtcdUnavailable):
        await EtcdClient([server.endpoint.replace("https", "http")], timeout=1).connect()


async def test_files_are_checked_at_once(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"cannot read the ca file .*missing.pem: No such file"):
        EtcdClient(["https://localhost:1"], tls=Tls(ca=folder / "missing.pem"))
    with pytest.raises(ValueError, match="cert and key belong together"):
        EtcdClient(["https://localhost:1"], tls=Tls(cert=folder / "client.pem"))
    with pytest.raises(ValueError, match="use https://"):
        EtcdClient(["http://localhost:1"], tls=Tls(ca=folder / "ca.pem"))
    with pytest.raises(ValueError, match="needs a certificate and its key"):
        EtcdServer(tls=Tls(ca=folder / "ca.pem"))
