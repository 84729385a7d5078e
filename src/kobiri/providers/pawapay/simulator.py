"""pawaPay's Merchant API v2 on the wire. What is known of it, and how well: docs/simulator.md."""

import base64
import hashlib
import re
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import count
from typing import Annotated, Any, Final, Literal, TypeVar, assert_never, get_args
from urllib.parse import urlsplit

import msgspec
from aiohttp import web
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from msgspec import Meta

from kobiri.simulator import faults as f
from kobiri.simulator.answers import Refused, garbled, json_answer, peek, same
from kobiri.simulator.books import Kind
from kobiri.simulator.dialects import Dialect
from kobiri.simulator.prompts import Requests, Verdict, Words, faulted
from kobiri.simulator.stage import CallbackOrder, Change, Options, OrderError, Outgoing, Stage
from kobiri.simulator.wallets import Opening, left

COUNTRY, CURRENCY = "ZMB", "ZMW"
KINDS: Final[tuple[Kind, ...]] = get_args(Kind)
IDS: Final[Mapping[Kind, str]] = {"collection": "depositId", "payout": "payoutId", "refund": "refundId"}
PATHS: Final[Mapping[Kind, str]] = {"collection": "deposits", "payout": "payouts", "refund": "refunds"}
OPERATIONS: Final[Mapping[Kind, str]] = {"collection": "create", "payout": "payout", "refund": "refund"}
PRODUCTS: Final[Mapping[Kind, str]] = {
    "collection": "collection",
    "payout": "disbursement",
    "refund": "disbursement",
}
OPERATION_TYPES: Final[Mapping[Kind, str]] = {"collection": "DEPOSIT", "payout": "PAYOUT", "refund": "REFUND"}

ACCEPTED, PROCESSING, ENQUEUED, COMPLETED, FAILED = "ACCEPTED", "PROCESSING", "ENQUEUED", "COMPLETED", "FAILED"
FINAL: Final = frozenset({COMPLETED, FAILED})

# pawaPay's numbers in Zambia: a block of each provider's, and what the last three digits do. STUCK: nothing more comes.
STUCK: Final = "STUCK"
BLOCKS: Final[Mapping[str, str]] = {
    "260763456": "MTN_MOMO_ZMB",
    "260973456": "AIRTEL_OAPI_ZMB",
    "260953456": "ZAMTEL_ZMB",
}
ZAMTEL_NUMBERS: Final[Mapping[str, str]] = {"712": "UNSPECIFIED_FAILURE", "789": STUCK}
DEPOSIT_NUMBERS: Final[Mapping[str, Mapping[str, str]]] = {
    "MTN_MOMO_ZMB": {
        "019": "PAYER_LIMIT_REACHED",
        "029": "PAYER_NOT_FOUND",
        "039": "PAYMENT_NOT_APPROVED",
        "069": "UNSPECIFIED_FAILURE",
        "129": STUCK,
    },
    "AIRTEL_OAPI_ZMB": {
        "019": "PAYER_LIMIT_REACHED",
        "039": "PAYMENT_NOT_APPROVED",
        "049": "INSUFFICIENT_BALANCE",
        "069": "UNSPECIFIED_FAILURE",
        "129": STUCK,
    },
    "ZAMTEL_ZMB": {**ZAMTEL_NUMBERS, "704": "INSUFFICIENT_BALANCE"},
}
PAYOUT_NUMBERS: Final[Mapping[str, Mapping[str, str]]] = {
    "MTN_MOMO_ZMB": {"079": "RECIPIENT_NOT_FOUND", "119": "UNSPECIFIED_FAILURE", "129": STUCK},
    "AIRTEL_OAPI_ZMB": {"089": "RECIPIENT_NOT_FOUND", "119": "UNSPECIFIED_FAILURE", "129": STUCK},
    "ZAMTEL_ZMB": ZAMTEL_NUMBERS,
}

# Whose a number is, by the digits after 260: only a guess, as at pawaPay.
PREFIXES: Final[Mapping[str, str]] = {
    **dict.fromkeys(("96", "76", "56"), "MTN_MOMO_ZMB"),
    **dict.fromkeys(("97", "77", "57"), "AIRTEL_OAPI_ZMB"),
    **dict.fromkeys(("95", "75", "55"), "ZAMTEL_ZMB"),
}

MESSAGES: Final[Mapping[str, str]] = {
    "AMOUNT_OUT_OF_BOUNDS": "The amount is outside of the transaction limits.",
    "AMOUNT_TOO_LARGE": "The amount is more than what can still be refunded.",
    "AUTHENTICATION_ERROR": "The API token is not valid.",
    "DEPOSIT_ALREADY_REFUNDED": "The deposit has been refunded already.",
    "DEPOSIT_NOT_COMPLETED": "The deposit has not been completed.",
    "DEPOSIT_NOT_FOUND": "There is no such deposit.",
    "DEPOSITS_NOT_ALLOWED": "Deposits are not enabled for this account.",
    "INVALID_AMOUNT": "The amount is not one that the provider takes.",
    "INVALID_CURRENCY": "The currency is not supported by the provider.",
    "INVALID_PHONE_NUMBER": "The phone number is not an MSISDN.",
    "INVALID_PROVIDER": "The provider is not known.",
    "INVALID_STATE": "The deposit has not been completed.",
    "NOT_FOUND": "There is no such deposit.",
    "NO_AUTHENTICATION": "There is no API token in the request headers.",
    "PAYOUTS_NOT_ALLOWED": "Payouts are not enabled for this account.",
    "PROVIDER_TEMPORARILY_UNAVAILABLE": "The provider is not available at the moment.",
    "REFUND_IN_PROGRESS": "Another refund of the deposit is being processed.",
    "REFUNDS_NOT_ALLOWED": "Refunds are not enabled for this account.",
}

# A refund of a deposit that is unknown, or not completed, in the words of each version.
NO_DEPOSIT: Final[Mapping[str, str]] = {"v1": "DEPOSIT_NOT_FOUND", "v2": "NOT_FOUND"}
OPEN_DEPOSIT: Final[Mapping[str, str]] = {"v1": "DEPOSIT_NOT_COMPLETED", "v2": "INVALID_STATE"}

UUID_V4: Final = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
AMOUNT: Final = re.compile(r"(0|[1-9][0-9]{0,19})(\.[0-9]{1,2})?")
MAX_AMOUNT: Final = "1000000"
LISTED_LIMITS: Final = ("minTransactionLimit", "maxTransactionLimit")  # as they are called where they are in a list
MSISDN: Final = re.compile(r"[0-9]{6,15}")
URL_MAX: Final = 2048

SIGNATURE_LIFE_S: Final = 60
COVERED: Final = ("@method", "@authority", "@path", "signature-date", "content-digest", "content-type")
CALLBACK_TYPE: Final = "application/json; charset=UTF-8"
FORGED_TRANSACTION: Final = "1000000000"

COLLECTION_WORDS: Final = Words(
    paid=(COMPLETED, None),
    rejected=(FAILED, "PAYMENT_NOT_APPROVED"),
    expired=(FAILED, "PAYMENT_NOT_APPROVED"),
    no_funds=(FAILED, "INSUFFICIENT_BALANCE"),
    broken=(FAILED, "UNSPECIFIED_FAILURE"),
    pending=PROCESSING,
)
OUTGOING_WORDS: Final = Words(
    paid=(COMPLETED, None),
    rejected=(FAILED, "RECIPIENT_NOT_FOUND"),
    expired=(FAILED, "UNSPECIFIED_FAILURE"),
    no_funds=(FAILED, "PAWAPAY_WALLET_OUT_OF_FUNDS"),
    broken=(FAILED, "UNSPECIFIED_FAILURE"),
    pending=PROCESSING,
)

# An account that this simulator takes as it stands; demos and tests use it.
ACCOUNT_VALUES: Final[Mapping[str, str]] = {"api_token": "simulated-api-token-0123456789"}
# Options under which it refuses that account.
REFUSING: Final[Mapping[str, object]] = {"api_tokens": ["another"]}
# Account values with which callbacks must be signed.
SIGNED_VALUES: Final[Mapping[str, str]] = {"callback_signatures": "required"}

# How pawaPay may behave: the usual way, the other side of each dispute, and the strangest that can hold together.
DIALECTS: Final[Mapping[str, Dialect]] = {
    "usual": Dialect(),
    "a refund refused in the words of version 1": Dialect({"refund_words": "v1"}),
    "signatures in DER": Dialect({"callback_signatures": "der"}),
    "digests with SHA-256": Dialect({"callback_digest": "sha-256"}),
    "limits in a list": Dialect({"limits_as": "list"}),
    "strangest": Dialect(
        {"refund_words": "v1", "callback_signatures": "der", "callback_digest": "sha-256", "limits_as": "list"}
    ),
}


def callbacks_to(url: str) -> Mapping[str, object]:
    """Options with which it posts outcomes there, signed."""
    return {"deposit_callback_url": url, "payout_callback_url": url, "refund_callback_url": url}


S = TypeVar("S", bound=msgspec.Struct)

Milliseconds = Annotated[int, Meta(ge=0, le=86_400_000)]


class PawapayOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How this pawaPay behaves; where the sources disagree, both behaviours can be chosen."""

    api_tokens: tuple[str, ...] = ()  # none: any token will do
    availability: Literal["OPERATIONAL", "DELAYED", "CLOSED"] = "OPERATIONAL"
    # Kinds of movement that this account may not use, each with the HTTP status that says so.
    not_allowed: dict[Kind, Literal["200", "403"]] = {}
    refund_words: Literal["v1", "v2"] = "v2"
    prompt_ms: Milliseconds = 400
    deposit_callback_url: str | None = None
    payout_callback_url: str | None = None
    refund_callback_url: str | None = None
    callback_retry_ms: Annotated[tuple[Milliseconds, ...], Meta(max_length=50)] = ()
    callback_signatures: Literal["raw", "der", "off"] = "raw"
    callback_digest: Literal["sha-256", "sha-512"] = "sha-512"
    signing_key: Annotated[int, Meta(ge=1, le=1_000)] = 1
    limits_as: Literal["map", "list"] = "map"
    balance: Opening = "1000.00"


class AccountDetails(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    phone_number: str
    provider: str


class Wallet(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    type: Literal["MMO"]
    account_details: AccountDetails


Message = Annotated[str, Meta(pattern="^[A-Za-z0-9 ]{4,22}$")]
Metadata = Annotated[list[dict[str, str | bool]], Meta(max_length=10)]


class NewDeposit(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    deposit_id: str
    amount: str
    currency: str
    payer: Wallet
    pre_authorisation_code: str | None = None
    client_reference_id: str | None = None
    customer_message: Message | None = None
    metadata: Metadata | None = None


class NewPayout(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    payout_id: str
    amount: str
    currency: str
    recipient: Wallet
    client_reference_id: str | None = None
    customer_message: Message | None = None
    metadata: Metadata | None = None


class NewRefund(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """Without an amount the rest of the deposit is refunded."""

    refund_id: str
    deposit_id: str
    amount: str | None = None
    currency: str | None = None
    client_reference_id: str | None = None
    metadata: Metadata | None = None


Asked = NewDeposit | NewPayout | NewRefund
SHAPES: Final[Mapping[Kind, type[Asked]]] = {"collection": NewDeposit, "payout": NewPayout, "refund": NewRefund}


class NewPrediction(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    phone_number: str


@dataclass(slots=True)
class Payment:
    """A deposit, payout or refund. `deposit` is what a refund gives back, `refunds` are those of a deposit."""

    kind: Kind
    id: str
    amount: str
    currency: str
    msisdn: str
    provider: str
    message: str | None = None
    deposit: "Payment | None" = None
    refunds: "list[Payment]" = field(default_factory=list)
    created_at: float = field(default_factory=time.time)
    status: str = ACCEPTED
    reason: str | None = None
    transaction_id: str | None = None
    moved: str | None = None


def build(stage: Stage) -> web.Application:
    return PawapaySimulator(stage).application()


class PawapaySimulator:
    """One pawaPay, with its payments and its signing keys in memory."""

    error_shapes = frozenset({"pawapay", "html", "empty"})

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._options: Options[PawapayOptions] = stage.options(PawapayOptions)
        self._payments = {kind: Requests(stage.settings.max_payments, self._settle) for kind in KINDS}
        self._keys: dict[int, ec.EllipticCurvePrivateKey] = {}
        self._stranger = ec.generate_private_key(ec.SECP256R1())
        self._transactions = count(1_000_000_000 + secrets.randbelow(1_000_000_000))
        stage.actor = self

    def application(self) -> web.Application:
        app = web.Application()
        for kind in KINDS:
            path = f"/v2/{PATHS[kind]}"
            app.add_routes(
                [
                    web.post(path, self._create_as(kind)),
                    web.get(path + "/{id}", self._status_of(kind)),
                    web.post(path + "/resend-callback/{id}", self._resend_of(kind)),
                ]
            )
        app.add_routes(
            [
                web.get("/v2/availability", self._availability),
                web.get("/v2/active-conf", self._configuration),
                web.get("/v2/public-key/http", self._public_keys),
                web.post("/v2/predict-provider", self._predict),
                web.get("/v2/wallet-balances", self._balances),
                web.route("*", "/{rest:.*}", _no_such_operation),
            ]
        )
        return app

    # Requests that move money.

    def _create_as(self, kind: Kind) -> Callable[[web.Request], Awaitable[web.Response]]:
        async def create(request: web.Request) -> web.Response:
            body = await request.read()
            reference, msisdn = self._meant(kind, body)
            cue = self._stage.cue(OPERATIONS[kind], reference=reference, msisdn=msisdn, product=PRODUCTS[kind])

            async def process() -> web.Response:
                self._check_token(request)
                new = _decoded(body, SHAPES[kind])
                self._check_allowed(kind, _id_of(new))
                known = self._payments[kind].get(_uuid(_id_of(new)))
                if known is not None and self._stage.faults.take(cue, f.NoDedupe) is None:
                    return json_answer(200, _initiation(known, "DUPLICATE_IGNORED"))
                payment = self._refund(new) if isinstance(new, NewRefund) else _checked(new)
                self._check_open(payment)
                self._accept(payment, cue)
                return _initiated(payment, self._stage.faults.word(cue))

            return await self._stage.play(request, cue, process)

        return create

    def _meant(self, kind: Kind, body: bytes) -> tuple[str | None, str | None]:
        """The payment and the wallet that faults may be aimed at."""
        match peek(body, SHAPES[kind]):
            case NewRefund() as refund:
                refunded = self._payments["collection"].get(refund.deposit_id.lower())
                return refund.refund_id, None if refunded is None else refunded.msisdn
            case NewDeposit() | NewPayout() as new:
                return _id_of(new), _wallet_of(new).phone_number
            case _:
                return None, None

    def _refund(self, new: NewRefund) -> Payment:
        refund_id = new.refund_id.lower()
        deposit = self._payments["collection"].get(_uuid(new.deposit_id))
        if deposit is None:
            raise Refused(_rejected("refund", refund_id, NO_DEPOSIT[self._options.now.refund_words]))
        rest = _minor(deposit.amount) - sum(
            _minor(refund.amount) for refund in deposit.refunds if refund.status != FAILED
        )
        payment = Payment(
            kind="refund",
            id=refund_id,
            amount=_major(rest) if new.amount is None else new.amount,
            currency=new.currency or deposit.currency,
            msisdn=deposit.msisdn,
            provider=deposit.provider,
            deposit=deposit,
        )
        if deposit.status != COMPLETED:
            raise Refused(_rejected("refund", refund_id, OPEN_DEPOSIT[self._options.now.refund_words]))
        if (code := _wrong_with_refund(payment, deposit, rest)) is not None:
            raise Refused(_rejected("refund", refund_id, code))
        return payment

    def _check_allowed(self, kind: Kind, reference: str) -> None:
        """Before anything else: a repeat of what was taken is refused too."""
        code = f"{OPERATION_TYPES[kind]}S_NOT_ALLOWED"
        match self._options.now.not_allowed.get(kind):
            case "403":
                raise Refused(_failure(403, code))
            case "200":
                raise Refused(_rejected(kind, reference, code))
            case _:
                pass

    def _check_open(self, payment: Payment) -> None:
        match self._options.now.availability:
            case "CLOSED":
                raise Refused(_rejected(payment.kind, payment.id, "PROVIDER_TEMPORARILY_UNAVAILABLE"))
            case "DELAYED" if payment.kind != "collection":
                payment.status = ENQUEUED
            case _:
                pass

    def _accept(self, payment: Payment, cue: f.Cue) -> None:
        if payment.deposit is not None:
            payment.deposit.refunds.append(payment)
        self._payments[payment.kind].add(payment.id, payment, self._verdicts(payment, cue))
        if self._callback_url(payment.kind) is not None:
            callback = self._stage.cue("callback", reference=payment.id, msisdn=payment.msisdn)
            self._stage.forge_if_told(callback, self._render(payment), status=COMPLETED)

    def _verdicts(self, payment: Payment, cue: f.Cue) -> list[Verdict]:
        """What will happen to a payment: its faults first, then its test number, and success otherwise."""
        prompt_ms = self._options.now.prompt_ms
        told = faulted(self._stage.faults, cue, prompt_ms, _words(payment.kind))
        if told is not None:
            return told
        return [] if payment.status == ENQUEUED else _by_number(payment, prompt_ms)

    def _settle(self, payment: Payment, verdict: Verdict) -> None:
        payment.status, payment.reason = verdict.status, verdict.reason
        if verdict.status == COMPLETED:
            payment.transaction_id = str(next(self._transactions))
            payment.moved = self._stage.charge(
                self._stage.cue(OPERATIONS[payment.kind], reference=payment.id, msisdn=payment.msisdn),
                amount=payment.amount,
                currency=payment.currency,
                msisdn=payment.msisdn,
                kind=payment.kind,
            )
        if verdict.status in FINAL and self._callback_url(payment.kind) is not None:
            cue = self._stage.cue("callback", reference=payment.id, msisdn=payment.msisdn)
            self._stage.announce(cue, self._render(payment), stale_status=PROCESSING)

    # Requests that move nothing.

    def _status_of(self, kind: Kind) -> Callable[[web.Request], Awaitable[web.Response]]:
        async def status(request: web.Request) -> web.Response:
            payment_id = request.match_info["id"].lower()
            payment = self._payments[kind].get(payment_id)
            msisdn = payment.msisdn if payment is not None else None
            cue = self._stage.cue("status", reference=payment_id, msisdn=msisdn, product=PRODUCTS[kind])

            async def process() -> web.Response:
                self._check_token(request)
                payment = self._payments[kind].get(_uuid(payment_id))  # again: a fault may have held this up
                if payment is None or self._hidden(payment, cue):
                    return json_answer(200, {"status": "NOT_FOUND"})
                return json_answer(200, {"status": "FOUND", "data": _view(payment, self._stage.altered(cue))})

            return await self._stage.play(request, cue, process)

        return status

    def _hidden(self, payment: Payment, cue: f.Cue) -> bool:
        fault = self._stage.faults.take(cue, f.NotFoundFor)
        return fault is not None and time.time() - payment.created_at < fault.ms / 1000

    def _resend_of(self, kind: Kind) -> Callable[[web.Request], Awaitable[web.Response]]:
        async def resend(request: web.Request) -> web.Response:
            payment_id = request.match_info["id"].lower()

            async def process() -> web.Response:
                self._check_token(request)
                payment = self._payments[kind].get(_uuid(payment_id))
                if payment is None:
                    return _rejected(kind, payment_id, "NOT_FOUND")
                if payment.status not in FINAL:
                    return _rejected(kind, payment_id, "INVALID_STATE")
                if self._callback_url(kind) is not None:
                    cue = self._stage.cue("callback", reference=payment.id, msisdn=payment.msisdn)
                    self._stage.announce(cue, self._render(payment), stale_status=PROCESSING)
                return json_answer(200, {IDS[kind]: payment_id, "status": ACCEPTED})

            return await self._stage.play(request, self._stage.cue("check", reference=payment_id), process)

        return resend

    async def _availability(self, request: web.Request) -> web.Response:
        async def process() -> web.Response:  # the one call that needs no token
            operations = [
                {"operationType": name, "status": self._options.now.availability} for name in OPERATION_TYPES.values()
            ]
            providers = [{"provider": name, "operationTypes": operations} for name in BLOCKS.values()]
            return json_answer(200, [{"country": COUNTRY, "providers": providers}])

        return await self._stage.play(request, self._stage.cue("check"), process)

    async def _configuration(self, request: web.Request) -> web.Response:
        async def process() -> web.Response:
            self._check_token(request)
            options = self._options.now
            signatures = {"signedRequestsOnly": False, "signedCallbacks": options.callback_signatures != "off"}
            low, high = ("minAmount", "maxAmount") if options.limits_as == "map" else LISTED_LIMITS
            operations = {
                name: {
                    low: "0.01",
                    high: MAX_AMOUNT,
                    "decimalsInAmount": "TWO_PLACES",
                    "status": options.availability,
                    "callbackUrl": self._callback_url(kind),
                }
                for kind, name in OPERATION_TYPES.items()
            }
            told = operations if options.limits_as == "map" else [{name: one} for name, one in operations.items()]
            currencies = [{"currency": CURRENCY, "displayName": "K", "operationTypes": told}]
            providers = [{"provider": name, "currencies": currencies} for name in BLOCKS.values()]
            countries = [{"country": COUNTRY, "prefix": "260", "providers": providers}]
            answer = {"companyName": "Simulated", "signatureConfiguration": signatures, "countries": countries}
            return json_answer(200, answer)

        return await self._stage.play(request, self._stage.cue("check"), process)

    async def _public_keys(self, request: web.Request) -> web.Response:
        async def process() -> web.Response:
            self._check_token(request)
            number = self._options.now.signing_key
            pem = self._signing_key(number).public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
            return json_answer(200, [{"id": _key_id(number), "key": pem.decode()}])

        return await self._stage.play(request, self._stage.cue("check"), process)

    async def _predict(self, request: web.Request) -> web.Response:
        async def process() -> web.Response:
            self._check_token(request)
            given = _decoded(await request.read(), NewPrediction).phone_number
            digits = re.sub(r"[^0-9]", "", given)
            provider = PREFIXES.get(digits[3:5]) if digits.startswith("260") and len(digits) == 12 else None
            if provider is None:
                raise Refused(_failure(400, "INVALID_PHONE_NUMBER"))
            return json_answer(200, {"country": COUNTRY, "provider": provider, "phoneNumber": digits})

        return await self._stage.play(request, self._stage.cue("check"), process)

    async def _balances(self, request: web.Request) -> web.Response:
        """One wallet for the country, whatever the provider."""

        async def process() -> web.Response:
            self._check_token(request)
            came, paid, refunded = (
                self._stage.books.moved(self._stage.provider, kind, CURRENCY)
                for kind in ("collection", "payout", "refund")
            )
            balance = left(self._options.now.balance, came=[came], went=[paid, refunded])
            wallets = [{"country": COUNTRY, "balance": balance, "currency": CURRENCY}]
            return json_answer(200, {"balances": wallets if request.query.get("country", COUNTRY) == COUNTRY else []})

        return await self._stage.play(request, self._stage.cue("check"), process)

    def _check_token(self, request: web.Request) -> None:
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not token.strip():
            raise Refused(_failure(401, "NO_AUTHENTICATION"))
        accepted = self._options.now.api_tokens
        if accepted and not any(same(token.strip(), known) for known in accepted):
            raise Refused(_failure(403, "AUTHENTICATION_ERROR"))

    # What the stage and the control API ask of a provider.

    def error(self, fault: f.ErrorAnswer) -> web.Response:
        match fault.shape:
            case "html":
                page = f"<html><body><h1>{fault.status}</h1></body></html>"
                return web.Response(status=fault.status, text=page, content_type="text/html")
            case "empty":
                return web.Response(status=fault.status)
            case _:
                return _failure(fault.status, fault.code or "UNKNOWN_ERROR", fault.message)

    def callback(self, order: CallbackOrder) -> Outgoing | None:
        found = (self._payments[kind].get(order.reference.lower()) for kind in KINDS)
        payment = next((one for one in found if one is not None), None)
        if payment is None and order.url is not None:
            payment = Payment(
                kind="collection",
                id=order.reference,
                amount=order.amount or "1",
                currency=order.currency or CURRENCY,
                msisdn=order.payer or "260763456789",
                provider="MTN_MOMO_ZMB",
            )
        if payment is None:
            return None
        url = order.url or self._callback_url(payment.kind)
        if url is None:
            raise OrderError("No callback URL is set for this kind of payment; give a `url`.")
        if _authority(url) is None:
            raise OrderError("The `url` is not an absolute http or https URL.")
        return self._outgoing(payment, order.change(), url=url, method=order.method or "POST")

    def restart(self) -> None:
        for payments in self._payments.values():
            payments.forget()

    # Callbacks.

    def _callback_url(self, kind: Kind) -> str | None:
        """Set in the dashboard at pawaPay. One that is no URL is as good as none."""
        options = self._options.now
        urls: Mapping[Kind, str | None] = {
            "collection": options.deposit_callback_url,
            "payout": options.payout_callback_url,
            "refund": options.refund_callback_url,
        }
        url = urls[kind]
        return url if url is not None and _authority(url) is not None else None

    def _render(self, payment: Payment) -> Callable[[Change], Outgoing]:
        def render(change: Change) -> Outgoing:
            url = self._callback_url(payment.kind) or ""
            return self._outgoing(payment, change, url=url, method="POST", retry=True)

        return render

    def _outgoing(self, payment: Payment, change: Change, *, url: str, method: str, retry: bool = False) -> Outgoing:
        options = self._options.now
        body = garbled(msgspec.json.encode(_view(payment, change)), change.garbling)
        headers = {"Content-Type": CALLBACK_TYPE}
        signed = bool(change.signed) and options.callback_signatures != "off"
        if signed or change.signed == "wrong":
            key = self._stranger if change.signed == "wrong" else self._signing_key(options.signing_key)
            headers |= _signature(key, options, method, url, body)
        return Outgoing(
            method=method,
            url=url,
            headers=headers,
            body=body,
            signed=signed,
            retry_ms=options.callback_retry_ms if retry else (),
        )

    def _signing_key(self, number: int) -> ec.EllipticCurvePrivateKey:
        if number not in self._keys:
            self._keys[number] = ec.generate_private_key(ec.SECP256R1())
        return self._keys[number]


def _signature(
    key: ec.EllipticCurvePrivateKey, options: PawapayOptions, method: str, url: str, body: bytes
) -> dict[str, str]:
    """The headers of a signed callback. Written out by hand, so that it can prove a verifier that is a library."""
    now = datetime.now(UTC)
    created = int(now.timestamp())
    digest = hashlib.new(options.callback_digest.replace("-", ""), body).digest()
    values = {
        "@method": method,
        "@authority": _authority(url) or "",
        "@path": urlsplit(url).path or "/",
        "signature-date": now.isoformat().replace("+00:00", "Z"),
        "content-digest": f"{options.callback_digest}=:{base64.b64encode(digest).decode()}:",
        "content-type": CALLBACK_TYPE,
    }
    names = " ".join(f'"{name}"' for name in COVERED)
    parameters = (
        f"({names})"
        f';alg="ecdsa-p256-sha256";keyid="{_key_id(options.signing_key)}"'
        f";created={created};expires={created + SIGNATURE_LIFE_S}"
    )
    lines = [f'"{name}": {values[name]}' for name in COVERED] + [f'"@signature-params": {parameters}']
    signature = key.sign("\n".join(lines).encode(), ec.ECDSA(hashes.SHA256()))
    if options.callback_signatures != "der":
        r, s = decode_dss_signature(signature)
        signature = r.to_bytes(32, "big") + s.to_bytes(32, "big")
    return {
        "Content-Digest": values["content-digest"],
        "Signature-Date": values["signature-date"],
        "Signature-Input": f"sig-pp={parameters}",
        "Signature": f"sig-pp=:{base64.b64encode(signature).decode()}:",
    }


async def _no_such_operation(_: web.Request) -> web.Response:
    return web.Response(status=404)


def _by_number(payment: Payment, prompt_ms: int) -> list[Verdict]:
    block, digits = payment.msisdn[:-3], payment.msisdn[-3:]
    numbers = DEPOSIT_NUMBERS if payment.kind == "collection" else PAYOUT_NUMBERS
    word = numbers[BLOCKS[block]].get(digits) if block in BLOCKS else None
    if word == STUCK:
        return [Verdict(0, PROCESSING)]
    return [Verdict(prompt_ms, COMPLETED if word is None else FAILED, word)]


def _initiation(payment: Payment, status: str) -> dict[str, Any]:
    return {IDS[payment.kind]: payment.id, "status": status, "created": _time(payment.created_at)}


def _words(kind: Kind) -> Words:
    return COLLECTION_WORDS if kind == "collection" else OUTGOING_WORDS


def _initiated(payment: Payment, word: str | None) -> web.Response:
    """The answer to a request that was taken; it knows no word for one that is paid already."""
    if word == "failed":
        return _rejected(payment.kind, payment.id, _words(payment.kind).rejected[1] or "")
    status = ACCEPTED if word in (None, "paid", "pending") else word
    return json_answer(200, _initiation(payment, status))


def _view(payment: Payment, change: Change) -> dict[str, Any]:
    """The one shape of a status answer's `data` and of a callback."""
    status, reason = _words(payment.kind).told(change.status, payment.status, payment.reason)
    details: dict[str, Any] = {"provider": payment.provider}
    if (wallet := change.wallet(payment.msisdn)) is not None:
        details = {"phoneNumber": wallet, **details}
    reference = change.reference(payment.id)
    view: dict[str, Any] = {
        **({} if reference is None else {IDS[payment.kind]: reference}),
        "status": status,
        "amount": change.amount or payment.moved or payment.amount,
        "currency": change.currency or payment.currency,
        "country": COUNTRY,
        "payer" if payment.kind == "collection" else "recipient": {"type": "MMO", "accountDetails": details},
        "created": _time(payment.created_at),
    }
    if payment.message is not None:
        view["customerMessage"] = payment.message
    if status == COMPLETED:
        view["providerTransactionId"] = change.transaction_id or payment.transaction_id or FORGED_TRANSACTION
    if status == FAILED:
        view["failureReason"] = _reason(change.reason or reason or "UNSPECIFIED_FAILURE")
    return view


def _wrong_with(payment: Payment) -> str | None:
    if MSISDN.fullmatch(payment.msisdn) is None:
        return "INVALID_PHONE_NUMBER"
    if payment.provider not in BLOCKS.values():
        return "INVALID_PROVIDER"
    if payment.currency != CURRENCY:
        return "INVALID_CURRENCY"
    if AMOUNT.fullmatch(payment.amount) is None:
        return "INVALID_AMOUNT"
    if not 0 < _minor(payment.amount) <= _minor(MAX_AMOUNT):
        return "AMOUNT_OUT_OF_BOUNDS"
    return None


def _wrong_with_refund(refund: Payment, deposit: Payment, rest: int) -> str | None:
    if any(known.status not in FINAL for known in deposit.refunds):
        return "REFUND_IN_PROGRESS"
    if rest <= 0:
        return "DEPOSIT_ALREADY_REFUNDED"
    if (code := _wrong_with(refund)) is not None:
        return code
    if refund.currency != deposit.currency:
        return "INVALID_CURRENCY"
    return "AMOUNT_TOO_LARGE" if _minor(refund.amount) > rest else None


def _minor(amount: str) -> int:
    whole, _, fraction = amount.partition(".")
    return int(whole + fraction.ljust(2, "0"))


def _major(minor: int) -> str:
    return f"{minor // 100}.{minor % 100:02}"


def _id_of(new: Asked) -> str:
    match new:
        case NewDeposit():
            return new.deposit_id
        case NewPayout():
            return new.payout_id
        case NewRefund():
            return new.refund_id
        case _:
            assert_never(new)


def _wallet_of(new: NewDeposit | NewPayout) -> AccountDetails:
    return (new.payer if isinstance(new, NewDeposit) else new.recipient).account_details


def _checked(new: NewDeposit | NewPayout) -> Payment:
    """The payment that a well-formed body asks for. Raises Refused: the answer REJECTED."""
    wallet = _wallet_of(new)
    payment = Payment(
        kind="collection" if isinstance(new, NewDeposit) else "payout",
        id=_id_of(new).lower(),
        amount=new.amount,
        currency=new.currency,
        msisdn=wallet.phone_number,
        provider=wallet.provider,
        message=new.customer_message,
    )
    if (code := _wrong_with(payment)) is not None:
        raise Refused(_rejected(payment.kind, payment.id, code))
    return payment


def _uuid(given: str) -> str:
    if UUID_V4.fullmatch(given.lower()) is None:
        raise Refused(_failure(400, "INVALID_PARAMETER", "An id must be a UUID version 4."))
    return given.lower()


def _decoded(body: bytes, shape: type[S]) -> S:
    try:
        return msgspec.json.decode(body, type=shape)
    except RecursionError:
        raise Refused(_failure(400, "INVALID_INPUT", "The JSON is nested too deeply.")) from None
    except msgspec.ValidationError as error:
        told = str(error)
        code = "MISSING_PARAMETER" if "missing required" in told else "INVALID_PARAMETER"
        raise Refused(_failure(400, "UNSUPPORTED_PARAMETER" if "unknown field" in told else code, told)) from None
    except msgspec.DecodeError:
        raise Refused(_failure(400, "INVALID_INPUT", "The body is not JSON.")) from None


def _authority(url: str) -> str | None:
    """Host and port as a Host header has them; None where the URL is not an absolute one."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        return None
    if parts.scheme not in ("http", "https") or not host or not url.isascii() or len(url) > URL_MAX:
        return None
    host = f"[{host}]" if ":" in host else host
    return host if port in (None, {"http": 80, "https": 443}[parts.scheme]) else f"{host}:{port}"


def _key_id(number: int) -> str:
    return f"HTTP_EC_P256_KEY:{number}"


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _reason(code: str, message: str | None = None) -> dict[str, str]:
    return {"failureCode": code, "failureMessage": message or MESSAGES.get(code, code)}


def _rejected(kind: Kind, payment_id: str, code: str) -> web.Response:
    return json_answer(200, {IDS[kind]: payment_id, "status": "REJECTED", "failureReason": _reason(code)})


def _failure(status: int, code: str, message: str | None = None) -> web.Response:
    return json_answer(status, {"failureReason": _reason(code, message)})
