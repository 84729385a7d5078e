"""MTN MoMo Open API, Collection and Disbursement: what is written, and what the answers mean. Pure.

README.md in this folder tells the facts, how sure each is, and where they come from; it is cited by section.
"""

import base64
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from typing import Final, Literal, assert_never

import msgspec

from kobiri.domain.ids import ProviderReference
from kobiri.domain.money import Money
from kobiri.domain.outcome import (
    Accepted,
    Declined,
    FailureCode,
    Finding,
    NotFound,
    NotSent,
    Outcome,
    Succeeded,
    Unknown,
)
from kobiri.domain.payment import Kind
from kobiri.domain.statement import Direction
from kobiri.providers.answers import (
    Object,
    Strange,
    cut,
    declined,
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
)
from kobiri.providers.base import CallbackWord, Collection, Payout, Refund, Request, Unreadable

Product = Literal["collection", "disbursement"]

# Refunds too are the Disbursement product's: README 2 [D2].
PRODUCTS: Final[Mapping[Kind, Product]] = {
    "collection": "collection",
    "payout": "disbursement",
    "refund": "disbursement",
}

MAX_NOTE = 160  # longer gives 400: README 2 [D]
NEUTRAL_NOTE = "Payment"
# Apostrophes "and other special characters" give 400 (README 2 [D]); which ones is written nowhere.
NOT_IN_NOTES = re.compile(r"[^A-Za-z0-9.,-]+")

MAX_TOKEN_LIFE_S = 86_400.0
SHORT_TOKEN_LIFE_S = 60.0  # where `expires_in` is missing or nonsense
TOKEN_TEXT = re.compile(r"[\x21-\x7e]{1,6000}", re.ASCII)  # what may stand in a header
SECONDS = re.compile(r"[1-9][0-9]{0,6}", re.ASCII)

# MTN's `reason` of a failed payment and `code` of a refused request: README 4 [D2], our classes [I].
# The set is open: what is not here becomes PROVIDER_ERROR, with MTN's word kept beside it.
REASONS = {
    "PAYER_NOT_FOUND": FailureCode.PAYER_NOT_FOUND,
    "NOT_ENOUGH_FUNDS": FailureCode.INSUFFICIENT_FUNDS,
    "LOW_BALANCE_OR_PAYEE_LIMIT_REACHED_OR_NOT_ALLOWED": FailureCode.INSUFFICIENT_FUNDS,  # the commonest: README 4 [O]
    "PAYER_LIMIT_REACHED": FailureCode.PAYER_LIMIT_REACHED,
    "APPROVAL_REJECTED": FailureCode.PAYER_DECLINED,
    "TRANSACTION_CANCELED": FailureCode.PAYER_DECLINED,
    "EXPIRED": FailureCode.PAYER_TIMEOUT,
    "PAYMENT_NOT_APPROVED": FailureCode.PAYER_TIMEOUT,
    "COULD_NOT_PERFORM_TRANSACTION": FailureCode.PAYER_TIMEOUT,  # no approval within about 5 minutes [D2]
    "PAYEE_NOT_FOUND": FailureCode.PAYEE_NOT_FOUND,
    "PAYEE_LIMIT_REACHED": FailureCode.PAYEE_NOT_ALLOWED,
    "PAYEE_NOT_ALLOWED_TO_RECEIVE": FailureCode.PAYEE_NOT_ALLOWED,
    "NOT_ALLOWED": FailureCode.NOT_ALLOWED,
    "NOT_ALLOWED_TARGET_ENVIRONMENT": FailureCode.NOT_ALLOWED,
    "SENDER_ACCOUNT_NOT_ACTIVE": FailureCode.NOT_ALLOWED,
    "INVALID_CALLBACK_URL_HOST": FailureCode.PROVIDER_REJECTED,
    "INVALID_CURRENCY": FailureCode.PROVIDER_REJECTED,
    "VALIDATION_ERROR": FailureCode.PROVIDER_REJECTED,
    "RESOURCE_NOT_FOUND": FailureCode.PROVIDER_REJECTED,  # a refund's collection, we think: README 4 [I]
    "TRANSACTION_NOT_FOUND": FailureCode.PROVIDER_REJECTED,  # listed, nowhere explained: README 4 [C]
    "TRANSACTION_NOT_COMPLETED": FailureCode.PROVIDER_ERROR,  # the same
    "TRANSFER_TYPE_UNKNOWN": FailureCode.PROVIDER_ERROR,  # of the sandbox's number 464
    "INTERNAL_PROCESSING_ERROR": FailureCode.PROVIDER_ERROR,  # final when FAILED: README 4 [O]
    "SERVICE_UNAVAILABLE": FailureCode.PROVIDER_UNAVAILABLE,
}

# Mistakes of ours or of the payer that MTN answers with HTTP 500: README 2 [D].
REFUSED_WITH_500 = frozenset({
    "NOT_ALLOWED",
    "NOT_ALLOWED_TARGET_ENVIRONMENT",
    "INVALID_CALLBACK_URL_HOST",
    "INVALID_CURRENCY",
    "PAYER_NOT_FOUND",
    "PAYEE_NOT_FOUND",
    "NOT_ENOUGH_FUNDS",
    "PAYER_LIMIT_REACHED",
    "PAYEE_NOT_ALLOWED_TO_RECEIVE",
})  # fmt: skip

# Words about one wallet or one amount of which nobody tells with which status they come: README 2 [C] [I]. With 500
# they settle nothing, and are no outage all the same.
ABOUT_ONE_REQUEST = REFUSED_WITH_500 | {
    "SENDER_ACCOUNT_NOT_ACTIVE",
    "PAYEE_LIMIT_REACHED",
    "VALIDATION_ERROR",
    "LOW_BALANCE_OR_PAYEE_LIMIT_REACHED_OR_NOT_ALLOWED",
}

# Words that take back what a 400 says: the request arrived before, or MTN does not know itself.
NO_REFUSAL = frozenset({"RESOURCE_ALREADY_EXIST", "INTERNAL_PROCESSING_ERROR", "SERVICE_UNAVAILABLE"})

TOLD = NO_REFUSAL.union(REASONS, {"login_failed", "FORBIDDEN IP"})  # README 1 [O], 2 [O]


@dataclass(frozen=True, slots=True)
class Token:
    """A bearer token and how long it lives from its arrival, in seconds."""

    text: str = field(repr=False)
    life_s: float


@dataclass(frozen=True, slots=True)
class TokenRefused:
    """401: refused before anything was done."""


# A 422 names a number or an amount that MTN cannot take; it documents none: README 2 [I].
REFUSED_WITH_422: Final[Mapping[Kind, FailureCode]] = {
    "collection": FailureCode.PAYER_NOT_FOUND,
    "payout": FailureCode.PAYEE_NOT_FOUND,
    "refund": FailureCode.PROVIDER_REJECTED,
}


# --- what is written ----------------------------------------------------------------------------------------


def token_path(product: Product) -> str:
    return f"/{product}/token/"  # with its trailing slash: README 1 [D]


def path(kind: Kind, payout_call: str) -> str:
    """Where a movement is created; its status is asked for at the same path and its reference."""
    match kind:
        case "collection":
            return "/collection/v1_0/requesttopay"
        case "payout":
            return "/disbursement/v1_0/deposit" if payout_call == "deposit" else "/disbursement/v1_0/transfer"
        case "refund":
            return "/disbursement/v1_0/refund"
        case _:
            assert_never(kind)


def token_headers(api_user: str, api_key: str, subscription_key: str, environment: str) -> dict[str, str]:
    basic = base64.b64encode(f"{api_user}:{api_key}".encode()).decode()
    return {
        "Authorization": f"Basic {basic}",
        "Ocp-Apim-Subscription-Key": subscription_key,
        "X-Target-Environment": environment,  # wanted here by the new platform: README 1 [D2]
        "Content-Length": "0",  # without it the gateway answers 411: README 1 [O]
    }


def bearer_headers(token: str, subscription_key: str, environment: str) -> dict[str, str]:
    return {
        "Authorization": f"Bearer {token}",
        "Ocp-Apim-Subscription-Key": subscription_key,
        "X-Target-Environment": environment,
    }


def create_headers(bearer: Mapping[str, str], request: Request, callback_url: str | None) -> dict[str, str]:
    headers = {**bearer, "X-Reference-Id": request.reference, "Content-Type": "application/json"}
    if callback_url:  # an empty one breaks the request: README 2 [O]
        headers["X-Callback-Url"] = callback_url
    return headers


def create_body(request: Request) -> bytes:
    message = note(request.description)
    return msgspec.json.encode({
        "amount": amount(request.money),
        "currency": request.money.currency,
        "externalId": request.reference,  # a callback carries no other id: README 5 [O]
        **_other_side(request),
        "payerMessage": message,
        "payeeNote": message,
    })  # fmt: skip


def _other_side(request: Request) -> dict[str, object]:
    """Name the wallet, or for a refund the collection whose payer gets it back."""
    match request:
        case Collection():
            return {"payer": {"partyIdType": "MSISDN", "partyId": request.payer.digits}}
        case Payout():
            return {"payee": {"partyIdType": "MSISDN", "partyId": request.payee.digits}}
        case Refund():
            return {"referenceIdToRefund": request.collection}
        case _:
            assert_never(request)


def amount(money: Money) -> str:
    """Write decimal digits as text: "100", "10.50"."""
    whole, _, fraction = str(money).partition(".")
    return f"{whole}.{fraction}" if fraction.strip("0") else whole


def note(description: str | None) -> str:
    """Keep what MTN takes in a message: letters without accents, digits, space, full stop, comma, hyphen."""
    plain = "".join(c for c in unicodedata.normalize("NFKD", description or "") if not unicodedata.combining(c))
    return NOT_IN_NOTES.sub(" ", plain).strip()[:MAX_NOTE].rstrip() or NEUTRAL_NOTE


# --- what the answers mean ----------------------------------------------------------------------------------


def read_token(status: int, body: bytes) -> Token | NotSent:
    try:
        answer = read_object(body)
        token = text(answer.get("access_token"))
    except Strange:
        return _no_token(status, body)
    if status != HTTPStatus.OK or token is None or not TOKEN_TEXT.fullmatch(token):
        return _no_token(status, body)
    return Token(token, _life(answer))


def read_create(status: int, body: bytes, kind: Kind) -> Outcome | TokenRefused:
    match status:
        case 202 | 409:  # 409: this reference has arrived before, and its outcome must be asked for
            return Accepted()
        case 401:
            return TokenRefused()
        case 400 if (code := _code(body)) not in NO_REFUSAL:
            return declined(code, REASONS, FailureCode.PROVIDER_REJECTED)
        case 422 if (code := _code(body)) not in NO_REFUSAL:
            return declined(code, REASONS, REFUSED_WITH_422[kind])
        case 500 if (code := _code(body)) is not None and code in REFUSED_WITH_500:
            return Declined(REASONS[code], code)
        case _:
            return _unknown(status, body)


def read_status(status: int, body: bytes, reference: ProviderReference, kind: Kind) -> Finding | TokenRefused:
    match status:
        case 200:
            return _read_found(body, reference, kind)
        case 401:
            return TokenRefused()
        case 404 if _code(body) == "RESOURCE_NOT_FOUND":
            return NotFound(firm=False)  # it may still be on its way: README 3 [I]
        case _:
            return _unknown(status, body)


def _unknown(status: int, body: bytes) -> Unknown:
    unknown = unclear(status, body, _told(status, body))
    # Such a 500 speaks of one number or one amount, in an answer to a question too.
    about_one = status == HTTPStatus.INTERNAL_SERVER_ERROR and _code(body) in ABOUT_ONE_REQUEST
    return replace(unknown, outage=False) if about_one else unknown


def _read_found(body: bytes, reference: ProviderReference, kind: Kind) -> Finding:
    try:
        answer = read_object(body)
        if text(answer.get("externalId")) != reference:
            return Unknown("the answer is about another reference", outage=False)
        word = _read_word(answer)
        if isinstance(word, Succeeded):
            # A payout's payee and a refund's stand where a collection's payer does, in our rows too: the other
            # side's wallet. So the number that MTN names is compared with ours for every kind.
            wallet = _wallet(answer, "payer" if kind == "collection" else "payee")
            return replace(word, money=_money(answer), payer=wallet)
    except Strange as strange:
        return strange.unknown
    return word


def read_callback(body: bytes) -> CallbackWord:
    """Read whose payment it is and what became of it: a status answer's body. Raises Foreign, Unreadable.

    `payer` in the word is whoever it names, payer or payee: money comes from the one and goes to the other.
    """
    try:
        answer = read_object(body)
        reference = our_reference(answer, "externalId")
    except Strange as strange:
        raise Unreadable(f"This is no callback of MTN's: {strange}.") from None
    word = verdict(_read_word, answer)
    money, payer = readable(_money, answer), readable(_named, answer)
    if isinstance(word, Succeeded):
        word = replace(word, money=money, payer=payer)
    return CallbackWord(reference, word, money, payer, _direction(answer))


def _read_word(answer: Object) -> Accepted | Succeeded | Declined:
    """Read the status in a status answer or a callback: README 3, 5. Raises Strange."""
    match word := text(answer.get("status")):
        case "SUCCESSFUL":
            return Succeeded(their_id(answer, "financialTransactionId"))
        case "FAILED":
            reason = answer.get("reason")  # on the wire a text, by description an object: README 3 [O]
            code = cut(text(reason.get("code") if isinstance(reason, dict) else reason))
            return declined(code, REASONS, FailureCode.PROVIDER_ERROR)
        case "PENDING" | "CREATED":
            return Accepted()
        case _:
            raise Strange("the status is not one of MTN's words", unlisted=cut(word))


def _money(answer: Object) -> Money:
    return money(answer.get("amount"), answer.get("currency"))


def _direction(answer: Object) -> Direction | None:
    """Tell by the one whom it names which way the money goes: from a payer, to a payee. None: who knows.

    A payer who is no phone number may be the merchant.
    """
    if answer.get("payee") is not None:
        return None if answer.get("payer") is not None else "out"
    return "in" if readable(lambda told: _wallet(told, "payer"), answer) else None


def _named(answer: Object) -> str | None:
    """Read the one wallet that a callback names. Raises Strange where it names two."""
    payer, payee = _wallet(answer, "payer"), _wallet(answer, "payee")
    if payer and payee:
        raise Strange("both payer and payee are named")
    return payer or payee


def _wallet(answer: Object, whose: Literal["payer", "payee"]) -> str | None:
    """Read whose wallet it is, as far as it is shown; None where nobody is named."""
    party = answer.get(whose)
    if isinstance(party, dict):
        if (text(party.get("partyIdType")) or "").upper() != "MSISDN":
            raise Strange(f"the {whose} is not a phone number")
        party = party.get("partyId")
    return number(party)


def _life(answer: Object) -> float:
    """Read how long a token lives, in seconds; a short life where that is nonsense."""
    life = readable(lambda told: text(told.get("expires_in"), numbers=True), answer)
    return min(float(life), MAX_TOKEN_LIFE_S) if life and SECONDS.fullmatch(life) else SHORT_TOKEN_LIFE_S


def _no_token(status: int, body: bytes) -> NotSent:
    refused = status in (400, 401, 403) or _code(body) == "login_failed"  # the last one with 500: README 1 [O]
    return NotSent(f"no token: {_told(status, body)}", outage=not refused, refused=refused)


def _told(status: int, body: bytes) -> str:
    return said(status, _code(body), listed=TOLD)


def _code(body: bytes) -> str | None:
    """Read the code of {"code", "message"} or {"error"}.

    The gateway's {"statusCode", "message"}, HTML and an empty body carry none: README 2 [O].
    """
    try:
        answer = read_object(body)
        return cut(text(answer.get("code")) or text(answer.get("error")))
    except Strange:
        return None
