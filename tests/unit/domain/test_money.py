from collections.abc import Callable
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kobiri.domain.errors import CurrencyNotSupported, InvalidAmount, KobiriError
from kobiri.domain.money import EXPONENTS, LARGEST, LARGEST_MINOR, MAX_MINOR, Money, read_largest

currencies = st.sampled_from(sorted(EXPONENTS))
monies = st.builds(Money, st.integers(1, MAX_MINOR), currencies)

Reader = Callable[[str, str], Money]

NOT_DECIMAL = [
    "", " ", ".", "NaN", "nan", "sNaN", "inf", "Infinity", "-Infinity", "1_0", "1e3", "1E3", "1e-2", "+1",
    "-1", "-0", "01", "007", "00", "00.5", ".5", "5.", "1..2", "1.2.3", "1,000", "1 000", " 1", "1 ", "1\n",
    "\n1", "1\t", "1\u00a0", "0x10", "0b1", "1L", "1f", "ZMW 1", "1\x00", "\u0661\u0662", "\u0967", "\uff11",
    "1.\u0665", "\u00b2", "\u00bd", "\u22121", "True", "None", "1/2", "9" * 5000, "0" * 5000 + "1",
    "1." + "0" * 5000, "\ud800",
]  # fmt: skip


def test_exponents_are_the_ones_of_iso_4217() -> None:
    by_exponent = {n: {c for c, exponent in EXPONENTS.items() if exponent == n} for n in set(EXPONENTS.values())}
    assert by_exponent == {
        0: {"BIF", "DJF", "GNF", "KMF", "RWF", "UGX", "XAF", "XOF"},
        2: {
            "CDF", "EUR", "GHS", "KES", "LRD", "MGA", "MWK", "MZN", "NGN", "SLE", "SSP", "SZL", "TZS", "USD",
            "ZAR", "ZMW",
        },
        3: {"LYD", "TND"},
    }  # fmt: skip


@given(monies)
def test_money_survives_being_written_and_read(money: Money) -> None:
    assert Money.parse(str(money), money.currency) == money
    assert Money.read(str(money), money.currency) == money
    assert Decimal(str(money)) == money.major
    assert money.major * 10 ** EXPONENTS[money.currency] == money.minor


@pytest.mark.parametrize("currency", sorted(EXPONENTS))
def test_every_currency_is_written_with_all_its_decimals(currency: str) -> None:
    smallest = {0: "1", 2: "0.01", 3: "0.001"}[EXPONENTS[currency]]
    assert str(Money(1, currency)) == smallest
    assert Money.parse(smallest, currency) == Money(1, currency)


@pytest.mark.parametrize(
    ("text", "currency", "minor"),
    [
        ("1000.50", "ZMW", 100_050),
        ("1000.5", "ZMW", 100_050),
        ("1000", "ZMW", 100_000),
        ("4.35", "EUR", 435),
        ("0.10", "USD", 10),
        ("500", "UGX", 500),
        ("1.234", "TND", 1_234),
        ("1.2", "LYD", 1_200),
    ],
)
def test_major_units_become_minor_ones(text: str, currency: str, minor: int) -> None:
    assert Money.parse(text, currency) == Money(minor, currency)


@pytest.mark.parametrize("read", [Money.parse, Money.read], ids=["parse", "read"])
@pytest.mark.parametrize("text", NOT_DECIMAL, ids=lambda text: ascii(text)[:12])
@pytest.mark.parametrize("currency", ["ZMW", "UGX", "TND"])
def test_what_is_not_decimal_text_is_refused(read: Reader, text: str, currency: str) -> None:
    with pytest.raises(InvalidAmount):
        read(text, currency)


@given(st.text() | st.text(alphabet="0123456789.+-eE_, \u0661\uff11"), currencies)
def test_junk_is_refused_or_read_exactly(text: str, currency: str) -> None:
    for read in (Money.parse, Money.read):
        try:
            money = read(text, currency)
        except InvalidAmount:
            continue
        assert Decimal(text) == money.major
        assert 1 <= money.minor <= MAX_MINOR


@pytest.mark.parametrize("currency", sorted(EXPONENTS))
def test_the_limits_are_exact(currency: str) -> None:
    assert Money.parse(str(Money(MAX_MINOR, currency)), currency).minor == MAX_MINOR
    for text in ("0", str(Money(MAX_MINOR + 1, currency)), "9" * 19):
        with pytest.raises(InvalidAmount):
            Money.parse(text, currency)
    for exponent in range(1, EXPONENTS[currency] + 1):
        with pytest.raises(InvalidAmount):
            Money.parse("0." + "0" * exponent, currency)


@pytest.mark.parametrize("currency", sorted(EXPONENTS))
def test_a_merchant_may_not_write_more_decimals_than_the_currency_has(currency: str) -> None:
    with pytest.raises(InvalidAmount):
        Money.parse("1." + "0" * (EXPONENTS[currency] + 1), currency)


@given(monies, st.integers(0, 15))
def test_a_provider_may_write_more_zeros(money: Money, zeros: int) -> None:
    text = str(money) if "." in str(money) or not zeros else f"{money}."
    assert Money.read(text + "0" * zeros, money.currency) == money


@given(monies, st.integers(0, 10), st.integers(1, 9))
def test_a_provider_may_not_write_parts_of_a_minor_unit(money: Money, zeros: int, digit: int) -> None:
    text = str(money) if "." in str(money) else f"{money}."
    with pytest.raises(InvalidAmount):
        Money.read(f"{text}{'0' * zeros}{digit}", money.currency)


@given(st.text().filter(lambda text: text not in EXPONENTS), st.sampled_from(["1", "1.00", "NaN", ""]))
def test_an_unknown_currency_is_refused_shortly(currency: str, text: str) -> None:
    for read in (Money.parse, Money.read):
        with pytest.raises(CurrencyNotSupported) as refused:
            read(text, currency)
        assert len(str(refused.value)) < 160


@pytest.mark.parametrize("text", ["9" * 5000, "12.34567", "\u0661"])
def test_a_refusal_does_not_echo_the_input(text: str) -> None:
    with pytest.raises(KobiriError) as refused:
        Money.parse(text, "ZMW")
    assert text not in str(refused.value)


def test_every_currency_has_a_largest_amount_that_catches_three_zeros_too_many() -> None:
    assert LARGEST.keys() == EXPONENTS.keys()
    assert LARGEST_MINOR["ZMW"] == 10_000_000
    for currency, minor in LARGEST_MINOR.items():
        assert Money(minor, currency).major == LARGEST[currency]
        assert minor <= MAX_MINOR // 1_000


def test_an_installation_names_its_largest_amounts_by_currency() -> None:
    assert read_largest("ZMW:50000") == LARGEST_MINOR | {"ZMW": 5_000_000}
    assert read_largest(" UGX : 7 , LYD:0.125") == LARGEST_MINOR | {"UGX": 7, "LYD": 125}


@pytest.mark.parametrize(
    "text",
    ["", ",", "ZMW", "ZMW:", ":5", "ZMW:0", "ZMW:-1", "ZMW:1e3", "ZMW=5", "zmw:5", "ABC:5", "ZMW:5,", "ZMW:1,ZMW:2"],
)
def test_what_is_no_list_of_largest_amounts_is_refused(text: str) -> None:
    with pytest.raises((InvalidAmount, CurrencyNotSupported)):
        read_largest(text)
