"""What keeps older code from an actor that newer code has written, while both run side by side.

With the first commit of an activation goes the version of its silo's code. A silo with an older one leaves the address
to a newer silo while there is one. Where there is none it takes the actor only if it can tell that nothing is lost: its
class knows every stored field, no turn is in the middle, and it has the handlers of all that waits.
"""

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import msgspec

from actors.address import listed
from actors.code_version import order
from actors.errors import ClusterUnavailable, StateUnreadable
from actors.ports import Opened, Route
from actors.records import JOURNAL, MESSAGE, WRITTEN_BY, Pending, WrittenBy, encode, message_rows

if TYPE_CHECKING:
    from actors.activation import Activation
    from actors.runtime import Runtime

log = logging.getLogger("actors")

_MOST: Final = 10_000

_writers = msgspec.msgpack.Decoder(WrittenBy)


class LeftToNewer(Exception):
    """This silo does not take the address: newer code has written what is stored of it."""


class Abstention:
    """The addresses that this silo's code is too old for. They are not tried again before the members have changed."""

    def __init__(self, runtime: "Runtime") -> None:
        self._runtime = runtime
        self._why: dict[str, tuple[Sequence[str], str]] = {}

    async def check(self, address: str) -> Route | None:
        """Raise ``ClusterUnavailable`` where another silo should claim the address, or one that is yet to come.

        Where newer code is there, returns the owner of an address that lives on another silo.
        """
        newer = self._runtime.directory.newer(address.partition("-")[0])
        if newer:
            route = await self._runtime.directory.claim(address)  # an entry that is left of this silo leads others here
            if route.silo != self._runtime.directory.silo:
                return route
            if self._runtime.migration.expects(address):
                return None  # another silo moves it here all the same
            await self._runtime.directory.release(address, route.epoch)
            raise ClusterUnavailable(
                f"{address}: {self._runtime.directory.silo} runs version {self._runtime.version!r} of the code and "
                f"leaves it to {listed(newer)}"
            )
        if address in self._why:
            members, why = self._why[address]
            if members == self._runtime.directory.members():
                raise ClusterUnavailable(why)
        return None

    def note(self, address: str, error: LeftToNewer) -> None:
        """It was tried, and cannot be taken now."""
        if address not in self._why:
            log.warning("%s", error)
            if len(self._why) >= _MOST:
                del self._why[next(iter(self._why))]
        self._why[address] = self._runtime.directory.members(), str(error)

    def forget(self, address: str) -> None:
        """It could be taken."""
        self._why.pop(address, None)


def check(activation: "Activation", opened: Opened) -> None:
    """Whether this silo's code may run what is stored, and from now on write it. Raises ``LeftToNewer``."""
    stored, own = opened.records.get(WRITTEN_BY), activation.runtime.version
    writer = _writers.decode(stored).version if stored is not None else ""
    if order(writer) > order(own):
        _check_older(activation, opened, writer)
    if writer != own:
        mark = encode(WrittenBy(own))
        if activation.durable is not None:
            activation.durable.commits.mark(mark)
        elif activation._state is not None:
            activation._state.mark = mark
    activation.runtime.abstention.forget(activation.address)


def _check_older(activation: "Activation", opened: Opened, writer: str) -> None:
    runtime, address = activation.runtime, activation.address
    versions = f"version {writer!r} of the code has written it, and {runtime.directory.silo} runs {runtime.version!r}"
    newer = runtime.directory.newer(activation.type.name)
    if newer:
        raise LeftToNewer(f"{address}: {versions}: it is left to {listed(newer)}")
    lost = _what_is_lost(activation, opened)
    if not lost:
        log.warning("%s: %s: it is taken, because it can be read without a loss", address, versions)
    elif runtime.settings.allow_downgrade:
        log.warning("%s: %s: it is taken, as --allow-downgrade says, without %s", address, versions, listed(lost))
    else:
        raise LeftToNewer(
            f"{address}: {versions}, which does not know {listed(lost)}; nothing was changed. Start a silo with "
            f"version {writer!r} or newer, or give up what it does not know with --allow-downgrade"
        )


def _what_is_lost(activation: "Activation", opened: Opened) -> list[str]:
    """Names of what this silo's code would drop or could not go on with."""
    lost = []
    if activation._state is not None:
        try:
            lost = activation._state.unknown_fields(opened, activation.address)
        except StateUnreadable as error:
            lost = [f"the state ({error})"]
    if any(key[:1] == JOURNAL for key in opened.records):
        lost.append("the steps of a turn that has begun")
    for key, value in opened.records.items():
        row = message_rows.decode(value) if key[:1] == MESSAGE else None
        if isinstance(row, Pending) and row.request.handler not in activation.type.handlers:
            lost.append(f"the handler {row.request.handler!r} of a waiting message")
    return lost
