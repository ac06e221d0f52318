"""The ``silo`` command: its output, its exit statuses, and where its options come from."""

import asyncio
import json
import os
import signal
import socket
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from actors import actor_ref
from actors.errors import ConnectionLost
from cluster import connect
from cluster.cli import app
from cluster.etcd import EtcdServer
from cluster.etcd.server import free_ports
from tests.cluster.processes import APP, ROOT, Ended, Processes
from tests.cluster.waiting import eventually


def one_line(ended: Ended, *words: str, status: int = 2) -> None:
    """It ended with the status, nothing on stdout, and one line on stderr with these words."""
    assert ended.status == status, ended
    assert ended.out == ""
    assert "Traceback" not in ended.err, ended.err
    for word in words:
        assert word in ended.err, ended.err


def single(ended: Ended, *words: str, status: int = 2) -> None:
    one_line(ended, *words, status=status)
    lines = [line for line in ended.err.splitlines() if line.strip() and not line.startswith("{")]
    assert len(lines) == 1, ended.err
    assert lines[0].startswith("silo: ")


async def status_of(where: str, path: str) -> tuple[int, Any]:
    host, _, port = where.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(f"GET {path} HTTP/1.0\r\n\r\n".encode())
    head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    return int(head.split()[1]), json.loads(body)


# -- a silo that runs --------------------------------------------------------------------------------------------------


async def test_ready_line_logs_health_and_sigterm(processes: Processes) -> None:
    silo = processes.silo("n1", "--log-level", "debug")

    (ready,) = await silo.ready()

    assert silo.out == json.dumps(ready) + "\n"
    assert list(ready) == ["ready", "silo", "grpc", "http"]
    assert (ready["ready"], ready["silo"]) == (True, "n1")
    assert await status_of(ready["http"], "/healthz") == (200, {"status": "ok"})
    assert await status_of(ready["http"], "/readyz") == (200, {"ready": True})
    async with connect(ready["grpc"]):
        assert await actor_ref("counter-1").add(2) == 2

    silo.signal(signal.SIGTERM)
    ended = await silo.ended(within=10)

    assert ended.status == 0
    assert ended.out.count("\n") == 1, "stdout has the ready line and nothing else"
    assert "SIGTERM" in ended.err
    logs = [line for line in ended.err.splitlines() if not line.startswith("silo: ")]
    assert logs
    assert {json.loads(line)["silo"] for line in logs} == {"n1"}


async def test_ctrl_c_ends_with_130(processes: Processes) -> None:
    silo = processes.silo("n1")
    await silo.ready()
    silo.signal(signal.SIGINT)
    assert (await silo.ended(within=10)).status == 130


async def test_while_it_drains_it_is_not_ready_and_a_second_sigterm_ends_it_at_once(processes: Processes) -> None:
    silo = processes.silo("n1", "--drain-limit", "60")
    (ready,) = await silo.ready()
    async with connect(ready["grpc"]):
        call = asyncio.create_task(actor_ref("counter-1").add_slowly(1))
        await eventually("the turn runs", actor_ref("counter-1").is_slow)
        silo.signal(signal.SIGTERM)
        await silo.said("SIGTERM")
        await eventually("it says so", lambda: _says_not_ready(ready["http"]))
        assert (await status_of(ready["http"], "/healthz"))[0] == 200
        silo.signal(signal.SIGTERM)
        assert (await silo.ended(within=3)).status == 143
        with pytest.raises(ConnectionLost):
            await call


async def _says_not_ready(where: str) -> bool:
    return await status_of(where, "/readyz") == (503, {"ready": False, "reason": "draining"})


async def test_sigterm_while_it_waits_for_etcd(processes: Processes) -> None:
    silo = processes.silo("n1", "--etcd", f"http://127.0.0.1:{free_ports(1)[0]}", "--store", "sqlite:///s.db")
    await silo.said("waiting for etcd")
    silo.signal(signal.SIGTERM)
    ended = await silo.ended(within=5)
    assert (ended.status, ended.out) == (0, "")


# -- what it refuses ---------------------------------------------------------------------------------------------------

BROKEN = "import actors\nraise RuntimeError('no such luck')\n"
NO_ACTORS = "from actors import Actor\nx = 1\n"
TWINS = "from actors import Actor\nclass One(Actor, type='twin'): ...\nclass Two(Actor, type='twin'): ...\n"
BAD_SYNTAX = "class Story(Actor:\n"

REFUSED: dict[str, tuple[list[str], tuple[str, ...]]] = {
    "missing module": (["start", "no_such_app"], ("no_such_app",)),
    "missing file": (["start", "no/such.py"], ("no/such.py",)),
    "not a module name": (["start", "..x"], ("'..x'",)),
    "no actors": (["start", "no_actors.py"], ("no_actors.py", "defines no Actor")),
    "two classes with one type": (["start", "twins.py"], ("twins.One", "twins.Two", '"twin"')),
    "unknown store": (["start", APP, "--store", "redis://x"], ("unknown scheme 'redis'",)),
    "store without a path": (["start", APP, "--store", "sqlite:x.db"], ("three slashes",)),
    "store in no folder": (["start", APP, "--store", "sqlite:///no/where/s.db"], ("no/where/s.db",)),
    "store that is a text file": (["start", APP, "--store", "sqlite:///no_actors.py"], ("no_actors.py",)),
    "label without a value": (["start", APP, "--label", "gpu"], ("'gpu'", "name=value")),
    "etcd of another kind": (["start", APP, "--etcd", "ftp://x"], ("'ftp://x'", "http://host:port")),
    "etcd without a port": (["start", APP, "--etcd", "http://h"], ("'http://h'", "http://host:port")),
    "name with a slash": (["start", APP, "--name", "a/b"], ("'a/b'",)),
    "cluster with a slash": (["start", APP, "--cluster", "a/b"], ("'a/b'",)),
    "http without a port": (["start", APP, "--http", "localhost"], ("'localhost'", "host:port")),
    "listen without a port": (["start", APP, "--listen", "localhost"], ("localhost",)),
    "off loopback, no credentials": (["start", APP, "--listen", "0.0.0.0:0"], ("without credentials", "token")),
    "half of the TLS files": (["start", APP, "--tls-cert", "no_actors.py"], ("tls_ca, tls_cert and tls_key",)),
    "a TLS file that is not there": (["start", APP, "--tls-cert", "x.pem"], ("--tls-cert", "no file x.pem")),
    "listen beyond the last port": (["start", APP, "--listen", "127.0.0.1:99999"], ("127.0.0.1:99999", "65535")),
    "empty token": (["start", APP, "--token", ""], ("token is empty",)),
    "up with a missing app": (["up", "no_such_app"], ("no_such_app",)),
    "dev with a missing folder": (["dev", "no/such.py"], ("there is no folder", "/no ")),
    "ask with bad JSON": (["ask", "counter-1", "{"], ("'{' is not JSON",)),
    "ask a malformed address": (["ask", "counter", "1"], ("malformed address 'counter'",)),
    "ask at a bad endpoint": (["ask", "counter-1", "1", "--connect", "nowhere"], ("'nowhere'", "host:port")),
}


@pytest.fixture(scope="module")
def apps(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("apps")
    for name, text in {"broken": BROKEN, "no_actors": NO_ACTORS, "twins": TWINS, "bad_syntax": BAD_SYNTAX}.items():
        (folder / f"{name}.py").write_text(text)
    return folder


async def test_what_is_wrong_is_said_in_one_line(processes: Processes, apps: Path) -> None:
    commands = [
        [*words, "--listen", "127.0.0.1:0"] if words[0] == "start" and "--listen" not in words else words
        for words, _ in REFUSED.values()
    ]
    problems = []
    for what, ended in zip(REFUSED, await processes.run_each(*commands, cwd=apps), strict=True):
        try:
            single(ended, *REFUSED[what][1])
        except AssertionError as error:
            problems.append(f"--- {what}: {error}")
    assert not problems, "\n".join(problems)


@pytest.mark.parametrize(("app", "words"), [("broken.py", "no such luck"), ("bad_syntax.py", "SyntaxError")])
async def test_an_app_that_does_not_import_gives_its_traceback(
    processes: Processes, apps: Path, app: str, words: str
) -> None:
    ended = await processes.run("start", app, cwd=apps)
    assert ended.status == 2
    assert "Traceback" in ended.err or "SyntaxError" in ended.err
    assert words in ended.err
    assert app in ended.err
    assert ended.err.splitlines()[-1] == f"silo: the app {app} does not import"
    assert "cluster/cli.py" not in ended.err.replace(str(ROOT), ""), "our own frames teach the user nothing"


def test_misuse_of_options_is_a_usage_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bad.toml").write_text("name = \n")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "unknown.toml").write_text('nmae = "n1"\n')
    (tmp_path / "wrong.toml").write_text('lease_ttl = "soon"\n')
    cases: dict[str, tuple[list[str], str]] = {
        "unknown option": (["--nmae", "n1"], "--nmae"),
        "lease too short": (["--lease-ttl", "1"], "lease-ttl"),
        "not a number": (["--drain-limit", "soon"], "drain-limit"),
        "log level": (["--log-level", "loud"], "loud"),
        "bad TOML": (["--config", "bad.toml"], "not TOML"),
        "binary TOML": (["--config", "binary.toml"], "binary.toml"),
        "missing TOML": (["--config", "none.toml"], "none.toml"),
        "TOML is a folder": (["--config", "."], "cannot be read"),
        "unknown key in TOML": (["--config", "unknown.toml"], "nmae"),
        "wrong type in TOML": (["--config", "wrong.toml"], "lease-ttl"),
    }
    monkeypatch.chdir(tmp_path)
    for what, (words, said) in cases.items():
        ended = CliRunner().invoke(app, ["start", APP, *words], prog_name="silo")
        assert (ended.exit_code, ended.stdout) == (2, ""), (what, ended.output, ended.exception)
        assert said in " ".join(ended.stderr.replace("│", " ").split()), (what, ended.stderr)


async def test_an_etcd_that_cannot_be_reached(processes: Processes) -> None:
    endpoint = f"http://127.0.0.1:{free_ports(1)[0]}"
    ended = await processes.run(
        "start", APP, "--etcd", endpoint, "--etcd-timeout", "3", "--listen", "127.0.0.1:0", within=15
    )  # fmt: skip
    assert (ended.status, ended.out) == (3, "")
    assert ended.err.count("waiting for etcd") >= 2, ended.err
    last = ended.err.splitlines()[-1]
    assert last.startswith("silo: ")
    assert endpoint in last
    assert "Traceback" not in ended.err


async def test_ports_in_use(processes: Processes) -> None:
    with ExitStack() as stack:
        taken = stack.enter_context(socket.socket())
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        where = f"127.0.0.1:{taken.getsockname()[1]}"
        grpc = processes.start("start", APP, "--listen", where)
        http = processes.start("start", APP, "--listen", "127.0.0.1:0", "--http", where)
        for process in (grpc, http):
            one_line(await process.ended(), f"cannot listen on {where}", status=1)


async def test_a_name_that_is_taken_and_a_store_of_ones_own(processes: Processes, etcd_server: EtcdServer) -> None:
    options = ("--etcd", etcd_server.endpoint, "--cluster", f"cli-{os.getpid()}", "--lease-ttl", "2")
    first = processes.silo("n1", *options, "--store", "sqlite:///s.db")
    await first.ready()
    again = processes.silo("n1", *options, "--store", "sqlite:///s.db")
    other = processes.silo("n2", *options, "--store", "memory:")
    one_line(await again.ended(), '"n1" already', status=1)
    one_line(await other.ended(), "all silos must share one store", status=1)
    assert first.running


# -- where options come from -------------------------------------------------------------------------------------------


async def member_of(processes: Processes, etcd: EtcdServer, cluster: str, *options: str) -> dict[str, Any]:
    ended = await processes.run("ps", "--etcd", etcd.endpoint, "--cluster", cluster, "--json", *options)
    assert ended.status == 0, ended.err
    (member,) = json.loads(ended.out)
    assert isinstance(member, dict)
    return member


async def test_flags_win_over_the_environment_and_that_over_toml(
    processes: Processes, etcd_server: EtcdServer, tmp_path: Path
) -> None:
    cluster = f"config-{os.getpid()}"
    (tmp_path / "silo.toml").write_text(
        f"""
        apps = ["{APP}"]
        etcd = "{etcd_server.endpoint}"
        cluster = "{cluster}"
        listen = "127.0.0.1:0"
        http = "127.0.0.1:0"
        store = "sqlite:///toml.db"
        name = "from-toml"
        version = "from-toml"
        lease-ttl = 3
        [label]
        zone = "toml"
        gpu = 1
        """
    )
    silo = processes.start(
        "start", "--config", "silo.toml", "--name", "from-flag", env={"SILO_NAME": "env", "SILO_VERSION": "from-env"}
    )
    (ready,) = await silo.ready()
    assert ready["silo"] == "from-flag"
    member = await member_of(processes, etcd_server, cluster)
    assert (member["name"], member["version"]) == ("from-flag", "from-env")
    assert member["labels"] == {"zone": "toml", "gpu": "1"}
    assert (tmp_path / "toml.db").exists()
    assert ready["http"] is not None


async def test_everything_from_the_environment(processes: Processes, etcd_server: EtcdServer, tmp_path: Path) -> None:
    cluster = f"environment-{os.getpid()}"
    silo = processes.start(
        "start",
        env={
            "SILO_APP": APP,
            "SILO_ETCD": etcd_server.endpoint,
            "SILO_CLUSTER": cluster,
            "SILO_LISTEN": "127.0.0.1:0",
            "SILO_STORE": "sqlite:///env.db",
            "SILO_NAME": "from-env",
            "SILO_LABEL": "zone=a gpu=1",
            "SILO_TOKEN": "secret",
        },
    )
    (ready,) = await silo.ready()
    assert (ready["silo"], ready["http"]) == ("from-env", None)
    member = await member_of(processes, etcd_server, cluster, "--token", "secret")
    assert member["labels"] == {"zone": "a", "gpu": "1"}
    refused = await processes.run("ask", "echo-1", "echo", "1", "--connect", ready["grpc"], "--cluster", cluster)
    one_line(refused, "NotAuthorized", status=1)
    allowed = await processes.run(
        "ask",
        "echo-1",
        "echo",
        "1",
        env={"SILO_CONNECT": ready["grpc"], "SILO_TOKEN": "secret", "SILO_CLUSTER": cluster},
    )
    assert (allowed.status, allowed.out) == (0, "1\n"), allowed.err


async def test_insecure_is_allowed_and_loud(processes: Processes) -> None:
    silo = processes.start("start", APP, "--listen", "0.0.0.0:0", "--insecure")
    await silo.ready()
    assert "WARNING: --insecure" in silo.err


# -- talking to actors -------------------------------------------------------------------------------------------------


async def test_ps_actors_ask_and_send(processes: Processes, etcd_server: EtcdServer) -> None:
    cluster = f"talk-{os.getpid()}"
    at = ("--etcd", etcd_server.endpoint, "--cluster", cluster)
    silo = processes.silo("n1", *at, "--store", "sqlite:///s.db", "--label", "gpu=1")
    (ready,) = await silo.ready()
    direct = ("--connect", ready["grpc"], "--cluster", cluster)

    asked = await processes.run_each(
        ("ask", "counter-n1.a", '{"text": "ü", "n": [1, null]}', *at),
        ("ask", "counter-n1.b", "add", "5", *direct),
        ("ask", "counter-n1.c", "add", '{"kwargs": {"amount": 7}}', *direct, "--json"),
        ("ask", "counter-n1.d", "add", '{"args": [9]}', *direct),
        ("send", "counter-n1.e", '"hello"', *direct),
        ("send", "counter-n1.f", "1", *direct, "--json"),
    )
    assert [ended.status for ended in asked] == [0] * 6, asked
    assert json.loads(asked[0].out) == {"text": "ü", "n": [1, None]}
    assert [ended.out for ended in asked[1:4]] == ["5\n", "7\n", "9\n"]
    assert asked[4].out.strip()
    assert json.loads(asked[5].out).keys() == {"message_id"}

    failed = await processes.run_each(
        ("ask", "faulty-n1.a", "fail", '{"args": []}', *direct),
        ("ask", "tale-1", "1", *direct),
        ("ask", "counter-n1.a", "sing", "1", *direct),
        ("ask", "counter-n1.a", "address", "1", *direct),
        ("ask", "counter-n1.a", "_value", "1", *direct),
        ("ask", "counter-n1.g", "add_slowly", "1", *direct, "--timeout", "0.5"),
        ("ask", "counter-n1.a", "add", '{"args": ["x"]}', *direct),
        ("ask", "counter-n1.a", "1", "--connect", ready["grpc"], "--cluster", "elsewhere"),
        ("ask", "counter-n1.a", "1", "--connect", f"127.0.0.1:{free_ports(1)[0]}"),
        ("ps", "--etcd", f"http://127.0.0.1:{free_ports(1)[0]}"),
    )
    statuses = [ended.status for ended in failed]
    assert statuses == [1, 1, 1, 1, 1, 3, 1, 3, 3, 3], "\n".join(f"{e.status}: {e.err}" for e in failed)
    assert all(ended.out == "" for ended in failed)
    assert "OutOfInk: green" in failed[0].err
    assert "Traceback" in failed[0].err
    for ended, words in zip(
        failed[1:],
        [
            "UnknownActorType: tale-1", "no handler 'sing'", "no handler 'address'", "no handler '_value'",
            "no answer in time", "SerializationFailed", cluster, "cannot connect", "etcd did not answer",
        ],
        strict=True,
    ):  # fmt: skip
        assert words in " ".join(ended.err.replace("│", " ").split()), ended.err
        assert "Traceback" not in ended.err, ended.err

    listed = await processes.run_each(
        ("ps", *at), ("ps", *at, "--json"), ("actors", *at), ("actors", *at, "--type", "counter", "--json")
    )
    assert [ended.status for ended in listed] == [0] * 4, listed
    assert "n1" in listed[0].out
    assert "gpu=1" in listed[0].out
    assert ready["grpc"] in listed[0].out
    (member,) = json.loads(listed[1].out)
    assert (member["name"], member["endpoint"], member["http"]) == ("n1", ready["grpc"], ready["http"])
    assert "counter-n1.a" in listed[2].out
    found = json.loads(listed[3].out)
    assert {"address": "counter-n1.b", "silo": "n1"} in found
    assert [row["address"] for row in found] == sorted(row["address"] for row in found)
    assert all(row["address"].startswith("counter-") for row in found)


async def test_help_is_for_everyone(processes: Processes) -> None:
    helps = await processes.run_each(("--help",), ("start", "-h"), ())
    assert [ended.status for ended in helps[:2]] == [0, 0]
    assert "start" in helps[0].out
    assert "--etcd" in helps[1].out


# -- garbage -----------------------------------------------------------------------------------------------------------


async def test_garbage_on_the_port_leaves_the_silo_working(processes: Processes) -> None:
    silo = processes.silo("n1")
    (ready,) = await silo.ready()
    host, _, port = ready["grpc"].rpartition(":")
    for junk in (b"GET / HTTP/1.1\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 500, os.urandom(5_000)):
        _, writer = await asyncio.open_connection(host, int(port))
        writer.write(junk)
        writer.close()
    async with connect(ready["grpc"]):
        assert await actor_ref("counter-1").add(2) == 2
    assert (await status_of(ready["http"], "/readyz"))[0] == 200
