"""What an error of an RPC says about the request: did it run, and where may it be tried again?"""

import enum

import grpc

from cluster.etcd.errors import (
    EtcdAuthFailed,
    EtcdError,
    EtcdPermissionDenied,
    EtcdRejected,
    LeaseNotFound,
    RevisionGone,
)

# Metadata: a member without a leader refuses at once instead of letting the request hang until it times out.
HAS_LEADER = ("hasleader", "true")

# How often in a row one request or stream gets a new token before the credentials are to blame.
RENEWALS = 3


class Verdict(enum.Enum):
    """The consequence of an RPC error."""

    ELSEWHERE = "the member refused before it did anything: any other member may be asked"
    REAUTHENTICATE = "the token is no longer valid; nothing was done"
    DENIED = "the credentials are wrong or do not suffice; nothing was done"
    REJECTED = "the request itself was refused; nothing was done"
    UNKNOWN = "it may have run"


# etcd's interceptor checks these before the request is handled. "no leader" appears only because every request asks
# for it in its metadata; a proposal that loses its leader on the way fails with other words.
_BEFORE_HANDLING = frozenset(
    {
        "etcdserver: no leader",
        "etcdserver: not capable",
        "etcdserver: rpc not supported for learner",
        "etcdserver: too many requests",
    }
)

# Etcd applies the write that crosses its quota and then reports this, so it is no proof that nothing happened.
_SPACE_EXCEEDED = "database space exceeded"

_REFUSALS = frozenset(
    {
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.NOT_FOUND,
        grpc.StatusCode.FAILED_PRECONDITION,
        grpc.StatusCode.OUT_OF_RANGE,
        grpc.StatusCode.ALREADY_EXISTS,
        grpc.StatusCode.UNIMPLEMENTED,
    }
)


def judge(code: grpc.StatusCode, details: str) -> Verdict:
    """Decide from status and text what became of the request. Whatever is not certain is ``UNKNOWN``."""
    if details in _BEFORE_HANDLING:
        return Verdict.ELSEWHERE
    if "invalid auth token" in details or "revision of auth store is old" in details or "user name is empty" in details:
        return Verdict.REAUTHENTICATE
    if (
        code in (grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNAUTHENTICATED)
        or "authentication failed" in details
    ):
        return Verdict.DENIED
    if code in _REFUSALS or (code is grpc.StatusCode.RESOURCE_EXHAUSTED and "larger than max" in details):
        return Verdict.REJECTED
    return Verdict.UNKNOWN


def describe(code: grpc.StatusCode, details: str) -> str:
    """One line for a message: what etcd or gRPC said, and the remedy where there is a known one."""
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return "no answer in time"
    if _SPACE_EXCEEDED in details:
        return f"{details}: compact and defragment etcd, or raise its --quota-backend-bytes"
    return " ".join(details.split()) or code.name


def refusal(code: grpc.StatusCode, details: str, *, endpoint: str, user: str | None) -> EtcdError:
    """The exception for a request that certainly took no effect."""
    line = f"etcd at {endpoint}: {describe(code, details)}"
    match judge(code, details):
        case Verdict.REAUTHENTICATE | Verdict.DENIED if user is None:
            return EtcdAuthFailed(f"{line}. This etcd wants a user and password, and none was given")
        case Verdict.DENIED if "permission denied" in details:
            return EtcdPermissionDenied(f"{line}. Grant user {user!r} a role for these keys")
        case Verdict.REAUTHENTICATE | Verdict.DENIED:
            return EtcdAuthFailed(f"{line}. Check the password of user {user!r}")
    if "lease not found" in details:
        return LeaseNotFound(f"{line}. It expired or was revoked: grant a new one")
    if code is grpc.StatusCode.OUT_OF_RANGE:
        return RevisionGone(line)
    if "larger than max" in details or "too large" in details:
        return EtcdRejected(f"{line}. Write less at once, or raise etcd's --max-request-bytes")
    return EtcdRejected(line)
