"""The HTTP gateway of a silo: the Durable Streams protocol, complete, at ``/v1/stream/``."""

from cluster.gateway.app import Gateway
from cluster.gateway.builtin_actors import BUILTIN, check_types
from cluster.gateway.options import GatewayOptions

__all__ = ["BUILTIN", "Gateway", "GatewayOptions", "check_types"]
