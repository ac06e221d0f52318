"""Settings, cursors, and what browsers are told."""

import pytest

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
    ],
)
def test_settings_that_make_no_sense_are_refused(environment: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=r"SILO_|CORS|long_poll"):
        GatewayOptions.from_environment(environment)


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
