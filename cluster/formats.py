"""The newest version of each format that this release understands; what it writes older releases may read."""

from collections.abc import Mapping
from typing import Final

from actors.state import FORMAT
from cluster.store import postgres_migrations, sqlite_schema
from cluster.transport import frame

ETCD: Final = 1
"""Of the keys of a cluster and their values. Members are JSON, to which fields may be added."""

FORMATS: Final[Mapping[str, int]] = {
    "link": frame.VERSION,
    "etcd": ETCD,
    "state": FORMAT[0],
    "sqlite": len(sqlite_schema.MIGRATIONS),
    "postgres": len(postgres_migrations.MIGRATIONS),
}
