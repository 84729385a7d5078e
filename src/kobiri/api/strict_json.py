"""Read a JSON body, refusing whatever two parsers could read differently.

msgspec alone keeps the last of duplicate keys, takes NaN for a decimal and raises RecursionError on deep nesting.
Here numbers stay text until a type asks for them, so that no float ever holds an amount.
"""

import json
from typing import Any, NoReturn, TypeVar

import msgspec

from kobiri.domain.errors import BodyTooLarge, InvalidFields, MalformedJSON

MAX_BODY_BYTES = 65_536
MAX_DEPTH = 32
MAX_TOLD = 200

T = TypeVar("T")


class Number:
    """A JSON number as it was written."""

    __slots__ = ("text",)

    def __init__(self, text: str) -> None:
        self.text = text


class Amount:
    """Decimal text in major units; in JSON a string or a number."""

    __slots__ = ("text",)

    def __init__(self, text: str) -> None:
        self.text = text


def decode(body: bytes, type_: type[T]) -> T:
    """Decode a body strictly into a msgspec type. Raises MalformedJSON, InvalidFields, BodyTooLarge."""
    if len(body) > MAX_BODY_BYTES:
        raise BodyTooLarge(f"At most {MAX_BODY_BYTES} bytes are taken.")
    try:
        value = msgspec.convert(_parse(body), type_, dec_hook=_amount)
    except msgspec.ValidationError as error:
        raise _invalid_field(str(error)) from None
    return value


def _parse(body: bytes) -> object:
    if body.count(b"[") + body.count(b"{") > MAX_DEPTH and _depth(body) > MAX_DEPTH:
        raise MalformedJSON(f"It is nested deeper than {MAX_DEPTH} levels.")
    try:
        value = _decoder.decode(body.decode())
        if b"\\u" in body:  # an escaped half of a surrogate pair is no text
            json.dumps(value, ensure_ascii=False, default=str).encode()
    except UnicodeError:
        raise MalformedJSON("It is not UTF-8 text.") from None
    except json.JSONDecodeError as error:
        raise MalformedJSON(f"{error.msg} at line {error.lineno} column {error.colno}.") from None
    return value


def _depth(body: bytes) -> int:
    """How deep it is nested, not counting brackets inside of strings."""
    depth = deepest = 0
    in_string = escaped = False
    for byte in body:
        if in_string:
            if escaped:
                escaped = False
            elif byte == 0x5C:
                escaped = True
            elif byte == 0x22:
                in_string = False
        elif byte == 0x22:
            in_string = True
        elif byte in b"[{":
            depth += 1
            deepest = max(deepest, depth)
        elif byte in b"]}":
            depth -= 1
    return deepest


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise MalformedJSON(f"The name {twice[:64]!r} stands twice in one object.")
    return found


def _constant(name: str) -> NoReturn:
    raise MalformedJSON(f"{name} is not JSON.")


_decoder = json.JSONDecoder(object_pairs_hook=_object, parse_float=Number, parse_int=Number, parse_constant=_constant)


def _amount(type_: type, value: object) -> object:
    if type_ is Amount:
        if isinstance(value, Number):
            return Amount(value.text)
        if isinstance(value, str):
            return Amount(value)
        raise ValueError("Expected decimal text or a number")
    raise NotImplementedError(type_)


def _invalid_field(message: str) -> InvalidFields:
    """Where msgspec says "Expected `str`, got `int` - at `$.payer`": the path becomes a JSON pointer."""
    text, _, path = message.partition(" - at `")
    pointer = "/" + path.rstrip("`").removeprefix("$").lstrip(".").replace(".", "/") if path else ""
    pointer = pointer.replace("[...]", "")
    text = text.replace("`Number`", "a number").replace("`", "'")
    if len(text) > MAX_TOLD:  # it names an unknown field, which may be as long as the body
        text = f"{text[:MAX_TOLD]}…"
    return invalid_field(pointer.rstrip("/"), f"{text}.")


def invalid_field(pointer: str, detail: str) -> InvalidFields:
    """One bad field; `pointer` is a JSON pointer such as /payer, empty for the whole body."""
    place = f"{pointer[1:]}: " if pointer else ""
    return InvalidFields(f"{place}{detail}", errors=[{"pointer": pointer, "detail": detail}])
