"""A provider's statement: bytes become lines or one sentence that says what is wrong, and a line is judged.

A statement is a CSV file that a person downloaded, perhaps opened in a spreadsheet and saved again. Nothing is guessed:
a row that cannot be read refuses the whole file. docs/statements.md says where the layouts come from.
"""

import csv
import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone, tzinfo
from enum import StrEnum
from typing import Literal, assert_never

from kobiri.domain.errors import CurrencyNotSupported, InvalidAmount, InvalidNumber, Unprocessable
from kobiri.domain.ids import PaymentId, TenantId
from kobiri.domain.money import Money
from kobiri.domain.msisdn import Msisdn, mask
from kobiri.domain.outcome import Declined, FailureCode, Succeeded
from kobiri.domain.payment import Kind, Review, Status

MAX_FILE_BYTES = 256 * 1024 * 1024
MAX_LINES = 1_000_000
MAX_LINE_BYTES = 16 * 1024
MAX_TEXT = 100  # characters of a reference or an id
SHOWN = 32  # characters of a cell, or columns, that a sentence repeats

LUSAKA = timezone(timedelta(hours=2), "Africa/Lusaka")  # Zambia has never moved its clocks; no tzdata is needed

Direction = Literal["in", "out"]


# --- layouts --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Layout:
    """What the columns of a statement are called, the preferred name of each first.

    Names are compared without case and with any punctuation as one space. `date_formats` are tried after ISO 8601;
    times that name no offset are in `zone`.
    """

    columns: Mapping[str, tuple[str, ...]]
    date_formats: tuple[str, ...]
    zone: tzinfo


DAY_FIRST = ("%d/%m/%Y %H:%M:%S", "%d/%m/%Y %H:%M", "%d-%m-%Y %H:%M:%S", "%d-%m-%Y %H:%M")

GENERIC: Mapping[str, tuple[str, ...]] = {
    "reference": ("reference", "our reference", "provider reference", "external id"),
    "their_id": ("transaction id", "provider transaction id", "their id"),
    "amount": ("amount",),
    "currency": ("currency",),
    "payer": ("msisdn", "number", "phone", "payer"),
    "payee": ("payee",),
    "at": ("time", "date", "date time", "at"),
    "status": ("status",),
    "type": ("type", "kind"),
}
MTN: Mapping[str, tuple[str, ...]] = {
    "reference": ("external id", "external transaction id", "externalid"),
    "their_id": ("id", "financial transaction id", "financialtransactionid", "transaction id"),
    "amount": ("amount",),
    "currency": ("currency", "amount currency"),
    "payer": ("from", "from msisdn", "payer", "msisdn"),
    "payee": ("to", "to msisdn", "payee"),
    "at": ("date", "date time", "transaction date"),
    "status": ("status", "transaction status"),
    "type": ("type", "transaction type"),
}
AIRTEL: Mapping[str, tuple[str, ...]] = {
    "reference": ("reference", "reference id", "external id", "partner transaction id", "external reference"),
    "their_id": ("transaction id", "airtel money id", "txn id"),
    "amount": ("transaction amount", "amount", "txn amount"),
    "currency": ("currency", "transaction currency"),
    "payer": ("sender msisdn", "payer msisdn", "msisdn", "sender", "from"),
    "payee": ("receiver msisdn", "payee msisdn", "receiver", "to"),
    "at": ("transaction date and time", "transaction date", "date time", "date"),
    "status": ("transaction status", "status"),
    "type": ("transaction type", "service type", "type"),
}


def _layout(own: Mapping[str, tuple[str, ...]]) -> Layout:
    """A column that is not recognised is not read: so every layout knows the generic names too, after its own."""
    return Layout({name: tuple(dict.fromkeys(own[name] + GENERIC[name])) for name in GENERIC}, DAY_FIRST, LUSAKA)


LAYOUTS: Mapping[str, Layout] = {"mtn": _layout(MTN), "airtel": _layout(AIRTEL), "generic": _layout(GENERIC)}

DELIMITERS = (",", ";", "\t")
NEEDED = ("amount", "currency", "status")
NAMES = {
    "reference": "reference", "their_id": "transaction id", "amount": "amount", "currency": "currency",
    "payer": "payer's number", "payee": "payee's number", "at": "time", "status": "status", "type": "type",
}  # fmt: skip

SUCCESSFUL_WORDS = frozenset({"success", "successful", "succeeded", "completed", "complete", "paid", "settled", "ts"})
FAILED_WORDS = frozenset({"failed", "fail", "failure", "rejected", "declined", "cancelled", "canceled", "tf"})
# No firm word: the money may yet move, or has moved and come back.
UNDECIDED_WORDS = frozenset(
    {"pending", "processing", "in progress", "tip", "ambiguous", "ta", "initiated", "expired", "te", "reversed"}
)  # fmt: skip
IN_WORDS = frozenset(
    {"collection", "payment", "external payment", "merchant payment", "customer payment", "request to pay", "c2b"}
)
OUT_WORDS = frozenset({"payout", "disbursement", "b2c", "refund", "reversal"})


# --- what is read ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class StatementLine:
    """One movement of money, as the provider tells it. `number` is the line of the file, from 1; `word` is theirs.

    `direction` is seen from the merchant's side, None where the statement does not tell it.
    """

    number: int
    our_reference: str | None
    their_id: str | None
    money: Money
    msisdn: str | None = field(repr=False)
    at: datetime | None
    status: Literal["successful", "failed"]
    direction: Direction | None
    word: str


@dataclass(frozen=True, slots=True)
class Statement:
    """A file that was read to its end. `undecided` and `others` count the rows that are no lines, by their word.

    `unread` are the columns that no field was found in: a reference among them would not be seen.
    """

    lines: tuple[StatementLine, ...]
    undecided: Mapping[str, int]
    others: Mapping[str, int]
    unread: tuple[str, ...]
    sha256: str

    @property
    def period(self) -> tuple[datetime, datetime] | None:
        """From the earliest line to the latest; None when no line bears a time."""
        times = [line.at for line in self.lines if line.at is not None]
        return (min(times), max(times)) if times else None


def read(chunks: Iterable[bytes], layout: Layout) -> Statement:
    """Read a whole statement; nothing is returned unless all of it is sound. Raises Unprocessable, in one sentence.

    What is no statement fails early: no more than a chunk and a line are held before a row was read.
    """
    digest = hashlib.sha256()
    rows = _Rows(layout)
    for number, line in _lines(chunks, digest.update):
        rows.add(number, line)
    if rows.columns is None:
        raise Unprocessable("The file is empty.")
    if not (rows.lines or rows.undecided or rows.others):
        raise Unprocessable("The file holds a header and no line.")
    return Statement(tuple(rows.lines), rows.undecided, rows.others, rows.columns.unread, digest.hexdigest())


# --- bytes to lines -------------------------------------------------------------------------------------------------


def _lines(chunks: Iterable[bytes], seen: Callable[[bytes], object]) -> Iterator[tuple[int, str]]:
    """Lines of text with their numbers, without line ends and byte order mark."""
    for number, raw in enumerate(_raw_lines(chunks, seen), start=1):
        if number > MAX_LINES:
            raise Unprocessable(f"The file has more than {MAX_LINES} lines; split it.")
        try:
            text = raw.decode()
        except UnicodeDecodeError:
            raise _bad(number, "this is not UTF-8; save the file as CSV UTF-8") from None
        if "\0" in text:
            raise _bad(number, "there is a NUL byte; this is not a CSV file")
        yield number, (text.removeprefix("\ufeff") if number == 1 else text).removesuffix("\r")


def _raw_lines(chunks: Iterable[bytes], seen: Callable[[bytes], object]) -> Iterator[bytes]:
    rest, size, number = b"", 0, 0
    for chunk in chunks:
        seen(chunk)
        size += len(chunk)
        if size > MAX_FILE_BYTES:
            raise Unprocessable(f"The file is larger than {MAX_FILE_BYTES // 1024**2} MiB; split it.")
        pieces = (rest + chunk).split(b"\n")
        rest = pieces.pop()
        for piece in pieces:
            number += 1
            _check_length(number, piece)
            yield piece
        _check_length(number + 1, rest)
    if rest:
        yield rest


def _check_length(number: int, raw: bytes) -> None:
    if len(raw) > MAX_LINE_BYTES:
        raise _bad(number, f"it is longer than {MAX_LINE_BYTES} bytes; this is not a statement")


# --- lines to rows --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Columns:
    """Where the fields stand."""

    delimiter: str
    width: int
    at: Mapping[str, int]
    unread: tuple[str, ...]


class _Rows:
    """Collects the lines of one file, header first, and refuses what comes twice."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.columns: _Columns | None = None
        self.lines: list[StatementLine] = []
        self.undecided: Counter[str] = Counter()
        self.others: Counter[str] = Counter()
        self._ids: dict[str, int] = {}
        self._texts: dict[bytes, int] = {}

    def add(self, number: int, text: str) -> None:
        if not text.strip():
            return
        if self.columns is None:
            self.columns = _read_header(number, text, self.layout)
            return
        cells = _split(number, text, self.columns.delimiter)
        if len(cells) != self.columns.width:
            raise _bad(number, f"{_count(len(cells), 'cell')}, but the header has {self.columns.width}")
        row = _Row(number, self.layout, {name: cells[index].strip() for name, index in self.columns.at.items()})
        word = row.word("status")
        if word in UNDECIDED_WORDS:
            self._count(self.undecided, word)
        elif (kind := row.word("type")) and kind not in IN_WORDS | OUT_WORDS:
            self._count(self.others, kind)
        else:
            line = row.line()
            self._refuse_twin(line, text)
            self.lines.append(line)

    def _refuse_twin(self, line: StatementLine, text: str) -> None:
        if line.their_id is not None:
            first = self._ids.setdefault(line.their_id, line.number)
            what = "has the transaction id of"
        else:
            first = self._texts.setdefault(hashlib.blake2b(text.encode(), digest_size=16).digest(), line.number)
            what = "is the same as"
        if first != line.number:
            raise _bad(line.number, f"it {what} line {first}; each transaction may stand there once")

    @staticmethod
    def _count(words: Counter[str], word: str) -> None:
        """By their word, for as many words as a person reads."""
        words[word if word in words or len(words) < SHOWN else "…"] += 1


def _read_header(number: int, text: str, layout: Layout) -> _Columns:
    readings = {delimiter: _header_names(text, delimiter) for delimiter in DELIMITERS}
    delimiter = max(DELIMITERS, key=lambda one: (len(_found(readings[one], layout)), len(readings[one])))
    names = readings[delimiter]
    found = _found(names, layout)
    missing = [_named(name, layout) for name in NEEDED if name not in found]
    if not ({"reference", "their_id"} & set(found) or {"payer", "at"} <= set(found)):
        missing.append(f"{_named('reference', layout)} or {_named('their_id', layout)}")
    if missing:
        wanted = " and ".join(missing)
        there = ", ".join(repr(_shown(name)) for name in names[:SHOWN]) or "none"
        raise _bad(number, f"there is no column for {wanted}; found {there}")
    unread = [_shown(name) for name in dict.fromkeys(names) if name and name not in found.values()]
    places = {name: _place(number, names, found, name) for name in found}
    return _Columns(delimiter, len(names), places, tuple(unread[:SHOWN]))


def _named(name: str, layout: Layout) -> str:
    """A field and what its column may be called."""
    return f"the {NAMES[name]} ({', '.join(layout.columns[name])})"


def _header_names(text: str, delimiter: str) -> list[str]:
    """The names if this is the delimiter; none where it cannot be."""
    try:
        return [_plain(cell) for cell in _split(1, text, delimiter)]
    except Unprocessable:
        return []


def _found(names: list[str], layout: Layout) -> dict[str, str]:
    """For each field the name of its column."""
    there = set(names)
    chosen = {field: next((name for name in known if name in there), None) for field, known in layout.columns.items()}
    return {field: name for field, name in chosen.items() if name is not None}


def _place(number: int, names: list[str], found: Mapping[str, str], wanted: str) -> int:
    name = found[wanted]
    if names.count(name) == 1:
        return names.index(name)
    # Statements with a currency after each of amount, fee and balance: the amount's own stands right after it.
    after_amount = names.index(found["amount"]) + 1
    if wanted == "currency" and names[after_amount : after_amount + 1] == [name]:
        return after_amount
    raise _bad(number, f"the column {name!r} is there {names.count(name)} times; which one is meant?")


def _split(number: int, text: str, delimiter: str) -> list[str]:
    if '"' not in text:
        return text.split(delimiter)
    try:
        rows = list(csv.reader([text], delimiter=delimiter, strict=True))
    except csv.Error:
        raise _bad(number, "the quotation marks cannot be read; a cell must end on its own line") from None
    return rows[0]


# --- a row to a line ------------------------------------------------------------------------------------------------

FORMULA_STARTS = ("=", "+", "-", "@")
NOTHING = frozenset({"", "-"})
SPREADSHEET_NUMBER = re.compile(r"[0-9](?:[.,][0-9]+)?E\+[0-9]+", re.ASCII | re.IGNORECASE)
ISO_TIME = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2})[T ]([0-9]{2}:[0-9]{2}(?::[0-9]{2}(?:\.[0-9]{1,6})?)?) ?(Z|[+-][0-9]{2}:?[0-9]{2})?",
    re.ASCII,
)
YEARS = range(2000, 2100)
WALLET = re.compile(r"FRI:([0-9]{9,15})/MSISDN", re.ASCII | re.IGNORECASE)
NATIONAL = re.compile(r"[579][0-9]{8}", re.ASCII)
MASKS = re.compile(r"[*xX•#]")


@dataclass(frozen=True, slots=True)
class _Row:
    """The cells of one row by field; those whose column is not there are missing."""

    number: int
    layout: Layout
    cells: Mapping[str, str]

    def line(self) -> StatementLine:
        money, direction = self._money()
        word = self.word("status")
        if word not in SUCCESSFUL_WORDS | FAILED_WORDS:
            raise self._unreadable("status")
        return StatementLine(
            number=self.number,
            our_reference=self._text("reference"),
            their_id=self._text("their_id"),
            money=money,
            msisdn=self._msisdn("payee" if direction == "out" and "payee" in self.cells else "payer"),
            at=self._time(),
            status="successful" if word in SUCCESSFUL_WORDS else "failed",
            direction=direction,
            word=word,
        )

    def word(self, name: str) -> str:
        """A cell that holds one of a few words, without case and punctuation."""
        return _plain(self._text(name) or "")

    def _text(self, name: str) -> str | None:
        text = self.cells.get(name, "")
        if text in NOTHING:
            return None
        if text.startswith(FORMULA_STARTS):
            raise _bad(self.number, f"the {NAMES[name]} {_shown(text)!r} is a formula")
        if SPREADSHEET_NUMBER.fullmatch(text):
            raise _bad(self.number, f"the {NAMES[name]} {_shown(text)!r} was rounded by a spreadsheet")
        if len(text) > MAX_TEXT or not text.isprintable():
            raise self._unreadable(name)
        return text

    def _money(self) -> tuple[Money, Direction | None]:
        text, kind = self.cells["amount"], self.word("type")
        direction: Direction | None = "in" if kind in IN_WORDS else "out" if kind in OUT_WORDS else None
        if text.startswith("-"):  # a negative amount is money that went out, not a formula
            text, direction = text[1:], "out"
        try:
            return Money.read(text, self.cells["currency"].upper()), direction
        except InvalidAmount:
            raise self._unreadable("amount", "; write it as 1000.50") from None
        except CurrencyNotSupported:
            raise self._unreadable("currency", "; write it as ZMW") from None

    def _msisdn(self, name: str) -> str | None:
        """Digits with country code; None where the cell names no number, or hides it."""
        text = self.cells.get(name, "")
        wallet = WALLET.fullmatch(text)
        if wallet is None and (text in NOTHING or text.upper().startswith("FRI:") or MASKS.search(text)):
            return None
        digits = wallet[1] if wallet else text
        try:
            return Msisdn.parse(f"260{digits}" if NATIONAL.fullmatch(digits) else digits).digits
        except InvalidNumber:
            raise _bad(self.number, f"the {NAMES[name]} cannot be read; write it as 260961234567") from None

    def _time(self) -> datetime | None:
        text = self.cells.get("at", "")
        if text in NOTHING:
            return None
        found = _parse_time(text, self.layout.date_formats)
        if found is None or found.year not in YEARS:
            raise self._unreadable("at", "; write it as 2026-11-24 13:05:00")
        return found if found.tzinfo else found.replace(tzinfo=self.layout.zone)

    def _unreadable(self, name: str, advice: str = "") -> Unprocessable:
        text = self.cells[name]
        if not text:
            return _bad(self.number, f"the {NAMES[name]} is missing")
        return _bad(self.number, f"the {NAMES[name]} {_shown(text)!r} cannot be read{advice}")


def _parse_time(text: str, formats: tuple[str, ...]) -> datetime | None:
    iso = ISO_TIME.fullmatch(text)
    if iso is not None:
        try:
            return datetime.fromisoformat(f"{iso[1]}T{iso[2]}{iso[3] or ''}")
        except ValueError:
            return None
    if len(text) <= SHOWN:
        for format_ in formats:
            try:
                return datetime.strptime(text, format_)  # noqa: DTZ007  # the layout's zone is added by who called
            except ValueError:
                continue
    return None


# --- a line against a payment ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Counterpart:
    """What our books say of the payment that a line speaks of. `account` is the fingerprint of the provider's."""

    tenant_id: TenantId
    payment_id: PaymentId
    kind: Kind
    status: Status
    money: Money
    payer: str = field(repr=False)
    their_id: str | None
    account: str
    review: Review | None


class Verdict(StrEnum):
    """What the comparison says of a line, or of a payment that has none (the last two)."""

    AGREED = "agreed"
    SETTLED = "settled"
    CONTRADICTING = "contradicting"
    DIFFERENT = "different"
    SEVERAL_LINES = "several_lines"
    EARLIER_ROAD = "earlier_road"
    AMBIGUOUS = "ambiguous"
    MISSING_OURS = "missing_ours"
    FAILED_UNKNOWN = "failed_unknown"
    MISSING_THEIRS = "missing_theirs"
    TIMEOUT_MISSING_THEIRS = "timeout_missing_theirs"


def judge(line: StatementLine, ours: Counterpart) -> Verdict:
    """What a line says of the payment that it surely speaks of. SETTLED: it gives an open payment its outcome."""
    successful = line.status == "successful"
    match ours.status:
        case Status.PENDING | Status.TIMEOUT:
            return Verdict.DIFFERENT if difference(line, ours) else Verdict.SETTLED
        case Status.FAILED:
            return Verdict.CONTRADICTING if successful else Verdict.AGREED
        case Status.SUCCESSFUL if not successful:
            return Verdict.CONTRADICTING
        case Status.SUCCESSFUL:
            return Verdict.DIFFERENT if difference(line, ours) else Verdict.AGREED
        case Status.REVERSED:
            return Verdict.AGREED
        case _:
            assert_never(ours.status)


def difference(line: StatementLine, ours: Counterpart) -> str | None:
    """In what a line and its payment differ, as one phrase."""
    if line.money != ours.money:
        return f"they say {line.money} {line.money.currency}, we say {ours.money} {ours.money.currency}"
    if line.msisdn is not None and line.msisdn != ours.payer:
        return "they name another number"
    return None


def word_of(line: StatementLine) -> Succeeded | Declined:
    """The line as a provider's word about its payment."""
    if line.status == "successful":
        return Succeeded(line.their_id, line.money, line.msisdn)
    return Declined(FailureCode.PROVIDER_REJECTED, line.word)


def formula_safe(text: str) -> str:
    """A cell that no spreadsheet takes for a formula."""
    return f"'{text}" if text.startswith((*FORMULA_STARTS, "\t", "\r")) else text


# --- texts ----------------------------------------------------------------------------------------------------------

MANY_DIGITS = re.compile(r"[0-9]{9,}", re.ASCII)
PUNCTUATION = re.compile(r"[\W_]+")


def _plain(text: str) -> str:
    """Lower case, punctuation as one space: "Transaction_ID" and "transaction-id" are one name."""
    return PUNCTUATION.sub(" ", text.casefold()).strip()


def _shown(text: str) -> str:
    """As much of a cell as a sentence may repeat: short, and no phone number."""
    return MANY_DIGITS.sub(lambda found: mask(found[0]), text)[:SHOWN]


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _bad(number: int, said: str) -> Unprocessable:
    return Unprocessable(f"line {number}: {said}.")
