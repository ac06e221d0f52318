"""Which tokens are accepted, and where they may be."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.gateway import GatewayOptions
from cluster.gateway.auth.tokens import Tokens
from cluster.gateway.problems import Problem
from cluster.gateway.streams.free_standing import Streams
from tests.gateway.auth.conftest import Start
from tests.gateway.auth.signing import (
    EC,
    ED,
    OTHER_RSA,
    PEM,
    RSA,
    SECRET,
    SHORT_RSA,
    In,
    bearer,
    claims,
    forged,
    jwk,
    part,
    signed,
)
from tests.gateway.http_client import Gateway, Response

HS256 = {"alg": "HS256", "typ": "JWT"}


def check_refused(answer: Response, why: str = "") -> None:
    assert (answer.status, answer.json["type"]) == (401, "NotAuthenticated"), answer
    assert answer.headers["www-authenticate"].startswith('Bearer realm="agentsilo"')
    assert answer.headers["cache-control"] == "no-store"
    assert why in answer.json["detail"], answer.json


async def get(gateway: Gateway, token: str, path: str = "/v1/stream/none") -> Response:
    return await gateway("GET", path, headers=bearer(token))


async def test_a_good_token_is_enough(guarded: Gateway) -> None:
    for token in (signed(), signed(act=["x", "n*"], verbs=["read"]), signed(nbf=In(-5)), signed(iat=None)):
        assert (await get(guarded, token)).status == 404


async def test_without_a_token_nothing_is_told(guarded: Gateway) -> None:
    answers = [await guarded(method, path) for method in ("GET", "POST", "PUT", "DELETE", "PATCH") for path in (
        "/v1/stream/none", "/v1/stream/open-1/output", "/v1/stream/nobody-1/x", "/v1/stream/__ds/subscriptions/s",
        "/v1/stream/", "/parked",
    )]  # fmt: skip
    for answer in answers:
        check_refused(answer, "needs a token")
        assert answer.body == answers[0].body
    for path in ("/healthz", "/readyz", "/v1/stream/__ds/jwks.json"):
        assert (await guarded("GET", path)).status == 200


@pytest.mark.parametrize("value", ["Bearer", "Bearer ", "bearer", "Basic eDp5", "Token x", "", ",", "é"])
async def test_headers_that_hold_no_token(guarded: Gateway, value: str) -> None:
    check_refused(await guarded("GET", "/v1/stream/none", headers={"Authorization": value}))


async def test_two_tokens_are_none(guarded: Gateway) -> None:
    good = signed()
    twice = [("Authorization", f"Bearer {good}"), ("Authorization", f"Bearer {good}")]
    check_refused(await guarded("GET", "/v1/stream/none", headers=twice), "several")
    source = {**bearer(good), "Accept": "text/event-stream"}
    check_refused(await guarded("GET", f"/v1/stream/none?access_token={good}", headers=source), "several")


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"exp": In(-60)}, "expired"),
        ({"exp": None}, "exp"),
        ({"exp": "soon"}, "exp"),
        ({"exp": True}, "exp"),
        ({"exp": float("inf")}, ""),
        ({"exp": float("nan")}, ""),
        ({"exp": [2**31]}, ""),
        ({"nbf": In(60)}, "not yet valid"),
        ({"nbf": float("inf")}, ""),
        ({"iat": In(60)}, "not yet valid"),
        ({"iat": {}}, ""),
        ({"aud": "others"}, "udience"),
        ({"act": None}, "act"),
        ({"act": 5}, "act"),
        ({"act": ""}, "act"),
        ({"act": [""]}, "act"),
        ({"act": ["a", 5]}, "act"),
        ({"act": "x" * 600}, "act"),
        ({"act": ["a"] * 65}, "act"),
        ({"verbs": None}, "verbs"),
        ({"verbs": "read"}, "verbs"),
        ({"verbs": ["reed"]}, "verbs"),
        ({"verbs": [["read"]]}, "verbs"),
        ({"sub": 5}, ""),
        ({"sub": ["x"]}, ""),
    ],
)
async def test_claims_that_are_refused(guarded: Gateway, changed: dict[str, Any], why: str) -> None:
    check_refused(await get(guarded, forged(HS256, claims(**changed))), why)


async def test_issuer_and_audience_must_be_those_of_the_settings(start: Start) -> None:
    gateway = await start(auth_secret=SECRET, auth_issuer="https://i.example", auth_audience="silos")
    good: dict[str, Any] = {"iss": "https://i.example", "aud": "silos"}
    bad: list[dict[str, Any]] = [
        {"iss": "https://j.example"}, {"iss": None}, {"aud": "others"}, {"aud": None}, {"aud": []}
    ]  # fmt: skip
    assert (await get(gateway, signed(**good))).status == 404
    assert (await get(gateway, signed(**{**good, "aud": ["others", "silos"]}))).status == 404
    for changed in bad:
        check_refused(await get(gateway, signed(**{**good, **changed})))


async def test_expiry_can_be_left_out_if_the_settings_say_so(start: Start) -> None:
    gateway = await start(auth_secret=SECRET, auth_require_expiry=False)
    assert (await get(gateway, signed(exp=None))).status == 404
    check_refused(await get(gateway, signed(exp=In(-60))), "expired")
    source = {"Accept": "text/event-stream"}
    answer = await gateway("GET", f"/v1/stream/none?access_token={signed(exp=None)}", headers=source)
    check_refused(answer, "300 seconds")


@pytest.mark.parametrize(
    "token",
    [
        signed("another secret that is long enough to be one"),
        signed(SECRET, "HS384"),
        signed(SECRET, "HS512"),
        signed(RSA, "RS256"),
        f"{part({'alg': 'none', 'typ': 'JWT'})}.{part(claims())}.",
        f"{part({'alg': 'None'})}.{part(claims())}.",
        f"{part({'alg': 'HS256'})}.{part(claims())}.",
        f"{part({'alg': ['HS256']})}.{part(claims())}.{part(b'x')}",
        f"{part({})}.{part(claims())}.{part(b'x')}",
        forged({"alg": "HS256", "crit": ["x"], "x": 1}, claims()),
        forged(HS256, [1]),
        forged(HS256, b"no JSON"),
        forged(HS256, b"[" * 4000),
        forged(HS256, b'{"a":' * 1000 + b"1" + b"}" * 1000),
        f"{part(b'[' * 5000)}.{part(claims())}.x",
        signed(padding="x" * 9000),
        signed()[:-1],
        signed() + "x",
        signed().replace(".", ".."),
        "x", "..", "...", "a.b.c", "é.é.é", "eyJ" * 2000,
    ],
)  # fmt: skip
async def test_tokens_that_are_forged_or_none(guarded: Gateway, token: str) -> None:
    check_refused(await get(guarded, token))


async def test_each_kind_of_key_signs_with_its_own_algorithm(start: Start, tmp_path: Path) -> None:
    """Above all: who knows a public key cannot use it as a secret."""
    file = tmp_path / "keys.json"
    keys = [jwk(RSA, "r"), jwk(EC, "e"), jwk(ED, "d"), jwk(SHORT_RSA, "short"), jwk(OTHER_RSA, "enc", use="enc")]
    shared = {"kty": "oct", "kid": "o", "k": part(SECRET.encode()), "alg": "HS256"}
    file.write_text(json.dumps({"keys": [*keys, shared, jwk(OTHER_RSA, "ps", alg="RS512"), {"kty": "x"}, 5]}))
    gateway = await start(auth_jwks=str(file))
    for key, algorithm, kid in ((RSA, "RS256", "r"), (EC, "ES256", "e"), (ED, "EdDSA", "d"), (RSA, "RS256", None)):
        assert (await get(gateway, signed(key, algorithm, kid=kid))).status == 404, kid
    bad = [
        signed(SECRET, "HS256", kid="o"),
        signed(OTHER_RSA, "RS256", kid="r"),
        signed(OTHER_RSA, "RS256", kid="enc"),
        signed(OTHER_RSA, "RS512", kid="ps"),
        signed(OTHER_RSA, "RS256", kid="ps"),
        signed(SHORT_RSA, "RS256", kid="short"),
        signed(RSA, "RS256", kid="e"),
        signed(RSA, "RS256", kid="nobody"),
        signed(RSA, "RS384", kid="r"),
        signed(RSA, "PS256", kid="r"),
        forged({"alg": "HS256", "kid": "r"}, claims(), key=PEM),
        forged(HS256, claims(), key=PEM.strip()),
    ]
    for token in bad:
        check_refused(await get(gateway, token))


async def test_secret_and_keys_may_be_used_side_by_side(start: Start, tmp_path: Path) -> None:
    (tmp_path / "keys.json").write_text(json.dumps({"keys": [jwk(RSA, "r")]}))
    gateway = await start(auth_jwks=str(tmp_path / "keys.json"), auth_secret=SECRET)
    assert (await get(gateway, signed())).status == 404
    assert (await get(gateway, signed(RSA, "RS256", kid="r"))).status == 404
    check_refused(await get(gateway, forged({"alg": "HS256", "kid": "r"}, claims(), key=PEM)))


# -- tokens in URLs ----------------------------------------------------------------------------------------------------

SOURCE = {"Accept": "text/event-stream"}


async def test_an_event_source_may_have_a_short_lived_token_in_its_url(guarded: Gateway) -> None:
    await guarded("PUT", "/v1/stream/s", b"[1]", {**bearer(signed()), "Content-Type": "application/json"})
    path = f"/v1/stream/s?live=sse&access_token={signed()}&offset=-1"
    async with guarded.opened("GET", path, headers=SOURCE) as (status, headers, _):
        assert (status, headers["content-type"]) == (200, "text/event-stream")


@pytest.mark.parametrize(
    ("method", "headers", "changed", "why"),
    [
        ("GET", {}, {}, "EventSource"),
        ("GET", {"Accept": "*/*"}, {}, "EventSource"),
        ("POST", SOURCE, {}, "EventSource"),
        ("DELETE", SOURCE, {}, "EventSource"),
        ("GET", SOURCE, {"exp": In(3600)}, "300 seconds"),
        ("GET", SOURCE, {"iat": None}, "300 seconds"),
        ("GET", SOURCE, {"exp": In(-60), "iat": In(-90)}, "expired"),
    ],
)
async def test_tokens_in_urls_that_are_refused(
    guarded: Gateway, method: str, headers: dict[str, str], changed: dict[str, Any], why: str
) -> None:
    path = f"/v1/stream/s?access_token={signed(**changed)}"
    check_refused(await guarded(method, path, headers=headers), why)


async def test_no_token_gets_into_the_logs(
    guarded: Gateway, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Also if what answers a request fails and says for what."""

    async def fail(_: object, request: Any, *__: object) -> None:
        raise OSError(f"the disk is gone: {request.url}")

    monkeypatch.setattr(Streams, "handle", fail)
    caplog.set_level("DEBUG")
    token = signed()
    for name in ("access_token", "%61ccess_token"):
        answer = await guarded("GET", f"/v1/stream/s?a=1&{name}={token}&b=%2F", headers=SOURCE)
        assert answer.status == 500
    text = caplog.text
    assert "a=1&b=%2F" in text
    assert token not in text
    assert token.rpartition(".")[2] not in text


VALUES = st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5)
NESTED = st.recursive(VALUES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner))
NAMES = st.sampled_from(["act", "verbs", "exp", "nbf", "iat", "aud", "iss", "sub", "jti"])


@settings(max_examples=300, deadline=None)
@given(kid=NESTED, payload=st.dictionaries(NAMES, NESTED))
def test_whatever_is_signed_is_a_grant_or_refused(kid: object, payload: dict[str, Any]) -> None:
    tokens = Tokens(GatewayOptions(auth_secret=SECRET))
    try:
        asyncio.run(tokens.grant(forged({"alg": "HS256", "kid": kid}, payload), from_url=False))
    except Problem as problem:
        assert problem.status == 401  # noqa: PT017
