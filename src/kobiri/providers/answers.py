"""Reading what providers write: hostile JSON, money and numbers in it. Pure; for every provider's wire.py."""

import codecs
import json
import re
from collections.abc import Callable, Collection, Container, Iterable, Mapping
from http import HTTPStatus
from ipaddress import IPv4Address
from typing import Never, TypeVar

from kobiri.domain.errors import CurrencyNotSupported, InvalidAmount
from kobiri.domain.ids import ProviderReference, parse_id
from kobiri.domain.money import Money
from kobiri.domain.msisdn import as_told
from kobiri.domain.outcome import Declined, FailureCode, Unknown
from kobiri.domain.redaction import CODE, LEFT_OUT_WORD, MOBILE, as_code, hide, in_known_words, mostly_known, needles
from kobiri.providers.base import Foreign

T = TypeVar("T")

MAX_CODE = 64
MAX_WORD = 200

# Where providers write a code or a sentence for people: beside these stand tokens and numbers.
TELLING = (
    "code", "response_code", "result_code", "status_code", "statusCode", "failureCode", "error",
    "error_description", "message", "status_message", "failureMessage",
)  # fmt: skip
HOLDING = ("status", "error", "failureReason")  # the objects in which they stand
TAG = re.compile(r"<[^<>]*>")
TOKENS = ("access_token", "refresh_token")
UNREADABLE = "an answer that cannot be read"

# Of a sentence for people words, codes and small numbers are shown. What is none of these may be a token, a key or an
# id; digits near each other may be a phone number.
NUMBER = re.compile(r"(?:DP|\+)?(?:\d[\W_]{0,3}){6,}\d")
PIECE = re.compile(r"[^\s,;:!?()\[\]{}<>|\"'\u2019\u201c\u201d=…]+")
WORDS = re.compile(r"[^\W\d_]+(?:[./_&-]+[^\W\d_]+)*")
SMALL = re.compile(r"(?:[A-Z]{0,8}|[A-Z]?[a-z]{1,7})[-_/]?[0-9]{1,6}(?:\.[0-9]{1,2})?%?", re.ASCII)
LONGEST_WORD = 16
LONGEST_WORDS = 24  # of several in one; then most of them must be known

# What gateways say of a client or a token (RFC 6749, RFC 6750).
GATEWAY_WORDS = frozenset({
    "access_denied", "insufficient_scope", "invalid_client", "invalid_grant", "invalid_request", "invalid_scope",
    "invalid_token", "server_error", "temporarily_unavailable", "unauthorized_client", "unsupported_grant_type",
})  # fmt: skip

Object = dict[str, object]


REFUSING = frozenset({HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN})


class Strange(Exception):
    """An answer that is not as the provider describes it. The text tells nothing of its content.

    `outage`: it is no JSON object, so it hardly comes from the provider's own program. False: the provider is well, and
    says something about one payment that nobody understands. `unlisted`: its word, where that is none that we know.
    """

    def __init__(self, told: str, *, outage: bool = False, unlisted: str | None = None) -> None:
        super().__init__(told)
        self.outage = outage
        self.unlisted = unlisted

    @property
    def unknown(self) -> Unknown:
        return Unknown(str(self), outage=self.outage, unlisted=self.unlisted)


class Number(str):
    """A JSON number as it was written: no number type may round an amount."""

    __slots__ = ()


def read_object(body: bytes) -> Object:
    """Read a JSON object without equal keys, its numbers as `Number`. A byte order mark is no part of it.

    Raises Strange.
    """
    # Not msgspec: it takes the last of two equal keys, and makes a number of what must stay as it was sent.
    try:
        value = json.loads(
            without_mark(body).decode(),
            object_pairs_hook=_unique,
            parse_int=Number,
            parse_float=Number,
            parse_constant=_refuse_constant,
        )
    except RecursionError:
        raise Strange("the body is nested too deeply") from None
    except ValueError:
        raise Strange("the body is not JSON", outage=True) from None
    if not isinstance(value, dict):
        raise Strange("the body is not a JSON object", outage=True)
    return value


def without_mark(body: bytes) -> bytes:
    """JSON without the byte order mark that some programs write before it; a reader may ignore it (RFC 8259, 8.1)."""
    return body.removeprefix(codecs.BOM_UTF8)


def unclear(status: int, body: bytes, told: str) -> Unknown:
    """What an answer means that is no firm one. `told` is its reason.

    An outage is what hardly comes from the provider's own program: 5xx, a redirect, a page in a JSON object's place.
    """
    if HTTPStatus.OK <= status < HTTPStatus.MULTIPLE_CHOICES:
        outage = not _is_object(body)
    else:
        outage = not HTTPStatus.BAD_REQUEST <= status < HTTPStatus.INTERNAL_SERVER_ERROR
    return Unknown(told, outage=outage, refused=status in REFUSING)


def _is_object(body: bytes) -> bool:
    try:
        read_object(body)
    except Strange as strange:
        return not strange.outage
    return True


def text(value: object, *, numbers: bool = False) -> str | None:
    """Take a JSON text or null, and a number's text where `numbers` are expected. Raises Strange."""
    if value is None:
        return None
    if isinstance(value, str) and (numbers or not isinstance(value, Number)):
        return str(value)  # a plain one: what is told in an outcome is stored, and `Number` cannot be encoded
    raise Strange("a field has an unexpected type")


def inner(value: object) -> Object:
    """Take a JSON object, or an empty one where there is none. Raises Strange."""
    if value is None:
        return {}
    if isinstance(value, dict):
        return value
    raise Strange("a field has an unexpected type")


def money(amount: object, currency: object) -> Money:
    """Read an amount in major units, text or number, and its currency. Raises Strange."""
    try:
        return Money.read(text(amount, numbers=True) or "", text(currency) or "")
    except (InvalidAmount, CurrencyNotSupported):
        raise Strange("the amount cannot be read") from None


def number(value: object) -> str | None:
    """Read a phone number as far as it is shown (see `as_told`); None where it tells no digit. Raises Strange."""
    given = text(value, numbers=True)
    return None if given is None else as_told(given)


def our_reference(answer: Object, name: str) -> ProviderReference:
    """Take the reference that a callback names. Raises Foreign (it is none of ours), Strange (there is none)."""
    told = (text(answer.get(name), numbers=True) or "").lower()
    if not told:
        raise Strange(f"it names no {name}")
    if parse_id(told) != told:
        raise Foreign(f"This is no callback about a payment of ours: {name} is not a reference of ours.")
    return ProviderReference(told)


def verdict(read: Callable[[Object], T], answer: Object) -> T | Unknown:
    """What `read` makes of a callback's status. Whose it is, is known: what cannot be read is a reason to ask."""
    try:
        return read(answer)
    except Strange as strange:
        return strange.unknown


def readable(read: Callable[[Object], T], answer: Object) -> T | None:
    """What `read` makes of the answer, or None where that is strange."""
    try:
        return read(answer)
    except Strange:
        return None


def their_id(answer: Object, name: str) -> str | None:
    """The provider's own number of a transaction; None where it cannot be read: no word about money hangs on it."""
    return cut(readable(lambda told: text(told.get(name), numbers=True), answer))


def cut(foreign: str | None) -> str | None:
    """Keep what a log, a database and a screen can show of a foreign word: spaces around it are no part of it."""
    return "".join(filter(str.isprintable, foreign)).strip()[:MAX_CODE].rstrip() or None if foreign else None


def said(status: int, *words: str | None, listed: Container[str | None]) -> str:
    """Say why in our own words: "HTTP 401 invalid_client". Merchants and logs get to see it.

    What is not `listed` may be anything, such as a secret that the provider was told.
    """
    known = (word for word in words if word and (word in listed or word in GATEWAY_WORDS))
    return " ".join((f"HTTP {status}", *known))


def declined(code: str | None, reasons: Mapping[str, FailureCode], otherwise: FailureCode) -> Declined:
    """A firm no with the reason of its code, and with another where no table lists the code."""
    listed = None if code is None else reasons.get(code)
    return Declined(listed or otherwise, as_code(code), unlisted=None if listed else code)


def own_word(status: int, body: bytes, secrets: Iterable[str]) -> str:
    """What a provider said, for the account's owner: "HTTP 403: ROUTER007, not allowed". One line, cut.

    Of a JSON object codes and sentences are taken, without `secrets` in any spelling and what looks like a token or a
    phone number: a provider may say again what it was told. Of a page or another text common words alone are taken.
    """
    try:
        answer = read_object(body)
    except Strange:
        told = [_page(body, needles(secrets))]
    else:
        tokens = (token for name in TOKENS if isinstance(token := answer.get(name), str))
        sought = needles([*secrets, *tokens])
        places = [answer, *(place for name in HOLDING if isinstance(place := answer.get(name), dict))]
        found = (place.get(name) for place in places for name in TELLING)
        told = [_sentence(word, sought) for word in found if isinstance(word, str)]
    shown = ", ".join(dict.fromkeys(filter(None, told)))
    if len(shown) > MAX_WORD:
        shown = shown[: MAX_WORD - 1] + "…"
    return f"HTTP {status}: {shown}" if shown else f"HTTP {status}"


def _page(body: bytes, sought: Collection[str]) -> str:
    """The common words of a text that is no JSON object. What only begins like JSON holds whatever JSON holds."""
    try:
        text = " ".join(TAG.sub(" ", body.decode()).split())
    except ValueError:
        return UNREADABLE
    if text[:1] in ("{", "[", '"') or not text.isprintable():
        return UNREADABLE
    return in_known_words(hide(text, sought)).strip()


def _sentence(text: str, sought: Collection[str]) -> str:
    """A sentence for people in one line, `…` in the place of what may be secret or somebody's number."""
    text = "".join(filter(str.isprintable, " ".join(hide(text, sought).split())))
    text = NUMBER.sub(lambda found: found[0] if _is_public(found[0]) else LEFT_OUT_WORD, text)
    text = PIECE.sub(lambda found: found[0] if _is_plain(found[0].rstrip(".")) else LEFT_OUT_WORD, text)
    return re.sub(f"{LEFT_OUT_WORD}+", LEFT_OUT_WORD, text)


def _is_public(text: str) -> bool:
    """Whether many digits are a provider's code, or the address of a machine."""
    try:
        IPv4Address(text)
    except ValueError:
        return CODE.fullmatch(text) is not None
    return MOBILE.fullmatch(text.replace(".", "")) is None


def _is_plain(piece: str) -> bool:
    """Whether a piece of a sentence is a word as people write it, a code or a small number."""
    if not any(map(str.isalnum, piece)) or SMALL.fullmatch(piece) or _is_public(piece) or mostly_known(piece):
        return True
    words = re.findall(r"[^\W\d_]+", piece) if WORDS.fullmatch(piece) and len(piece) <= LONGEST_WORDS else []
    natural = (len(word) <= LONGEST_WORD and (word.islower() or word.isupper() or word.istitle()) for word in words)
    return bool(words) and all(natural)


def _unique(pairs: list[tuple[str, object]]) -> Object:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise Strange("two of its keys are equal")
    return found


def _refuse_constant(_name: str) -> Never:
    raise Strange("a number is none")
