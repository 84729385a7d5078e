"""What goes over the wire: request bodies, answers, and how domain values become them."""

import hashlib
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta, Struct

from kobiri.api.strict_json import MAX_FAULTS, Amount, Fault, convert, faults, invalid_fields, more, parse, sound_fields
from kobiri.domain.errors import CurrencyNotSupported, InvalidAmount, InvalidFields, InvalidNumber, KobiriError
from kobiri.domain.money import Money
from kobiri.domain.msisdn import Msisdn
from kobiri.domain.payment import Payment
from kobiri.services.offers import Offer
from kobiri.services.payments import Order
from kobiri.store.events import Event

# No control characters anywhere: they break logs, and PostgreSQL takes no NUL in text.
CLEAN = r"\A[^\x00-\x1f\x7f-\x9f\u2028\u2029]*\Z"

# Told instead of a pattern.
TEXT = {"expected": "text without line breaks and other control characters"}
REFERENCE = {"expected": "printable ASCII characters without spaces, such as order-1001"}
CURRENCY = {"expected": "three capital letters, such as ZMW"}
ADDRESS = {"expected": "an address such as https://shop.example/hooks"}

Reference = Annotated[str, Meta(min_length=1, max_length=100, pattern=r"\A[\x21-\x7e]+\Z", extra=REFERENCE)]
Line = Annotated[str, Meta(min_length=1, max_length=140, pattern=CLEAN, extra=TEXT)]
MetadataKey = Annotated[str, Meta(min_length=1, max_length=40, pattern=CLEAN, extra=TEXT)]
MetadataValue = Annotated[str, Meta(max_length=500, pattern=CLEAN, extra=TEXT)]
Address = Annotated[str, Meta(max_length=2048, pattern=r"\A[\x21-\x7e]+\Z", extra=ADDRESS)]
WalletNetwork = Literal["mtn", "airtel", "zamtel"]

MAX_METADATA = 20


class PaymentRequest(Struct, forbid_unknown_fields=True, kw_only=True):
    """A collection: the payer gets a prompt on the phone."""

    amount: Amount
    currency: Annotated[str, Meta(pattern=r"\A[A-Z]{3}\Z", extra=CURRENCY)]
    payer: Annotated[str, Meta(min_length=1, max_length=32)]
    network: WalletNetwork | None = None
    reference: Reference | None = None
    description: Line | None = None
    metadata: Annotated[dict[MetadataKey, MetadataValue], Meta(max_length=MAX_METADATA)] | None = None
    callback_url: Address | None = None

    def to_order(self) -> Order:
        """Raises InvalidAmount, CurrencyNotSupported, InvalidNumber, InvalidFields (no web address)."""
        if fault := _web_address_fault(self.callback_url):
            raise invalid_fields([fault])
        return Order(
            money=Money.parse(self.amount.text, self.currency),
            payer=Msisdn.parse(self.payer),
            network=self.network,
            reference=self.reference,
            description=self.description,
            metadata=self.metadata or None,
            callback_url=self.callback_url,
        )


def read_order(body: bytes) -> Order:
    """Read a request's body. Raises MalformedJSON, BodyTooLarge, InvalidFields.

    Where every field is well-formed: InvalidAmount, CurrencyNotSupported, InvalidNumber. All that is wrong stands in
    `errors`, whichever is raised.
    """
    given = parse(body)
    try:
        return convert(given, PaymentRequest).to_order()
    except (InvalidFields, InvalidAmount, CurrencyNotSupported, InvalidNumber):
        raise _all_that_is_wrong(given) from None


def _all_that_is_wrong(given: object) -> KobiriError:
    found, sound = faults(given, PaymentRequest), sound_fields(given, PaymentRequest)
    if fault := _web_address_fault(sound.get("callback_url")):
        found.append(fault)
    refusals = list(_refusals(sound))
    told = [*found, *(Fault(at, refusal.code, refusal.detail) for at, refusal in refusals)][:MAX_FAULTS]
    if found:
        return invalid_fields(told)
    _, first = refusals[0]
    return type(first)(first.detail + more(told), errors=told)


def _refusals(sound: Mapping[str, Any]) -> Iterator[tuple[str, KobiriError]]:
    """What is well-formed and means nothing, with its JSON pointer."""
    if "amount" in sound and "currency" in sound:
        try:
            Money.parse(convert(sound["amount"], Amount).text, sound["currency"])
        except InvalidAmount as refusal:
            yield "/amount", refusal
        except CurrencyNotSupported as refusal:
            yield "/currency", refusal
    if "payer" in sound:
        try:
            Msisdn.parse(sound["payer"])
        except InvalidNumber as refusal:
            yield "/payer", refusal


def fingerprint(method: str, path: str, order: Order) -> bytes:
    """What makes two requests the same: what they ask for, however it is spelt (spaces, order of names, 5 or 5.00).

    It is stored, and the next version must make the same of a repeat. So these ten keep their places for ever, also
    one that is not taken any more (None). A new field is appended behind them as {"name": value}, and only where it is
    given: every request that does not know it keeps its hash.
    """
    canonical = msgspec.json.encode(
        [
            method,
            path,
            str(order.money),
            order.money.currency,
            order.payer.digits,
            order.network,
            order.reference,
            order.description,
            order.metadata,
            order.callback_url,
        ],
        order="sorted",
    )
    return hashlib.sha256(canonical).digest()


class FailureView(Struct):
    """Why the payment did not succeed: our word, and the provider's own."""

    code: str
    provider_code: str | None


class PaymentView(Struct):
    """A payment as the API shows it."""

    id: str
    kind: str
    mode: str
    status: str
    amount: str
    currency: str
    payer: str
    network: str
    provider: str
    provider_reference: str
    provider_transaction_id: str | None
    provider_receipt: str | None
    received_amount: str | None
    received_currency: str | None
    reference: str | None
    description: str | None
    metadata: dict[str, str]
    callback_url: str | None
    failure: FailureView | None
    review: str | None
    created_at: str
    expires_at: str
    completed_at: str | None


class EventView(Struct):
    """One fact. `sequence` is null until it is sealed into the tenant's chain, a second or so after it happened."""

    id: str
    sequence: int | None
    type: str
    subject_id: str
    actor: str
    data: dict[str, str | int | bool | list[str] | None]
    request_id: str | None
    created_at: str


class TransactionView(Struct):
    """A payment with its whole history."""

    payment: PaymentView
    events: list[EventView]


class PaymentPage(Struct):
    """`next_cursor` null: this was the last page."""

    data: list[PaymentView]
    next_cursor: str | None


class TransactionPage(Struct):
    """`next_cursor` null: this was the last page."""

    data: list[TransactionView]
    next_cursor: str | None


class EventPage(Struct):
    """Oldest first. `next_cursor` is always there: ask with it later for what came since."""

    data: list[EventView]
    next_cursor: str


class CallbackHealth(Struct):
    """How callbacks arrive. Without a webhook secret they are hints: each makes us ask the provider at once."""

    provider: str
    signed: bool
    callback_url_configured: bool
    applied_24h: int
    hints_24h: int
    last_received_at: str | None


class OfferView(Struct):
    """One kind of movement by one account.

    `availability` tells how this gateway's own calls of the last five minutes went, as this process saw them.
    """

    provider: str
    provider_name: str
    account_id: str | None
    networks: list[str]
    kind: str
    currencies: list[str]
    min_amount: str | None
    max_amount: str | None
    availability: Literal["operational", "degraded", "down", "unknown"]
    open: bool
    closed_because: str | None


class OfferList(Struct):
    """In the order in which they are tried."""

    data: list[OfferView]


class Prediction(Struct):
    """Whose wallet a number probably is. `network` null: the number does not tell."""

    msisdn: str
    country: str | None
    network: str | None
    predicted_from: Literal["prefix"] | None
    advice: str


class Health(Struct):
    """`status` is pass or fail; `output` says what is wrong."""

    status: Literal["pass", "fail"]
    output: str | None = None


class Problem(Struct):
    """RFC 9457 problem details. `code` is stable; further members stand beside it."""

    type: str
    title: str
    status: int
    detail: str
    instance: str
    code: str
    retryable: bool


def payment_view(payment: Payment) -> PaymentView:
    return PaymentView(
        id=payment.id,
        kind=payment.kind,
        mode=payment.mode,
        status=payment.status,
        amount=str(payment.money),
        currency=payment.money.currency,
        payer=payment.payer.digits,
        network=payment.network,
        provider=payment.provider,
        provider_reference=payment.provider_reference,
        provider_transaction_id=payment.provider_transaction_id,
        provider_receipt=payment.provider_receipt,
        received_amount=str(payment.received) if payment.received else None,
        received_currency=payment.received.currency if payment.received else None,
        reference=payment.reference,
        description=payment.description,
        metadata=dict(payment.metadata or {}),
        callback_url=payment.callback_url,
        failure=FailureView(payment.failure_code, payment.failure_provider_code) if payment.failure_code else None,
        review=payment.review,
        created_at=timestamp(payment.created_at),
        expires_at=timestamp(payment.expires_at),
        completed_at=timestamp(payment.completed_at) if payment.completed_at else None,
    )


def render_payment(payment: Payment) -> bytes:
    """The bytes that a client gets, and gets again when it repeats its key."""
    return msgspec.json.encode(payment_view(payment))


def offer_view(offer: Offer) -> OfferView:
    road = offer.road
    currencies = sorted(road.provider.currencies)
    least, most = (None if minor is None else str(Money(minor, currencies[0])) for minor in road.limits(currencies[0]))
    return OfferView(
        provider=road.spec.id,
        provider_name=road.spec.name,
        account_id=road.account_id,
        networks=sorted(road.spec.networks),
        kind=offer.kind,
        currencies=currencies,
        min_amount=least,
        max_amount=most,
        availability=offer.availability,
        open=offer.closed_because is None,
        closed_because=offer.closed_because,
    )


def event_view(event: Event) -> EventView:
    return EventView(
        id=event.id,
        sequence=event.sequence,
        type=event.type,
        subject_id=event.subject_id,
        actor=event.actor,
        data=dict(event.data),
        request_id=event.request_id,
        created_at=timestamp(event.created_at),
    )


def timestamp(moment: datetime) -> str:
    """RFC 3339 in UTC: 2026-02-01T08:00:00.123Z."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _web_address_fault(text: str | None) -> Fault | None:
    if text is None:
        return None
    try:
        parts = urlsplit(text)
        if parts.scheme in ("http", "https") and parts.hostname and parts.port != 0:
            return None
    except ValueError:
        pass
    return Fault("/callback_url", "bad_format", f"Expected {ADDRESS['expected']}.")
