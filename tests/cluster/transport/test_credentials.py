"""Who gets in, and who is told why not."""

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from actors.errors import NotAuthorized
from cluster.transport import Credentials
from cluster.transport.frame import MIB
from cluster.transport.handshake import Identity, introduce
from cluster.transport.link_pb2 import Frame, Open


async def test_the_same_token_makes_a_trusted_link(house: Any, request_of: Any, token: str) -> None:
    a, _ = await house.silo("n1.1", credentials=Credentials(token=token))
    _, at_b = await house.silo("n2.1", credentials=Credentials(token=token))
    link = await a.connect("n2.1")
    assert link.trusted
    link.send(request_of(1))
    await at_b.until_count(1)
    assert at_b.batches[0][0].trusted


@pytest.mark.parametrize(
    ("dialling", "accepting", "reason"),
    [("one", "two", "same token"), (None, "two", "asks for a token"), ("one", None, "same token")],
)
async def test_another_token_is_refused_on_both_sides(
    house: Any, caplog: pytest.LogCaptureFixture, dialling: str | None, accepting: str | None, reason: str
) -> None:
    a, _ = await house.silo("n1.1", credentials=Credentials(token=dialling))
    b, at_b = await house.silo("n2.1", credentials=Credentials(token=accepting))
    with pytest.raises(NotAuthorized, match=reason):
        await a.connect("n2.1")
    assert not b.links
    assert not at_b.batches
    await b.close()
    assert sum(reason in record.message for record in caplog.records) == 1


async def test_a_liar_without_the_token_gets_nothing_through(house: Any, token: str) -> None:
    b, at_b = await house.silo("n2.1", credentials=Credentials(token=token))
    for proof in (b"", b"x" * 32):
        peer = await _liar(house, "n2.1")
        await peer.write(Frame(open=Open(proof=proof)))
        await peer.write(Frame(batch=b"\x91\x92\x04\x01"))
        frame = await peer.read()
        assert frame is not None
        assert frame.HasField("refused")
        assert await peer.read() is None
    assert not b.links
    assert not at_b.batches


async def _liar(house: Any, silo: str) -> Any:
    peer = house.peer(silo)
    identity = Identity(id="n9.1", cluster="test", credentials=Credentials(), window=MIB, max_payload=MIB)
    await peer.write(identity.hello(is_silo=True, nonce=bytes(16)))
    hello = await peer.read()
    assert hello is not None
    assert hello.HasField("hello")
    return peer


def test_the_token_is_never_shown() -> None:
    assert "geheim" not in repr(Credentials(token="geheim"))
    with pytest.raises(ValueError, match="empty"):
        Credentials(token="")
    with pytest.raises(ValueError, match="tls_key"):
        Credentials(tls_ca="ca.pem", tls_cert="cert.pem")


def test_a_proof_is_bound_to_all_its_parts() -> None:
    credentials = Credentials(token="t")
    proof = credentials.prove("dial", "ab", "c", b"nonce")
    assert credentials.verify(proof, "dial", "ab", "c", b"nonce")
    assert not credentials.verify(proof, "dial", "a", "bc", b"nonce")
    assert not credentials.verify(proof, "accept", "ab", "c", b"nonce")
    assert not Credentials(token="u").verify(proof, "dial", "ab", "c", b"nonce")


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, str]]:
    """Certificates for 127.0.0.1 from two authorities, by the name of the authority."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is needed to make certificates")
    made = {}
    for authority in ("ours", "theirs"):
        folder = tmp_path_factory.mktemp(authority)
        made[authority] = _issue(folder)
    return made


def _issue(folder: Path) -> dict[str, str]:
    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)

    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    openssl("req", "-x509", *curve, "-keyout", "ca.key", "-out", "ca.pem", "-days", "2", "-subj", "/CN=authority")
    openssl("req", *curve, "-keyout", "key.pem", "-out", "request.pem", "-subj", "/CN=silo")
    (folder / "names").write_text("subjectAltName=IP:127.0.0.1,DNS:silo.example\n")
    signing = ["-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2", "-extfile", "names"]
    openssl("x509", "-req", "-in", "request.pem", *signing, "-out", "cert.pem")
    return {f"tls_{name}": str(folder / f"{name}.pem") for name in ("ca", "cert", "key")}


async def test_certificates_of_one_authority_make_a_trusted_link(
    house: Any, request_of: Any, certificates: dict[str, dict[str, str]]
) -> None:
    a, _ = await house.silo("n1.1", credentials=Credentials(**certificates["ours"]))
    _, at_b = await house.silo("n2.1", credentials=Credentials(**certificates["ours"]))
    link = await a.connect("n2.1")
    assert link.trusted
    link.send(request_of(1, size=1_000_000))
    await at_b.until_count(1)
    assert at_b.batches[0][0].trusted
    named, _ = house.client("x", credentials=Credentials(**certificates["ours"], tls_server_name="silo.example"))
    assert (await named.connect("n2.1")).trusted


async def test_certificates_of_another_authority_or_none_are_refused(
    house: Any, certificates: dict[str, dict[str, str]]
) -> None:
    b, _ = await house.silo("n2.1", credentials=Credentials(**certificates["ours"]))
    a, _ = await house.silo("n1.1", credentials=Credentials(**certificates["theirs"]))
    with pytest.raises(ConnectionError, match="n2.1"):
        await a.connect("n2.1")
    # Its own certificate is of the wrong authority, though it would accept the other's.
    forged = {**certificates["theirs"], "tls_ca": certificates["ours"]["tls_ca"]}
    c, _ = house.client("x", credentials=Credentials(**forged))
    with pytest.raises(ConnectionError, match="n2.1"):
        await c.connect("n2.1")
    d, _ = house.client("y")
    with pytest.raises(ConnectionError, match="n2.1"):
        await d.connect("n2.1")
    assert not b.links


async def test_introducing_oneself_needs_the_other_to_prove_the_token(house: Any, token: str) -> None:
    await house.silo("n2.1")
    peer = house.peer("n2.1")
    identity = Identity(id="n9.1", cluster="test", credentials=Credentials(token=token), window=MIB, max_payload=MIB)
    with pytest.raises(Exception, match="same token"):
        await introduce(peer.stream, identity, expected="", is_silo=True)
