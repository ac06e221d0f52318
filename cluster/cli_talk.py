"""The subcommands of ``silo`` that talk to a running cluster."""

import json
import sys
from collections.abc import Awaitable, Callable
from typing import Annotated, Any

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from actors.errors import ActorError, ActorFailed, ClusterUnavailable, OutcomeUnknown
from actors.ref import ActorRef, RemoteHandler, actor_ref
from cluster.cli_options import (
    AsJson,
    Cluster,
    Config,
    ConnectTo,
    EtcdCa,
    EtcdCert,
    EtcdKey,
    EtcdOption,
    EtcdPassword,
    EtcdUser,
    TlsCa,
    TlsCert,
    TlsKey,
    TlsServerName,
    Token,
    log_to_stderr,
    make_credentials,
    make_etcd_tls,
)
from cluster.client import Client, connect
from cluster.etcd import Tls
from cluster.exit_status import ExitStatus, complain
from cluster.serve import run
from cluster.transport import Credentials


def ps(
    *,
    connect_to: ConnectTo = None,
    etcd: EtcdOption = None,
    cluster: Cluster = "default",
    as_json: AsJson = False,
    etcd_ca: EtcdCa = None,
    etcd_cert: EtcdCert = None,
    etcd_key: EtcdKey = None,
    etcd_user: EtcdUser = None,
    etcd_password: EtcdPassword = None,
    token: Token = None,
    tls_ca: TlsCa = None,
    tls_cert: TlsCert = None,
    tls_key: TlsKey = None,
    tls_server_name: TlsServerName = None,
    config: Config = None,
) -> None:
    """List the live silos."""

    async def main(client: Client) -> None:
        members = sorted(await client.members(), key=lambda member: member.name)
        if as_json:
            print(msgspec.json.encode(members).decode())
            return
        table = Table("NAME", "GRPC", "HTTP", "ACTORS", "TYPES", "LABELS", "STATUS", box=None)
        for member in members:
            labels = ",".join(f"{key}={value}" for key, value in member.labels.items())
            status = "draining" if member.draining else "up"
            row = (member.name, member.endpoint, member.http or "-", str(member.load), ",".join(member.types))
            table.add_row(*row, labels or "-", status)
        Console().print(table)

    credentials = make_credentials(token, tls_ca, tls_cert, tls_key, tls_server_name)
    tls = make_etcd_tls(etcd_ca, etcd_cert, etcd_key)
    _talk(main, connect_to, etcd, cluster, credentials, tls, etcd_user, etcd_password)


def actors(
    *,
    connect_to: ConnectTo = None,
    type: Annotated[str | None, typer.Option("--type", help="Of this type only.")] = None,
    etcd: EtcdOption = None,
    cluster: Cluster = "default",
    as_json: AsJson = False,
    etcd_ca: EtcdCa = None,
    etcd_cert: EtcdCert = None,
    etcd_key: EtcdKey = None,
    etcd_user: EtcdUser = None,
    etcd_password: EtcdPassword = None,
    token: Token = None,
    tls_ca: TlsCa = None,
    tls_cert: TlsCert = None,
    tls_key: TlsKey = None,
    tls_server_name: TlsServerName = None,
    config: Config = None,
) -> None:
    """List the active actors and their silos."""

    async def main(client: Client) -> None:
        found = sorted((await client.placements(type)).items())
        if as_json:
            print(json.dumps([{"address": address, "silo": silo} for address, silo in found]))
            return
        table = Table("ADDRESS", "SILO", box=None)
        for row in found:
            table.add_row(*row)
        Console().print(table)

    credentials = make_credentials(token, tls_ca, tls_cert, tls_key, tls_server_name)
    tls = make_etcd_tls(etcd_ca, etcd_cert, etcd_key)
    _talk(main, connect_to, etcd, cluster, credentials, tls, etcd_user, etcd_password)


def ask(
    address: Annotated[str, typer.Argument(help="Address, e.g. session-42.")],
    words: Annotated[list[str], typer.Argument(help="[HANDLER] JSON", metavar="[HANDLER] JSON")],
    *,
    connect_to: ConnectTo = None,
    etcd: EtcdOption = None,
    cluster: Cluster = "default",
    timeout: Annotated[float, typer.Option(help="Seconds to wait for the reply.", min=0.001)] = 300.0,
    token: Token = None,
    tls_ca: TlsCa = None,
    tls_cert: TlsCert = None,
    tls_key: TlsKey = None,
    tls_server_name: TlsServerName = None,
    as_json: AsJson = False,
    config: Config = None,
) -> None:
    """Ask an actor and print its reply as JSON.

    With a handler the JSON is its argument, or ``{"args": [...], "kwargs": {...}}``.
    """
    if len(words) > 2:
        raise typer.BadParameter("give [HANDLER] JSON: at most two words after the address")
    message = _parse(words[-1])
    ref = _ref(address).options(timeout=timeout)

    async def main(client: Client) -> None:
        if len(words) == 1:
            reply = await ref.ask(message)
        else:
            args, kwargs = _arguments(message)
            reply = await RemoteHandler(ref, words[0])(*args, **kwargs)
        print(msgspec.json.encode(reply, enc_hook=str).decode())

    _talk(main, connect_to, etcd, cluster, make_credentials(token, tls_ca, tls_cert, tls_key, tls_server_name))


def send(
    address: Annotated[str, typer.Argument(help="Address, e.g. session-42.")],
    message: Annotated[str, typer.Argument(help="JSON")],
    *,
    connect_to: ConnectTo = None,
    etcd: EtcdOption = None,
    cluster: Cluster = "default",
    token: Token = None,
    tls_ca: TlsCa = None,
    tls_cert: TlsCert = None,
    tls_key: TlsKey = None,
    tls_server_name: TlsServerName = None,
    as_json: AsJson = False,
    config: Config = None,
) -> None:
    """Send an actor a message and print the id under which it was accepted."""
    value = _parse(message)
    ref = _ref(address)

    async def main(client: Client) -> None:
        receipt = await ref.send(value)
        print(json.dumps({"message_id": receipt.message_id}) if as_json else receipt.message_id)

    _talk(main, connect_to, etcd, cluster, make_credentials(token, tls_ca, tls_cert, tls_key, tls_server_name))


def _talk(
    main: Callable[[Client], Awaitable[None]],
    silo: str | None,
    etcd: list[str] | None,
    cluster: str,
    credentials: Credentials,
    etcd_tls: Tls | None = None,
    etcd_user: str | None = None,
    etcd_password: str | None = None,
) -> None:
    """Run a client's command, turning errors into a line on stderr and an exit status."""
    if silo is not None:
        etcd = None  # the more exact of the two; SILO_ETCD may be set for other commands
    elif not etcd:
        silo = "127.0.0.1:7400"

    async def talk() -> int:
        try:
            client = connect(
                silo,
                etcd=etcd or None,
                cluster=cluster,
                credentials=credentials,
                etcd_tls=etcd_tls,
                etcd_user=etcd_user,
                etcd_password=etcd_password,
            )
            async with client:
                await main(client)
        except ValueError as error:
            return complain(error, ExitStatus.USAGE)
        except (ClusterUnavailable, OutcomeUnknown, ConnectionError) as error:
            return complain(error, ExitStatus.UNAVAILABLE)
        except ActorFailed as error:
            print(error.traceback, file=sys.stderr, end="")
            return complain(error, ExitStatus.FAILED)
        except ActorError as error:
            return complain(f"{type(error).__name__}: {error}", ExitStatus.FAILED)
        return ExitStatus.OK

    log_to_stderr("error", "client")
    try:
        status = run(talk)
    except KeyboardInterrupt:
        status = ExitStatus.INTERRUPTED
    raise typer.Exit(status)


def _ref(address: str) -> ActorRef:
    try:
        return actor_ref(address)
    except ValueError as error:
        raise typer.Exit(complain(error, ExitStatus.USAGE)) from None


def _parse(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        hint = """a string needs quotes, a handler without arguments '{"args": []}'"""
        raise typer.Exit(complain(f"{text!r} is not JSON ({error}); {hint}", ExitStatus.USAGE)) from None


def _arguments(message: Any) -> tuple[list[Any], dict[str, Any]]:
    if isinstance(message, dict) and message and message.keys() <= {"args", "kwargs"}:
        return list(message.get("args", [])), dict(message.get("kwargs", {}))
    return [message], {}
