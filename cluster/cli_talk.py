"""The subcommands of ``silo`` that list what runs in a cluster, and that send messages to actors."""

import json
import sys
from typing import Annotated, Any

import msgspec
import typer

from actors.address import listed
from actors.errors import Rejected
from actors.ref import RemoteHandler
from cluster.cli_connect import Main, connected, parse_ref
from cluster.cli_options import AsJson
from cluster.cli_output import as_line, print_table, span
from cluster.client import Client
from cluster.exit_status import ExitStatus, complain

Address = Annotated[str, typer.Argument(help="Address, e.g. session-42.", metavar="ADDR")]

_SILENT_RELEASE = "0.1.0"
"""The one whose members do not say which they are."""


@connected
def ps(*, as_json: AsJson = False) -> Main:
    """List the live silos: whether they answer, and which turn of each has run for the longest time."""

    async def main(client: Client) -> None:
        members = sorted(await client.members(), key=lambda member: member.name)
        longest: Any = await client._query("silos")
        if as_json:
            told = [
                {**msgspec.to_builtins(member), "answers": member.silo in longest, "longest": longest.get(member.silo)}
                for member in members
            ]
            print(msgspec.json.encode(told).decode())
            return
        rows = []
        for member in members:
            labels = ",".join(f"{key}={value}" for key, value in member.labels.items())
            status = "no answer" if member.silo not in longest else "draining" if member.draining else "up"
            turn = longest.get(member.silo)
            running = f"{turn['address']}.{turn['handler']} {span(turn['seconds'])}" if turn else "-"
            row = (
                member.name,
                member.endpoint,
                member.http or "-",
                str(member.load),
                listed(member.types).replace(", ", ","),
            )
            rows.append(
                (*row, labels or "-", member.version or "-", member.release or _SILENT_RELEASE, status, running)
            )
        header = ("NAME", "GRPC", "HTTP", "ACTORS", "TYPES", "LABELS", "VERSION", "RELEASE", "STATUS", "LONGEST TURN")
        print_table(header, rows)

    return main


@connected
def actors(
    *,
    type: Annotated[str | None, typer.Option("--type", help="Of this type only.")] = None,
    as_json: AsJson = False,
) -> Main:
    """List the active actors and their silos."""

    async def main(client: Client) -> None:
        found = sorted((await client.placements(type)).items())
        if as_json:
            print(json.dumps([{"address": address, "silo": silo} for address, silo in found]))
        else:
            print_table(("ADDRESS", "SILO"), found)

    return main


@connected
def ask(
    address: Address,
    words: Annotated[list[str], typer.Argument(help="[HANDLER] JSON", metavar="[HANDLER] JSON")],
    *,
    timeout: Annotated[float, typer.Option(help="Seconds to wait for the reply.", min=0.001)] = 300.0,
    as_json: AsJson = False,
) -> Main:
    """Ask an actor and print its reply as JSON.

    With a handler the JSON is its argument, or ``{"args": [...], "kwargs": {...}}``.
    """
    if len(words) > 2:
        raise typer.BadParameter("give [HANDLER] JSON: at most two words after the address")
    message = _parse(words[-1])
    ref = parse_ref(address).options(timeout=timeout)

    async def main(_: Client) -> None:
        if len(words) == 1:
            reply = await ref.ask(message)
        else:
            args, kwargs = _arguments(message)
            reply = await RemoteHandler(ref, words[0])(*args, **kwargs)
        print(as_line(reply))

    return main


@connected
def send(
    address: Address,
    message: Annotated[str, typer.Argument(help="JSON", metavar="JSON")],
    *,
    as_json: AsJson = False,
) -> Main:
    """Send an actor a message and print the id under which it was accepted."""
    value = _parse(message)
    ref = parse_ref(address)

    async def main(_: Client) -> None:
        receipt = await ref.send(value)
        print(json.dumps({"message_id": receipt.message_id}) if as_json else receipt.message_id)

    return main


@connected
def interrupt(
    address: Address,
    *,
    reason: Annotated[str, typer.Option(help="What the turn and its caller are told.")] = "",
    message: Annotated[str, typer.Option(help="Stop this message only, also while it waits.", metavar="ID")] = "",
    as_json: AsJson = False,
) -> Main:
    """Stop the turn that an actor runs now, if it runs one."""
    ref = parse_ref(address)

    async def main(_: Client) -> None:
        found = await ref.interrupt(reason, message_id=message or None)
        if as_json:
            print(json.dumps({"address": address, "interrupted": found}))
        else:
            print(f"{address} was interrupted" if found else f"nothing runs in {address}")

    return main


@connected
def delete(
    address: Address,
    *,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: AsJson = False,
) -> Main:
    """Erase everything that is stored of an actor: state, messages, journal, channels, reminders."""
    ref = parse_ref(address)
    if not yes:
        _confirm(f"Erase everything that is stored of {address}: state, messages, journal, channels, reminders?")

    async def main(client: Client) -> None:
        found: Any = await client._query("show", address)
        options = found["options"]
        if options is not None and options["persist"] != "turn":
            raise Rejected(f'{address}: only actors with persist="turn" can be deleted, not "{options["persist"]}"')
        if found["stored"] or found["silo"] is not None:
            await ref.delete()
        if as_json:
            print(json.dumps({"address": address, "deleted": found["stored"]}))
        else:
            print(f"{address} is deleted" if found["stored"] else f"nothing was stored of {address}")

    return main


def _confirm(question: str) -> None:
    """Ask on the terminal; ends the command unless the answer is yes."""
    if not sys.stdin.isatty():
        raise typer.Exit(complain("there is no terminal to ask on: give --yes", ExitStatus.USAGE))
    typer.echo(f"{question} [y/N] ", err=True, nl=False)
    try:
        answer = sys.stdin.readline()
    except KeyboardInterrupt:
        typer.echo(err=True)
        raise typer.Exit(ExitStatus.INTERRUPTED) from None
    if answer.strip().lower() not in ("y", "yes"):
        raise typer.Exit(complain("nothing was deleted", ExitStatus.FAILED))


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
