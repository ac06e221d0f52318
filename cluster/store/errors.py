"""Why a store cannot be used at all. Trouble that passes is ``actors.ports.StoreUnavailable``.

UnusableStore        a foreign file, a newer format, a directory that does not exist
└── StoreInUse       another process holds it in a way that excludes this one
"""


class UnusableStore(Exception):
    """The store cannot be used by this release as it is. Nothing in it was changed."""


class StoreInUse(UnusableStore):
    """Another silo uses the store, and one of the two must have it alone."""
