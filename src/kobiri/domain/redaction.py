"""What may be told of an exchange with a provider. Nothing passes because nobody forbade it: all is made anew.

Kept are common words of the trade, codes under the names that codes have, key names, our references as placeholders,
and the amount that was asked for. Every other value is made up, of the same type and shape: letters become x, digits 1.
Known secrets and numbers are looked for besides, in whatever is kept.
"""

import base64
import codecs
import json
import re
import unicodedata
from collections import Counter
from collections.abc import Container, Iterable, Mapping
from decimal import Decimal
from typing import Any
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key

from kobiri.domain.ids import ProviderReference
from kobiri.domain.money import EXPONENTS, Money
from kobiri.domain.msisdn import HIDING, ZAMBIA, Msisdn

TEST_WALLET = Msisdn("260961234567")  # the number of all recordings
LEFT_OUT = "left out"
LEFT_OUT_OBJECT = '{"left": "out", "left": "out"}'  # to an adapter as strange as what it stands for
LEFT_OUT_PAGE = "<html>left out</html>"
LEFT_OUT_WORD = "…"
MAX_TEXT = 64
MIN_SECRET = 3
MIN_SURELY_SECRET = 8  # shorter ones may stand in a made-up value by chance

# Words that name no person, place or key. A text is told in these words alone.
WORDS = frozenset("""
a about accepted access account active actor address after again agent alias allowed already ambiguous amount an and
another any api applied approval approve approved approver are as at attributes audience authenticated authentication
authorized available b2b b2c balance balances bank barred basic batch be bearer been before begin being below biller
birthdate body branch but by call callback callbacks caller can canceled cancelled cannot category channel charge
charged charges check client closed code coll collect collection comment commission company completed completion
config configuration confirm confirmed consent contact content correlation correspondent could countries country
created creation credential credentials currencies currency customer daily data date debit decimals declined delivered
denied deposit deposits description destination detail details did disabled disb disbursement display does doing due
duplicate duplicated during encrypted end enough enter entered environment error errors exceed exceeded exchange exist
exists expired expires expiry external extra fail failed failure family fee fees field financial firm first for
forbidden format found from full funds gateway gender general get given go grade grant group has hash have header
headers holder host href html http id ids in inactive incorrect index info initiated initiatee initiator input
institution instrument insufficient internal invalid ip is issued issuer it items json key large last later length
less level limit limited limits link list locale login low made major make mandatory match matched maximum merchant
message meta metadata method minimum minor missing mmo mobile mode modified momo money more msisdn must name names
narration narrative network next no none normal not note notes number oapi object occurred of off offset ok on one
only open operation operations optional or order origin original other otp our out outside owner padding page paid
parameter partner party password pay payee payer payload payment payments payout payouts pending permitted phone pin
please possible post precision previous process processed processing product profile progress prohibited provided
provider providers purpose put queued rate reached reason receive received receiver recipient record reference refund
refunded refunds refused registered registration reject rejected remaining remarks request requested requests required
resource response restricted result results retry reversal reversed route rule s salary same sandbox scope seconds
secret see segment self sender sent sequence server service session settled settlement shop short shortcode signature
signatures signed since size small source stage start statement status step sub subscriber subscription success
successful successfully supported sure system target tariff tax temporarily tenant test text than that the there this
those till time timed timeout timestamp timezone tip to token tokens too total trace transaction transactions transfer
trial trx try txn type types unable unauthorized unavailable unexpected unit units unknown unprocessable unspecified
unsupported until up updated upto url urls used user uuid valid validation value values verification verified verify
authorisation bad blocked bounds dormant enqueued frozen ignored manually many new ongoing perform permanently
reconciliation remittances state submitted suspended unreachable upstream whitelisted word words
version wallet warnings was went were while with without wrong you your zm zmb zmw
""".split())  # fmt: skip  # noqa: SIM905  # a list of three hundred would be a page of quotes

CODED = frozenset({"code", "status", "reason", "error", "result", "state", "word"})  # the last word of such a name
NAMING = frozenset({"name", "names"})
LASTING = frozenset({"expires_in"})
WORD = re.compile(r"[^\W\d_]+")
NAME = re.compile(r"[A-Za-z_][A-Za-z_.-]{0,39}[0-9]{0,2}", re.ASCII)
SEGMENT = re.compile(r"[A-Za-z](?:[A-Za-z_.-]|[0-9]{1,2}(?![0-9])){0,39}", re.ASCII)
# Codes and status words as Airtel and Zamtel write them, and HTTP's: other digits may be somebody's phone or identity
# card, other capitals somebody's name.
CODE = re.compile(
    r"DP0[0-3][0-9]{7}(?:[0-9]{2})?|ESB[0-9]{6}|ROUTER[0-9]{3}|521[0-9]{3}|0000[0-9]{3}|E[0-9]{4}|-?[0-9]{1,4}"
    r"|T[A-Z]|TIP",
    re.ASCII,
)
WORD_CODE = re.compile(r"[A-Z][A-Z_]{1,63}", re.ASCII)
MOBILE = re.compile(r"(?:[59][5-8]|7[5-9])[0-9]{7}", re.ASCII)
SYMBOL = re.compile(r"[A-Z]{2,3}|[A-Z][0-9][A-Z]", re.ASCII)
DECIMAL = re.compile(r"[0-9]{1,19}(?:\.[0-9]{1,18})?", re.ASCII)
SECONDS = re.compile(r"[0-9]{1,6}", re.ASCII)
STAMP = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:.]{5,15}(?:Z|[+-][0-9:]{4,5})?", re.ASCII
)  # its letters are no name
DIGIT = re.compile(r"[0-9]", re.ASCII)
PIECE = re.compile(r"([^\W\d_]+)|(\s+)|([.,:;!?()'/-])|(\d[\d.,:/-]*\d|.)", re.DOTALL)
CAMEL = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", re.ASCII)
WALLET = re.compile(r"FRI:([0-9]{9,15})/MSISDN", re.ASCII)
BETWEEN = r"[\s().-]{0,3}"
MEDIA = frozenset({"application/json", "application/problem+json", "text/html", "text/plain", "application/xml"})
CHARSET = re.compile(r"(?:; ?charset=(?:utf-8|UTF-8|iso-8859-1))?", re.ASCII)

# Any other code: words, or capitals with few digits. Numbers have more of these, keys have small letters beside them.
ANY_CODE = re.compile(r"[A-Za-z_.-]{1,64}|(?!(?:[^0-9]*[0-9]){7})[A-Z0-9_.-]{1,64}", re.ASCII)

Document = dict[str, Any]


def as_code(word: str | None) -> str | None:
    """A provider's word for a code, as far as merchants and logs may see it; None where it may be a number or a key.

    Of its shape alone: a name may look like a code.
    """
    if word is None or MOBILE.search(word) is not None:
        return None
    return word if CODE.fullmatch(word) or ANY_CODE.fullmatch(word) else None


class Redactor:
    """Makes what may be told of one account's exchanges. The same value becomes the same made-up one throughout.

    `secrets`: what is known and must not show, also nobody's secrets that tell who somebody is. `wallets`: the numbers
    that the exchanges are about. `references`: our own, by the placeholder that stands for each. `amounts`: those that
    may stand. `words`: known ones besides, such as the names of operators.
    """

    def __init__(
        self,
        *,
        secrets: Iterable[str],
        wallets: Iterable[Msisdn] = (),
        references: Mapping[ProviderReference, str] | None = None,
        amounts: Iterable[Money] = (),
        words: Iterable[str] = (),
    ) -> None:
        self._words = WORDS.union(words)
        wallets = tuple(wallets)
        self._spellings = {
            spelt: made
            for wallet in wallets
            for spelt, made in zip(_spellings(wallet), _spellings(TEST_WALLET), strict=False)
        }
        self._needles = needles(secrets) | {wallet.national for wallet in wallets if wallet != TEST_WALLET}
        self._references: dict[str, str] = {}
        for reference, placeholder in (references or {}).items():
            self._references[reference] = placeholder
            self._references[reference.replace("-", "")] = placeholder.replace("}", "_hex}")
        self._amounts = [Decimal(str(money)) for money in amounts]
        self._ours = self._pattern(wallets)
        self._made: dict[str, str] = {}
        self._shapes: Counter[str] = Counter()
        self._names: dict[str, str] = {}

    def leaks(self, told: str) -> bool:
        """Whether a whole document holds something that is known to be secret, in whichever spelling."""
        plain = _plain(told)
        return any(needle in plain for needle in self._needles if len(needle) >= MIN_SURELY_SECRET)

    def is_harmless(self, text: str) -> bool:
        """Whether nothing that is known to be secret stands in a text, also of the shortest secrets."""
        return hide(text, self._needles) == text

    # --- the parts of an exchange -----------------------------------------------------------------------------------

    def body(self, body: bytes, *, ours: bool = False) -> Document:
        """`body` with what may be told of a JSON document, else `body_text` with what sort of text it was.

        `ours`: our adapter wrote it, so the names in it are ours.
        """
        if not body.strip():
            return {"body_text": ""}
        try:
            text = body.removeprefix(codecs.BOM_UTF8).decode()  # as the adapters read it: JSON is UTF-8
            read = json.loads(text, object_pairs_hook=_unique, parse_constant=_refuse)
            return {"body": self.value("", read, ours=ours)}
        except (_StrangeJson, RecursionError):
            return {"body_text": LEFT_OUT_OBJECT}
        except ValueError:
            return {"body_text": LEFT_OUT_PAGE if body.lstrip()[:1] == b"<" else LEFT_OUT}

    def path(self, path: str) -> str:
        """Path and query: the words of the path, the names of the query, our references, wallets and amounts."""
        parts = urlsplit(path)
        told = "/".join(self._segment(unquote(segment)) for segment in parts.path.split("/"))
        pairs = [
            (self._name(name, ours=True), self._asked(value))
            for name, value in parse_qsl(parts.query, keep_blank_values=True)
        ]
        return told + (f"?{urlencode(pairs, safe='{}')}" if pairs else "")

    def sent_headers(self, headers: Mapping[str, str], *, but: str | None) -> dict[str, str]:
        """Our own headers: `*` for all but what says nothing of anybody. One whose value is `but` is left out."""
        return {
            self._name(name, ours=True): self._header(name, value)
            for name, value in headers.items()
            if value != but and name.lower() != "content-length"
        }

    def answered_headers(self, headers: Mapping[str, str]) -> dict[str, str]:
        """Those of an answer that say how to read it and when to come again; no other."""
        told = {}
        media, _, charset = headers.get("Content-Type", "").partition(";")
        if media in MEDIA and CHARSET.fullmatch(f";{charset}" if charset else ""):
            told["Content-Type"] = headers["Content-Type"]
        later = headers.get("Retry-After", "")
        if SECONDS.fullmatch(later) and self.is_harmless(later):
            told["Retry-After"] = later
        return told

    def value(self, name: str, value: object, *, ours: bool = False) -> object:
        """A JSON value under a key's name."""
        match value:
            case dict():
                return {self._name(key, ours=ours): self.value(key, inner, ours=ours) for key, inner in value.items()}
            case list():
                return [self.value(name, inner, ours=ours) for inner in value]
            case bool() | None:
                return value
            case int() | float():
                return self._number(name, value)
            case _:
                return self.text(name, str(value))

    def text(self, name: str, text: str) -> str:
        """A text under a key's name."""
        if DECIMAL.fullmatch(text) and Decimal(text) in self._amounts and self.is_harmless(text):
            return text
        if (named := WALLET.fullmatch(text)) is not None:
            return f"FRI:{self._spellings.get(named[1]) or self._make_up(named[1])}/MSISDN"
        if (hidden := self._hidden(text)) is not None:
            return hidden
        pieces = self._ours.split(text)
        if len(pieces) == 1:
            return self._other(name, text)
        told = [self._own(piece) if index % 2 else self._other("", piece) for index, piece in enumerate(pieces)]
        return "".join(told)

    # --- what is kept, and what is made up --------------------------------------------------------------------------

    def _name(self, name: str, *, ours: bool = False) -> str:
        """A name as it is where our adapter wrote it, or where most of its words are known."""
        if NAME.fullmatch(name) and (ours or mostly_known(name, self._words)) and self.is_harmless(name):
            return name
        return self._names.setdefault(name, f"left_out_{len(self._names) + 1}")

    def _segment(self, text: str) -> str:
        if not text:
            return ""
        if text.lower() in self._references:
            return self._references[text.lower()]
        return text if SEGMENT.fullmatch(text) and self.is_harmless(text) else "x"

    def _asked(self, value: str) -> str:
        known = self._references.get(value.lower()) or self._spellings.get(value)
        if known is not None:
            return known
        amount = DECIMAL.fullmatch(value) and Decimal(value) in self._amounts
        return value if (amount or SYMBOL.fullmatch(value)) and self.is_harmless(value) else "x"

    def _header(self, name: str, value: str) -> str:
        if value.lower() in self._references:
            return self._references[value.lower()]
        kept = name.lower() in ("content-type", "connection") or (
            name.lower() in ("x-country", "x-currency") and SYMBOL.fullmatch(value)
        )
        return value if kept and self.is_harmless(value) else "*"

    def _number(self, name: str, value: float) -> object:
        text = str(value)
        if (spelt := self._spellings.get(text)) is not None:
            return int(spelt)
        if isinstance(value, int) and _is_public(name, text):
            return value if self.is_harmless(text) else 1
        if DECIMAL.fullmatch(text) and Decimal(text) in self._amounts and self.is_harmless(text):
            return value
        return int(self._make_up(text)) if isinstance(value, int) else 1.5

    def _other(self, name: str, text: str) -> str:
        """What is none of ours."""
        words = WORD.findall(text)
        if _is_public(name, text):
            return text if self.is_harmless(text) else self._make_up(text)
        if _last_word(name) in NAMING:  # somebody may be called Page
            return self._make_up(text)
        if STAMP.fullmatch(text):
            return DIGIT.sub("1", text)
        known = [word for word in words if word.lower() in self._words]
        if _last_word(name) in CODED and WORD_CODE.fullmatch(text) and self.is_harmless(text):
            return WORD.sub(lambda word: word[0] if word[0] in known else self._make_up(word[0]), text)
        is_plain = known == words and text.isascii() and not any(character.isdigit() for character in text)
        is_sentence = any(character.isspace() for character in text.strip())
        return self._told(text) if known and (is_plain or is_sentence) else self._make_up(text)

    def _told(self, text: str) -> str:
        """A text in known words; `…` for each other part of it."""
        kept = in_known_words(text, self._words)
        return kept if self.is_harmless(kept) else LEFT_OUT_WORD

    def _own(self, text: str) -> str:
        """One of our references, or a wallet's number with whatever separates its digits."""
        if text.lower() in self._references:
            return self._references[text.lower()]
        digits = "".join(filter(str.isdigit, text))
        made = self._spellings[digits]
        if len(made) != len(digits):
            return made
        new = iter(made)
        return "".join(next(new) if character.isdigit() else character for character in text)

    def _hidden(self, text: str) -> str | None:
        """A wallet's number of which the provider hides a part, hidden in the same places."""
        if not HIDING.search(text) or not any(character.isdigit() for character in text):
            return None
        shown = HIDING.sub("*", text.removeprefix("+"))
        for spelt, made in self._spellings.items():
            same = len(spelt) == len(made) == len(shown)
            if same and all(seen in ("*", digit) for seen, digit in zip(shown, spelt, strict=True)):
                return "".join("*" if seen == "*" else digit for seen, digit in zip(shown, made, strict=True))
        return None

    def _make_up(self, text: str) -> str:
        """A text of the same shape that says nothing: the same for the same text, another for another."""
        if text not in self._made:
            self._made[text] = _public_key(text) or self._shaped(text)
        return self._made[text]

    def _shaped(self, text: str) -> str:
        shape = "".join(map(_made_up, text[:MAX_TEXT]))
        self._shapes[shape] += 1
        count = str(self._shapes[shape])
        free = [index for index, character in enumerate(shape) if character in "xX1"][-len(count) :]
        if count == "1" or len(free) < len(count):
            return shape
        made = list(shape)
        for index, digit in zip(free, count, strict=True):
            made[index] = digit if made[index] == "1" else chr(ord("a" if made[index] == "x" else "A") + int(digit))
        return "".join(made)

    def _pattern(self, wallets: Iterable[Msisdn]) -> re.Pattern[str]:
        """Finds our references and the wallets' numbers in a text, in one group."""
        known = [re.escape(reference) for reference in self._references]
        for wallet in wallets:
            digits = BETWEEN.join(wallet.national)
            country = rf"(?:\+|00)?{BETWEEN.join(ZAMBIA)}{BETWEEN}|0{BETWEEN}|" if wallet.country == "ZM" else r"\+|00|"
            known.append(rf"(?<![0-9])(?:{country}){digits}(?![0-9])")
        return re.compile(f"({'|'.join(known)})" if known else r"((?!))", re.IGNORECASE)


def _spellings(wallet: Msisdn) -> tuple[str, ...]:
    """The digits of a number as people and programs write them, always in the same order."""
    here = wallet.national
    both = (wallet.digits, f"00{wallet.digits}")
    return both if here == wallet.digits else (*both, here, f"0{here}")


def mostly_known(name: str, words: Container[str] = WORDS) -> bool:
    """Whether a name, such as `statusCode`, is made of letters, and most of its words are known."""
    parts = CAMEL.findall(name)
    unknown = sum(part.lower() not in words for part in parts)
    return NAME.fullmatch(name) is not None and 2 * unknown < len(parts)


def in_known_words(text: str, words: Container[str] = WORDS) -> str:
    """A text in `words` and marks; `…` for each other part of it."""
    told: list[str] = []
    for word, space, mark, other in PIECE.findall(text):
        kept = word if word.lower() in words else " " if space else mark or ("_" if other == "_" else "")
        if kept or told[-1:] != [LEFT_OUT_WORD]:
            told.append(kept or LEFT_OUT_WORD)
    return "".join(told)


def hide(text: str, sought: Iterable[str]) -> str:
    """A text with `…` in the place of each of these needles; the text itself where none is in it."""
    plain = _plain(text)
    sought = [needle for needle in sought if needle in plain]
    if not sought:
        return text
    places = [index for index, character in enumerate(text) for _ in _plain(character)]
    hidden: set[int] = set()
    for needle in sought:
        at = plain.find(needle)
        while at >= 0:
            hidden.update(range(places[at], places[at + len(needle) - 1] + 1))
            at = plain.find(needle, at + 1)
    shown = (LEFT_OUT_WORD if index in hidden else character for index, character in enumerate(text))
    return re.sub(f"{LEFT_OUT_WORD}+", LEFT_OUT_WORD, "".join(shown))


def needles(secrets: Iterable[str]) -> set[str]:
    """What to look for with `hide`, so that these secrets are found in whichever spelling."""
    return {needle for secret in secrets for needle in _needles(secret)}


def _needles(secret: str) -> set[str]:
    """The spellings of a secret by which it is recognised once case and separators are gone."""
    raw = secret.encode()
    forms = [secret, secret[::-1], quote(secret, safe=""), json.dumps(secret)[1:-1], raw.hex()]
    for ahead in range(3):  # as a part of something longer, wherever it begins there
        coded = base64.b64encode(bytes(ahead) + raw).decode().rstrip("=")
        forms.append(coded[(0, 2, 3)[ahead] : len(coded) - (0 if (ahead + len(raw)) % 3 == 0 else 1)])
    plain = [_plain(form) for form in forms]
    return {form for form in plain[:1] if len(form) >= MIN_SECRET} | {form for form in plain if len(form) > MIN_SECRET}


def _plain(text: str) -> str:
    return "".join(filter(str.isalnum, unicodedata.normalize("NFKD", text).casefold()))


def _is_public(name: str, text: str) -> bool:
    """Whether a text under this name is a provider's code, a currency or a number of seconds."""
    last = _last_word(name)
    return (
        (last in CODED and CODE.fullmatch(text) is not None)
        or (last == "currency" and text in EXPONENTS)
        or (name in LASTING and SECONDS.fullmatch(text) is not None)
    )


def _last_word(name: str) -> str:
    words = CAMEL.findall(name)
    return words[-1].lower() if words else ""


def _made_up(character: str) -> str:
    if character.isdigit():
        return "1"
    if character.isalpha() or not character.isascii():
        return "X" if character.isupper() else "x"
    return character if character.isprintable() and character not in '{}<>"\\' else "x"


def _public_key(text: str) -> str | None:
    """Another public key of the same size, where the text is one; nobody has its private half."""
    try:
        key = load_der_public_key(base64.b64decode(text, validate=True))
    except (ValueError, TypeError, UnsupportedAlgorithm):
        return None
    if not isinstance(key, rsa.RSAPublicKey) or not 1024 <= key.key_size <= 4096:
        return None
    other = rsa.generate_private_key(65537, key.key_size).public_key()
    return base64.b64encode(other.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).decode()


class _StrangeJson(ValueError):
    """JSON that two readers may read in two ways."""


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    read = dict(pairs)
    if len(read) != len(pairs):
        raise _StrangeJson("equal keys")
    return read


def _refuse(_constant: str) -> object:
    raise _StrangeJson("no JSON number")
