"""Responses that no application gives: to what is no request, or comes over a limit."""

from starlette.responses import Response
from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from cluster.gateway.problems import Problem, response_for


def last_words(problem: Problem) -> bytes:
    """A whole HTTP/1.1 response, after which the connection ends."""
    response: Response = response_for(problem)
    head = b"".join(name + b": " + value + b"\r\n" for name, value in response.raw_headers)
    return STATUS_LINE[problem.status] + head + b"connection: close\r\n\r\n" + bytes(response.body)
