"""MTN MoMo's Collection and Disbursement APIs on the wire. What is known of it, and how well: docs/simulator.md."""

import base64
import binascii
import hashlib
import hmac
import re
import secrets
import time
import uuid
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from itertools import count
from typing import Annotated, Any, Final, Literal, TypeVar, assert_never, cast
from urllib.parse import urlsplit

import msgspec
from aiohttp import web
from aiohttp.typedefs import Handler
from msgspec import Meta

from kobiri.simulator import faults as f
from kobiri.simulator.answers import Refused, garbled, header_text, json_answer, peek, same
from kobiri.simulator.books import Kind
from kobiri.simulator.dialects import Dialect
from kobiri.simulator.prompts import Requests, Verdict, Words, faulted
from kobiri.simulator.stage import CallbackOrder, Change, Options, OrderError, Outgoing, Stage
from kobiri.simulator.wallets import Opening, holder, left

Product = Literal["collection", "disbursement"]
Call = Literal["requesttopay", "transfer", "deposit", "refund"]

# What each call is to the books, and to faults.
BOOKED: Final[Mapping[Call, Kind]] = {
    "requesttopay": "collection",
    "transfer": "payout",
    "deposit": "payout",
    "refund": "refund",
}
OPERATIONS: Final[Mapping[Call, str]] = {
    "requesttopay": "create",
    "transfer": "payout",
    "deposit": "payout",
    "refund": "refund",
}

MAX_API_USERS: Final = 10_000

CURRENCIES: Final[Mapping[str, frozenset[str]]] = {
    "sandbox": frozenset({"EUR"}),
    "mtnbenin": frozenset({"XOF"}),
    "mtncameroon": frozenset({"XAF"}),
    "mtncongo": frozenset({"XAF"}),
    "mtnghana": frozenset({"GHS"}),
    "mtnguineaconakry": frozenset({"GNF"}),
    "mtnivorycoast": frozenset({"XOF"}),
    "mtnliberia": frozenset({"LRD", "USD"}),
    "mtnnigeria": frozenset({"NGN"}),
    "mtnrwanda": frozenset({"RWF"}),
    "mtnsouthafrica": frozenset({"ZAR"}),
    "mtnsouthsudan": frozenset({"SSP"}),
    "mtnswaziland": frozenset({"SZL"}),
    "mtnuganda": frozenset({"UGX"}),
    "mtnzambia": frozenset({"ZMW"}),
}

MESSAGES: Final[Mapping[str, str]] = {
    "APPROVAL_REJECTED": "The payer declined the request.",
    "COULD_NOT_PERFORM_TRANSACTION": "The payer did not approve in time.",
    "EXPIRED": "The request expired before the payer answered.",
    "INTERNAL_PROCESSING_ERROR": "An internal error occurred while processing.",
    "INVALID_CALLBACK_URL_HOST": "The callback host is not the registered one.",
    "INVALID_CURRENCY": "Currency not supported.",
    "LOW_BALANCE_OR_PAYEE_LIMIT_REACHED_OR_NOT_ALLOWED": "Low balance, or the payee's limit is reached or not allowed.",
    "NOT_ALLOWED": "The operation is not allowed.",
    "NOT_ALLOWED_TARGET_ENVIRONMENT": "Access to target environment is forbidden.",
    "NOT_ENOUGH_FUNDS": "The payer does not have enough funds.",
    "PAYEE_NOT_FOUND": "The payee does not exist.",
    "PAYEE_NOT_ALLOWED_TO_RECEIVE": "The payee cannot receive this payment.",
    "PAYER_LIMIT_REACHED": "The payer's limit is reached.",
    "PAYER_NOT_FOUND": "The payer does not exist.",
    "RESOURCE_ALREADY_EXIST": "Duplicated reference id. Creation of resource failed.",
    "RESOURCE_NOT_FOUND": "Requested resource was not found.",
    "SERVICE_UNAVAILABLE": "Service temporarily unavailable, try again later.",
    "TRANSACTION_NOT_COMPLETED": "The transaction was not completed.",
    "TRANSACTION_NOT_FOUND": "The transaction was not found.",
}

# Test numbers by their last three digits: the reason with which a request to pay or a deposit fails.
FAILING_NUMBERS: Final[Mapping[str, str]] = {
    "450": "INTERNAL_PROCESSING_ERROR",
    "451": "APPROVAL_REJECTED",
    "452": "EXPIRED",
    "455": "PAYER_NOT_FOUND",
    "456": "PAYEE_NOT_ALLOWED_TO_RECEIVE",
    "457": "NOT_ALLOWED",
    "458": "NOT_ALLOWED_TARGET_ENVIRONMENT",
    "459": "INVALID_CALLBACK_URL_HOST",
    "460": "INVALID_CURRENCY",
    "461": "INTERNAL_PROCESSING_ERROR",
    "462": "SERVICE_UNAVAILABLE",
    "463": "COULD_NOT_PERFORM_TRANSACTION",
    "464": "TRANSFER_TYPE_UNKNOWN",
}
# The same for a transfer.
FAILING_TRANSFERS: Final[Mapping[str, str]] = {
    "450": "INTERNAL_PROCESSING_ERROR",
    "451": "APPROVAL_REJECTED",
    "452": "EXPIRED",
    "455": "NOT_ENOUGH_FUNDS",
    "456": "PAYER_LIMIT_REACHED",
    "457": "PAYEE_NOT_FOUND",
    "458": "NOT_ALLOWED",
    "459": "NOT_ALLOWED_TARGET_ENVIRONMENT",
    "460": "INVALID_CALLBACK_URL_HOST",
    "461": "INVALID_CURRENCY",
    "462": "INTERNAL_PROCESSING_ERROR",
    "463": "SERVICE_UNAVAILABLE",
    "464": "TRANSFER_TYPE_UNKNOWN",
}
# And with what the questions about a wallet are refused: whether it is active, and whose it is.
REFUSED_HOLDERS: Final[Mapping[str, tuple[int, str]]] = {
    "450": (404, "RESOURCE_NOT_FOUND"),
    "452": (500, "NOT_ALLOWED"),
    "453": (500, "NOT_ALLOWED_TARGET_ENVIRONMENT"),
    "454": (500, "INTERNAL_PROCESSING_ERROR"),
    "455": (503, "SERVICE_UNAVAILABLE"),
}
INACTIVE_HOLDER: Final = "451"
NAMELESS_HOLDER: Final = "456"
# MTN has no number for these; only the Zambian block knows them.
OWN_FAILING_NUMBERS: Final[Mapping[str, str]] = {
    "465": "NOT_ENOUGH_FUNDS",
    "466": "PAYER_LIMIT_REACHED",
    "467": "LOW_BALANCE_OR_PAYEE_LIMIT_REACHED_OR_NOT_ALLOWED",
    "468": "TRANSACTION_NOT_COMPLETED",
    "469": "TRANSACTION_NOT_FOUND",
}
SANDBOX_BLOCK: Final = "46733123"
ZAMBIAN_BLOCK: Final = "260960000"

UUID_V4: Final = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
AMOUNT: Final = re.compile(r"[0-9]{1,15}(\.[0-9]{1,4})?")
MSISDN: Final = re.compile(r"[0-9]{6,15}")
HOST: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?")
URL_MAX: Final = 2048
NOTE_MAX: Final = 160
NOTE_PUNCTUATION: Final = frozenset(" .,-_:/()+")

CALLBACK_AGENT: Final = "LWAC Http Client 1.0"
FORGED_TRANSACTION: Final = "1000000000"
WRONG_SECRET: Final = b"not the secret that was agreed"

KEY_MISSING: Final = (
    "Access denied due to missing subscription key. "
    "Make sure to include subscription key when making requests to an API."
)
KEY_WRONG: Final = (
    "Access denied due to invalid subscription key. Make sure to provide a valid key for an active subscription."
)
LENGTH_REQUIRED: Final = (
    '<!DOCTYPE HTML PUBLIC "-//W3C//DTD HTML 4.01//EN" "http://www.w3.org/TR/html4/strict.dtd">'
    "<HTML><HEAD><TITLE>Length Required</TITLE></HEAD>"
    "<BODY><h2>Length Required</h2><hr>"
    "<p>HTTP Error 411. The request must be chunked or have a content length.</p></BODY></HTML>"
)

PENDING, CREATED, SUCCESSFUL, FAILED = "PENDING", "CREATED", "SUCCESSFUL", "FAILED"

WORDS: Final = Words(
    paid=(SUCCESSFUL, None),
    rejected=(FAILED, "APPROVAL_REJECTED"),
    expired=(FAILED, "EXPIRED"),
    no_funds=(FAILED, "LOW_BALANCE_OR_PAYEE_LIMIT_REACHED_OR_NOT_ALLOWED"),  # the word that is seen most
    broken=(FAILED, "INTERNAL_PROCESSING_ERROR"),
    pending=PENDING,
)

# An account that this simulator takes as it stands; demos and tests use it.
ACCOUNT_VALUES: Final[Mapping[str, str]] = {
    "target_environment": "mtnzambia",
    "collection_api_user": "8c5f5a5e-0000-4000-8000-000000000001",
    "collection_api_key": "simulated-api-key-0123456789",
    "collection_subscription_key": "simulated-subscription-key",
    "disbursement_api_user": "8c5f5a5e-0000-4000-8000-000000000002",
    "disbursement_api_key": "simulated-disbursement-key-0123456789",
    "disbursement_subscription_key": "simulated-disbursement-subscription-key",
    "payout_call": "transfer",
}
# Options under which it refuses that account.
REFUSING: Final[Mapping[str, object]] = {"open_credentials": False}
# Account values with which callbacks must be signed: MTN signs none.
SIGNED_VALUES: Final[Mapping[str, str]] = {}

# How MTN may behave: the usual way, the other side of each dispute, and the strangest that can hold together.
DIALECTS: Final[Mapping[str, Dialect]] = {
    "usual": Dialect(),
    "no body with the question for a token": Dialect({"body_on_token": "refused"}),
    "a wrong login is 500": Dialect({"login_error": "500"}),
    "a reason is an object": Dialect({"reason_as": "object"}),
    "callbacks by PUT": Dialect({"callback_method": "PUT"}),
    "refunds of what was paid": Dialect({"refund_check": "paid"}),
    "refunds together no more than what was paid": Dialect({"refund_check": "sum"}),
    "deposits": Dialect(values={"payout_call": "deposit"}),
    "strangest": Dialect(
        {
            "body_on_token": "refused",
            "login_error": "500",
            "reason_as": "object",
            "callback_method": "PUT",
            "callback_retry_ms": [300],
            "refund_check": "sum",
        },
        {"payout_call": "deposit"},
    ),
}


def callbacks_to(_url: str) -> Mapping[str, object]:
    """Options with which it posts outcomes there: none, for each request names the URL."""
    return {}


S = TypeVar("S", bound=msgspec.Struct)

Milliseconds = Annotated[int, Meta(ge=0, le=86_400_000)]


class MtnOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How this MTN behaves; where the sources disagree, both behaviours can be chosen."""

    api_user: str | None = None
    api_key: str | None = None
    open_credentials: bool = True
    # Accepted keys per product; a product that is not named accepts any.
    subscription_keys: dict[Product, tuple[str, ...]] = {}
    token_ttl_s: Annotated[int, Meta(ge=1, le=86_400)] = 3600
    body_on_token: Literal["accepted", "refused"] = "accepted"  # noqa: S105
    login_error: Literal["401", "500"] = "401"
    test_numbers: Literal["documented", "observed"] = "documented"
    prompt_ms: Milliseconds = 400
    slow_ms: Milliseconds = 45_000
    reason_as: Literal["string", "object"] = "string"
    callback_method: Literal["POST", "PUT"] = "POST"
    callback_retry_ms: Annotated[tuple[Milliseconds, ...], Meta(max_length=50)] = ()
    check_callback_host: bool = True
    # When a refund fails: its collection is not paid, nothing is left of it, or less is left than is asked.
    refund_check: Literal["paid", "left", "sum"] = "left"
    available_balance: Opening = "1000"
    webhook_secret: str | None = None


class Party(msgspec.Struct, frozen=True):
    partyIdType: Literal["MSISDN", "EMAIL", "PARTY_CODE"]  # noqa: N815
    partyId: Annotated[str, Meta(min_length=1, max_length=100)]  # noqa: N815


class Ask(msgspec.Struct, frozen=True, kw_only=True):
    """What every call has. MTN's names, so that the body is decoded as it stands."""

    amount: str
    currency: Annotated[str, Meta(pattern="^[A-Z]{3}$")]
    externalId: Annotated[str, Meta(max_length=255)] | None = None  # noqa: N815
    payerMessage: str | None = None  # noqa: N815
    payeeNote: str | None = None  # noqa: N815


class RequestToPay(Ask, frozen=True, kw_only=True):
    payer: Party


class Transfer(Ask, frozen=True, kw_only=True):
    """A deposit has the same body."""

    payee: Party


class Refund(Ask, frozen=True, kw_only=True):
    referenceIdToRefund: Annotated[str, Meta(min_length=1, max_length=100)]  # noqa: N815


class NewApiUser(msgspec.Struct, frozen=True):
    providerCallbackHost: str  # noqa: N815


class TokenClaims(msgspec.Struct, frozen=True):
    clientId: str  # noqa: N815
    expires: float
    sessionId: str  # noqa: N815
    product: str


@dataclass(slots=True)
class ApiUser:
    """`callback_host` is None where nobody registered one, and then any host will do."""

    callback_host: str | None
    key: str | None = None


@dataclass(slots=True)
class Payment:
    """One movement, by any call. `party` is the other side: None for a refund of a collection that nobody knows."""

    reference: str
    call: Call
    ask: Ask
    party: Party | None
    callback_url: str | None
    created_at: float
    status: str = PENDING
    reason: str | None = None
    financial_transaction_id: str | None = None
    moved: str | None = None
    refunded: Decimal = Decimal(0)

    @property
    def msisdn(self) -> str | None:
        return None if self.party is None else self.party.partyId


def build(stage: Stage) -> web.Application:
    return MtnSimulator(stage).application()


class MtnSimulator:
    """One MTN, with its API users, tokens and payments in memory."""

    error_shapes = frozenset({"momo", "azure", "error", "html", "empty"})

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._options: Options[MtnOptions] = stage.options(MtnOptions)
        self._users: OrderedDict[str, ApiUser] = OrderedDict()
        self._payments = Requests(stage.settings.max_payments, self._settle)
        self._token_key = secrets.token_bytes(32)
        self._transactions = count(1_000_000_000 + secrets.randbelow(1_000_000_000))
        stage.actor = self

    def application(self) -> web.Application:
        app = web.Application(middlewares=[_no_extra_slashes])
        app.add_routes(
            [
                web.post("/v1_0/apiuser", self._create_api_user),
                web.get("/v1_0/apiuser/{id}", self._show_api_user),
                web.post("/v1_0/apiuser/{id}/apikey", self._create_api_key),
                web.post("/{product:collection|disbursement}/token/", self._token),
                web.post("/{product:collection}/v1_0/{call:requesttopay}", self._create),
                web.post("/{product:disbursement}/v1_0/{call:transfer|deposit|refund}", self._create),
                web.post("/{product:disbursement}/v2_0/{call:deposit|refund}", self._create),
                web.get("/{product:collection}/v1_0/{call:requesttopay}/{reference}", self._status),
                web.get("/{product:disbursement}/v1_0/{call:transfer|deposit|refund}/{reference}", self._status),
                web.get("/{product:collection|disbursement}/v1_0/account/balance", self._balance),
                web.get("/{product:collection|disbursement}/v1_0/account/balance/{currency}", self._balance),
                web.get("/{product:collection|disbursement}/v1_0/accountholder/{type}/{id}/active", self._active),
                web.get(
                    "/{product:collection|disbursement}/v1_0/accountholder/{type:(?i:msisdn)}/{id}/basicuserinfo",
                    self._user_info,
                ),
                web.route("*", "/{rest:.*}", _no_such_operation),
            ]
        )
        return app

    # Provisioning: only the sandbox has it.

    async def _create_api_user(self, request: web.Request) -> web.Response:
        async def process() -> web.Response:
            self._check_subscription(request, None)
            reference = _reference(request)
            new = _decoded(await request.read(), NewApiUser)
            if HOST.fullmatch(new.providerCallbackHost) is None:
                raise Refused(_bad_request("providerCallbackHost is a host name, without scheme or path"))
            if reference in self._users or reference == (self._options.now.api_user or "").lower():
                raise Refused(_momo(409, "RESOURCE_ALREADY_EXIST"))
            self._users[reference] = ApiUser(callback_host=new.providerCallbackHost.lower())
            if len(self._users) > MAX_API_USERS:
                self._users.popitem(last=False)
            return web.Response(status=201)

        return await self._play(request, "provision", request.headers.get("X-Reference-Id"), None, process)

    async def _show_api_user(self, request: web.Request) -> web.Response:
        async def process() -> web.Response:
            self._check_subscription(request, None)
            user = self._known_user(request.match_info["id"])
            host = user.callback_host or "localhost"
            return json_answer(200, {"providerCallbackHost": host, "targetEnvironment": "sandbox"})

        return await self._play(request, "provision", request.match_info["id"], None, process)

    async def _create_api_key(self, request: web.Request) -> web.Response:
        async def process() -> web.Response:
            if request.content_length is None and "Transfer-Encoding" not in request.headers:
                return web.Response(status=411, text=LENGTH_REQUIRED, content_type="text/html")
            self._check_subscription(request, None)
            user = self._known_user(request.match_info["id"])
            user.key = secrets.token_hex(16)
            return json_answer(201, {"apiKey": user.key})

        return await self._play(request, "provision", request.match_info["id"], None, process)

    def _known_user(self, user_id: str) -> ApiUser:
        if (user := self._users.get(user_id.lower())) is None:
            raise Refused(_momo(404, "RESOURCE_NOT_FOUND"))
        return user

    # Tokens.

    async def _token(self, request: web.Request) -> web.Response:
        product = _product(request)

        async def process() -> web.Response:
            self._check_subscription(request, product)
            options = self._options.now
            if options.body_on_token == "refused" and await request.read():  # noqa: S105
                raise Refused(_bad_request("this call takes no body"))
            user = self._logged_in(request.headers.get("Authorization", ""))
            token = self._mint(user, product, options.token_ttl_s)
            return json_answer(
                200,
                {"access_token": token, "token_type": "access_token", "expires_in": options.token_ttl_s},
            )

        return await self._play(request, "token", None, None, process)

    def _logged_in(self, authorization: str) -> str:
        user_id, key = _basic(authorization)
        options = self._options.now
        if user_id and key:
            if options.api_user is not None and user_id == options.api_user.lower():
                good = options.api_key is not None and same(key, options.api_key)
            elif (user := self._users.get(user_id)) is not None:
                good = user.key is not None and same(key, user.key)
            else:
                good = options.open_credentials
            if good:
                return user_id
        if options.login_error == "500":
            raise Refused(json_answer(500, {"error": "login_failed"}))
        raise Refused(json_answer(401, {"error": "invalid_client"}))

    def _mint(self, user: str, product: str, ttl_s: int) -> str:
        claims = TokenClaims(clientId=user, expires=time.time() + ttl_s, sessionId=str(uuid.uuid4()), product=product)
        head = _base64url(b'{"typ":"JWT","alg":"HS256"}')
        signed = f"{head}.{_base64url(msgspec.json.encode(claims))}"
        return f"{signed}.{_base64url(self._seal(signed))}"

    def _seal(self, signed: str) -> bytes:
        return hmac.new(self._token_key, signed.encode(), hashlib.sha256).digest()

    def _bearer(self, request: web.Request, product: str) -> str:
        """The API user behind the token."""
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        signed, _, seal = token.strip().rpartition(".")
        if scheme.lower() == "bearer" and token.isascii() and same(seal, _base64url(self._seal(signed))):
            claims = msgspec.json.decode(_from_base64url(signed.split(".")[1]), type=TokenClaims)
            if claims.product == product and claims.expires > time.time():
                return claims.clientId
        raise Refused(_azure(401, "Unauthorized. Access token is missing, invalid or expired."))

    # Requests to pay, transfers, deposits, refunds.

    async def _create(self, request: web.Request) -> web.Response:
        call = _call(request)
        reference = request.headers.get("X-Reference-Id")
        body = await request.read()
        party = self._party_in(body, call)
        msisdn = party.partyId if party else None

        async def process() -> web.Response:
            user, environment = self._admitted(request, _product(request))
            payment = self._new_payment(request, body, user, environment)
            self._accept(payment)
            if (
                self._stage.faults.word(self._stage.cue(OPERATIONS[call], reference=reference, msisdn=msisdn))
                == "failed"
            ):
                return _momo(500, "PAYER_NOT_FOUND")
            return web.Response(status=202)

        return await self._play(request, OPERATIONS[call], reference, msisdn, process)

    def _admitted(self, request: web.Request, product: Product) -> tuple[str, str]:
        """The API user and the target environment of a call that carries a token."""
        self._check_subscription(request, product)
        user = self._bearer(request, product)
        environment = request.headers.get("X-Target-Environment", "").strip().lower()
        if not environment:
            raise Refused(_bad_request("X-Target-Environment is missing"))
        if environment not in CURRENCIES:
            raise Refused(_momo(500, "NOT_ALLOWED_TARGET_ENVIRONMENT"))
        return user, environment

    def _new_payment(self, request: web.Request, body: bytes, user: str, environment: str) -> Payment:
        call, reference = _call(request), _reference(request)
        if (known := self._payments.get(reference)) is not None:
            cue = self._stage.cue(OPERATIONS[call], reference=reference, msisdn=known.msisdn)
            if self._stage.faults.take(cue, f.NoDedupe) is None:
                raise Refused(_momo(409, "RESOURCE_ALREADY_EXIST"))
        if request.content_type != "application/json":
            raise Refused(_bad_request("Content-Type must be application/json"))
        ask = _decoded(body, _shape(call))
        party = self._party(ask)
        if (wrong := _wrong_with(ask, party)) is not None:
            raise Refused(_bad_request(wrong))
        callback_url = self._callback_url(request, user)
        if ask.currency not in CURRENCIES[environment]:
            raise Refused(_momo(500, "INVALID_CURRENCY"))
        return Payment(reference, call, ask, party, callback_url, created_at=time.time())

    def _party(self, ask: Ask) -> Party | None:
        """The wallet that pays or is paid: for a refund that of its collection's payer."""
        match ask:
            case RequestToPay():
                return ask.payer
            case Transfer():
                return ask.payee
            case Refund():
                collection = self._collection(ask)
                return None if collection is None else collection.party
            case _:
                raise AssertionError(ask)

    def _party_in(self, body: bytes, call: Call) -> Party | None:
        """The wallet that faults may be aimed at, in a body that nobody has checked yet."""
        ask = peek(body, _shape(call))
        return None if ask is None else self._party(ask)

    def _collection(self, refund: Refund) -> Payment | None:
        known = self._payments.get(refund.referenceIdToRefund.lower())
        return known if known is not None and known.call == "requesttopay" else None

    def _callback_url(self, request: web.Request, user: str) -> str | None:
        given = request.headers.get("X-Callback-Url")
        if given is None:
            return None
        if (host := _url_host(given)) is None:
            raise Refused(_bad_request("X-Callback-Url must be an absolute URL, or not sent at all"))
        known = self._users.get(user)
        registered = known.callback_host if known is not None else None
        if self._options.now.check_callback_host and registered not in (None, host):
            raise Refused(_momo(500, "INVALID_CALLBACK_URL_HOST"))
        return given

    def _accept(self, payment: Payment) -> None:
        cue = self._stage.cue(OPERATIONS[payment.call], reference=payment.reference, msisdn=payment.msisdn)
        self._payments.add(payment.reference, payment, self._verdicts(payment, cue))
        if payment.callback_url is not None:
            callback = self._stage.cue("callback", reference=cue.reference, msisdn=cue.msisdn)
            self._stage.forge_if_told(callback, self._render(payment), status=SUCCESSFUL)

    def _verdicts(self, payment: Payment, cue: f.Cue) -> list[Verdict]:
        """What will happen to a payment: its faults first, then its test number, and success otherwise."""
        options = self._options.now
        told = faulted(self._stage.faults, cue, options.prompt_ms, WORDS)
        return _by_number(payment, options) if told is None else told

    def _settle(self, payment: Payment, verdict: Verdict) -> None:
        payment.status, payment.reason = verdict.status, verdict.reason
        if verdict.status == SUCCESSFUL:
            self._move(payment)
        if payment.callback_url is not None and payment.status in (SUCCESSFUL, FAILED):
            cue = self._stage.cue("callback", reference=payment.reference, msisdn=payment.msisdn)
            self._stage.announce(cue, self._render(payment), stale_status=PENDING)

    def _move(self, payment: Payment) -> None:
        """Move the money, unless it is a refund that cannot be: only now is it known what is left of the collection."""
        ask = payment.ask
        if isinstance(ask, Refund) and (reason := self._refund(ask)) is not None:
            payment.status, payment.reason = FAILED, reason
            return
        payment.financial_transaction_id = str(next(self._transactions))
        payment.moved = self._stage.charge(
            self._stage.cue(OPERATIONS[payment.call], reference=payment.reference, msisdn=payment.msisdn),
            amount=ask.amount,
            currency=ask.currency,
            msisdn=payment.msisdn or "",
            kind=BOOKED[payment.call],
        )

    def _refund(self, ask: Refund) -> str | None:
        """Take a refund from its collection, or say why that cannot be."""
        collection = self._collection(ask)
        if collection is None:
            return "RESOURCE_NOT_FOUND"
        check = self._options.now.refund_check
        left = Decimal(collection.ask.amount) - collection.refunded
        too_much = (check == "left" and left <= 0) or (check == "sum" and Decimal(ask.amount) > left)
        if collection.status != SUCCESSFUL or too_much or ask.currency != collection.ask.currency:
            return "NOT_ALLOWED"
        collection.refunded += Decimal(ask.amount)
        return None

    async def _status(self, request: web.Request) -> web.Response:
        call, reference = _call(request), request.match_info["reference"].lower()
        payment = self._payments.get(reference)
        msisdn = payment.msisdn if payment is not None else None
        cue = self._stage.cue("status", reference=reference, msisdn=msisdn)

        async def process() -> web.Response:
            self._admitted(request, _product(request))
            if UUID_V4.fullmatch(reference) is None:
                raise Refused(_bad_request("the reference is not a UUID v4"))
            # Looked up again: a fault may have held this request up for a while.
            payment = self._payments.get(reference)
            if payment is None or payment.call != call or self._hidden(payment, cue):
                raise Refused(_momo(404, "RESOURCE_NOT_FOUND"))
            return json_answer(200, _view(payment, self._stage.altered(cue), self._options.now.reason_as))

        return await self._play(request, "status", reference, msisdn, process)

    async def _balance(self, request: web.Request) -> web.Response:
        async def process() -> web.Response:
            _, environment = self._admitted(request, _product(request))
            currencies = CURRENCIES[environment]
            currency = request.match_info.get("currency", min(currencies)).upper()
            if currency not in currencies:
                raise Refused(_momo(500, "INVALID_CURRENCY"))
            return json_answer(200, {"availableBalance": self._left(request, currency), "currency": currency})

        return await self._play(request, "check", None, None, process)

    def _left(self, request: web.Request, currency: str) -> str:
        """Each product has its own account: what is collected comes into one, what goes out leaves the other."""
        opening, books = self._options.now.available_balance, self._stage.books
        if _product(request) == "collection":
            return left(opening, came=[books.moved(self._stage.provider, "collection", currency)])
        return left(
            opening, came=(), went=[books.moved(self._stage.provider, kind, currency) for kind in ("payout", "refund")]
        )

    async def _active(self, request: web.Request) -> web.Response:
        return await self._about_holder(request, lambda digits: {"result": digits != INACTIVE_HOLDER})

    async def _user_info(self, request: web.Request) -> web.Response:
        def told(digits: str) -> dict[str, Any]:
            status = {"status": "INACTIVE" if digits == INACTIVE_HOLDER else "ACTIVE"}
            if digits == NAMELESS_HOLDER:
                return {"sub": "0", **status}
            given, family = holder(request.match_info["id"])
            named = {"sub": "0", "name": f"{given} {family}", "given_name": given, "family_name": family}
            return {**named, "birthdate": "1976-08-13", "locale": "en_ZM", "gender": "FEMALE", **status}

        return await self._about_holder(request, told)

    async def _about_holder(self, request: web.Request, told: Callable[[str], dict[str, Any]]) -> web.Response:
        """What `told` makes of a test number's last three digits, or of none."""
        wallet = request.match_info["id"]

        async def process() -> web.Response:
            self._admitted(request, _product(request))
            if request.match_info["type"].lower() not in ("msisdn", "email", "party_code"):
                raise Refused(_bad_request("accountHolderIdType is msisdn, email or party_code"))
            digits = wallet[-3:] if wallet[:-3] in (SANDBOX_BLOCK, ZAMBIAN_BLOCK) else ""
            if (refused := REFUSED_HOLDERS.get(digits)) is not None:
                raise Refused(_momo(*refused))
            return json_answer(200, told(digits))

        return await self._play(request, "check", None, wallet, process)

    def _hidden(self, payment: Payment, cue: f.Cue) -> bool:
        fault = self._stage.faults.take(cue, f.NotFoundFor)
        return fault is not None and time.time() - payment.created_at < fault.ms / 1000

    # What the stage and the control API ask of a provider.

    def error(self, fault: f.ErrorAnswer) -> web.Response:
        code = fault.code or "INTERNAL_PROCESSING_ERROR"
        match fault.shape:
            case "azure":
                return _azure(fault.status, fault.message or "Internal server error")
            case "error":
                return json_answer(fault.status, {"error": fault.code or "internal_error"})
            case "html":
                page = f"<html><body><h1>{fault.status}</h1></body></html>"
                return web.Response(status=fault.status, text=page, content_type="text/html")
            case "empty":
                return web.Response(status=fault.status)
            case _:
                return _momo(fault.status, code, fault.message)

    def callback(self, order: CallbackOrder) -> Outgoing | None:
        payment = self._payments.get(order.reference.lower())
        if payment is None and order.url is not None:
            party = Party(partyIdType="MSISDN", partyId=order.payer or "46733123499")
            ask = RequestToPay(
                amount=order.amount or "1",
                currency=order.currency or "EUR",
                payer=party,
                externalId=order.external_id or order.reference,
            )
            payment = Payment(order.reference, "requesttopay", ask, party, order.url, created_at=time.time())
        if payment is None:
            return None
        url = order.url or payment.callback_url
        if url is None:
            raise OrderError("This payment was created without X-Callback-Url; give a `url`.")
        if _url_host(url) is None:
            raise OrderError("The `url` is not an absolute http or https URL.")
        return self._outgoing(payment, order.change(), url=url, method=order.method)

    def restart(self) -> None:
        self._payments.forget()

    # Callbacks.

    def _render(self, payment: Payment) -> Callable[[Change], Outgoing]:
        return lambda change: self._outgoing(payment, change, url=payment.callback_url or "", method=None, retry=True)

    def _outgoing(
        self, payment: Payment, change: Change, *, url: str, method: str | None, retry: bool = False
    ) -> Outgoing:
        options = self._options.now
        body = garbled(msgspec.json.encode(_view(payment, change, options.reason_as)), change.garbling)
        headers = {"User-Agent": CALLBACK_AGENT, "Content-Type": "application/json; charset=utf-8"}
        secret = options.webhook_secret.encode() if options.webhook_secret is not None else None
        if change.signed == "wrong":
            secret = WRONG_SECRET
        elif not change.signed:
            secret = None
        if secret is not None:
            headers["X-Signature-256"] = f"sha256={hmac.new(secret, body, hashlib.sha256).hexdigest()}"
        return Outgoing(
            method=method or options.callback_method,
            url=url,
            headers=headers,
            body=body,
            signed=secret is not None,
            retry_ms=options.callback_retry_ms if retry else (),
        )

    # Shared by all operations.

    async def _play(
        self,
        request: web.Request,
        operation: str,
        reference: str | None,
        msisdn: str | None,
        process: Callable[[], Awaitable[web.Response]],
    ) -> web.Response:
        product = request.match_info.get("product")
        cue = self._stage.cue(operation, reference=reference, msisdn=msisdn, product=product)
        return await self._stage.play(request, cue, process)

    def _check_subscription(self, request: web.Request, product: Product | None) -> None:
        """Without a product (provisioning) the key of any product will do."""
        given = request.headers.get("Ocp-Apim-Subscription-Key", "")
        if not given:
            raise Refused(_azure(401, KEY_MISSING))
        accepted = self._options.now.subscription_keys
        if product is None:
            lists = list(accepted.values())
        else:
            lists = [keys for name, keys in accepted.items() if name == product]
        if lists and not any(same(given, key) for keys in lists for key in keys):
            raise Refused(_azure(401, KEY_WRONG))


@web.middleware
async def _no_extra_slashes(request: web.Request, handler: Handler) -> web.StreamResponse:
    if "//" in request.raw_path.partition("?")[0]:
        return _bad_request("extra slashes in the path")
    return await handler(request)


async def _no_such_operation(_: web.Request) -> web.Response:
    return _azure(404, "Resource not found")


def _by_number(payment: Payment, options: MtnOptions) -> list[Verdict]:
    """What the test number says. A refund has none: its wallet has paid once already."""
    number = payment.msisdn or ""
    digits = number[-3:]
    sandbox, zambian = number == SANDBOX_BLOCK + digits, number == ZAMBIAN_BLOCK + digits
    if payment.call == "refund" or not (sandbox or zambian):
        return [Verdict(options.prompt_ms, SUCCESSFUL)]
    failing = FAILING_TRANSFERS if payment.call == "transfer" else FAILING_NUMBERS
    # What was seen differs from what is documented for requests to pay alone; of deposits nobody has told.
    observed = options.test_numbers == "observed" and payment.call == "requesttopay"
    match digits:
        case "453":
            return [Verdict(options.slow_ms, FAILED, "EXPIRED")] if observed else []
        case "454":
            return [Verdict(0, CREATED) if observed else Verdict(options.slow_ms, SUCCESSFUL)]
        case "464" if payment.call == "deposit":
            reason = None
        case _:
            reason = failing.get(digits) or (OWN_FAILING_NUMBERS.get(digits) if zambian else None)
    return [Verdict(options.prompt_ms, SUCCESSFUL if reason is None else FAILED, reason)]


def _view(payment: Payment, change: Change, reason_as: str) -> dict[str, Any]:
    """The one body shape of a status answer and of a callback. It never holds the reference."""
    ask, party = payment.ask, payment.party
    status, reason = WORDS.told(change.status, payment.status, payment.reason)
    view: dict[str, Any] = {}
    if status == SUCCESSFUL and payment.call != "deposit":
        true = payment.financial_transaction_id or FORGED_TRANSACTION
        view["financialTransactionId"] = change.transaction_id or true
    if (external_id := change.reference(ask.externalId)) is not None:
        view["externalId"] = external_id
    view["amount"] = change.amount or payment.moved or ask.amount
    view["currency"] = change.currency or ask.currency
    if party is not None and (wallet := change.wallet(party.partyId)) is not None:
        side = "payer" if payment.call == "requesttopay" else "payee"
        view[side] = {"partyIdType": party.partyIdType, "partyId": wallet}
    if ask.payerMessage is not None:
        view["payerMessage"] = ask.payerMessage
    if ask.payeeNote is not None:
        view["payeeNote"] = ask.payeeNote
    view["status"] = status
    if status == FAILED:
        code = change.reason or reason or "INTERNAL_PROCESSING_ERROR"
        as_object = {"code": code, "message": MESSAGES.get(code, code)}
        view["reason"] = as_object if reason_as == "object" else code
    return view


def _wrong_with(ask: Ask, party: Party | None) -> str | None:
    if AMOUNT.fullmatch(ask.amount) is None or not ask.amount.strip("0."):
        return "amount is a string of decimal digits, above zero"
    if party is not None and party.partyIdType == "MSISDN" and MSISDN.fullmatch(party.partyId) is None:
        return "an MSISDN is digits with the country code and no plus sign"
    for name, note in (("payerMessage", ask.payerMessage), ("payeeNote", ask.payeeNote)):
        if note is None:
            continue
        if len(note) > NOTE_MAX:
            return f"{name} is longer than {NOTE_MAX} characters"
        if not all(character.isalnum() or character in NOTE_PUNCTUATION for character in note):
            return f"{name} has special characters"
    return None


def _shape(call: Call) -> type[RequestToPay | Transfer | Refund]:
    match call:
        case "requesttopay":
            return RequestToPay
        case "transfer" | "deposit":
            return Transfer
        case "refund":
            return Refund
        case _:
            assert_never(call)


def _call(request: web.Request) -> Call:
    return cast(Call, request.match_info["call"])  # the route takes no other word


def _product(request: web.Request) -> Product:
    return cast(Product, request.match_info["product"])  # as above


def _decoded(body: bytes, shape: type[S]) -> S:
    try:
        return msgspec.json.decode(body, type=shape)
    except RecursionError:
        raise Refused(_bad_request("the JSON is nested too deeply")) from None
    except msgspec.DecodeError as error:
        raise Refused(_bad_request(str(error))) from None


def _reference(request: web.Request) -> str:
    reference = request.headers.get("X-Reference-Id", "").lower()
    if UUID_V4.fullmatch(reference) is None:
        raise Refused(_bad_request("X-Reference-Id is not a UUID v4"))
    return reference


def _url_host(url: str) -> str | None:
    try:
        parts = urlsplit(url)
        host = parts.hostname
    except ValueError:
        return None
    if parts.scheme not in ("http", "https") or not url.isascii() or len(url) > URL_MAX:
        return None
    return host


def _basic(authorization: str) -> tuple[str, str]:
    scheme, _, encoded = authorization.partition(" ")
    if scheme.lower() != "basic":
        return "", ""
    try:
        user, _, key = base64.b64decode(encoded.strip(), validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError, ValueError):
        return "", ""
    return user.lower()[:200], key


def _base64url(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def _from_base64url(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def _momo(status: int, code: str, message: str | None = None) -> web.Response:
    return json_answer(status, {"message": message or MESSAGES.get(code, code), "code": code})


def _azure(status: int, message: str) -> web.Response:
    return json_answer(status, {"statusCode": status, "message": message})


def _bad_request(why: str) -> web.Response:
    """MTN answers these with an empty body; the header is ours and says what was wrong."""
    return web.Response(status=400, headers={"X-Simulator-Reason": header_text(why)})
