"""Errors as HTTP says them: problem details (RFC 9457) whose ``type`` names the error class."""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Final

import msgspec
from starlette.responses import Response

from actors import errors
from actors.ports import StoreUnavailable

_STATUS: Final[dict[type[Exception], HTTPStatus]] = {
    errors.UnknownActorType: HTTPStatus.NOT_FOUND,
    errors.UnknownHandler: HTTPStatus.NOT_FOUND,
    errors.Busy: HTTPStatus.CONFLICT,
    errors.MailboxFull: HTTPStatus.TOO_MANY_REQUESTS,
    errors.PayloadTooLarge: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    errors.NotAuthorized: HTTPStatus.FORBIDDEN,
    errors.SerializationFailed: HTTPStatus.UNPROCESSABLE_ENTITY,
    errors.ClusterUnavailable: HTTPStatus.SERVICE_UNAVAILABLE,
    errors.CallCycle: HTTPStatus.CONFLICT,
    errors.IdempotencyKeyReused: HTTPStatus.CONFLICT,
    errors.OffsetGone: HTTPStatus.GONE,
    errors.ChannelClosed: HTTPStatus.CONFLICT,
    errors.Rejected: HTTPStatus.SERVICE_UNAVAILABLE,
    errors.Timeout: HTTPStatus.GATEWAY_TIMEOUT,
    errors.OutcomeUnknown: HTTPStatus.BAD_GATEWAY,
    errors.ActorFailed: HTTPStatus.BAD_GATEWAY,
    errors.TurnInterrupted: HTTPStatus.CONFLICT,
}


class Problem(Exception):
    """A request that is answered with problem details. ``name`` tells machines which one it is."""

    def __init__(
        self,
        status: int,
        name: str,
        detail: str,
        *,
        headers: Mapping[str, str] | None = None,
        extensions: Mapping[str, object] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.name = name
        self.detail = detail
        self.headers = dict(headers or {})
        self.extensions = dict(extensions or {})

    @property
    def details(self) -> dict[str, object]:
        """The members of the problem details."""
        status = HTTPStatus(self.status)
        return {
            "type": self.name,
            "title": status.phrase,
            "status": int(status),
            "detail": self.detail,
            **self.extensions,
        }


def bad_request(detail: str, *, name: str = "BadRequest") -> Problem:
    """What the client sent makes no sense."""
    return Problem(400, name, detail)


def as_problem(error: Exception) -> Problem:
    """What a client is told of an error. What is no error of ours is said to be internal, without details."""
    if isinstance(error, Problem):
        return error
    if isinstance(error, StoreUnavailable):
        detail = "the store cannot be read now; try again"
        return Problem(503, "ClusterUnavailable", detail, headers={"Retry-After": "1"})
    for kind in type(error).__mro__:
        status = _STATUS.get(kind)
        if status is not None:
            headers = {"Retry-After": "1"} if status in (429, 503) else {}
            extensions = {"first": error.first} if isinstance(error, errors.OffsetGone) else {}
            return Problem(status, type(error).__name__, str(error), headers=headers, extensions=extensions)
    return Problem(500, "InternalError", "the silo could not handle this request; its log says why")


def response_for(error: Exception) -> Response:
    """The response that tells of an error."""
    problem = as_problem(error)
    return Response(
        msgspec.json.encode(problem.details),
        status_code=problem.status,
        headers={"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff", **problem.headers},
        media_type="application/problem+json",
    )
