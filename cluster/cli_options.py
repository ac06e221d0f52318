"""What the subcommands of ``silo`` have in common: options, the TOML file, and what is made of them."""

import tomllib
from pathlib import Path
from typing import Annotated

import typer

from cluster.etcd import Tls
from cluster.exit_status import ExitStatus, complain
from cluster.logs import configure_logs
from cluster.transport import Credentials


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
        elif name not in repeatable and isinstance(value, list):  # cors_origins
            settings[name] = ",".join(map(str, value))
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
Http = Annotated[str | None, typer.Option(help="host:port of the HTTP gateway.", envvar="SILO_HTTP")]
Store = Annotated[str, typer.Option(help="memory:, sqlite:///path", envvar="SILO_STORE")]
LogLevel = Annotated[str, typer.Option(help="debug, info, warning or error.", envvar="SILO_LOG_LEVEL")]
Listen = Annotated[str, typer.Option(help="host:port for silos and clients.", envvar="SILO_LISTEN")]
ConnectTo = Annotated[str | None, typer.Option("--connect", help="A silo, host:port.", envvar="SILO_CONNECT")]
AsJson = Annotated[bool, typer.Option("--json", help="Machine-readable output.")]


def log_to_stderr(level: str, silo: str | None) -> None:
    if level.upper() not in ("DEBUG", "INFO", "WARNING", "ERROR"):
        raise typer.BadParameter(f"the log level is debug, info, warning or error, not {level!r}")
    configure_logs(level, **({"silo": silo} if silo else {}))


def make_credentials(
    token: str | None, ca: str | None, cert: str | None, key: str | None, server_name: str | None
) -> Credentials:
    for option, path in (("tls-ca", ca), ("tls-cert", cert), ("tls-key", key)):
        if path is not None and not Path(path).is_file():
            raise typer.Exit(complain(f"--{option}: there is no file {path}", ExitStatus.USAGE))
    try:
        return Credentials(token=token, tls_ca=ca, tls_cert=cert, tls_key=key, tls_server_name=server_name)
    except ValueError as error:
        raise typer.Exit(complain(error, ExitStatus.USAGE)) from None


def make_etcd_tls(ca: str | None, cert: str | None, key: str | None) -> Tls | None:
    return Tls(ca=ca, cert=cert, key=key) if ca or cert or key else None
