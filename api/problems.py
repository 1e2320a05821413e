"""Errors as RFC 9457 problem documents. The detail says what was wrong and what to do."""

import logging
from collections.abc import Iterator, Mapping
from contextlib import suppress
from http import HTTPStatus
from typing import Any

import msgspec
from sanic import HTTPResponse, Request
from sanic.exceptions import (
    MethodNotAllowed,
    NotFound,
    PayloadTooLarge,
    RequestCancelled,
    SanicException,
    ServiceUnavailable,
)
from sanic.handlers import ErrorHandler
from sanic.response import raw

from aggregator.errors import NoAnswerError
from api.reader import may_be_head

CONTENT_TYPE = "application/problem+json"
#: Seconds after which asking again is worth it.
RETRY_AFTER_S = 1
#: More errors than this tell a client nothing new.
ERRORS_LISTED_MAX = 100

_logger = logging.getLogger(__name__)


class FieldError(msgspec.Struct, frozen=True):
    """What is wrong with a field of the event at `index`; None where it is not one field."""

    index: int
    field: str | None
    message: str


class Problem(msgspec.Struct, frozen=True, omit_defaults=True):
    """RFC 9457, with the fields at fault in `errors`."""

    type: str
    title: str
    status: int
    detail: str
    errors: list[FieldError] | None = None


class ProblemError(Exception):
    """Ends a request with a problem document."""

    def __init__(
        self,
        status: HTTPStatus,
        detail: str,
        errors: list[FieldError] | None = None,
        headers: Mapping[str, str] | None = None,
        members: msgspec.Struct | None = None,
    ) -> None:
        """`members` are further members of the problem document."""
        super().__init__(detail)
        self.status = status
        # Bytes of the client's that are no UTF-8 come as lone surrogates.
        self.detail = detail.encode(errors="replace").decode()
        self.errors = errors
        self.headers = dict(headers or {})
        self.members = members

    def response(self) -> HTTPResponse:
        problem = Problem(
            "about:blank",
            self.status.phrase,
            self.status.value,
            self.detail,
            self.errors[:ERRORS_LISTED_MAX] if self.errors else None,
        )
        members = msgspec.to_builtins(self.members) if self.members is not None else {}
        return raw(
            msgspec.json.encode(msgspec.to_builtins(problem) | members),
            self.status.value,
            self.headers,
            CONTENT_TYPE,
        )


def not_found(detail: str) -> ProblemError:
    return ProblemError(HTTPStatus.NOT_FOUND, detail)


def bad_request(detail: str, errors: list[FieldError] | None = None) -> ProblemError:
    return ProblemError(HTTPStatus.BAD_REQUEST, detail, errors)


def unavailable(detail: str) -> ProblemError:
    return ProblemError(
        HTTPStatus.SERVICE_UNAVAILABLE, detail, headers={"Retry-After": str(RETRY_AFTER_S)}
    )


class ProblemHandler(ErrorHandler):
    """Makes a problem document of whatever ends a request."""

    def default(self, request: Request, exception: Exception) -> HTTPResponse:
        return _problem_of(request, exception).response()


def _problem_of(request: Request, exception: Exception) -> ProblemError:
    match exception:
        case ProblemError():
            return exception
        case NoAnswerError():
            return unavailable(f"{exception}. {_what_to_do(request)}")
        case NotFound():
            return not_found(f"There is nothing at {request.path}; see /docs for what there is")
        case MethodNotAllowed():
            allowed = ", ".join(_methods_of(request))
            return ProblemError(
                HTTPStatus.METHOD_NOT_ALLOWED,
                f"{request.method} is not possible here; allowed: {allowed}",
                headers={"Allow": allowed},
            )
        case ServiceUnavailable():
            return unavailable("No answer in time; what became of the request is unknown")
        case PayloadTooLarge() if "header" in str(exception):
            return ProblemError(
                HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
                "The address or the headers are too long",
            )
        case PayloadTooLarge():
            limit = request.app.config.REQUEST_MAX_SIZE
            return too_large(f"The body has more than {limit} bytes")
        case RequestCancelled():
            return unavailable("The client has gone")  # no one reads this
        case SanicException():
            headers: dict[str, Any] = exception.headers or {}
            return ProblemError(HTTPStatus(exception.status_code), str(exception), headers=headers)
    _logger.error("%s %s failed", request.method, request.path, exc_info=exception)
    return ProblemError(
        HTTPStatus.INTERNAL_SERVER_ERROR,
        "A fault of playhead's own; its log has the details. What became of this is unknown",
    )


def _what_to_do(request: Request) -> str:
    """About a request that a shard did not answer."""
    if request.method in ("GET", "HEAD"):
        return "Ask again in a moment"
    return "Send it again; with ids or a key it counts once"


def _methods_of(request: Request) -> Iterator[str]:
    """What is possible at the path of `request`."""
    for method in ("GET", "POST", "PUT", "DELETE"):
        with suppress(SanicException):
            request.app.router.get(request.path, method, request.headers.get("host"))
            yield method
            if method == "GET" and may_be_head(request):
                yield "HEAD"


def too_large(detail: str) -> ProblemError:
    return ProblemError(
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"{detail}: send it in several requests"
    )
