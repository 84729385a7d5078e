"""What `net` promises about calls that move money: written at most once, and ended in a known way."""

import asyncio
import gzip
import socket
import ssl
import time
import traceback
from asyncio import StreamReader as Reader
from asyncio import StreamWriter as Writer
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress

import aiohttp
import pytest

from kobiri import net
from kobiri.domain.outcome import Accepted, Unknown

Handler = Callable[[Reader, Writer], Awaitable[None]]

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
CANARY = "canary-5f3759df"


@asynccontextmanager
async def serving(handler: Handler) -> AsyncIterator[str]:
    """Run `handler` once per connection; a connection ends when it returns."""
    tasks: set[asyncio.Task[None]] = set()

    async def connected(reader: Reader, writer: Writer) -> None:
        try:
            with suppress(ConnectionError, asyncio.IncompleteReadError):
                await handler(reader, writer)
        finally:
            writer.close()

    def accept(reader: Reader, writer: Writer) -> None:
        task = asyncio.create_task(connected(reader, writer))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for task in tuple(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@pytest.fixture
async def session() -> AsyncIterator[net.Session]:
    session = net.provider_session(2)
    yield session
    await session.close()


async def read_request(reader: Reader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            await reader.readexactly(int(line.split(b":")[1]))
    return head


async def send(
    session: net.Session, url: str, method: str = "POST", *, body: bytes | None = b"{}", deadline_s: float = 5
) -> net.Answer:
    return await net.send_once(session, method, url, headers={}, body=body, deadline_s=deadline_s)


async def for_ever(_reader: Reader, _writer: Writer) -> None:
    await asyncio.Event().wait()


@contextmanager
def a_full_backlog() -> Iterator[str]:
    """Listen with a backlog that is full: the kernel leaves further connects without an answer."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            for filler in fillers:
                filler.close()


# --- a wish for rest ----------------------------------------------------------------------------------------

RESTS: list[tuple[int, str | None, float | None]] = [
    (429, "7", 7), (429, "0", 1), (429, "86400", 40), (429, "9" * 400, 40), (503, "3600", 40), (503, "1", 1),
    (429, None, 10), (429, "", 10), (429, "-5", 10), (429, "nan", 10), (429, "1e9", 10), (429, "7.5", 10),
    (429, "Fri, 31 Dec 9999 23:59:59 GMT", 10), (503, "Fri, 31 Dec 1999 23:59:59 GMT", 10), (429, "\u0667", 10),
    (503, None, None), (500, "60", None), (403, "60", None), (200, "60", None),
]  # fmt: skip


def test_a_rest_is_as_long_as_asked_and_never_absurd() -> None:
    for status, asked, rest_s in RESTS:
        headers = {} if asked is None else {"Retry-After": asked}
        said = net.Answer(status, headers, b"").heed(Unknown("told"))
        assert said == Unknown("told", retry_after_s=rest_s), (status, asked)
    assert net.Answer(429, {"Retry-After": "7"}, b"").heed(Accepted()) == Accepted()


# --- nothing was written ------------------------------------------------------------------------------------


async def test_a_refused_port_is_not_sent(session: net.Session) -> None:
    with socket.socket() as unheard:
        unheard.bind(("127.0.0.1", 0))
        with pytest.raises(net.NotSent, match="ECONNREFUSED"):
            await send(session, f"http://127.0.0.1:{unheard.getsockname()[1]}/")


@pytest.mark.parametrize("url", ["http://", "http://a..b/", "http://no-such-host.invalid/", "ftp://127.0.0.1/"])
async def test_an_address_that_leads_nowhere_is_not_sent(session: net.Session, url: str) -> None:
    with pytest.raises(net.NotSent):
        await send(session, url)


async def test_a_deadline_while_connecting_is_not_sent(session: net.Session) -> None:
    with a_full_backlog() as url, pytest.raises(net.NotSent, match="no connection in time"):
        await send(session, url, deadline_s=0.1)


async def test_connecting_has_a_limit_of_its_own() -> None:
    session = net.provider_session(1, connect_within_s=0.1)
    started = time.monotonic()
    with a_full_backlog() as url, pytest.raises(net.NotSent, match="no connection in time"):
        await send(session, url, deadline_s=60)
    assert time.monotonic() - started < 10
    await session.close()


async def test_a_failed_tls_handshake_is_not_sent(session: net.Session) -> None:
    async def speak_plainly(reader: Reader, writer: Writer) -> None:
        await reader.read(1)
        writer.write(OK)
        await writer.drain()

    async with serving(speak_plainly) as url:
        with pytest.raises(net.NotSent, match="SSL"):
            await send(session, url.replace("http:", "https:"))


async def test_a_silent_tls_handshake_is_not_sent(session: net.Session) -> None:
    async with serving(for_ever) as url:
        with pytest.raises(net.NotSent, match="no connection in time"):
            await send(session, url.replace("http:", "https:"), deadline_s=0.1)


async def test_certificates_are_verified(session: net.Session) -> None:
    assert session.connector is not None
    assert session.connector._ssl is True  # type: ignore[attr-defined]
    assert ssl.create_default_context().verify_mode is ssl.CERT_REQUIRED


async def test_a_deadline_while_waiting_for_a_place_is_not_sent() -> None:
    session, requests, arrived = net.provider_session(1), [], asyncio.Event()

    async def hold(reader: Reader, _writer: Writer) -> None:
        requests.append(await read_request(reader))
        arrived.set()
        await asyncio.Event().wait()

    async with serving(hold) as url:
        first = asyncio.create_task(send(session, url))
        await arrived.wait()
        with pytest.raises(net.NotSent, match="no connection in time"):
            await send(session, url, deadline_s=0.1)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
    assert len(requests) == 1
    await session.close()


async def test_being_cancelled_while_waiting_for_a_place_passes_through_and_leaks_no_place() -> None:
    session, requests, arrived, let_go = net.provider_session(1), [], asyncio.Event(), asyncio.Event()

    async def hold(reader: Reader, writer: Writer) -> None:
        while True:
            requests.append(await read_request(reader))
            arrived.set()
            await let_go.wait()
            writer.write(OK)

    async with serving(hold) as url:
        first = asyncio.create_task(send(session, url))
        await arrived.wait()
        waiting = asyncio.create_task(send(session, url))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        let_go.set()
        assert (await first).status == 200
        assert (await send(session, url)).status == 200
    assert len(requests) == 2
    await session.close()


async def test_without_time_nothing_is_tried(session: net.Session) -> None:
    requests = []

    async def answer(reader: Reader, writer: Writer) -> None:
        requests.append(await read_request(reader))
        writer.write(OK)

    async with serving(answer) as url:
        with pytest.raises(net.NotSent, match="no time is left"):
            await send(session, url, deadline_s=0)
    assert requests == []


async def test_an_answer_to_no_request_is_nobodys_answer(session: net.Session) -> None:
    requests, read = [], asyncio.Event()

    async def answer_twice(reader: Reader, writer: Writer) -> None:
        while True:
            requests.append(await read_request(reader))
            writer.write(OK)
            if len(requests) == 1:
                await read.wait()
                writer.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 5\r\n\r\nstray")

    async with serving(answer_twice) as url:
        assert (await send(session, url)).status == 200
        read.set()
        assert session.connector is not None
        [(idle, _since)] = next(iter(session.connector._conns.values()))
        while not idle.should_close:  # the stray bytes are on their way  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        with pytest.raises(net.NotSent, match="an answer to no request"):
            await send(session, url)
        assert len(requests) == 1
        assert (await send(session, url)).status == 200


UNWRITABLE = [
    {"X-Line": "a\nb"}, {"X-Line": "a\r\nX-Evil: 1"}, {"X-\nLine": "a"}, {"X-Line": "a\0b"},
]  # fmt: skip


@pytest.mark.parametrize("used_before", [False, True])
@pytest.mark.parametrize("method", ["POST", "GET"])
async def test_a_header_that_cannot_be_written_is_not_sent_on_whichever_connection(
    session: net.Session, method: str, used_before: bool
) -> None:
    heard: list[bytes] = []

    async def listen(reader: Reader, writer: Writer) -> None:
        if used_before:
            await read_request(reader)
            writer.write(OK)
        heard.append(await reader.read())

    async with serving(listen) as url:
        for headers in UNWRITABLE:
            if used_before:
                assert (await send(session, url, method)).status == 200
            with pytest.raises(net.NotSent, match="Error"):
                await net.send_once(session, method, url, headers=headers, body=b"{}", deadline_s=5)
            with pytest.raises(net.NotSent, match="Error"):
                await net.ask(session, method, url, headers=headers, body=b"{}", deadline_s=5)
        await session.close()
        while len(heard) < len(UNWRITABLE) * (1 if used_before else 0):  # noqa: ASYNC110
            await asyncio.sleep(0.001)
    assert set(heard) <= {b""}, "not one byte came"


async def test_what_ends_a_call_before_its_first_byte_is_not_sent_even_on_a_used_connection(
    session: net.Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever it is: what counts is that nothing was handed to the connection."""
    requests = []

    async def answer(reader: Reader, writer: Writer) -> None:
        while True:
            requests.append(await read_request(reader))
            writer.write(OK)

    async with serving(answer) as url:
        assert (await send(session, url)).status == 200
        for error in (RuntimeError, ConnectionResetError, TimeoutError, aiohttp.ServerDisconnectedError):
            with monkeypatch.context() as patch:

                async def fail(*_: object, error: type[Exception] = error) -> None:
                    raise error

                patch.setattr(aiohttp.ClientRequest, "send", fail)
                with pytest.raises(net.NotSent):
                    await send(session, url)
        assert (await send(session, url)).status == 200
    assert len(requests) == 2


# --- something may have been written ------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["POST", "GET", "PUT", "DELETE", "HEAD", "OPTIONS"])
async def test_a_request_that_was_read_and_dropped_is_written_once(session: net.Session, method: str) -> None:
    requests = []

    async def read_and_close(reader: Reader, _writer: Writer) -> None:
        requests.append(await read_request(reader))

    async with serving(read_and_close) as url:
        with pytest.raises(net.MaybeSent, match="closed without an answer"):
            await send(session, url, method)
    assert len(requests) == 1


@pytest.mark.parametrize("method", ["POST", "GET", "PUT", "DELETE"])
async def test_a_used_connection_that_drops_the_second_request_is_written_once(
    session: net.Session, method: str
) -> None:
    requests = []

    async def answer_the_first(reader: Reader, writer: Writer) -> None:
        requests.append(await read_request(reader))
        writer.write(OK)
        requests.append(await read_request(reader))

    async with serving(answer_the_first) as url:
        assert (await send(session, url, method)).body == b"ok"
        with pytest.raises(net.MaybeSent):
            await send(session, url, method)
    assert len(requests) == 2


@pytest.mark.parametrize("method", ["POST", "GET", "PUT"])
async def test_an_idle_connection_closed_unnoticed_is_maybe_sent(session: net.Session, method: str) -> None:
    writers = []

    async def answer(reader: Reader, writer: Writer) -> None:
        writers.append(writer)
        while True:
            await read_request(reader)
            writer.write(OK)

    async with serving(answer) as url:
        assert (await send(session, url, method)).status == 200
        # Closed in the kernel, while our loop has had no turn to notice it.
        writers[0].get_extra_info("socket").shutdown(socket.SHUT_RDWR)
        with pytest.raises(net.MaybeSent):
            await send(session, url, method)
    assert len(writers) == 1


async def test_an_idle_connection_closed_noticed_is_replaced(session: net.Session) -> None:
    async def answer_once(reader: Reader, writer: Writer) -> None:
        await read_request(reader)
        writer.write(OK)

    async with serving(answer_once) as url:
        assert (await send(session, url)).status == 200
        assert session.connector is not None
        [(idle, _since)] = next(iter(session.connector._conns.values()), [(None, 0.0)])
        while idle is not None and idle.is_connected():  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        assert (await send(session, url)).status == 200


@pytest.mark.parametrize(
    "answer",
    [
        b"not HTTP at all\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: nine\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nshort",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 20_000 + b"\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n",
    ],
)
async def test_half_an_answer_or_nonsense_is_maybe_sent(session: net.Session, answer: bytes) -> None:
    async def say(reader: Reader, writer: Writer) -> None:
        await read_request(reader)
        writer.write(answer)
        await writer.drain()

    async with serving(say) as url:
        with pytest.raises(net.MaybeSent):
            await send(session, url)


async def test_no_answer_in_time_is_maybe_sent(session: net.Session) -> None:
    async with serving(for_ever) as url:
        with pytest.raises(net.MaybeSent, match="no answer in time"):
            await send(session, url, deadline_s=1)


async def test_a_dripping_answer_ends_at_the_deadline(session: net.Session) -> None:
    async def drip(reader: Reader, writer: Writer) -> None:
        await read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
        while True:
            writer.write(b".")
            await writer.drain()
            await asyncio.sleep(0.01)

    async with serving(drip) as url:
        started = time.monotonic()
        with pytest.raises(net.MaybeSent, match="no answer in time"):
            await send(session, url, deadline_s=1)
        assert time.monotonic() - started < 10


@pytest.mark.parametrize("head", [b"Content-Length: 99999999", b"Connection: close"])
async def test_an_answer_is_read_up_to_a_limit(session: net.Session, head: bytes) -> None:
    async def flood(reader: Reader, writer: Writer) -> None:
        await read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\n" + head + b"\r\n\r\n")
        while True:
            writer.write(b"x" * 65536)
            await writer.drain()

    async with serving(flood) as url:
        with pytest.raises(net.MaybeSent, match="too large"):
            await send(session, url)


async def test_informational_answers_before_the_answer_have_a_limit(session: net.Session) -> None:
    """Their reader (aiohttp) is a loop that lets nobody else run, so that no time limit would end it."""

    async def flood(reader: Reader, writer: Writer) -> None:
        await read_request(reader)
        while True:
            writer.write(b"HTTP/1.1 102 Processing\r\n\r\n" * 2_000)
            await writer.drain()

    async with serving(flood) as url:
        for call in (net.send_once, net.ask):
            with pytest.raises(net.MaybeSent, match="too large"):
                await call(session, "POST", url, headers={}, body=b"{}", deadline_s=5)


async def test_a_few_informational_answers_are_passed_over_each_time(session: net.Session) -> None:
    async def answer(reader: Reader, writer: Writer) -> None:
        while True:
            await read_request(reader)
            writer.write(b"HTTP/1.1 102 Processing\r\n\r\n" * 5 + OK)

    async with serving(answer) as url:
        for _ in range(6):
            assert (await send(session, url)).body == b"ok"


async def test_an_idle_connection_that_is_flooded_is_ended(session: net.Session) -> None:
    answered, ended = asyncio.Event(), asyncio.Event()

    async def flood(reader: Reader, writer: Writer) -> None:
        await read_request(reader)
        writer.write(OK)
        await answered.wait()
        try:
            while True:
                writer.write(OK)
                await writer.drain()
                await asyncio.sleep(0.001)
        finally:
            ended.set()

    async with serving(flood) as url:
        await send(session, url)
        answered.set()
        await asyncio.wait_for(ended.wait(), net.IDLE_CONNECTION_S / 3)


async def test_the_largest_answer_is_read_whole(session: net.Session) -> None:
    async def answer(reader: Reader, writer: Writer) -> None:
        await read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 65536\r\n\r\n" + b"x" * 65536)

    async with serving(answer) as url:
        assert len((await send(session, url)).body) == net.MAX_ANSWER_BYTES


async def test_being_cancelled_while_waiting_for_an_answer_passes_through(session: net.Session) -> None:
    arrived = asyncio.Event()

    async def hold(reader: Reader, _writer: Writer) -> None:
        await read_request(reader)
        arrived.set()
        await asyncio.Event().wait()

    async with serving(hold) as url:
        call = asyncio.create_task(send(session, url))
        await arrived.wait()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call


# --- what travels -------------------------------------------------------------------------------------------


async def test_a_redirect_is_an_answer(session: net.Session) -> None:
    requests = []

    async def redirect(reader: Reader, writer: Writer) -> None:
        requests.append(await read_request(reader))
        writer.write(b"HTTP/1.1 307 Temporary Redirect\r\nLocation: /again\r\nContent-Length: 0\r\n\r\n")

    async with serving(redirect) as url:
        assert (await send(session, url)).status == 307
    assert len(requests) == 1


async def test_requests_are_plain(session: net.Session, monkeypatch: pytest.MonkeyPatch) -> None:
    """No cookie is kept, no compression asked for or undone, no proxy or netrc taken from the environment."""
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    heads, packed = [], gzip.compress(b"packed")

    async def answer(reader: Reader, writer: Writer) -> None:
        while True:
            heads.append((await read_request(reader)).decode().lower())
            writer.write(b"HTTP/1.1 200 OK\r\nSet-Cookie: a=b\r\nContent-Encoding: gzip\r\n")
            writer.write(b"Content-Length: %d\r\n\r\n" % len(packed) + packed)

    async with serving(answer) as url:
        assert (await send(session, url)).body == packed
        assert (await send(session, url)).body == packed
    assert len(heads) == 2
    assert "user-agent: kobiri/" in heads[1]
    assert "accept-encoding: identity" in heads[1]
    assert "cookie" not in heads[1]
    assert "content-type" not in heads[1]


async def test_a_question_may_be_repeated(session: net.Session) -> None:
    requests = []

    async def drop_the_first(reader: Reader, writer: Writer) -> None:
        requests.append(await read_request(reader))
        if len(requests) > 1:
            writer.write(OK)

    async with serving(drop_the_first) as url:
        answer = await net.ask(session, "GET", url, headers={}, body=None, deadline_s=5)
    assert answer.body == b"ok"


@pytest.mark.parametrize("origin", ["dropping", "http://127.0.0.1:1", "http://"])
async def test_errors_tell_no_secret(session: net.Session, origin: str) -> None:
    async def drop(reader: Reader, _writer: Writer) -> None:
        await read_request(reader)

    async with serving(drop) as url:
        with pytest.raises((net.NotSent, net.MaybeSent)) as caught:
            await net.send_once(
                session,
                "POST",
                f"{url if origin == 'dropping' else origin}/{CANARY}?key={CANARY}",
                headers={"Authorization": CANARY},
                body=CANARY.encode(),
                deadline_s=5,
            )
    told = "".join(traceback.format_exception(caught.value)) + repr(caught.value)
    assert CANARY not in told
