"""``silo parked``: messages that are not run any more until an operator decides."""

from typing import Annotated, Any

import msgspec
import typer

from actors.errors import Rejected
from actors.ref import ActorRef, RemoteHandler
from cluster.cli_connect import Main, connected, parse_ref
from cluster.cli_options import AsJson
from cluster.cli_output import age, as_line, local_time, print_table, printable
from cluster.cli_show import arguments, print_steps
from cluster.client import Client
from cluster.exit_status import ExitStatus, complain
from cluster.inspection.questions import ParkedQuestion

_OUTCOMES = {"retry": "runs again", "skip": "is settled as failed", "drop": "is forgotten"}


@connected
def parked(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            help="Nothing lists all; an address its own; with a message's id all about that one; with retry, skip or "
            "drop before that it is decided.",
            metavar="[retry|skip|drop] ADDR MESSAGE_ID",
        ),
    ] = None,
    *,
    type: Annotated[str | None, typer.Option("--type", help="Of actors of this type only.")] = None,
    as_json: AsJson = False,
) -> Main:
    """List parked messages, and decide what becomes of them.

    retry: run it again, with its journal. skip: it failed; whoever sends it again is told so. drop: it never was.
    """
    given = words or []
    action = given[0] if given and given[0] in _OUTCOMES else None
    where = given[1:] if action is not None else given
    if len(where) > 2 or (action is not None and len(where) != 2) or (type is not None and where):
        usage = "give nothing (or --type T), ADDR, ADDR MESSAGE_ID, or retry|skip|drop ADDR MESSAGE_ID"
        raise typer.Exit(complain(f"parked: {usage}", ExitStatus.USAGE))
    ref = parse_ref(where[0]) if where else None
    message_id = where[1] if len(where) == 2 else ""

    async def main(client: Client) -> None:
        address = ref.address if ref is not None else ""
        found = await _read(client, ParkedQuestion(address, type or "", message_id))
        if message_id and not found:
            raise Rejected(
                f"{address}: no message {message_id!r} is parked; `silo parked {address}` lists those that are"
            )
        if ref is not None and action is not None:
            await _resolve(ref, action, message_id)
            outcome = {"address": address, "message_id": message_id, "action": action}
            typer.echo(as_line(outcome) if as_json else f"{address}: message {message_id} {_OUTCOMES[action]}")
        elif as_json:
            typer.echo(as_line(found[0] if message_id else found))
        elif message_id:
            _print_one(found[0])
        else:
            _print_all(found)

    return main


async def _read(client: Client, question: ParkedQuestion) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    while True:
        page: Any = await client._query("parked", msgspec.json.encode(question).decode())
        found += page["parked"]
        if page["after"] is None:
            return found
        question.after = page["after"]


async def _resolve(ref: ActorRef, action: str, message_id: str) -> None:
    await RemoteHandler(ref, "$parked")(action, message_id)


def _print_all(found: list[dict[str, Any]]) -> None:
    if not found:
        typer.echo("no message is parked")
        return
    rows = [
        (row["address"], row["message_id"], row["handler"], age(row["since"]), row["reason"].split("\n")[0])
        for row in found
    ]
    print_table(("ADDRESS", "MESSAGE", "HANDLER", "AGE", "REASON"), rows)


def _print_one(row: dict[str, Any]) -> None:
    lines = [
        f"address   {row['address']}",
        f"message   {row['message_id']}",
        f"call      {row['handler']}{arguments(row)}",
        f"from      {row['sender'] or 'a client'}",
        f"parked    {local_time(row['since'])} ({age(row['since'])} ago)",
        f"reason    {row['reason']}".replace("\n", "\n          "),
    ]
    for line in lines:
        typer.echo(printable(line))
    if row["steps"]:
        typer.echo("steps")
        print_steps(row["steps"], indent=2)
