"""What a silo tells the others about itself."""

import logging
from collections.abc import Iterator, Mapping

import msgspec

from actors.code_version import order

log = logging.getLogger("cluster.membership")


class Member(msgspec.Struct, frozen=True, kw_only=True):
    """One silo's record in the directory, kept there by its lease."""

    silo: str
    """Its id, ``name.incarnation``: every start and every rejoin is another silo."""
    name: str
    endpoint: str
    """``host:port`` at which the other silos reach it."""
    types: dict[str, str]
    """The actor types that it hosts, with their placement."""
    http: str | None = None
    labels: dict[str, str] = {}
    version: str = ""
    """Of its code, as its operator says; see ``actors.code_version``."""
    release: str = ""
    """Of agentsilo; "" is 0.1.0, which does not say."""
    formats: dict[str, int] = {}
    """The newest version of each format that it understands: of the links, of etcd, of its store."""
    load: int = 0
    """How many activations it has."""
    draining: bool = False
    """It takes no new activations."""
    lease: int = 0
    """The etcd lease that keeps this record."""

    def encode(self) -> bytes:
        """The stored form: JSON, so that it can be read with etcdctl."""
        return msgspec.json.encode(self)

    @staticmethod
    def decode(value: bytes) -> "Member":
        """Raises ``msgspec.DecodeError`` or ``msgspec.ValidationError``."""
        return _decoder.decode(value)


def readable(records: Mapping[str, bytes]) -> Iterator[Member]:
    """The members of those records, by key, that can be read; the others are named in the log and left out."""
    for key, value in records.items():
        try:
            yield Member.decode(value)
        except (msgspec.DecodeError, msgspec.ValidationError) as error:
            log.warning("the member record %s cannot be read and is ignored: %s", key, error)


def hosts(members: Mapping[str, Member], type_name: str) -> list[str]:
    """The ids of the members, sorted; of a type: of those that host it, are not draining, and have the newest code."""
    if not type_name:
        return sorted(members)
    able = [member for member in members.values() if type_name in member.types and not member.draining]
    return sorted(member.silo for member in newest(able))


def newest(members: list[Member]) -> list[Member]:
    """Those with the newest code."""
    if len({member.version for member in members}) < 2:
        return members
    latest = max(order(member.version) for member in members)
    return [member for member in members if order(member.version) == latest]


_decoder = msgspec.json.Decoder(Member)
