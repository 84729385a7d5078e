"""Phone numbers of wallets: parse, country, network hint, mask."""

import re
import unicodedata
from dataclasses import dataclass
from typing import Self

from kobiri.domain.errors import InvalidNumber

NETWORKS = ("mtn", "airtel", "zamtel")

# Zambian mobile numbers after 260 (libphonenumber 9.0.43, carrier data). A prefix is a hint, not a proof:
# numbers may have been ported. 98, 78 and 58 (Zed Mobile) and 79 have no mobile money that we know of.
ZAMBIA = "260"
ZAMBIAN_MOBILE = re.compile(r"260(?:[59][5-8]|7[5-9])[0-9]{7}", re.ASCII)
ZAMBIAN_NETWORKS = {
    "55": "zamtel", "75": "zamtel", "95": "zamtel",
    "56": "mtn", "76": "mtn", "96": "mtn",
    "57": "airtel", "77": "airtel", "97": "airtel",
}  # fmt: skip

# A national number with a digit too many. Read as an international one it would be Lebanon's (961…) or Russia's (7…).
ZAMBIAN_SLIP = re.compile(r"(?:[59][5-8]|7[5-9])[0-9]{8}", re.ASCII)

# Calling codes (ITU-T E.164, none begins another) of the countries in which a provider here can have an account.
COUNTRIES = {
    ZAMBIA: "ZM", "211": "SS", "224": "GN", "225": "CI", "229": "BJ", "231": "LR", "233": "GH", "234": "NG",
    "237": "CM", "242": "CG", "250": "RW", "256": "UG", "268": "SZ", "27": "ZA",
}  # fmt: skip

MTN_SANDBOX = "46733123"  # MTN's own test numbers: 46733123450 and the like

# What people and programs write between digits, and what nobody sees: spaces, format characters, dashes.
SEPARATORS = str.maketrans("", "", " \t-.()\u2212")
UNSEEN = frozenset({"Zs", "Cf", "Pd"})
TURNED_ROUND = "\u202e"  # shows the digits behind it in reverse: what is read is not the number that was seen
# At least ten digits: a Zambian number without its country code must not pass for a foreign one (961… is Lebanon).
E164 = re.compile(r"[1-9][0-9]{9,14}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Msisdn:
    """A number in international form, digits only: 260961234567."""

    digits: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read +260 96 1234567, 260961234567, 00260961234567, or the Zambian 0961234567 and +260 (0)96 1234567.

        Separators and what nobody sees are dropped. What could be two people's number is refused, not guessed.
        Raises InvalidNumber: without the number, which belongs in no log.
        """
        digits = _plain(text)
        if digits.startswith("+"):
            digits = digits[1:]
        elif digits.startswith("00"):
            digits = digits[2:]
        elif digits.startswith("0") and len(digits) == len("0961234567"):
            digits = ZAMBIA + digits[1:]
        elif ZAMBIAN_SLIP.fullmatch(digits):
            raise InvalidNumber(
                "These ten digits begin like a Zambian number, which is 0 and nine digits: 0961234567."
                " Write another country's number with a + in front."
            )
        if digits.startswith(f"{ZAMBIA}0"):  # the 0 that is only dialled inside the country
            digits = ZAMBIA + digits[len(ZAMBIA) + 1 :]
        if E164.fullmatch(digits) is None:
            raise InvalidNumber("Give the number with its country code, such as 260961234567.")
        if digits.startswith(ZAMBIA) and ZAMBIAN_MOBILE.fullmatch(digits) is None:
            raise InvalidNumber("This is not a Zambian mobile number: after 260 come nine digits, such as 961234567.")
        return cls(digits)

    @property
    def country(self) -> str | None:
        """ISO 3166 code; None for countries in which no provider here can have an account."""
        return COUNTRIES.get(self.digits[:3]) or COUNTRIES.get(self.digits[:2])

    @property
    def national(self) -> str:
        """A Zambian number without its country code: 961234567."""
        return self.digits.removeprefix(ZAMBIA)

    @property
    def network(self) -> str | None:
        """Whose wallet this probably is; None when the number does not tell."""
        if self.digits.startswith(ZAMBIA):
            return ZAMBIAN_NETWORKS.get(self.digits[3:5])
        return "mtn" if self.digits.startswith(MTN_SANDBOX) else None

    @property
    def masked(self) -> str:
        """For logs: 26096•••••67."""
        return mask(self.digits)

    def __str__(self) -> str:
        return self.digits

    def __repr__(self) -> str:
        return f"Msisdn({self.masked})"


WALLET = re.compile(r"FRI:([0-9]{9,15})/MSISDN", re.ASCII | re.IGNORECASE)
NATIONAL = re.compile(r"[579][0-9]{8}", re.ASCII)  # a Zambian number as operators shorten it
HIDING = re.compile(r"[*xX\u2022#]")
FRACTION = re.compile(r"([0-9]+)\.0+", re.ASCII)  # of a number that a program took for an amount
TOLD = re.compile(r"[0-9*]{0,19}[0-9][0-9*]{0,19}", re.ASCII)
MIN_WHOLE = 9


def as_told(text: str) -> str | None:
    """A wallet's number as an operator tells it, "*" for what it hides or leaves out; None where it tells no digit.

    What can be read as a whole number is in international form. `may_be` says whose it can be.
    """
    named = WALLET.fullmatch(text.strip()) or FRACTION.fullmatch(text)
    try:
        plain = _plain(HIDING.sub("*", named[1] if named else text)).removeprefix("+")
    except InvalidNumber:
        return None
    if TOLD.fullmatch(plain) is None:
        return None
    if "*" in plain:
        return plain
    if len(plain) < MIN_WHOLE:
        return f"*{plain}"
    try:
        return Msisdn.parse(ZAMBIA + plain if NATIONAL.fullmatch(plain) else plain).digits
    except InvalidNumber:
        return plain  # whoever it is, it is somebody


def may_be(told: str, digits: str) -> bool:
    """Whether a number as it was told can be this one: no digit that is seen speaks against it."""
    national = digits.removeprefix(ZAMBIA)
    return any(_shows(told, form) for form in (digits, f"00{digits}", national, f"0{national}"))


def _shows(told: str, form: str) -> bool:
    if len(told) == len(form):
        return all(shown in ("*", digit) for shown, digit in zip(told, form, strict=True))
    begin, stars, end = told.partition("*")
    end = end.lstrip("*")
    if not stars or "*" in end:  # several masks of a length that is not the number's: nobody can say what they hide
        return False
    return len(begin) + len(end) <= len(form) and form.startswith(begin) and form.endswith(end)


def _plain(text: str) -> str:
    """A number without what stands between its digits and around them. Raises InvalidNumber."""
    if not text.isascii():
        if any(c.isnumeric() and not c.isascii() for c in text):
            raise InvalidNumber("Write the number with the digits 0 to 9, such as 260961234567.")
        if TURNED_ROUND in text:
            raise InvalidNumber("A mark in the number (U+202E) shows its digits turned round: type the number anew.")
        text = "".join(c for c in text if unicodedata.category(c) not in UNSEEN)
    return text.strip().translate(SEPARATORS)


def mask(digits: str) -> str:
    """Keep country, operator and the last two digits."""
    return digits[:5] + "•" * max(len(digits) - 7, 0) + digits[-2:] if len(digits) > 7 else "•" * len(digits)
