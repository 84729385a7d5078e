"""Errors as RFC 9457 problems. The HTTP status of each error is chosen here and nowhere else."""

import re

import msgspec
import structlog
from litestar import Request, Response
from litestar.exceptions import HTTPException
from litestar.types import Method
from litestar.utils.path import normalize_path

from kobiri.api.observe import shown
from kobiri.api.throttle import QuotaUsedUp
from kobiri.domain import errors
from kobiri.domain.errors import KobiriError
from kobiri.domain.payment import Status

log = structlog.get_logger(__name__)

MEDIA_TYPE = "application/problem+json"

STATUSES: dict[type[KobiriError], int] = {
    errors.Malformed: 400,
    errors.Unauthenticated: 401,
    errors.Forbidden: 403,
    errors.NotFound: 404,
    errors.MethodNotAllowed: 405,
    errors.RequestTimeout: 408,
    errors.Conflict: 409,
    errors.BodyTooLarge: 413,
    errors.UnsupportedMediaType: 415,
    errors.Unprocessable: 422,
    errors.TooManyRequests: 429,
    errors.InternalError: 500,
    errors.Unavailable: 503,
    errors.OutcomeUnknown: 504,
}

# Worth repeating without any change, under the same Idempotency-Key.
RETRYABLE = (
    errors.RequestTimeout,
    errors.RequestInProgress,
    errors.TooManyRequests,
    errors.InternalError,
    errors.Unavailable,
    errors.OutcomeUnknown,
)

# What Litestar raises before our code is reached.
FRAMEWORK_ERRORS: dict[int, type[KobiriError]] = {
    400: errors.InvalidQuery,
    404: errors.NotFound,
    405: errors.MethodNotAllowed,
    413: errors.BodyTooLarge,
    415: errors.UnsupportedMediaType,
}

# What each query parameter takes: the framework's own words are for programmers in Python.
EXPECTED = {
    "limit": "a whole number of 1 or more, such as 50",
    "cursor": "next_cursor of the page before, unchanged",
    "status": f"one of {', '.join(Status)}",
    "created_from": "a time with its zone, such as 2026-02-01T08:00:00Z",
    "created_before": "a time with its zone, such as 2026-02-01T08:00:00Z",
    "msisdn": "a phone number of at most 32 characters, such as 0961234567",
}
MISSING = re.compile(r"Missing required query parameter '(\w+)'")

METHODS: tuple[Method, ...] = ("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")

AnyRequest = Request[object, object, object]  # type: ignore[type-var]


def status_of(error: type[KobiriError]) -> int:
    """The HTTP status of an error class: its own or that of the nearest base."""
    return next(STATUSES[base] for base in error.__mro__ if base in STATUSES)


def problem(error: KobiriError, request_id: str) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of the answer to an error."""
    status = status_of(type(error))
    headers = {"cache-control": "no-store"}
    if error.retry_after_s is not None:
        headers["retry-after"] = str(error.retry_after_s)
    if status == 401:
        headers["www-authenticate"] = 'ApiKey realm="kobiri"'
    body = {
        "type": f"/docs/errors#{error.code}",
        "title": error.title,
        "status": status,
        "detail": error.detail,
        "instance": f"urn:request:{request_id}",
        "code": error.code,
        "retryable": isinstance(error, RETRYABLE),
    }
    return status, headers, msgspec.json.encode(body | error.members)


def answer_error(request: Request, error: KobiriError) -> Response[bytes]:  # type: ignore[type-arg]
    """An expected error."""
    if isinstance(error, QuotaUsedUp):
        request.scope["state"]["quota"] = error.quota
    status, headers, body = problem(error, request.scope["state"].get("request_id", ""))
    return Response(body, status_code=status, headers=headers, media_type=MEDIA_TYPE)


def answer_framework_error(request: Request, error: HTTPException) -> Response[bytes]:  # type: ignore[type-arg]
    """A refusal of the framework: no such route, a bad parameter, a body that is too large."""
    kind = FRAMEWORK_ERRORS.get(error.status_code)
    if kind is None:
        return answer_defect(request, error)
    response = answer_error(request, kind(_detail(kind, error)))
    if kind is errors.MethodNotAllowed:
        response.headers["allow"] = ", ".join(_allowed(request))
    return response


def answer_defect(request: Request, error: Exception) -> Response[bytes]:  # type: ignore[type-arg]
    """A bug of ours: told in the log, not to the client."""
    log.error("request.crashed", exc_info=error, path=shown(request.scope["path"]))
    return answer_error(request, errors.InternalError())


def _allowed(request: Request) -> list[Method]:  # type: ignore[type-arg]
    """The methods that this address takes: the router knows, but does not tell."""
    path = normalize_path(request.scope["path"])
    allowed: list[Method] = []
    for method in METHODS:
        try:
            request.app.asgi_router.handle_routing(path=path, method=method)
        except HTTPException:
            continue
        allowed.append(method)
    return allowed


def _detail(kind: type[KobiriError], error: HTTPException) -> str:
    if kind is not errors.InvalidQuery:
        return ""
    if missing := MISSING.match(error.detail):
        return f"{missing[1]}: it is required, {EXPECTED.get(missing[1], 'as text')}."
    extra = getattr(error, "extra", None)
    names = [str(one.get("key")) for one in extra if isinstance(one, dict)] if isinstance(extra, list) else []
    return (
        "; ".join(f"{name}: expected {EXPECTED.get(name, 'something else')}" for name in names) + "." if names else ""
    )
