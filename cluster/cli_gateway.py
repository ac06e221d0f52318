"""The settings of the gateway as options of commands, and ``silo token``."""

import dataclasses
import functools
import inspect
import time
from collections.abc import Callable
from typing import Annotated, Any, Final, get_type_hints

import jwt
import typer

from cluster.cli_options import AsJson, Config
from cluster.cli_output import as_line
from cluster.exit_status import ExitStatus, complain
from cluster.gateway import GatewayOptions
from cluster.gateway.auth.grant import VERBS
from cluster.gateway.chat.chat import parse_chats
from cluster.gateway.options import OPTIONS, variable, words

_FIELDS: Final = {setting.name: setting for setting in dataclasses.fields(GatewayOptions)}
_KINDS: Final = {float: float | None, int: int | None, bool: bool | None, bool | None: bool | None}


def with_gateway(command: Callable[..., None]) -> Callable[..., None]:
    """A command that has an option for each setting of the gateway, and gets them all as ``gateway``."""

    @functools.wraps(command)
    def run_command(**options: Any) -> None:
        given = {name: options.pop(OPTIONS.get(name, name)) for name in _FIELDS}
        if given["cors_origins"] is not None:
            given["cors_origins"] = words(given["cors_origins"])
        try:
            given["chats"] = parse_chats(" ".join(given["chats"] or ()))
            gateway = GatewayOptions(**{name: value for name, value in given.items() if value is not None})
        except ValueError as error:
            raise typer.Exit(complain(error, ExitStatus.USAGE)) from None
        command(**options, gateway=gateway)

    own = [p for p in inspect.signature(command).parameters.values() if p.name != "gateway"]
    parameters = [*own, *(_parameter(setting) for setting in _FIELDS.values())]
    run_command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run_command.__annotations__ = {p.name: p.annotation for p in parameters}
    return run_command


def _parameter(setting: "dataclasses.Field[Any]") -> inspect.Parameter:
    kind: Any = _KINDS.get(get_type_hints(GatewayOptions)[setting.name], str | None)
    if setting.name in OPTIONS:
        kind = list[str] | None
    shown = None if setting.default in (None, ()) else str(setting.default)
    option = typer.Option(
        help=setting.metadata["help"],
        envvar=variable(setting.name),
        show_default=shown or False,
        show_envvar=False,
        rich_help_panel="Gateway",
    )
    return inspect.Parameter(
        OPTIONS.get(setting.name, setting.name),
        inspect.Parameter.KEYWORD_ONLY,
        annotation=Annotated[kind, option],
        default=None,
    )


def token(
    *,
    act: Annotated[list[str], typer.Option(help="Pattern of addresses or streams, as session-* or **; repeatable.")],
    verb: Annotated[list[str], typer.Option(help=f"What may be done there: {', '.join(VERBS)}; repeatable.")],
    ttl: Annotated[float, typer.Option(help="Seconds that it lives.", min=1)] = 3600,
    subject: Annotated[str, typer.Option(help="Who it is for.")] = "",
    auth_secret: Annotated[
        str | None,
        typer.Option(help="The secret of the silos. Better from the environment.", envvar="SILO_AUTH_SECRET"),
    ] = None,
    auth_issuer: Annotated[str | None, typer.Option(help="The iss.", envvar="SILO_AUTH_ISSUER")] = None,
    auth_audience: Annotated[str | None, typer.Option(help="The aud.", envvar="SILO_AUTH_AUDIENCE")] = None,
    as_json: AsJson = False,
    config: Config = None,
) -> None:
    """Make a token for the gateway, signed with its secret.

    In a URL (?access_token=) tokens are taken that live for 300 seconds at most.
    """
    unknown = set(verb) - set(VERBS)
    if unknown:
        usage = f"token: there is no verb {min(unknown)!r}; there are {', '.join(VERBS)}"
        raise typer.Exit(complain(usage, ExitStatus.USAGE))
    if auth_secret is None:
        usage = "token: there is no secret to sign it with: set SILO_AUTH_SECRET, as for the silos"
        raise typer.Exit(complain(usage, ExitStatus.USAGE))
    try:
        GatewayOptions(auth_secret=auth_secret, auth_issuer=auth_issuer, auth_audience=auth_audience)
    except ValueError as error:
        raise typer.Exit(complain(f"token: {error}", ExitStatus.USAGE)) from None
    now = int(time.time())
    claims = {"act": act, "verbs": verb, "iat": now, "exp": now + int(ttl)}
    named = {"sub": subject or None, "iss": auth_issuer, "aud": auth_audience}
    claims |= {name: value for name, value in named.items() if value is not None}
    made = jwt.encode(claims, auth_secret, algorithm="HS256")
    typer.echo(as_line({"token": made, **claims}) if as_json else made)
