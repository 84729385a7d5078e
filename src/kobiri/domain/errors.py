"""Every error that a caller may meet. Each class has a stable `code`; HTTP statuses are chosen in `api/problems.py`.

KobiriError
├── Malformed                    the request cannot be read
│   ├── MalformedJSON
│   ├── InvalidFields            one or more fields; carries `errors`
│   ├── IdempotencyKeyMissing
│   ├── IdempotencyKeyMalformed
│   ├── InvalidCursor
│   └── InvalidQuery
├── Unauthenticated              no key, an unknown, revoked or expired one
├── Forbidden
│   ├── AddressNotAllowed
│   ├── ScopeMissing
│   ├── TenantMismatch
│   └── TenantSuspended
├── NotFound                     absent, or another tenant's: nobody can tell which
├── MethodNotAllowed
├── Conflict
│   ├── RequestInProgress
│   └── ReferenceInUse
├── RequestTimeout               the body took too long to arrive
├── BodyTooLarge
├── UnsupportedMediaType
├── Unprocessable                read and understood, but it cannot be done
│   ├── IdempotencyKeyReused
│   ├── InvalidAmount
│   ├── AmountOutOfLimits
│   ├── CurrencyNotSupported
│   ├── InvalidNumber
│   ├── NetworkUnknown
│   ├── CountryNotServed
│   └── NoRoute
├── TooManyRequests
├── InternalError                a bug of ours
├── Unavailable                  try again later with the same key: perhaps it was stored
│   ├── RouteClosed
│   ├── Busy
│   └── DatabaseUnavailable
└── OutcomeUnknown               sent, but not answered in time; being resolved
"""

from typing import ClassVar


class KobiriError(Exception):
    """Base of all expected errors. `detail` tells this occurrence, `members` are further members of the problem."""

    code: ClassVar[str] = "error"
    title: ClassVar[str] = "Error"

    def __init__(self, detail: str = "", *, retry_after_s: int | None = None, **members: object) -> None:
        self.detail = detail or self.title
        self.retry_after_s = retry_after_s
        self.members = members
        super().__init__(self.detail)


class Malformed(KobiriError):
    code = "malformed_request"
    title = "The request cannot be read"


class MalformedJSON(Malformed):
    code = "malformed_json"
    title = "The body is not acceptable JSON"


class InvalidFields(Malformed):
    code = "invalid_fields"
    title = "Some fields are not acceptable"


class IdempotencyKeyMissing(Malformed):
    code = "idempotency_key_missing"
    title = "An Idempotency-Key header is required"


class IdempotencyKeyMalformed(Malformed):
    code = "idempotency_key_malformed"
    title = "The Idempotency-Key header is not acceptable"


class InvalidCursor(Malformed):
    code = "invalid_cursor"
    title = "The cursor is not valid for this list"


class InvalidQuery(Malformed):
    code = "invalid_query"
    title = "A query parameter is not acceptable"


class Unauthenticated(KobiriError):
    code = "unauthenticated"
    title = "A valid API key is required"


class Forbidden(KobiriError):
    code = "forbidden"
    title = "This is not allowed"


class AddressNotAllowed(Forbidden):
    code = "address_not_allowed"
    title = "This API key may not be used from this address"


class ScopeMissing(Forbidden):
    code = "scope_missing"
    title = "This API key lacks a scope"


class TenantMismatch(Forbidden):
    code = "tenant_mismatch"
    title = "The x-tenant-id header and the API key disagree"


class TenantSuspended(Forbidden):
    code = "tenant_suspended"
    title = "This tenant is suspended: no new payments"


class NotFound(KobiriError):
    code = "not_found"
    title = "There is no such thing here"


class MethodNotAllowed(KobiriError):
    code = "method_not_allowed"
    title = "This address does not take this method"


class Conflict(KobiriError):
    code = "conflict"
    title = "This cannot be done now"


class RequestInProgress(Conflict):
    code = "request_in_progress"
    title = "The first request with this Idempotency-Key is still running"


class ReferenceInUse(Conflict):
    code = "reference_in_use"
    title = "A payment with this reference exists"


class RequestTimeout(KobiriError):
    code = "request_timeout"
    title = "The request took too long to arrive"


class BodyTooLarge(KobiriError):
    code = "body_too_large"
    title = "The body is too large"


class UnsupportedMediaType(KobiriError):
    code = "unsupported_media_type"
    title = "The body must be application/json"


class Unprocessable(KobiriError):
    code = "unprocessable"
    title = "The request was understood, but it cannot be done"


class IdempotencyKeyReused(Unprocessable):
    code = "idempotency_key_reused"
    title = "This Idempotency-Key was used for another request"


class InvalidAmount(Unprocessable):
    code = "invalid_amount"
    title = "The amount is not acceptable"


class AmountOutOfLimits(Unprocessable):
    code = "amount_out_of_limits"
    title = "No provider account takes this amount"


class CurrencyNotSupported(Unprocessable):
    code = "currency_not_supported"
    title = "The currency is not supported"


class InvalidNumber(Unprocessable):
    code = "invalid_number"
    title = "The phone number is not valid"


class NetworkUnknown(Unprocessable):
    code = "network_unknown"
    title = "It is not known whose wallet this number is"


class CountryNotServed(Unprocessable):
    code = "country_not_served"
    title = "No provider account serves numbers of this country"


class NoRoute(Unprocessable):
    code = "no_route"
    title = "No provider account serves this payment"


class TooManyRequests(KobiriError):
    code = "too_many_requests"
    title = "Too many requests"


class InternalError(KobiriError):
    code = "internal_error"
    title = "Something went wrong on our side; the log knows more under this request id"


class Unavailable(KobiriError):
    code = "unavailable"
    title = "Not available now"


class RouteClosed(Unavailable):
    code = "route_closed"
    title = "No road to this wallet is open now; nothing was stored"


class Busy(Unavailable):
    code = "busy"
    title = "Too much is going on at once"


class DatabaseUnavailable(Unavailable):
    code = "database_unavailable"
    title = "The database cannot be reached"


class OutcomeUnknown(KobiriError):
    code = "provider_timeout"
    title = "The provider did not answer in time; the payment is being resolved"
