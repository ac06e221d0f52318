"""``silo show`` and ``silo tail``: what is stored of an actor, and what it publishes."""

import contextlib
from collections.abc import Sequence
from typing import Annotated, Any

import msgspec
import typer

from actors.channel import Event
from actors.errors import ClusterUnavailable, SerializationFailed
from actors.turn_log import TURNS
from cluster.cli_connect import Main, connected, parse_ref
from cluster.cli_options import AsJson
from cluster.cli_output import age, as_line, in_short, indented, local_time, one_line, print_table, printable, span
from cluster.cli_talk import Address
from cluster.cli_turns import turn_line
from cluster.client import Client
from cluster.exit_status import ExitStatus, complain
from cluster.inspection.questions import ChannelQuestion

_DEFAULT_CHANNEL = "output"


@connected
def show(address: Address, *, as_json: AsJson = False) -> Main:
    """Show what is stored of an actor: state, messages, steps, reminders, channels. Does not wake it."""
    parse_ref(address)

    async def main(client: Client) -> None:
        found: Any = await client._query("show", address)
        if as_json:
            typer.echo(as_line(found))
        else:
            _print(found)

    return main


def _print(found: dict[str, Any]) -> None:
    where = f"lives on {found['silo']}" if found["silo"] else "sleeps" if found["stored"] else "has nothing stored"
    typer.echo(f"{printable(found['address'])} {where}")
    _print_running(found)
    options = found["options"]
    if options is not None:
        typer.echo(f"type      {found['type']} ({', '.join(f'{name}={value}' for name, value in options.items())})")
    else:
        typer.echo(f"type      {found['type']} (its options are not known to the silo that was asked)")
    if found["state_size"]:
        typer.echo(f"state     {found['state_size']:,} bytes")
        typer.echo(indented(found["state"]))
    for name in ("queued", "parked"):
        if found[name]:
            typer.echo(f"{name} messages")
            print_messages(found[name], indent=2)
    sent = [(row["to"], row["handler"], row["message_id"], arguments(row)) for row in found["outbox"]]
    _print_section("messages on their way to others", ("TO", "HANDLER", "MESSAGE", "ARGUMENTS"), sent)
    reminders = [(row["name"], local_time(row["due"]), _every(row["every"])) for row in found["reminders"]]
    _print_section("reminders", ("NAME", "DUE", "EVERY"), reminders)
    channels = [(row["name"], str(row["first"]), str(row["next"])) for row in found["channels"]]
    _print_section("channels", ("NAME", "FIRST", "NEXT"), channels)
    signals = [(row["name"], local_time(row["at"]), one_line(row["value"])) for row in found["signals"]]
    _print_section("signals that wait to be taken", ("NAME", "CAME", "VALUE"), signals)
    if found.get("cut"):
        typer.echo("There is more than fits into one answer.")


def _print_running(found: dict[str, Any]) -> None:
    """What it runs now, and where that stands."""
    if found["running"] is None:
        typer.echo(f"running   {found['silo']} does not tell: it is busy, cut off, or something blocks its event loop")
    for turn in found["running"] or ():
        facts = f"{turn['doing']} for {span(turn['seconds'])}, {turn['lane']}"
        typer.echo(f"running   {printable(turn['handler'])}, message {turn['message_id']}: {facts}")
        for line in "".join(turn["stack"]).splitlines():
            typer.echo(f"        {printable(line)}")


def _print_section(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    if rows:
        typer.echo(title)
        print_table(header, rows, indent=2)


def _every(seconds: float | None) -> str:
    return span(seconds) if seconds else "-"


def print_messages(messages: list[dict[str, Any]], *, indent: int = 0) -> None:
    """Messages with what is known of each, and with their steps."""
    for message in messages:
        facts = [f"from {message['sender'] or 'a client'}"]
        if "since" in message:
            facts.append(f"parked {age(message['since'])} ago")
        if message.get("adoptions"):
            facts.append(f"its silo was lost {message['adoptions']} times")
        if "idempotency_key" in message:
            facts.append(f"idempotency key {message['idempotency_key']}")
        lines = [f"{message['message_id']}  {message['handler']}{arguments(message)}  {', '.join(facts)}"]
        lines += [f"  {line}" for line in message.get("reason", "").split("\n")[:1] if line]
        for line in lines:
            typer.echo(" " * indent + printable(line))
        print_steps(message.get("steps", []), indent=indent + 2)


def print_steps(steps: list[dict[str, Any]], *, indent: int = 0) -> None:
    """What was journaled of a message."""
    rows = []
    for step in steps:
        status, result = step["status"], ""
        if "deltas" in step:
            status = f"{status}, {step['deltas']} deltas"
        elif "result" in step:
            result = one_line(step["result"])
        elif step.get("until"):
            result = f"until {local_time(step['until'])}"
        if "error" in step:
            result = step["error"].split("\n")[0]
        rows.append((step["name"], status, step.get("function", "-"), result))
    if rows:
        print_table(("STEP", "STATUS", "FUNCTION", "RESULT"), rows, indent=indent)


def arguments(message: dict[str, Any]) -> str:
    """The arguments of a message as they are written in a call."""
    named = [f"{name}={one_line(value, 60)}" for name, value in message["kwargs"].items()]
    return f"({', '.join([*(one_line(value, 60) for value in message['args']), *named])})"


@connected
def tail(
    where: Annotated[
        str, typer.Argument(help='Address and channel; without one it is "output".', metavar="ADDR[/CHANNEL]")
    ],
    *,
    after: Annotated[int | None, typer.Option(help="Only what is behind this offset.", min=0)] = None,
    follow: Annotated[bool, typer.Option("--follow/--no-follow", help="Wait for what is to come.")] = True,
    as_json: AsJson = False,
) -> Main:
    """Print the entries of a channel as they come.

    What is there already is read without waking the actor.
    """
    address, _, name = where.partition("/")
    try:
        channel = parse_ref(address).channel(name or _DEFAULT_CHANNEL)
    except ValueError as error:
        raise typer.Exit(complain(error, ExitStatus.USAGE)) from None

    async def main(client: Client) -> None:
        last = after
        try:
            while True:
                question = ChannelQuestion(address, channel.name, last)
                last, exists = await _print_stored(client, question, as_json=as_json)
                if not follow:
                    if not exists:
                        complain(f"{address} has no channel {channel.name!r}", ExitStatus.OK)
                    return
                # What cannot be loaded here is read as it is stored, which needs no loading.
                with contextlib.suppress(SerializationFailed):
                    async for event in channel.subscribe(after=last):
                        _print_event(channel.name, event, as_json=as_json)
                        last = event.offset
                        if event.kind == "closed":
                            return
        except ClusterUnavailable as error:
            hint = f" (--after {last} goes on from here)" if last is not None else ""
            raise ClusterUnavailable(f"{error}{hint}") from error

    return main


async def _print_stored(client: Client, question: ChannelQuestion, *, as_json: bool) -> tuple[int | None, bool]:
    """Print what is there now; return the offset of the last entry, and whether there is such a channel."""
    while True:
        page: Any = await client._query("channel", msgspec.json.encode(question).decode())
        for offset, kind, data in page["entries"]:
            _print_event(question.channel, Event(offset, data, kind), as_json=as_json)
            question.after = offset
        if not page["entries"] or page["entries"][-1][0] + 1 >= page["next"]:
            return question.after, page["exists"]


def _print_event(channel: str, event: Event, *, as_json: bool) -> None:
    offset, data, kind, _ = event
    if as_json:
        typer.echo(as_line({"offset": offset, "kind": kind, "data": data}))
    elif kind == "item" and channel == TURNS and isinstance(data, dict):
        typer.echo(f"{offset:>6}  {turn_line(data)}")
    elif kind == "item":
        typer.echo(f"{offset:>6}  {as_line(in_short(data))}")
    elif kind == "reset":
        typer.echo(f"{offset:>6}  reset: what was told from {data} on is told anew")
    else:
        typer.echo(f"{offset:>6}  {kind}")
