"""Where webhooks may go: never into the network of the silos (protocol, 12.8)."""

import ipaddress
import socket
from typing import NamedTuple, TypeAlias
from urllib.parse import urlsplit

_Ip: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address


class UnsafeUrl(ValueError):
    """A webhook must not go there."""


class Target(NamedTuple):
    """The parts of a webhook's URL."""

    secure: bool
    host: str
    port: int
    path: str


def check_url(url: str, *, local: bool) -> Target:
    """Take a URL apart. Raises ``UnsafeUrl`` for what is not HTTPS to a public host.

    ``local``: plain HTTP to ``localhost`` and ``127.0.0.x`` is good, too.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError as error:
        raise UnsafeUrl(f"the webhook's URL is malformed: {error}") from None
    if parts.scheme not in ("http", "https") or not host or parts.username or parts.password or not url.isascii():
        raise UnsafeUrl("the webhook's URL must be https://host[:port]/path, without a user")
    if any(char <= " " or char == "\x7f" for char in url):
        raise UnsafeUrl("the webhook's URL must not contain space or control characters")
    if parts.scheme == "http" and not (local and is_local_name(host)):
        raise UnsafeUrl("a webhook needs https; plain http is for localhost, in development")
    secure = parts.scheme == "https"
    if not (local and is_local_name(host)):
        if host == "localhost" or host.endswith((".localhost", ".local", ".internal")):
            raise UnsafeUrl(f"a webhook must not go to {host}")
        literal = _literal(host)
        if literal is not None:
            check_ip(literal)
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Target(secure, host, port or (443 if secure else 80), path)


def is_local_name(host: str) -> bool:
    """Whether the development exception covers the host."""
    literal = _literal(host)
    return host == "localhost" or (literal is not None and literal.version == 4 and literal.is_loopback)


def resolve(target: Target, *, local: bool) -> str:
    """The address to connect to: checked now, whatever the name meant before. Raises ``UnsafeUrl`` or ``OSError``."""
    found = socket.getaddrinfo(target.host, target.port, type=socket.SOCK_STREAM)
    if not (local and is_local_name(target.host)):
        for *_, address in found:
            check_ip(ipaddress.ip_address(str(address[0]).partition("%")[0]))
    return str(found[0][4][0])


def check_ip(ip: _Ip) -> None:
    """Raise ``UnsafeUrl`` for an address that is not public, or that carries one which is not."""
    inner: list[_Ip | None] = [ip]
    if isinstance(ip, ipaddress.IPv6Address):
        inner += [ip.ipv4_mapped, ip.sixtofour, *(ip.teredo or ())]
        if ip in ipaddress.ip_network("64:ff9b::/96"):
            inner.append(ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF))
    for one in inner:
        if one is not None and (not one.is_global or one.is_multicast):
            raise UnsafeUrl(f"a webhook must not go to {ip}, which is not public")


def _literal(host: str) -> _Ip | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        pass
    try:
        return ipaddress.IPv4Address(socket.inet_aton(host))  # 0x7f.1, 2130706433 and other spellings
    except OSError:
        return None
