"""Airtel Money's Open API: what is written, and what the answers mean. Pure.

README.md in this folder tells the facts, how sure each is, and where they come from; it is cited by section.
"""

import base64
import binascii
import hashlib
import hmac
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from http import HTTPStatus

import msgspec
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding as paddings
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.padding import PKCS7
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key

from kobiri.domain.ids import ProviderReference, parse_id
from kobiri.domain.money import Money
from kobiri.domain.outcome import (
    Accepted,
    Declined,
    Doubtful,
    FailureCode,
    Finding,
    NotFound,
    NotSent,
    Outcome,
    Succeeded,
    Unknown,
)
from kobiri.domain.redaction import as_code
from kobiri.providers.answers import (
    Object,
    Strange,
    inner,
    read_object,
    readable,
    said,
    text,
    their_id,
    unclear,
    verdict,
    without_mark,
)
from kobiri.providers.base import Authenticity, CallbackWord, Collection, Foreign, Payout, Unreadable
from kobiri.providers.tokens import Fresh

TOKEN_PATH = "/auth/oauth2/token"  # noqa: S105
KEY_PATH = "/v1/rsa/encryption-keys"
COLLECTION_PATHS = {"v1": "/merchant/v1/payments/", "v2": "/merchant/v2/payments/"}
COLLECTION_ENQUIRY_PATH = "/standard/v1/payments/"
PAYOUT_PATHS = {"v2": "/standard/v2/disbursements/", "v3": "/standard/v3/disbursements"}
PAYOUT_ENQUIRIES = {  # v3's takes no query: README 4 [C]
    "v2": "/standard/v2/disbursements/{}?transactionType=B2C",
    "v3": "/standard/v3/disbursements/{}",
}
REFUND_PATHS = {"v1": "/standard/v1/payments/refund", "v2": "/standard/v2/payments/refund"}
ALWAYS_SIGNED = frozenset({("payout", "v3"), ("refund", "v2")})  # README 5 [D2]

MAX_TOKEN_LIFE_S = 86_400.0
SHORT_TOKEN_LIFE_S = 60.0  # where `expires_in` is missing or nonsense
TOKEN_TEXT = re.compile(r"[\x21-\x7e]{1,6000}", re.ASCII)  # what may stand in a header
SECONDS = re.compile(r"[1-9][0-9]{0,6}", re.ASCII)

MAX_KEY_LIFE_S = 86_400.0
SHORT_KEY_LIFE_S = 60.0
UNTOLD_KEY_LIFE_S = 3600.0  # where `valid_upto` is missing or nonsense
# `valid_upto` has no time zone. India's is the easternmost that Airtel may mean: README 5 [I].
KEY_ENDS_EARLIER = timedelta(hours=6)

MIN_NOTE, MAX_NOTE = 4, 64  # README 2 [C]
NEUTRAL_NOTE = "Payment"
NOT_IN_NOTES = re.compile(r"[^A-Za-z0-9]+")
CODE = re.compile(r"[A-Za-z0-9_-]{1,64}", re.ASCII)  # a sentence in a code's place may name a phone number
RECEIPT = re.compile(r"(?=(?:[^0-9]*[0-9]){8})[A-Z0-9.]{8,40}", re.ASCII)
TRANSACTION_ID = re.compile(r"[0-9a-f]{32}", re.ASCII | re.IGNORECASE)

SIGNING_SECRET_BYTES = 69  # the base64 of a 32-byte key, a colon, the base64 of a 16-byte IV
PADDINGS = ("pkcs1", "oaep-sha1", "oaep-sha256", "oaep-sha256-mgf1-sha1")
OVERHEAD_BYTES = dict(zip(PADDINGS, (11, 2 * 20 + 2, 2 * 32 + 2, 2 * 32 + 2), strict=True))

WORDS = frozenset({None, "SUCCESS", "TS", "TF", "TE", "TIP", "TI", "TA"})
# Codes: README 6. Both products number their answers alike, in two series. Collections have a second numbering, seen
# until 2023: DP008001nnn is not DP00800001nnn with a zero less, so each of its codes is listed by itself.
NEUTRAL = frozenset({"ESB000010"})  # the gateway has done its work: no word about the payment
PAID = frozenset({"DP00800001001", "DP00900001001", "DP008001001"})
PENDING = frozenset({"DP00800001006", "DP00900001006"})
# This id, or one like it, has arrived before: its outcome must be asked for.
DUPLICATE = frozenset({
    "DP00800001011", "DP00800001017", "DP00900001011", "DP00900001017", "ESB000041", "521050",
})  # fmt: skip
AMBIGUOUS = "DP00800001000"  # beside TF: one is no verdict, many are a failure; seen of collections only: README 4
# Airtel does not know itself: no word beside one of these is believed.
DOUBT = frozenset({
    AMBIGUOUS, "DP00800001014", "DP00900001000", "DP00900001014",
    "ESB000001", "ESB000004", "ESB000014", "ROUTER117",
})  # fmt: skip
# Beside one of these a failure is none, and a not-found is none, wherever it stands and in whichever order: it is paid,
# or goes on, or came twice, or Airtel does not know.
NO_FAILURE = PAID | PENDING | DUPLICATE | DOUBT
NOT_FOUND = frozenset({"DP00800001025", "DP00900001015", "ESB000045"})
# Of a key or of a name: they say nothing of a payment.
OF_OTHER_CALLS = frozenset({"DP00800001027", "DP00800001028", "DP02010001000", "DP02200000002"})
# Reasons of a failure where the enquiry or a callback says TF or TE, and no firm word before: README 6 [I].
NOT_AT_FIRST = frozenset({
    "DP00800001005", "DP00800001024", "DP00900001005",
    "DP008001013", "DP008001016", "DP008001021", "DP008001023",
    "ESB000011", "0000900", "521002",
})  # fmt: skip
# Where money goes out, a refusal that may be none would be paid twice: README 6 [D2].
NOT_AT_FIRST_OUT = NOT_AT_FIRST | {"ESB000008"}
MSISDN_NOT_FOUND = "msisdn not found"  # told under a code that also means other things: README 2 [D2]
# After one of these the encryption key may be an old one.
DOUBTS_KEY = frozenset({
    "DP00800001026", "DP00900001013", "DP00900001016", "DP00900001018", "ROUTER114", "ROUTER115", "ROUTER116",
})  # fmt: skip

# The request never came past the gateway, but for the last four: README 6 [D2].
BY_THE_GATEWAY = {
    "ROUTER001": FailureCode.PROVIDER_REJECTED,
    "ROUTER003": FailureCode.PROVIDER_REJECTED,
    "ROUTER005": FailureCode.PROVIDER_REJECTED,
    "ROUTER006": FailureCode.PROVIDER_REJECTED,
    "ROUTER007": FailureCode.NOT_ALLOWED,
    "ROUTER110": FailureCode.NOT_ALLOWED,
    "ROUTER112": FailureCode.PROVIDER_REJECTED,
    "ROUTER114": FailureCode.PROVIDER_REJECTED,
    "ROUTER115": FailureCode.PROVIDER_REJECTED,
    "ROUTER116": FailureCode.PROVIDER_REJECTED,
    "ROUTER119": FailureCode.PROVIDER_REJECTED,
    "ESB000033": FailureCode.PROVIDER_REJECTED,
    "ESB000034": FailureCode.PROVIDER_REJECTED,
    "ESB000035": FailureCode.PROVIDER_REJECTED,
    "ESB000036": FailureCode.PROVIDER_REJECTED,
    "ESB000039": FailureCode.NOT_ALLOWED,
    "ESB000008": FailureCode.PROVIDER_REJECTED,
    "ESB000011": FailureCode.PROVIDER_ERROR,
    "0000900": FailureCode.PROVIDER_ERROR,
    "521002": FailureCode.PROVIDER_REJECTED,
}
COLLECTION_REASONS = {
    **BY_THE_GATEWAY,
    "DP00800001002": FailureCode.PAYER_DECLINED,
    "DP00800001003": FailureCode.PAYER_LIMIT_REACHED,
    "DP00800001004": FailureCode.PROVIDER_REJECTED,
    "DP00800001005": FailureCode.PAYER_TIMEOUT,
    "DP00800001007": FailureCode.INSUFFICIENT_FUNDS,
    "DP00800001008": FailureCode.PAYER_DECLINED,
    "DP00800001009": FailureCode.PROVIDER_REJECTED,
    "DP00800001010": FailureCode.PAYER_NOT_FOUND,
    "DP00800001024": FailureCode.PAYER_TIMEOUT,
    "DP00800001026": FailureCode.PROVIDER_REJECTED,
    "DP00800001029": FailureCode.PAYER_TIMEOUT,
    "DP008001013": FailureCode.PROVIDER_REJECTED,
    "DP008001016": FailureCode.PAYER_NOT_FOUND,
    "DP008001021": FailureCode.INSUFFICIENT_FUNDS,
    "DP008001023": FailureCode.PAYER_DECLINED,
}
PAYOUT_REASONS = {
    **BY_THE_GATEWAY,
    "DP00900001003": FailureCode.PROVIDER_REJECTED,
    "DP00900001004": FailureCode.PROVIDER_REJECTED,
    "DP00900001005": FailureCode.PROVIDER_ERROR,
    "DP00900001007": FailureCode.INSUFFICIENT_FUNDS,
    "DP00900001009": FailureCode.PAYEE_NOT_ALLOWED,
    "DP00900001010": FailureCode.NOT_ALLOWED,
    "DP00900001012": FailureCode.PAYEE_NOT_FOUND,
    "DP00900001013": FailureCode.PROVIDER_REJECTED,
    "DP00900001016": FailureCode.PROVIDER_REJECTED,
    "DP00900001018": FailureCode.PROVIDER_REJECTED,
    "DP00900001019": FailureCode.NOT_ALLOWED,
}
REFUND_REASONS = {
    **COLLECTION_REASONS,
    "DP00800001010": FailureCode.NOT_ALLOWED,
    "DP008001016": FailureCode.NOT_ALLOWED,
    "DP00800001025": FailureCode.PROVIDER_REJECTED,
}
# What stands here and is neither paid nor in progress speaks against a success.
AGAINST = frozenset().union(
    DUPLICATE, DOUBT, NOT_FOUND, OF_OTHER_CALLS, COLLECTION_REASONS, PAYOUT_REASONS, REFUND_REASONS
)
LISTED = AGAINST | PAID | PENDING
TOLD = LISTED | WORDS | {"?"}  # the last one is ours, for a word that is none


@dataclass(frozen=True, slots=True)
class TokenRefused:
    """401, or 403 `invalid_token`: refused before anything was done."""


class BadKey(Exception):
    """An encryption key that cannot be used. The text is one plain sentence."""


@dataclass(frozen=True, slots=True)
class _Told:
    """What an answer says, whichever of the three shapes it has.

    `codes` are all but the neutral ones, the one to keep first. `answered`: there was any code, a neutral one too.
    """

    http_status: int
    word: str | None
    codes: tuple[str, ...]
    message: str
    transaction: Object = field(repr=False)
    body: bytes = field(repr=False)
    success: object = None
    answered: bool = True

    @property
    def code(self) -> str | None:
        return self.codes[0] if self.codes else None

    @property
    def unlisted(self) -> str | None:
        """The first code that is in no table: it decides nothing beside a clear word."""
        return next((code for code in self.codes if code not in LISTED), None)

    def has(self, codes: frozenset[str]) -> bool:
        return not codes.isdisjoint(self.codes)

    @property
    def unknown(self) -> Unknown:
        told = said(self.http_status, self.word, self.code, listed=TOLD)
        unknown = _unclear(self.http_status, self.body, told)
        if self.http_status not in (HTTPStatus.OK, HTTPStatus.BAD_REQUEST):
            return unknown  # of a gateway's or a page's words none is listed
        return replace(unknown, unlisted=self.unlisted if self.word in WORDS else self.word)

    def is_about(self, reference: ProviderReference) -> bool:
        return _reference(self.transaction) == reference

    def is_about_another(self, reference: ProviderReference) -> bool:
        """Whether it names somebody else; null, `false` (an official sample: README 2) and "" name nobody."""
        return self.transaction.get("id") not in (None, False, "") and not self.is_about(reference)

    @property
    def knows_no_wallet(self) -> bool:
        return self.code == "DP00800001005" and MSISDN_NOT_FOUND in self.message.lower()

    @property
    def takes_a_failure_back(self) -> bool:
        """Whether something speaks against a failure. Beside a word `success` says nothing: README 4 [O]."""
        return self.has(NO_FAILURE) or (self.word is None and self.success is True)

    def failure(self, reasons: Mapping[str, FailureCode]) -> FailureCode | None:
        """Why no money moved, where the code is one of the reasons."""
        return FailureCode.PAYER_NOT_FOUND if self.knows_no_wallet else reasons.get(self.code or "")


# --- what is written ----------------------------------------------------------------------------------------


def token_body(client_id: str, client_secret: str) -> bytes:
    return msgspec.json.encode({
        "client_id": client_id,
        "client_secret": client_secret,
        "grant_type": "client_credentials",
    })  # fmt: skip


def bearer_headers(token: str, country: str, currency: str) -> dict[str, str]:
    return {
        "Authorization": f"Bearer {token}",
        "Accept": "*/*",
        "X-Country": country,
        "X-Currency": currency,
    }


def transaction_id(reference: ProviderReference) -> str:
    """Our reference as Airtel takes it, letters and digits only: README 2 [C]."""
    return reference.replace("-", "")


def collection_body(collection: Collection, country: str) -> bytes:
    currency = collection.money.currency
    return msgspec.json.encode({
        "reference": note(collection.description),
        "subscriber": {"country": country, "currency": currency, "msisdn": collection.payer.national},
        "transaction": {
            "amount": amount(collection.money),
            "country": country,
            "currency": currency,
            "id": transaction_id(collection.reference),
        },
    })  # fmt: skip


def payout_body(payout: Payout, sealed_pin: str, version: str) -> bytes:
    payee = {"msisdn": payout.payee.national}
    return msgspec.json.encode({
        "payee": payee | ({"wallet_type": "NORMAL"} if version == "v3" else {"currency": payout.money.currency}),
        "reference": note(payout.description),
        "pin": sealed_pin,
        "transaction": {"amount": amount(payout.money), "id": transaction_id(payout.reference), "type": "B2C"},
    })  # fmt: skip


def refund_body(airtel_money_id: str) -> bytes:
    return msgspec.json.encode({"transaction": {"airtel_money_id": airtel_money_id}})


def collection_enquiry(reference: ProviderReference) -> str:
    return COLLECTION_ENQUIRY_PATH + transaction_id(reference)


def payout_enquiry(reference: ProviderReference, version: str) -> str:
    return PAYOUT_ENQUIRIES[version].format(transaction_id(reference))


def amount(money: Money) -> msgspec.Raw:
    """Write a JSON number, digit by digit: 100, 10.50. No number type ever holds it."""
    whole, _, fraction = str(money).partition(".")
    return msgspec.Raw((f"{whole}.{fraction}" if fraction.strip("0") else whole).encode())


def note(description: str | None) -> str:
    """Keep what Airtel surely takes as reference: 4 to 64 letters without accents and digits."""
    plain = "".join(c for c in unicodedata.normalize("NFKD", description or "") if not unicodedata.combining(c))
    kept = NOT_IN_NOTES.sub("", plain)[:MAX_NOTE]
    return kept if len(kept) >= MIN_NOTE else NEUTRAL_NOTE + kept


# --- the encryption key -------------------------------------------------------------------------------------


def read_public_key(key: str) -> RSAPublicKey:
    """Read base64 of a DER SubjectPublicKeyInfo. Raises BadKey."""
    try:
        read = load_der_public_key(base64.b64decode("".join(key.split()), validate=True))
    except (ValueError, TypeError, binascii.Error, UnsupportedAlgorithm):
        raise BadKey("The encryption key is not the base64 of an RSA public key.") from None
    if not isinstance(read, RSAPublicKey):
        raise BadKey("The encryption key is not the base64 of an RSA public key.")
    return read


def describe_key(key: RSAPublicKey) -> str:
    """A public key's size and name, by which two can be told apart."""
    der = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return f"{key.key_size} bits, SHA-256 {hashlib.sha256(der).hexdigest()[:16]}"


def check_room(key: RSAPublicKey, padding: str, length: int) -> None:
    """Raise BadKey where the key is too small to hold so many bytes under this padding."""
    room = (key.key_size + 7) // 8 - OVERHEAD_BYTES[padding]
    if length > room:
        raise BadKey(
            f"The encryption key is too small: {key.key_size} bits hold {max(room, 0)} bytes under {padding}, "
            f"and {length} are needed."
        )


def seal(secret: bytes, key: RSAPublicKey, padding: str) -> str:
    """Encrypt for Airtel alone, as base64. Raises BadKey."""
    check_room(key, padding, len(secret))
    try:
        return base64.b64encode(key.encrypt(secret, _padding(padding))).decode()
    except ValueError:
        raise BadKey("The encryption key cannot be used.") from None


def sign(body: bytes, key: RSAPublicKey, padding: str, *, aes_key: bytes, iv: bytes) -> dict[str, str]:
    """The headers x-signature and x-key for exactly these bytes: README 5. Raises BadKey."""
    padder = PKCS7(128).padder()
    padded = padder.update(body) + padder.finalize()
    encryptor = Cipher(algorithms.AES(aes_key), modes.CBC(iv)).encryptor()
    encrypted = encryptor.update(padded) + encryptor.finalize()
    secret = base64.b64encode(aes_key) + b":" + base64.b64encode(iv)
    return {"x-signature": base64.b64encode(encrypted).decode(), "x-key": seal(secret, key, padding)}


def _padding(name: str) -> paddings.AsymmetricPadding:
    if name == "pkcs1":
        return paddings.PKCS1v15()
    sha1, sha256 = hashes.SHA1(), hashes.SHA256()  # noqa: S303  # Airtel's: README 5 [C]
    algorithm = sha1 if name == "oaep-sha1" else sha256
    mgf1 = sha256 if name == "oaep-sha256" else sha1
    return paddings.OAEP(mgf=paddings.MGF1(mgf1), algorithm=algorithm, label=None)


# --- what the answers mean ----------------------------------------------------------------------------------


def read_token(status: int, body: bytes) -> Fresh[str] | NotSent:
    try:
        answer = read_object(body)
        token = text(answer.get("access_token"))
    except Strange:
        return _none("token", status, body)
    if status != HTTPStatus.OK or token is None or not TOKEN_TEXT.fullmatch(token):
        return _none("token", status, body)
    life = readable(lambda told: text(told.get("expires_in"), numbers=True), answer)
    return Fresh(token, min(float(life), MAX_TOKEN_LIFE_S) if life and SECONDS.fullmatch(life) else SHORT_TOKEN_LIFE_S)


def read_key(status: int, body: bytes, now: datetime) -> Fresh[RSAPublicKey] | NotSent | TokenRefused:
    told = _open(status, body, (HTTPStatus.OK,))
    if isinstance(told, TokenRefused):
        return told
    try:
        data = inner(read_object(body).get("data"))
        key = text(data.get("key"))
    except Strange:
        return _none("encryption key", status, body)
    if status != HTTPStatus.OK or key is None:
        return _none("encryption key", status, body)
    try:
        return Fresh(read_public_key(key), _key_life(data, now))
    except BadKey as error:
        return NotSent(str(error), outage=False)


def read_collection(status: int, body: bytes, reference: ProviderReference) -> Outcome | TokenRefused:
    """The first answer: the prompt was sent, or why not. It never says that money moved."""
    told = _open(status, body, (HTTPStatus.OK, HTTPStatus.BAD_REQUEST))
    return _first(told, reference, COLLECTION_REASONS, NOT_AT_FIRST) if isinstance(told, _Told) else told


def read_payout(status: int, body: bytes, reference: ProviderReference) -> Outcome | TokenRefused:
    """The first answer, and usually the last one."""
    told = _open(status, body, (HTTPStatus.OK, HTTPStatus.BAD_REQUEST))
    if not isinstance(told, _Told):
        return told
    first = _first(told, reference, PAYOUT_REASONS, NOT_AT_FIRST_OUT)
    # `success` false stands beside real successes too; beside a code that nobody listed, asking is safer than guessing.
    unsure = told.has(AGAINST | PENDING) or (told.unlisted is not None and told.success is False)
    clear = told.word == "TS" and not unsure
    paid = clear and status == HTTPStatus.OK and told.is_about(reference)
    receipt = _receipt(told.transaction) if told.is_about(reference) else None
    if paid:
        return Succeeded(their_id(told.transaction, "airtel_money_id"), unlisted=told.unlisted, receipt=receipt)
    return replace(first, receipt=receipt) if isinstance(first, Accepted) else first


def read_refund(status: int, body: bytes) -> Outcome | TokenRefused:
    """The only answer: there is nothing to ask afterwards."""
    told = _open(status, body, (HTTPStatus.OK, HTTPStatus.BAD_REQUEST))
    if isinstance(told, TokenRefused):
        return told
    if isinstance(told, Unknown):
        return replace(told, askable=False)
    failure = told.failure(REFUND_REASONS)
    # Nobody can be asked what became of it: both other signs must be good beside "in progress" or an unlisted code.
    unsure = told.unlisted is not None or told.has(PENDING)
    good = told.success is True if unsure else told.success in (None, True) and told.answered
    if status == HTTPStatus.OK and told.word in ("SUCCESS", "TS") and not told.has(AGAINST) and good:
        return Succeeded(their_id(told.transaction, "airtel_money_id"), unlisted=told.unlisted)
    firm = told.code not in NOT_AT_FIRST_OUT and not told.takes_a_failure_back
    if told.word in (None, "TF") and failure is not None and firm:
        return Declined(failure, told.code, unlisted=told.unlisted)
    return replace(told.unknown, askable=False)


def read_collection_status(status: int, body: bytes, reference: ProviderReference) -> Finding | TokenRefused:
    return _read_status(status, body, reference, COLLECTION_REASONS, ambiguous=AMBIGUOUS)


def read_payout_status(status: int, body: bytes, reference: ProviderReference) -> Finding | TokenRefused:
    return _read_status(status, body, reference, PAYOUT_REASONS, ambiguous=None)  # it may be paid twice: README 4 [I]


def _open(status: int, body: bytes, believed: tuple[int, ...]) -> _Told | TokenRefused | Unknown:
    """Read an answer's words where its HTTP status lets them count."""
    told = _words(status, body)
    if status == HTTPStatus.UNAUTHORIZED:
        return TokenRefused()
    if status == HTTPStatus.FORBIDDEN and told is not None and "invalid_token" in told.codes:
        return TokenRefused()
    if told is None:
        return _unclear(status, body, f"HTTP {status}")
    return told if status in believed else told.unknown


def _first(
    told: _Told, reference: ProviderReference, reasons: Mapping[str, FailureCode], not_at_first: frozenset[str]
) -> Outcome:
    """What the answer to a request says, short of success: README 2, 3."""
    if told.is_about_another(reference):
        return Unknown("the answer is about another reference", outage=False)
    failure = told.failure(reasons)
    firm = (told.code not in not_at_first or told.knows_no_wallet) and not told.takes_a_failure_back
    going_on = told.has(PAID | PENDING) or (told.word is not None and not told.has(AGAINST))
    match told.word:
        case _ if told.has(DUPLICATE):
            return Accepted(unlisted=told.unlisted)
        case None | "TF" | "TE" if failure is not None and firm:
            return Declined(failure, told.code, unlisted=told.unlisted)
        case None | "SUCCESS" | "TS" | "TIP" | "TI" if going_on and not told.has(DOUBT):
            return Accepted(unlisted=told.unlisted)
        case _:
            return told.unknown


def _read_status(
    status: int, body: bytes, reference: ProviderReference, reasons: Mapping[str, FailureCode], *, ambiguous: str | None
) -> Finding | TokenRefused:
    """What an enquiry says. `ambiguous`: the code of doubt beside which a failure is one when it is repeated."""
    told = _open(status, body, (HTTPStatus.OK, HTTPStatus.BAD_REQUEST, HTTPStatus.NOT_FOUND))
    if not isinstance(told, _Told):
        return told
    anothers = Unknown("the answer is about another reference", outage=False)
    if told.has(NOT_FOUND) and told.word in (None, "TF", "TE") and not told.has(NO_FAILURE):
        return (
            anothers if told.is_about_another(reference) else NotFound(firm=False)
        )  # it may still be on its way: README 4 [I]
    # Without a word the codes speak of the question, not of the payment.
    if told.word is None or status != HTTPStatus.OK:
        return told.unknown
    if not told.is_about(reference):
        return anothers
    if told.word == "TF" and NO_FAILURE.intersection(told.codes) == {ambiguous}:
        return Doubtful(FailureCode.PROVIDER_ERROR, ambiguous)
    return _verdict(told, reasons) or told.unknown


def _verdict(told: _Told, reasons: Mapping[str, FailureCode]) -> Accepted | Succeeded | Declined | None:
    """What a word means that is about our payment, beside its codes; None: nothing, for they contradict each other."""
    match told.word:
        case "TS" if not told.has(AGAINST):  # beside it stands paid, in progress (README 4) or what nobody listed
            return Succeeded(their_id(told.transaction, "airtel_money_id"), unlisted=told.unlisted)
        case "TF" | "TE" if not told.takes_a_failure_back:
            untold = FailureCode.PAYER_TIMEOUT if told.word == "TE" else FailureCode.PROVIDER_ERROR
            code = as_code(told.code) or told.word
            return Declined(told.failure(reasons) or untold, code, unlisted=told.unlisted)
        case "TIP" | "TI" if not told.has(DOUBT | DUPLICATE):
            return Accepted(unlisted=told.unlisted)
        case _:
            return None


def _words(status: int, body: bytes) -> _Told | None:
    """Read {"data", "status": {…}}, {"status_code", "status_message"} or {"error"}; None for anything else."""
    try:
        answer = read_object(body)
        about = inner(answer.get("status"))
        transaction = inner(inner(answer.get("data")).get("transaction"))
        word = _word(transaction.get("status"))
        codes = _codes(
            about.get("response_code"), answer.get("status_code"), about.get("result_code"), answer.get("error")
        )
    except Strange:
        return None
    return _Told(
        http_status=status,
        word=word,
        codes=tuple(code for code in codes if code not in NEUTRAL),
        message=_message(about.get("message")) or _message(answer.get("status_message")),
        transaction=transaction,
        body=body,
        success=about.get("success"),
        answered=bool(codes),
    )


def _word(told: object) -> str | None:
    """A transaction's word as the tables have it, "?" for what is no word. Raises Strange."""
    word = (text(told) or "").strip().rstrip(".").upper()
    return (word if CODE.fullmatch(word) else "?") if word else None


def _codes(*told: object) -> list[str]:
    """What looks like a code. Raises Strange: a code that cannot be read may be any."""
    codes = [(text(code, numbers=True) or "").strip() for code in told]
    return [code for code in codes if CODE.fullmatch(code)]


def _message(told: object) -> str:
    return told if isinstance(told, str) else ""


def _unclear(status: int, body: bytes, told: str) -> Unknown:
    """404 and 408 are the gateway's: README 7 [O]."""
    unknown = unclear(status, body, told)
    return replace(unknown, outage=True) if status in (HTTPStatus.NOT_FOUND, HTTPStatus.REQUEST_TIMEOUT) else unknown


def _none(what: str, status: int, body: bytes) -> NotSent:
    told = _words(status, body)
    code = told.code if told is not None else None
    refused = status in (400, 401, 403)  # 400 is what OAuth says to a client that it does not know
    return NotSent(f"no {what}: {said(status, code, listed=TOLD)}", outage=not refused, refused=refused)


def _key_life(data: Object, now: datetime) -> float:
    """Read how long an encryption key lives, in seconds: to `valid_upto`, and somewhat less."""
    told = readable(lambda data: text(data.get("valid_upto")), data) or ""
    try:
        ends = datetime.strptime(told, "%d-%m-%Y %H:%M:%S").replace(tzinfo=UTC)
    except ValueError:
        return UNTOLD_KEY_LIFE_S
    left_s = (ends - now - KEY_ENDS_EARLIER).total_seconds()
    return min(max(left_s, SHORT_KEY_LIFE_S), MAX_KEY_LIFE_S)


def _receipt(transaction: Object) -> str | None:
    """The number that the payee's SMS and the statement show; what is no such number would be everybody's: README 3."""
    told = their_id(transaction, "reference_id")
    return told if told is not None and RECEIPT.fullmatch(told) else None


def _reference(transaction: Object) -> ProviderReference | None:
    """Our reference, with its hyphens; None where the id is none of ours."""
    told = readable(lambda told: text(told.get("id"), numbers=True), transaction) or ""
    if TRANSACTION_ID.fullmatch(told):
        told = "-".join((told[:8], told[8:12], told[12:16], told[16:20], told[20:]))
    parsed = parse_id(told)
    return None if parsed is None else ProviderReference(parsed)


# --- callbacks ----------------------------------------------------------------------------------------------


class _Callback(msgspec.Struct):
    transaction: msgspec.Raw
    hash: str


def verify_callback(body: bytes, key: bytes) -> Authenticity:
    """Whether `hash` is the HMAC of the transaction, as it was sent or written anew without spaces: README 8."""
    try:
        read_object(body)  # refuses equal keys, of which the decoder below would take the last
        callback = msgspec.json.decode(without_mark(body), type=_Callback)
        sent = bytes(callback.transaction)
        compact = msgspec.json.encode(msgspec.json.decode(sent))
    except (Strange, msgspec.DecodeError, RecursionError):
        return Authenticity.FORGED
    told = callback.hash.encode()
    matches = [hmac.compare_digest(told, _hash(key, content)) for content in (sent, compact)]
    return Authenticity.GENUINE if any(matches) else Authenticity.FORGED


def read_callback(body: bytes) -> CallbackWord:
    """Read whose payment it is and what became of it; never an amount. Raises Foreign, Unreadable."""
    try:
        transaction = inner(read_object(body).get("transaction"))
    except Strange as strange:
        raise Unreadable(f"This is no callback of Airtel's: {strange}.") from None
    reference = _reference(transaction)
    if reference is None:
        if transaction.get("id"):
            raise Foreign("This is no callback about a payment of ours: its id is not a reference of ours.")
        raise Unreadable("This is no callback of Airtel's: it names no id.")
    finding = verdict(lambda told: _callback_says(told, body), transaction)
    return CallbackWord(reference, finding, money=None, payer=None, direction=None)


def _callback_says(transaction: Object, body: bytes) -> Accepted | Succeeded | Declined | Unknown:
    """By the tables of the enquiry. Raises Strange.

    What contradicts itself, and a word that nobody lists, is no verdict: README 8.
    """
    word = _word(transaction.get("status_code"))
    if word == "TA":  # ambiguous: Airtel's own word for "ask"
        return Accepted()
    codes = _codes(transaction.get("code"))
    told = _Told(
        http_status=HTTPStatus.OK,
        word=word,
        codes=tuple(code for code in codes if code not in NEUTRAL),
        message=_message(transaction.get("message")),
        transaction=transaction,
        body=body,
    )
    outcome = None if told.has(NOT_FOUND) else _verdict(told, {**COLLECTION_REASONS, **PAYOUT_REASONS})
    return outcome or told.unknown


def _hash(key: bytes, content: bytes) -> bytes:
    return base64.b64encode(hmac.new(key, content, hashlib.sha256).digest())
