"""The gateway's settings in the commands, as real processes."""

import json
from pathlib import Path

import pytest

from tests.cluster.processes import APP, Process, Processes, children_of
from tests.gateway.auth.signing import SECRET, bearer, signed
from tests.gateway.http_client import Gateway


def local(address: str) -> Gateway:
    """The gateway of a silo that listens everywhere, from here."""
    return Gateway(f"127.0.0.1:{address.rpartition(':')[2]}")


async def status(gateway: Gateway, token: str = "", **headers: str) -> int:
    return (await gateway("GET", "/v1/stream/none", headers={**(bearer(token) if token else {}), **headers})).status


async def test_off_loopback_it_wants_tokens_or_says_loudly_that_it_does_not(processes: Processes) -> None:
    everywhere = ("--http", "0.0.0.0:0")
    refused = await processes.silo("n1", *everywhere).ended()
    assert (refused.status, refused.out, refused.err.count("\n")) == (2, "", 1)
    for word in ("0.0.0.0:0", "--auth-secret", "--auth-jwks", "--insecure"):
        assert word in refused.err

    open_to_all = processes.silo("n2", *everywhere, "--insecure")
    (ready,) = await open_to_all.ready()
    assert f"silo: WARNING: --insecure: whoever reaches {everywhere[1]} can read" in open_to_all.err
    assert await status(local(ready["http"]), Host="silo.example") == 404

    guarded = processes.silo("n3", *everywhere, env={"SILO_AUTH_SECRET": SECRET})
    (ready,) = await guarded.ready()
    assert "WARNING" not in guarded.err
    assert await status(local(ready["http"]), Host="silo.example") == 401
    assert await status(local(ready["http"]), signed(), Host="silo.example") == 404
    assert (await local(ready["http"])("GET", "/parked", headers=bearer(signed()))).status == 200
    assert (await local(ready["http"])("GET", "/parked", headers=bearer(signed(act="*")))).status == 403


async def test_a_token_of_the_command_is_taken_by_the_silo(processes: Processes) -> None:
    env = {"SILO_AUTH_SECRET": SECRET, "SILO_AUTH_ISSUER": "me", "SILO_AUTH_AUDIENCE": "silos"}
    (ready,) = await processes.silo("n1", env=env).ready()
    gateway = Gateway(ready["http"])
    words = ("token", "--act", "no*", "--act", "x", "--verb", "read", "--ttl", "60", "--subject", "ann")
    plain, told = await processes.run(*words, env=env), await processes.run(*words, "--json", env=env)
    assert await status(gateway, plain.out.strip()) == 404
    found = json.loads(told.out)
    assert await status(gateway, found["token"]) == 404
    assert (found["act"], found["verbs"], found["sub"]) == (["no*", "x"], ["read"], "ann")
    assert found["exp"] - found["iat"] == 60
    assert (await gateway("PUT", "/v1/stream/none", headers=bearer(found["token"]))).status == 403
    assert await status(gateway, signed()) == 401, "it is of nobody, and for nobody"


@pytest.mark.parametrize(
    ("words", "env", "why"),
    [
        (("--act", "a", "--verb", "read"), {}, "SILO_AUTH_SECRET"),
        (("--act", "a", "--verb", "reed"), {"SILO_AUTH_SECRET": SECRET}, "no verb 'reed'"),
        (("--act", "a", "--verb", "read"), {"SILO_AUTH_SECRET": "hunter2"}, "32 bytes"),
    ],
)
async def test_tokens_that_cannot_be_made(
    processes: Processes, words: tuple[str, ...], env: dict[str, str], why: str
) -> None:
    ended = await processes.run("token", *words, env=env)
    assert (ended.status, ended.out, ended.err.count("\n")) == (2, "", 1)
    assert why in ended.err
    assert "hunter2" not in ended.err


async def test_flags_environment_and_file_say_the_same(processes: Processes, tmp_path: Path) -> None:
    (tmp_path / "silo.toml").write_text(
        f'auth-secret = "{SECRET}"\ncors_origins = ["https://a.example", "https://b.example"]\nmax_head = 2000\n'
    )
    origins = "https://a.example, https://b.example"
    flags = ("--auth-secret", SECRET, "--cors-origins", origins, "--max-head", 2000)
    env = {"SILO_AUTH_SECRET": SECRET, "SILO_CORS_ORIGINS": origins, "SILO_MAX_HEAD": "2000"}
    for silo in (
        processes.silo("n1", *flags),
        processes.silo("n2", env=env),
        processes.silo("n3", "--config", "silo.toml"),
        processes.silo("n4", "--max-head", 2000, env={**env, "SILO_MAX_HEAD": "1"}),
    ):
        (ready,) = await silo.ready()
        gateway = Gateway(ready["http"])
        assert (await status(gateway), await status(gateway, signed())) == (401, 404)
        answer = await gateway("GET", "/v1/stream/none", headers={"Origin": "https://b.example"})
        assert answer.headers["access-control-allow-origin"] == "https://b.example"
        assert await status(gateway, X="x" * 2000) == 431
        await silo.kill()


@pytest.mark.parametrize(
    ("words", "env", "why"),
    [
        (("--client-rate", "0"), {}, "client_rate"),
        (("--cors-origins", "*", "--cors-credentials"), {}, "CORS"),
        (("--auth-secret", "hunter2"), {}, "32 bytes"),
        (("--auth-issuer", "me"), {}, "auth_secret"),
        ((), {"SILO_CORS_ORIGINS": "a.example"}, "a.example"),
        (("--auth-jwks", "none.json"), {}, "none.json"),
    ],
)
async def test_settings_that_make_no_sense_end_it_with_one_line(
    processes: Processes, words: tuple[str, ...], env: dict[str, str], why: str
) -> None:
    ended = await processes.silo("n1", "--log-level", "error", *words, env=env).ended()
    assert (ended.status, ended.out) == (2, "")
    assert why in next(line for line in ended.err.splitlines() if line.startswith("silo: "))
    assert "Traceback" not in ended.err
    assert "hunter2" not in ended.err


def command_lines(process: Process) -> list[str]:
    return [Path(f"/proc/{pid}/cmdline").read_text() for pid in children_of(process.pid)]


async def test_up_and_dev_pass_on_what_they_are_told_and_show_no_secret(processes: Processes, tmp_path: Path) -> None:
    (tmp_path / "story.py").write_text("from actors import Actor\nclass Story(Actor): pass\n")
    (tmp_path / "up.toml").write_text(f'auth_secret = "{SECRET}"\nmax_head = 2000\n')
    ports = ("--listen", "127.0.0.1:0", "--http", "127.0.0.1:0")
    up = processes.start("up", APP, "--silos", "1", "--config", "up.toml", env={"SILO_MAX_HEAD": "3000"})
    dev = processes.start("dev", "story.py", *ports, "--max-head", 3000, env={"SILO_AUTH_SECRET": SECRET})
    for command in (up, dev):
        (ready,) = await command.ready()
        gateway = Gateway(ready["http"])
        assert (await status(gateway), await status(gateway, signed())) == (401, 404)
        assert await status(gateway, signed(), X="x" * 2500) == 404
        assert await status(gateway, signed(), X="x" * 3000) == 431
        lines = command_lines(command)
        assert lines
        assert not any(SECRET in line for line in lines)
