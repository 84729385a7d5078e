"""What arrived and what was sent out, for people and tests to read: capped, with the secrets hidden."""

import re
import time
from collections import deque
from collections.abc import Iterable
from itertools import count
from typing import Any

import msgspec

HIDDEN = "[hidden]"

# Bodies above this are described by their size only: 10,000 of them must not fill the memory.
BODY_SHOWN_BYTES = 4096
HEADERS_SHOWN = 40
HEADER_SHOWN_CHARACTERS = 512

_SECRET = re.compile(
    r"authorization|subscription|api[-_]?key|secret|token|cookie|password|passwd|\bpin\b", re.IGNORECASE
)


class Received(msgspec.Struct, kw_only=True):
    """One request to a provider. `answered` is the status, or what was done to the connection instead."""

    number: int
    at: float
    provider: str
    method: str
    path: str
    query: bool
    headers: tuple[tuple[str, str], ...]
    body: bytes | None
    body_bytes: int
    operation: str | None = None
    reference: str | None = None
    answered: int | str | None = None
    took_ms: float | None = None


class Delivered(msgspec.Struct, kw_only=True, frozen=True):
    """One attempt to send a callback. `answer` is the receiver's status, `error` why there was none."""

    at: float
    provider: str
    reference: str
    method: str
    url: str
    kind: str
    signed: bool
    answer: int | None
    error: str | None


class Journal:
    def __init__(self, *, limit: int) -> None:
        self._received: deque[Received] = deque(maxlen=limit)
        self._delivered: deque[Delivered] = deque(maxlen=limit)
        self._numbers = count(1)

    def receive(
        self,
        *,
        provider: str,
        method: str,
        path: str,
        query: bool,
        headers: Iterable[tuple[str, str]],
        body: bytes,
    ) -> Received:
        entry = Received(
            number=next(self._numbers),
            at=time.time(),
            provider=provider,
            method=method,
            path=clean(path)[:HEADER_SHOWN_CHARACTERS],
            query=query,
            headers=tuple(headers)[:HEADERS_SHOWN],
            body=body if len(body) <= BODY_SHOWN_BYTES else None,
            body_bytes=len(body),
        )
        self._received.append(entry)
        return entry

    def deliver(self, entry: Delivered) -> None:
        self._delivered.append(entry)

    def requests(
        self, *, reference: str | None = None, path: str | None = None, provider: str | None = None
    ) -> list[dict[str, Any]]:
        """Newest last. A path filter matches any part of the path."""
        return [
            _shown(entry)
            for entry in self._received
            if (reference is None or (entry.reference or "").lower() == reference.lower())
            and (path is None or path in entry.path)
            and (provider is None or entry.provider == provider)
        ]

    def deliveries(self, *, reference: str | None = None, provider: str | None = None) -> list[Delivered]:
        return [
            entry
            for entry in self._delivered
            if (reference is None or entry.reference.lower() == reference.lower())
            and (provider is None or entry.provider == provider)
        ]

    def clear(self) -> None:
        self._received.clear()
        self._delivered.clear()


def clean(text: str) -> str:
    """Bytes that are not UTF-8 arrive as lone surrogates, which no JSON encoder takes."""
    return text.encode("utf-8", "replace").decode("utf-8")


def without_query(url: str) -> str:
    head, mark, _ = url.partition("?")
    return f"{head}?{HIDDEN}" if mark else head


def _shown(entry: Received) -> dict[str, Any]:
    return {
        "number": entry.number,
        "at": entry.at,
        "provider": entry.provider,
        "method": entry.method,
        "path": entry.path,
        "query": HIDDEN if entry.query else None,
        "headers": {clean(name): _shown_header(name, value) for name, value in entry.headers},
        "body": _shown_body(entry),
        "body_bytes": entry.body_bytes,
        "operation": entry.operation,
        "reference": entry.reference,
        "answered": entry.answered,
        "took_ms": entry.took_ms,
    }


def _shown_header(name: str, value: str) -> str:
    return HIDDEN if _SECRET.search(name) else clean(without_query(value))[:HEADER_SHOWN_CHARACTERS]


def _shown_body(entry: Received) -> object:
    if entry.body is None:
        return "[too long to show]"
    if not entry.body:
        return None
    try:
        return _without_secrets(msgspec.json.decode(entry.body))
    except (msgspec.DecodeError, RecursionError):
        return "[not JSON]"


def _without_secrets(value: object) -> object:
    if isinstance(value, dict):
        return {key: HIDDEN if _SECRET.search(str(key)) else _without_secrets(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_without_secrets(inner) for inner in value]
    return value
