"""DBOS as in ``dbos_workflows``, but with a file that somebody has put into WAL mode before."""

from benchmarks.peers.dbos_workflows import DbosPeer

PEER = DbosPeer("wal")
