import re

import phonenumbers
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from phonenumbers import carrier

from kobiri.domain.errors import InvalidNumber
from kobiri.domain.msisdn import COUNTRIES, Msisdn, as_told, mask, may_be

# After 260: the operator that libphonenumber names, None where it has no mobile money.
PREFIXES = {
    "55": "zamtel", "75": "zamtel", "95": "zamtel",
    "56": "mtn", "76": "mtn", "96": "mtn",
    "57": "airtel", "77": "airtel", "97": "airtel",
    "58": None, "78": None, "98": None, "79": None,
}  # fmt: skip

zambian = st.builds(str.__add__, st.sampled_from(sorted(PREFIXES)), st.from_regex(r"[0-9]{7}", fullmatch=True))
foreign = st.from_regex(r"[1-9][0-9]{9,14}", fullmatch=True).filter(lambda digits: not digits.startswith("260"))
numbers = st.builds(Msisdn.parse, zambian.map("+260".__add__) | foreign.map("+".__add__))

junk = st.text() | st.text(alphabet="0123456789+-.() \u0660\u0661\u0969\uff10\uff11\u00b2\u2460\ud800\x00\n")


@pytest.mark.parametrize(
    "text",
    [
        "+260 96 1234567",
        "+260961234567",
        "260961234567",
        "00260961234567",
        "0961234567",
        "096 123 4567",
        "(096) 123-4567",
        "+260.96.123.45.67",
        " 260961234567 ",
        "+260 0961234567",
        "+260 (0)96 1234567",
        "2600961234567",
        "002600961234567",
        "260961234567\n",
        "\t260961234567\r\n",
        "+260\t96\t1234567",
        "\u202d+260961234567\u202c",
        "\u200e0961234567\u2069",
        "\ufeff260\u200b96\u200d1234567",
        "+260\u00a096\u202f123\u30004567",
        "096\u2011123\u20134567",
        "260\u221296\u00ad1234567",
    ],
)
def test_every_usual_way_to_write_a_number_is_the_same_number(text: str) -> None:
    assert Msisdn.parse(text).digits == "260961234567"


@given(zambian, st.sampled_from(["+260", "260", "00260", "0"]), st.sampled_from(["", " ", "-", "."]))
def test_forms_agree_for_every_zambian_number(national: str, prefix: str, between: str) -> None:
    number = Msisdn.parse(prefix + between + between.join(national))
    assert number == Msisdn(f"260{national}")
    assert str(number) == number.digits == f"260{national}"
    assert (number.country, number.network) == ("ZM", PREFIXES[national[:2]])
    assert Msisdn.parse(str(number)) == number


@pytest.mark.parametrize("prefix", [f"{n:02}" for n in range(100)])
def test_only_mobile_prefixes_are_zambian_wallets(prefix: str) -> None:
    if prefix in PREFIXES:
        assert Msisdn.parse(f"260{prefix}1234567").network == PREFIXES[prefix]
    else:
        with pytest.raises(InvalidNumber):
            Msisdn.parse(f"260{prefix}1234567")


@pytest.mark.parametrize("prefix", ["", "+", "00"])
@given(zambian)
def test_a_zambian_number_without_its_country_code_is_no_foreign_one(prefix: str, national: str) -> None:
    with pytest.raises(InvalidNumber):
        Msisdn.parse(prefix + national)


@pytest.mark.parametrize("length", range(1, 20))
def test_a_foreign_number_has_ten_to_fifteen_digits(length: int) -> None:
    digits = "4673312345678901234"[:length]
    if 10 <= length <= 15:
        assert Msisdn.parse(digits).digits == digits
    else:
        with pytest.raises(InvalidNumber):
            Msisdn.parse(digits)


@given(foreign)
def test_a_foreign_number_is_no_zambian_wallet(digits: str) -> None:
    number = Msisdn.parse(f"+{digits}")
    assert number.country == next((COUNTRIES[code] for code in COUNTRIES if digits.startswith(code)), None) != "ZM"
    assert number.network == ("mtn" if digits.startswith("46733123") else None)


def test_no_calling_code_begins_another() -> None:
    assert not [(one, other) for one in COUNTRIES for other in COUNTRIES if one != other and other.startswith(one)]
    for code, country in COUNTRIES.items():
        assert phonenumbers.region_code_for_country_code(int(code)) == country


@given(zambian, st.from_regex(r"[0-9]", fullmatch=True), st.integers(0, 9))
def test_a_zambian_number_with_a_digit_too_many_is_nobodys(national: str, digit: str, place: int) -> None:
    slip = national[:place] + digit + national[place:]
    assume(slip[0] != "0")
    for text in (f"0{slip}", f"260{slip}", f"+260 0{slip}", *([slip] if slip[:2] in PREFIXES else [])):
        with pytest.raises(InvalidNumber):
            Msisdn.parse(text)


UNSEEN = st.sampled_from(
    "\u00a0\u202f\u2009\u200b\u200c\u200d\u200e\u200f\u2060\u202a\u202b\u202c\u202d\u2066\u2067\u2069\ufeff\u00ad\u061c"
    "\u2010\u2011\u2012\u2013\u2014\u2015\u2212 \t-.()"
)


@given(st.sampled_from(["+260961234567", "0961234567", "00260961234567", "+254712345678"]), st.data())
def test_what_nobody_sees_changes_no_number(written: str, data: st.DataObject) -> None:
    noise = data.draw(st.lists(st.text(UNSEEN, max_size=2), min_size=len(written), max_size=len(written)))
    noisy = "".join(unseen + shown for unseen, shown in zip(noise, written, strict=True)) + data.draw(UNSEEN)
    assert Msisdn.parse(noisy) == Msisdn.parse(written)


@given(st.text(st.characters(exclude_categories=["Cs"])), st.text(alphabet="0123456789+ "))
def test_no_digit_of_another_script_is_read_or_left_out(text: str, digits: str) -> None:
    try:
        number = Msisdn.parse(digits + text)
    except InvalidNumber:
        return
    assert all(c.isascii() for c in text if c.isnumeric())
    kept = "".join(c for c in digits + text if c.isnumeric())
    assert kept.endswith(number.digits.removeprefix("260"))


def test_the_numbers_of_mtns_sandbox_are_mtns() -> None:
    assert Msisdn.parse("46733123450").network == "mtn"


@pytest.mark.parametrize(
    "text",
    [
        "", " ", "+", "0", "00", "++260961234567", "+00260961234567", "260+961234567", "26096123456",
        "2609612345678", "096123456", "09612345678", "+0961234567", "+260 (00) 96 1234567", "0211234567",
        "260211234567", "1234567", "1" * 16, "9" * 5000, "mtn", "26096\n1234567", "+2600211234567", "9612345678",
        "+260 00961234567", "260260961234567", "961234567", "\u202e765432169062", "0961234567 0971234567",
        "260961234567\x00", "260961234567;DROP", "26096123456\u0667", "\uff12\uff16\uff10961234567",
        "0\u0669\u0666\u0661\u0662\u0663\u0664\u0665\u0666\u0667", "\u00b2\u2076\u2070961234567",
        "26096\u03011234567", "26096\u20281234567", "\ud800", "tel:+260961234567",
    ],
    ids=lambda text: ascii(text)[:20],
)  # fmt: skip
def test_what_is_not_a_number_is_refused_without_an_echo(text: str) -> None:
    with pytest.raises(InvalidNumber) as refused:
        Msisdn.parse(text)
    shown = set(re.findall(r"[0-9]{6,}", str(refused.value)))
    assert shown <= {"260961234567", "961234567", "0961234567"}  # the message's own examples


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("26096\u06671234567", "digits 0 to 9"),
        ("\uff12\uff16\uff10961234567", "digits 0 to 9"),
        ("\u202e765432169062", r"U\+202E"),
        ("9612345678", "begin like a Zambian number"),
        ("260211234567", "not a Zambian mobile number"),
        ("961234567", "with its country code"),
    ],
)
def test_a_refusal_says_what_was_understood(text: str, said: str) -> None:
    with pytest.raises(InvalidNumber, match=said):
        Msisdn.parse(text)


@given(junk)
def test_junk_is_refused_or_becomes_ascii_digits(text: str) -> None:
    try:
        number = Msisdn.parse(text)
    except InvalidNumber:
        return
    assert re.fullmatch(r"[1-9][0-9]{9,14}", number.digits)
    assert re.sub(r"[^0-9]", "", text, flags=re.ASCII).endswith(number.digits.removeprefix("260"))


@given(numbers)
def test_a_mask_shows_at_most_the_first_five_and_the_last_two(number: Msisdn) -> None:
    shown = number.masked
    assert len(shown) == len(number.digits)
    assert shown[:5] + shown[-2:] == number.digits[:5] + number.digits[-2:]
    assert set(shown[5:-2]) == {"•"}


@given(junk)
def test_a_mask_of_anything_hides_its_middle(text: str) -> None:
    shown = mask(text)
    assert len(shown) == len(text)
    hidden = shown[5:-2] if len(text) > 7 else shown
    assert set(hidden) <= {"•"}


@given(numbers)
def test_a_number_in_a_log_line_is_masked(number: Msisdn) -> None:
    assert repr(number) == f"Msisdn({number.masked})"
    assert number.digits not in f"{number!r} {[number]} { ({'payer': number}) }"


def test_the_prefixes_are_those_of_libphonenumber() -> None:
    """When its carrier data change, this fails: look which is right, and change the table."""
    names = {"MTN": "mtn", "Airtel": "airtel", "ZAMTEL": "zamtel"}
    for prefix in (f"{first}{second}" for first in "0123456789" for second in "0123456789"):
        theirs = phonenumbers.parse(f"+260{prefix}1234567")
        mobile = phonenumbers.number_type(theirs) is phonenumbers.PhoneNumberType.MOBILE
        try:
            ours = Msisdn.parse(f"260{prefix}1234567")
        except InvalidNumber:
            assert not mobile, prefix
            continue
        assert mobile, prefix
        assert ours.network == names.get(carrier.name_for_number(theirs, "en")), prefix


# --- a number as an operator tells it -------------------------------------------------------------------------------

OURS = "260961234567"
OURS_TOLD = [
    "260961234567", "+260961234567", "00260961234567", "0961234567", "961234567", "260 96 123 45 67", "260-96-1234567",
    "\u202a+260961234567\u202c", "260961234567.0", "FRI:260961234567/MSISDN", " 260961234567 ",
    "26096*****67", "26096\u2022\u2022\u2022\u2022\u202267", "26096XXXXX67", "+26096*****67", "096*****67", "96*****67",
    "*****67", "26096***67", "2609*1***567", "********4567", "4567", "34567", "260961234***", "260#########",
]  # fmt: skip
OTHERS_TOLD = [
    "260961234568", "0961234568", "961234568", "+256961234567", "26096*****68", "26097*****67", "4568", "*****68",
    "260961234568.0", "12345", "2609612345670", "26096123456", "26096*****4*67", "971234567", "FRI:260961234568/MSISDN",
]  # fmt: skip
NOBODY_TOLD = [
    "",
    "-",
    "***",
    "n/a",
    "Mary",
    "2.60961234567E11",
    "mary@example.com",
    "FRI:7/ID",
    "x",
    "\u0662\u0666\u0660",
    "1" * 200,
]


def test_a_number_is_the_same_in_whichever_way_an_operator_shows_it() -> None:
    for text in OURS_TOLD:
        told = as_told(text)
        assert told is not None, text
        assert may_be(told, OURS), text


def test_a_digit_that_is_seen_and_differs_is_somebody_else() -> None:
    for text in OTHERS_TOLD:
        told = as_told(text)
        assert told is not None, text
        assert not may_be(told, OURS), text


def test_what_shows_no_digit_tells_nobody() -> None:
    for text in NOBODY_TOLD:
        assert as_told(text) is None, text


@given(st.integers(260_960_000_000, 260_979_999_999), st.sets(st.integers(0, 11), max_size=11), st.integers(0, 11))
def test_any_mask_hides_and_any_seen_digit_counts(number: int, hidden: set[int], at: int) -> None:
    digits = str(number)
    masked = "".join("*" if place in hidden else digit for place, digit in enumerate(digits))
    told = as_told(masked)
    assert told is not None
    assert may_be(told, digits)
    other = digits[:at] + str((int(digits[at]) + 1) % 10) + digits[at + 1 :]
    if at >= 3:  # within the country: another country's number may be shorter
        assert may_be(told, other) is (at in hidden)


@given(st.text(max_size=60))
def test_any_text_is_a_number_as_told_or_none(text: str) -> None:
    told = as_told(text)
    assert told is None or set(told) <= set("0123456789*")
    assert isinstance(may_be(told or "*1", OURS), bool)
