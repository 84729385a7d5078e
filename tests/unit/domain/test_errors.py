import re
from collections.abc import Iterator

import pytest

from kobiri.domain import errors
from kobiri.domain.errors import KobiriError

# Clients branch on these words: one may be added, none may change its meaning or its spelling.
CODES = {
    "KobiriError": "error",
    "Malformed": "malformed_request",
    "MalformedJSON": "malformed_json",
    "InvalidFields": "invalid_fields",
    "IdempotencyKeyMissing": "idempotency_key_missing",
    "IdempotencyKeyMalformed": "idempotency_key_malformed",
    "InvalidCursor": "invalid_cursor",
    "InvalidQuery": "invalid_query",
    "Unauthenticated": "unauthenticated",
    "Forbidden": "forbidden",
    "AddressNotAllowed": "address_not_allowed",
    "ScopeMissing": "scope_missing",
    "TenantMismatch": "tenant_mismatch",
    "TenantSuspended": "tenant_suspended",
    "NotFound": "not_found",
    "MethodNotAllowed": "method_not_allowed",
    "Conflict": "conflict",
    "RequestInProgress": "request_in_progress",
    "ReferenceInUse": "reference_in_use",
    "BodyTooLarge": "body_too_large",
    "UnsupportedMediaType": "unsupported_media_type",
    "Unprocessable": "unprocessable",
    "IdempotencyKeyReused": "idempotency_key_reused",
    "InvalidAmount": "invalid_amount",
    "CurrencyNotSupported": "currency_not_supported",
    "InvalidNumber": "invalid_number",
    "NetworkUnknown": "network_unknown",
    "CountryNotServed": "country_not_served",
    "NoRoute": "no_route",
    "TooManyRequests": "too_many_requests",
    "InternalError": "internal_error",
    "Unavailable": "unavailable",
    "RouteClosed": "route_closed",
    "Busy": "busy",
    "DatabaseUnavailable": "database_unavailable",
    "OutcomeUnknown": "provider_timeout",
}


def family(root: type[KobiriError]) -> Iterator[type[KobiriError]]:
    yield root
    for child in root.__subclasses__():
        if child.__module__ == errors.__name__:
            yield from family(child)


EVERY = tuple(family(KobiriError))


def drawn_tree() -> dict[str, str | None]:
    """Each class in the module's docstring, with the class it hangs from."""
    parents: dict[str, str | None] = {}
    path: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        drawn = re.match(r"([│├└─ ]*)([A-Z][A-Za-z]+)(?:  |$)", line)
        if drawn:
            depth = len(drawn[1]) // 4
            parents[drawn[2]] = path[depth - 1] if depth else None
            path[depth:] = [drawn[2]]
    return parents


def real_tree() -> dict[str, str | None]:
    return {e.__name__: None if e is KobiriError else (e.__base__ or e).__name__ for e in EVERY}


def test_codes_are_stable() -> None:
    codes = {e.__name__: e.code for e in EVERY}
    assert {name: codes.get(name) for name in CODES} == CODES


def test_every_error_has_a_code_and_a_title_of_its_own() -> None:
    for own in ("code", "title"):
        assert all(own in vars(e) for e in EVERY), f"inherits its {own}"
        values = [getattr(e, own) for e in EVERY]
        assert len(set(values)) == len(values)
    assert all(re.fullmatch(r"[a-z]+(_[a-z]+)*", e.code) for e in EVERY)


def test_the_drawn_tree_is_the_real_one() -> None:
    assert drawn_tree() == real_tree()


@pytest.mark.parametrize("error", EVERY, ids=lambda e: e.__name__)
def test_an_error_tells_its_occurrence_or_else_its_title(error: type[KobiriError]) -> None:
    assert str(error()) == error().detail == error.title
    told = error("The amount is odd.", retry_after_s=3, payment_id="p1")
    assert (str(told), told.detail) == ("The amount is odd.", "The amount is odd.")
    assert (told.retry_after_s, told.members) == (3, {"payment_id": "p1"})
