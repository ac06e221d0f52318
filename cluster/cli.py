"""The ``silo`` command."""

import re
import sys
import traceback
from pathlib import Path
from typing import Annotated, Any

import typer

from actors.settings import Settings
from cluster import cli_drain, cli_gateway, cli_parked, cli_show, cli_talk
from cluster.app import AppError, load_actors
from cluster.cli_gateway import with_gateway
from cluster.cli_options import (
    Apps,
    Cluster,
    Config,
    EtcdCa,
    EtcdCert,
    EtcdKey,
    EtcdOption,
    EtcdPassword,
    EtcdUser,
    Http,
    Listen,
    LogLevel,
    Store,
    TlsCa,
    TlsCert,
    TlsKey,
    TlsServerName,
    Token,
    log_to_stderr,
    make_credentials,
    make_etcd_tls,
)
from cluster.dev import run_and_reload
from cluster.etcd import EtcdServerFailed
from cluster.exit_status import ExitStatus, complain
from cluster.gateway import GatewayOptions
from cluster.local_cluster import LocalCluster, run_until_signal
from cluster.serve import die_with_parent, run, serve
from cluster.silo import Silo
from cluster.transport.options import is_loopback

app = typer.Typer(
    help="Run silos and talk to actors. Every option can also come from the environment or a TOML file (--config).",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.command()
@with_gateway
def start(
    apps: Apps,
    *,
    gateway: GatewayOptions,
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
    version: Annotated[str, typer.Option(help="Version of your code; it rises.", envvar="SILO_VERSION")] = "",
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
    rebalance: Annotated[
        bool, typer.Option(help="Move idle actors to silos that have far fewer.", envvar="SILO_REBALANCE")
    ] = True,
    allow_downgrade: Annotated[
        bool, typer.Option(help="Take over what newer code wrote, also with a loss.", envvar="SILO_ALLOW_DOWNGRADE")
    ] = False,
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
    log_to_stderr(log_level, name)
    actors = _actors(apps)

    def make() -> Silo:
        if insecure and not listen.startswith(("127.", "localhost:", "[::1]")) and not (token or tls_ca):
            _warn(f"whoever reaches {listen} can run code on this machine")
        if insecure and http is not None and not (gateway.has_auth or is_loopback(http)):
            _warn(f"whoever reaches {http} can read, change and delete every actor and stream")
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
            credentials=make_credentials(token, tls_ca, tls_cert, tls_key, tls_server_name),
            insecure=insecure,
            etcd_tls=make_etcd_tls(etcd_ca, etcd_cert, etcd_key),
            etcd_user=etcd_user,
            etcd_password=etcd_password,
            etcd_timeout=etcd_timeout,
            lease_ttl=lease_ttl,
            drain_limit=drain_limit,
            rebalance=rebalance,
            settings=Settings(call_timeout=call_timeout, max_payload=max_payload, allow_downgrade=allow_downgrade),
            gateway=gateway,
        )

    raise typer.Exit(run(lambda: serve(make)))


@app.command()
@with_gateway
def up(
    apps: Apps,
    *,
    gateway: GatewayOptions,
    silos: Annotated[int, typer.Option(help="How many silos.", envvar="SILO_SILOS", min=1)] = 3,
    data: Annotated[Path, typer.Option(help="Folder of etcd and the store.", envvar="SILO_DATA")] = Path(".silo"),
    etcd: Annotated[str | None, typer.Option(help="Use this etcd instead of an own one.", envvar="SILO_ETCD")] = None,
    store: Annotated[str | None, typer.Option(help="Use this store.", envvar="SILO_STORE")] = None,
    log_level: LogLevel = "warning",
    config: Config = None,
) -> None:
    """Run a local cluster: etcd and several silo processes. Prints each silo's ready line."""
    log_to_stderr(log_level, "up")
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
            environment=gateway.to_environment(),
        )
    except EtcdServerFailed as error:
        raise typer.Exit(complain(error, ExitStatus.FAILED)) from None
    raise typer.Exit(run(lambda: run_until_signal(local)))


@app.command()
@with_gateway
def dev(
    apps: Apps,
    *,
    gateway: GatewayOptions,
    listen: Listen = "127.0.0.1:7400",
    http: Annotated[str, typer.Option(help="host:port of the HTTP gateway.", envvar="SILO_HTTP")] = "127.0.0.1:7480",
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
        environment = {"SILO_STORE": store, **gateway.to_environment()}
        raise typer.Exit(run(lambda: run_and_reload(apps, [*apps, *options], environment=environment)))
    log_to_stderr(log_level, "dev")
    actors = _actors(apps)

    def make() -> Silo:
        return Silo(actors, listen=listen, http=http, store=store, name="dev", gateway=gateway)

    raise typer.Exit(run(lambda: serve(make)))


for _command in (
    cli_talk.ps,
    cli_talk.actors,
    cli_show.show,
    cli_talk.send,
    cli_talk.ask,
    cli_talk.interrupt,
    cli_show.tail,
    cli_parked.parked,
    cli_talk.delete,
    cli_drain.drain,
    cli_gateway.token,
):
    app.command()(_command)


def _actors(apps: list[str]) -> list[Any]:
    try:
        return list(load_actors(apps))
    except AppError as error:
        if error.__cause__ is not None:
            traceback.print_exception(error.__cause__)
        raise typer.Exit(complain(error, ExitStatus.USAGE)) from None


def _warn(danger: str) -> None:
    print(f"silo: WARNING: --insecure: {danger}", file=sys.stderr, flush=True)


def _labels(pairs: list[str]) -> dict[str, str]:
    for pair in pairs:
        if not re.fullmatch(r"[^=\s]+=.*", pair):
            raise ValueError(f"the label {pair!r} must be name=value")
    return dict(pair.split("=", 1) for pair in pairs)


def main() -> None:
    """Entry point of the ``silo`` command."""
    app(prog_name="silo", windows_expand_args=False)


if __name__ == "__main__":
    main()
