"""Phone numbers of wallets: parse, country, network hint, mask."""

import re
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

MTN_SANDBOX = "46733123"  # MTN's own test numbers: 46733123450 and the like

SEPARATORS = str.maketrans("", "", " -.()")
# At least ten digits: a Zambian number without its country code must not pass for a foreign one (961… is Lebanon).
E164 = re.compile(r"[1-9][0-9]{9,14}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Msisdn:
    """A number in international form, digits only: 260961234567."""

    digits: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read +260 96 1234567, 260961234567, 00260961234567, or the Zambian 0961234567. Raises InvalidNumber."""
        digits = text.translate(SEPARATORS)
        if digits.startswith("+"):
            digits = digits[1:]
        elif digits.startswith("00"):
            digits = digits[2:]
        elif digits.startswith("0") and len(digits) == len("0961234567"):
            digits = ZAMBIA + digits[1:]
        if E164.fullmatch(digits) is None:
            raise InvalidNumber("Give the number with its country code, such as 260961234567.")
        if digits.startswith(ZAMBIA) and ZAMBIAN_MOBILE.fullmatch(digits) is None:
            raise InvalidNumber("This is not a Zambian mobile number: after 260 come nine digits, such as 961234567.")
        return cls(digits)

    @property
    def country(self) -> str | None:
        """ISO 3166 code, of the countries that are served."""
        return "ZM" if self.digits.startswith(ZAMBIA) else None

    @property
    def national(self) -> str:
        """Without the country code, of the countries that are served: 961234567."""
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


def mask(digits: str) -> str:
    """Keep country, operator and the last two digits."""
    return digits[:5] + "•" * max(len(digits) - 7, 0) + digits[-2:] if len(digits) > 7 else "•" * len(digits)
