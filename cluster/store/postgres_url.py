"""What a ``postgresql://`` URL says, checked before anything is connected. No message repeats a password."""

import re
from typing import Final
from urllib.parse import parse_qsl, unquote, urlsplit

import msgspec

_EXAMPLE: Final = "postgresql://user:password@host:5432/database"
_HOST: Final = re.compile(r"(?:\[[0-9a-fA-F:.%]+\]|[^\[\]:@]*)(?::(\d+))?")
_SSL_MODES: Final = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
_DURABLE: Final = ("on", "remote_apply")
# The store's correctness hangs on these: see postgres_session.
_OWN_SETTINGS: Final = frozenset({
    "default_transaction_isolation",
    "default_transaction_read_only",
    "idle_in_transaction_session_timeout",
    "lock_timeout",
    "search_path",
    "statement_timeout",
})  # fmt: skip


class PostgresUrl(msgspec.Struct, frozen=True):
    """``dsn`` is for the driver; ``place`` names the database in messages and holds no user and no password."""

    dsn: str
    place: str

    def __repr__(self) -> str:
        return f"PostgresUrl({self.place})"


def parse(url: str) -> PostgresUrl:
    """Check the URL. Raises ``ValueError`` of one line that names the part that is wrong."""
    if any(character.isspace() or not character.isprintable() for character in url):
        raise _bad("contains a space or a control character; percent-encode it")
    try:
        parts = urlsplit(url)
    except ValueError:
        raise _bad(f"is malformed; it should look like {_EXAMPLE}") from None
    if not url.startswith(f"{parts.scheme}://"):
        raise _bad(f"needs two slashes after {parts.scheme}:, as in {_EXAMPLE}")
    if parts.fragment or url.endswith("#"):
        raise _bad("has a part after '#'; in a password it is %23")
    authority, at, hosts = parts.netloc.rpartition("@")
    if "@" in authority or "@" in parts.path:
        raise _bad("has an '@' too many; in a password it is %40, and a '/' is %2F")
    if at and not authority.partition(":")[0]:
        raise _bad(f"has an '@' but no user before it; it should look like {_EXAMPLE}")
    for host in hosts.split(","):
        match = _HOST.fullmatch(host)
        if match is None or (match[1] is not None and not 0 < int(match[1]) < 65536):
            raise _bad("its port is not a number from 1 to 65535 (or a password holds an unencoded '/': it is %2F)")
    options = _options(parts.query)
    database = unquote(parts.path[1:]) or options.get("database") or options.get("dbname")
    if not database:
        raise _bad(f"names no database; it should look like {_EXAMPLE}")
    if "/" in parts.path[1:]:
        raise _bad("has a '/' in the name of its database; there it is %2F")
    return PostgresUrl(dsn=url, place=f"postgresql://{unquote(hosts) or options.get('host', '')}/{database}")


def _options(query: str) -> dict[str, str]:
    try:
        options = dict(parse_qsl(query, strict_parsing=True, keep_blank_values=True)) if query else {}
    except ValueError:
        raise _bad("its part after '?' should look like sslmode=require&application_name=silo") from None
    mode = options.get("sslmode", "prefer")
    if mode not in _SSL_MODES:
        raise _bad(f"sslmode is one of {', '.join(_SSL_MODES)}, not {mode!r}")
    durability = options.get("synchronous_commit", "on")
    if durability not in _DURABLE:
        raise _bad(f"a store keeps what it acknowledged: synchronous_commit is on or remote_apply, not {durability!r}")
    port = options.get("port", "5432")
    if not all(part.isdecimal() and 0 < int(part) < 65536 for part in port.split(",")):
        raise _bad("its port is not a number from 1 to 65535")
    own = _OWN_SETTINGS & options.keys()
    if own:
        raise _bad(f"{min(own)} is chosen by the store itself; leave it out")
    return options


def _bad(what: str) -> ValueError:
    return ValueError(f"store URL: postgresql: {what}")
