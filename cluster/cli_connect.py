"""What the subcommands of ``silo`` that talk to a running cluster have in common: a connection, and how they end."""

import functools
import inspect
import os
import sys
from collections.abc import Awaitable, Callable
from typing import Any, ParamSpec, TypeAlias

import typer

from actors.errors import ActorError, ActorFailed, ClusterUnavailable, OutcomeUnknown
from actors.ref import ActorRef, actor_ref
from cluster.cli_options import (
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
from cluster.exit_status import ExitStatus, complain
from cluster.serve import run

P = ParamSpec("P")
Main: TypeAlias = Callable[[Client], Awaitable[None]]
"""What a command does once it is connected."""

_CONNECTION: dict[str, tuple[Any, object]] = {
    "connect_to": (ConnectTo, None),
    "etcd": (EtcdOption, None),
    "cluster": (Cluster, "default"),
    "token": (Token, None),
    "tls_ca": (TlsCa, None),
    "tls_cert": (TlsCert, None),
    "tls_key": (TlsKey, None),
    "tls_server_name": (TlsServerName, None),
    "etcd_ca": (EtcdCa, None),
    "etcd_cert": (EtcdCert, None),
    "etcd_key": (EtcdKey, None),
    "etcd_user": (EtcdUser, None),
    "etcd_password": (EtcdPassword, None),
    "config": (Config, None),
}


def connected(command: Callable[P, Main]) -> Callable[..., None]:
    """A command with the options of a connection.

    The function checks its own options, before anything is connected, and returns what is to be done with the client.
    """

    @functools.wraps(command)
    def run_command(**options: Any) -> None:
        connection = {name: options.pop(name) for name in _CONNECTION}
        main = command(**options)  # type: ignore[call-arg]
        del connection["config"]  # it has told the others their defaults
        raise typer.Exit(_talk(main, **connection))

    own = inspect.signature(command)
    more = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=annotation, default=default)
        for name, (annotation, default) in _CONNECTION.items()
    ]
    run_command.__signature__ = own.replace(  # type: ignore[attr-defined]
        parameters=[*own.parameters.values(), *more], return_annotation=None
    )
    run_command.__annotations__ = {p.name: p.annotation for p in [*own.parameters.values(), *more]}
    return run_command


def _talk(
    main: Main,
    *,
    connect_to: str | None,
    etcd: list[str] | None,
    cluster: str,
    token: str | None,
    tls_ca: str | None,
    tls_cert: str | None,
    tls_key: str | None,
    tls_server_name: str | None,
    etcd_ca: str | None,
    etcd_cert: str | None,
    etcd_key: str | None,
    etcd_user: str | None,
    etcd_password: str | None,
) -> int:
    """Run a client's command, turning errors into a line on stderr and an exit status."""
    credentials = make_credentials(token, tls_ca, tls_cert, tls_key, tls_server_name)
    if connect_to is not None:
        etcd = None  # the more exact of the two; SILO_ETCD may be set for other commands
    elif not etcd:
        connect_to = "127.0.0.1:7400"

    async def talk() -> int:
        try:
            client = connect(
                connect_to,
                etcd=etcd or None,
                cluster=cluster,
                credentials=credentials,
                etcd_tls=make_etcd_tls(etcd_ca, etcd_cert, etcd_key),
                etcd_user=etcd_user,
                etcd_password=etcd_password,
            )
            async with client:
                await main(client)
        except ValueError as error:
            return complain(error, ExitStatus.USAGE)
        except BrokenPipeError:  # whoever reads the output has had enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return ExitStatus.OK
        except (ClusterUnavailable, OutcomeUnknown, ConnectionError) as error:
            return complain(error, ExitStatus.UNAVAILABLE)
        except ActorFailed as error:
            typer.echo(error.traceback, err=True, nl=False)
            return complain(error, ExitStatus.FAILED)
        except ActorError as error:
            return complain(f"{type(error).__name__}: {error}", ExitStatus.FAILED)
        return ExitStatus.OK

    log_to_stderr("error", "client")
    try:
        return run(talk)
    except KeyboardInterrupt:
        return ExitStatus.INTERRUPTED


def parse_ref(address: str) -> ActorRef:
    """A reference to the address. Ends the command where it is malformed."""
    try:
        return actor_ref(address)
    except ValueError as error:
        raise typer.Exit(complain(error, ExitStatus.USAGE)) from None
