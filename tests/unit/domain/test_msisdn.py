import re

import phonenumbers
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from phonenumbers import carrier

from kobiri.domain.errors import InvalidNumber
from kobiri.domain.msisdn import Msisdn, mask

# After 260: the operator that libphonenumber names, None where it has no mobile money.
PREFIXES = {
    "55": "zamtel", "75": "zamtel", "95": "zamtel",
    "56": "mtn", "76": "mtn", "96": "mtn",
    "57": "airtel", "77": "airtel", "97": "airtel",
    "58": None, "78": None, "98": None, "79": None,
}  # fmt: skip

zambian = st.builds(str.__add__, st.sampled_from(sorted(PREFIXES)), st.from_regex(r"[0-9]{7}", fullmatch=True))
foreign = st.from_regex(r"[1-9][0-9]{9,14}", fullmatch=True).filter(lambda digits: not digits.startswith("260"))
numbers = st.builds(Msisdn.parse, zambian.map("260".__add__) | foreign)

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
    ],
)
def test_every_usual_way_to_write_a_number_is_the_same_number(text: str) -> None:
    assert Msisdn.parse(text).digits == "260961234567"


@given(zambian, st.sampled_from(["+260", "260", "00260", "0"]), st.sampled_from(["", " ", "-", "."]))
@settings(deadline=None)
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
@settings(deadline=None)
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
@settings(deadline=None)
def test_a_foreign_number_is_no_zambian_wallet(digits: str) -> None:
    number = Msisdn.parse(f"+{digits}")
    assert number.country is None
    assert number.network == ("mtn" if digits.startswith("46733123") else None)


def test_the_numbers_of_mtns_sandbox_are_mtns() -> None:
    assert Msisdn.parse("46733123450").network == "mtn"


@pytest.mark.parametrize(
    "text",
    [
        "", " ", "+", "0", "00", "++260961234567", "+00260961234567", "260+961234567", "26096123456",
        "2609612345678", "096123456", "09612345678", "+0961234567", "+260 (0) 96 1234567", "0211234567",
        "260211234567", "1234567", "1" * 16, "9" * 5000, "mtn", "260961234567\n", "\t260961234567",
        "260961234567\x00", "260961234567;DROP", "26096123456\u0667", "\uff12\uff16\uff10961234567",
        "0\u0669\u0666\u0661\u0662\u0663\u0664\u0665\u0666\u0667", "\u00b2\u2076\u2070961234567",
        "26096\u200b1234567", "\u00a0260961234567", "\ud800", "tel:+260961234567",
    ],
    ids=lambda text: ascii(text)[:20],
)  # fmt: skip
def test_what_is_not_a_number_is_refused_without_an_echo(text: str) -> None:
    with pytest.raises(InvalidNumber) as refused:
        Msisdn.parse(text)
    shown = set(re.findall(r"[0-9]{6,}", str(refused.value)))
    assert shown <= {"260961234567", "961234567"}  # the message's own examples


@given(junk)
@settings(deadline=None)
def test_junk_is_refused_or_becomes_ascii_digits(text: str) -> None:
    try:
        number = Msisdn.parse(text)
    except InvalidNumber:
        return
    assert re.fullmatch(r"[1-9][0-9]{9,14}", number.digits)
    assert re.sub(r"[^0-9]", "", text, flags=re.ASCII).endswith(number.digits.removeprefix("260"))


@given(numbers)
@settings(deadline=None)
def test_a_mask_shows_at_most_the_first_five_and_the_last_two(number: Msisdn) -> None:
    shown = number.masked
    assert len(shown) == len(number.digits)
    assert shown[:5] + shown[-2:] == number.digits[:5] + number.digits[-2:]
    assert set(shown[5:-2]) == {"•"}


@given(junk)
@settings(deadline=None)
def test_a_mask_of_anything_hides_its_middle(text: str) -> None:
    shown = mask(text)
    assert len(shown) == len(text)
    hidden = shown[5:-2] if len(text) > 7 else shown
    assert set(hidden) <= {"•"}


@given(numbers)
@settings(deadline=None)
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
