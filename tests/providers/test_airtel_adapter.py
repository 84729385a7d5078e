"""One account at Airtel over real HTTP: tokens, keys, second tries, and which outcome each mishap has."""

import asyncio
import base64
import hashlib
import hmac
import json
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from functools import cache
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from pydantic import SecretStr

from kobiri.config import ConfigurationError, Settings
from kobiri.domain.credential import wrong_with_pin
from kobiri.domain.ids import ProviderReference, new_provider_reference
from kobiri.domain.money import Money
from kobiri.domain.msisdn import Msisdn
from kobiri.domain.outcome import (
    Accepted,
    Declined,
    FailureCode,
    Finding,
    NotFound,
    NotSent,
    Outcome,
    Succeeded,
    Unknown,
)
from kobiri.providers import registry
from kobiri.providers.airtel import simulator
from kobiri.providers.airtel.adapter import SPEC, AirtelProvider
from kobiri.providers.base import Account, Authenticity, Callback, Collection, Payout, Provider, Refund
from kobiri.providers.tokens import RENEW_PAUSE_S
from kobiri.simulator.app import SimulatorSettings, build

DEADLINE_S = 10.0
REFERENCE = ProviderReference("8a3f0e52-6f43-4a0e-9a56-1d1f6f1a7a10")
ID = "8a3f0e526f434a0e9a561d1f6f1a7a10"
MONEY = Money(1_050, "ZMW")
PAYER = Msisdn("260971234567")
COLLECTION = Collection(REFERENCE, MONEY, PAYER, "airtel", "Order 7")
PAYOUT = Payout(REFERENCE, MONEY, PAYER, "airtel", "Wages")
REFUND = Refund(REFERENCE, MONEY, PAYER, "airtel", None, new_provider_reference(), "MP210603.1234.L06941")
REQUESTS = (COLLECTION, PAYOUT, REFUND)
CANARIES = ("canary-client", "canary-secret", "13579246", "canary-callback", "canary-webhook", "canary-token")

VALUES = {
    "client_id": "canary-client",
    "client_secret": "canary-secret",
    "country": "ZM",
    "collection_version": "v1",
    "payout_version": "v2",
    "refund_version": "v1",
    "pin": "13579246",
    "pin_padding": "pkcs1",
    "sign_messages": "off",
    "callback_key": "canary-callback",
}
INVALID_TOKEN = {"error": "invalid_token", "error_description": "The access token is invalid or has expired"}

Respond = Callable[[web.Request], Awaitable[web.Response]]


@cache
def private_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65_537, key_size=1024)  # noqa: S505  # Airtel's own size


def public_key() -> str:
    der = private_key().public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return base64.b64encode(der).decode()


def said(word: str, code: str, **transaction: object) -> dict[str, object]:
    return {
        "data": {"transaction": {"id": ID, "status": word, **transaction}},
        "status": {"code": "200", "response_code": code, "success": True},
    }


class Airtel:
    """Airtel as these tests need it: numbered tokens, and answers that a test may replace."""

    def __init__(self) -> None:
        self.url = ""
        self.leaving = asyncio.Event()
        self.seen: list[tuple[str, str, dict[str, str], bytes]] = []
        self.life: object = "180"
        self.key = public_key()
        self.on_token: Respond = self.give_token
        self.on_key: Respond = self.give_key
        self.on_money: Respond = answer(200, said("SUCCESS", "DP00800001006"))
        self.on_status: Respond = answer(200, said("TIP", "DP00800001006"))

    def calls(self, path: str) -> list[tuple[dict[str, str], bytes]]:
        return [(headers, body) for _, seen, headers, body in self.seen if seen.startswith(path)]

    @property
    def tokens(self) -> list[tuple[dict[str, str], bytes]]:
        return self.calls("/auth/")

    @property
    def keys(self) -> list[tuple[dict[str, str], bytes]]:
        return self.calls("/v1/rsa/")

    @property
    def money(self) -> list[tuple[dict[str, str], bytes]]:
        """The requests that may have moved money."""
        return [(h, b) for m, p, h, b in self.seen if m == "POST" and not p.startswith("/auth/")]

    async def give_token(self, _request: web.Request) -> web.Response:
        return web.json_response(
            {"access_token": f"canary-token-{len(self.tokens)}", "expires_in": self.life, "token_type": "bearer"}
        )

    async def give_key(self, _request: web.Request) -> web.Response:
        data = {"key_id": 100, "key": self.key, "valid_upto": "31-12-2999 00:00:00"}
        return web.json_response({"data": data, "status": {"response_code": "DP02010001001", "success": True}})

    async def hang(self, _request: web.Request) -> web.Response:
        await self.leaving.wait()
        return web.Response(status=503)

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        self.seen.append((request.method, request.path_qs, dict(request.headers), await request.read()))
        if request.path.startswith("/auth/"):
            return await self.on_token(request)  # type: ignore[arg-type]
        if request.path.startswith("/v1/rsa/"):
            return await self.on_key(request)  # type: ignore[arg-type]
        return await (self.on_money if request.method == "POST" else self.on_status)(request)  # type: ignore[arg-type]


def answer(status: int, content: object = None) -> Respond:
    async def respond(_request: web.Request) -> web.Response:
        return web.Response(status=status, body=b"" if content is None else json.dumps(content).encode())

    return respond


async def drop(request: web.Request) -> web.Response:
    assert request.transport is not None
    request.transport.close()
    return web.Response()


def refuse_token(number: int, status: int, otherwise: object) -> Respond:
    """Take any token but the one with this number."""

    async def respond(request: web.Request) -> web.Response:
        refused = request.headers["Authorization"] == f"Bearer canary-token-{number}"
        return await answer(status if refused else 200, INVALID_TOKEN if refused else otherwise)(request)

    return respond


@pytest.fixture
async def airtel() -> AsyncIterator[Airtel]:
    airtel = Airtel()
    runner = web.ServerRunner(web.Server(airtel, access_log=None), shutdown_timeout=1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0][:2]
    airtel.url = f"http://{host}:{port}"
    yield airtel
    airtel.leaving.set()
    await runner.cleanup()


def account_at(url: str, **changes: Any) -> Account:
    """Changes of values (None leaves one out) and of the account's own fields, by their names."""
    named = {field.name for field in SPEC.fields}
    values = VALUES | {name: changes.pop(name) for name in list(changes) if name in named}
    account = Account(
        base_url=url,
        modes=frozenset({"test"}),
        values={name: value for name, value in values.items() if value is not None},
        callback_url=None,
        webhook_secrets=(b"canary-webhook",),
        answer_within_s=8.0,
        deadline_s=8.0,
        max_connections=50,
    )
    return replace(account, **changes)


class Clock:
    now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@asynccontextmanager
async def provider_at(url: str, clock: Clock | None = None, **changes: Any) -> AsyncIterator[AirtelProvider]:
    account = account_at(url, **changes)
    provider = AirtelProvider(account, clock=clock) if clock else AirtelProvider(account)
    try:
        yield provider
    finally:
        await provider.close()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def provider(airtel: Airtel, clock: Clock) -> AsyncIterator[AirtelProvider]:
    async with provider_at(airtel.url, clock) as provider:
        yield provider


async def send(provider: AirtelProvider, request: Collection | Payout | Refund = COLLECTION) -> Outcome:
    return await provider.send(request, within_s=provider.account.answer_within_s, first_byte_before=None)


async def find(provider: AirtelProvider, kind: Any = "collection") -> Finding:
    return await provider.find(kind, REFERENCE, within_s=provider.account.answer_within_s)


# --- what travels ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["v1", "v2"])
async def test_a_collection_travels_as_airtel_wants_it(airtel: Airtel, version: str) -> None:
    async with provider_at(airtel.url + "/", collection_version=version) as provider:
        assert await send(provider) == Accepted()
    [(method, path, headers, body)] = airtel.seen[1:]
    assert (method, path) == ("POST", f"/merchant/{version}/payments/")
    assert headers["Authorization"] == "Bearer canary-token-1"
    assert (headers["X-Country"], headers["X-Currency"]) == ("ZM", "ZMW")
    assert headers["Content-Type"] == "application/json"
    assert "x-signature" not in headers
    assert json.loads(body)["transaction"]["id"] == ID
    assert b'"amount":10.50' in body
    assert json.loads(body)["subscriber"]["msisdn"] == "971234567"


async def test_a_token_is_asked_for_as_json(airtel: Airtel, provider: AirtelProvider) -> None:
    await send(provider)
    [(headers, body)] = airtel.tokens
    assert headers["Content-Type"] == "application/json"
    assert json.loads(body) == {
        "client_id": "canary-client",
        "client_secret": "canary-secret",
        "grant_type": "client_credentials",
    }


async def test_a_payout_carries_the_pin_for_airtel_alone(airtel: Airtel, provider: AirtelProvider) -> None:
    airtel.on_money = answer(200, said("TS", "DP00900001001", airtel_money_id="CI1"))
    assert await send(provider, PAYOUT) == Succeeded("CI1")
    [(_, body)] = airtel.calls("/standard/v2/disbursements/")
    sealed = base64.b64decode(json.loads(body)["pin"])
    assert private_key().decrypt(sealed, padding.PKCS1v15()) == b"13579246"
    [(headers, _)] = airtel.keys
    assert (headers["X-Country"], headers["X-Currency"]) == ("ZM", "ZMW")


async def test_a_key_is_fetched_once_until_it_is_doubted(
    airtel: Airtel, provider: AirtelProvider, clock: Clock
) -> None:
    for _ in range(3):
        await send(provider, PAYOUT)
    assert len(airtel.keys) == 1
    airtel.on_money = answer(200, {"status": {"response_code": "DP00900001013", "message": "Incorrect Encrypted Pin"}})
    declined = Declined(FailureCode.PROVIDER_REJECTED, "DP00900001013")
    assert await send(provider, PAYOUT) == declined
    assert await send(provider, PAYOUT) == declined  # with a key fetched anew: the old one may have been the reason
    assert len(airtel.keys) == 2
    clock.now_s += 86_400
    await send(provider, PAYOUT)
    assert len(airtel.keys) == 3


async def test_a_key_of_the_account_is_never_fetched(airtel: Airtel) -> None:
    airtel.key = "nonsense"
    async with provider_at(airtel.url, public_key=public_key()) as provider:
        assert await send(provider, PAYOUT) == Accepted()
        assert (await provider.check(within_s=5)).trouble is None
    assert airtel.keys == []


@pytest.mark.parametrize("request_", REQUESTS)
async def test_the_bytes_that_are_signed_are_the_bytes_that_are_sent(
    airtel: Airtel, request_: Collection | Payout | Refund
) -> None:
    async with provider_at(airtel.url, sign_messages="on") as provider:
        await send(provider, request_)
    [(headers, body)] = airtel.money
    secret = private_key().decrypt(base64.b64decode(headers["x-key"]), padding.PKCS1v15())
    key, iv = (base64.b64decode(part) for part in secret.split(b":"))
    decryptor = Cipher(algorithms.AES(key), modes.CBC(iv)).decryptor()
    signed = decryptor.update(base64.b64decode(headers["x-signature"]))
    assert signed[: -signed[-1]] == body


async def test_a_refund_names_airtels_own_id_and_no_amount(airtel: Airtel, provider: AirtelProvider) -> None:
    airtel.on_money = answer(200, said("SUCCESS", "DP00800001006", airtel_money_id="R1"))
    assert await send(provider, REFUND) == Succeeded("R1")
    [(_, body)] = airtel.calls("/standard/v1/payments/refund")
    assert json.loads(body) == {"transaction": {"airtel_money_id": "MP210603.1234.L06941"}}


async def test_what_airtel_never_named_is_not_refunded(airtel: Airtel, provider: AirtelProvider) -> None:
    refund = replace(REFUND, collection_transaction_id=None)
    assert await send(provider, refund) == Declined(FailureCode.PROVIDER_REJECTED)
    assert airtel.seen == []


# --- outcomes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("request_", REQUESTS)
async def test_a_dropped_request_is_unknown_and_not_repeated(
    airtel: Airtel, provider: AirtelProvider, request_: Collection | Payout | Refund
) -> None:
    airtel.on_money = drop
    outcome = await send(provider, request_)
    askable = not isinstance(request_, Refund)
    assert outcome == Unknown("the connection was closed without an answer", askable=askable)
    assert len(airtel.money) == 1


async def test_no_answer_in_time_is_unknown(airtel: Airtel) -> None:
    airtel.on_money = airtel.on_status = airtel.hang
    async with provider_at(airtel.url, answer_within_s=1) as provider:
        assert await send(provider) == Unknown("no answer in time")
        assert await find(provider) == Unknown("no answer in time")
    assert len(airtel.money) == 1


async def test_nobody_there_is_not_sent() -> None:
    async with provider_at("http://127.0.0.1:1") as provider:
        for request in REQUESTS:
            assert await send(provider, request) == NotSent("no token: ClientConnectorError ECONNREFUSED")
        assert await find(provider) == Unknown("no token: ClientConnectorError ECONNREFUSED", asked=False)


async def test_a_late_first_byte_never_leaves(airtel: Airtel, provider: AirtelProvider) -> None:
    for request in REQUESTS:
        outcome = await provider.send(request, within_s=5, first_byte_before=time.monotonic() - 1)
        assert outcome == NotSent("it was held up for too long", outage=False)
    assert airtel.money == []


async def test_an_answer_may_ask_for_rest(airtel: Airtel, provider: AirtelProvider) -> None:
    async def busy(_request: web.Request) -> web.Response:
        return web.Response(status=429, headers={"Retry-After": "7"})

    airtel.on_money = airtel.on_status = busy
    assert await send(provider) == Unknown("HTTP 429", outage=False, retry_after_s=7)
    assert await find(provider) == Unknown("HTTP 429", outage=False, retry_after_s=7)
    assert await send(provider, REFUND) == Unknown("HTTP 429", outage=False, retry_after_s=7, askable=False)


@pytest.mark.parametrize(
    ("on_key", "reason", "refused"),
    [
        (answer(200, {"status": {"response_code": "DP02010001000"}}), "HTTP 200 DP02010001000", False),
        (answer(503), "HTTP 503", False),
        (drop, "the connection was closed without an answer", False),
        (answer(401), "a fresh token was refused", True),
    ],
)
async def test_without_a_key_nothing_that_needs_it_is_sent(
    airtel: Airtel, provider: AirtelProvider, on_key: Respond, reason: str, refused: bool
) -> None:
    airtel.on_key = on_key
    assert await send(provider, PAYOUT) == NotSent(f"no encryption key: {reason}", outage=not refused, refused=refused)
    assert airtel.money == []
    assert await send(provider) == Accepted()


@pytest.mark.parametrize("changes", [{"public_key": "nonsense"}, {"sign_messages": "on", "pin_padding": "oaep-sha256"}])
async def test_a_key_that_cannot_be_used_sends_nothing(airtel: Airtel, changes: dict[str, Any]) -> None:
    async with provider_at(airtel.url, **changes) as provider:
        outcome = await send(provider, PAYOUT)
        told = (await provider.check(within_s=5)).trouble
    assert isinstance(outcome, NotSent)
    assert not outcome.outage
    assert told == outcome.reason
    assert told.startswith("The encryption key is ")
    assert airtel.money == []


async def test_an_account_without_a_pin_pays_nobody_out(airtel: Airtel) -> None:
    async with provider_at(airtel.url, pin=None) as provider:
        assert await send(provider, PAYOUT) == NotSent("this account has no PIN for payouts", outage=False)
        assert (await provider.check(within_s=5)).trouble is None
    assert airtel.money == airtel.keys == []


# --- finding out ----------------------------------------------------------------------------------------------------


async def test_a_success_is_found_without_an_amount(airtel: Airtel, provider: AirtelProvider) -> None:
    airtel.on_status = answer(200, said("TS", "DP00800001001", airtel_money_id="MP1"))
    assert await find(provider) == Succeeded("MP1", money=None, payer=None)
    assert airtel.seen[-1][:2] == ("GET", f"/standard/v1/payments/{ID}")
    airtel.on_status = answer(200, said("TS", "DP00900001001", airtel_money_id="CI1"))
    assert await find(provider, "payout") == Succeeded("CI1", money=None, payer=None)
    assert airtel.seen[-1][:2] == ("GET", f"/standard/v2/disbursements/{ID}?transactionType=B2C")


async def test_nobody_can_be_asked_about_a_refund(airtel: Airtel, provider: AirtelProvider) -> None:
    finding = await find(provider, "refund")
    assert isinstance(finding, Unknown)
    assert not finding.askable
    assert airtel.seen == []


# --- tokens ---------------------------------------------------------------------------------------------------------


async def test_one_token_and_one_key_serve_all_who_wait(airtel: Airtel, provider: AirtelProvider) -> None:
    outcomes = await asyncio.gather(*(send(provider, PAYOUT) for _ in range(20)))
    assert outcomes == [Accepted()] * 20
    assert len(airtel.tokens) == len(airtel.keys) == 1


async def test_a_cancelled_caller_does_not_take_the_token_from_the_others(
    airtel: Airtel, provider: AirtelProvider
) -> None:
    asked, let_go = asyncio.Event(), asyncio.Event()

    async def slow(request: web.Request) -> web.Response:
        asked.set()
        await let_go.wait()
        return await airtel.give_token(request)

    airtel.on_token = slow
    first = asyncio.create_task(send(provider))
    second = asyncio.create_task(send(provider))
    await asked.wait()
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    let_go.set()
    assert await second == Accepted()
    assert len(airtel.tokens) == len(airtel.money) == 1


@pytest.mark.parametrize(("life", "renewed_after_s"), [("180", 150), (170, 140), (40, 20), ("soon", 30)])
async def test_a_token_is_renewed_behind_the_scenes_before_it_ends(
    airtel: Airtel, provider: AirtelProvider, clock: Clock, life: object, renewed_after_s: float
) -> None:
    airtel.life = life
    await send(provider)
    clock.now_s += renewed_after_s - 1
    await send(provider)
    assert len(airtel.tokens) == 1
    clock.now_s += 1
    assert await send(provider) == Accepted()  # with the old one, while the new one is fetched
    assert airtel.money[-1][0]["Authorization"] == "Bearer canary-token-1"
    while airtel.money[-1][0]["Authorization"] == "Bearer canary-token-1":
        await send(provider)
    assert len(airtel.tokens) == 2


async def test_renewal_is_not_hammered(airtel: Airtel, provider: AirtelProvider, clock: Clock) -> None:
    await send(provider)
    clock.now_s += 150
    airtel.on_token = answer(503)
    for _ in range(10):
        assert await send(provider) == Accepted()
    assert len(airtel.tokens) == 2
    clock.now_s += RENEW_PAUSE_S
    while len(airtel.tokens) < 3:
        assert await send(provider) == Accepted()


async def test_an_ended_token_is_not_used(airtel: Airtel, provider: AirtelProvider, clock: Clock) -> None:
    await send(provider)
    clock.now_s += 180
    await send(provider)
    assert [h["Authorization"] for h, _ in airtel.money] == ["Bearer canary-token-1", "Bearer canary-token-2"]


@pytest.mark.parametrize("status", [401, 403])
@pytest.mark.parametrize("request_", [request for request in REQUESTS if not isinstance(request, Refund)])
async def test_a_refused_token_is_replaced_once_and_the_same_bytes_are_sent_again(
    airtel: Airtel, provider: AirtelProvider, status: int, request_: Collection | Payout
) -> None:
    airtel.on_money = refuse_token(1, status, said("SUCCESS", "DP00800001006"))
    assert await send(provider, request_) == Accepted()
    (_, first), (_, second) = airtel.money
    assert first == second
    assert len(airtel.tokens) == 2


async def test_many_refusals_of_one_token_fetch_one_other(airtel: Airtel, provider: AirtelProvider) -> None:
    airtel.on_money = refuse_token(1, 403, said("SUCCESS", "DP00800001006"))
    assert await asyncio.gather(*(send(provider) for _ in range(20))) == [Accepted()] * 20
    assert len(airtel.tokens) == 2


async def test_a_question_survives_a_refused_token(airtel: Airtel, provider: AirtelProvider) -> None:
    airtel.on_status = refuse_token(1, 403, {"status": {"response_code": "DP00800001025"}})
    assert await find(provider) == NotFound(firm=False)


@pytest.mark.parametrize("status", [401, 403])
async def test_a_refused_fresh_token_is_unknown(airtel: Airtel, provider: AirtelProvider, status: int) -> None:
    airtel.on_money = answer(status, INVALID_TOKEN)
    assert await send(provider) == Unknown("a fresh token was refused", outage=False, refused=True)
    assert len(airtel.money) == 2


@pytest.mark.parametrize("status", [401, 403])
async def test_a_refund_leaves_once_even_when_the_token_is_refused(
    airtel: Airtel, provider: AirtelProvider, status: int
) -> None:
    airtel.on_money = refuse_token(1, status, said("SUCCESS", "DP00800001006"))
    assert await send(provider, REFUND) == Unknown("the token was refused", outage=False, askable=False)
    assert len(airtel.money) == 1
    assert await send(provider, REFUND) == Succeeded(None)  # the next one has a fresh token
    assert (len(airtel.money), len(airtel.tokens)) == (2, 2)


async def test_another_403_is_not_about_the_token(airtel: Airtel, provider: AirtelProvider) -> None:
    airtel.on_money = answer(403, {"error": "IP address not allowed: 192.0.2.7"})
    assert await send(provider) == Unknown("HTTP 403", outage=False, refused=True)
    assert len(airtel.money) == len(airtel.tokens) == 1


async def test_without_a_token_nothing_is_sent(airtel: Airtel, provider: AirtelProvider) -> None:
    airtel.on_token = answer(400, {"error": "invalid_client"})
    assert await send(provider) == NotSent("no token: HTTP 400 invalid_client", outage=False, refused=True)
    assert await find(provider) == Unknown("no token: HTTP 400 invalid_client", outage=False, refused=True, asked=False)
    assert (await provider.check(within_s=5)).trouble == "no token: HTTP 400 invalid_client"
    assert len(airtel.seen) == len(airtel.tokens) == 3


async def test_a_late_token_is_not_sent_and_serves_the_next(airtel: Airtel) -> None:
    let_go = asyncio.Event()

    async def slow(request: web.Request) -> web.Response:
        await let_go.wait()
        return await airtel.give_token(request)

    airtel.on_token = slow
    async with provider_at(airtel.url, answer_within_s=0.2) as provider:
        assert await send(provider) == NotSent("no token in time")
        assert await send(provider, PAYOUT) == NotSent("no encryption key in time")
        let_go.set()
        while isinstance(await send(provider), NotSent):
            pass
    assert len(airtel.tokens) == len(airtel.money) == 1


async def test_closing_ends_a_fetch_that_hangs(airtel: Airtel) -> None:
    asked = asyncio.Event()

    async def never(request: web.Request) -> web.Response:
        asked.set()
        return await airtel.hang(request)

    airtel.on_key = never
    provider = AirtelProvider(account_at(airtel.url))
    waiting = asyncio.create_task(send(provider, PAYOUT))
    await asked.wait()
    await provider.close()
    assert await waiting == NotSent("no encryption key in time")


# --- the account ----------------------------------------------------------------------------------------------------


async def test_the_account_is_what_a_provider_is(airtel: Airtel) -> None:
    async with provider_at(airtel.url) as adapter:
        provider: Provider = adapter
        assert provider.spec is SPEC
        assert provider.currencies == {"ZMW"}
        assert (await provider.check(within_s=5)).trouble is None
    assert not SPEC.operations["refund"].dedupes
    assert SPEC.operations["refund"].status_query == "none"
    for kind in ("collection", "payout"):
        assert SPEC.operations[kind].dedupes
        assert not SPEC.operations[kind].repeats, "nobody promises that it holds while the first request is open"
        assert SPEC.operations[kind].status_query == "soft"
    assert SPEC.known_mode("https://openapiuat.airtel.co.zm") == "test"
    assert SPEC.known_mode("https://openapiuat.airtel.africa:443") == "test"
    assert SPEC.known_mode("https://openapi.airtel.co.zm/uat") == "live"
    assert SPEC.known_mode("https://uat.example.com") is None


def test_the_platforms_account_comes_from_the_environment() -> None:
    settings = Settings(
        airtel_client_id="canary-client",
        airtel_client_secret=SecretStr("canary-secret"),
        airtel_pin=SecretStr("13579246"),
        airtel_base_url="https://openapi.airtel.co.zm",
        public_base_url="https://pay.example.com",
    )
    assert registry.platform_account(Settings(airtel_client_id="canary-client"), SPEC) is None
    account = registry.platform_account(settings, SPEC)
    assert account is not None
    assert account.modes == {"live"}
    assert (account.answer_within_s, account.deadline_s) == (8, 8)
    assert account.callback_url == "https://pay.example.com/api/v1/webhooks/airtel"
    assert account.values == {
        "client_id": "canary-client",
        "client_secret": "canary-secret",
        "pin": "13579246",
        "country": "ZM",
        "collection_version": "v1",
        "payout_version": "v2",
        "refund_version": "v1",
        "pin_padding": "pkcs1",
        "sign_messages": "off",
    }
    assert {f"airtel_{field.name}" for field in SPEC.fields} <= set(Settings.model_fields)


NO_PINS = [
    "12ab",
    "\uff11\uff12\uff13\uff14",
    "\u0661\u0662\u0663\u0664",
    "123",
    "123456789",
    "12 34",
    "-123",
    "+1234",
    "1234.0",
]


@pytest.mark.parametrize("pin", NO_PINS)
async def test_what_can_be_no_pin_is_neither_taken_nor_sent(airtel: Airtel, pin: str) -> None:
    """A few wrong PINs may block a wallet. An account that has such a one already goes on collecting."""
    with pytest.raises(ConfigurationError, match=r"^AIRTEL_PIN: must be 4 to 8 digits") as refused:
        registry.platform_account(Settings(airtel_pin=SecretStr(pin)), SPEC)
    assert pin not in str(refused.value)
    async with provider_at(airtel.url, pin=pin) as provider:
        assert isinstance(await send(provider, PAYOUT), NotSent)
        assert airtel.calls("/standard/v2/disbursements/") == []
        assert await send(provider) == Accepted()
        assert (await provider.check("collection", within_s=5)).trouble is None
        for kind in (None, "payout"):
            checked = await provider.check(kind, within_s=5)
            assert (checked.trouble or "").startswith("pin must be 4 to 8 digits")
            assert pin not in repr(checked)


@pytest.mark.parametrize("pin", ["0000", "13579246"])
def test_a_pin_is_four_to_eight_digits(pin: str) -> None:
    assert wrong_with_pin(pin) is None


async def test_an_older_environment_means_what_it_meant() -> None:
    """AIRTEL_PUBLIC_KEY and AIRTEL_PIN_PADDING served PIN and signature, and nothing was added to them."""
    settings = Settings(
        airtel_client_id="canary-client",
        airtel_client_secret=SecretStr("canary-secret"),
        airtel_pin=SecretStr("13579246"),
        airtel_public_key=public_key(),
        airtel_pin_padding="oaep-sha1",
    )
    account = registry.platform_account(settings, SPEC)
    assert account is not None
    provider = AirtelProvider(account)
    for use in ("pin", "sign"):
        assert (provider._key_name(use), provider._padding(use)) == ("public_key", "oaep-sha1")
    await provider.close()


async def test_a_check_asks_for_a_key_where_one_is_needed(airtel: Airtel) -> None:
    async with provider_at(airtel.url, pin=None, sign_messages="on") as provider:
        assert (await provider.check(within_s=5)).trouble is None
        assert (await provider.check(within_s=5)).trouble is None
        assert (len(airtel.tokens), len(airtel.keys)) == (2, 2)  # each time afresh
        airtel.on_key = answer(503)
        assert (await provider.check(within_s=5)).trouble == "no encryption key: HTTP 503"


async def test_what_only_payouts_need_is_no_matter_of_the_others(airtel: Airtel, provider: AirtelProvider) -> None:
    airtel.on_key = answer(503)
    assert (await provider.check("payout", within_s=5)).trouble == "no encryption key: HTTP 503"
    assert (await provider.check(within_s=5)).trouble == "no encryption key: HTTP 503"
    assert (await provider.check("collection", within_s=5)).trouble is None
    assert (await provider.check("refund", within_s=5)).trouble is None


async def test_callbacks_are_verified_where_there_is_a_key(airtel: Airtel) -> None:
    transaction = json.dumps({"id": ID, "message": "Paid.", "status_code": "TS", "airtel_money_id": "MP1"})
    right = base64.b64encode(hmac.new(b"canary-callback", transaction.encode(), hashlib.sha256).digest()).decode()

    def posted(told: str = "") -> Callback:
        return Callback("POST", "pay.example.com", "/x", (), f'{{"transaction": {transaction}{told}}}'.encode())

    async with provider_at(airtel.url) as provider:
        assert await provider.verify(posted(f', "hash": "{right}"')) is Authenticity.GENUINE
        assert await provider.verify(posted(f', "hash": "{right[::-1]}"')) is Authenticity.FORGED
        assert await provider.verify(posted()) is Authenticity.FORGED
        word = provider.read_callback(posted())
        assert (word.reference, word.finding, word.money) == (REFERENCE, Succeeded("MP1"), None)
    async with provider_at(airtel.url, callback_key=None) as provider:
        assert await provider.verify(posted(f', "hash": "{right}"')) is Authenticity.UNSIGNED
        assert await provider.verify(posted()) is Authenticity.UNSIGNED


async def test_a_fingerprint_tells_where_an_account_points_and_no_more() -> None:
    async def fingerprint(**changes: Any) -> str:
        provider = AirtelProvider(account_at(changes.pop("base_url", "https://airtel.example.com"), **changes))
        await provider.close()
        return provider.fingerprint_of("collection")

    ours = await fingerprint()
    assert len(ours) == 16
    assert await fingerprint(base_url="https://airtel.example.com/") == ours
    assert await fingerprint(client_secret="x", pin="x", callback_key="x", callback_url="x") == ours
    for change in ("base_url", "client_id"):
        assert await fingerprint(**{change: "x"}) != ours


async def test_one_version_of_payouts_is_not_asked_about_another() -> None:
    """Whether v3 knows what v2 has paid nobody has written down: its not-found would prove nothing."""
    told = {}
    for version in ("v2", "v3"):
        async with provider_at("https://airtel.example.com", payout_version=version) as provider:
            told[version] = [provider.fingerprint_of(kind) for kind in SPEC.operations]
    assert len({*told["v2"]}) == 1  # as it was before there was a choice: what is open then is followed
    assert [a == b for a, b in zip(told["v2"], told["v3"], strict=True)] == [True, False, True]


async def test_secrets_show_nowhere(airtel: Airtel, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    account = account_at(airtel.url, sign_messages="on")
    provider = AirtelProvider(account)
    told = [repr(account), str(account), repr(provider)]
    for mishap in (airtel.on_money, answer(401), answer(500, said("TF", "X")), answer(403, INVALID_TOKEN), drop):
        airtel.on_money = airtel.on_status = mishap
        told += [repr(await send(provider, request)) for request in REQUESTS]
        told += [repr(await find(provider, kind)) for kind in ("collection", "payout", "refund")]
        told.append(repr(await provider.check(within_s=5)))
    told += [repr(provider._tokens._current), repr(provider._keys._current)]
    airtel.key = public_key()[:-8]
    told.append(repr(await provider.check(within_s=5)))
    await provider.close()
    told += [repr(await send(provider)), caplog.text]
    assert [canary for canary in (*CANARIES, str(PAYER)) if canary in "".join(told)] == []


# --- at the simulator -----------------------------------------------------------------------------------------------


class Simulated:
    """Airtel's simulator, its control API, and accounts at it."""

    def __init__(self, url: str, http: aiohttp.ClientSession, stack: AsyncExitStack) -> None:
        self._url, self._http, self._stack = url, http, stack

    async def provider(self, **changes: Any) -> AirtelProvider:
        values = {"callback_key": None, **simulator.ACCOUNT_VALUES, **changes}
        return await self._stack.enter_async_context(provider_at(f"{self._url}/airtel", **values))

    async def fault(self, kind: str, **parameters: Any) -> None:
        async with self._http.post(
            f"{self._url}/_sim/faults", json={"kind": kind, "provider": "airtel", **parameters}
        ) as done:
            assert done.status == 201

    async def charged(self, reference: str) -> int:
        async with self._http.get(f"{self._url}/_sim/books", params={"reference": reference}) as books:
            return sum(one["charged"] for one in (await books.json())["movements"])


StartSimulator = Callable[..., Awaitable[Simulated]]


@pytest.fixture
async def simulate() -> AsyncIterator[StartSimulator]:
    async with AsyncExitStack() as stack:

        async def start(**options: Any) -> Simulated:
            settings = SimulatorSettings(providers={"airtel": {"prompt_ms": 20, **options}})
            app = build({"airtel": simulator.build}, settings=settings)
            runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
            await runner.setup()
            stack.push_async_callback(runner.cleanup)
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            http = await stack.enter_async_context(aiohttp.ClientSession())
            return Simulated(f"http://127.0.0.1:{runner.addresses[0][1]}", http, stack)

        yield start


def fresh(request: Any, **changes: Any) -> Any:
    return replace(request, reference=new_provider_reference(), **changes)


async def settled(provider: AirtelProvider, kind: Any, reference: ProviderReference) -> Finding:
    ends = time.monotonic() + DEADLINE_S
    while isinstance(found := await provider.find(kind, reference, within_s=5), Accepted):
        assert time.monotonic() < ends
        await asyncio.sleep(0.01)
    return found


@pytest.mark.parametrize("dialect", [name for name in simulator.DIALECTS if name.startswith(("usual", "strangest"))])
async def test_money_comes_goes_and_goes_back_once(simulate: StartSimulator, dialect: str) -> None:
    spoken = simulator.DIALECTS[dialect]  # every other one: test_conformance.py
    sim = await simulate(**spoken.options)
    provider = await sim.provider(**spoken.values)
    assert (await provider.check(within_s=5)).trouble is None

    collection = fresh(COLLECTION)
    assert await send(provider, collection) == Accepted()
    assert await send(provider, collection) == Accepted()  # a duplicate, whose outcome is asked for
    found = await settled(provider, "collection", collection.reference)
    assert isinstance(found, Succeeded)
    assert found.provider_transaction_id

    payout = fresh(PAYOUT)
    assert isinstance(await send(provider, payout), Accepted | Succeeded)  # a code that nobody listed is asked about
    assert await send(provider, payout) == Accepted()
    assert isinstance(await settled(provider, "payout", payout.reference), Succeeded)

    refund = fresh(REFUND, collection_transaction_id=found.provider_transaction_id)
    refunded = await send(provider, refund)
    assert isinstance(refunded, Succeeded)
    repeats = spoken.options.get("refund_number") == "asked"
    assert (refunded.provider_transaction_id == found.provider_transaction_id) == repeats
    assert isinstance(await send(provider, refund), Declined)

    for moved in (collection.reference.replace("-", ""), payout.reference.replace("-", ""),
                  found.provider_transaction_id):  # fmt: skip
        assert await sim.charged(moved) == 1


@pytest.mark.parametrize(
    ("digits", "finding"),
    [
        ("402", Declined(FailureCode.PAYER_DECLINED, "DP00800001002")),
        ("403", Declined(FailureCode.PAYER_LIMIT_REACHED, "DP00800001003")),
        ("407", Declined(FailureCode.INSUFFICIENT_FUNDS, "DP00800001007")),
        ("415", Declined(FailureCode.PAYER_TIMEOUT, "DP00800001005")),
        ("424", Declined(FailureCode.PAYER_TIMEOUT, "DP00800001024")),
        ("429", Declined(FailureCode.PAYER_TIMEOUT, "DP00800001029")),
        ("400", Unknown("HTTP 200 TA DP00800001000", outage=False)),
    ],
)
async def test_numbers_that_fail_tell_why(simulate: StartSimulator, digits: str, finding: Finding) -> None:
    sim = await simulate()
    provider = await sim.provider()
    collection = fresh(COLLECTION, payer=Msisdn(f"260970000{digits}"))
    assert await send(provider, collection) == Accepted()
    assert await settled(provider, "collection", collection.reference) == finding
    assert await sim.charged(collection.reference.replace("-", "")) == 0


@pytest.mark.parametrize(
    ("options", "values", "code"),
    [
        ({"pin_key": "static"}, {}, "DP00900001013"),  # the fetched key is another one
        ({}, {"pin_key": simulator.STATIC_PIN_KEY}, "DP00900001013"),
        ({"pin_padding": "oaep-sha256-mgf1-sha1"}, {"pin_padding": "oaep-sha256"}, "DP00900001013"),
        ({"sign_padding": "oaep-sha1"}, {"sign_messages": "on"}, "DP00900001016"),
        ({}, {"sign_key": simulator.STATIC_PIN_KEY, "sign_messages": "on"}, "DP00900001016"),
    ],
)
async def test_a_key_or_padding_of_the_other_use_moves_nothing(
    simulate: StartSimulator, options: dict[str, Any], values: dict[str, str], code: str
) -> None:
    sim = await simulate(**options)
    payout = fresh(PAYOUT)
    assert await send(await sim.provider(**values), payout) == Declined(FailureCode.PROVIDER_REJECTED, code)
    assert await sim.charged(payout.reference.replace("-", "")) == 0


@pytest.mark.parametrize("padding", ["pkcs1", "oaep-sha1"])
async def test_an_older_account_seals_as_it_did(simulate: StartSimulator, padding: str) -> None:
    """Before pin_key and sign_key there was one key, public_key, and one padding, pin_padding, for both uses."""
    sim = await simulate(pin_padding=padding, signing="required")
    fetched = await (await sim.provider())._key("pin", 5)
    assert not isinstance(fetched, NotSent)
    der = fetched.value.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    older = {"public_key": base64.b64encode(der).decode(), "pin_padding": padding, "sign_messages": "on"}
    provider = await sim.provider(**older)
    assert isinstance(await send(provider, fresh(PAYOUT)), Succeeded)
    assert await send(provider, fresh(COLLECTION)) == Accepted()
    assert provider._keys._current is None  # nothing was fetched
    facts = (await provider.check(within_s=5)).facts
    assert [facts[name].split(" (")[0] for name in ("pin_key", "sign_key")] == ["public_key", "public_key"]
    assert (facts["pin_padding"], facts["sign_padding"]) == (padding, padding)


async def test_a_check_tells_which_keys_and_versions_serve(airtel: Airtel) -> None:
    async with provider_at(airtel.url, payout_version="v3", sign_padding="oaep-sha1") as provider:
        facts = (await provider.check(within_s=5)).facts
    assert (facts["collection_version"], facts["payout_version"], facts["refund_version"]) == ("v1", "v3", "v1")
    assert facts["pin_key"].startswith("fetched from Airtel (1024 bits, SHA-256 ")
    assert facts["pin_key"].endswith("set pin_key")
    assert (facts["pin_padding"], facts["sign_padding"]) == ("pkcs1", "oaep-sha1")
    assert (facts["token"], facts["encryption_keys"]) == ("HTTP 200", "HTTP 200: DP02010001001")
    echo = {"error": "forbidden", "error_description": "IP 192.0.2.7, canary-secret, 260971234567"}
    airtel.on_token = answer(403, echo)
    async with provider_at(airtel.url) as provider:
        checked = await provider.check(within_s=5)
    assert checked.trouble == "no token: HTTP 403"
    assert checked.facts["token"] == "HTTP 403: forbidden, IP 192.0.2.7, …, …"
    assert checked.facts["sign_key"] == "not used"


@pytest.mark.parametrize(("own", "fetches"), [({}, 2), ({"pin_key": public_key()}, 0)])
async def test_a_refusal_that_doubts_the_key_forgets_a_fetched_one_alone(
    airtel: Airtel, own: dict[str, Any], fetches: int
) -> None:
    airtel.on_money = answer(200, {"status": {"response_code": "DP00900001013"}})
    async with provider_at(airtel.url, **own) as provider:
        for _ in range(2):
            assert isinstance(await send(provider, PAYOUT), Declined)
    assert len(airtel.keys) == fetches


async def test_a_wrong_pin_or_signature_is_declined_and_moves_nothing(simulate: StartSimulator) -> None:
    sim = await simulate(signing="required")
    wrong_pin = await sim.provider(pin="0000", sign_messages="on")
    unsigned = await sim.provider()
    payout = fresh(PAYOUT)
    assert await send(wrong_pin, payout) == Declined(FailureCode.PROVIDER_REJECTED, "DP00900001013")
    assert await send(unsigned, payout) == Declined(FailureCode.PROVIDER_REJECTED, "DP00900001016")
    assert await send(unsigned, fresh(COLLECTION)) == Declined(FailureCode.PROVIDER_REJECTED, "DP00800001026")
    assert await sim.charged(payout.reference.replace("-", "")) == 0


async def test_an_expired_token_goes_unnoticed(simulate: StartSimulator) -> None:
    sim = await simulate(token_ttl_s=1)
    provider = await sim.provider()
    provider._tokens._clock = lambda: 0.0  # a clock that stands: the token looks fresh for ever
    assert await send(provider, fresh(COLLECTION)) == Accepted()
    first = provider._tokens._current
    ends = time.monotonic() + DEADLINE_S
    while provider._tokens._current is first:
        assert await send(provider, fresh(COLLECTION)) == Accepted()
        assert time.monotonic() < ends


@pytest.mark.parametrize("kind", ["collection", "payout"])
async def test_an_answer_lost_after_it_was_done_is_found(simulate: StartSimulator, kind: str) -> None:
    sim = await simulate()
    provider = await sim.provider()
    request = fresh(COLLECTION if kind == "collection" else PAYOUT)
    await sim.fault("drop_after", operation="create" if kind == "collection" else "payout", times=1)
    assert isinstance(await send(provider, request), Unknown)
    assert isinstance(await settled(provider, kind, request.reference), Succeeded)
    assert await sim.charged(request.reference.replace("-", "")) == 1


async def test_what_never_arrived_is_softly_not_found(simulate: StartSimulator) -> None:
    provider = await (await simulate()).provider()
    for kind in SPEC.operations.keys() - {"refund"}:
        assert await provider.find(kind, REFERENCE, within_s=5) == NotFound(firm=False)
