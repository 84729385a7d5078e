"""What the providers' simulators answer with."""

import hmac
from collections.abc import Callable, Mapping
from typing import Final, TypeVar

import msgspec
from aiohttp import web

from kobiri.simulator.faults import Garbling

S = TypeVar("S", bound=msgspec.Struct)

DEPTH: Final = 20_000
BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"


class Refused(Exception):  # what happened, and the answer to it
    """An answer that ends the handling of a request. `Stage.play` gives it."""

    def __init__(self, answer: web.Response) -> None:
        super().__init__(answer.status)
        self.answer = answer


def json_answer(status: int, content: object) -> web.Response:
    return web.Response(status=status, body=msgspec.json.encode(content), content_type="application/json")


def same(one: str, other: str) -> bool:
    """Compare secrets of any characters, in constant time."""
    return hmac.compare_digest(one.encode("utf-8", "replace"), other.encode("utf-8", "replace"))


def header_text(text: str) -> str:
    """What may stand in a header."""
    return "".join(character if " " <= character <= "~" else "?" for character in text)[:300]


def peek(body: bytes, shape: type[S]) -> S | None:
    """A body that nobody has checked yet, or None: to see whom faults may be aimed at."""
    try:
        return msgspec.json.decode(body, type=shape)
    except (msgspec.DecodeError, RecursionError):
        return None


def garbled(body: bytes, style: Garbling | None) -> bytes:
    """The same JSON object, written so that readers disagree about it or fail."""
    return body if style is None else _GARBLED[style](body)


def _with_member(body: bytes, member: bytes) -> bytes:
    """Put a member before the others of a JSON object."""
    return b"{" + member + b"," + body.lstrip()[1:]


def _twice(value: object) -> bytes:
    """Write every member of every object twice, untrue the first time."""
    if not isinstance(value, dict):
        return msgspec.json.encode(value)
    members = (
        name + b":" + told
        for name, inner in ((msgspec.json.encode(name), inner) for name, inner in value.items())
        for told in (b'"0"', _twice(inner))
    )
    return b"{" + b",".join(members) + b"}"


_GARBLED: Final[Mapping[Garbling, Callable[[bytes], bytes]]] = {
    "bom": lambda body: BYTE_ORDER_MARK + body,
    "nan": lambda body: _with_member(body, b'"rate":NaN'),
    "deep": lambda body: _with_member(body, b'"detail":' + b"[" * DEPTH + b"]" * DEPTH),
    "duplicate_keys": lambda body: _twice(msgspec.json.decode(body)),
    "truncated": lambda body: body[: len(body) // 2],
    "bytes": lambda body: _with_member(body, b'"note":"\xff\xfe"'),
    "array": lambda body: b"[" + body + b"]",
    "null": lambda _: b"null",
    "empty": lambda _: b"",
}
