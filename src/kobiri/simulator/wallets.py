"""What operators tell of wallets: whose they are, made up from their numbers, and how much they hold."""

from collections.abc import Iterable
from decimal import Decimal
from typing import Annotated, Final

from msgspec import Meta

Opening = Annotated[str, Meta(max_length=20, pattern=r"^[0-9]+(\.[0-9]+)?$")]

GIVEN_NAMES: Final = ("Bwalya", "Chanda", "Luyando", "Mutinta", "Namukolo", "Thandiwe", "Zikomo")
FAMILY_NAMES: Final = ("Banda", "Chilufya", "Hamoonga", "Kabwe", "Lungu", "Mwansa", "Phiri", "Sitali", "Tembo", "Zulu")


def holder(msisdn: str) -> tuple[str, str]:
    """The given and the family name of whoever has this number: always the same ones, and nobody's."""
    drawn = int("0" + "".join(filter(str.isdigit, msisdn.encode("ascii", "ignore").decode()))[-9:])
    return GIVEN_NAMES[drawn % len(GIVEN_NAMES)], FAMILY_NAMES[drawn % len(FAMILY_NAMES)]


def left(opening: str, came: Iterable[Decimal], went: Iterable[Decimal] = ()) -> str:
    """What is in a wallet that began with `opening`. Never less than nothing."""
    begun = Decimal(opening)
    return format(max(begun + sum(came) - sum(went), begun * 0), "f")
