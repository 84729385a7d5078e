"""Read a JSON body, refusing whatever two parsers could read differently.

msgspec alone keeps the last of duplicate keys, takes NaN for a decimal and raises RecursionError on deep nesting.
Here numbers stay text until a type asks for them, so that no float ever holds an amount.
"""

import json
import re
from codecs import BOM_UTF8
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from functools import cache
from itertools import islice
from typing import Any, NoReturn, TypeVar

import msgspec
from msgspec import inspect

from kobiri.domain.errors import BodyTooLarge, InvalidFields, MalformedJSON
from kobiri.domain.money import DECIMAL_TEXT

MAX_BODY_BYTES = 65_536
MAX_DEPTH = 32

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
    """Decode a body strictly into a msgspec type. Raises MalformedJSON, InvalidFields (all faults), BodyTooLarge."""
    return convert(parse(body), type_)


def parse(body: bytes) -> object:
    """Read a body's JSON, its numbers as `Number`. Raises MalformedJSON, BodyTooLarge."""
    if len(body) > MAX_BODY_BYTES:
        raise BodyTooLarge(f"At most {MAX_BODY_BYTES} bytes are taken.")
    if body.count(b"[") + body.count(b"{") > MAX_DEPTH and _depth(body) > MAX_DEPTH:
        raise MalformedJSON(f"It is nested deeper than {MAX_DEPTH} levels.")
    text = body.removeprefix(BOM_UTF8)
    if not text.strip():
        raise MalformedJSON("The body is empty.")
    try:
        value = _decoder.decode(text.decode())
        if b"\\u" in body:  # an escaped half of a surrogate pair is no text
            json.dumps(value, ensure_ascii=False, default=str).encode()
    except UnicodeError:
        raise MalformedJSON("It is not UTF-8 text.") from None
    except json.JSONDecodeError as error:
        raise MalformedJSON(f"{error.msg} at line {error.lineno} column {error.colno}.") from None
    return value


def convert(value: object, type_: type[T]) -> T:
    """Make a msgspec type of what `parse` read. Raises InvalidFields: with all faults."""
    try:
        return msgspec.convert(value, type_, dec_hook=_amount)
    except msgspec.ValidationError:
        raise invalid_fields(faults(value, type_)) from None


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
        unseen = set(found)
        for name, _ in pairs:
            if name not in unseen:
                raise MalformedJSON(f"The name {name[:MAX_NAME]!r} stands twice in one object.")
            unseen.remove(name)
    return found


def _constant(name: str) -> NoReturn:
    raise MalformedJSON(f"{name} is not JSON.")


_decoder = json.JSONDecoder(object_pairs_hook=_object, parse_float=Number, parse_int=Number, parse_constant=_constant)


def _amount(type_: type, value: object) -> object:
    if type_ is not Amount:
        raise NotImplementedError(type_)
    text = value.text if isinstance(value, Number) else value
    if isinstance(text, str) and DECIMAL_TEXT.fullmatch(text):
        return Amount(text)
    raise ValueError


# --- what is wrong ---------------------------------------------------------------------------------------------------

MAX_FAULTS = 20
MAX_NAME = 64


class Fault(msgspec.Struct, frozen=True):
    """One bad value. `pointer`: JSON pointer (RFC 6901), empty for the whole body; a long name in it is cut."""

    pointer: str
    code: str
    detail: str


def invalid_fields(found: Sequence[Fault]) -> InvalidFields:
    """All faults of a body as one error; there is at least one."""
    first = found[0]
    place = f"{first.pointer[1:]}: " if first.pointer else ""
    return InvalidFields(f"{place}{first.detail}{more(found)}", errors=found)


def more(found: Sequence[Fault]) -> str:
    """The end of a sentence that tells the first of several faults."""
    return f" {len(found) - 1} more in `errors`." if len(found) > 1 else ""


def faults(value: object, type_: type) -> list[Fault]:
    """What keeps a value from being this type, in plain words; the first `MAX_FAULTS`. Empty: nothing does."""
    return list(islice(_faults(value, _inspected(type_), ""), MAX_FAULTS))


def sound_fields(value: object, type_: type[msgspec.Struct]) -> dict[str, Any]:
    """The fields of an object that have no fault, as they came."""
    given = value if isinstance(value, dict) else {}
    fields = {field.encode_name: field.type for field in _inspected(type_).fields}
    return {name: given[name] for name in fields if name in given and not any(_faults(given[name], fields[name], ""))}


def pointer(*names: str) -> str:
    """A JSON pointer: {"metadata": {"a/b": …}} is /metadata/a~1b."""
    return "".join(f"/{_cut(name).replace('~', '~0').replace('/', '~1')}" for name in names)


@cache
def _inspected(type_: type) -> Any:  # noqa: ANN401  # any of msgspec.inspect
    return inspect.type_info(type_)


def _faults(value: object, type_: inspect.Type, at: str, expected: str = "") -> Iterator[Fault]:
    match type_:
        case inspect.Metadata():
            yield from _faults(value, type_.type, at, (type_.extra or {}).get("expected", ""))
        case inspect.UnionType() if value is not None:
            yield from _faults(value, next(t for t in type_.types if not isinstance(t, inspect.NoneType)), at)
        case inspect.StructType():
            yield from _faults_of_struct(value, type_, at)
        case inspect.DictType():
            yield from _faults_of_dict(value, type_, at)
        case inspect.LiteralType() if value not in type_.values:
            choices = [str(choice) for choice in type_.values]
            yield Fault(at, "not_a_choice", f"Expected one of {', '.join(choices)}.{_nearest(value, choices)}")
        case inspect.StrType():
            yield from _faults_of_text(value, type_, at, expected)
        case inspect.CustomType() if type_.cls is Amount:
            text = value.text if isinstance(value, Number) else value
            if not isinstance(text, str):
                yield Fault(at, "wrong_type", f"Expected decimal text or a number, got {_kind(value)}.")
            elif DECIMAL_TEXT.fullmatch(text) is None:
                yield Fault(
                    at, "bad_format", 'Expected a decimal such as "1000.50": digits, at most one point, no sign.'
                )


def _faults_of_struct(value: object, type_: inspect.StructType, at: str) -> Iterator[Fault]:
    if not isinstance(value, dict):
        yield Fault(at, "wrong_type", f"Expected an object, got {_kind(value)}.")
        return
    known = {field.encode_name: field for field in type_.fields}
    for name, field in known.items():
        if name in value:
            yield from _faults(value[name], field.type, at + pointer(name))
        elif field.required:
            yield Fault(at + pointer(name), "missing", "This field is required.")
    for name in value:
        if name not in known:
            yield Fault(at + pointer(name), "unknown_field", f"There is no such field.{_nearest(name, list(known))}")


def _faults_of_dict(value: object, type_: inspect.DictType, at: str) -> Iterator[Fault]:
    if not isinstance(value, dict):
        yield Fault(at, "wrong_type", f"Expected an object, got {_kind(value)}.")
        return
    if type_.max_length is not None and len(value) > type_.max_length:
        yield Fault(at, "too_many", f"It has {len(value)} members; {type_.max_length} are taken at most.")
    for name, inner in value.items():
        for fault in _faults(name, type_.key_type, at + pointer(name)):
            yield Fault(fault.pointer, fault.code, f"Its name: {fault.detail}")
        yield from _faults(inner, type_.value_type, at + pointer(name))


def _faults_of_text(value: object, type_: inspect.StrType, at: str, expected: str) -> Iterator[Fault]:
    if not isinstance(value, str):
        hint = ": write it in quotes" if isinstance(value, Number) else ""
        yield Fault(at, "wrong_type", f"Expected text, got {_kind(value)}{hint}.")
    elif len(value) < (type_.min_length or 0):
        yield Fault(at, "too_short", "It is empty.")
    elif type_.max_length is not None and len(value) > type_.max_length:
        yield Fault(at, "too_long", f"It has {len(value)} characters; {type_.max_length} are taken at most.")
    elif type_.pattern is not None and re.search(type_.pattern, value) is None:
        yield Fault(at, "bad_format", f"Expected {expected}.")


def _nearest(given: object, known: Sequence[str]) -> str:
    near = get_close_matches(given[:MAX_NAME].strip().casefold(), known, n=1) if isinstance(given, str) else []
    return f" Did you mean {near[0]}?" if near else ""


def _kind(value: object) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "true or false"
        case Number():
            return "a number"
        case str():
            return "text"
        case list():
            return "a list"
        case _:
            return "an object"


def _cut(name: str) -> str:
    return name if len(name) <= MAX_NAME else f"{name[:MAX_NAME]}…"
