"""Money: integer minor units and an ISO 4217 currency, exact to and from decimal text."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Self

from kobiri.domain.errors import CurrencyNotSupported, InvalidAmount

# ISO 4217 exponents of the currencies that mobile money in Africa uses, and of the sandboxes (EUR, USD).
# Payment providers disagree on UGX; this is ISO's word.
EXPONENTS = {
    "BIF": 0, "CDF": 2, "DJF": 0, "EUR": 2, "GHS": 2, "GNF": 0, "KES": 2, "KMF": 0, "LRD": 2, "LYD": 3,
    "MGA": 2, "MWK": 2, "MZN": 2, "NGN": 2, "RWF": 0, "SLE": 2, "SSP": 2, "SZL": 2, "TND": 3, "TZS": 2,
    "UGX": 0, "USD": 2, "XAF": 0, "XOF": 0, "ZAR": 2, "ZMW": 2,
}  # fmt: skip

MAX_MINOR = 10**15

# The largest amount of one payment, in major units, where an installation names no other: about 5,000 US dollars of
# 2026, rounded; for ZMW what a wallet may hold at most (Bank of Zambia 2020, as the press says). It stops slips such
# as three zeros too many. No operator here documents a limit in figures; each applies its own.
LARGEST = {
    "BIF": 15_000_000, "CDF": 12_000_000, "DJF": 900_000, "EUR": 5_000, "GHS": 60_000, "GNF": 45_000_000,
    "KES": 650_000, "KMF": 2_000_000, "LRD": 900_000, "LYD": 30_000, "MGA": 20_000_000, "MWK": 9_000_000,
    "MZN": 300_000, "NGN": 7_500_000, "RWF": 7_000_000, "SLE": 120_000, "SSP": 20_000_000, "SZL": 90_000,
    "TND": 15_000, "TZS": 13_000_000, "UGX": 18_000_000, "USD": 5_000, "XAF": 3_000_000, "XOF": 3_000_000,
    "ZAR": 90_000, "ZMW": 100_000,
}  # fmt: skip
LARGEST_MINOR = {currency: major * 10 ** EXPONENTS[currency] for currency, major in LARGEST.items()}

# Matched before any number type sees the text: no sign, exponent, underscore, leading zero, NaN or other digits.
DECIMAL_TEXT = re.compile(r"(0|[1-9][0-9]{0,18})(?:\.([0-9]{1,18}))?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Money:
    """An amount in minor units (ngwee, cents), 1 to 10^15, and its currency."""

    minor: int
    currency: str

    @classmethod
    def parse(cls, text: str, currency: str) -> Self:
        """Read decimal text in major units, such as "1000.50".

        Raises InvalidAmount (not decimal text, too many decimals, out of range) or CurrencyNotSupported.
        """
        exponent = EXPONENTS.get(currency)
        if exponent is None:
            raise CurrencyNotSupported(f"{currency[:8]!r} is not a currency that Kobiri knows.")
        match = DECIMAL_TEXT.fullmatch(text)
        if match is None:
            raise InvalidAmount("The amount must be decimal digits, such as 1000.50.")
        whole, fraction = match[1], match[2] or ""
        if len(fraction) > exponent:
            raise InvalidAmount(f"{currency} has {exponent} decimals; the amount has {len(fraction)}.")
        minor = int(whole + fraction.ljust(exponent, "0"))
        if not 1 <= minor <= MAX_MINOR:
            raise InvalidAmount("The amount must be more than zero and at most 10^15 minor units.")
        return cls(minor, currency)

    @classmethod
    def read(cls, text: str, currency: str) -> Self:
        """Read what a provider wrote: like `parse`, but zeros beyond the currency's decimals are fine ("100.000")."""
        match = DECIMAL_TEXT.fullmatch(text)
        exponent = EXPONENTS.get(currency, 0)
        if match is not None and match[2] is not None and len(match[2]) > exponent:
            kept, cut = match[2][:exponent], match[2][exponent:]
            if not cut.strip("0"):
                text = f"{match[1]}.{kept}" if kept else match[1]
        return cls.parse(text, currency)

    def __str__(self) -> str:
        """Decimal text with all decimals of the currency: "1000.50"."""
        exponent = EXPONENTS[self.currency]
        if exponent == 0:
            return str(self.minor)
        digits = str(self.minor).rjust(exponent + 1, "0")
        return f"{digits[:-exponent]}.{digits[-exponent:]}"

    @property
    def major(self) -> Decimal:
        return Decimal(self.minor).scaleb(-EXPONENTS[self.currency])


def read_largest(text: str) -> Mapping[str, int]:
    """Read "ZMW:50000,UGX:5000000": minor units by currency, over `LARGEST_MINOR`.

    Raises InvalidAmount, CurrencyNotSupported.
    """
    given: dict[str, int] = {}
    for pair in text.split(","):
        currency, _, amount = (part.strip() for part in pair.partition(":"))
        if currency in given:
            raise InvalidAmount(f"{currency} stands there twice.")
        given[currency] = Money.parse(amount, currency).minor
    return LARGEST_MINOR | given
