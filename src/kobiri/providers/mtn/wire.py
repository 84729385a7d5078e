"""MTN MoMo Open API, Collection: what is written, and what the answers mean. Pure.

README.md in this folder tells the facts, how sure each is, and where they come from; it is cited by section.
"""

import base64
import re
import unicodedata
from dataclasses import dataclass, field, replace
from http import HTTPStatus

import msgspec

from kobiri.domain.ids import ProviderReference, parse_id
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
from kobiri.providers.answers import Object, Strange, cut, money, number, read_object, readable, text
from kobiri.providers.base import CallbackWord, Collection, Unreadable

TOKEN_PATH = "/collection/token/"  # noqa: S105  # with its trailing slash: README 1 [D]
REQUEST_TO_PAY_PATH = "/collection/v1_0/requesttopay"

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
    "PAYER_LIMIT_REACHED": FailureCode.PAYER_LIMIT_REACHED,
    "APPROVAL_REJECTED": FailureCode.PAYER_DECLINED,
    "TRANSACTION_CANCELED": FailureCode.PAYER_DECLINED,
    "EXPIRED": FailureCode.PAYER_TIMEOUT,
    "PAYMENT_NOT_APPROVED": FailureCode.PAYER_TIMEOUT,
    "COULD_NOT_PERFORM_TRANSACTION": FailureCode.PAYER_TIMEOUT,  # no approval within about 5 minutes [D2]
    "PAYEE_NOT_FOUND": FailureCode.PAYEE_NOT_ALLOWED,
    "PAYEE_LIMIT_REACHED": FailureCode.PAYEE_NOT_ALLOWED,
    "PAYEE_NOT_ALLOWED_TO_RECEIVE": FailureCode.PAYEE_NOT_ALLOWED,
    "NOT_ALLOWED": FailureCode.NOT_ALLOWED,
    "NOT_ALLOWED_TARGET_ENVIRONMENT": FailureCode.NOT_ALLOWED,
    "SENDER_ACCOUNT_NOT_ACTIVE": FailureCode.NOT_ALLOWED,
    "INVALID_CALLBACK_URL_HOST": FailureCode.PROVIDER_REJECTED,
    "INVALID_CURRENCY": FailureCode.PROVIDER_REJECTED,
    "VALIDATION_ERROR": FailureCode.PROVIDER_REJECTED,
    "LOW_BALANCE_OR_PAYEE_LIMIT_REACHED_OR_NOT_ALLOWED": FailureCode.PROVIDER_REJECTED,
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

# Words that take back what a 400 says: the request arrived before, or MTN does not know itself.
NO_REFUSAL = frozenset({"RESOURCE_ALREADY_EXIST", "INTERNAL_PROCESSING_ERROR", "SERVICE_UNAVAILABLE"})


@dataclass(frozen=True, slots=True)
class Token:
    """A bearer token and how long it lives from its arrival, in seconds."""

    text: str = field(repr=False)
    life_s: float


@dataclass(frozen=True, slots=True)
class TokenRefused:
    """401: refused before anything was done."""


# --- what is written ----------------------------------------------------------------------------------------


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


def collection_headers(bearer: dict[str, str], collection: Collection, callback_url: str | None) -> dict[str, str]:
    headers = {**bearer, "X-Reference-Id": collection.reference, "Content-Type": "application/json"}
    if callback_url:  # an empty one breaks the request: README 2 [O]
        headers["X-Callback-Url"] = callback_url
    return headers


def collection_body(collection: Collection) -> bytes:
    message = note(collection.description)
    return msgspec.json.encode({
        "amount": amount(collection.money),
        "currency": collection.money.currency,
        "externalId": collection.reference,  # a callback carries no other id: README 5 [O]
        "payer": {"partyIdType": "MSISDN", "partyId": collection.payer.digits},
        "payerMessage": message,
        "payeeNote": message,
    })  # fmt: skip


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
        return NotSent(f"no token: {_told(status, body)}")
    if status != HTTPStatus.OK or token is None or not TOKEN_TEXT.fullmatch(token):
        return NotSent(f"no token: {_told(status, body)}")
    return Token(token, _life(answer))


def read_create(status: int, body: bytes) -> Outcome | TokenRefused:
    match status:
        case 202 | 409:  # 409: this reference has arrived before, and its outcome must be asked for
            return Accepted()
        case 401:
            return TokenRefused()
        case 400 if (code := _code(body)) not in NO_REFUSAL:
            return Declined(REASONS.get(code or "", FailureCode.PROVIDER_REJECTED), code)
        case 422 if (code := _code(body)) not in NO_REFUSAL:
            return Declined(REASONS.get(code or "", FailureCode.PAYER_NOT_FOUND), code)
        case 500 if (code := _code(body)) is not None and code in REFUSED_WITH_500:
            return Declined(REASONS[code], code)
        case _:
            return _unknown(status, body)


def read_status(status: int, body: bytes, reference: ProviderReference) -> Finding | TokenRefused:
    match status:
        case 200:
            return _read_found(body, reference)
        case 401:
            return TokenRefused()
        case 404 if _code(body) == "RESOURCE_NOT_FOUND":
            return NotFound(firm=False)  # it may still be on its way: README 3 [I]
        case _:
            return _unknown(status, body)


def _unknown(status: int, body: bytes) -> Unknown:
    return Unknown(_told(status, body), outage=not 400 <= status < 500)


def _read_found(body: bytes, reference: ProviderReference) -> Finding:
    try:
        answer = read_object(body)
        if text(answer.get("externalId")) != reference:
            return Unknown("the answer is about another reference")
        word = _read_word(answer)
        if isinstance(word, Succeeded):
            return replace(word, money=_money(answer), payer=_payer(answer))
    except Strange as strange:
        return Unknown(str(strange))
    return word


def read_callback(body: bytes) -> CallbackWord:
    """Read whose payment it is and what became of it: a status answer's body. Raises Unreadable."""
    try:
        answer = read_object(body)
        reference = (text(answer.get("externalId")) or "").lower()
        word = _read_word(answer)
    except Strange as strange:
        raise Unreadable(f"This is no callback of MTN's: {strange}.") from None
    if parse_id(reference) != reference:
        raise Unreadable("This is no callback of MTN's: externalId is not a reference of ours.")
    money, payer = readable(_money, answer), readable(_payer, answer)
    if isinstance(word, Succeeded):
        word = replace(word, money=money, payer=payer)
    return CallbackWord(ProviderReference(reference), word, money, payer)


def _read_word(answer: Object) -> Accepted | Succeeded | Declined:
    """Read the status in a status answer or a callback: README 3, 5. Raises Strange."""
    match text(answer.get("status")):
        case "SUCCESSFUL":
            return Succeeded(cut(text(answer.get("financialTransactionId"), numbers=True)))
        case "FAILED":
            reason = answer.get("reason")  # on the wire a text, by description an object: README 3 [O]
            code = cut(text(reason.get("code") if isinstance(reason, dict) else reason))
            return Declined(REASONS.get(code or "", FailureCode.PROVIDER_ERROR), code)
        case "PENDING" | "CREATED":
            return Accepted()
        case _:
            raise Strange("the status is not one of MTN's words")


def _money(answer: Object) -> Money:
    return money(answer.get("amount"), answer.get("currency"))


def _payer(answer: Object) -> str | None:
    """Read who paid, as digits; None where nobody is named."""
    payer = answer.get("payer")
    if isinstance(payer, dict):
        if (text(payer.get("partyIdType")) or "").upper() != "MSISDN":
            raise Strange("the payer is not a phone number")
        payer = payer.get("partyId", "")
    return number(text(payer), "payer")


def _life(answer: Object) -> float:
    """Read how long a token lives, in seconds; a short life where that is nonsense."""
    life = readable(lambda told: text(told.get("expires_in"), numbers=True), answer)
    return min(float(life), MAX_TOKEN_LIFE_S) if life and SECONDS.fullmatch(life) else SHORT_TOKEN_LIFE_S


def _told(status: int, body: bytes) -> str:
    code = _code(body)
    return f"HTTP {status} {code}" if code else f"HTTP {status}"


def _code(body: bytes) -> str | None:
    """Read the code of {"code", "message"} or {"error"}.

    The gateway's {"statusCode", "message"}, HTML and an empty body carry none: README 2 [O].
    """
    try:
        answer = read_object(body)
        return cut(text(answer.get("code")) or text(answer.get("error")))
    except Strange:
        return None
