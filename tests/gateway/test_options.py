"""Settings, cursors, and what browsers are told."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster import Silo
from cluster.gateway import GatewayOptions
from cluster.gateway.streams.cursor import next_cursor
from tests.gateway.http_client import Gateway


def test_settings_come_from_the_environment() -> None:
    environment = {
        "SILO_LONG_POLL_TIMEOUT": "0.5",
        "SILO_CORS_ORIGINS": "https://a.example, https://b.example",
        "SILO_CORS_CREDENTIALS": "yes",
        "SILO_MAX_BODY": "10",
    }
    assert GatewayOptions.from_environment(environment) == GatewayOptions(
        long_poll_timeout=0.5,
        cors_origins=("https://a.example", "https://b.example"),
        cors_credentials=True,
        max_body=10,
    )


@pytest.mark.parametrize(
    "environment",
    [
        {"SILO_LONG_POLL_TIMEOUT": "soon"},
        {"SILO_LONG_POLL_TIMEOUT": "0"},
        {"SILO_LONG_POLL_TIMEOUT": "nan"},
        {"SILO_CORS_CREDENTIALS": "perhaps"},
        {"SILO_CORS_ORIGINS": "*", "SILO_CORS_CREDENTIALS": "1"},
        {"SILO_CORS_ORIGINS": "a.example"},
        {"SILO_CORS_ORIGINS": "https://a.example/"},
        {"SILO_CORS_ORIGINS": "https://"},
        {"SILO_MAX_HEAD": "1.5"},
        {"SILO_CLIENT_RATE": "-1"},
        {"SILO_HEAD_TIMEOUT": "inf"},
        {"SILO_AUTH_LEEWAY": "-1"},
        {"SILO_AUTH_LEEWAY": "nan"},
        {"SILO_AUTH_ISSUER": "https://i.example"},
        {"SILO_AUTH_AUDIENCE": "silos"},
    ],
)
def test_settings_that_make_no_sense_are_refused(environment: dict[str, str]) -> None:
    (name, *_) = environment
    with pytest.raises(ValueError, match=f"(?i){name.removeprefix('SILO_')}|CORS"):
        GatewayOptions.from_environment(environment)


def test_a_secret_that_can_be_guessed_is_refused_and_never_shown() -> None:
    with pytest.raises(ValueError, match="32 bytes.*openssl") as refused:
        GatewayOptions.from_environment({"SILO_AUTH_SECRET": "hunter2"})
    assert "hunter2" not in str(refused.value)
    assert "long-secret" not in repr(GatewayOptions(auth_secret="a-long-secret-" * 3))


FLOATS = st.floats(min_value=1e-9, max_value=1e9)
SETTINGS = st.fixed_dictionaries(
    {},
    optional={
        "auth_secret": st.text("ab,= é", min_size=32, max_size=40),
        "auth_jwks": st.sampled_from(["/a b/keys.json", "https://i.example/keys?a=b,c"]),
        "auth_require_expiry": st.booleans(),
        "auth_leeway": st.floats(min_value=0, max_value=1e9),
        "client_rate": FLOATS,
        "max_body": st.integers(min_value=1, max_value=2**60),
        "cors_origins": st.lists(st.sampled_from(["https://a.example", "http://b:80"])).map(tuple),
        "cors_credentials": st.booleans(),
        "local_webhooks": st.booleans(),
    },
)


@given(settings=SETTINGS)
def test_settings_get_to_another_process_as_they_are(settings: dict[str, Any]) -> None:
    options = GatewayOptions(**settings)
    assert GatewayOptions.from_environment({"SILO_MAX_BODY": "7", **options.to_environment()}) == options


@pytest.mark.parametrize(
    ("options", "origin", "allowed"),
    [
        (GatewayOptions(), "https://a.example", None),
        (GatewayOptions(cors_origins=("https://a.example",)), "https://a.example", "https://a.example"),
        (GatewayOptions(cors_origins=("https://a.example",)), "https://b.example", None),
        (GatewayOptions(cors_origins=("*",)), "https://b.example", "*"),
    ],
)
async def test_only_configured_origins_may_read(options: GatewayOptions, origin: str, allowed: str | None) -> None:
    async with Silo([], http="127.0.0.1:0", gateway=options) as silo:
        assert silo.http is not None
        gateway = Gateway(silo.http)
        for method, path in (("GET", "/v1/stream/none"), ("OPTIONS", "/v1/stream/none")):
            headers = (await gateway(method, path, headers={"Origin": origin})).headers
            assert headers.get("access-control-allow-origin") == allowed
            assert "access-control-allow-credentials" not in headers
            assert ("stream-next-offset" in headers.get("access-control-expose-headers", "").lower()) == bool(allowed)


async def test_credentials_are_for_listed_origins_only() -> None:
    options = GatewayOptions(cors_origins=("https://a.example",), cors_credentials=True)
    async with Silo([], http="127.0.0.1:0", gateway=options) as silo:
        assert silo.http is not None
        for origin, allowed in (("https://a.example", "true"), ("https://b.example", None)):
            answer = await Gateway(silo.http)("GET", "/v1/stream/none", headers={"Origin": origin})
            assert answer.headers.get("access-control-allow-credentials") == allowed
            assert answer.headers["vary"] == "Origin"


@pytest.mark.parametrize("had", [None, "x", "-5", "١", "9" * 30, ""])
def test_cursors_that_are_none_count_for_nothing(had: str | None) -> None:
    assert next_cursor(1_800_000_000.0, had) == next_cursor(1_800_000_000.0, None)


def test_cursors_rise_for_a_client_that_has_the_current_one() -> None:
    current = next_cursor(1_800_000_000.0, None)
    assert int(current) < int(next_cursor(1_800_000_000.0, current))
    assert next_cursor(1_800_000_020.0, current) == str(int(current) + 1)
