"""POST and GET /payments, GET /transactions, GET /events."""

import re
from datetime import MAXYEAR, datetime
from typing import Annotated, Any

import msgspec
from litestar import Request, Response, get, post
from litestar.params import FromPath, FromQuery, QueryParameter, RawBody

from kobiri.api import schemas
from kobiri.api.auth import caller_of
from kobiri.api.problems import EXPECTED
from kobiri.api.schemas import EventPage, PaymentPage, PaymentView, TransactionPage
from kobiri.api.state import ApiState
from kobiri.domain.errors import (
    IdempotencyKeyMalformed,
    IdempotencyKeyMissing,
    InvalidQuery,
    OutcomeUnknown,
    UnsupportedMediaType,
)
from kobiri.domain.ids import PaymentId, new_id, parse_id
from kobiri.domain.payment import Status
from kobiri.services import audit
from kobiri.services import payments as service
from kobiri.services.access import Caller
from kobiri.store.payments import Author, Filter, KeyUse

PAGE, MAX_PAGE = 50, 1_000

# The header is a structured-field string by the draft, so quoted; nearly everybody sends it bare. Both are one key.
KEY = re.compile(r'"([\x21\x23-\x5b\x5d-\x7e][\x20\x21\x23-\x5b\x5d-\x7e]*)"|([\x21\x23-\x7e][\x20-\x7e]*)', re.ASCII)
MAX_KEY = 255

DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", re.ASCII)

AnyRequest = Request[Any, Any, Any]
Limit = Annotated[int, QueryParameter(description="How many at most; more than 1000 are cut to 1000.", ge=1)]
Cursor = Annotated[str | None, QueryParameter(description="next_cursor of the page before.", max_length=1000)]


@post("/payments", opt={"scope": "payments:write"}, status_code=201, summary="Collect money from a wallet")
async def create_payment(request: AnyRequest, body: RawBody) -> Response[bytes]:
    """Ask a payer for money. The payer approves on the phone; the outcome comes later, read it with GET."""
    state: ApiState = request.app.state.api
    caller = caller_of(request)
    _require_json(request)
    order = schemas.read_order(body)
    path = request.scope["path"]
    use = KeyUse(
        key=_idempotency_key(request, required=state.idempotency_required),
        method="POST",
        path=path,
        fingerprint=schemas.fingerprint("POST", path, order),
        life=state.gateway.key_life,
    )
    respond_async = "respond-async" in request.headers.get("prefer", "").lower()
    reply = await service.create(state.gateway, caller, order, use, _author(request), respond_async=respond_async)
    request.scope["state"]["payment_id"] = reply.payment.id
    if reply.status_code is None:
        raise OutcomeUnknown(
            "Read the payment later, or repeat this request with the same Idempotency-Key; never with a new one.",
            payment_id=reply.payment.id,
        )
    headers = {"location": f"{path}/{reply.payment.id}", "cache-control": "no-store"}
    if reply.replayed:
        headers["idempotent-replayed"] = "true"
    if respond_async and not reply.replayed:
        headers["preference-applied"] = "respond-async"
    return Response(reply.body, status_code=reply.status_code, headers=headers, media_type="application/json")


@get("/payments/{payment_id:str}", opt={"scope": "payments:read"}, summary="Read one payment")
async def get_payment(request: AnyRequest, payment_id: FromPath[str]) -> PaymentView:
    """The payment as it stands now."""
    state: ApiState = request.app.state.api
    known = parse_id(payment_id)
    payment = await service.get(state.gateway, caller_of(request), PaymentId(known) if known else None)
    return schemas.payment_view(payment)


FILTERS = ("limit", "cursor", "status", "provider", "reference", "created_from", "created_before")


@get("/payments", opt={"scope": "payments:read", "parameters": FILTERS}, summary="List payments")
async def list_payments(
    request: AnyRequest,
    limit: Limit = PAGE,
    cursor: Cursor = None,
    status: FromQuery[Status | None] = None,
    provider: FromQuery[str | None] = None,
    reference: FromQuery[str | None] = None,
    created_from: FromQuery[datetime | None] = None,
    created_before: FromQuery[datetime | None] = None,
) -> PaymentPage:
    """Newest first."""
    state: ApiState = request.app.state.api
    caller = caller_of(request)
    wanted = _filter(request, status, provider, reference, created_from, created_before)
    name, before = _position(state, caller, "payments", wanted, cursor)
    size = min(limit, MAX_PAGE)
    found = await service.list_page(state.gateway, caller, wanted, before, size + 1)
    page = found[:size]
    more = state.cursors.write(caller, name, page[-1].id) if len(found) > size else None
    return PaymentPage([schemas.payment_view(payment) for payment in page], more)


@get("/transactions", opt={"scope": "payments:read", "parameters": FILTERS}, summary="List the whole history")
async def list_transactions(
    request: AnyRequest,
    limit: Limit = PAGE,
    cursor: Cursor = None,
    status: FromQuery[Status | None] = None,
    provider: FromQuery[str | None] = None,
    reference: FromQuery[str | None] = None,
    created_from: FromQuery[datetime | None] = None,
    created_before: FromQuery[datetime | None] = None,
) -> TransactionPage:
    """All movements of money with their events, newest first."""
    state: ApiState = request.app.state.api
    caller = caller_of(request)
    wanted = _filter(request, status, provider, reference, created_from, created_before)
    name, before = _position(state, caller, "transactions", wanted, cursor)
    size = min(limit, MAX_PAGE)
    found = await service.list_with_events(state.gateway, caller, wanted, before, size + 1)
    page = found[:size]
    more = state.cursors.write(caller, name, page[-1][0].id) if len(found) > size else None
    views = [
        schemas.TransactionView(schemas.payment_view(payment), [schemas.event_view(event) for event in history])
        for payment, history in page
    ]
    return TransactionPage(views, more)


@get(
    "/events",
    opt={"scope": "events:read", "parameters": ("limit", "cursor", "type", "subject_id")},
    summary="Read the audit log",
)
async def list_events(
    request: AnyRequest,
    limit: Limit = PAGE,
    cursor: Cursor = None,
    event_type: Annotated[str | None, QueryParameter(name="type", description="Such as payment.succeeded.")] = None,
    subject_id: Annotated[str | None, QueryParameter(description="Such as a payment's id.")] = None,
) -> EventPage:
    """Every fact about this tenant, oldest first, numbered without gaps and sealed into a chain of hashes."""
    state: ApiState = request.app.state.api
    caller = caller_of(request)
    name = f"events {event_type} {subject_id}"
    after = int(state.cursors.read(caller, name, cursor)) if cursor else 0
    size = min(limit, MAX_PAGE)
    found = await audit.list_page(state.gateway.db, caller, after, event_type, subject_id, size)
    last = found[-1].sequence if found else after
    return EventPage([schemas.event_view(event) for event in found], state.cursors.write(caller, name, str(last)))


def _author(request: AnyRequest) -> Author:
    return Author(f"api_key:{caller_of(request).key_id}", request.scope["state"]["request_id"])


def _require_json(request: AnyRequest) -> None:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise UnsupportedMediaType(f"Send content-type: application/json, not {kind[:60]!r}.")
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise UnsupportedMediaType("Send the body without a content-encoding.")


def _idempotency_key(request: AnyRequest, *, required: bool) -> str:
    given = request.headers.getall("idempotency-key", [])
    if not given:
        if required:
            raise IdempotencyKeyMissing("Send a new random value, such as a UUID, and repeat it when you try again.")
        return f"none:{new_id()}"  # a key that nobody can repeat
    match = KEY.fullmatch(given[0].strip()) if len(given) == 1 else None
    key = (match[1] or match[2]).rstrip() if match else ""
    if not 1 <= len(key) <= MAX_KEY:
        raise IdempotencyKeyMalformed(f"Send one value of 1 to {MAX_KEY} printable ASCII characters.")
    return key


def _filter(
    request: AnyRequest,
    status: Status | None,
    provider: str | None,
    reference: str | None,
    created_from: datetime | None,
    created_before: datetime | None,
) -> Filter:
    for name, moment in (("created_from", created_from), ("created_before", created_before)):
        if moment is None:
            continue
        # The decoder takes a bare number too, as seconds: 2026 would be a minute of the year 1970.
        if moment.tzinfo is None or not DATE.match(request.query_params[name]):
            raise InvalidQuery(f"{name}: expected {EXPECTED[name]}.")
        if not 1 < moment.year < MAXYEAR:  # in UTC it may be in no year at all
            raise InvalidQuery(f"{name}: a time of this year cannot be.")
    for name, text in (("provider", provider), ("reference", reference)):
        if text is not None and len(text) > 100:
            raise InvalidQuery(f"{name}: at most 100 characters.")
    return Filter(status, provider, reference, created_from, created_before)


def _position(
    state: ApiState, caller: Caller, kind: str, wanted: Filter, cursor: str | None
) -> tuple[str, PaymentId | None]:
    """The list's name, of which its filters are a part, and the id before which the page begins."""
    name = f"{kind} {msgspec.json.encode(wanted).decode()}"
    return name, PaymentId(state.cursors.read(caller, name, cursor)) if cursor else None
