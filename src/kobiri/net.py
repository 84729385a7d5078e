"""The only outbound HTTP.

Whatever goes wrong becomes one of two exceptions: `NotSent`, no byte of the request was written, or
`MaybeSent`, everything else. Between them stands one fact: whether a byte was handed to the connection. An unknown
host, a refused port, a failed TLS handshake, a wait for a place among the connections and a header that cannot be
written end before that.
"""

import asyncio
import errno
import functools
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from typing import TypeVar, cast

import aiohttp
from aiohttp.base_protocol import BaseProtocol
from aiohttp.client_proto import ResponseHandler
from aiohttp.connector import Connection
from aiohttp.http import RawResponseMessage
from aiohttp.streams import StreamReader

from kobiri import __version__
from kobiri.domain import outcome
from kobiri.domain.address import on_this_machine

CONNECT_WITHIN_S = 3.0  # a place among the connections, DNS, TCP and TLS together
IDLE_CONNECTION_S = 15.0  # shorter than servers and their balancers keep an idle connection
MAX_ANSWER_BYTES = 64 * 1024
MAX_HEADS = 16  # of one answer: informational ones (1xx) may come before it

RESTING = (429, 503)
MAX_REST_S = 40.0  # an operator's slip must not stop payments for a day: it is asked again, and may repeat its wish
UNTOLD_REST_S = 10.0  # where it names no number of seconds (a date is somebody else's clock), or none at all

_only_this_machine = False

Session = aiohttp.ClientSession
T = TypeVar("T")


class NotSent(Exception):
    """No byte of the request was written. The text is short and tells no URL, header or body."""

    @property
    def outcome(self) -> outcome.NotSent:
        return outcome.NotSent(str(self), outage=not isinstance(self, TooLate))


class TooLate(NotSent):
    """The moment after which the first byte must not leave has passed."""


class MaybeSent(Exception):
    """The request may have been written, and there is no whole answer. The text is as in `NotSent`."""

    @property
    def outcome(self) -> outcome.Unknown:
        return outcome.Unknown(str(self))


class _AnswerTooLarge(Exception):
    pass


class _TooManyHeads(Exception):
    pass


class _SecondPass(Exception):
    pass


class _StrayAnswer(Exception):
    pass


class _Late(Exception):
    pass


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer. Header names match in any case; `body` is as it came, at most MAX_ANSWER_BYTES."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def heed(self, said: T) -> T:
        """What the answer says, with the rest in it that it asks for: by Retry-After, or by 429 alone."""
        asked = self.headers.get("Retry-After")
        wants_rest = self.status in RESTING and (asked is not None or self.status == HTTPStatus.TOO_MANY_REQUESTS)
        if not wants_rest or not isinstance(said, outcome.Unknown):
            return said
        told = asked is not None and asked.isascii() and asked.isdigit()
        seconds = float(asked[:9]) if told and asked is not None else UNTOLD_REST_S
        return replace(said, retry_after_s=min(max(seconds, 1.0), MAX_REST_S))


@dataclass(frozen=True, slots=True)
class Exchange:
    """One call, with every secret in it: see domain/redaction.py. `once`: it was to move money.

    `answer` None: no whole one came, for the reason in `lost`.
    """

    method: str
    url: str = field(repr=False)
    headers: Mapping[str, str] = field(repr=False)
    body: bytes | None = field(repr=False)
    answer: Answer | None = field(repr=False)
    once: bool
    lost: str = ""


_overheard: ContextVar[list[Exchange] | None] = ContextVar("overheard", default=None)


@contextmanager
def overheard() -> Iterator[list[Exchange]]:
    """The exchanges of whatever is begun inside, also of tasks that outlive it. For `kobiri accounts record` alone."""
    heard: list[Exchange] = []
    token = _overheard.set(heard)
    try:
        yield heard
    finally:
        _overheard.reset(token)


class _Call:
    """What is known about one call. It is its own middleware. `once`: it may be written once at most."""

    __slots__ = ("_first_byte_before", "_passed", "connected", "once", "written")

    def __init__(self, *, once: bool, first_byte_before: float | None = None) -> None:
        self.once = once
        self._first_byte_before = first_byte_before
        self._passed = False
        self.connected = False
        self.written = False

    async def __call__(
        self, request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
    ) -> aiohttp.ClientResponse:
        # When a connection is lost, aiohttp (client.py, IDEMPOTENT_METHODS) sends GET, PUT and DELETE a
        # second time, even if the connection was fresh and the server read everything. There is no switch.
        if self._passed and self.once:
            raise _SecondPass
        self._passed = True
        assert isinstance(request, _Request), "the session was made by provider_session"
        request.call = self
        return await handler(request)

    def begin(self) -> None:
        """It has a connection. Raises _Late."""
        self.connected = True
        # The last look at the clock before the first byte: whoever waited for a place or a handshake looks again.
        if self._first_byte_before is not None and time.monotonic() > self._first_byte_before:
            raise _Late


class _Watched:
    """A connection's transport that tells its call when the first byte is handed over."""

    def __init__(self, transport: asyncio.Transport, call: _Call) -> None:
        self.transport = transport
        self.call = call

    def __getattr__(self, name: str) -> object:
        return getattr(self.transport, name)

    def write(self, data: bytes) -> None:
        self.call.written = True
        self.transport.write(data)

    def writelines(self, chunks: Iterable[bytes]) -> None:
        self.call.written = True
        self.transport.writelines(chunks)


class _Protocol(ResponseHandler):
    """A connection over which no server sends heads without end, in one answer or between two.

    aiohttp reads informational answers in a loop that lets nobody else run, not even the time limit (client_reqrep.py,
    ClientResponse.start), and keeps all that comes over an idle connection.
    """

    heads = 0  # since the last request

    def feed_data(self, data: tuple[RawResponseMessage, StreamReader], size: int = 0) -> None:
        self.heads += 1
        if self.heads <= MAX_HEADS:
            super().feed_data(data, size)
        elif self.heads == MAX_HEADS + 1:
            self.set_exception(_TooManyHeads())
            if self.transport is not None:
                self.transport.abort()


class _Connector(aiohttp.TCPConnector):
    def __init__(self, *, limit: int, keepalive_timeout: float) -> None:
        super().__init__(limit=limit, keepalive_timeout=keepalive_timeout)
        self._factory = cast("functools.partial[ResponseHandler]", functools.partial(_Protocol, loop=self._loop))


def _watch(protocol: BaseProtocol, call: _Call) -> None:
    """Watch a connection for this call from now on. Another call may have used it before."""
    known: object = protocol.transport
    if isinstance(known, _Watched):
        known.call = call
    elif protocol.transport is not None:
        protocol.transport = cast("asyncio.Transport", _Watched(protocol.transport, call))


class _Request(aiohttp.ClientRequest):
    call: _Call

    async def send(self, conn: Connection) -> aiohttp.ClientResponse:
        assert isinstance(conn.protocol, _Protocol), "a connection that is lost by now has its protocol still"
        # A server may write into an idle connection (some say 408 before they close it). aiohttp would take
        # that for the answer to the next request.
        if conn.protocol.should_close:
            raise _StrayAnswer
        conn.protocol.heads = 0
        _watch(conn.protocol, self.call)
        self.call.begin()
        return await super().send(conn)


def stay_on_this_machine() -> None:
    """From now on this process calls nothing else, whatever address anybody configures."""
    global _only_this_machine  # noqa: PLW0603  # for the whole process, and for ever: that is what makes it sure
    _only_this_machine = True


def provider_session(max_connections: int, *, connect_within_s: float = CONNECT_WITHIN_S) -> Session:
    """Open the connections of one provider account. Call it inside a running loop; close it."""
    return aiohttp.ClientSession(
        connector=_Connector(limit=max_connections, keepalive_timeout=IDLE_CONNECTION_S),
        cookie_jar=aiohttp.DummyCookieJar(),
        headers={"User-Agent": f"kobiri/{__version__}", "Accept-Encoding": "identity"},
        skip_auto_headers=("Content-Type",),  # a request without a body has none
        timeout=aiohttp.ClientTimeout(total=None, connect=connect_within_s),
        auto_decompress=False,
        trust_env=False,
        request_class=_Request,
    )


async def send_once(
    session: Session,
    method: str,
    url: str,
    *,
    headers: Mapping[str, str],
    body: bytes | None,
    deadline_s: float,
    first_byte_before: float | None = None,
) -> Answer:
    """Make a call that moves money: it is written at most once, and not after a monotonic time where one is given.

    Raises NotSent or MaybeSent.
    """
    call = _Call(once=True, first_byte_before=first_byte_before)
    return await _exchange(session, method, url, headers, body, deadline_s, call)


async def ask(
    session: Session,
    method: str,
    url: str,
    *,
    headers: Mapping[str, str],
    body: bytes | None,
    deadline_s: float,
) -> Answer:
    """Make a call that moves nothing: it may be written twice. Raises NotSent or MaybeSent."""
    return await _exchange(session, method, url, headers, body, deadline_s, _Call(once=False))


async def _exchange(
    session: Session,
    method: str,
    url: str,
    headers: Mapping[str, str],
    body: bytes | None,
    deadline_s: float,
    call: _Call,
) -> Answer:
    if deadline_s <= 0:
        raise NotSent("no time is left")
    if _only_this_machine and not on_this_machine(url):
        raise NotSent("a demo calls nothing outside this machine")
    try:
        async with (
            asyncio.timeout(deadline_s),  # over everything, the body too
            session.request(
                method,
                url,
                headers=headers,
                data=body,
                allow_redirects=False,
                middlewares=(call,),
            ) as response,
        ):
            answer = Answer(response.status, response.headers, await _read(response))
        _hear(Exchange(method, url, headers, body, answer, call.once))
        return answer  # noqa: TRY300  # no except below is about it
    except _StrayAnswer:
        raise NotSent("the connection held an answer to no request") from None
    except _Late:
        raise TooLate("it was held up for too long") from None
    # Any exception at all: nobody can list what a hostile answer makes aiohttp raise, and a call that moves
    # money must end in a known way. The cause is dropped, for aiohttp's texts tell addresses and URLs.
    except Exception as error:  # noqa: BLE001
        reason = _reason(error, call)
        _hear(Exchange(method, url, headers, body, None, call.once, lost=reason))
        raise (MaybeSent(reason) if call.written else NotSent(reason)) from None


def _hear(exchange: Exchange) -> None:
    if (heard := _overheard.get()) is not None:
        heard.append(exchange)


async def _read(response: aiohttp.ClientResponse) -> bytes:
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > MAX_ANSWER_BYTES:
            raise _AnswerTooLarge
    return bytes(body)


def _reason(error: Exception, call: _Call) -> str:
    match error:
        case _AnswerTooLarge() | _TooManyHeads():
            return "the answer is too large"
        case _SecondPass() | aiohttp.ServerDisconnectedError():
            return "the connection was closed without an answer"
        case TimeoutError():
            return "no answer in time" if call.connected else "no connection in time"
        case OSError(errno=int(number)) if number in errno.errorcode:
            return f"{type(error).__name__} {errno.errorcode[number]}"
        case _:
            return type(error).__name__
