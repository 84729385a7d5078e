"""Airtel Money's Open API on the wire. What is known of it, and how well: docs/simulator.md."""

import base64
import binascii
import hashlib
import hmac
import json
import re
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import cache
from itertools import count
from typing import Annotated, Any, Final, Literal, TypeVar
from urllib.parse import urlsplit

import msgspec
from aiohttp import web
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.padding import PKCS7
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from msgspec import Meta

from kobiri.simulator import faults as f
from kobiri.simulator.answers import Refused, garbled, json_answer, peek, same
from kobiri.simulator.books import Kind as Booked
from kobiri.simulator.dialects import Dialect
from kobiri.simulator.prompts import Requests, Verdict, Words, faulted
from kobiri.simulator.stage import CallbackOrder, Change, Options, OrderError, Outgoing, Stage
from kobiri.simulator.wallets import Opening, holder, left

MAX_TOKENS: Final = 100_000
COUNTRY, CURRENCY, CALLING_CODE = "ZM", "ZMW", "260"

# Paid, failed, ambiguous, in progress, expired.
TS, TF, TA, TIP, TE = "TS", "TF", "TA", "TIP", "TE"
FINAL: Final = frozenset({TS, TF, TE})

Kind = Literal["collection", "payout"]
OPERATIONS: Final[Mapping[Kind, str]] = {"collection": "create", "payout": "payout"}
PRODUCTS: Final[Mapping[Kind, str]] = {"collection": "collection", "payout": "disbursement"}
SERIES: Final[Mapping[Kind, str]] = {"collection": "DP0080000", "payout": "DP0090000"}

# The second numbering of a collection's codes, as far as anybody saw it: in callbacks, and in enquiries.
SHORT_IN_CALLBACKS: Final[Mapping[str, str]] = {
    "DP00800001001": "DP008001001",
    "DP00800001002": "DP008001023",
    "DP00800001004": "DP008001013",
    "DP00800001007": "DP008001021",
    "DP00800001010": "DP008001016",
}
SHORT_IN_ENQUIRIES: Final[Mapping[str, str]] = {"DP00800001002": "DP008001013", "DP00800001004": "DP008001013"}

MESSAGES: Final[Mapping[str, str]] = {
    "DP00800001000": "The transaction is in an ambiguous state.",
    "DP00800001002": "Incorrect PIN.",
    "DP00800001003": "The payer's limit is exceeded.",
    "DP00800001004": "The amount is below the minimum.",
    "DP00800001005": "The payer did not enter the PIN.",
    "DP00800001007": "Not enough balance.",
    "DP00800001008": "The transaction was refused.",
    "DP00800001009": "Do not honour.",
    "DP00800001010": "Transaction not permitted to payee.",
    "DP00800001024": "The transaction timed out.",
    "DP00800001029": "The transaction has expired.",
    "DP00900001000": "The transaction is in an ambiguous state.",
    "DP00900001003": "The daily maximum is reached.",
    "DP00900001004": "Invalid amount.",
    "DP00900001005": "The transaction failed.",
    "DP00900001007": "Insufficient funds.",
    "DP00900001009": "Invalid initiatee.",
    "DP00900001010": "User not allowed.",
    "DP00900001012": "Invalid mobile number.",
    "DP00900001013": "The transaction was refused.",
    "DP00900001014": "The transaction timed out.",
    "DP00900001019": "Sender or payer is barred.",
}

WORDS: Final[Mapping[Kind, Words]] = {
    "collection": Words(
        paid=(TS, None),
        rejected=(TF, "DP00800001008"),
        expired=(TE, "DP00800001029"),
        no_funds=(TF, "DP00800001007"),
        broken=(TF, "DP00800001009"),
        pending=TIP,
    ),
    "payout": Words(
        paid=(TS, None),
        rejected=(TF, "DP00900001013"),
        expired=(TE, "DP00900001005"),
        no_funds=(TF, "DP00900001007"),
        broken=(TF, "DP00900001005"),
        pending=TIP,
    ),
}

# Airtel has no test numbers that we know of; these are ours. 4 and the last two digits of the code that comes of it.
TEST_BLOCK: Final = "970000"
COLLECTION_FAILURES: Final = frozenset({"402", "403", "404", "407", "408", "409", "410", "424"})
PAYOUT_FAILURES: Final = frozenset({"403", "404", "405", "407", "409", "410", "412", "413", "419"})

# And what a test number is when it is asked for: not registered, barred, without a name.
STRANGER, BARRED, NAMELESS = "405", "419", "420"

# The wallets of a merchant: what comes into each, and what leaves it.
WALLETS: Final[Mapping[str | None, tuple[Sequence[Booked], Sequence[Booked]]]] = {
    None: (("collection",), ("payout", "refund")),  # v1 knows one wallet
    "COLL": (("collection",), ("refund",)),
    "DISB": ((), ("payout",)),
    "CASHIN": ((), ()),
    "CASHOUT": ((), ()),
}

AMOUNT: Final = re.compile(rb"[0-9]{1,15}(\.[0-9]{1,3})?")
MSISDN: Final = re.compile(r"[0-9]{9}")
TRANSACTION_ID: Final = re.compile(r"[A-Za-z0-9]{5,80}")
URL_MAX: Final = 2048

WRONG_KEY: Final = b"not the key of the portal"
FORGED_AIRTEL_MONEY_ID: Final = "MP000000.0000.X00000"
INVALID_TOKEN: Final = {
    "error": "invalid_token",
    "error_description": "The access token is invalid or has expired",
}
INVALID_CLIENT: Final = {"error": "invalid_client", "error_description": "Invalid client authentication"}
GATEWAY_TIMEOUT: Final = "<html><body><h1>504 Gateway Time-out</h1></body></html>"

PIN: Final = "2468"
# v3's payouts name the payee's wallet, and who pays whom.
PAYEE_WALLETS: Final = ("NORMAL", "SALARY")
TYPES: Final = ("B2C", "B2B")

# The key for PINs that the portal shows, of 1024 bits; with `pin_key` "static" the fetched one opens no PIN. It guards
# nothing: everybody may read its two primes.
STATIC_P: Final = int(
    "f83d3d5751d759208e6e69f5e48743e28d9bbed29bd9b7b654b80ca8aa7e6f27"
    "10a4183dcead5ad15b9d5fa98925f4f6abb385372fc55682e607e0c51a5939cb", 16
)  # fmt: skip
STATIC_Q: Final = int(
    "eb23447e3c51ea18e822e5267254e423413936a429aac29a0eec47998b4dea65"
    "7f9cbc9a2e2d041db7d9fc42c0d0bda7bbb86f9e7c303645405261e66998b923", 16
)  # fmt: skip
STATIC_PIN_KEY: Final = (  # its public half, as an account's `pin_key` takes it
    "MIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQDkAmoZN/4Kuo6VnStT0sW59ZXkip14gEA3C5tQotJFzsfNhTCwmrA6s8gDJJaXQI38E3u3w7HrhXr9BKFG"
    "EYZC+b2Wt7VsU00ejMP+vFn8gtsp3EXqB92lIbQVp7Qk3szC4Qd/XUHJxhPEjTnd7k+OHflg5TTWAM8vbkANqH6ZwQIDAQAB"
)

# An account that this simulator takes as it stands; demos and tests use it.
ACCOUNT_VALUES: Final[Mapping[str, str]] = {
    "client_id": "5a9f2c6e-0000-4000-8000-000000000002",
    "client_secret": "simulated-client-secret",
    "country": "ZM",
    "collection_version": "v1",
    "payout_version": "v2",
    "refund_version": "v1",
    "pin": PIN,
    "pin_padding": "pkcs1",
    "sign_messages": "off",
}
# Options under which it refuses that account.
REFUSING: Final[Mapping[str, object]] = {"open_credentials": False}
# Account values with which callbacks must be signed.
SIGNED_VALUES: Final[Mapping[str, str]] = {"callback_key": "simulated-callback-key"}

# How Airtel may behave: the usual way, the other side of each dispute, and the strangest ways that can hold together.
# The strangest hide one another's codes. They share an account, so that one may follow another. A 1024-bit key has no
# room for a signature under OAEP with SHA-256.
_SIGNED: Final[Mapping[str, object]] = {"signing": "required"}
_SIGNS: Final[Mapping[str, str]] = {"sign_messages": "on"}
_STRANGE_OPTIONS: Final[Mapping[str, object]] = {
    "expires_in_as": "number",
    "token_refusal": "401",
    "collection_versions": ["v2"],
    "payout_versions": ["v3"],
    "refund_versions": ["v2"],
    "pin_key": "static",
    "pin_padding": "oaep-sha256",
    "sign_padding": "oaep-sha1",
    "signing": "required",
    "status_code_as": "number",
    "first_word": "Success.",
    "first_id": "false",
    "pending_as": "bare",
    "success_beside_ts": False,
    "success_beside_tf": True,
    "refund_number": "asked",
    "duplicate_code": "1017",
    "id_hyphens": "refused",
    "callback_hash": "compact",
    "callback_on": "all",
}
_STRANGE_VALUES: Final[Mapping[str, str]] = {
    "collection_version": "v2",
    "payout_version": "v3",
    "refund_version": "v2",
    "pin_key": STATIC_PIN_KEY,
    "pin_padding": "oaep-sha256",
    "sign_padding": "oaep-sha1",
    "sign_messages": "on",
}
DIALECTS: Final[Mapping[str, Dialect]] = {
    "usual": Dialect(),
    "a token's life is a number": Dialect({"expires_in_as": "number"}),
    "an old token is refused with 401": Dialect({"token_refusal": "401"}),
    "version 1 alone": Dialect({"collection_versions": ["v1"], "payout_versions": ["v2"], "refund_versions": ["v1"]}),
    "collections of version 2": Dialect({"collection_versions": ["v2"]}, {"collection_version": "v2"}),
    "payouts of version 3": Dialect({"payout_versions": ["v3"]}, {"payout_version": "v3"}),
    "refunds of version 2": Dialect({"refund_versions": ["v2"]}, {"refund_version": "v2"}),
    "a static key for the PIN": Dialect({"pin_key": "static"}, {"pin_key": STATIC_PIN_KEY}),
    "all signed": Dialect(_SIGNED, _SIGNS),
    "OAEP with SHA-1": Dialect({**_SIGNED, "pin_padding": "oaep-sha1"}, {**_SIGNS, "pin_padding": "oaep-sha1"}),
    "OAEP with SHA-256": Dialect(
        {**_SIGNED, "pin_padding": "oaep-sha256", "key_bits": 2048}, {**_SIGNS, "pin_padding": "oaep-sha256"}
    ),
    "OAEP with SHA-256 and MGF1 with SHA-1": Dialect(
        {**_SIGNED, "pin_padding": "oaep-sha256-mgf1-sha1", "key_bits": 2048},
        {**_SIGNS, "pin_padding": "oaep-sha256-mgf1-sha1"},
    ),
    "signatures padded with PKCS 1": Dialect(
        {**_SIGNED, "pin_padding": "oaep-sha1", "sign_padding": "pkcs1"},
        {**_SIGNS, "pin_padding": "oaep-sha1", "sign_padding": "pkcs1"},
    ),
    "signatures padded with OAEP and SHA-1": Dialect(
        {**_SIGNED, "sign_padding": "oaep-sha1"}, {**_SIGNS, "sign_padding": "oaep-sha1"}
    ),
    "signatures padded with OAEP and SHA-256": Dialect(
        {**_SIGNED, "sign_padding": "oaep-sha256", "key_bits": 2048}, {**_SIGNS, "sign_padding": "oaep-sha256"}
    ),
    "signatures padded with OAEP, SHA-256 and MGF1 with SHA-1": Dialect(
        {**_SIGNED, "sign_padding": "oaep-sha256-mgf1-sha1", "key_bits": 2048},
        {**_SIGNS, "sign_padding": "oaep-sha256-mgf1-sha1"},
    ),
    "a status' code is a number": Dialect({"status_code_as": "number"}),
    "the short numbering": Dialect({"numbering": "short"}),
    "paid has the code of what is in progress": Dialect({"paid_code": "1006"}),
    "paid has a code that nobody listed": Dialect({"paid_code": "1099"}),
    "each failure has the ambiguous code": Dialect({"failure_code": "1000"}, doubtful=True),
    "success has the gateway's code alone": Dialect({"codes_of_success": "result_code"}),
    "the first word ends with a full stop": Dialect({"first_word": "Success."}),
    "the first answer names no id": Dialect({"first_id": "false"}),
    "what is in progress has two fields": Dialect({"pending_as": "bare"}),
    "paid and no success": Dialect({"success_beside_ts": False}),
    "failed and a success": Dialect({"success_beside_tf": True}),
    "refunded and no success": Dialect({"success_beside_refund": False}, unread=frozenset({"refund"})),
    "a refund has the number that was asked with": Dialect({"refund_number": "asked"}),
    "a repeated payout is 1017": Dialect({"duplicate_code": "1017"}),
    "ids without hyphens": Dialect({"id_hyphens": "refused"}),
    "callbacks are hashed without spaces": Dialect({"callback_hash": "compact"}),
    "callbacks before the end": Dialect({"callback_on": "all"}),
    "callbacks have no code": Dialect({"callback_code": False}),
    "strangest: few codes": Dialect(
        {**_STRANGE_OPTIONS, "codes_of_success": "result_code", "numbering": "short"}, _STRANGE_VALUES
    ),
    "strangest: odd codes": Dialect({**_STRANGE_OPTIONS, "paid_code": "1099", "callback_code": False}, _STRANGE_VALUES),
    "strangest: failures in doubt": Dialect(
        {**_STRANGE_OPTIONS, "paid_code": "1006", "failure_code": "1000"}, _STRANGE_VALUES, doubtful=True
    ),
}


def callbacks_to(url: str) -> Mapping[str, object]:
    """Options with which it posts outcomes there, signed for that account."""
    return {"callback_url": url, "callback_key": SIGNED_VALUES["callback_key"]}


S = TypeVar("S", bound=msgspec.Struct)

Padding = Literal["pkcs1", "oaep-sha1", "oaep-sha256", "oaep-sha256-mgf1-sha1"]
Milliseconds = Annotated[int, Meta(ge=0, le=86_400_000)]


class AirtelOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How this Airtel behaves; where the sources disagree, both behaviours can be chosen."""

    client_id: str | None = None
    client_secret: str | None = None
    open_credentials: bool = True
    token_ttl_s: Annotated[int, Meta(ge=1, le=86_400)] = 180
    expires_in_as: Literal["string", "number"] = "string"
    token_refusal: Literal["401", "403"] = "403"  # noqa: S105
    collection_versions: tuple[Literal["v1", "v2"], ...] = ("v1", "v2")
    payout_versions: tuple[Literal["v1", "v2", "v3"], ...] = ("v1", "v2", "v3")
    refund_versions: tuple[Literal["v1", "v2"], ...] = ("v1", "v2")
    pin: str = PIN
    pin_key: Literal["fetched", "static"] = "fetched"
    pin_padding: Padding = "pkcs1"
    sign_padding: Padding | None = None
    key_bits: Literal[1024, 2048] = 1024
    key_ttl_s: Annotated[int, Meta(ge=1, le=31_536_000)] = 604_800
    signing: Literal["optional", "required"] = "optional"
    prompt_ms: Milliseconds = 400
    slow_ms: Milliseconds = 45_000
    payout_ms: Milliseconds = 0
    status_code_as: Literal["string", "number"] = "string"
    numbering: Literal["long", "short"] = "long"
    paid_code: Literal["1001", "1006", "1099"] = "1001"
    failure_code: Literal["own", "1000"] = "own"
    codes_of_success: Literal["both", "result_code"] = "both"
    first_word: Literal["SUCCESS", "Success."] = "SUCCESS"
    first_id: Literal["echoed", "false"] = "echoed"
    pending_as: Literal["full", "bare"] = "full"
    success_beside_ts: bool = True
    success_beside_tf: bool = False
    success_beside_refund: bool = True
    refund_number: Literal["own", "asked"] = "own"
    duplicate_code: Literal["1011", "1017"] = "1011"
    id_hyphens: Literal["accepted", "refused"] = "accepted"
    text_amounts: Literal["accepted", "refused"] = "refused"
    balance: Opening = "1000.00"
    balance_as: Literal["plain", "grouped"] = "plain"
    callback_url: Annotated[str, Meta(max_length=URL_MAX)] | None = None
    callback_key: str | None = None
    callback_hash: Literal["raw", "compact"] = "raw"
    callback_on: Literal["final", "all"] = "final"
    callback_code: bool = True
    callback_retry_ms: Annotated[tuple[Milliseconds, ...], Meta(max_length=50)] = ()


class TokenRequest(msgspec.Struct, frozen=True):
    client_id: str
    client_secret: str
    grant_type: str


class Subscriber(msgspec.Struct, frozen=True):
    msisdn: str
    country: str | None = None
    currency: str | None = None


class Terms(msgspec.Struct, frozen=True):
    """`amount` as it was written: it must be a JSON number, and stays exact."""

    id: str
    amount: msgspec.Raw = msgspec.Raw(b"null")
    country: str | None = None
    currency: str | None = None
    type: str | None = None


class CollectionRequest(msgspec.Struct, frozen=True):
    reference: Annotated[str, Meta(min_length=1)]
    subscriber: Subscriber
    transaction: Terms


class Payee(msgspec.Struct, frozen=True):
    msisdn: str
    currency: str | None = None
    wallet_type: str | None = None


class PayoutRequest(msgspec.Struct, frozen=True):
    payee: Payee
    reference: Annotated[str, Meta(min_length=1)]
    transaction: Terms
    pin: str = ""


class Refunded(msgspec.Struct, frozen=True):
    airtel_money_id: str


class RefundRequest(msgspec.Struct, frozen=True):
    transaction: Refunded


@dataclass(slots=True)
class Transaction:
    """`msisdn` is the whole number, with the country's code; `refunded`: it was taken back, or will be."""

    kind: Kind
    id: str
    amount: str
    msisdn: str
    created_at: float
    status: str = TIP
    reason: str | None = None
    airtel_money_id: str | None = None
    receipt: str | None = None
    moved: str | None = None
    refunded: bool = False


def build(stage: Stage) -> web.Application:
    return AirtelSimulator(stage).application()


class AirtelSimulator:
    """One Airtel, with its tokens, its key pair and its transactions in memory."""

    error_shapes = frozenset({"status", "status_code", "error", "html", "empty"})

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._options: Options[AirtelOptions] = stage.options(AirtelOptions)
        self._tokens: OrderedDict[str, float] = OrderedDict()
        self._transactions = Requests(stage.settings.max_payments, self._settle)
        self._refunds = Requests(stage.settings.max_payments, self._settle_refund)
        self._paid: OrderedDict[str, Transaction] = OrderedDict()
        self._numbers = count(1)
        stage.actor = self

    def application(self) -> web.Application:
        app = web.Application()
        app.add_routes(
            [
                web.post("/auth/oauth2/token", self._token),
                web.get("/v1/rsa/encryption-keys", self._encryption_key),
                web.post("/merchant/{version:v[12]}/payments{slash:/?}", self._collect),
                web.get("/standard/v1/payments/{id}", self._collection_status),
                web.post("/standard/{version:v[12]}/payments/refund", self._refund),
                web.post("/standard/{version:v[123]}/disbursements{slash:/?}", self._pay_out),
                web.get("/standard/{version:v[123]}/disbursements/{id}", self._payout_status),
                web.get("/standard/v2/kyc/users/{msisdn}", self._user),
                web.get("/standard/v1/users/balance", self._balance),
                web.get("/standard/v1/users/{msisdn}", self._user_before),
                web.get("/standard/v2/users/balance", self._balance),
                web.get("/standard/v2/users/balance/{type}", self._balance),
                web.route("*", "/{rest:.*}", _no_route),
            ]
        )
        return app

    # Tokens and the encryption key.

    async def _token(self, request: web.Request) -> web.Response:
        async def process() -> web.Response:
            _check_json(request)
            asked = peek(await request.read(), TokenRequest)
            if asked is None or asked.grant_type != "client_credentials":
                raise Refused(json_answer(400, {"error": "invalid_request"}))
            if not self._knows(asked):
                raise Refused(json_answer(400, INVALID_CLIENT))
            options = self._options.now
            token = secrets.token_urlsafe(24)
            self._tokens[token] = time.time() + options.token_ttl_s
            if len(self._tokens) > MAX_TOKENS:
                self._tokens.popitem(last=False)
            lives = options.token_ttl_s if options.expires_in_as == "number" else str(options.token_ttl_s)
            return json_answer(200, {"access_token": token, "expires_in": lives, "token_type": "bearer"})

        return await self._stage.play(request, self._stage.cue("token"), process)

    def _knows(self, asked: TokenRequest) -> bool:
        options = self._options.now
        if options.client_id is not None and same(asked.client_id, options.client_id):
            return options.client_secret is not None and same(asked.client_secret, options.client_secret)
        return options.open_credentials and bool(asked.client_id) and bool(asked.client_secret)

    async def _encryption_key(self, request: web.Request) -> web.Response:
        async def process() -> web.Response:
            self._admit(request, "collection")
            options = self._options.now
            key = _private_key(options.key_bits).public_key()
            der = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
            ends = datetime.now(UTC) + timedelta(seconds=options.key_ttl_s)
            data = {
                "key_id": 100,
                "key": base64.b64encode(der).decode(),
                "valid_upto": ends.strftime("%d-%m-%Y %H:%M:%S"),
            }
            return self._said("DP02010001001", "SUCCESS", success=True, data=data)

        return await self._stage.play(request, self._stage.cue("check"), process)

    # What every call with a token must bring.

    def _admit(self, request: web.Request, kind: Kind) -> None:
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer" or self._tokens.get(token.strip(), 0.0) <= time.time():
            raise Refused(json_answer(int(self._options.now.token_refusal), INVALID_TOKEN))
        country = request.headers.get("X-Country")
        if not country:
            raise Refused(json_answer(400, {"status_message": "Partner 1 not found", "status_code": "ROUTER110"}))
        if country != COUNTRY:
            raise self._invalid(kind, "Invalid Country Code", "ESB000034", http_status=400)
        currency = request.headers.get("X-Currency")
        if currency is None:
            raise Refused(
                self._said(None, "Missing header 'x-wallet-id'", result_code="ESB000008", code="400", success=False)
            )
        if currency != CURRENCY:
            raise self._invalid(kind, "Invalid/Missing Currency", "ESB000035")

    def _admit_signed(self, request: web.Request, kind: Kind, body: bytes, *, always: bool = False) -> None:
        """`always`: what needs a signature whatever the portal says."""
        _check_json(request)
        self._admit(request, kind)
        signature, key = request.headers.get("x-signature"), request.headers.get("x-key")
        if signature is None and key is None and self._options.now.signing == "optional" and not always:
            return
        if not self._is_signed(body, signature or "", key or ""):
            code = "DP00800001026" if kind == "collection" else "DP00900001016"
            raise Refused(self._said(code, "X-signature and payload did not match", success=False))

    def _is_signed(self, body: bytes, signature: str, key: str) -> bool:
        """Take key and IV out of x-key, encrypt the body that came, and compare."""
        try:
            options = self._options.now
            secret = _unsealed(key, _private_key(options.key_bits), options.sign_padding or options.pin_padding)
            aes_key, iv = (base64.b64decode(part, validate=True) for part in secret.split(b":"))
            padder = PKCS7(128).padder()
            encryptor = Cipher(algorithms.AES256(aes_key), modes.CBC(iv)).encryptor()
            encrypted = encryptor.update(padder.update(body) + padder.finalize()) + encryptor.finalize()
            return hmac.compare_digest(encrypted, base64.b64decode(signature, validate=True))
        except (ValueError, binascii.Error):
            return False

    # Collections.

    async def _collect(self, request: web.Request) -> web.Response:
        body = await request.read()
        peeked = peek(body, CollectionRequest)
        reference = None if peeked is None else peeked.transaction.id
        msisdn = None if peeked is None else _international(peeked.subscriber.msisdn)
        cue = self._stage.cue("create", reference=reference, msisdn=msisdn, product="collection")

        async def process() -> web.Response:
            if request.match_info["version"] not in self._options.now.collection_versions:
                return await _no_route(request)
            self._admit_signed(request, "collection", body)
            ask = self._decoded(body, CollectionRequest, "collection")
            transaction = self._checked("collection", ask.transaction, ask.subscriber.msisdn, cue)
            digits = _test_digits(transaction)
            if digits == "405":
                raise Refused(self._said("DP00800001005", "Msisdn Not Found", code="400", success=False, status=400))
            if digits == "500":
                raise Refused(
                    self._said("DP00800001005", "Something Went Wrong", code="500", success=False, status=500)
                )
            self._accept(transaction, self._collection_verdicts(transaction, cue))
            if digits == "504":
                return _gateway_timeout()
            return self._collected(transaction, self._stage.faults.word(cue))

        return await self._stage.play(request, cue, process)

    def _collected(self, transaction: Transaction, word: str | None) -> web.Response:
        """The answer to a collection; it knows no word for one that is paid already."""
        if word == "failed":
            code = "DP00800001008"
            return self._said(code, MESSAGES[code], code="400", success=False)
        options = self._options.now
        shown = options.first_word if word in (None, "paid", "pending") else word
        data = {"transaction": {"id": options.first_id == "echoed" and transaction.id, "status": shown}}
        return self._said(self._of_success("DP00800001006"), "SUCCESS", success=True, data=data)

    def _collection_verdicts(self, transaction: Transaction, cue: f.Cue) -> Sequence[Verdict]:
        """What will happen to a collection: its faults first, then its test number, and approval otherwise."""
        options = self._options.now
        if (told := faulted(self._stage.faults, cue, options.prompt_ms, WORDS["collection"])) is not None:
            return told
        digits = _test_digits(transaction)
        special: dict[str, list[Verdict]] = {
            "400": [Verdict(options.prompt_ms, TA, "DP00800001000")],
            "415": [Verdict(options.prompt_ms, TF, "DP00800001005")],
            "421": [Verdict(options.prompt_ms, TF, "DP00800001000")],
            "429": [Verdict(options.prompt_ms, TE, "DP00800001029")],
            "453": [],
            "454": [Verdict(options.slow_ms, TS)],
            "455": [Verdict(options.prompt_ms, TA, "DP00800001000"), Verdict(options.slow_ms, TS)],
        }
        if digits in COLLECTION_FAILURES:
            return [Verdict(options.prompt_ms, TF, f"DP008000010{digits[1:]}")]
        return special.get(digits, [Verdict(options.prompt_ms, TS)])

    # Payouts.

    async def _pay_out(self, request: web.Request) -> web.Response:
        body = await request.read()
        peeked = peek(body, PayoutRequest)
        reference = None if peeked is None else peeked.transaction.id
        msisdn = None if peeked is None else _international(peeked.payee.msisdn)
        cue = self._stage.cue("payout", reference=reference, msisdn=msisdn, product="disbursement")

        async def process() -> web.Response:
            version = request.match_info["version"]
            if version not in self._options.now.payout_versions:
                return await _no_route(request)
            self._admit_signed(request, "payout", body, always=version == "v3")
            ask = self._decoded(body, PayoutRequest, "payout")
            if version == "v3" and (ask.payee.wallet_type not in PAYEE_WALLETS or ask.transaction.type not in TYPES):
                raise self._invalid("payout", "Missing header/body params", "ESB000008")
            self._check_pin(ask.pin)
            transaction = self._checked("payout", ask.transaction, ask.payee.msisdn, cue)
            self._accept(transaction, self._payout_verdicts(transaction, cue))
            if _test_digits(transaction) == "504":
                return _gateway_timeout()
            return self._view(transaction, Change(status=self._stage.faults.word(cue)), first=True)

        return await self._stage.play(request, cue, process)

    def _check_pin(self, sealed: str) -> None:
        if not sealed:
            raise self._invalid("payout", "Missing header/body params", "ESB000008")
        options = self._options.now
        key = static_key() if options.pin_key == "static" else _private_key(options.key_bits)
        try:
            right = hmac.compare_digest(_unsealed(sealed, key, options.pin_padding), options.pin.encode())
        except (ValueError, binascii.Error):
            right = False
        if not right:
            raise self._invalid("payout", "Incorrect Encrypted Pin", "ESB000008")

    def _payout_verdicts(self, transaction: Transaction, cue: f.Cue) -> Sequence[Verdict]:
        """What will happen to a payout: nobody is prompted, so usually at once."""
        options = self._options.now
        if (told := faulted(self._stage.faults, cue, options.payout_ms, WORDS["payout"])) is not None:
            return told
        digits = _test_digits(transaction)
        special: dict[str, list[Verdict]] = {
            "400": [Verdict(0, TA, "DP00900001000")],
            "406": [Verdict(options.prompt_ms, TS)],
            "414": [Verdict(0, TA, "DP00900001014"), Verdict(options.prompt_ms, TS)],
            "453": [],
        }
        if digits in PAYOUT_FAILURES:
            return [Verdict(options.payout_ms, TF, f"DP009000010{digits[1:]}")]
        return special.get(digits, [Verdict(options.payout_ms, TS)])

    # Both.

    def _checked(self, kind: Kind, terms: Terms, msisdn: str, cue: f.Cue) -> Transaction:
        """The new transaction, when the request passes the checks and has not been here before."""
        if MSISDN.fullmatch(msisdn) is None:
            message = "Invalid Msisdn Length. Msisdn Length should be 9"
            raise self._invalid(kind, message, "521002" if kind == "payout" else "ESB000033")
        options = self._options.now
        amount = bytes(terms.amount)
        if options.text_amounts == "accepted":
            amount = amount.strip(b'"')
        if AMOUNT.fullmatch(amount) is None or not amount.strip(b"0."):
            code = f"{SERIES[kind]}1004"
            raise Refused(self._said(code, "Invalid Amount", result_code="ESB000008", code="400", success=False))
        bare = terms.id.replace("-", "") if options.id_hyphens == "accepted" else terms.id
        if TRANSACTION_ID.fullmatch(bare) is None:
            raise self._invalid(kind, "Invalid transaction id", "ESB000008")
        known = self._transactions.get(terms.id)
        if known is not None and self._stage.faults.take(cue, f.NoDedupe) is None:
            raise Refused(self._duplicate(kind))
        return Transaction(
            kind=kind,
            id=terms.id,
            amount=amount.decode(),
            msisdn=_international(msisdn),
            created_at=time.time(),
        )

    def _duplicate(self, kind: Kind) -> web.Response:
        if kind == "collection":
            return self._said(None, "External id exists", result_code="ESB000041", code="400", success=False)
        code = f"DP0090000{self._options.now.duplicate_code}"
        return self._said(code, "Duplicate exttRID", result_code="521050", code="400", success=False)

    def _accept(self, transaction: Transaction, verdicts: Sequence[Verdict]) -> None:
        """Keep it. What is to happen at once has happened when this returns."""
        if verdicts and not verdicts[0].after_ms:
            self._settle(transaction, verdicts[0])
            verdicts = verdicts[1:]
        self._transactions.add(transaction.id, transaction, verdicts)
        options = self._options.now
        if options.callback_url is not None:
            cue = self._callback_cue(transaction)
            if options.callback_on == "all" and transaction.status not in FINAL:
                self._stage.announce(cue, self._render(transaction, transaction.status), stale_status=TIP)
            self._stage.forge_if_told(cue, self._render(transaction, TS), status=TS)

    def _settle(self, transaction: Transaction, verdict: Verdict) -> None:
        transaction.status, transaction.reason = verdict.status, verdict.reason
        if verdict.status in (TS, TF):
            number = self._number("MP" if transaction.kind == "collection" else "CI")
            transaction.receipt = number
            transaction.airtel_money_id = number if transaction.kind == "collection" else _of_payout(transaction.id)
        if verdict.status == TS and transaction.airtel_money_id is not None:
            self._paid[transaction.airtel_money_id] = transaction
            if len(self._paid) > self._stage.settings.max_payments:
                self._paid.popitem(last=False)
            transaction.moved = self._stage.charge(
                self._stage.cue(OPERATIONS[transaction.kind], reference=transaction.id, msisdn=transaction.msisdn),
                amount=transaction.amount,
                currency=CURRENCY,
                msisdn=transaction.msisdn,
                kind=transaction.kind,
            )
        if self._options.now.callback_url is not None and verdict.status in FINAL:
            render = self._render(transaction, verdict.status)
            self._stage.announce(self._callback_cue(transaction), render, stale_status=TIP)

    def _number(self, prefix: str) -> str:
        """A transaction's number, as people see it."""
        return f"{prefix}{datetime.now(UTC).strftime('%y%m%d.%H%M')}.L{next(self._numbers):05d}"

    # Refunds: whole, and once.

    async def _refund(self, request: web.Request) -> web.Response:
        body = await request.read()
        peeked = peek(body, RefundRequest)
        theirs = None if peeked is None else peeked.transaction.airtel_money_id
        original = self._paid.get(theirs or "")
        msisdn = None if original is None else original.msisdn
        cue = self._stage.cue("refund", reference=theirs, msisdn=msisdn, product="collection")

        async def process() -> web.Response:
            version = request.match_info["version"]
            if version not in self._options.now.refund_versions:
                return await _no_route(request)
            self._admit_signed(request, "collection", body, always=version == "v2")
            asked = self._decoded(body, RefundRequest, "collection").transaction.airtel_money_id
            collection = self._paid.get(asked)
            if collection is None or collection.kind != "collection":
                raise Refused(self._said("DP00800001025", "Transaction not found", code="400", success=False))
            if collection.refunded and self._stage.faults.take(cue, f.NoDedupe) is None:
                raise Refused(self._said("DP00800001009", "Already refunded", code="400", success=False))
            return self._refund_answer(collection, asked, cue)

        return await self._stage.play(request, cue, process)

    def _refund_answer(self, collection: Transaction, airtel_money_id: str, cue: f.Cue) -> web.Response:
        digits = _test_digits(collection)
        verdicts: Sequence[Verdict] = [Verdict(0, TF, "DP00800001007")] if digits == "456" else [Verdict(0, TS)]
        told = faulted(self._stage.faults, cue, 0, WORDS["collection"])
        first, later = None, verdicts if told is None else told
        if later and not later[0].after_ms:
            first, later = later[0], later[1:]
            self._settle_refund(collection, first)
        self._refunds.add(airtel_money_id, collection, later)
        collection.refunded = collection.refunded or bool(later)
        if digits == "457":
            return _gateway_timeout()
        if first is None:
            return self._said("DP00800001000", MESSAGES["DP00800001000"], result_code="ESB000001", success=False)
        if first.status != TS:
            code = first.reason or "DP00800001009"
            return self._said(code, MESSAGES.get(code, code), result_code="ESB000011", success=False)
        options = self._options.now
        number = self._number("CI") if options.refund_number == "own" else airtel_money_id
        data = {"transaction": {"airtel_money_id": number, "status": "SUCCESS"}}
        in_progress = self._of_success("DP00800001006")
        return self._said(in_progress, "SUCCESS", success=options.success_beside_refund, data=data)

    def _settle_refund(self, collection: Transaction, verdict: Verdict) -> None:
        if verdict.status != TS:
            return
        collection.refunded = True
        self._stage.charge(
            self._stage.cue("refund", reference=collection.airtel_money_id, msisdn=collection.msisdn),
            amount=collection.amount,
            currency=CURRENCY,
            msisdn=collection.msisdn,
            kind="refund",
        )

    # Enquiries.

    async def _collection_status(self, request: web.Request) -> web.Response:
        return await self._enquire(request, "collection")

    async def _payout_status(self, request: web.Request) -> web.Response:
        return await self._enquire(request, "payout")

    async def _enquire(self, request: web.Request, kind: Kind) -> web.Response:
        reference = request.match_info["id"]
        known = self._transactions.get(reference)
        msisdn = None if known is None else known.msisdn
        cue = self._stage.cue("status", reference=reference, msisdn=msisdn, product=PRODUCTS[kind])

        async def process() -> web.Response:
            version = request.match_info.get("version")
            if kind == "payout" and version not in self._options.now.payout_versions:
                return await _no_route(request)
            self._admit(request, kind)
            if version == "v2" and request.query.get("transactionType") != "B2C":
                raise self._invalid(kind, "Missing header/body params", "ESB000008")
            # Looked up again: a fault may have held this request up for a while.
            transaction = self._transactions.get(reference)
            if transaction is None or transaction.kind != kind or self._hidden(transaction, cue):
                code = "DP00800001025" if kind == "collection" else "DP00900001015"
                message = "Transaction not found"
                raise Refused(self._said(code, message, result_code="ESB000045", code="400", success=False))
            return self._view(transaction, self._stage.altered(cue))

        return await self._stage.play(request, cue, process)

    def _hidden(self, transaction: Transaction, cue: f.Cue) -> bool:
        fault = self._stage.faults.take(cue, f.NotFoundFor)
        return fault is not None and time.time() - transaction.created_at < fault.ms / 1000

    def _view(self, transaction: Transaction, change: Change, *, first: bool = False) -> web.Response:
        """The answer to a payout, and to an enquiry."""
        options = self._options.now
        status, reason = WORDS[transaction.kind].told(change.status, transaction.status, transaction.reason)
        code: str | None = self._code(transaction, status, reason, {} if first else SHORT_IN_ENQUIRIES)
        shown: dict[str, Any] = {"id": change.reference(transaction.id), "status": status}
        success, result_code = True, "ESB000010"
        match status:
            case "TS":
                success = options.success_beside_ts
            case "TIP":
                pass
            case "TA":
                success, result_code = False, "ESB000001"
            case "TF" if options.success_beside_tf:
                pass
            case _:
                success, result_code = False, "ESB000011"
        if status in (TS, TIP):
            code = self._of_success(code)
        theirs = self._airtel_money_id(transaction, status, change)
        if theirs is not None and (status == TS or not first):
            shown["airtel_money_id"] = theirs
        message = _message(transaction, status, reason, change)
        if first:
            shown["reference_id"] = transaction.receipt or ""
        elif status != TIP or options.pending_as == "full":
            shown["message"] = message
        return self._said(code, message, result_code=result_code, success=success, data={"transaction": shown})

    def _code(self, transaction: Transaction, status: str, reason: str | None, short: Mapping[str, str]) -> str:
        """The code beside a word, in the numbering that is played; `short`: the second one, where it is told."""
        options = self._options.now
        series = SERIES[transaction.kind]
        match status:
            case "TS":
                is_told = transaction.kind == "collection" or options.paid_code == "1099"
                code = series + (options.paid_code if is_told else "1001")
            case "TIP":
                code = f"{series}1006"
            case "TF" if transaction.kind == "collection" and options.failure_code == "1000":
                code = f"{series}1000"
            case "TA":
                code = reason or f"{series}1000"
            case _:
                code = reason or f"{series}1005"
        return short.get(code, code) if options.numbering == "short" else code

    def _of_success(self, code: str | None) -> str | None:
        """A code beside a good word; some answers have the gateway's alone, ESB000010."""
        return code if self._options.now.codes_of_success == "both" else None

    def _airtel_money_id(self, transaction: Transaction, status: str, change: Change) -> str | None:
        """Airtel's number of a transaction, which one that failed has too."""
        if status not in (TS, TF):
            return None
        return change.transaction_id or transaction.airtel_money_id or FORGED_AIRTEL_MONEY_ID

    # Whose a number is, and what the merchant's wallets hold.

    async def _user(self, request: web.Request) -> web.Response:
        return await self._about_user(request, self._told_of_user)

    async def _user_before(self, request: web.Request) -> web.Response:
        return await self._about_user(request, self._told_by_v1)

    async def _about_user(self, request: web.Request, told: Callable[[str, str], web.Response]) -> web.Response:
        msisdn = request.match_info["msisdn"]
        cue = self._stage.cue("check", msisdn=_international(msisdn))

        async def process() -> web.Response:
            self._admit(request, "collection")
            if MSISDN.fullmatch(msisdn) is None:
                raise self._invalid("collection", "Invalid Msisdn Length. Msisdn Length should be 9", "ESB000033")
            return told(msisdn, msisdn[-3:] if msisdn[:-3] == TEST_BLOCK else "")

        return await self._stage.play(request, cue, process)

    def _told_of_user(self, msisdn: str, digits: str) -> web.Response:
        name = "" if digits in (STRANGER, NAMELESS) else " ".join(holder(msisdn))
        data = {"user_name": name, "msisdn": msisdn, "is_airtel_money_user": digits != STRANGER}
        return self._said("DP02200000001", "SUCCESS", success=True, data=data)

    def _told_by_v1(self, msisdn: str, digits: str) -> web.Response:
        if digits == STRANGER:
            raise Refused(self._said("DP02200000002", "User not found", code="400", success=False))
        given, family = ("", "") if digits == NAMELESS else holder(msisdn)
        data = {
            "first_name": given,
            "last_name": family,
            "msisdn": msisdn,
            "grade": "SUBS",
            "is_barred": digits == BARRED,
            "is_pin_set": True,
            "registration": {"status": "SUBS"},
        }
        return self._said("DP02200000001", "SUCCESS", success=True, data=data)

    async def _balance(self, request: web.Request) -> web.Response:
        """v2 tells of one wallet, named in the path or in the query; v1 of the only one."""
        version_1 = "/v1/" in request.path
        wallet = None if version_1 else (request.match_info.get("type") or request.query.get("type", "")).upper()

        async def process() -> web.Response:
            self._admit(request, "collection")
            if wallet not in WALLETS:
                raise self._invalid("collection", "Missing header/body params", "ESB000008")
            came, went = ([self._moved(kind) for kind in kinds] for kinds in WALLETS[wallet])
            balance = left(self._options.now.balance, came, went)
            if self._options.now.balance_as == "grouped":
                balance = f"{Decimal(balance):,}"
            data = {"balance": balance, "currency": CURRENCY, "account_status": "Active"}
            return self._said("DP02100000001", "SUCCESS", success=True, data=data)

        return await self._stage.play(request, self._stage.cue("check"), process)

    def _moved(self, kind: Booked) -> Decimal:
        return self._stage.books.moved(self._stage.provider, kind, CURRENCY)

    # What the stage and the control API ask of a provider.

    def error(self, fault: f.ErrorAnswer) -> web.Response:
        message = fault.message or "Something Went Wrong"
        match fault.shape:
            case "status_code":
                return json_answer(fault.status, {"status_message": message, "status_code": fault.code or "ROUTER117"})
            case "error":
                return json_answer(fault.status, {"error": fault.code or "server_error", "error_description": message})
            case "html":
                page = f"<html><body><h1>{fault.status}</h1></body></html>"
                return web.Response(status=fault.status, text=page, content_type="text/html")
            case "empty":
                return web.Response(status=fault.status)
            case _:
                code = fault.code or "DP00800001000"
                return self._said(code, message, code=str(fault.status), success=False, status=fault.status)

    def callback(self, order: CallbackOrder) -> Outgoing | None:
        transaction = self._transactions.get(order.reference)
        if transaction is None and order.url is not None:
            transaction = Transaction(
                kind="collection",
                id=order.reference,
                amount=order.amount or "1",
                msisdn=order.payer or f"{CALLING_CODE}{TEST_BLOCK}001",
                created_at=time.time(),
            )
        if transaction is None:
            return None
        url = order.url or self._options.now.callback_url
        if url is None:
            raise OrderError("There is no `callback_url` among the settings; give a `url`.")
        if not _is_url(url):
            raise OrderError("The `url` is not an absolute http or https URL.")
        return self._outgoing(transaction, order.change(), url=url, method=order.method or "POST")

    def restart(self) -> None:
        self._transactions.forget()
        self._refunds.forget()
        self._paid.clear()

    # Callbacks.

    def _callback_cue(self, transaction: Transaction) -> f.Cue:
        return self._stage.cue("callback", reference=transaction.id, msisdn=transaction.msisdn)

    def _render(self, transaction: Transaction, status: str) -> Callable[[Change], Outgoing]:
        """What happened to it then, whatever happens to it until the callback leaves."""

        def render(change: Change) -> Outgoing:
            options = self._options.now
            url = options.callback_url or ""
            return self._outgoing(
                transaction, change, url=url, method="POST", status=status, retry_ms=options.callback_retry_ms
            )

        return render

    def _outgoing(
        self,
        transaction: Transaction,
        change: Change,
        *,
        url: str,
        method: str,
        status: str | None = None,
        retry_ms: tuple[int, ...] = (),
    ) -> Outgoing:
        options = self._options.now
        words = WORDS[transaction.kind]
        status, reason = words.told(change.status, status or transaction.status, transaction.reason)
        shown = {  # in this order: so it was seen
            "status_code": status,
            "code": self._code(transaction, status, reason, SHORT_IN_CALLBACKS) if options.callback_code else None,
            "airtel_money_id": self._airtel_money_id(transaction, status, change),
            "id": change.reference(transaction.id),
            "message": change.reason or _message(transaction, status, reason, change),
        }
        shown = {name: told for name, told in shown.items() if told is not None or name == "id"}
        written = json.dumps(shown).encode()  # with spaces, so that it matters what is hashed
        key = options.callback_key.encode() if options.callback_key is not None and change.signed else None
        if change.signed == "wrong":
            key = WRONG_KEY
        body = b'{"transaction": ' + written + b"}"
        if key is not None:
            hashed = written if options.callback_hash == "raw" else msgspec.json.encode(shown)
            told = base64.b64encode(hmac.new(key, hashed, hashlib.sha256).digest())
            body = b'{"transaction": ' + written + b', "hash": "' + told + b'"}'
        headers = {"Content-Type": "application/json"}
        body = garbled(body, change.garbling)
        return Outgoing(method=method, url=url, headers=headers, body=body, signed=key is not None, retry_ms=retry_ms)

    # Shared by all operations.

    def _said(
        self,
        response_code: str | None,
        message: str,
        *,
        success: bool,
        result_code: str = "ESB000010",
        code: str = "200",
        status: int = 200,
        data: Mapping[str, Any] | None = None,
    ) -> web.Response:
        """Airtel's usual body. Most refusals are HTTP 200, with `success` false."""
        said: dict[str, Any] = {
            "code": int(code) if self._options.now.status_code_as == "number" else code,
            "message": message,
            "result_code": result_code,
            "success": success,
        }
        if response_code is not None:
            said["response_code"] = response_code
        return json_answer(status, {"status": said} if data is None else {"data": data, "status": said})

    def _invalid(self, kind: Kind, message: str, result_code: str, *, http_status: int = 200) -> Refused:
        code = "DP00900001013" if kind == "payout" else None
        answer = self._said(code, message, result_code=result_code, code="400", success=False, status=http_status)
        return Refused(answer)

    def _decoded(self, body: bytes, shape: type[S], kind: Kind) -> S:
        if (read := peek(body, shape)) is None:
            raise self._invalid(kind, "Missing header/body params", "ESB000008")
        return read


@cache
def _private_key(bits: int) -> rsa.RSAPrivateKey:
    """One key pair per size and process."""
    return rsa.generate_private_key(public_exponent=65_537, key_size=bits)


@cache
def static_key() -> rsa.RSAPrivateKey:
    """The key for PINs that stands in the portal: the same in every process, so that a setting may hold its half."""
    numbers = rsa.RSAPublicNumbers(65_537, STATIC_P * STATIC_Q)
    d = pow(65_537, -1, (STATIC_P - 1) * (STATIC_Q - 1))
    dmp1, dmq1 = rsa.rsa_crt_dmp1(d, STATIC_P), rsa.rsa_crt_dmq1(d, STATIC_Q)
    iqmp = rsa.rsa_crt_iqmp(STATIC_P, STATIC_Q)
    return rsa.RSAPrivateNumbers(STATIC_P, STATIC_Q, d, dmp1, dmq1, iqmp, numbers).private_key()


def _unsealed(sealed: str, key: rsa.RSAPrivateKey, name: str) -> bytes:
    """Decrypt what was written for us. Raises ValueError."""
    return key.decrypt(base64.b64decode(sealed, validate=True), _padding(name))


def _padding(name: str) -> padding.AsymmetricPadding:
    if name == "pkcs1":
        return padding.PKCS1v15()
    sha1, sha256 = hashes.SHA1(), hashes.SHA256()  # noqa: S303  # some of Airtel's countries
    algorithm = sha1 if name == "oaep-sha1" else sha256
    mgf1 = sha256 if name == "oaep-sha256" else sha1
    return padding.OAEP(mgf=padding.MGF1(mgf1), algorithm=algorithm, label=None)


def _international(msisdn: str) -> str:
    """The number as books and faults name it."""
    return CALLING_CODE + msisdn


def _test_digits(transaction: Transaction) -> str:
    """The last three digits of a test number, or nothing."""
    national = transaction.msisdn.removeprefix(CALLING_CODE)
    return national[-3:] if national[:-3] == TEST_BLOCK else ""


def _of_payout(id_: str) -> str:
    """Airtel's id of a payout says nothing new. The number that the payee sees is told once, in the first answer."""
    return f"disbursement-SIMU-{id_}"


def _message(transaction: Transaction, status: str, reason: str | None, change: Change) -> str:
    """The only place where an amount, a currency and a number are named."""
    if status in (TF, TE, TA):
        return MESSAGES.get(reason or "", "The transaction failed.")
    amount, currency = change.amount or transaction.moved or transaction.amount, change.currency or CURRENCY
    said = "Paid" if status == TS else "In progress:"
    return f"{said} {currency} {amount}, {change.wallet(transaction.msisdn) or 'a wallet'}."


def _check_json(request: web.Request) -> None:
    if request.content_type != "application/json":
        raise Refused(web.Response(status=415))


def _is_url(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and url.isascii() and len(url) <= URL_MAX
    except ValueError:
        return False


async def _no_route(_: web.Request) -> web.Response:
    return json_answer(404, {"message": "no Route matched with those values"})


def _gateway_timeout() -> web.Response:
    return web.Response(status=504, text=GATEWAY_TIMEOUT, content_type="text/html")
