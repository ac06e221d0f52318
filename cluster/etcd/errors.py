"""What can go wrong with etcd, grouped by what the caller may do next.

    EtcdError
    ├── EtcdUnavailable           no member answered in time; a write certainly took no effect
    ├── EtcdOutcomeUnknown        the write may have taken effect: read before repeating it
    ├── EtcdAuthFailed            user, password or certificate were not accepted
    │   └── EtcdPermissionDenied  the user is known but may not touch these keys
    ├── EtcdRejected              etcd refused the request; it took no effect
    │   ├── LeaseNotFound         the lease expired, was revoked or never existed
    │   └── RevisionGone          a read at a revision that was compacted or is not there yet
    ├── WatchBroken               events are missing: read everything again and watch from there
    │   ├── Compacted             etcd has compacted the revisions that the watch still needed
    │   └── HistoryLost           etcd is older than what it has already shown, or another cluster
    ├── EtcdClosed                the client or the watch was closed meanwhile
    └── EtcdServerFailed          a local etcd is missing or did not start

A malformed endpoint or argument is a plain ``ValueError``.
"""


class EtcdError(Exception):
    """Base of everything that the etcd client raises, ``ValueError`` aside."""


class EtcdUnavailable(EtcdError):
    """No member answered in time. The message names every endpoint that was tried and why it failed.

    For a write this means that it certainly took no effect.
    """


class EtcdOutcomeUnknown(EtcdError):
    """The write reached a member, but its answer did not come back: it may or may not have taken effect, or still will.

    Read the keys before repeating it, or make the write conditional on them.
    """


class EtcdAuthFailed(EtcdError):
    """etcd did not accept the user or password, or wants one and none was given."""


class EtcdPermissionDenied(EtcdAuthFailed):
    """The user was accepted but has no role that allows this operation on these keys."""


class EtcdRejected(EtcdError):
    """etcd understood the request and refused it. It took no effect."""


class LeaseNotFound(EtcdRejected):
    """The lease does not exist: it expired, was revoked, or never existed."""


class RevisionGone(EtcdRejected):
    """The revision was compacted, or the answering member has not reached it yet."""


class WatchBroken(EtcdError):
    """The watch cannot continue without a gap. Read the keys again and watch from that revision + 1."""


class Compacted(WatchBroken):
    """etcd has compacted revisions that were not delivered yet. The oldest that it has is ``compact_revision``."""

    def __init__(self, message: str, *, compact_revision: int) -> None:
        super().__init__(message)
        self.compact_revision = compact_revision


class HistoryLost(WatchBroken):
    """etcd's data is older than what this watch has already seen, or belongs to another cluster."""


class EtcdClosed(EtcdError):
    """The client or the watch was closed while this operation was under way or before it began."""


class EtcdServerFailed(EtcdError):
    """A local etcd could not be found or started. The message carries the end of its log."""
