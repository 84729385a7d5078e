"""A provider's statement: bytes become lines or one sentence that says what is wrong, and a line is judged.

A statement is a CSV file that a person downloaded, perhaps opened in a spreadsheet and saved again. What has one
meaning is read, and what moves no money is left out and counted. Nothing is guessed: a row that could mean two things
is told with its number and the reason, and stops no other. docs/statements.md says where the layouts come from.
"""

import csv
import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from enum import StrEnum
from typing import Literal, assert_never

from kobiri.domain.errors import CurrencyNotSupported, InvalidAmount, InvalidNumber, Unprocessable
from kobiri.domain.ids import PaymentId, TenantId, parse_id
from kobiri.domain.money import Money
from kobiri.domain.msisdn import Msisdn, mask
from kobiri.domain.outcome import Declined, FailureCode, Succeeded
from kobiri.domain.payment import Kind, Mode, Review, Status

MAX_FILE_BYTES = 256 * 1024 * 1024
MAX_LINES = 1_000_000
MAX_LINE_BYTES = 16 * 1024
MAX_RECORD_LINES = 20  # lines over which one row may go, by line breaks in quoted cells
MAX_PREAMBLE_LINES = 30  # lines before the header
MAX_UNREADABLE = 1_000  # rows that cannot be read; with more of them it is another kind of file
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


DAY_FIRST = tuple(
    f"{day} {time}"
    for day in ("%d/%m/%Y", "%d-%m-%Y", "%d %b %Y", "%d-%b-%Y", "%d %B %Y", "%Y-%m-%d")
    for time in ("%H:%M:%S", "%H:%M", "%I:%M:%S %p", "%I:%M %p")
)

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
    {"pending", "processing", "in progress", "tip", "ambiguous", "ta", "initiated", "expired", "te"}
)
REVERSED_WORD = "reversed"  # as a status: the money came, and went back
IN_WORDS = frozenset(
    {"collection", "payment", "external payment", "merchant payment", "customer payment", "request to pay", "c2b"}
)
OUT_WORDS = frozenset({"payout", "disbursement", "b2c", "refund"})
REVERSAL_WORD = "reversal"  # as a type: a movement of its own, which takes another one back


# --- what is read ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class StatementLine:
    """One movement of money, as the provider tells it. `number` is the line of the file, from 1; `word` is theirs.

    `direction` is seen from the merchant's side, None where the statement does not tell it. `our_reference` is in the
    canonical form where it has the form of ours. `reverses`: it takes back the movement of that reference or id.
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
    reverses: bool = False


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A row that could mean several things, or nothing, and why."""

    number: int
    reason: str


@dataclass(frozen=True, slots=True)
class Statement:
    """A file that was read to its end. `undecided`, `others` and `idle` count the rows that are no lines, by a word.

    These are without a final status, of another type, and without an amount. `repeated` counts the rows that say a line
    once more. `unread` are the columns that no field was found in: a reference among them would not be seen.
    """

    lines: tuple[StatementLine, ...]
    undecided: Mapping[str, int]
    others: Mapping[str, int]
    unread: tuple[str, ...]
    sha256: str
    idle: Mapping[str, int] = field(default_factory=dict)
    repeated: int = 0
    unreadable: tuple[Unreadable, ...] = ()

    @property
    def period(self) -> tuple[datetime, datetime] | None:
        """From the earliest line to the latest; None when no line bears a time."""
        times = [line.at for line in self.lines if line.at is not None]
        return (min(times), max(times)) if times else None


def read(chunks: Iterable[bytes], layout: Layout) -> Statement:
    """Read a statement to its end. Raises Unprocessable, in one sentence, where it is none.

    What is no statement fails early: no more than a chunk and a few lines are held before a row was read.
    """
    digest = hashlib.sha256()
    rows = _Rows(layout)
    for number, line in _lines(chunks, digest.update):
        rows.add(number, line)
    return rows.end(digest.hexdigest())


# --- bytes to lines -------------------------------------------------------------------------------------------------

LINE_END = re.compile(rb"\r\n|\r|\n")


def _lines(chunks: Iterable[bytes], seen: Callable[[bytes], object]) -> Iterator[tuple[int, str]]:
    """Lines of text with their numbers, without line ends and byte order mark. Bytes of no UTF-8 become surrogates."""
    for number, raw in enumerate(_raw_lines(chunks, seen), start=1):
        if number > MAX_LINES:
            raise Unprocessable(f"The file has more than {MAX_LINES} lines; split it.")
        text = raw.decode(errors="surrogateescape")
        yield number, text.removeprefix("\ufeff") if number == 1 else text


def _raw_lines(chunks: Iterable[bytes], seen: Callable[[bytes], object]) -> Iterator[bytes]:
    rest, size, number = b"", 0, 0
    for chunk in chunks:
        seen(chunk)
        size += len(chunk)
        if size > MAX_FILE_BYTES:
            raise Unprocessable(f"The file is larger than {MAX_FILE_BYTES // 1024**2} MiB; split it.")
        found = rest + chunk
        half = found.endswith(b"\r")  # perhaps the first half of a line end
        pieces = LINE_END.split(found[:-1] if half else found)
        rest = pieces.pop() + (b"\r" if half else b"")
        for piece in pieces:
            number += 1
            _check_length(number, piece)
            yield piece
        _check_length(number + 1, rest)
    if rest:
        yield rest.removesuffix(b"\r")


def _check_length(number: int, raw: bytes) -> None:
    if len(raw) > MAX_LINE_BYTES:
        raise _bad(number, f"it is longer than {MAX_LINE_BYTES} bytes; this is not a statement")


# --- lines to rows --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Columns:
    """Where the fields stand. A statement may have several columns that could hold our reference."""

    delimiter: str
    width: int
    at: Mapping[str, int]
    references: tuple[int, ...]
    unread: tuple[str, ...]


class _Rows:
    """Collects the lines of one file, header first, and what could mean two things."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.columns: _Columns | None = None
        self.lines: list[StatementLine] = []
        self.undecided: Counter[str] = Counter()
        self.others: Counter[str] = Counter()
        self.idle: Counter[str] = Counter()
        self.repeated = 0
        self._unreadable: dict[int, str] = {}
        self._refusals: list[tuple[int, Unprocessable]] = []  # of the lines before the header, with what each lacks
        self._open: list[tuple[int, str]] = []  # lines of a row that has not ended yet
        self._ids: dict[tuple[str, bool], StatementLine] = {}
        self._texts: dict[bytes, int] = {}
        self._either: set[int] = set()  # lines with a date that has two readings
        self._month_first = 0  # a line with a date that begins with its month

    def add(self, number: int, text: str) -> None:
        """Take the next line of the file. Raises Unprocessable: it is no statement."""
        if self._open:
            self._open.append((number, text))
        elif text.strip():
            self._open = [(number, text)]
        else:
            return
        whole = "\n".join(text for _, text in self._open)
        first = self._open[0][0]
        if self.columns is None:
            self._look_for_header(first, whole)
            return
        try:
            cells = _split(first, whole, self.columns.delimiter)
        except _NotEnded:
            if len(self._open) >= MAX_RECORD_LINES or len(whole) > MAX_LINE_BYTES:
                self._give_up()
            return
        except Unprocessable as error:
            self._open = []
            self._set_aside(first, error.detail)
            return
        self._open = []
        self._take(first, cells, whole)

    def _give_up(self) -> None:
        """The quotation mark of the first open line does not end: what follows it are rows of their own."""
        (number, _), *rest = self._open
        self._open = []
        self._set_aside(number, _bad(number, "its quotation mark does not end").detail)
        for later, text in rest:
            self.add(later, text)

    def _look_for_header(self, number: int, text: str) -> None:
        """Statements may begin with a few lines of their own, such as "sep=," or the name of the account."""
        try:
            self.columns = _read_header(number, text, self.layout)
        except _NotEnded:
            if len(self._open) < MAX_RECORD_LINES and len(text) <= MAX_LINE_BYTES:
                return
            self._refusals.append((0, _bad(number, "its quotation mark does not end")))
        except _NoHeader as error:
            self._refusals.append((error.found, error))
        self._open = []
        if self.columns is None and len(self._refusals) >= MAX_PREAMBLE_LINES:
            raise self._no_header()

    def _no_header(self) -> Unprocessable:
        """What is said of the line that looks most like a header."""
        return max(self._refusals, key=lambda refusal: refusal[0])[1]

    def _take(self, number: int, cells: list[str], text: str) -> None:
        assert self.columns is not None
        try:
            if "\0" in text:
                raise _bad(number, "there is a NUL byte; this is not a CSV file")
            self._read(number, cells, text, self.columns)
        except Unprocessable as error:
            self._set_aside(number, error.detail)

    def _read(self, number: int, cells: list[str], text: str, columns: _Columns) -> None:
        if len(cells) < columns.width or any(cell.strip() for cell in cells[columns.width :]):
            raise _bad(number, f"{_count(len(cells), 'cell')}, but the header has {columns.width}")
        named = {name: cells[index].strip() for name, index in columns.at.items()}
        row = _Row(number, self.layout, named, tuple(cells[index].strip() for index in columns.references))
        if not (text.isascii() or all(map(_is_text, (*named.values(), *row.references)))):
            raise _bad(number, "this is not UTF-8; save the file as CSV UTF-8")
        word, kind = row.word("status"), row.word("type")
        if word in UNDECIDED_WORDS:
            self._count(self.undecided, word)
        elif kind and kind not in IN_WORDS | OUT_WORDS | {REVERSAL_WORD}:
            self._count(self.others, kind)
        elif kind == REVERSAL_WORD and word in FAILED_WORDS:
            self._count(self.others, f"{kind} {word}")
        elif row.moves_nothing:
            self._count(self.idle, word)
        else:
            self._note_date(number, row.cells.get("at", ""))
            self._keep(row.line(), text)

    def _keep(self, line: StatementLine, text: str) -> None:
        """Add a line, once: a payment and its reversal may share an id, two different payments may not."""
        if line.their_id is None:
            first = self._texts.setdefault(
                hashlib.blake2b(text.encode(errors="replace"), digest_size=16).digest(), line.number
            )
            if first != line.number:
                self._set_both_aside(first, line.number, "is the same, and neither has a transaction id")
                return
        else:
            twin = self._ids.setdefault((line.their_id, line.reverses), line)
            if twin is not line and replace(twin, number=line.number) == line:
                self.repeated += 1
                return
            if twin is not line:
                self._set_both_aside(twin.number, line.number, "has the same transaction id and says otherwise")
                return
        self.lines.append(line)

    def _set_both_aside(self, first: int, second: int, why: str) -> None:
        for number, other in ((first, second), (second, first)):
            self._set_aside(number, _bad(number, f"line {other} {why}").detail)

    def _set_aside(self, number: int, said: str) -> None:
        self._unreadable.setdefault(number, said)
        if len(self._unreadable) > MAX_UNREADABLE:
            first = next(iter(self._unreadable.values()))
            raise Unprocessable(f"More than {MAX_UNREADABLE} lines cannot be read. The first is {first}")

    def _note_date(self, number: int, text: str) -> None:
        date = NUMERIC_DATE.match(text)
        if date is None or int(date[1]) > MONTHS or int(date[1]) == int(date[2]):
            return
        if int(date[2]) > MONTHS:
            self._month_first = number
        else:
            self._either.add(number)

    @staticmethod
    def _count(words: Counter[str], word: str) -> None:
        """By their word, for as many words as a person reads."""
        words[word if word in words or len(words) < SHOWN else "…"] += 1

    def end(self, sha256: str) -> Statement:
        """What was read. Raises Unprocessable: that is nothing."""
        while self._open and self.columns is not None:
            self._give_up()
        if self.columns is None:
            if self._open:
                self._refusals.append((0, _bad(self._open[0][0], "its quotation mark does not end")))
            raise self._no_header() if self._refusals else Unprocessable("The file is empty.")
        if self._month_first:
            for number in sorted(self._either):
                why = f"its date has two readings, for that of line {self._month_first} begins with the month"
                self._set_aside(number, _bad(number, why).detail)
        counted = self.undecided or self.others or self.idle
        lines = tuple(line for line in self.lines if line.number not in self._unreadable)
        if not lines and not counted:
            first = next(iter(self._unreadable.values()), "The file holds a header and no line.")
            raise Unprocessable(first)
        unreadable = tuple(Unreadable(number, said) for number, said in sorted(self._unreadable.items()))
        return Statement(
            lines, self.undecided, self.others, self.columns.unread, sha256, self.idle, self.repeated, unreadable
        )


class _NotEnded(Exception):
    """A quoted cell goes on in the next line."""


class _NoHeader(Unprocessable):
    """A line is no header. `found`: how many fields it names all the same."""

    def __init__(self, detail: str, found: int) -> None:
        super().__init__(detail)
        self.found = found


def _read_header(number: int, text: str, layout: Layout) -> _Columns:
    if not _is_text(text):
        raise _NoHeader(_bad(number, "this is not UTF-8; save the file as CSV UTF-8").detail, 0)
    readings = {delimiter: _header_names(text, delimiter) for delimiter in DELIMITERS}
    if not any(readings.values()):
        raise _NotEnded
    delimiter = max(DELIMITERS, key=lambda one: (len(_found(readings[one], layout)), len(readings[one])))
    names = readings[delimiter]
    found = _found(names, layout)
    missing = [_named(name, layout) for name in NEEDED if name not in found]
    if not ({"reference", "their_id"} & set(found) or {"payer", "at"} <= set(found)):
        missing.append(f"{_named('reference', layout)} or {_named('their_id', layout)}")
    if missing:
        wanted = " and ".join(missing)
        there = ", ".join(repr(_shown(name)) for name in names[:SHOWN]) or "none"
        raise _NoHeader(_bad(number, f"there is no column for {wanted}; found {there}").detail, len(found))
    references = tuple(index for index, name in enumerate(names) if name in layout.columns["reference"])
    known = {*found.values(), *(names[index] for index in references)}
    unread = [_shown(name) for name in dict.fromkeys(names) if name and name not in known]
    places = {name: _place(number, names, found, name) for name in found if name != "reference"}
    return _Columns(delimiter, len(names), places, references, tuple(unread[:SHOWN]))


def _named(name: str, layout: Layout) -> str:
    """A field and what its column may be called."""
    return f"the {NAMES[name]} ({', '.join(layout.columns[name])})"


def _header_names(text: str, delimiter: str) -> list[str]:
    """The names if this is the delimiter; none where it cannot be."""
    try:
        return [_plain(cell) for cell in _split(1, text, delimiter)]
    except (Unprocessable, _NotEnded):
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
    """The cells of a row. Raises _NotEnded (a quoted cell goes on in the next line), Unprocessable."""
    if '"' not in text:
        return text.split(delimiter)
    try:
        return next(csv.reader((f"{line}\n" for line in text.split("\n")), delimiter=delimiter, strict=True))
    except csv.Error as error:
        if "unexpected end of data" in str(error):
            raise _NotEnded from None
        raise _bad(number, "the quotation marks cannot be read") from None


def _is_text(text: str) -> bool:
    """Whether its bytes were UTF-8."""
    return not SURROGATE.search(text)


SURROGATE = re.compile("[\udc80-\udcff]")
NUMERIC_DATE = re.compile(r"([0-9]{1,2})[/-]([0-9]{1,2})[/-][0-9]{4}\b", re.ASCII)


# --- a row to a line ------------------------------------------------------------------------------------------------

FORMULA_STARTS = ("=", "+", "-", "@")
NOTHING = frozenset({"", "-"})
SPREADSHEET_NUMBER = re.compile(r"[0-9](?:[.,][0-9]+)?E\+[0-9]+", re.ASCII | re.IGNORECASE)
ISO_TIME = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2})[T ]([0-9]{2}:[0-9]{2}(?::[0-9]{2}(?:\.[0-9]{1,6})?)?) ?(Z|[+-][0-9]{2}:?[0-9]{2})?",
    re.ASCII,
)
YEARS = range(2000, 2100)
LAST = datetime.max.replace(tzinfo=UTC)
MONTHS = 12
DOTTED = re.compile(r"([ap])\.m\.", re.IGNORECASE)  # "1:05 p.m."
GROUPED = re.compile(r"[0-9]{1,3}(?:,[0-9]{3})+\.[0-9]+", re.ASCII)  # 1,234.50 has one meaning, 1,234 has two
ZERO = re.compile(r"[+-]?0+(?:\.0+)?", re.ASCII)
WALLET = re.compile(r"FRI:([0-9]{9,15})/MSISDN", re.ASCII | re.IGNORECASE)
NATIONAL = re.compile(r"[579][0-9]{8}", re.ASCII)
LINE_NUMBER = re.compile(r"\+?([0-9]{9,15})", re.ASCII)  # of a telephone that is no mobile of ours


@dataclass(frozen=True, slots=True)
class _Row:
    """The cells of one row by field; those whose column is not there are missing."""

    number: int
    layout: Layout
    cells: Mapping[str, str]
    references: tuple[str, ...]

    @property
    def moves_nothing(self) -> bool:
        return ZERO.fullmatch(self.cells["amount"]) is not None

    def line(self) -> StatementLine:
        money, direction = self._money()
        word = self.word("status")
        reverses = word == REVERSED_WORD or self.word("type") == REVERSAL_WORD
        if word not in SUCCESSFUL_WORDS | FAILED_WORDS | {REVERSED_WORD}:
            raise self._unreadable("status")
        return StatementLine(
            number=self.number,
            our_reference=self._reference(),
            their_id=self._text("their_id"),
            money=money,
            msisdn=self._msisdn("payee" if direction == "out" and "payee" in self.cells else "payer"),
            at=self._time(),
            status="failed" if word in FAILED_WORDS else "successful",
            direction="out" if reverses else direction,
            word=word,
            reverses=reverses,
        )

    def word(self, name: str) -> str:
        """A cell that holds one of a few words, without case and punctuation."""
        return _plain(self._text(name) or "")

    def _reference(self) -> str | None:
        """Ours, in whichever column it stands; else what the first of them says, which is somebody else's."""
        ours = sorted({reference for cell in self.references if (reference := reference_of(cell)) is not None})
        if len(ours) > 1:
            raise _bad(self.number, "two references have the form of ours")
        return (
            ours[0] if ours else self._checked("reference", next((c for c in self.references if c not in NOTHING), ""))
        )

    def _text(self, name: str) -> str | None:
        return self._checked(name, self.cells.get(name, ""))

    def _checked(self, name: str, text: str) -> str | None:
        if text in NOTHING:
            return None
        if text.startswith(FORMULA_STARTS):
            raise _bad(self.number, f"the {NAMES[name]} {_shown(text)!r} is a formula")
        if SPREADSHEET_NUMBER.fullmatch(text):
            raise _bad(self.number, f"the {NAMES[name]} {_shown(text)!r} was rounded by a spreadsheet")
        if len(text) > MAX_TEXT or not text.isprintable():
            raise _bad(self.number, f"the {NAMES[name]} {_shown(text)!r} cannot be read")
        return text

    def _money(self) -> tuple[Money, Direction | None]:
        text, kind = self.cells["amount"], self.word("type")
        direction: Direction | None = "in" if kind in IN_WORDS else "out" if kind in OUT_WORDS else None
        if text.startswith("-"):  # a negative amount is money that went out, not a formula
            text, direction = text[1:], "out"
        elif text.startswith("+"):
            text = text[1:]
        if GROUPED.fullmatch(text):
            text = text.replace(",", "")
        try:
            return Money.read(text, self.cells["currency"].upper()), direction
        except InvalidAmount:
            raise self._unreadable("amount", "; write it as 1000.50") from None
        except CurrencyNotSupported:
            raise self._unreadable("currency", "; write it as ZMW") from None

    def _msisdn(self, name: str) -> str | None:
        """Digits with country code; None where the cell names no number, or hides it: a name, a short code, a mask."""
        text = self.cells.get(name, "")
        wallet = WALLET.fullmatch(text)
        digits = wallet[1] if wallet else text
        if digits.startswith("="):
            raise _bad(self.number, f"the {NAMES[name]} is a formula; write it as 260961234567")
        try:
            return Msisdn.parse(f"260{digits}" if NATIONAL.fullmatch(digits) else digits).digits
        except InvalidNumber:
            other = LINE_NUMBER.fullmatch(digits)
            # A landline is another payer than a mobile: it must not look as if no number had been told.
            return None if other is None else f"260{other[1][1:]}" if other[1].startswith("0") else other[1]

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
    text = DOTTED.sub(r"\1m", " ".join(text.split()))
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
    """What our books say of the payment that a line speaks of. `account` is the fingerprint of the provider's.

    `their_id` and `receipt` are two numbers of one transaction: a line may show either.
    """

    tenant_id: TenantId
    payment_id: PaymentId
    mode: Mode
    kind: Kind
    status: Status
    money: Money
    payer: str = field(repr=False)
    their_id: str | None
    account: str
    review: Review | None
    receipt: str | None = None

    def bears(self, their_id: str | None) -> bool:
        """Whether it is known by this number of the provider's."""
        return their_id is not None and their_id in (self.their_id, self.receipt)

    def bears_another(self, their_id: str | None) -> bool:
        """Whether it is known by other numbers of the provider's alone."""
        known = self.their_id is not None or self.receipt is not None
        return their_id is not None and known and not self.bears(their_id)


class Verdict(StrEnum):
    """What the comparison says of a line, or of a payment that has none (the last two)."""

    AGREED = "agreed"
    SETTLED = "settled"
    PROPOSED = "proposed"
    CONTRADICTING = "contradicting"
    DIFFERENT = "different"
    PAID_TWICE = "paid_twice"
    SEVERAL_LINES = "several_lines"
    REVERSED = "reversed"
    EARLIER_ROAD = "earlier_road"
    UNASKED = "unasked"
    AMBIGUOUS = "ambiguous"
    MISSING_OURS = "missing_ours"
    FAILED_UNKNOWN = "failed_unknown"
    UNREADABLE = "unreadable"
    NOT_APPLIED = "not_applied"
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


def taken_back(lines: Sequence[StatementLine]) -> set[int]:
    """Of the lines of one payment, the numbers of those whose money came and went again, and of their reversals.

    A reversal belongs to the charge with its transaction id and amount; else to those of its amount, where as many went
    as came: where fewer went, nobody can tell which.
    """
    came = [line for line in lines if line.status == "successful" and not line.reverses]
    went = [line for line in lines if line.status == "successful" and line.reverses]
    by_id = {(line.their_id, line.money): line for line in came}
    gone: set[int] = set()
    for reversal in went:
        own = by_id.pop((reversal.their_id, reversal.money), None)
        if own is not None and own.their_id is not None:
            gone |= {own.number, reversal.number}
    came, went = [[line for line in some if line.number not in gone] for some in (came, went)]
    for money in {line.money for line in went}:
        here, back = [[line.number for line in some if line.money == money] for some in (came, went)]
        if len(here) == len(back):
            gone |= {*here, *back}
    return gone


def own_line(lines: Sequence[StatementLine], ours: Counterpart) -> StatementLine | None:
    """Of several lines under one payment's reference or id, the one that is the payment's own; None: nobody can tell.

    The others are money that came besides. Each must be a success of a transaction id of its own.
    """
    ids = {line.their_id for line in lines}
    if None in ids or len(ids) < len(lines) or any(line.status != "successful" for line in lines):
        return None
    known = [line for line in lines if ours.bears(line.their_id)]
    if len(known) > 1:  # two numbers of one transaction: perhaps it stands there twice
        return None
    agreeing = [line for line in lines if difference(line, ours) is None]
    return min(known or agreeing, key=lambda line: (line.at or LAST, line.number), default=None)


def line_digest(provider: str, account: str, line: StatementLine) -> bytes:
    """What knows a line again, in whichever file it stands: their transaction id, else all that it says.

    `account` is the fingerprint of the provider's: the same id at another account is another transaction.
    """
    facts = (line.their_id,) if line.their_id else (line.at, line.money.minor, line.money.currency, line.msisdn)
    return hashlib.sha256(repr((provider, account, *map(str, facts))).encode()).digest()


def difference(line: StatementLine, ours: Counterpart) -> str | None:
    """In what a line and its payment differ, as one phrase."""
    if line.money != ours.money:
        return f"they say {line.money} {line.money.currency}, we say {ours.money} {ours.money.currency}"
    if line.msisdn is not None and line.msisdn != ours.payer:
        return "they name another number"
    if ours.receipt is not None and ours.bears_another(line.their_id):
        return "they show another receipt than the provider told"
    return None


def success_of(line: StatementLine, told_in: str) -> Succeeded:
    """A successful line as a provider's word. `told_in`: the statement and the line."""
    return Succeeded(line.their_id, line.money, line.msisdn, told_in)


def word_of(line: StatementLine, told_in: str) -> Succeeded | Declined:
    """The line as a provider's word about its payment."""
    if line.status == "successful":
        return success_of(line, told_in)
    return Declined(FailureCode.PROVIDER_REJECTED, line.word)


def reference_of(text: str) -> str | None:
    """A reference in the form of ours, hyphens or none, as we write it; None when we cannot have made it."""
    if len(text) == 32:  # the digits of a UUID
        text = "-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:]))
    return parse_id(text)


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
