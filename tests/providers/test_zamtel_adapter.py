"""One account at Zamtel over real HTTP: a GET that is sent at most once, and which outcome each mishap has."""

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, TypeAlias

import pytest
from aiohttp import web

from kobiri.domain.ids import ProviderReference
from kobiri.domain.money import Money
from kobiri.domain.msisdn import Msisdn
from kobiri.domain.outcome import Declined, FailureCode, NotSent, Outcome, Succeeded, Unknown
from kobiri.providers.base import (
    Account,
    Authenticity,
    Callback,
    Collection,
    Payout,
    Provider,
    Refund,
    Request,
    Unreadable,
)
from kobiri.providers.zamtel.adapter import SPEC, ZamtelProvider

REFERENCE = ProviderReference("8a3f0e52-6f43-4a0e-9a56-1d1f6f1a7a10")
CONVERSATION_ID = "8a3f0e526f434a0e9a561d1f6f1a7a10"
PAYER = Msisdn("260951234567")
COLLECTION = Collection(REFERENCE, Money(1_050, "ZMW"), PAYER, "zamtel", "Order 7")
PAYOUT = Payout(REFERENCE, Money(10_000, "ZMW"), PAYER, "zamtel", "Wages")
REFUND = Refund(REFERENCE, Money(1_050, "ZMW"), PAYER, "zamtel", None, REFERENCE, None)

VALUES = {
    "third_party_id": "canary-caller",
    "password": "canary+password/=",
    "shortcode": "000001",
    "identifier": "canary-operator",
    "credential": "canary+credential/=",
}
CANARIES = ("canary", CONVERSATION_ID, PAYER.digits)

Respond = Callable[[web.Request], Awaitable[web.Response]]
Reader: TypeAlias = asyncio.StreamReader
Writer: TypeAlias = asyncio.StreamWriter

SUCCESS = {"status": "0", "message": "Success", "TransactionId": "T7"}
RAW_SUCCESS = b'HTTP/1.1 200 OK\r\nContent-Length: 32\r\n\r\n{"status":0,"TransactionId":"7"}'


class Zamtel:
    """Zamtel as these tests need it: it counts what it sees, and answers as a test says."""

    def __init__(self) -> None:
        self.url = ""
        self.leaving = asyncio.Event()
        self.seen: list[tuple[str, str, dict[str, str], dict[str, str]]] = []
        self.respond: Respond = answer(200, SUCCESS)

    async def hang(self, _request: web.Request) -> web.Response:
        await self.leaving.wait()
        return web.Response(status=503)

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        self.seen.append((request.method, request.path, dict(request.query), dict(request.headers)))
        return await self.respond(request)  # type: ignore[arg-type]


def answer(status: int, content: object = None, headers: dict[str, str] | None = None) -> Respond:
    async def respond(_request: web.Request) -> web.Response:
        body = content if isinstance(content, bytes) else b"" if content is None else json.dumps(content).encode()
        return web.Response(status=status, body=body, headers=headers)

    return respond


async def drop(request: web.Request) -> web.Response:
    assert request.transport is not None
    request.transport.close()
    return web.Response()


@pytest.fixture
async def zamtel() -> AsyncIterator[Zamtel]:
    zamtel = Zamtel()
    runner = web.ServerRunner(web.Server(zamtel, access_log=None), shutdown_timeout=1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0][:2]
    zamtel.url = f"http://{host}:{port}/ZampayRest"
    yield zamtel
    zamtel.leaving.set()
    await runner.cleanup()


@asynccontextmanager
async def serving(serve: Callable[[Reader, Writer], Awaitable[None]]) -> AsyncIterator[str]:
    """A server of bare sockets: what aiohttp's own server does to connections must not decide what is proved here."""

    async def connected(reader: Reader, writer: Writer) -> None:
        try:
            await serve(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    async with server:
        host, port = server.sockets[0].getsockname()[:2]
        yield f"http://{host}:{port}/ZampayRest"


def account_at(url: str, without: tuple[str, ...] = (), **changes: Any) -> Account:
    values = {name: value for name, value in VALUES.items() if name not in without}
    values |= {name: str(changes.pop(name)) for name in list(changes) if name in VALUES}
    account = Account(
        base_url=url,
        modes=frozenset({"test"}),
        values=values,
        callback_url="https://pay.example.com/canary-callback",
        webhook_secrets=(b"canary-webhook",),
        answer_within_s=5.0,
        deadline_s=120.0,
        max_connections=50,
    )
    return replace(account, **changes)


@asynccontextmanager
async def provider_at(url: str, without: tuple[str, ...] = (), **changes: Any) -> AsyncIterator[ZamtelProvider]:
    provider = ZamtelProvider(account_at(url, without, **changes))
    try:
        yield provider
    finally:
        await provider.close()


@pytest.fixture
async def provider(zamtel: Zamtel) -> AsyncIterator[ZamtelProvider]:
    async with provider_at(zamtel.url) as provider:
        yield provider


async def send(provider: ZamtelProvider, request: Request = COLLECTION, *, within_s: float = 20.0) -> Outcome:
    return await provider.send(request, within_s=within_s, first_byte_before=None)


def unknown(reason: str, *, outage: bool = True, refused: bool = False, unlisted: str | None = None) -> Unknown:
    return Unknown(reason, outage=outage, refused=refused, askable=False, unlisted=unlisted)


# --- what is sent ---------------------------------------------------------------------------------------------------


async def test_a_collection_travels_as_zamtel_wants_it(zamtel: Zamtel, provider: ZamtelProvider) -> None:
    assert await send(provider) == Succeeded("T7")
    [(method, path, query, headers)] = zamtel.seen
    assert (method, path) == ("GET", "/ZampayRest/Req")
    assert query == {
        "ThirdPartyID": "canary-caller",
        "Password": "canary+password/=",
        "Amount": "10.50",
        "Msisdn": "260951234567",
        "Shortcode": "000001",
        "ConversationId": CONVERSATION_ID,
    }
    assert headers["Connection"] == "close"


async def test_a_payout_travels_as_zamtel_wants_it(zamtel: Zamtel, provider: ZamtelProvider) -> None:
    assert await send(provider, PAYOUT) == Succeeded("T7")
    [(method, path, query, _)] = zamtel.seen
    assert (method, path) == ("GET", "/ZampayRest/B2CReq")
    assert query == {
        "ThirdPartyID": "canary-caller",
        "Password": "canary+password/=",
        "Amount": "100",
        "Msisdn": "260951234567",
        "Shortcode": "000001",
        "identifier": "canary-operator",
        "credential": "canary+credential/=",
        "ConversationId": CONVERSATION_ID,
    }


async def test_each_kind_reads_its_own_codes(zamtel: Zamtel, provider: ZamtelProvider) -> None:
    zamtel.respond = answer(200, {"status": "E8003", "message": "Wrong PIN"})
    assert await send(provider) == Declined(FailureCode.PAYER_DECLINED, "E8003")
    assert await send(provider, PAYOUT) == unknown("status E8003", outage=False, unlisted="E8003")


@pytest.mark.parametrize("missing", ["identifier", "credential"])
async def test_without_payout_credentials_no_byte_leaves(zamtel: Zamtel, missing: str) -> None:
    async with provider_at(zamtel.url, (missing,)) as provider:
        assert await send(provider, PAYOUT) == NotSent("no payout credentials", outage=False)
        assert zamtel.seen == []
        assert await send(provider) == Succeeded("T7")


async def test_another_currency_is_never_sent_as_kwacha(zamtel: Zamtel, provider: ZamtelProvider) -> None:
    wrong = replace(COLLECTION, money=Money(1_050, "USD"))
    assert await send(provider, wrong) == NotSent("the amount is not in kwacha", outage=False)
    assert zamtel.seen == []


async def test_a_refund_is_not_offered(zamtel: Zamtel, provider: ZamtelProvider) -> None:
    with pytest.raises(NotImplementedError):
        await send(provider, REFUND)
    assert zamtel.seen == []


async def test_a_base_url_may_end_in_a_slash(zamtel: Zamtel) -> None:
    async with provider_at(zamtel.url + "/") as provider:
        await send(provider)
    assert zamtel.seen[0][1] == "/ZampayRest/Req"


# --- at most once ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("request_", [COLLECTION, PAYOUT], ids=["collection", "payout"])
async def test_a_request_that_was_read_and_dropped_is_written_once(request_: Request) -> None:
    requests: list[bytes] = []

    async def read_and_close(reader: Reader, _writer: Writer) -> None:
        requests.append(await reader.readuntil(b"\r\n\r\n"))

    async with serving(read_and_close) as url, provider_at(url) as provider:
        assert await send(provider, request_) == unknown("the connection was closed without an answer")
    assert len(requests) == 1


async def test_a_kept_connection_that_drops_the_second_request_is_written_once() -> None:
    """A server may keep a connection that it was asked to close."""
    requests: list[bytes] = []
    connections = 0

    async def answer_the_first(reader: Reader, writer: Writer) -> None:
        nonlocal connections
        connections += 1
        requests.append(await reader.readuntil(b"\r\n\r\n"))
        if connections == 1:
            writer.write(RAW_SUCCESS)
            requests.append(await reader.readuntil(b"\r\n\r\n"))

    async with serving(answer_the_first) as url, provider_at(url) as provider:
        assert await send(provider) == Succeeded("7")
        assert await send(provider) == unknown("the connection was closed without an answer")
    assert connections == 1
    assert len(requests) == 2


async def test_a_redirect_is_not_followed(zamtel: Zamtel, provider: ZamtelProvider) -> None:
    zamtel.respond = answer(302, headers={"Location": "/ZampayRestProd/Req"})
    assert await send(provider) == unknown("HTTP 302")
    assert len(zamtel.seen) == 1


@pytest.mark.parametrize(
    ("respond", "outcome"),
    [
        (answer(500, {"status": "2006"}), unknown("HTTP 500")),
        (answer(503), unknown("HTTP 503")),
        (answer(401), unknown("HTTP 401", outage=False, refused=True)),
        (answer(429, headers={"Retry-After": "7"}), replace(unknown("HTTP 429", outage=False), retry_after_s=7.0)),
        (answer(200, b"<html>"), unknown("the body is not JSON")),
        (answer(200), unknown("the body is not JSON")),
        (answer(200, {"message": "Success"}), unknown("the answer does not have one status", outage=False)),
        (answer(200, {"status": "E8027"}), unknown("status E8027")),
        (answer(200, b" " * 100_000), unknown("the answer is too large")),
        (drop, unknown("the connection was closed without an answer")),
    ],
)
async def test_any_doubt_is_unknown_and_not_repeated(
    zamtel: Zamtel, provider: ZamtelProvider, respond: Respond, outcome: Outcome
) -> None:
    zamtel.respond = respond
    assert await send(provider) == outcome
    assert len(zamtel.seen) == 1


async def test_a_hanging_request_gets_the_time_it_was_given(zamtel: Zamtel) -> None:
    """Not the account's `answer_within_s`: that is how long the client waits."""
    let_go = asyncio.Event()

    async def answer_late(_request: web.Request) -> web.Response:
        await let_go.wait()
        return web.json_response(SUCCESS)

    zamtel.respond = answer_late
    async with provider_at(zamtel.url, answer_within_s=0.05) as provider:
        sending = asyncio.create_task(send(provider))
        done, _ = await asyncio.wait({sending}, timeout=0.3)
        assert not done
        let_go.set()
        assert await sending == Succeeded("T7")

        zamtel.respond = zamtel.hang
        assert await send(provider, within_s=0.3) == unknown("no answer in time")
    assert len(zamtel.seen) == 2


async def test_no_byte_leaves_after_the_moment_that_was_given(zamtel: Zamtel, provider: ZamtelProvider) -> None:
    outcome = await provider.send(COLLECTION, within_s=20, first_byte_before=time.monotonic() - 0.001)
    assert outcome == NotSent("it was held up for too long", outage=False)
    assert zamtel.seen == []


async def test_nobody_there_is_not_sent() -> None:
    async with provider_at("http://127.0.0.1:1") as provider:
        assert await send(provider) == NotSent("ClientConnectorError ECONNREFUSED")


# --- nothing can be asked -------------------------------------------------------------------------------------------


async def test_nothing_is_asked_about_a_movement(zamtel: Zamtel, provider: ZamtelProvider) -> None:
    for kind in SPEC.operations:
        finding = await provider.find(kind, REFERENCE, within_s=1)
        assert finding == unknown("Zamtel Kwacha has no status query", outage=False)
    assert zamtel.seen == []


@pytest.mark.parametrize("status", [200, 302, 404, 500])
async def test_any_answer_of_the_host_passes_the_check(zamtel: Zamtel, provider: ZamtelProvider, status: int) -> None:
    zamtel.respond = answer(status)
    assert (await provider.check(within_s=5)).trouble is None
    [(method, path, query, _)] = zamtel.seen
    assert (method, path, query) == ("GET", "/ZampayRest/", {})


async def test_a_host_that_does_not_answer_fails_the_check(zamtel: Zamtel) -> None:
    zamtel.respond = zamtel.hang
    async with provider_at(zamtel.url) as provider:
        assert (await provider.check(within_s=0.2)).trouble == "Zamtel Kwacha cannot be reached: no answer in time."
    async with provider_at("http://127.0.0.1:1") as provider:
        told = (await provider.check(within_s=5)).trouble
    assert told == "Zamtel Kwacha cannot be reached: ClientConnectorError ECONNREFUSED."


async def test_nothing_that_comes_in_is_a_callback(provider: ZamtelProvider) -> None:
    body = json.dumps({"status": "0", "ConversationId": CONVERSATION_ID}).encode()
    callback = Callback("POST", "pay.example.com", "/x", (("x-signature-256", "sha256=00"),), body)
    assert await provider.verify(callback) is Authenticity.UNSIGNED
    with pytest.raises(Unreadable, match=r"^Zamtel Kwacha sends no callbacks\.$"):
        provider.read_callback(callback)


# --- the account ----------------------------------------------------------------------------------------------------


async def test_the_account_is_what_a_provider_is(zamtel: Zamtel) -> None:
    async with provider_at(zamtel.url) as adapter:
        provider: Provider = adapter
        assert provider.spec is SPEC
        assert provider.currencies == {"ZMW"}
        assert set(SPEC.operations) == {"collection", "payout"}
        for operation in SPEC.operations.values():
            assert (operation.dedupes, operation.status_query, operation.partial) == (False, "none", False)
        assert (SPEC.answer_within_s, SPEC.deadline_s, SPEC.status_reads_per_s) == (5, 120, None)


@pytest.mark.parametrize(
    ("url", "known"),
    [
        (SPEC.base_url, None),
        ("https://apps.zamtel.co.zm/ZampayRest/", None),
        ("http://127.0.0.1:8001/zamtel/ZampayRest", None),
        ("https://apps.zamtel.co.zm/ZampayRestProd", "live"),
        ("https://apps.zamtel.co.zm/zampayrestprod/ZampayRest", "live"),
    ],
)
def test_no_address_is_known_to_be_a_sandbox(url: str, known: str | None) -> None:
    assert SPEC.known_mode(url) == known


async def test_a_fingerprint_tells_where_an_account_points_and_no_more() -> None:
    async def fingerprint(**changes: Any) -> str:
        async with provider_at(changes.pop("base_url", "https://z.example.com"), **changes) as provider:
            return provider.fingerprint_of("collection")

    ours = await fingerprint()
    assert len(ours) == 16
    int(ours, 16)
    assert await fingerprint(base_url="https://z.example.com/") == ours
    assert await fingerprint(password="x", identifier="x", credential="x", callback_url="x") == ours
    for change in ("base_url", "shortcode", "third_party_id"):
        assert await fingerprint(**{change: "x"}) != ours


async def test_secrets_show_nowhere(zamtel: Zamtel, caplog: pytest.LogCaptureFixture) -> None:
    """They stand in every URL: not even the loggers of asyncio and aiohttp may see one."""
    asyncio.get_running_loop().set_debug(enabled=True)  # it tells much more then
    asyncio.get_running_loop().slow_callback_duration = 0
    caplog.set_level(logging.DEBUG)
    for name in ("aiohttp", "aiohttp.client", "aiohttp.internal", "asyncio", *logging.root.manager.loggerDict):
        caplog.set_level(logging.DEBUG, name)
    account = account_at(zamtel.url)
    provider = ZamtelProvider(account)
    told = [repr(account), str(account), repr(provider), provider.fingerprint_of("collection")]

    async def echo(request: web.Request) -> web.Response:
        return web.json_response({"status": request.query_string, "message": request.query_string})

    async def say_nonsense(request: web.Request) -> web.Response:
        assert request.transport is not None
        request.transport.write(b"HTTP/1.1 200 OK\r\n\x00: " + request.query_string.encode() + b"\r\n\r\n")
        return await drop(request)

    bad_redirect = answer(302, headers={"Location": "http://[/?x"})
    replies = (answer(200, SUCCESS), answer(200, {"status": "2006"}), answer(401), answer(500), bad_redirect, echo,
               say_nonsense, drop, zamtel.hang)  # fmt: skip
    for respond in replies:
        zamtel.respond = respond
        told += [repr(await send(provider, request, within_s=1)) for request in (COLLECTION, PAYOUT)]
    told.append(repr(await provider.send(COLLECTION, within_s=1, first_byte_before=0.0)))
    zamtel.respond = zamtel.hang
    told.append(repr(await provider.check(within_s=0.2)))
    await provider.close()
    told.append(repr(await send(provider)))
    async with provider_at("http://127.0.0.1:1") as nowhere:
        told += [repr(await send(nowhere)), repr(await nowhere.check(within_s=1))]
    seen_at_all = [record for record in caplog.records if record.name == "asyncio"]
    assert seen_at_all, "nothing was captured: this test proves nothing"
    told += [caplog.text, *(f"{record.__dict__}" for record in caplog.records)]
    assert [canary for canary in CANARIES if canary in "".join(told)] == []
