"""What a provider's simulator is given to act with: books, faults, timers and a way to send callbacks."""

import asyncio
import logging
import secrets
import socket
import struct
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, Final, Generic, Literal, Protocol, TypeVar, assert_never

import aiohttp
import msgspec
from aiohttp import web

from kobiri.domain.address import host_of, is_loopback
from kobiri.simulator import faults as f
from kobiri.simulator.answers import Refused, garbled
from kobiri.simulator.books import Books, Kind
from kobiri.simulator.faults import Cue, Faults
from kobiri.simulator.journal import Delivered, Journal, Received, clean, without_query

log = logging.getLogger("kobiri.simulator")

T = TypeVar("T", bound=msgspec.Struct)

# How often a hanging request looks whether its client or its fault has gone.
HANG_POLL_S: Final = 0.05

SUCCESS: Final = range(200, 300)
SERVER_IS_DOWN: Final = "<html><body><h1>503 Service Unavailable</h1></body></html>"
NOT_AN_API: Final = "<!DOCTYPE html><html><body><h1>Welcome</h1></body></html>"

RECEIVED: Final = web.RequestKey("received", Received)


class SimulatorSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Limits common to all, and under `providers` each provider's own options by its name.

    `hosts`: those beside this machine that callbacks may go to, and by whose name the control API may be called.
    """

    providers: dict[str, dict[str, Any]] = {}
    hosts: frozenset[str] = frozenset()
    max_body_bytes: int = 64 * 1024
    max_requests: int = 10_000
    max_payments: int = 200_000
    max_movements: int = 500_000
    max_callbacks_waiting: int = 10_000
    callback_timeout_s: float = 5.0


@dataclass(frozen=True, slots=True)
class Change:
    """How a callback, or a status answer, differs from the truth. Nothing set: the truth, properly signed.

    `status` may be a provider's word or one of `prompts.Words.told`.
    """

    status: str | None = None
    reason: str | None = None
    amount: str | None = None
    currency: str | None = None
    payer: str | None = None
    payer_as: f.Masking | None = None
    external_id: str | None = None
    nameless: bool = False
    transaction_id: str | None = None
    garbling: f.Garbling | None = None
    signed: bool | Literal["wrong"] = True

    def reference(self, true: str | None) -> str | None:
        """Our reference as it is told; None: it is not."""
        return None if self.nameless else self.external_id or true

    def wallet(self, true: str) -> str | int | None:
        """The payer's number as it is told; None: it is not."""
        told = self.payer or true
        match self.payer_as:
            case "masked":
                return f"{told[:5]}*****{told[-2:]}"
            case "national":
                return told[-9:]
            case "number":
                return int(told) if told.isascii() and told.isdecimal() else told
            case "absent":
                return None
            case None:
                return told
            case _:
                assert_never(self.payer_as)


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A callback ready to leave. `retry_ms`: the wait before each further try while no 2xx has come."""

    method: str
    url: str
    headers: Mapping[str, str]
    body: bytes
    signed: bool
    retry_ms: tuple[int, ...] = ()


Render = Callable[[Change], Outgoing]


class CallbackOrder(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A callback sent by hand. What is not given is taken from the payment."""

    reference: str
    provider: str | None = None
    url: str | None = None
    method: Literal["POST", "PUT"] | None = None
    status: str | None = None
    reason: str | None = None
    amount: str | None = None
    currency: str | None = None
    payer: str | None = None
    external_id: str | None = None
    signed: bool | Literal["wrong"] = True

    def change(self) -> Change:
        return Change(
            status=self.status,
            reason=self.reason,
            amount=self.amount,
            currency=self.currency,
            payer=self.payer,
            external_id=self.external_id,
            signed=self.signed,
        )


class OrderError(Exception):
    """A callback order that cannot be carried out; the message says why."""


class Actor(Protocol):
    """What a provider's simulator offers to the stage and the control API."""

    @property
    def error_shapes(self) -> frozenset[str]:
        """The names under which it can phrase an error."""
        ...

    def error(self, fault: f.ErrorAnswer) -> web.Response: ...

    def callback(self, order: CallbackOrder) -> Outgoing | None:
        """The callback to send; None when the reference is unknown and the order has no URL."""
        ...

    def restart(self) -> None:
        """Forget every payment."""
        ...


class Options(Generic[T]):
    """One provider's options, which the control API may change while it runs."""

    def __init__(self, shape: type[T], given: Mapping[str, Any]) -> None:
        self._shape = shape
        self.now: T = msgspec.convert(dict(given), shape)

    def change(self, patch: Mapping[str, Any]) -> None:
        self.now = msgspec.convert({**msgspec.to_builtins(self.now), **patch}, self._shape)


@dataclass(slots=True)
class Stage:
    """Made once per provider by `kobiri.simulator.app.build`."""

    provider: str
    settings: SimulatorSettings
    books: Books
    faults: Faults
    journal: Journal
    closing: asyncio.Event
    actor: Actor | None = None
    current_options: Options[Any] | None = None
    _http: aiohttp.ClientSession | None = None
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    def options(self, shape: type[T]) -> Options[T]:
        options = Options(shape, self.settings.providers.get(self.provider, {}))
        self.current_options = options
        return options

    def cue(
        self, operation: str, *, reference: str | None = None, msisdn: str | None = None, product: str | None = None
    ) -> Cue:
        return Cue(self.provider, operation, reference, msisdn, product)

    def charge(self, cue: Cue, *, amount: str, currency: str, msisdn: str, kind: Kind) -> str:
        """Move money and book it under the cue's reference: what was asked for, unless a fault moves another amount.

        Return the amount that moved.
        """
        fault = self.faults.take(cue, f.ChargedAmount)
        moved = amount if fault is None else fault.amount
        self.books.charge(
            provider=self.provider,
            reference=cue.reference or "",
            amount=moved,
            currency=currency,
            msisdn=msisdn,
            kind=kind,
        )
        return moved

    async def play(
        self, request: web.Request, cue: Cue, process: Callable[[], Awaitable[web.Response]]
    ) -> web.Response:
        """Answer one request as the provider would, unless a fault says otherwise. `process` may raise Refused."""
        if (received := request.get(RECEIVED)) is not None:
            received.operation = cue.operation
            received.reference = None if cue.reference is None else clean(cue.reference)[:200]
        await self._delay(self.faults.take(cue, f.Latency))
        if (instead := await self._before(request, cue, process)) is not None:
            return instead
        if (queued := self.faults.take(cue, f.Queued)) is not None:
            self._spawn(self._later(queued.ms, process))
            return drop(request) if queued.status is None else self._error(f.ErrorBefore(status=queued.status))
        answer = self._garbled(cue, await _processed(process))
        await self._delay(self.faults.take(cue, f.LatencyAfter))
        if (fault := self.faults.take(cue, f.ErrorAfter)) is not None:
            return self._error(fault)
        if self.faults.take(cue, f.DropAfter) is not None:
            return drop(request)
        if self.faults.take(cue, f.ResetAfter) is not None:
            return reset(request)
        return answer

    async def _before(
        self, request: web.Request, cue: Cue, process: Callable[[], Awaitable[web.Response]]
    ) -> web.Response | None:
        """What a fault answers in the provider's place."""
        if (outage := self.faults.take(cue, f.Outage)) is not None:
            return reset(request) if outage.mode == "reset" else _down(outage)
        if self.faults.take(cue, f.ResetBefore) is not None:
            return reset(request)
        if (error := self.faults.take(cue, f.ErrorBefore)) is not None:
            return self._error(error)
        if (hang := self.faults.take(cue, f.Hang)) is not None:
            if hang.processed:
                await _processed(process)
            return await self._hang(request, hang)
        if (html := self.faults.take(cue, f.Html200)) is not None:
            if html.processed:
                await _processed(process)
            return web.Response(text=NOT_AN_API, content_type="text/html")
        return None

    async def _later(self, ms: int, process: Callable[[], Awaitable[web.Response]]) -> None:
        await self.pause(ms / 1000)
        if not self.closing.is_set():
            await _processed(process)

    def _garbled(self, cue: Cue, answer: web.Response) -> web.Response:
        if isinstance(answer.body, bytes) and answer.body.startswith(b"{"):
            fault = self.faults.take(cue, f.Garbled)
            answer.body = garbled(answer.body, None if fault is None else fault.style)
        return answer

    def announce(self, cue: Cue, render: Render, *, stale_status: str) -> None:
        """Send a callback about a settled payment, with whatever goes wrong on its way."""
        self._spawn(self._announce(cue, render, stale_status))

    def forge_if_told(self, cue: Cue, render: Render, *, status: str) -> None:
        """Play the stranger who claims that a payment succeeded, and the provider that speaks too soon."""
        if (fault := self.faults.take(cue, f.Forged)) is not None:
            self._spawn(self._claim(cue, render, Change(status=status, signed="wrong"), fault.ms, "forged"))
        if (early := self.faults.take(cue, f.Premature)) is not None:
            change = replace(self.altered(cue), status=early.claimed, signed=early.signed)
            self._spawn(self._claim(cue, render, change, early.ms, "premature"))

    async def deliver(self, outgoing: Outgoing, reference: str, kind: str) -> Delivered:
        """Send one callback until it is answered with 2xx or its tries are used up."""
        entry = await self._deliver_once(outgoing, reference, kind)
        for wait_ms in outgoing.retry_ms:
            if entry.answer in SUCCESS:
                break
            await self.pause(wait_ms / 1000)
            entry = await self._deliver_once(outgoing, reference, "retry")
        return entry

    def may_call(self, url: str) -> bool:
        """Whether a callback may go there: nobody shall reach other machines through this one."""
        host = host_of(url)
        return host is not None and (is_loopback(host) or host in self.settings.hosts)

    async def pause(self, seconds: float) -> None:
        """Wait, but never hold up a shutdown."""
        if seconds > 0:
            with suppress(TimeoutError):
                await asyncio.wait_for(self.closing.wait(), seconds)

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._http is not None:
            await self._http.close()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        if self.closing.is_set() or len(self._tasks) >= self.settings.max_callbacks_waiting:
            log.warning("a callback was not sent: %d are waiting already", len(self._tasks))
            work.close()
            return
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _announce(self, cue: Cue, render: Render, stale_status: str) -> None:
        if self.faults.take(cue, f.Lost) is not None:
            return
        change = self.altered(cue)
        if self.faults.take(cue, f.Unsigned) is not None:
            change = replace(change, signed=False)
        duplicated = self.faults.take(cue, f.Duplicated)
        reordered = self.faults.take(cue, f.Reordered)
        contradicting = self.faults.take(cue, f.Contradicting)
        if (late := self.faults.take(cue, f.Late)) is not None:
            await self.pause(late.ms / 1000)
        reference = cue.reference or ""
        await self.deliver(render(change), reference, "callback")
        if duplicated is not None:
            for _ in range(duplicated.copies):
                await self.pause(duplicated.spacing_ms / 1000)
                await self.deliver(render(change), reference, "duplicate")
        if reordered is not None:
            await self.pause(reordered.ms / 1000)
            await self.deliver(render(replace(change, status=stale_status)), reference, "stale")
        if contradicting is not None:
            other = replace(change, status=contradicting.claimed, signed=contradicting.signed)
            await self._claim(cue, render, other, contradicting.ms, "contradicting")

    def altered(self, cue: Cue) -> Change:
        """The lies that faults tell about a payment, in a status or a callback."""
        amount = self.faults.take(cue, f.WrongAmount)
        currency = self.faults.take(cue, f.WrongCurrency)
        payer = self.faults.take(cue, f.WrongPayer)
        payer_as = self.faults.take(cue, f.PayerAs)
        reference = self.faults.take(cue, f.WrongReference)
        transaction = self.faults.take(cue, f.WrongTransaction)
        # An answer to a request is garbled as it leaves; a callback before it is signed.
        garbling = self.faults.take(cue, f.Garbled) if cue.operation == "callback" else None
        return Change(
            status=self.faults.word(cue),
            amount=None if amount is None else amount.amount,
            currency=None if currency is None else currency.currency,
            payer=None if payer is None else payer.payer,
            payer_as=None if payer_as is None else payer_as.style,
            external_id=None if reference is None else reference.told,
            nameless=reference is not None and reference.told is None,
            transaction_id=None if transaction is None else transaction.told,
            garbling=None if garbling is None else garbling.style,
        )

    async def _claim(self, cue: Cue, render: Render, change: Change, after_ms: int, kind: str) -> None:
        """One more callback, that says what it is told to say."""
        await self.pause(after_ms / 1000)
        await self.deliver(render(change), cue.reference or "", kind)

    async def _deliver_once(self, outgoing: Outgoing, reference: str, kind: str) -> Delivered:
        answer: int | None = None
        error: str | None = None
        try:
            if self.may_call(outgoing.url):
                answer = await self._post(outgoing)
            else:
                error = "HostNotAllowed"
        except (aiohttp.ClientError, TimeoutError, ValueError, OSError) as problem:
            error = type(problem).__name__
        entry = Delivered(
            at=time.time(),
            provider=self.provider,
            reference=reference,
            method=outgoing.method,
            url=without_query(outgoing.url)[:512],
            kind=kind,
            signed=outgoing.signed,
            answer=answer,
            error=error,
        )
        self.journal.deliver(entry)
        return entry

    async def _post(self, outgoing: Outgoing) -> int:
        if self._http is None:
            self._http = aiohttp.ClientSession(
                timeout=aiohttp.ClientTimeout(total=self.settings.callback_timeout_s),
                connector=aiohttp.TCPConnector(limit=100),
                cookie_jar=aiohttp.DummyCookieJar(),
                trust_env=False,
            )
        async with self._http.request(
            outgoing.method,
            outgoing.url,
            data=outgoing.body,
            headers=outgoing.headers,
            allow_redirects=False,
        ) as answer:
            return answer.status

    async def _delay(self, fault: f.Latency | f.LatencyAfter | None) -> None:
        if fault is not None:
            await self.pause((fault.ms + secrets.randbelow(fault.jitter_ms + 1)) / 1000)

    async def _hang(self, request: web.Request, fault: f.Hang) -> web.Response:
        while self.faults.holds(fault) and not self.closing.is_set() and _connected(request):
            await self.pause(HANG_POLL_S)
        return drop(request, "hung")

    def _error(self, fault: f.ErrorAnswer) -> web.Response:
        headers = {} if fault.retry_after_s is None else {"Retry-After": str(fault.retry_after_s)}
        if fault.retry_after is not None:
            headers["Retry-After"] = fault.retry_after
        if fault.body is not None or self.actor is None:
            response = web.Response(status=fault.status, body=(fault.body or "").encode())
            response.headers["Content-Type"] = fault.content_type
        else:
            response = self.actor.error(fault)
        response.headers.update(headers)
        return response


async def _processed(process: Callable[[], Awaitable[web.Response]]) -> web.Response:
    try:
        return await process()
    except Refused as refused:
        return refused.answer


def _down(outage: f.Outage) -> web.Response:
    headers = {} if outage.retry_after_s is None else {"Retry-After": str(outage.retry_after_s)}
    return web.Response(status=503, text=SERVER_IS_DOWN, content_type="text/html", headers=headers)


def _connected(request: web.Request) -> bool:
    return request.transport is not None and not request.transport.is_closing()


def drop(request: web.Request, answered: str = "dropped") -> web.Response:
    """Close the connection in good order, without an answer."""
    _note(request, answered)
    if request.transport is not None:
        request.transport.close()
    return web.Response()


def reset(request: web.Request) -> web.Response:
    """Break the connection: the client sees a reset."""
    _note(request, "reset")
    if request.transport is not None:
        # With a linger time of zero the kernel sends RST instead of FIN.
        if (sock := request.transport.get_extra_info("socket")) is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        request.transport.abort()
    return web.Response()


def _note(request: web.Request, answered: str) -> None:
    if (received := request.get(RECEIVED)) is not None:
        received.answered = answered
