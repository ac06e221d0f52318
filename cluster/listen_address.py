"""Where a silo listens, and how others reach it there."""

import socket

_EVERYWHERE = ("0.0.0.0", "[::]", "")  # noqa: S104  # only compared with


def check_listen(option: str, address: str | None) -> None:
    """Raise ``ValueError`` unless it is ``host:port`` or None."""
    if address is not None:
        host, _, port = address.rpartition(":")
        if not host or not port.isdigit() or int(port) > 65535:
            raise ValueError(f'the {option} address {address!r} must be "host:port" with a port up to 65535')


def advertised(bound: str, advertise: str | None, etcd: list[str] | None) -> str:
    """How others reach this silo: as its operator says, or at the address from which it reaches etcd."""
    host, _, port = bound.rpartition(":")
    if advertise is not None:
        return advertise if ":" in advertise else f"{advertise}:{port}"
    if host not in _EVERYWHERE:
        return bound
    return f"{_own_address(etcd[0]) if etcd else '127.0.0.1'}:{port}"


def _own_address(endpoint: str) -> str:
    """The address of this machine that faces an etcd endpoint. Sends nothing: UDP only chooses a route."""
    etcd_host, _, etcd_port = endpoint.rpartition("//")[2].rstrip("/").rpartition(":")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((etcd_host, int(etcd_port)))
        except OSError as error:
            raise ValueError(f"the address of this silo cannot be found out ({error}): give --advertise") from None
        return str(probe.getsockname()[0])
