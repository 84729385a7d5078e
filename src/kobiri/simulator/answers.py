"""What the providers' simulators answer with."""

import hmac
from typing import TypeVar

import msgspec
from aiohttp import web

S = TypeVar("S", bound=msgspec.Struct)


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
