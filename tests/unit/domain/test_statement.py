"""A statement is read: what has one meaning; what has two is told with its line and the reason, and stops no other."""

import hashlib
import json
import re
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from itertools import repeat
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kobiri.domain import statement
from kobiri.domain.errors import Unprocessable
from kobiri.domain.ids import PaymentId, TenantId
from kobiri.domain.money import Money
from kobiri.domain.outcome import Declined, FailureCode, Succeeded
from kobiri.domain.payment import Status
from kobiri.domain.statement import LAYOUTS, Counterpart, Statement, StatementLine, Verdict

GENERIC = LAYOUTS["generic"]
HEADER = "reference,transaction_id,time,status,amount,currency,msisdn,type"
REFERENCE = "0b7a0f5e-3c1d-4a54-9a55-6a1de0f5b001"
DOCUMENT = (Path(__file__).parents[3] / "docs" / "statements.md").read_text()
EXAMPLES = re.findall(r"```csv layout=(\w+)\n(.*?)```", DOCUMENT, re.DOTALL)


def row(**over: str) -> str:
    cells = {
        "reference": REFERENCE,
        "transaction_id": "4711",
        "time": "2026-11-24 13:05:00",
        "status": "successful",
        "amount": "10.00",
        "currency": "ZMW",
        "msisdn": "260961234567",
        "type": "payment",
    } | over
    return ",".join(cells[name] for name in HEADER.split(","))


def read(text: str | bytes, layout: str = "generic") -> Statement:
    data = text.encode() if isinstance(text, str) else text
    return statement.read((data[start : start + 7] for start in range(0, len(data), 7)), LAYOUTS[layout])


def line(**over: str) -> StatementLine:
    [found] = read(f"{HEADER}\n{row(**over)}\n").lines
    return found


def refusal(text: str | bytes) -> str:
    with pytest.raises(Unprocessable) as caught:
        read(text)
    assert "\n" not in caught.value.detail
    return caught.value.detail


# --- what is read ---------------------------------------------------------------------------------------------------


def test_a_line_as_it_is_read() -> None:
    text = f"{HEADER}\n{row()}\n"
    found = read(text)
    assert found.lines == (
        StatementLine(
            number=2,
            our_reference=REFERENCE,
            their_id="4711",
            money=Money(1_000, "ZMW"),
            msisdn="260961234567",
            at=datetime(2026, 11, 24, 11, 5, tzinfo=UTC),
            status="successful",
            direction="in",
            word="successful",
        ),
    )
    assert found.sha256 == hashlib.sha256(text.encode()).hexdigest()
    assert found.period == (found.lines[0].at, found.lines[0].at)
    assert "260961234567" not in repr(found)


@pytest.mark.parametrize(("layout", "text"), EXAMPLES, ids=[name for name, _ in EXAMPLES])
def test_the_examples_of_the_document_are_read(layout: str, text: str) -> None:
    lines = read(text, layout).lines
    assert [one.number for one in lines] == [2, 3]
    assert lines[0].our_reference is not None
    assert lines[1].our_reference is None
    assert [str(one.money) for one in lines] == ["10.00", "25.50"]
    assert all(one.at is not None and one.at.utctimetuple()[:4] == (2026, 11, 24, 11) for one in lines)
    assert all(re.fullmatch(r"260[97][567]\d{7}", one.msisdn or "") for one in lines)


def test_every_layout_has_an_example_and_every_name_stands_in_the_document() -> None:
    assert {name for name, _ in EXAMPLES} == set(LAYOUTS)
    known = {re.sub(r"[\W_]+", " ", name.casefold()) for name in re.findall(r"`([^`\n]+)`", DOCUMENT)}
    words = statement.SUCCESSFUL_WORDS | statement.FAILED_WORDS | statement.UNDECIDED_WORDS
    assert (
        words | statement.IN_WORDS | statement.OUT_WORDS | {statement.REVERSED_WORD, statement.REVERSAL_WORD} <= known
    )
    glued = {"externalid", "financialtransactionid"}  # the spelling of the API; too odd for a table
    assert {name for layout in LAYOUTS.values() for names in layout.columns.values() for name in names} <= known | glued


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_delimiter_mark_and_line_ends(delimiter: str, mark: str, end: str) -> None:
    text = mark + end.join(text.replace(",", delimiter) for text in (HEADER, "", row(), row(transaction_id="2")))
    assert [one.number for one in read(text).lines] == [3, 4]


def test_a_quoted_cell_may_hold_the_delimiter_and_unknown_columns_are_not_read() -> None:
    text = f'Message;{HEADER};"Na;me"\n"=cmd|x, y";{row()};"a ""b"""\n'.replace(",", ";")
    found = read(text)
    assert len(found.lines) == 1
    assert found.unread == ("message", "na me")


READ: list[tuple[dict[str, str], dict[str, Any]]] = [
    ({"amount": "10"}, {"money": Money(1_000, "ZMW")}),
    ({"amount": "10.5000"}, {"money": Money(1_050, "ZMW")}),
    ({"amount": "-10.00"}, {"money": Money(1_000, "ZMW"), "direction": "out"}),
    ({"amount": "70000", "currency": "ugx"}, {"money": Money(70_000, "UGX")}),
    ({"type": ""}, {"direction": None}),
    ({"type": "Refund"}, {"direction": "out"}),
    ({"type": "MERCHANT_PAYMENT"}, {"direction": "in"}),
    ({"status": "TF"}, {"status": "failed", "word": "tf"}),
    ({"status": "Completed"}, {"status": "successful"}),
    ({"reference": "", "transaction_id": "-"}, {"our_reference": None, "their_id": None}),
    ({"msisdn": "+260 96 1234567"}, {"msisdn": "260961234567"}),
    ({"msisdn": "0961234567"}, {"msisdn": "260961234567"}),
    ({"msisdn": "961234567"}, {"msisdn": "260961234567"}),
    ({"msisdn": "FRI:260961234567/MSISDN"}, {"msisdn": "260961234567"}),
    ({"msisdn": "FRI:shop.sp/USER"}, {"msisdn": None}),
    ({"msisdn": "26096*****67"}, {"msisdn": None}),
    ({"msisdn": ""}, {"msisdn": None}),
    ({"msisdn": "0211 234567 Ltd"}, {"msisdn": None}),
    ({"msisdn": "0211234567"}, {"msisdn": "260211234567"}),  # another payer than any mobile
    ({"msisdn": "5505"}, {"msisdn": None}),
    ({"msisdn": "Banda, Mary".replace(",", "")}, {"msisdn": None}),
    ({"msisdn": "2.60961E+11"}, {"msisdn": None}),
    ({"amount": '"1,234.50"'}, {"money": Money(123_450, "ZMW")}),
    ({"amount": '"-1,234,567.00"'}, {"money": Money(123_456_700, "ZMW"), "direction": "out"}),
    ({"amount": "+10.00"}, {"money": Money(1_000, "ZMW"), "direction": "in"}),
    ({"time": "24/11/2026 01:05:00 PM"}, {"at": datetime(2026, 11, 24, 11, 5, tzinfo=UTC)}),
    ({"time": "24/11/2026 1:05 pm"}, {"at": datetime(2026, 11, 24, 11, 5, tzinfo=UTC)}),
    ({"time": "24/11/2026 12:05\u202fAM"}, {"at": datetime(2026, 11, 23, 22, 5, tzinfo=UTC)}),
    ({"time": "2026-11-24 1:05:00 p.m."}, {"at": datetime(2026, 11, 24, 11, 5, tzinfo=UTC)}),
    ({"time": "24-Nov-2026 13:05"}, {"at": datetime(2026, 11, 24, 11, 5, tzinfo=UTC)}),
    ({"type": "Reversal"}, {"reverses": True, "direction": "out"}),
    ({"status": "Reversed"}, {"reverses": True, "direction": "out"}),
    ({"reference": REFERENCE.replace("-", "").upper()}, {"our_reference": REFERENCE}),
    ({"time": ""}, {"at": None}),
    ({"time": "2026-11-24T11:05:00Z"}, {"at": datetime(2026, 11, 24, 11, 5, tzinfo=UTC)}),
    ({"time": "2026-11-24 13:05:00.25 +0200"}, {"at": datetime(2026, 11, 24, 11, 5, 0, 250_000, tzinfo=UTC)}),
    ({"time": "24/11/2026 13:05"}, {"at": datetime(2026, 11, 24, 11, 5, tzinfo=UTC)}),
    ({"time": "04-03-2026 00:30:00"}, {"at": datetime(2026, 3, 3, 22, 30, tzinfo=UTC)}),
]


@pytest.mark.parametrize(("over", "wanted"), READ)
def test_what_cells_mean(over: dict[str, str], wanted: dict[str, Any]) -> None:
    found = line(**over)
    assert {name: getattr(found, name) for name in wanted} == wanted


def test_rows_without_a_firm_word_or_of_another_type_are_counted_and_left_out() -> None:
    rows = [row(), row(status="PENDING"), row(status="pending", amount="?"), row(type="Fee"), row(type="Cash out")]
    found = read("\n".join([HEADER, *rows]))
    assert len(found.lines) == 1
    assert (found.undecided, found.others) == ({"pending": 2}, {"fee": 1, "cash out": 1})


def test_of_several_currencies_the_one_beside_the_amount_counts() -> None:
    text = "Id,Amount,Currency,Status,Balance,Currency\n1,5.00,ZMW,ok,9,USD\n".replace("ok", "Successful")
    assert read(text, "mtn").lines[0].money == Money(500, "ZMW")
    with pytest.raises(Unprocessable, match="line 1: the column 'currency' is there 2 times"):
        read(text.replace("Amount,Currency", "Currency,Amount"), "mtn")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_sees_a_reference_under_its_generic_name(layout: str) -> None:
    [found] = read(f"{HEADER}\n{row()}\n", layout).lines
    assert (found.our_reference, found.their_id) == (REFERENCE, "4711"), "unseen, it would be matched by weaker marks"


def test_the_national_number_of_money_that_goes_out_is_the_payees() -> None:
    text = "Id,Amount,Currency,Status,From,To\n1,-5.00,ZMW,success,FRI:shop/USER,FRI:260961234567/MSISDN\n"
    assert read(text, "mtn").lines[0].msisdn == "260961234567"


def test_what_moves_nothing_is_counted_and_left_out() -> None:
    rows = [row(), *(row(amount=zero, status="FAILED", msisdn="Shop") for zero in ("0", "0.00", "-0.00", "+0"))]
    found = read("\n".join([HEADER, *rows]))
    assert (len(found.lines), found.idle, found.unreadable) == (1, {"failed": 4}, ())


def test_a_line_that_stands_there_twice_is_read_once() -> None:
    found = read("\n".join([HEADER, row(), row(amount="10.0"), row(transaction_id="2")]))
    assert ([one.number for one in found.lines], found.repeated, found.unreadable) == ([2, 4], 1, ())


def test_two_different_lines_of_one_id_are_both_left_to_a_person() -> None:
    found = read("\n".join([HEADER, row(), row(amount="11"), row(transaction_id="2"), row(amount="12")]))
    assert [one.number for one in found.lines] == [4]
    assert [one.number for one in found.unreadable] == [2, 3, 5]


def test_a_payment_and_its_reversal_are_no_twins() -> None:
    found = read(
        "\n".join([HEADER, row(), row(type="Reversal", amount="-10.00"), row(type="Reversal", status="failed")])
    )
    assert [(one.number, one.reverses) for one in found.lines] == [(2, False), (3, True)]
    assert found.others == {"reversal failed": 1}


def test_a_date_has_one_reading_in_one_file() -> None:
    dates = ["04/03/2026 13:05", "24/11/2026 13:05", "05/05/2026 13:05"]
    plain = read("\n".join([HEADER, *(row(time=date, transaction_id=date) for date in dates)]))
    assert [one.at.month for one in plain.lines if one.at] == [3, 11, 5]
    mixed = read("\n".join([HEADER, *(row(time=date, transaction_id=date) for date in [*dates, "11/24/2026 13:05"])]))
    assert [one.number for one in mixed.lines] == [3, 4]
    assert mixed.unreadable[0].reason == (
        "line 2: its date has two readings, for that of line 5 begins with the month."
    )


def test_our_reference_is_found_in_whichever_column_it_stands() -> None:
    header = "Transaction Id,Reference,External Id,Status,Amount,Currency"
    text = (
        f"{header}\n1,School fees,{REFERENCE},TS,10,ZMW\n2,{REFERENCE},,TS,10,ZMW\n3,=2+2,-,TS,10,ZMW\n4,,x,TS,10,ZMW\n"
    )
    for layout in LAYOUTS:
        found = read(text, layout)
        assert [one.our_reference for one in found.lines] == [REFERENCE, REFERENCE, "x"]
        assert [one.reason for one in found.unreadable] == ["line 4: the reference '=2+2' is a formula."]
        assert found.unread == ()
    other = REFERENCE.replace("b001", "b002")
    two = read(f"{header}\n1,{other},{REFERENCE},TS,10,ZMW\n2,,,TS,10,ZMW\n", "airtel")
    assert [one.reason for one in two.unreadable] == ["line 2: two references have the form of ours."]


def test_a_stray_quotation_mark_costs_one_line() -> None:
    rows = [row(msisdn='"x'), *(row(transaction_id=str(number)) for number in range(40))]
    found = read("\n".join([HEADER, *rows]))
    assert [one.number for one in found.unreadable] == [2]
    assert len(found.lines) == 40
    last = read("\n".join([HEADER, row(), row(transaction_id="2", msisdn='"x')]))
    assert ([one.number for one in last.lines], [one.number for one in last.unreadable]) == ([2], [3])


# --- statements as people export them -------------------------------------------------------------------------------

EXPORTS = sorted((Path(__file__).parent / "statements").glob("*.csv"))


@pytest.mark.parametrize("path", EXPORTS, ids=lambda path: path.stem)
def test_an_export_is_read_as_is_written_beside_it(path: Path) -> None:
    layout = path.stem.split("_")[0]
    found = read(path.read_bytes(), layout)
    reading = {
        "lines": [
            [one.number, one.our_reference, one.their_id, f"{one.money} {one.money.currency}", one.msisdn,
             one.at and one.at.astimezone(UTC).isoformat(), one.status, one.direction, one.reverses]
            for one in found.lines
        ],
        "undecided": dict(found.undecided),
        "others": dict(found.others),
        "idle": dict(found.idle),
        "repeated": found.repeated,
        "unread": list(found.unread),
        "unreadable": [one.reason for one in found.unreadable],
    }  # fmt: skip
    assert reading == json.loads(path.with_suffix(".json").read_text())


# --- what is refused ------------------------------------------------------------------------------------------------

REFUSED: list[tuple[dict[str, str], str]] = [
    ({"amount": "=1+1"}, "line 2: the amount '=1+1' cannot be read"),
    ({"amount": "+-1"}, "line 2: the amount '+-1' cannot be read"),
    ({"amount": '"1,000"'}, "the amount '1,000' cannot be read"),
    ({"amount": '"1,00.00"'}, "the amount"),
    ({"amount": "1 000.00"}, "the amount '1 000.00' cannot be read; write it as 1000.50"),
    ({"amount": '"10,50"'}, "the amount '10,50' cannot be read"),
    ({"amount": "10.001"}, "the amount '10.001' cannot be read"),
    ({"amount": "--1"}, "the amount"),
    ({"amount": "1e3"}, "the amount"),
    ({"amount": "NaN"}, "the amount"),
    ({"amount": ""}, "line 2: the amount is missing"),
    ({"amount": "٣"}, "the amount"),
    ({"currency": "XYZ"}, "the currency 'XYZ' cannot be read"),
    ({"currency": "=ZMW"}, "the currency '=ZMW' cannot be read"),
    ({"reference": "=HYPERLINK(1)"}, "the reference '=HYPERLINK(1)' is a formula"),
    ({"reference": "@x"}, "is a formula"),
    ({"transaction_id": "-1"}, "the transaction id '-1' is a formula"),
    ({"transaction_id": "4.71E+11"}, "the transaction id '4.71E+11' was rounded by a spreadsheet"),
    ({"transaction_id": "x" * 101}, "the transaction id"),
    ({"transaction_id": "a\x07b"}, "the transaction id"),
    ({"status": "=1"}, "the status '=1' is a formula"),
    ({"status": "maybe"}, "the status 'maybe' cannot be read"),
    ({"status": ""}, "line 2: the status is missing"),
    ({"type": "+x"}, "the type '+x' is a formula"),
    ({"time": "2026-11-24"}, "the time '2026-11-24' cannot be read; write it as 2026-11-24 13:05:00"),
    ({"time": "11/24/2026 13:05"}, "the time"),
    ({"time": "2026-02-30 13:05"}, "the time"),
    ({"time": "0001-01-01T00:00:00+14:00"}, "the time"),
    ({"time": "9999-12-31 23:59"}, "the time"),
    ({"time": "46350.54"}, "the time"),
    ({"msisdn": "=260961234567"}, "the payer's number is a formula"),
    ({"msisdn": '"x'}, "line 2: its quotation mark does not end"),
    ({"msisdn": '"x"y'}, "line 2: the quotation marks cannot be read"),
    ({"msisdn": "260961234567,more"}, "line 2: 9 cells, but the header has 8"),
]


@pytest.mark.parametrize(("over", "wanted"), REFUSED, ids=lambda value: str(value)[:30])
def test_one_bad_cell_costs_its_line_and_no_other(over: dict[str, str], wanted: str) -> None:
    found = read(f"{HEADER}\n{row(**over)}\n{row(transaction_id='good')}\n")
    assert [one.their_id for one in found.lines] == ["good"]
    [bad] = found.unreadable
    assert bad.number == 2
    assert wanted in bad.reason
    assert bad.reason.startswith("line 2: ")
    assert bad.reason.isprintable()
    assert "260961234567" not in bad.reason.removesuffix("write it as 260961234567.")


def test_a_shifted_column_shows_no_phone_number() -> None:
    said = refusal(f"{HEADER}\n{row(time='260961234567')}\n")
    assert said == "line 2: the time '26096•••••67' cannot be read; write it as 2026-11-24 13:05:00."


BAD_FILES: list[tuple[str | bytes, str]] = [
    (b"", "The file is empty."),
    (b"\n \r\n", "The file is empty."),
    (HEADER, "The file holds a header and no line."),
    (f"{HEADER}\n\n", "The file holds a header and no line."),
    ("a,b\n1,2\n", "line 1: there is no column for the amount (amount) and the currency (currency) and the status"),
    ("a,b\n1,2\n", "; found 'a', 'b'."),
    ("amount,currency,status\n1,ZMW,success\n", "there is no column for the reference (reference, our reference"),
    ("amount,amount,currency,status,reference\n", "line 1: the column 'amount' is there 2 times"),
    (b"\xff\xfea\0m\0", "line 1: this is not UTF-8"),
    (f"{HEADER}\n{row(status='é')}".encode("latin-1"), "line 2: this is not UTF-8; save the file as CSV UTF-8."),
    (f"{HEADER}\n{row(status=chr(0))}", "line 2: there is a NUL byte"),
    (f"{HEADER}\n{row()}\n{row(reference='', amount='11')}\n", "line 3 has the same transaction id and says otherwise"),
    (f"{HEADER}\n{row(transaction_id='')}\n\n{row(transaction_id='')}\n", "line 2: line 4 is the same"),
    ("\n".join(["a,b"] * 40 + [HEADER, row()]), "line 1: there is no column for the amount"),
    ("PK\x03\x04" + "x" * 20_000, "line 1: it is longer than 16384 bytes"),
    ('"' + HEADER, "line 1: its quotation mark does not end"),
]


@pytest.mark.parametrize(
    ("data", "wanted"), BAD_FILES, ids=[f"{number} {wanted[:30]}" for number, (_, wanted) in enumerate(BAD_FILES)]
)
def test_what_is_no_statement_is_refused(data: str | bytes, wanted: str) -> None:
    assert wanted in refusal(data)


def endless(chunk: bytes) -> Iterator[bytes]:
    yield HEADER.encode() + b"\n"
    yield from repeat(chunk)


@pytest.mark.parametrize(
    ("chunk", "wanted"),
    [
        (b"x" * 65_536, "line 2: it is longer than"),
        (b"\0" * 65_536, "line 2: it is longer than"),
        (b"\n" * 65_536, "more than 70000 lines"),
        (b" \n" * 65_536, "more than 70000 lines"),
        (bytes(range(255, 0, -1)) * 4, "More than 1000 lines cannot be read. The first is line 2: [0-9]+ cells?"),
        (b"," * 7 + b"\n", "line 2: the currency is missing"),
        (b'"\n' * 9, "line 2: (1 cell|its quotation mark|the quotation marks)"),
        (row(type="fee").encode() + b"\n", "more than 70000 lines"),
    ],
    ids=["no line end", "NUL", "blank lines", "spaces", "noise", "commas", "quotes", "fees"],
)
def test_noise_without_end_is_refused_in_constant_memory(
    chunk: bytes, wanted: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(statement, "MAX_LINES", 70_000)  # tracing a million takes a minute
    tracemalloc.start()
    try:
        with pytest.raises(Unprocessable, match=wanted):
            statement.read(endless(chunk), GENERIC)
        assert tracemalloc.get_traced_memory()[1] < 4_000_000
    finally:
        tracemalloc.stop()


def test_a_file_that_is_too_large_is_refused_at_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statement, "MAX_FILE_BYTES", 2 * 1024**2)
    rows = (f"{row(transaction_id=str(number))}\n".encode() for number in range(10**9))

    taken = 0

    def chunks() -> Iterator[bytes]:
        nonlocal taken
        yield HEADER.encode() + b"\n"
        for chunk in rows:
            taken += len(chunk)
            yield chunk

    with pytest.raises(Unprocessable, match="The file is larger than 2 MiB"):
        statement.read(chunks(), GENERIC)
    assert taken < 2.1 * 1024**2


PIECES = st.sampled_from([
    HEADER, "Amount;Currency;Status;Id", row(), row(amount="=1"), row(time="x"), ",", ";", "\t", "\n", "\r\n", '"',
    "\0", "\ufeff", "é", "-", "10.00", "ZMW", "success", "260961234567", "1e9", "FRI:1/MSISDN",
])  # fmt: skip


def outcome(data: bytes, layout: str) -> Statement | str:
    """What is read, or the sentence of the refusal; anything else is a failure of the test."""
    try:
        return statement.read([data[:99], data[99:]], LAYOUTS[layout])
    except Unprocessable as refused:
        return refused.detail


@given(st.one_of(st.binary(max_size=2_000), st.lists(PIECES, max_size=40).map(lambda found: "".join(found).encode())))
def test_any_bytes_are_lines_or_one_refusal(data: bytes) -> None:
    for layout in LAYOUTS:
        found = outcome(data, layout)
        if isinstance(found, str):
            assert 0 < len(found) < 5_000
            assert found.isprintable()
        else:
            assert all(one.money.minor > 0 for one in found.lines)


@given(st.dictionaries(st.sampled_from(HEADER.split(",")), st.text(st.characters(exclude_characters='\n\r,"'))))
def test_any_cells_are_a_line_or_one_refusal(over: dict[str, str]) -> None:
    found = outcome(f"{HEADER}\n{row(**over)}\n".encode(errors="surrogatepass"), "generic")
    if isinstance(found, str):
        assert found.startswith("line 2: ")
        assert found.isprintable()
    else:
        assert len(found.lines) + sum(sum(n.values()) for n in (found.undecided, found.others, found.idle)) == 1
        assert not any((one.their_id or "x").startswith(("=", "+", "-", "@")) for one in found.lines)


# --- a line against a payment ---------------------------------------------------------------------------------------


def ours(status: Status, **over: Any) -> Counterpart:
    known: dict[str, Any] = {
        "tenant_id": TenantId("t"),
        "payment_id": PaymentId("p"),
        "mode": "live",
        "kind": "collection",
        "money": Money(1_000, "ZMW"),
        "payer": "260961234567",
        "their_id": None,
        "account": "somewhere",
        "review": None,
    }
    return Counterpart(**(known | {"status": status} | over))


JUDGED = [
    ("successful", Status.PENDING, Verdict.SETTLED),
    ("successful", Status.TIMEOUT, Verdict.SETTLED),
    ("successful", Status.SUCCESSFUL, Verdict.AGREED),
    ("successful", Status.REVERSED, Verdict.AGREED),
    ("successful", Status.FAILED, Verdict.CONTRADICTING),
    ("failed", Status.PENDING, Verdict.SETTLED),
    ("failed", Status.TIMEOUT, Verdict.SETTLED),
    ("failed", Status.SUCCESSFUL, Verdict.CONTRADICTING),
    ("failed", Status.REVERSED, Verdict.AGREED),
    ("failed", Status.FAILED, Verdict.AGREED),
]


@pytest.mark.parametrize(("word", "status", "verdict"), JUDGED)
def test_what_a_line_says_of_a_payment(word: str, status: Status, verdict: Verdict) -> None:
    assert statement.judge(line(status=word), ours(status)) is verdict


@pytest.mark.parametrize("status", [Status.PENDING, Status.TIMEOUT, Status.SUCCESSFUL])
@pytest.mark.parametrize("over", [{"money": Money(1_001, "ZMW")}, {"money": Money(1_000, "USD")}, {"payer": "26097"}])
def test_another_amount_currency_or_number_settles_nothing(status: Status, over: dict[str, Any]) -> None:
    assert statement.judge(line(), ours(status, **over)) is Verdict.DIFFERENT
    said = statement.difference(line(), ours(status, **over))
    assert said
    assert "26096" not in said


def test_a_number_that_is_not_told_is_no_difference() -> None:
    assert statement.difference(line(msisdn=""), ours(Status.TIMEOUT)) is None


def test_a_line_as_the_providers_word() -> None:
    told = "statement 0b7a line 2"
    assert statement.word_of(line(), told) == Succeeded("4711", Money(1_000, "ZMW"), "260961234567", told)
    assert statement.word_of(line(status="TF"), told) == Declined(FailureCode.PROVIDER_REJECTED, "tf")


def several(*overs: dict[str, Any]) -> list[StatementLine]:
    return [replace(line(), number=number, **over) for number, over in enumerate(overs, start=2)]


AT = datetime(2026, 11, 24, tzinfo=UTC)
OWN: list[tuple[list[dict[str, Any]], str | None, int | None]] = [
    ([{"their_id": "a"}, {"their_id": "b"}], None, 2),
    ([{"their_id": "a"}, {"their_id": "b", "at": AT}], None, 3),
    ([{"their_id": "a", "at": None}, {"their_id": "b"}], None, 3),
    ([{"their_id": "a"}, {"their_id": "b"}], "b", 3),
    ([{"their_id": "a"}, {"their_id": "b", "money": Money(1, "ZMW")}], "b", 3),
    ([{"their_id": "a", "money": Money(1, "ZMW")}, {"their_id": "b"}], None, 3),
    ([{"their_id": "a"}, {"their_id": "b"}], "of another kind", 2),
    ([{"their_id": "a"}, {"their_id": None}], None, None),
    ([{"their_id": "a"}, {"their_id": "a"}], None, None),
    ([{"their_id": "a"}, {"their_id": "b", "status": "failed"}], None, None),
    ([{"their_id": "a", "money": Money(1, "ZMW")}, {"their_id": "b", "money": Money(2, "ZMW")}], None, None),
]


@pytest.mark.parametrize(("overs", "known", "own"), OWN, ids=range(len(OWN)))
def test_of_several_lines_one_is_the_payments_own_or_nobody_can_tell(
    overs: list[dict[str, Any]], known: str | None, own: int | None
) -> None:
    found = statement.own_line(several(*overs), ours(Status.SUCCESSFUL if known else Status.TIMEOUT, their_id=known))
    assert (found and found.number) == own


def test_a_line_is_known_again_in_another_file() -> None:
    one = line()
    again = replace(one, number=9, word="paid")
    known = statement.line_digest("mtn", "a", one)
    assert known == statement.line_digest("mtn", "a", again)
    assert known not in (statement.line_digest("airtel", "a", one), statement.line_digest("mtn", "b", one))
    nameless = replace(one, their_id=None)
    known = statement.line_digest("mtn", "a", nameless)
    assert known == statement.line_digest("mtn", "a", replace(nameless, number=9))
    for over in ({"at": AT}, {"money": Money(1, "ZMW")}, {"msisdn": "260971234567"}, {"their_id": "x"}):
        assert known != statement.line_digest("mtn", "a", replace(nameless, **over))


@pytest.mark.parametrize("text", ["=1", "+1", "-1", "@x", "\t=1", "\r=1"])
def test_no_cell_of_a_report_is_a_formula(text: str) -> None:
    assert statement.formula_safe(text) == f"'{text}"
    assert statement.formula_safe(f"a{text}") == f"a{text}"
