"""The ``silo`` command."""

import json
import re
import sys
import tomllib
import traceback
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from actors.errors import ActorError, ActorFailed, ClusterUnavailable, OutcomeUnknown
from actors.ref import ActorRef, RemoteHandler, actor_ref
from actors.settings import Settings
from cluster.app import AppError, load_actors
from cluster.client import Client, connect
from cluster.dev import run_and_reload
from cluster.etcd import EtcdServerFailed, Tls
from cluster.exit_status import ExitStatus, complain
from cluster.local_cluster import LocalCluster, run_until_signal
from cluster.logs import configure_logs
from cluster.serve import die_with_parent, run, serve
from cluster.silo import Silo
from cluster.transport import Credentials

app = typer.Typer(
    help="Run silos and talk to actors. Every option can also come from the environment or a TOML file (--config).",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _load_config(context: typer.Context, path: Path | None) -> Path | None:
    """Make the options of a TOML file the defaults of this command. Flags and environment win."""
    if path is None:
        return None
    try:
        settings = tomllib.loads(path.read_text())
    except OSError as error:
        raise typer.BadParameter(f"{path} cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise typer.BadParameter(f"{path} is not TOML: {error}") from None
    settings = {name.replace("-", "_"): value for name, value in settings.items()}
    known = {parameter.name for parameter in context.command.params} - {"config"}
    unknown = sorted(settings.keys() - known)
    if unknown:
        raise typer.BadParameter(f"{path}: unknown settings {unknown}; known are {sorted(filter(None, known))}")
    repeatable = {p.name for p in context.command.params if getattr(p, "multiple", False) or p.nargs == -1}
    for name, value in settings.items():
        if isinstance(value, dict):  # labels
            settings[name] = [f"{key}={item}" for key, item in value.items()]
        elif name in repeatable and not isinstance(value, list):
            settings[name] = [value]
    context.default_map = {**(context.default_map or {}), **settings}
    return path


Apps = Annotated[list[str], typer.Argument(help="App: a module, or a path.py; repeatable.", envvar="SILO_APP")]
Config = Annotated[
    Path | None,
    typer.Option(help="TOML file with options.", envvar="SILO_CONFIG", callback=_load_config, is_eager=True),
]
EtcdOption = Annotated[
    list[str] | None, typer.Option(help="etcd endpoint, http://host:2379; repeatable.", envvar="SILO_ETCD")
]
Cluster = Annotated[str, typer.Option(help="Name of the cluster in etcd.", envvar="SILO_CLUSTER")]
Token = Annotated[
    str | None, typer.Option(help="Shared token of the cluster. Better from the environment.", envvar="SILO_TOKEN")
]
TlsCa = Annotated[str | None, typer.Option(help="PEM file: CA of silos and clients.", envvar="SILO_TLS_CA")]
TlsCert = Annotated[str | None, typer.Option(help="PEM file: own certificate.", envvar="SILO_TLS_CERT")]
TlsKey = Annotated[str | None, typer.Option(help="PEM file: own key.", envvar="SILO_TLS_KEY")]
TlsServerName = Annotated[
    str | None, typer.Option(help="Name that the silos' certificates carry.", envvar="SILO_TLS_SERVER_NAME")
]
EtcdCa = Annotated[str | None, typer.Option(help="PEM file: CA of etcd.", envvar="SILO_ETCD_CA")]
EtcdCert = Annotated[str | None, typer.Option(help="PEM file: certificate for etcd.", envvar="SILO_ETCD_CERT")]
EtcdKey = Annotated[str | None, typer.Option(help="PEM file: key for etcd.", envvar="SILO_ETCD_KEY")]
EtcdUser = Annotated[str | None, typer.Option(help="etcd user.", envvar="SILO_ETCD_USER")]
EtcdPassword = Annotated[str | None, typer.Option(help="etcd password.", envvar="SILO_ETCD_PASSWORD")]
Http = Annotated[str | None, typer.Option(help="host:port for /healthz and /readyz.", envvar="SILO_HTTP")]
Store = Annotated[str, typer.Option(help="memory:, sqlite:///path", envvar="SILO_STORE")]
LogLevel = Annotated[str, typer.Option(help="debug, info, warning or error.", envvar="SILO_LOG_LEVEL")]
Listen = Annotated[str, typer.Option(help="host:port for silos and clients.", envvar="SILO_LISTEN")]
ConnectTo = Annotated[str | None, typer.Option("--connect", help="A silo, host:port.", envvar="SILO_CONNECT")]
AsJson = Annotated[bool, typer.Option("--json", help="Machine-readable output.")]


@app.command()
def start(
    apps: Apps,
    *,
    etcd: EtcdOption = None,
    listen: Annotated[
        str, typer.Option(help="host:port for silos and clients.", envvar="SILO_LISTEN")
    ] = "127.0.0.1:7400",
    advertise: Annotated[
        str | None, typer.Option(help="host[:port] at which others reach this silo.", envvar="SILO_ADVERTISE")
    ] = None,
    http: Http = None,
    store: Store = "memory:",
    name: Annotated[str | None, typer.Option(help="Name, unique in the cluster.", envvar="SILO_NAME")] = None,
    label: Annotated[list[str] | None, typer.Option(help="name=value, for placement.", envvar="SILO_LABEL")] = None,
    cluster: Cluster = "default",
    version: Annotated[str, typer.Option(help="Version of your code.", envvar="SILO_VERSION")] = "",
    token: Token = None,
    tls_ca: TlsCa = None,
    tls_cert: TlsCert = None,
    tls_key: TlsKey = None,
    tls_server_name: TlsServerName = None,
    insecure: Annotated[
        bool, typer.Option(help="Listen off loopback without credentials.", envvar="SILO_INSECURE")
    ] = False,
    etcd_ca: EtcdCa = None,
    etcd_cert: EtcdCert = None,
    etcd_key: EtcdKey = None,
    etcd_user: EtcdUser = None,
    etcd_password: EtcdPassword = None,
    etcd_timeout: Annotated[
        float, typer.Option(help="Seconds to wait for etcd at the start.", envvar="SILO_ETCD_TIMEOUT")
    ] = 30.0,
    lease_ttl: Annotated[
        int, typer.Option(help="Seconds after which a silent silo is dead.", envvar="SILO_LEASE_TTL", min=2)
    ] = 4,
    drain_limit: Annotated[
        float, typer.Option(help="Seconds that running turns have at a shutdown.", envvar="SILO_DRAIN_LIMIT", min=0)
    ] = 10.0,
    call_timeout: Annotated[
        float, typer.Option(help="Default seconds that calls wait.", envvar="SILO_CALL_TIMEOUT", min=0.001)
    ] = 300.0,
    max_payload: Annotated[
        int, typer.Option(help="Largest message in bytes.", envvar="SILO_MAX_PAYLOAD", min=1024)
    ] = Settings().max_payload,
    log_level: LogLevel = "info",
    config: Config = None,
    parent_pid: Annotated[int | None, typer.Option(hidden=True)] = None,
) -> None:
    """Run one silo. Without --etcd it is a cluster of its own."""
    if parent_pid is not None:
        die_with_parent(parent_pid)
    _configure_logs(log_level, name)
    actors = _actors(apps)

    def make() -> Silo:
        if insecure and not listen.startswith(("127.", "localhost:", "[::1]")) and not (token or tls_ca):
            print(
                f"silo: WARNING: --insecure: whoever reaches {listen} can run code on this machine",
                file=sys.stderr,
                flush=True,
            )
        return Silo(
            actors,
            etcd=etcd or None,
            store=store,
            listen=listen,
            advertise=advertise,
            http=http,
            name=name,
            labels=_labels(label or []),
            cluster=cluster,
            version=version,
            credentials=_credentials(token, tls_ca, tls_cert, tls_key, tls_server_name),
            insecure=insecure,
            etcd_tls=_etcd_tls(etcd_ca, etcd_cert, etcd_key),
            etcd_user=etcd_user,
            etcd_password=etcd_password,
            etcd_timeout=etcd_timeout,
            lease_ttl=lease_ttl,
            drain_limit=drain_limit,
            settings=Settings(call_timeout=call_timeout, max_payload=max_payload),
        )

    raise typer.Exit(run(lambda: serve(make)))


@app.command()
def up(
    apps: Apps,
    *,
    silos: Annotated[int, typer.Option(help="How many silos.", envvar="SILO_SILOS", min=1)] = 3,
    data: Annotated[Path, typer.Option(help="Folder of etcd and the store.", envvar="SILO_DATA")] = Path(".silo"),
    etcd: Annotated[str | None, typer.Option(help="Use this etcd instead of an own one.", envvar="SILO_ETCD")] = None,
    store: Annotated[str | None, typer.Option(help="Use this store.", envvar="SILO_STORE")] = None,
    log_level: LogLevel = "warning",
    config: Config = None,
) -> None:
    """Run a local cluster: etcd and several silo processes. Prints each silo's ready line."""
    _configure_logs(log_level, "up")
    _actors(apps)  # an app that does not import is said once, not by every silo

    try:
        local = LocalCluster(
            apps,
            silos=silos,
            directory=data,
            store=store,
            etcd=etcd,
            usual_ports=True,
            options=["--log-level", log_level],
        )
    except EtcdServerFailed as error:
        raise typer.Exit(complain(error, ExitStatus.FAILED)) from None
    raise typer.Exit(run(lambda: run_until_signal(local)))


@app.command()
def dev(
    apps: Apps,
    *,
    listen: Listen = "127.0.0.1:7400",
    http: Annotated[
        str, typer.Option(help="host:port for /healthz and /readyz.", envvar="SILO_HTTP")
    ] = "127.0.0.1:7480",
    store: Store = "sqlite:///.silo/dev.db",
    reload: Annotated[bool, typer.Option(help="Restart when a file beside the app changes.")] = True,
    log_level: LogLevel = "info",
    config: Config = None,
) -> None:
    """Run one silo for development: embedded directory and store, restarted when the app changes."""
    if store == "sqlite:///.silo/dev.db":
        Path(".silo").mkdir(exist_ok=True)
    options = ["--listen", listen, "--http", http, "--name", "dev", "--log-level", log_level]
    if reload:
        raise typer.Exit(run(lambda: run_and_reload(apps, [*apps, *options], store=store)))
    _configure_logs(log_level, "dev")
    actors = _actors(apps)
    raise typer.Exit(run(lambda: serve(lambda: Silo(actors, listen=listen, http=http, store=store, name="dev"))))


@app.command()
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

    credentials = _credentials(token, tls_ca, tls_cert, tls_key, tls_server_name)
    tls = _etcd_tls(etcd_ca, etcd_cert, etcd_key)
    _talk(main, connect_to, etcd, cluster, credentials, tls, etcd_user, etcd_password)


@app.command()
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

    credentials = _credentials(token, tls_ca, tls_cert, tls_key, tls_server_name)
    tls = _etcd_tls(etcd_ca, etcd_cert, etcd_key)
    _talk(main, connect_to, etcd, cluster, credentials, tls, etcd_user, etcd_password)


@app.command()
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

    _talk(main, connect_to, etcd, cluster, _credentials(token, tls_ca, tls_cert, tls_key, tls_server_name))


@app.command()
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

    _talk(main, connect_to, etcd, cluster, _credentials(token, tls_ca, tls_cert, tls_key, tls_server_name))


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

    _configure_logs("error", "client")
    try:
        status = run(talk)
    except KeyboardInterrupt:
        status = ExitStatus.INTERRUPTED
    raise typer.Exit(status)


def _actors(apps: list[str]) -> list[Any]:
    try:
        return list(load_actors(apps))
    except AppError as error:
        if error.__cause__ is not None:
            traceback.print_exception(error.__cause__)
        raise typer.Exit(complain(error, ExitStatus.USAGE)) from None


def _configure_logs(level: str, silo: str | None) -> None:
    if level.upper() not in ("DEBUG", "INFO", "WARNING", "ERROR"):
        raise typer.BadParameter(f"the log level is debug, info, warning or error, not {level!r}")
    configure_logs(level, **({"silo": silo} if silo else {}))


def _labels(pairs: list[str]) -> dict[str, str]:
    for pair in pairs:
        if not re.fullmatch(r"[^=\s]+=.*", pair):
            raise ValueError(f"the label {pair!r} must be name=value")
    return dict(pair.split("=", 1) for pair in pairs)


def _credentials(
    token: str | None, ca: str | None, cert: str | None, key: str | None, server_name: str | None
) -> Credentials:
    try:
        return Credentials(token=token, tls_ca=ca, tls_cert=cert, tls_key=key, tls_server_name=server_name)
    except ValueError as error:
        raise typer.Exit(complain(error, ExitStatus.USAGE)) from None


def _etcd_tls(ca: str | None, cert: str | None, key: str | None) -> Tls | None:
    return Tls(ca=ca, cert=cert, key=key) if ca or cert or key else None


def _ref(address: str) -> ActorRef:
    try:
        return actor_ref(address)
    except ValueError as error:
        raise typer.Exit(complain(error, ExitStatus.USAGE)) from None


def _parse(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise typer.Exit(complain(f"{text!r} is not JSON ({error}); a string needs quotes", ExitStatus.USAGE)) from None


def _arguments(message: Any) -> tuple[list[Any], dict[str, Any]]:
    if isinstance(message, dict) and message and message.keys() <= {"args", "kwargs"}:
        return list(message.get("args", [])), dict(message.get("kwargs", {}))
    return [message], {}


def main() -> None:
    """Entry point of the ``silo`` command."""
    app(prog_name="silo", windows_expand_args=False)


if __name__ == "__main__":
    main()
