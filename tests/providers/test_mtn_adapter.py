"""One account at MTN over real HTTP: tokens, second tries, and which outcome each mishap has."""

import asyncio
import json
import logging
from base64 import b64encode
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
from aiohttp import web

from kobiri.domain.ids import ProviderReference
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
from kobiri.domain.payment import Kind
from kobiri.providers.base import Account, Callback, Collection, Payout, Provider, Refund, Request
from kobiri.providers.mtn.adapter import COUNTRIES, CURRENCIES, SPEC, MtnProvider
from kobiri.providers.tokens import RENEW_PAUSE_S

REFERENCE = ProviderReference("8a3f0e52-6f43-4a0e-9a56-1d1f6f1a7a10")
COLLECTION = Collection(REFERENCE, Money(1_050, "ZMW"), Msisdn("260961234567"), "mtn", "Order 7")
PAYOUT = Payout(REFERENCE, Money(1_050, "ZMW"), Msisdn("260961234567"), "mtn", "Wages")
COLLECTED = ProviderReference("3c1d2b4e-9f10-4c7b-8f53-0a2b4c6d8e0f")
REFUND = Refund(REFERENCE, Money(1_050, "ZMW"), Msisdn("260961234567"), "mtn", None, COLLECTED, "7")
CANARIES = (
    "canary-user",
    "canary-key",
    "canary-subscription",
    "canary-callback",
    "canary-webhook",
    "canary-token",
    "canary-paying",
)

Respond = Callable[[web.Request], Awaitable[web.Response]]


class Mtn:
    """MTN as these tests need it: numbered tokens, and answers that a test may replace."""

    def __init__(self) -> None:
        self.url = ""
        self.stop_listening: Callable[[], Awaitable[None]]
        self.leaving = asyncio.Event()
        self.seen: list[tuple[str, str, dict[str, str], bytes]] = []
        self.life: object = 3600
        self.on_token: Respond = self.give_token
        self.on_create: Respond = self.accept
        self.on_status: Respond = self.accept

    def calls(self, path: str, method: str = "POST") -> list[tuple[dict[str, str], bytes]]:
        return [(h, b) for m, p, h, b in self.seen if m == method and p.startswith(path)]

    @property
    def tokens(self) -> list[tuple[dict[str, str], bytes]]:
        return self.calls("/collection/token/")

    @property
    def paying_tokens(self) -> list[tuple[dict[str, str], bytes]]:
        return self.calls("/disbursement/token/")

    @property
    def creates(self) -> list[tuple[dict[str, str], bytes]]:
        return self.calls("/collection/v1_0/requesttopay")

    async def give_token(self, _request: web.Request) -> web.Response:
        text = f"canary-token-{len(self.tokens)}"
        return web.json_response({"access_token": text, "token_type": "access_token", "expires_in": self.life})

    async def hang(self, _request: web.Request) -> web.Response:
        await self.leaving.wait()
        return web.Response(status=503)

    async def accept(self, _request: web.Request) -> web.Response:
        return web.Response(status=202)

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        self.seen.append((request.method, request.path, dict(request.headers), await request.read()))
        if request.path.endswith("/token/"):
            return await self.on_token(request)  # type: ignore[arg-type]
        return await (self.on_create if request.method == "POST" else self.on_status)(request)  # type: ignore[arg-type]


@pytest.fixture
async def mtn() -> AsyncIterator[Mtn]:
    mtn = Mtn()
    runner = web.ServerRunner(web.Server(mtn, access_log=None), shutdown_timeout=1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    mtn.url = f"http://{host}:{port}"
    mtn.stop_listening = site.stop
    yield mtn
    mtn.leaving.set()
    await runner.cleanup()


VALUES = {
    "target_environment": "mtnzambia",
    "collection_api_user": "canary-user",
    "collection_api_key": "canary-key",
    "collection_subscription_key": "canary-subscription",
    "payout_call": "transfer",
}
DISBURSEMENT: dict[str, Any] = {
    "disbursement_api_user": "canary-paying-user",
    "disbursement_api_key": "canary-paying-key",
    "disbursement_subscription_key": "canary-paying-subscription",
}


def account_at(url: str, **changes: object) -> Account:
    """Changes of values and of the account's own fields, by their names."""
    values = VALUES | {name: str(changes.pop(name)) for name in list(changes) if name in VALUES | DISBURSEMENT}
    account = Account(
        base_url=url,
        modes=frozenset({"test"}),
        values=values,
        callback_url=None,
        webhook_secrets=(b"canary-webhook",),
        answer_within_s=10.0,
        deadline_s=10.0,
        max_connections=50,
    )
    return replace(account, **changes)  # type: ignore[arg-type]


async def collect(provider: MtnProvider) -> Outcome:
    return await provider.send(COLLECTION, within_s=provider.account.answer_within_s, first_byte_before=None)


async def find(provider: MtnProvider) -> Finding:
    return await provider.find("collection", REFERENCE, within_s=provider.account.answer_within_s)


async def send(provider: MtnProvider, request: Request) -> Outcome:
    return await provider.send(request, within_s=provider.account.answer_within_s, first_byte_before=None)


class Clock:
    now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@asynccontextmanager
async def provider_at(url: str, clock: Clock | None = None, **changes: object) -> AsyncIterator[MtnProvider]:
    account = account_at(url, **changes)
    provider = MtnProvider(account, clock=clock) if clock else MtnProvider(account)
    try:
        yield provider
    finally:
        await provider.close()


@pytest.fixture
async def provider(mtn: Mtn, clock: Clock) -> AsyncIterator[MtnProvider]:
    async with provider_at(mtn.url, clock) as provider:
        yield provider


def answer(status: int, content: object = None) -> Respond:
    async def respond(_request: web.Request) -> web.Response:
        return web.Response(status=status, body=b"" if content is None else json.dumps(content).encode())

    return respond


async def drop(request: web.Request) -> web.Response:
    assert request.transport is not None
    request.transport.close()
    return web.Response()


def refuse_token(number: int) -> Respond:
    """Accept any token but the one with this number."""

    async def respond(request: web.Request) -> web.Response:
        refused = request.headers["Authorization"] == f"Bearer canary-token-{number}"
        return web.Response(status=401 if refused else 202)

    return respond


# --- collect ------------------------------------------------------------------------------------------------


async def test_a_collection_travels_as_mtn_wants_it(mtn: Mtn, provider: MtnProvider) -> None:
    assert await collect(provider) == Accepted()
    [(method, path, headers, body)] = mtn.seen[1:]
    assert (method, path) == ("POST", "/collection/v1_0/requesttopay")
    assert headers["Authorization"] == "Bearer canary-token-1"
    assert headers["X-Reference-Id"] == REFERENCE
    assert headers["X-Target-Environment"] == "mtnzambia"
    assert headers["Ocp-Apim-Subscription-Key"] == "canary-subscription"
    assert headers["Content-Type"] == "application/json"
    assert "X-Callback-Url" not in headers
    assert json.loads(body)["externalId"] == REFERENCE
    assert json.loads(body)["amount"] == "10.50"


async def test_a_token_is_asked_for_without_a_body(mtn: Mtn, provider: MtnProvider) -> None:
    await collect(provider)
    [(headers, body)] = mtn.tokens
    assert headers["Authorization"] == "Basic Y2FuYXJ5LXVzZXI6Y2FuYXJ5LWtleQ=="
    assert headers["Ocp-Apim-Subscription-Key"] == "canary-subscription"
    assert headers["X-Target-Environment"] == "mtnzambia"
    assert headers["Content-Length"] == "0"
    assert "Content-Type" not in headers
    assert body == b""


@pytest.mark.parametrize("url", [None, "https://a.example.com/"])
async def test_callbacks_come_where_they_are_wanted(mtn: Mtn, url: str | None) -> None:
    async with provider_at(mtn.url, callback_url=url) as provider:
        assert await collect(provider) == Accepted(calls_back=url is not None)
    assert mtn.creates[0][0].get("X-Callback-Url") == url


async def test_nobody_waits_for_the_callback_of_a_duplicate(mtn: Mtn) -> None:
    mtn.on_create = answer(409, {"code": "RESOURCE_ALREADY_EXIST"})
    async with provider_at(mtn.url, callback_url="https://a.example.com/") as provider:
        assert await collect(provider) == Accepted(calls_back=False)


async def test_a_base_url_may_end_in_a_slash(mtn: Mtn) -> None:
    async with provider_at(mtn.url + "/") as provider:
        assert await collect(provider) == Accepted()
    assert not any("//" in path for _, path, _, _ in mtn.seen)


async def test_a_refusal_is_declined(mtn: Mtn, provider: MtnProvider) -> None:
    mtn.on_create = answer(500, {"code": "NOT_ENOUGH_FUNDS", "message": "No."})
    declined = Declined(FailureCode.INSUFFICIENT_FUNDS, "NOT_ENOUGH_FUNDS")
    assert await collect(provider) == declined


async def test_a_dropped_request_is_unknown_and_not_repeated(mtn: Mtn, provider: MtnProvider) -> None:
    mtn.on_create = drop
    assert await collect(provider) == Unknown("the connection was closed without an answer")
    assert len(mtn.creates) == 1


async def test_no_answer_in_time_is_unknown(mtn: Mtn) -> None:
    mtn.on_create = mtn.hang
    async with provider_at(mtn.url, answer_within_s=1) as provider:
        assert await collect(provider) == Unknown("no answer in time")
    assert len(mtn.creates) == 1


async def test_a_refused_connection_is_not_sent(mtn: Mtn, provider: MtnProvider) -> None:
    async def leave(request: web.Request) -> web.Response:
        await mtn.stop_listening()
        response = await mtn.give_token(request)
        response.force_close()
        return response

    mtn.on_token = leave
    assert await collect(provider) == NotSent("ClientConnectorError ECONNREFUSED")
    assert mtn.creates == []


async def test_nobody_there_is_not_sent() -> None:
    async with provider_at("http://127.0.0.1:1") as provider:
        assert await collect(provider) == NotSent("no token: ClientConnectorError ECONNREFUSED")
        assert await find(provider) == Unknown("no token: ClientConnectorError ECONNREFUSED", asked=False)


# --- find ---------------------------------------------------------------------------------------------------


async def test_a_success_is_found(mtn: Mtn, provider: MtnProvider) -> None:
    payer = {"partyIdType": "MSISDN", "partyId": "260961234567"}
    told = {"externalId": REFERENCE, "amount": "10.50", "currency": "ZMW", "payer": payer}
    mtn.on_status = answer(200, told | {"status": "SUCCESSFUL", "financialTransactionId": "7"})
    assert await find(provider) == Succeeded("7", Money(1_050, "ZMW"), "260961234567")
    [(headers, body)] = mtn.calls(f"/collection/v1_0/requesttopay/{REFERENCE}", "GET")
    assert headers["X-Target-Environment"] == "mtnzambia"
    assert body == b""


async def test_what_mtn_does_not_know_is_not_found_softly(mtn: Mtn, provider: MtnProvider) -> None:
    mtn.on_status = answer(404, {"code": "RESOURCE_NOT_FOUND", "message": ""})
    assert await find(provider) == NotFound(firm=False)


async def test_a_question_without_an_answer_is_unknown(mtn: Mtn) -> None:
    mtn.on_status = mtn.hang
    async with provider_at(mtn.url, answer_within_s=1) as provider:
        assert await find(provider) == Unknown("no answer in time")


async def test_a_question_survives_a_refused_token(mtn: Mtn, provider: MtnProvider) -> None:
    async def respond(request: web.Request) -> web.Response:
        refused = request.headers["Authorization"].endswith("-1")
        return await answer(401 if refused else 404, {"code": "RESOURCE_NOT_FOUND"})(request)

    mtn.on_status = respond
    assert await find(provider) == NotFound(firm=False)


# --- disbursement ------------------------------------------------------------------------------------------

PATHS: list[tuple[Request, Kind, str, str]] = [
    (PAYOUT, "payout", "transfer", "/disbursement/v1_0/transfer"),
    (PAYOUT, "payout", "deposit", "/disbursement/v1_0/deposit"),
    (REFUND, "refund", "transfer", "/disbursement/v1_0/refund"),
]


@pytest.mark.parametrize(("request_", "kind", "payout_call", "path"), PATHS)
async def test_payouts_and_refunds_go_by_the_disbursement_product(
    mtn: Mtn, request_: Request, kind: Kind, payout_call: str, path: str
) -> None:
    party = {"partyIdType": "MSISDN", "partyId": "260961234567"}
    told = {"externalId": REFERENCE, "amount": "10.50", "currency": "ZMW", "payee": party}
    mtn.on_status = answer(200, told | {"status": "SUCCESSFUL", "financialTransactionId": "7"})
    url = "https://a.example.com/"
    async with provider_at(mtn.url, callback_url=url, payout_call=payout_call, **DISBURSEMENT) as provider:
        assert await send(provider, request_) == Accepted(calls_back=True)
        found = await provider.find(kind, REFERENCE, within_s=10)
    assert found == Succeeded("7", Money(1_050, "ZMW"), "260961234567")
    assert [(method, seen) for method, seen, _, _ in mtn.seen] == [
        ("POST", "/disbursement/token/"),
        ("POST", path),
        ("GET", f"{path}/{REFERENCE}"),
    ]
    for _, _, headers, _ in mtn.seen:
        assert headers["Ocp-Apim-Subscription-Key"] == "canary-paying-subscription"
        assert headers["X-Target-Environment"] == "mtnzambia"
    basic, _ = mtn.paying_tokens[0]
    assert basic["Authorization"] == "Basic " + b64encode(b"canary-paying-user:canary-paying-key").decode()
    created, body = mtn.calls(path)[0]
    assert created["X-Reference-Id"] == json.loads(body)["externalId"] == REFERENCE
    assert created["X-Callback-Url"] == url


async def test_each_product_has_its_own_token(mtn: Mtn) -> None:
    async def name_the_product(request: web.Request) -> web.Response:
        token = "canary-token-" + request.path.split("/")[1]
        return web.json_response({"access_token": token, "expires_in": 3600})

    mtn.on_token = name_the_product
    async with provider_at(mtn.url, **DISBURSEMENT) as provider:
        for request in (COLLECTION, PAYOUT, REFUND, COLLECTION):
            assert await send(provider, request) == Accepted()
    assert (len(mtn.tokens), len(mtn.paying_tokens)) == (1, 1)
    assert {path: headers["Authorization"] for _, path, headers, _ in mtn.seen if "v1_0" in path} == {
        "/collection/v1_0/requesttopay": "Bearer canary-token-collection",
        "/disbursement/v1_0/transfer": "Bearer canary-token-disbursement",
        "/disbursement/v1_0/refund": "Bearer canary-token-disbursement",
    }


@pytest.mark.parametrize("missing", [*DISBURSEMENT, "all"])
async def test_without_disbursement_credentials_nothing_but_collections(mtn: Mtn, missing: str) -> None:
    given = {} if missing == "all" else {name: value for name, value in DISBURSEMENT.items() if name != missing}
    why = "the account has no Disbursement API user, API key and subscription key"
    async with provider_at(mtn.url, **given) as provider:
        assert await send(provider, PAYOUT) == await send(provider, REFUND) == NotSent(why, outage=False)
        assert await provider.find("payout", REFERENCE, within_s=1) == Unknown(why, outage=False)
        assert await provider.find("refund", REFERENCE, within_s=1) == Unknown(why, outage=False)
        assert mtn.seen == []
        assert (await provider.check(within_s=10)).trouble is None
        assert await collect(provider) == Accepted()


@pytest.mark.parametrize("request_", [PAYOUT, REFUND])
async def test_a_dropped_payout_is_unknown_and_not_repeated(mtn: Mtn, request_: Request) -> None:
    mtn.on_create = drop
    async with provider_at(mtn.url, **DISBURSEMENT) as provider:
        assert await send(provider, request_) == Unknown("the connection was closed without an answer")
    assert len(mtn.seen) == 2


@pytest.mark.parametrize("request_", [PAYOUT, REFUND])
async def test_after_its_moment_no_payout_leaves(mtn: Mtn, request_: Request) -> None:
    async with provider_at(mtn.url, **DISBURSEMENT) as provider:
        moment = asyncio.get_running_loop().time() - 1
        outcome = await provider.send(request_, within_s=10, first_byte_before=moment)
    assert outcome == NotSent("it was held up for too long", outage=False)
    assert [path for _, path, _, _ in mtn.seen] == ["/disbursement/token/"]


async def test_an_address_that_is_not_allowed_is_unknown(mtn: Mtn) -> None:
    mtn.on_create = mtn.on_status = answer(403, {"code": "FORBIDDEN IP", "message": "no"})
    async with provider_at(mtn.url, **DISBURSEMENT) as provider:
        assert await send(provider, PAYOUT) == Unknown("HTTP 403 FORBIDDEN IP", outage=False, refused=True)
        found = await provider.find("payout", REFERENCE, within_s=10)
    assert found == Unknown("HTTP 403 FORBIDDEN IP", outage=False, refused=True)


async def test_a_check_names_the_product_that_refuses(mtn: Mtn) -> None:
    refused: set[str] = set()

    async def choose(request: web.Request) -> web.Response:
        bad = request.path.split("/")[1] in refused
        return await (answer(401, {"error": "invalid_client"}) if bad else mtn.give_token)(request)

    mtn.on_token = choose
    async with provider_at(mtn.url, **DISBURSEMENT) as provider:
        assert (await provider.check(within_s=10)).trouble is None
        refused.add("disbursement")
        assert (await provider.check(within_s=10)).trouble == "disbursement: no token: HTTP 401 invalid_client"
        assert (await provider.check("collection", within_s=10)).trouble is None, (
            "the other product's key is no matter of its own"
        )
        for kind in ("payout", "refund"):
            told = (await provider.check(kind, within_s=10)).trouble
            assert told == "disbursement: no token: HTTP 401 invalid_client"
        refused.add("collection")
        told = (await provider.check(within_s=10)).trouble
        assert told is not None
        assert ("collection:" in told, "disbursement:" in told) == (True, True)
    assert (len(mtn.tokens), len(mtn.paying_tokens)) == (4, 5)


# --- tokens -------------------------------------------------------------------------------------------------


async def test_one_token_serves_all_who_wait(mtn: Mtn, provider: MtnProvider) -> None:
    outcomes = await asyncio.gather(*(collect(provider) for _ in range(20)))
    assert outcomes == [Accepted()] * 20
    assert len(mtn.tokens) == 1


async def test_a_cancelled_caller_does_not_take_the_token_from_the_others(mtn: Mtn, provider: MtnProvider) -> None:
    asked, let_go = asyncio.Event(), asyncio.Event()

    async def slow(request: web.Request) -> web.Response:
        asked.set()
        await let_go.wait()
        return await mtn.give_token(request)

    mtn.on_token = slow
    first = asyncio.create_task(collect(provider))
    second = asyncio.create_task(collect(provider))
    await asked.wait()
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    let_go.set()
    assert await second == Accepted()
    assert len(mtn.tokens) == 1
    assert len(mtn.creates) == 1


@pytest.mark.parametrize(("life", "renewed_after_s"), [(3600, 3000), (600, 300), ("1800", 1200), ("soon", 30)])
async def test_a_token_is_renewed_behind_the_scenes_before_it_ends(
    mtn: Mtn, provider: MtnProvider, clock: Clock, life: object, renewed_after_s: float
) -> None:
    mtn.life = life
    await collect(provider)
    clock.now_s += renewed_after_s - 1
    await collect(provider)
    assert len(mtn.tokens) == 1

    asked, let_go = asyncio.Event(), asyncio.Event()

    async def slow(request: web.Request) -> web.Response:
        asked.set()
        await let_go.wait()
        return await mtn.give_token(request)

    mtn.on_token = slow
    clock.now_s += 1
    assert await collect(provider) == Accepted()  # with the old token, while the new one is fetched
    await asked.wait()
    assert mtn.creates[-1][0]["Authorization"] == "Bearer canary-token-1"
    let_go.set()
    while mtn.creates[-1][0]["Authorization"] == "Bearer canary-token-1":
        await collect(provider)
    assert len(mtn.tokens) == 2


async def test_renewal_is_not_hammered(mtn: Mtn, provider: MtnProvider, clock: Clock) -> None:
    await collect(provider)
    clock.now_s += 3000
    mtn.on_token = answer(500, {"error": "login_failed"})
    for _ in range(10):
        assert await collect(provider) == Accepted()
    assert len(mtn.tokens) == 2
    clock.now_s += RENEW_PAUSE_S
    while len(mtn.tokens) < 3:
        assert await collect(provider) == Accepted()


async def test_an_ended_token_is_not_used(mtn: Mtn, provider: MtnProvider, clock: Clock) -> None:
    await collect(provider)
    clock.now_s += 3600
    await collect(provider)
    assert [h["Authorization"] for h, _ in mtn.creates] == ["Bearer canary-token-1", "Bearer canary-token-2"]


@pytest.mark.parametrize(
    ("status", "content", "reason", "refused"),
    [
        (500, {"error": "login_failed"}, "no token: HTTP 500 login_failed", True),
        (401, {"statusCode": 401, "message": "Access denied"}, "no token: HTTP 401", True),
        (200, {"access_token": "a\nb"}, "no token: HTTP 200", False),
        (200, None, "no token: HTTP 200", False),
    ],
)
async def test_without_a_token_nothing_is_sent(
    mtn: Mtn, provider: MtnProvider, status: int, content: object, reason: str, refused: bool
) -> None:
    mtn.on_token = answer(status, content)
    assert await collect(provider) == NotSent(reason, outage=not refused, refused=refused)
    assert await find(provider) == Unknown(reason, outage=not refused, refused=refused, asked=False)
    assert len(mtn.seen) == len(mtn.tokens) == 2


async def test_a_dropped_token_call_is_not_sent(mtn: Mtn, provider: MtnProvider) -> None:
    mtn.on_token = drop
    assert isinstance(await collect(provider), NotSent)
    assert mtn.creates == []


async def test_a_late_token_is_not_sent_and_serves_the_next(mtn: Mtn) -> None:
    let_go = asyncio.Event()

    async def slow(request: web.Request) -> web.Response:
        await let_go.wait()
        return await mtn.give_token(request)

    mtn.on_token = slow
    async with provider_at(mtn.url, answer_within_s=0.2) as provider:
        assert await collect(provider) == NotSent("no token in time")
        assert mtn.creates == []
        let_go.set()
        while isinstance(await collect(provider), NotSent):
            pass
    assert len(mtn.tokens) == 1
    assert len(mtn.creates) == 1


async def test_a_refused_token_is_replaced_once_and_the_same_reference_sent_again(
    mtn: Mtn, provider: MtnProvider
) -> None:
    mtn.on_create = refuse_token(1)
    assert await collect(provider) == Accepted()
    (first, first_body), (second, second_body) = mtn.creates
    assert first["X-Reference-Id"] == second["X-Reference-Id"] == REFERENCE
    assert first_body == second_body
    assert len(mtn.tokens) == 2


async def test_many_refusals_of_one_token_fetch_one_other(mtn: Mtn, provider: MtnProvider) -> None:
    mtn.on_create = refuse_token(1)
    outcomes = await asyncio.gather(*(collect(provider) for _ in range(20)))
    assert outcomes == [Accepted()] * 20
    assert len(mtn.tokens) == 2


async def test_a_late_refusal_of_an_old_token_costs_no_new_one(mtn: Mtn, provider: MtnProvider) -> None:
    both_sent, replaced = asyncio.Event(), asyncio.Event()

    async def refuse(request: web.Request) -> web.Response:
        if len(mtn.creates) == 1:
            await replaced.wait()
        elif len(mtn.creates) == 2:
            both_sent.set()
        return await refuse_token(1)(request)

    mtn.on_create = refuse
    first = asyncio.create_task(collect(provider))
    second = asyncio.create_task(collect(provider))
    await both_sent.wait()
    done, _ = await asyncio.wait({first, second}, return_when=asyncio.FIRST_COMPLETED)
    replaced.set()
    assert [task.result() for task in done] == [Accepted()]
    assert list(await asyncio.gather(first, second)) == [Accepted(), Accepted()]
    assert len(mtn.tokens) == 2


async def test_a_refused_fresh_token_is_unknown(mtn: Mtn, provider: MtnProvider) -> None:
    mtn.on_create = answer(401)
    assert await collect(provider) == Unknown("HTTP 401 with a fresh token", outage=False, refused=True)
    assert len(mtn.creates) == 2


async def test_a_refused_token_without_another_is_not_sent(mtn: Mtn, provider: MtnProvider) -> None:
    await collect(provider)
    mtn.on_create, mtn.on_token = answer(401), answer(500)
    assert await collect(provider) == NotSent("no token: HTTP 500")
    assert len(mtn.creates) == 2


async def test_a_second_pass_that_is_dropped_is_unknown(mtn: Mtn, provider: MtnProvider) -> None:
    async def refuse_then_drop(request: web.Request) -> web.Response:
        return await (answer(401) if len(mtn.creates) == 1 else drop)(request)

    mtn.on_create = refuse_then_drop
    assert isinstance(await collect(provider), Unknown)
    assert len(mtn.creates) == 2


async def test_both_passes_share_one_deadline(mtn: Mtn) -> None:
    async def refuse_late_then_hang(request: web.Request) -> web.Response:
        if len(mtn.creates) == 1:
            await asyncio.sleep(1.5)
            return web.Response(status=401)
        return await mtn.hang(request)

    mtn.on_create = refuse_late_then_hang
    async with provider_at(mtn.url, answer_within_s=3) as provider:
        started = asyncio.get_running_loop().time()
        assert await collect(provider) == Unknown("no answer in time")
        assert asyncio.get_running_loop().time() - started < 1.5 + 3
    assert len(mtn.creates) == 2


async def test_closing_ends_a_fetch_that_hangs(mtn: Mtn) -> None:
    asked = asyncio.Event()

    async def never(request: web.Request) -> web.Response:
        asked.set()
        return await mtn.hang(request)

    mtn.on_token = never
    provider = MtnProvider(account_at(mtn.url))
    waiting = asyncio.create_task(collect(provider))
    await asked.wait()
    await provider.close()
    assert await waiting == NotSent("no token in time")


# --- the account --------------------------------------------------------------------------------------------


async def test_each_environment_serves_its_own_countrys_numbers_and_the_sandbox_any(mtn: Mtn) -> None:
    assert COUNTRIES.keys() == CURRENCIES.keys() - {"sandbox"}
    for environment, country in (("mtnzambia", "ZM"), ("mtnuganda", "UG"), ("unheard-of", "ZM")):
        async with provider_at(mtn.url, target_environment=environment) as adapter:
            assert adapter.countries == frozenset({country})
    async with provider_at(mtn.url, target_environment="sandbox") as adapter:
        assert adapter.countries is None


async def test_the_account_is_what_a_provider_is(mtn: Mtn) -> None:
    async with provider_at(mtn.url) as adapter:
        provider: Provider = adapter
        assert provider.spec is SPEC
        assert set(SPEC.operations) == {"collection", "payout", "refund"}
        assert all(one.dedupes and one.status_query == "soft" for one in SPEC.operations.values())
        assert SPEC.operations["refund"].partial
        assert not SPEC.signs_callbacks
        assert provider.currencies == {"ZMW"}
        assert provider.account.webhook_secrets == (b"canary-webhook",)
        body = json.dumps({"externalId": REFERENCE, "status": "PENDING"}).encode()
        assert provider.read_callback(Callback("POST", "pay.example.com", "/x", (), body)).reference == REFERENCE


async def test_a_fingerprint_tells_where_an_account_points_and_no_more() -> None:
    async def fingerprint(**changes: object) -> str:
        provider = MtnProvider(account_at(str(changes.pop("base_url", "https://mtn.example.com")), **changes))
        await provider.close()
        return provider.fingerprint_of("collection")

    ours = await fingerprint()
    assert len(ours) == 16
    int(ours, 16)
    assert await fingerprint(base_url="https://mtn.example.com/") == ours
    assert await fingerprint(collection_api_key="x", collection_subscription_key="x", callback_url="x") == ours
    for change in ("base_url", "target_environment", "collection_api_user"):
        assert await fingerprint(**{change: "x"}) != ours


async def test_each_kind_is_bound_to_its_own_api_user() -> None:
    async def changed(**changes: object) -> set[Kind]:
        """The kinds that go elsewhere after a change."""
        before = MtnProvider(account_at("https://mtn.example.com", **DISBURSEMENT))
        after = MtnProvider(account_at("https://mtn.example.com", **DISBURSEMENT | changes))
        await before.close()
        await after.close()
        kinds: tuple[Kind, ...] = ("collection", "payout", "refund")
        assert len({after.fingerprint_of(kind) for kind in kinds}) == 3
        return {kind for kind in kinds if before.fingerprint_of(kind) != after.fingerprint_of(kind)}

    assert await changed(disbursement_api_user="x") == {"payout", "refund"}
    assert await changed(collection_api_user="x") == {"collection"}
    assert await changed(payout_call="deposit") == {"payout"}
    assert await changed(target_environment="x") == {"collection", "payout", "refund"}
    assert await changed(disbursement_api_key="x", disbursement_subscription_key="x") == set()
    without = MtnProvider(account_at("https://mtn.example.com"))
    await without.close()
    having = MtnProvider(account_at("https://mtn.example.com", **DISBURSEMENT))
    await having.close()
    # Open collections stay askable when payouts are added.
    assert without.fingerprint_of("collection") == having.fingerprint_of("collection")


async def test_secrets_show_nowhere(mtn: Mtn, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    account = account_at(mtn.url, callback_url="https://pay.example.com/canary-callback", **DISBURSEMENT)
    provider = MtnProvider(account)
    told = [repr(account), str(account), repr(provider)]
    for on_create in (mtn.accept, answer(401), answer(500, {"code": "X"}), drop):
        mtn.on_create = mtn.on_status = on_create
        told.append(repr(await collect(provider)))
        told.append(repr(await find(provider)))
        told.append(repr(await send(provider, PAYOUT)))
        told.append(repr(await provider.check(within_s=10)))
    told += [repr(tokens._current) + repr(tokens._fetch) for tokens in provider._tokens.values()]
    await provider.close()
    told.append(repr(await collect(provider)))
    told.append(caplog.text)
    assert [canary for canary in CANARIES if canary in "".join(told)] == []
