"""``silo drain``: let a silo go in good order."""

import asyncio
import json
from typing import Annotated

import typer

from actors.errors import ClusterUnavailable, ConnectionLost
from cluster.cli_connect import Main, connected
from cluster.cli_options import AsJson
from cluster.client import Client
from cluster.exit_status import ExitStatus, complain

_LOOK_EVERY = 0.1


@connected
def drain(
    name: Annotated[str, typer.Argument(help="Name of the silo, as `silo ps` lists it.", metavar="NAME")],
    *,
    timeout: Annotated[float, typer.Option(help="Seconds to wait for its end; 0 does not wait.", min=0)] = 60.0,
    as_json: AsJson = False,
) -> Main:
    """Let a silo move its actors to the others and end, as SIGTERM does."""

    async def main(client: Client) -> None:
        await client.drain(name)
        gone = timeout > 0 and await _is_gone(client, name, timeout)
        if as_json:
            print(json.dumps({"silo": name, "gone": gone}))
        elif gone:
            print(f"{name} has let its actors go and is gone")
        elif timeout > 0:
            raise typer.Exit(complain(f"{name} still drains after {timeout:g} s", ExitStatus.UNAVAILABLE))
        else:
            print(f"{name} drains")

    return main


async def _is_gone(client: Client, name: str, timeout: float) -> bool:
    """Wait until the silo is no member any more."""
    try:
        async with asyncio.timeout(timeout):
            while any(member.name == name for member in await client.members()):  # noqa: ASYNC110
                await asyncio.sleep(_LOOK_EVERY)
    except (ConnectionError, ClusterUnavailable, ConnectionLost):  # it was the one that this command talked to
        return True
    except TimeoutError:
        return False
    return True
