"""Links between runtimes over gRPC."""

from cluster.transport.credentials import Credentials
from cluster.transport.link import GrpcLink
from cluster.transport.refusal import LinkRefused, UnsupportedVersion, WrongCluster, WrongSilo
from cluster.transport.transport import GrpcTransport

__all__ = [
    "Credentials",
    "GrpcLink",
    "GrpcTransport",
    "LinkRefused",
    "UnsupportedVersion",
    "WrongCluster",
    "WrongSilo",
]
