"""Around every request: an id, one log line, and the headers that every answer carries."""

import asyncio
import re
import time
from collections.abc import Iterable
from typing import Any

import structlog
from litestar.enums import ScopeType
from litestar.types import ASGIApp, HTTPReceiveMessage, Message, Receive, Scope, Send, WebSocketReceiveMessage

from kobiri.domain.errors import RequestTimeout
from kobiri.domain.ids import new_id, parse_id

log = structlog.get_logger("kobiri.api")

CLIENT_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")
TRACEPARENT = re.compile(rb"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}")
NO_TRACE = b"0" * 32
BODY_WITHIN_S = 15
ACCOUNT_PATH = re.compile(r"(/webhooks/[^/]*/+)(?!status/*$)[^/].*", re.DOTALL)
# An account's token is 32 of these. With "%" for what was quoted twice, and a little less for what was cut or mistyped.
LIKE_A_TOKEN = re.compile(r"[A-Za-z0-9_%-]{24,}", re.ASCII)
QUIET = ("/health/live", "/health/ready")


class Observe:
    """Outermost: what it logs is what the client got."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != ScopeType.HTTP:
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()
        state: dict[str, Any] = scope["state"]
        request_id = new_id()
        state["request_id"] = request_id
        ids = {"request_id": request_id} | _ids_from(scope["headers"])
        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(**ids)
        status = 0

        async def tagged(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = list(message["headers"])
                headers.append((b"x-request-id", request_id.encode()))
                headers.append((b"x-content-type-options", b"nosniff"))
                if not any(name == b"cache-control" for name, _ in headers):
                    headers.append((b"cache-control", b"no-store"))
                quota = state.get("quota")
                if quota is not None:
                    headers.extend(quota.headers)
                message["headers"] = headers
            await send(message)

        deadline = asyncio.get_running_loop().time() + BODY_WITHIN_S

        async def timed() -> HTTPReceiveMessage | WebSocketReceiveMessage:
            """Whoever sends a body drop by drop must not hold a place for ever."""
            try:
                async with asyncio.timeout_at(deadline):
                    return await receive()
            except TimeoutError:
                raise RequestTimeout(f"The body did not arrive within {BODY_WITHIN_S} s.") from None

        try:
            await self._app(scope, timed, tagged)
        finally:
            write = log.debug if scope["path"] in QUIET else log.info
            caller = state.get("caller")
            write(
                "request",
                method=scope["method"],
                path=shown(scope["path"]),
                status=status,
                duration_ms=round((time.perf_counter() - began) * 1000, 1),
                tenant_id=caller.tenant_id if caller else None,
                payment_id=state.get("payment_id"),
            )


def shown(path: str) -> str:
    """For logs: an account's callback token is a secret, also where the path before it is a little wrong."""
    parts = ACCOUNT_PATH.sub(r"\1[hidden]", path).split("/")
    return "/".join("[hidden]" if LIKE_A_TOKEN.search(one) and not parse_id(one) else one for one in parts)[:200]


def _ids_from(headers: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    """The trace id of a W3C traceparent, and the client's own request id where it is harmless text."""
    ids: dict[str, str] = {}
    for name, value in headers:
        if name == b"traceparent":
            match = TRACEPARENT.fullmatch(value)
            if match and match[1] != NO_TRACE:
                ids["trace_id"] = match[1].decode()
        elif name == b"x-request-id" and CLIENT_ID.fullmatch(value):
            ids["client_request_id"] = value.decode()
    return ids
