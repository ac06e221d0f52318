"""How gRPC is set up, and where it may listen without credentials."""

import functools
import ipaddress
from typing import Final

from cluster.transport.frame import FRAME_BYTES

_COMMON: Final[list[tuple[str, int | str]]] = [
    ("grpc.max_receive_message_length", FRAME_BYTES),
    ("grpc.max_send_message_length", -1),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.enable_retries", 0),
]


def _keepalive(seconds: float) -> list[tuple[str, int | str]]:
    milliseconds = round(seconds * 1000)
    # The last one is what ends a link on which nothing is under way; gRPC's own default is a minute.
    names = ("grpc.keepalive_time_ms", "grpc.keepalive_timeout_ms", "grpc.http2.ping_timeout_ms")
    return [(name, milliseconds) for name in names]


def channel_options(*, keepalive: float, server_name: str | None) -> list[tuple[str, int | str]]:
    """For a channel that serves one dial: a failed one leaves no back-off behind for the next."""
    options = [*_COMMON, *_keepalive(keepalive)]
    options.append(("grpc.use_local_subchannel_pool", 1))
    options.append(("grpc.enable_http_proxy", 0))
    options.append(("grpc.service_config_disable_resolution", 1))
    if server_name is not None:
        options.append(("grpc.ssl_target_name_override", server_name))
    return options


def server_options(*, keepalive: float) -> list[tuple[str, int | str]]:
    """For a listening port: it is nobody else's, and takes the pings of peers with shorter intervals too."""
    options = [*_COMMON, *_keepalive(keepalive)]
    options.append(("grpc.so_reuseport", 0))
    options.append(("grpc.http2.min_recv_ping_interval_without_data_ms", 10))
    options.append(("grpc.http2.max_ping_strikes", 0))
    return options


@functools.lru_cache(maxsize=256)
def is_loopback(address: str) -> bool:
    """Whether ``host:port`` (or what gRPC calls a peer: ``ipv4:...``) can only be reached from this machine."""
    if address.startswith("unix:"):
        return True
    for prefix in ("ipv4:", "ipv6:"):
        address = address.removeprefix(prefix)
    host = address.rpartition(":")[0].replace("%5B", "[").replace("%5D", "]").strip("[]")
    if host == "localhost":
        return True
    try:
        ip = ipaddress.ip_address(host)
    except ValueError:
        return False
    mapped = ip.ipv4_mapped if isinstance(ip, ipaddress.IPv6Address) else None
    return (mapped or ip).is_loopback
