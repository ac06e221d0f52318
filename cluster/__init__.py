"""Silos and clients: the model of ``actors`` on real machines."""

from actors.settings import Settings
from cluster.client import Client, connect
from cluster.silo import Silo
from cluster.transport import Credentials

__all__ = ["Client", "Credentials", "Settings", "Silo", "connect"]
