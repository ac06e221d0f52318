"""The HTTP gateway of a silo: messages to actors, their channels, chat clients, Durable Streams."""

from cluster.gateway.app import Gateway
from cluster.gateway.chat.chat import Chat
from cluster.gateway.options import GatewayOptions
from cluster.gateway.streams.builtin_actors import BUILTIN, check_types

__all__ = ["BUILTIN", "Chat", "Gateway", "GatewayOptions", "check_types"]
