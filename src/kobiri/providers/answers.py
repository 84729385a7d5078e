"""Reading what providers write: hostile JSON, money and numbers in it. Pure; for every provider's wire.py."""

import json
from collections.abc import Callable
from typing import Never, TypeVar

from kobiri.domain.errors import CurrencyNotSupported, InvalidAmount, InvalidNumber
from kobiri.domain.money import Money
from kobiri.domain.msisdn import Msisdn

T = TypeVar("T")

MAX_CODE = 64

Object = dict[str, object]


class Strange(Exception):
    """An answer that is not as the provider describes it. The text tells nothing of its content."""


class Number(str):
    """A JSON number as it was written: no number type may round an amount."""

    __slots__ = ()


def read_object(body: bytes) -> Object:
    """Read a JSON object without equal keys, its numbers as `Number`. Raises Strange."""
    # Not msgspec: it takes the last of two equal keys, and makes a number of what must stay as it was sent.
    try:
        value = json.loads(
            body.decode(),
            object_pairs_hook=_unique,
            parse_int=Number,
            parse_float=Number,
            parse_constant=_refuse_constant,
        )
    except (ValueError, RecursionError):
        raise Strange("the body is not JSON") from None
    if not isinstance(value, dict):
        raise Strange("the body is not a JSON object")
    return value


def text(value: object, *, numbers: bool = False) -> str | None:
    """Take a JSON text or null, and a number's text where `numbers` are expected. Raises Strange."""
    if value is None or (isinstance(value, str) and (numbers or not isinstance(value, Number))):
        return value
    raise Strange("a field has an unexpected type")


def inner(value: object) -> Object:
    """Take a JSON object, or an empty one where there is none. Raises Strange."""
    if value is None:
        return {}
    if isinstance(value, dict):
        return value
    raise Strange("a field has an unexpected type")


def money(amount: object, currency: object) -> Money:
    """Read an amount in major units, text or number, and its currency. Raises Strange."""
    try:
        return Money.read(text(amount, numbers=True) or "", text(currency) or "")
    except (InvalidAmount, CurrencyNotSupported):
        raise Strange("the amount cannot be read") from None


def number(value: object, whose: str) -> str | None:
    """Read a phone number as digits; None where there is none. Raises Strange."""
    given = text(value, numbers=True)
    try:
        return None if given is None else Msisdn.parse(given).digits
    except InvalidNumber:
        raise Strange(f"the {whose} cannot be read") from None


def readable(read: Callable[[Object], T], answer: Object) -> T | None:
    """What `read` makes of the answer, or None where that is strange."""
    try:
        return read(answer)
    except Strange:
        return None


def cut(foreign: str | None) -> str | None:
    """Keep what a log, a database and a screen can show of a foreign word."""
    return "".join(filter(str.isprintable, foreign))[:MAX_CODE] or None if foreign else None


def _unique(pairs: list[tuple[str, object]]) -> Object:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError
    return found


def _refuse_constant(_name: str) -> Never:
    raise ValueError
