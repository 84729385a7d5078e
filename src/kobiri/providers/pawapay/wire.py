"""pawaPay's Merchant API v2: what is written, and what the answers mean. Pure.

README.md in this folder tells the facts, how sure each is, and where they come from; it is cited by section.
"""

import base64
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import replace
from typing import assert_never

import msgspec

from kobiri.domain.ids import ProviderReference
from kobiri.domain.money import Money
from kobiri.domain.msisdn import Msisdn
from kobiri.domain.outcome import Accepted, Declined, FailureCode, Finding, NotFound, Outcome, Succeeded, Unknown
from kobiri.domain.payment import Kind
from kobiri.domain.statement import Direction
from kobiri.providers.answers import (
    Object,
    Strange,
    cut,
    declined,
    inner,
    money,
    number,
    our_reference,
    read_object,
    readable,
    said,
    text,
    their_id,
    unclear,
    verdict,
    without_mark,
)
from kobiri.providers.base import CallbackWord, Collection, Payout, Refund, Request, Unreadable, kind_of

PATHS: Mapping[Kind, str] = {"collection": "/v2/deposits", "payout": "/v2/payouts", "refund": "/v2/refunds"}
IDS: Mapping[Kind, str] = {"collection": "depositId", "payout": "payoutId", "refund": "refundId"}

# Without a country the answer lists every provider there is, and may be longer than what we read.
CONFIGURATION_PATH = "/v2/active-conf?country=ZMB"
PUBLIC_KEYS_PATH = "/v2/public-key/http"

PROVIDERS = {"mtn": "MTN_MOMO_ZMB", "airtel": "AIRTEL_OAPI_ZMB", "zamtel": "ZAMTEL_ZMB"}  # README 1 [D]

MIN_MESSAGE, MAX_MESSAGE = 4, 22  # README 2 [D]
NOT_IN_MESSAGES = re.compile(r"[^A-Za-z0-9]+")

MAX_PUBLIC_KEYS = 100
MAX_SUBJECT = 200

# pawaPay's `failureCode`: README 5 [D], our classes [I]. The set is open: what is not here becomes PROVIDER_REJECTED
# at the door and PROVIDER_ERROR later, with pawaPay's word kept beside it.
REASONS = {
    "PAYER_NOT_FOUND": FailureCode.PAYER_NOT_FOUND,
    "RECIPIENT_NOT_FOUND": FailureCode.PAYEE_NOT_FOUND,
    "PAYMENT_NOT_APPROVED": FailureCode.PAYER_DECLINED,
    "INSUFFICIENT_BALANCE": FailureCode.INSUFFICIENT_FUNDS,
    "PAWAPAY_WALLET_OUT_OF_FUNDS": FailureCode.INSUFFICIENT_FUNDS,
    "PAYER_LIMIT_REACHED": FailureCode.PAYER_LIMIT_REACHED,
    "WALLET_LIMIT_REACHED": FailureCode.PAYER_LIMIT_REACHED,
    "RECIPIENT_LIMIT_REACHED": FailureCode.PAYEE_NOT_ALLOWED,
    "DEPOSITS_NOT_ALLOWED": FailureCode.NOT_ALLOWED,
    "PAYOUTS_NOT_ALLOWED": FailureCode.NOT_ALLOWED,
    "REFUNDS_NOT_ALLOWED": FailureCode.NOT_ALLOWED,
    "REMITTANCES_NOT_ALLOWED": FailureCode.NOT_ALLOWED,
    "PROVIDER_TEMPORARILY_UNAVAILABLE": FailureCode.PROVIDER_UNAVAILABLE,
    "PAYMENT_IN_PROGRESS": FailureCode.PROVIDER_REJECTED,
    "TRANSACTION_ALREADY_IN_PROCESS": FailureCode.PROVIDER_REJECTED,
    "MANUALLY_CANCELLED": FailureCode.PROVIDER_REJECTED,
    "DEPOSIT_ALREADY_REFUNDED": FailureCode.PROVIDER_REJECTED,
    "REFUND_IN_PROGRESS": FailureCode.PROVIDER_REJECTED,
    "AMOUNT_TOO_LARGE": FailureCode.PROVIDER_REJECTED,
    "NOT_FOUND": FailureCode.PROVIDER_REJECTED,  # of a refund: its deposit
    "INVALID_STATE": FailureCode.PROVIDER_REJECTED,  # the same
    "DEPOSIT_NOT_FOUND": FailureCode.PROVIDER_REJECTED,  # version 1's words for these two
    "DEPOSIT_NOT_COMPLETED": FailureCode.PROVIDER_REJECTED,
    "AMOUNT_OUT_OF_BOUNDS": FailureCode.PROVIDER_REJECTED,
    "INVALID_AMOUNT": FailureCode.PROVIDER_REJECTED,
    "INVALID_PHONE_NUMBER": FailureCode.PROVIDER_REJECTED,
    "INVALID_CURRENCY": FailureCode.PROVIDER_REJECTED,
    "INVALID_PROVIDER": FailureCode.PROVIDER_REJECTED,
    "UNSPECIFIED_FAILURE": FailureCode.PROVIDER_ERROR,
    "UNKNOWN_ERROR": FailureCode.PROVIDER_ERROR,  # with FAILED; with REJECTED see below
}

# What HTTP 400 must say to be pawaPay's own refusal, and not that of something in front of it: README 2 [D].
REFUSED_WITH_400 = frozenset({
    "INVALID_INPUT",
    "MISSING_PARAMETER",
    "UNSUPPORTED_PARAMETER",
    "INVALID_PARAMETER",
    "DUPLICATE_METADATA_FIELD",
})  # fmt: skip

# What HTTP 403 says of the kind of movement, and not of the credentials: README 2 [D2]. It comes with 200 too.
REFUSED_WITH_403 = frozenset({
    "DEPOSITS_NOT_ALLOWED",
    "PAYOUTS_NOT_ALLOWED",
    "REFUNDS_NOT_ALLOWED",
    "REMITTANCES_NOT_ALLOWED",
})  # fmt: skip

# A word that takes back what REJECTED says: pawaPay does not know itself.
NO_REFUSAL = "UNKNOWN_ERROR"

# Of the credentials: README 2 [D].
OF_CREDENTIALS = frozenset({"NO_AUTHENTICATION", "AUTHENTICATION_ERROR", "AUTHORISATION_ERROR", "HTTP_SIGNATURE_ERROR"})
TOLD = REFUSED_WITH_400 | REFUSED_WITH_403 | OF_CREDENTIALS.union(REASONS)


class _PublicKey(msgspec.Struct):
    id: str
    key: str


# --- what is written ----------------------------------------------------------------------------------------


def bearer_headers(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def body(request: Request) -> bytes:
    """Write a request. A refund names its deposit, and pawaPay knows the wallet."""
    written: dict[str, object] = {
        IDS[kind_of(request)]: request.reference,
        "amount": amount(request.money),
        "currency": request.money.currency,
    }
    match request:
        case Collection():
            written["payer"] = _account(request.payer, request.network)
        case Payout():
            written["recipient"] = _account(request.payee, request.network)
        case Refund():
            return msgspec.json.encode({**written, "depositId": request.collection})
        case _:
            assert_never(request)
    if (shown := message(request.description)) is not None:
        written["customerMessage"] = shown
    return msgspec.json.encode(written)


def amount(money: Money) -> str:
    """Write decimal digits as text: "100", "10.50". Not every provider takes decimals that are zero: README 2 [D]."""
    whole, _, fraction = str(money).partition(".")
    return f"{whole}.{fraction}" if fraction.strip("0") else whole


def message(description: str | None) -> str | None:
    """Keep the letters without accents, digits and single spaces of a description, or None when too few are left."""
    plain = "".join(c for c in unicodedata.normalize("NFKD", description or "") if not unicodedata.combining(c))
    short = NOT_IN_MESSAGES.sub(" ", plain).strip()[:MAX_MESSAGE].rstrip()
    return short if len(short) >= MIN_MESSAGE else None


def subject(token: str) -> str | None:
    """Whose account a token opens: the subject of a JSON Web Token. Another kind of token does not tell."""
    _, _, rest = token.partition(".")
    payload, _, _ = rest.partition(".")
    try:
        claims = read_object(base64.b64decode(payload + "=" * (-len(payload) % 4), altchars=b"-_", validate=True))
        told = text(claims.get("sub"), numbers=True)
    except (ValueError, Strange):
        return None
    return told if told and len(told) <= MAX_SUBJECT else None


def _account(wallet: Msisdn, network: str) -> dict[str, object]:
    return {"type": "MMO", "accountDetails": {"phoneNumber": wallet.digits, "provider": PROVIDERS[network]}}


# --- what the answers mean ----------------------------------------------------------------------------------


def read_create(status: int, body: bytes, reference: ProviderReference) -> Outcome:
    """Read the answer to a request. `Accepted.calls_back`: this very request was taken, and no callback is out yet."""
    match status:
        case 200:
            return _read_initiation(body, reference)
        case 400 if (code := _code(body)) in REFUSED_WITH_400:
            return Declined(FailureCode.PROVIDER_REJECTED, code)
        case 403 if (code := _code(body)) in REFUSED_WITH_403:
            return Declined(FailureCode.NOT_ALLOWED, code)
        case _:  # any other 403 and 401 too: they speak of the credentials, and not of this payment
            return _unknown(status, body)


def _read_initiation(body: bytes, reference: ProviderReference) -> Outcome:
    try:
        answer = read_object(body)
        # Under any of the three names: pawaPay's own guide answers a refund with `payoutId` (README 2 [D]).
        named = {(text(answer[name]) or "").lower() for name in IDS.values() if name in answer}
        if named and reference not in named:
            return Unknown("the answer is about another reference", outage=False)
        return _read_door(answer)
    except Strange as strange:
        return strange.unknown


def _read_door(answer: Object) -> Accepted | Declined | Unknown:
    match word := text(answer.get("status")):
        case "ACCEPTED":
            return Accepted(calls_back=True)
        case "DUPLICATE_IGNORED":  # its outcome may be there already: no callback to wait for
            return Accepted(calls_back=False)
        case "REJECTED" if (code := _failure_code(answer)) != NO_REFUSAL:
            return declined(code, REASONS, FailureCode.PROVIDER_REJECTED)
        case "REJECTED":
            return Unknown(f"rejected with {NO_REFUSAL}", outage=False)
        case _:
            raise _no_word(word)


def read_status(status: int, body: bytes, kind: Kind, reference: ProviderReference) -> Finding:
    if status != 200:
        return _unknown(status, body)
    try:
        answer = read_object(body)
        data = inner(answer.get("data"))
        match outer := text(answer.get("status")):
            case "NOT_FOUND" if not data:
                return NotFound(firm=True)  # README 3 [D]
            case "FOUND":
                return _read_found(data, kind, reference)
            case "NOT_FOUND":
                return Unknown("not found, and yet it tells of one", outage=False)
            case _:
                raise _no_word(outer)
    except Strange as strange:
        return strange.unknown


def _read_found(data: Object, kind: Kind, reference: ProviderReference) -> Finding:
    if (text(data.get(IDS[kind])) or "").lower() != reference:
        return Unknown("the answer is about another reference", outage=False)
    word = _read_word(data, kind)
    if isinstance(word, Succeeded):
        return replace(word, money=_money(data), payer=_wallet(data, kind))
    return word


def read_callback(body: bytes) -> CallbackWord:
    """Read whose payment it is and what became of it: the `data` of a status answer. Raises Foreign, Unreadable."""
    try:
        data = read_object(body)
        kind = _kind_in(data)
        reference = our_reference(data, IDS[kind])
    except Strange as strange:
        raise Unreadable(f"This is no callback of pawaPay's: {strange}.") from None
    word = verdict(lambda told: _read_word(told, kind), data)
    amount = readable(_money, data)
    wallet = readable(lambda told: _wallet(told, kind), data)
    if isinstance(word, Succeeded):
        word = replace(word, money=amount, payer=wallet)
    direction: Direction = "in" if kind == "collection" else "out"
    return CallbackWord(reference, word, amount, wallet, direction)


def read_public_keys(status: int, body: bytes) -> dict[str, str] | None:
    """Read the public keys in PEM by their ids, or None where the answer is not a list of them."""
    if status != 200:
        return None
    try:
        keys = msgspec.json.decode(without_mark(body), type=list[_PublicKey])
    except (msgspec.DecodeError, RecursionError):
        return None
    return {one.id: one.key for one in keys[:MAX_PUBLIC_KEYS]}


def read_configuration(status: int, body: bytes) -> str | None:
    """Read whether the account can be used: None, or why not."""
    try:
        answer = read_object(body)
        if status == 200 and "countries" in answer:
            signed_only = inner(answer.get("signatureConfiguration")).get("signedRequestsOnly")
            return None if signed_only is not True else "pawaPay takes only signed requests from this account"
    except Strange:
        pass
    return f"pawaPay does not take this account: {_told(status, body)}"


def _kind_in(data: Object) -> Kind:
    """Tell by its id what a callback is about. A refund may name its deposit beside its own id."""
    for kind in ("refund", "payout", "collection"):
        if data.get(IDS[kind]):
            return kind
    raise Strange("it names no depositId, payoutId or refundId")


def _read_word(data: Object, kind: Kind) -> Accepted | Succeeded | Declined:
    """Read the status of a payment: README 3. Raises Strange."""
    match word := text(data.get("status")):
        case "COMPLETED":
            return Succeeded(their_id(data, "providerTransactionId"))
        case "FAILED":
            code = _failure_code(data)
            if code == "WALLET_LIMIT_REACHED" and kind != "collection":
                return Declined(FailureCode.PAYEE_NOT_ALLOWED, code)  # one word for the wallets of both sides
            return declined(code, REASONS, FailureCode.PROVIDER_ERROR)
        case "ACCEPTED" | "PROCESSING" | "SUBMITTED" | "ENQUEUED" | "IN_RECONCILIATION":
            return Accepted()
        case _:
            raise _no_word(word)


def _no_word(word: str | None) -> Strange:
    return Strange("the status is not one of pawaPay's words", unlisted=cut(word))


def _money(data: Object) -> Money:
    return money(data.get("amount"), data.get("currency"))


def _wallet(data: Object, kind: Kind) -> str | None:
    """Read whose wallet it was, as digits: the payer's, or where money went out the recipient's."""
    side = inner(data.get("payer" if kind == "collection" else "recipient"))
    if side and text(side.get("type")) != "MMO":
        raise Strange("the wallet is not a phone number")
    return number(inner(side.get("accountDetails")).get("phoneNumber"))


def _unknown(status: int, body: bytes) -> Unknown:
    code = _code(body)
    new = code if status == 400 and code not in TOLD else None  # of other statuses' words none is listed
    return replace(unclear(status, body, _told(status, body)), unlisted=new)


def _told(status: int, body: bytes) -> str:
    return said(status, _code(body), listed=TOLD)


def _code(body: bytes) -> str | None:
    """Read the failure code of a refused request; HTML and an empty body carry none."""
    try:
        return _failure_code(read_object(body))
    except Strange:
        return None


def _failure_code(answer: Object) -> str | None:
    return cut(text(inner(answer.get("failureReason")).get("failureCode")))
