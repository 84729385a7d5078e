"""MTN's simulator, spoken to over real sockets."""

import asyncio
import base64
import contextlib
import hashlib
import hmac
import json
import os
import signal
import sys
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from kobiri.domain.ids import ProviderReference
from kobiri.domain.money import Money
from kobiri.domain.msisdn import Msisdn
from kobiri.domain.outcome import Accepted, NotFound, Succeeded
from kobiri.domain.payment import Kind
from kobiri.providers.base import Account, Collection, Payout, Refund, Request
from kobiri.providers.mtn import simulator as mtn
from kobiri.providers.mtn.adapter import MtnProvider
from kobiri.simulator.app import SimulatorSettings, build
from kobiri.simulator.wallets import holder

DEADLINE_S = 10.0
SECRET = "between you and me"
KEY = {"Ocp-Apim-Subscription-Key": "any"}


async def until(look: Callable[[], Awaitable[Any]], *, deadline_s: float = DEADLINE_S) -> Any:
    """What `look` sees once it sees something."""
    ends = time.monotonic() + deadline_s
    while True:
        if seen := await look():
            return seen
        if time.monotonic() > ends:
            pytest.fail(f"not within {deadline_s} s")
        await asyncio.sleep(0.01)


@dataclass
class Answer:
    status: int
    body: bytes
    headers: Any

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Mtn:
    """A client of MTN, and the control API beside it."""

    url: str
    http: aiohttp.ClientSession
    token: str = ""
    paying_token: str = ""

    async def call(self, method: str, path: str, **options: Any) -> Answer:
        async with self.http.request(method, self.url + path, **options) as answer:
            return Answer(answer.status, await answer.read(), answer.headers)

    async def log_in(
        self, user: str = "someone", key: str = "key", product: str = "collection", **headers: str
    ) -> Answer:
        basic = base64.b64encode(f"{user}:{key}".encode()).decode()
        answer = await self.call(
            "POST", f"/mtn/{product}/token/", headers={**KEY, "Authorization": f"Basic {basic}", **headers}
        )
        if answer.status == 200 and product == "collection":
            self.token = answer.json["access_token"]
        elif answer.status == 200:
            self.paying_token = answer.json["access_token"]
        return answer

    def headers(self, **over: str | None) -> dict[str, str]:
        headers = {
            **KEY,
            "Authorization": f"Bearer {self.token}",
            "X-Target-Environment": "mtnzambia",
            **{name.replace("_", "-"): value for name, value in over.items()},
        }
        return {name: value for name, value in headers.items() if value is not None}

    async def pay(
        self,
        reference: str | None = None,
        *,
        payer: str = "260960000001",
        headers: dict[str, str | None] | None = None,
        raw: bytes | None = None,
        **body: Any,
    ) -> Answer:
        ask = {
            "amount": "10.50",
            "currency": "ZMW",
            "externalId": "order-7",
            "payer": {"partyIdType": "MSISDN", "partyId": payer},
            "payerMessage": "Order 7",
            "payeeNote": "Shop",
            **body,
        }
        sent = self.headers(
            **{"X-Reference-Id": reference or str(uuid.uuid4()), "Content-Type": "application/json"} | (headers or {})
        )
        return await self.call(
            "POST",
            "/mtn/collection/v1_0/requesttopay",
            data=json.dumps(ask).encode() if raw is None else raw,
            headers=sent,
        )

    async def disburse(
        self,
        call: str,
        reference: str | None = None,
        *,
        to: str = "260960000001",
        version: str = "v1_0",
        headers: dict[str, str | None] | None = None,
        **body: Any,
    ) -> Answer:
        """A transfer or a deposit to a number, or a refund of a reference."""
        party = {"partyIdType": "MSISDN", "partyId": to}
        ask = {
            "amount": "10.50",
            "currency": "ZMW",
            "externalId": "wages-7",
            "payerMessage": "Wages",
            "payeeNote": "Shop",
            **({"referenceIdToRefund": to} if call == "refund" else {"payee": party}),
            **body,
        }
        names: dict[str, str | None] = {"X-Reference-Id": reference or ref(), "Content-Type": "application/json"}
        sent = self.paying_headers(**names | (headers or {}))
        return await self.call(
            "POST", f"/mtn/disbursement/{version}/{call}", data=json.dumps(ask).encode(), headers=sent
        )

    def paying_headers(self, **over: str | None) -> dict[str, str]:
        return self.headers(**{"Authorization": f"Bearer {self.paying_token}", **over})

    async def status(self, reference: str, call: str = "requesttopay") -> Answer:
        if call == "requesttopay":
            path, headers = f"/mtn/collection/v1_0/{call}/{reference}", self.headers()
        else:
            path, headers = f"/mtn/disbursement/v1_0/{call}/{reference}", self.paying_headers()
        return await self.call("GET", path, headers=headers)

    async def settled(self, reference: str, call: str = "requesttopay") -> dict[str, Any]:
        async def look() -> dict[str, Any] | None:
            answer = await self.status(reference, call)
            return answer.json if answer.status == 200 and answer.json["status"] != "PENDING" else None

        found: dict[str, Any] = await until(look)
        return found

    async def fault(self, kind: str, **parameters: Any) -> str:
        answer = await self.call("POST", "/_sim/faults", json={"kind": kind, "provider": "mtn", **parameters})

        assert answer.status == 201, answer.body

        name: str = answer.json["id"]
        return name

    async def books(self, query: str = "") -> Any:
        return (await self.call("GET", f"/_sim/books{query}")).json

    async def charged(self, reference: str) -> int:
        return sum(one["charged"] for one in (await self.books(f"?reference={reference}"))["movements"])

    async def configure(self, **options: Any) -> None:
        assert (await self.call("PATCH", "/_sim/settings/mtn", json=options)).status == 200


@dataclass
class Shop:
    """Takes callbacks. `statuses` are answered in turn, then 200 for ever."""

    url: str = ""
    got: list[tuple[str, dict[str, str], bytes]] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)

    async def receive(self, request: web.Request) -> web.Response:
        self.got.append((request.method, dict(request.headers), await request.read()))
        return web.Response(status=self.statuses.pop(0) if self.statuses else 200)

    async def wait(self, number: int = 1) -> list[dict[str, Any]]:
        async def look() -> bool:
            return len(self.got) >= number

        await until(look)
        return [json.loads(body) for _, _, body in self.got]

    def signature(self, position: int = 0) -> str | None:
        return self.got[position][1].get("X-Signature-256")


def right(body: bytes, secret: str = SECRET) -> str:
    return "sha256=" + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()


@contextlib.asynccontextmanager
async def listening(app: web.Application) -> AsyncIterator[str]:
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


Start = Callable[..., Awaitable[Mtn]]


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    async with contextlib.AsyncExitStack() as stack:

        async def begin(*, log_in: bool = True, limits: dict[str, Any] | None = None, **options: Any) -> Mtn:
            given = {"prompt_ms": 20, "slow_ms": 100, "webhook_secret": SECRET, **options}
            settings = SimulatorSettings(providers={"mtn": given}, **(limits or {}))
            url = await stack.enter_async_context(listening(build({"mtn": mtn.build}, settings=settings)))
            http = await stack.enter_async_context(
                aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=DEADLINE_S))
            )
            client = Mtn(url, http)
            if log_in:
                await client.log_in()
                await client.log_in(product="disbursement")
            return client

        yield begin


@pytest.fixture
async def sim(start: Start) -> Mtn:
    return await start()


@pytest.fixture
async def shop() -> AsyncIterator[Shop]:
    shop = Shop()
    app = web.Application()
    app.router.add_route("*", "/hook", shop.receive)
    async with listening(app) as url:
        shop.url = f"{url}/hook"
        yield shop


def ref() -> str:
    return str(uuid.uuid4())


# Provisioning and tokens.


async def test_a_user_is_provisioned_and_logs_in(start: Start) -> None:
    sim = await start(log_in=False, open_credentials=False)
    user = ref()

    made = await sim.call(
        "POST",
        "/mtn/v1_0/apiuser",
        json={"providerCallbackHost": "shop.example"},
        headers={**KEY, "x-reference-id": user},
    )
    again = await sim.call(
        "POST",
        "/mtn/v1_0/apiuser",
        json={"providerCallbackHost": "shop.example"},
        headers={**KEY, "X-Reference-Id": user},
    )
    key = await sim.call("POST", f"/mtn/v1_0/apiuser/{user}/apikey", headers=KEY)
    shown = await sim.call("GET", f"/mtn/v1_0/apiuser/{user}", headers=KEY)

    assert (made.status, made.body) == (201, b"")
    assert again.status == 409
    assert (key.status, len(key.json["apiKey"])) == (201, 32)
    assert shown.json == {"providerCallbackHost": "shop.example", "targetEnvironment": "sandbox"}

    assert (await sim.log_in(user, "wrong")).status == 401
    assert (await sim.log_in("stranger", "key")).json == {"error": "invalid_client"}
    answer = await sim.log_in(user, key.json["apiKey"])
    assert answer.status == 200
    assert (answer.json["token_type"], answer.json["expires_in"]) == ("access_token", 3600)
    assert answer.json["access_token"].count(".") == 2


@pytest.mark.parametrize("host", ["https://shop.example", "shop.example/path", "", 7])
async def test_a_callback_host_is_a_bare_host(sim: Mtn, host: Any) -> None:
    answer = await sim.call(
        "POST",
        "/mtn/v1_0/apiuser",
        json={"providerCallbackHost": host},
        headers={**KEY, "X-Reference-Id": ref()},
    )

    assert answer.status == 400


async def test_an_unknown_user_is_not_found(sim: Mtn) -> None:
    assert (await sim.call("GET", f"/mtn/v1_0/apiuser/{ref()}", headers=KEY)).status == 404
    assert (await sim.call("POST", f"/mtn/v1_0/apiuser/{ref()}/apikey", headers=KEY)).status == 404


async def raw_exchange(url: str, request: bytes) -> bytes:
    host, port = url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        writer.write(request)
        await writer.drain()
        return await asyncio.wait_for(reader.read(), DEADLINE_S)
    finally:
        writer.close()
        await writer.wait_closed()


async def test_apikey_without_content_length_is_411_in_html(sim: Mtn) -> None:
    answer = await raw_exchange(
        sim.url,
        f"POST /mtn/v1_0/apiuser/{ref()}/apikey HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
        "Ocp-Apim-Subscription-Key: any\r\n\r\n".encode(),
    )

    assert answer.startswith(b"HTTP/1.1 411 ")
    assert b"text/html" in answer
    assert b"Length Required" in answer


async def test_subscription_keys_are_checked_per_product(start: Start) -> None:
    sim = await start(log_in=False, subscription_keys={"collection": ["good"], "disbursement": ["other"]})

    missing = await sim.call("POST", "/mtn/collection/token/")
    wrong = await sim.log_in(**{"Ocp-Apim-Subscription-Key": "other"})
    good = await sim.log_in(**{"ocp-apim-subscription-key": "good", "Ocp-Apim-Subscription-Key": "good"})

    assert missing.status == wrong.status == 401
    assert missing.json["statusCode"] == 401
    assert "missing subscription key" in missing.json["message"]
    assert "invalid subscription key" in wrong.json["message"]
    assert good.status == 200


async def test_a_preset_user_needs_its_own_key(start: Start) -> None:
    sim = await start(log_in=False, api_user="demo", api_key="demo-key", open_credentials=True)

    assert (await sim.log_in("demo", "else")).status == 401
    assert (await sim.log_in("demo", "demo-key")).status == 200
    assert (await sim.log_in("anybody", "anything")).status == 200


async def test_a_login_error_may_be_500(start: Start) -> None:
    sim = await start(log_in=False, open_credentials=False, login_error="500")

    answer = await sim.log_in()

    assert (answer.status, answer.json) == (500, {"error": "login_failed"})


async def test_an_expired_or_forged_token_is_refused(start: Start) -> None:
    sim = await start(token_ttl_s=1)
    assert (await sim.pay()).status == 202

    async def refused() -> bool:
        return (await sim.pay()).status == 401

    await until(refused)
    await sim.log_in()
    for token in ("", "nonsense", "a.b.c", sim.token[:-2] + "xx", "é.é.é"):
        sim.token = token
        assert (await sim.pay()).status == 401


# Requests to pay.


async def test_a_payment_is_queued_then_succeeds_and_moves_money_once(start: Start) -> None:
    sim = await start(prompt_ms=500)
    reference = ref()

    created = await sim.pay(reference)
    pending = await sim.status(reference)
    before = await sim.charged(reference)
    settled = await sim.settled(reference.upper())

    assert (created.status, created.body) == (202, b"")
    assert pending.json["status"] == "PENDING"
    assert "financialTransactionId" not in pending.json
    assert before == 0
    assert settled.pop("financialTransactionId").isdigit()
    assert settled == {
        "externalId": "order-7",
        "amount": "10.50",
        "currency": "ZMW",
        "payer": {"partyIdType": "MSISDN", "partyId": "260960000001"},
        "payerMessage": "Order 7",
        "payeeNote": "Shop",
        "status": "SUCCESSFUL",
    }
    books = await sim.books(f"?reference={reference}&provider=mtn")
    (movement,) = books["movements"]
    assert (movement["provider"], movement["reference"], movement["charged"]) == ("mtn", reference, 1)
    assert (movement["amount"], movement["currency"], movement["msisdn"]) == ("10.50", "ZMW", "260960000001")
    assert books["totals"]["amounts"] == {"ZMW": "10.50"}


async def test_a_repeated_reference_is_409_and_moves_nothing(sim: Mtn) -> None:
    reference = ref()

    first = await sim.pay(reference)
    await sim.settled(reference)
    second = await sim.pay(reference, amount="99")

    assert (first.status, second.status) == (202, 409)
    assert second.json == {
        "code": "RESOURCE_ALREADY_EXIST",
        "message": "Duplicated reference id. Creation of resource failed.",
    }
    assert await sim.charged(reference) == 1


async def test_without_dedupe_the_books_show_two(sim: Mtn) -> None:
    await sim.fault("no_dedupe")
    reference = ref()

    assert (await sim.pay(reference)).status == 202
    assert (await sim.pay(reference)).status == 202

    async def twice() -> bool:
        return await sim.charged(reference) == 2

    await until(twice)
    books = await sim.books("?min_charged=2")
    assert books["totals"]["charged_more_than_once"] == 1
    assert books["totals"]["amounts"] == {"ZMW": "21.00"}


async def test_an_unknown_reference_is_404(sim: Mtn) -> None:
    answer = await sim.status(ref())

    assert answer.status == 404
    assert answer.json == {"code": "RESOURCE_NOT_FOUND", "message": "Requested resource was not found."}
    assert (await sim.status("no-uuid")).status == 400


@pytest.mark.parametrize(
    "wrong",
    [
        {"headers": {"X-Reference-Id": "7"}},
        {"headers": {"X-Reference-Id": str(uuid.uuid5(uuid.NAMESPACE_DNS, "x"))}},
        {"headers": {"X-Reference-Id": None}},
        {"headers": {"X-Target-Environment": None}},
        {"headers": {"X-Callback-Url": ""}},
        {"headers": {"X-Callback-Url": "null"}},
        {"headers": {"Content-Type": "text/plain"}},
        {"raw": b""},
        {"raw": b"{"},
        {"raw": b"[" * 50_000},
        {"raw": b"\xff\xfe"},
        {"amount": 10},
        {"amount": "-1"},
        {"amount": "1e3"},
        {"amount": "0.00"},
        {"amount": "\u0661\u0660"},
        {"currency": "kwacha"},
        {"payer": {"partyIdType": "MSISDN", "partyId": "+260960000001"}},
        {"payer": {"partyIdType": "SHOE", "partyId": "260960000001"}},
        {"payerMessage": "it's"},
        {"payeeNote": "<b>"},
        {"payeeNote": "x" * 161},
    ],
    ids=lambda wrong: str(wrong)[:60],
)
async def test_a_mistake_is_400_and_moves_nothing(sim: Mtn, wrong: dict[str, Any]) -> None:
    answer = await sim.pay(**wrong)

    assert (answer.status, answer.body) == (400, b"")
    assert answer.headers["X-Simulator-Reason"]
    assert (await sim.books())["movements"] == []


@pytest.mark.parametrize(
    ("environment", "currency", "code"),
    [
        ("sandbox", "EUR", None),
        ("mtnuganda", "UGX", None),
        ("MTNZambia", "ZMW", None),
        ("sandbox", "ZMW", "INVALID_CURRENCY"),
        ("mtnzambia", "EUR", "INVALID_CURRENCY"),
        ("mtnnowhere", "ZMW", "NOT_ALLOWED_TARGET_ENVIRONMENT"),
    ],
)
async def test_each_environment_has_its_currency(sim: Mtn, environment: str, currency: str, code: str | None) -> None:
    answer = await sim.pay(currency=currency, headers={"X-Target-Environment": environment})

    assert answer.status == (202 if code is None else 500)
    assert code is None or answer.json["code"] == code


async def test_extra_slashes_and_unknown_paths(sim: Mtn) -> None:
    assert (await sim.call("POST", "/mtn/collection//token/")).status == 400
    assert (await sim.call("POST", "/mtn/collection/token")).status == 404
    assert (await sim.call("GET", "/mtn/")).json["statusCode"] == 404
    assert (await sim.call("GET", "/elsewhere")).status == 404


@pytest.mark.parametrize("block", ["46733123", "260960000"])
@pytest.mark.parametrize(("digits", "reason"), sorted(mtn.FAILING_NUMBERS.items()))
async def test_test_numbers_fail_as_documented(sim: Mtn, block: str, digits: str, reason: str) -> None:
    reference = ref()

    created = await sim.pay(reference, payer=block + digits)
    settled = await sim.settled(reference)

    assert created.status == 202
    assert (settled["status"], settled["reason"]) == ("FAILED", reason)
    assert "financialTransactionId" not in settled
    assert await sim.charged(reference) == 0


async def test_other_numbers_succeed(sim: Mtn) -> None:
    for payer in ("46733123999", "260961234450", "56733123453", "46733123465"):
        reference = ref()
        await sim.pay(reference, payer=payer)
        assert (await sim.settled(reference))["status"] == "SUCCESSFUL"


async def test_the_zambian_block_knows_more_reasons(sim: Mtn) -> None:
    for digits, reason in mtn.OWN_FAILING_NUMBERS.items():
        reference = ref()
        await sim.pay(reference, payer=mtn.ZAMBIAN_BLOCK + digits)
        assert (await sim.settled(reference))["reason"] == reason


async def test_453_and_454_have_two_modes(sim: Mtn) -> None:
    ongoing, delayed = ref(), ref()
    await sim.pay(ongoing, payer="46733123453")
    await sim.pay(delayed, payer="46733123454")

    assert (await sim.settled(delayed))["status"] == "SUCCESSFUL"
    assert (await sim.status(ongoing)).json["status"] == "PENDING"

    await sim.configure(test_numbers="observed")
    ongoing, delayed = ref(), ref()
    await sim.pay(ongoing, payer="46733123453")
    await sim.pay(delayed, payer="46733123454")

    assert (await sim.settled(delayed))["status"] == "CREATED"
    assert (await sim.settled(ongoing))["reason"] == "EXPIRED"


async def test_a_reason_may_be_an_object(start: Start) -> None:
    sim = await start(reason_as="object")
    reference = ref()

    await sim.pay(reference, payer="46733123452")

    assert (await sim.settled(reference))["reason"]["code"] == "EXPIRED"


# Transfers, deposits, refunds.


@pytest.mark.parametrize(
    ("call", "version"),
    [("transfer", "v1_0"), ("deposit", "v1_0"), ("deposit", "v2_0"), ("refund", "v1_0"), ("refund", "v2_0")],
)
async def test_money_goes_out_once(sim: Mtn, shop: Shop, call: str, version: str) -> None:
    collected, reference = ref(), ref()
    await sim.pay(collected)
    await sim.settled(collected)
    to = collected if call == "refund" else "260960000001"

    created = await sim.disburse(call, reference, to=to, version=version, headers={"X-Callback-Url": shop.url})
    settled = await sim.settled(reference, call)
    again = await sim.disburse(call, reference, to=to, version=version, amount="99")

    assert (created.status, created.body) == (202, b"")
    assert (again.status, again.json["code"]) == (409, "RESOURCE_ALREADY_EXIST")
    assert await shop.wait() == [settled]
    assert settled.pop("financialTransactionId", "1").isdigit()
    assert settled == {
        "externalId": "wages-7",
        "amount": "10.50",
        "currency": "ZMW",
        "payee": {"partyIdType": "MSISDN", "partyId": "260960000001"},
        "payerMessage": "Wages",
        "payeeNote": "Shop",
        "status": "SUCCESSFUL",
    }
    (movement,) = (await sim.books(f"?reference={reference}"))["movements"]
    assert movement["kind"] == ("refund" if call == "refund" else "payout")
    assert (movement["charged"], movement["amount"], movement["msisdn"]) == (1, "10.50", "260960000001")


async def test_a_token_is_good_for_its_own_product_alone(sim: Mtn) -> None:
    sim.token, sim.paying_token = sim.paying_token, sim.token

    assert (await sim.pay()).status == 401
    assert (await sim.disburse("transfer")).status == 401
    assert (await sim.status(ref(), "refund")).status == 401
    assert (await sim.books())["movements"] == []


async def test_a_subscription_key_is_good_for_its_own_product_alone(start: Start) -> None:
    sim = await start(log_in=False, subscription_keys={"collection": ["any"], "disbursement": ["other"]})

    assert (await sim.log_in(product="disbursement")).json["statusCode"] == 401
    assert (await sim.log_in(product="disbursement", **{"Ocp-Apim-Subscription-Key": "other"})).status == 200
    assert (await sim.disburse("transfer")).status == 401


async def test_a_reference_is_known_to_its_own_call_alone(sim: Mtn) -> None:
    reference = ref()
    await sim.disburse("transfer", reference)
    await sim.settled(reference, "transfer")

    assert (await sim.status(reference, "deposit")).status == 404
    assert (await sim.status(reference)).status == 404
    assert (await sim.disburse("deposit", reference)).status == 409


@pytest.mark.parametrize(
    ("call", "wrong"),
    [
        ("transfer", {"payee": {"partyIdType": "MSISDN", "partyId": "+260960000001"}}),
        ("transfer", {"payee": None, "payer": {"partyIdType": "MSISDN", "partyId": "260960000001"}}),
        ("deposit", {"payeeNote": "it's"}),
        ("refund", {"referenceIdToRefund": 7}),
        ("refund", {"amount": "0"}),
        ("refund", {"headers": {"X-Reference-Id": "7"}}),
    ],
)
async def test_a_mistake_pays_nobody(sim: Mtn, call: str, wrong: dict[str, Any]) -> None:
    answer = await sim.disburse(call, **wrong)

    assert (answer.status, answer.body) == (400, b"")
    assert (await sim.books())["movements"] == []


@pytest.mark.parametrize(
    ("call", "failing"),
    [
        ("transfer", mtn.FAILING_TRANSFERS),
        ("deposit", {digits: reason for digits, reason in mtn.FAILING_NUMBERS.items() if digits != "464"}),
    ],
)
async def test_test_numbers_of_payouts_fail_as_documented(sim: Mtn, call: str, failing: dict[str, str]) -> None:
    references = {digits: ref() for digits in failing}
    for digits, reference in references.items():
        assert (await sim.disburse(call, reference, to=mtn.SANDBOX_BLOCK + digits)).status == 202

    settled = {digits: await sim.settled(reference, call) for digits, reference in references.items()}
    assert {digits: one.get("reason") for digits, one in settled.items()} == failing
    assert (await sim.books())["movements"] == []


async def test_two_test_numbers_of_payouts_take_their_time(start: Start) -> None:
    sim = await start(test_numbers="observed")  # which is the same as documented for these
    ongoing, delayed, ordinary = ref(), ref(), ref()
    await sim.disburse("transfer", ongoing, to="46733123453")
    await sim.disburse("transfer", delayed, to="46733123454")
    await sim.disburse("deposit", ordinary, to="46733123464")

    assert (await sim.settled(delayed, "transfer"))["status"] == "SUCCESSFUL"
    assert (await sim.settled(ordinary, "deposit"))["status"] == "SUCCESSFUL"
    assert (await sim.status(ongoing, "transfer")).json["status"] == "PENDING"


async def refunded(sim: Mtn, collection: str, **body: Any) -> str:
    """How a refund ends: its status, or the reason for which it fails."""
    reference = ref()
    assert (await sim.disburse("refund", reference, to=collection, **body)).status == 202
    settled = await sim.settled(reference, "refund")
    return str(settled.get("reason", settled["status"]))


@pytest.mark.parametrize(
    ("check", "third", "fourth"),
    [
        ("paid", "SUCCESSFUL", "SUCCESSFUL"),
        ("left", "SUCCESSFUL", "NOT_ALLOWED"),
        ("sum", "NOT_ALLOWED", "NOT_ALLOWED"),
    ],
)
async def test_a_collection_is_refunded_in_parts(start: Start, check: str, third: str, fourth: str) -> None:
    sim = await start(refund_check=check)
    collected = ref()
    await sim.pay(collected, amount="10")
    await sim.settled(collected)

    assert await refunded(sim, collected, amount="4.50") == "SUCCESSFUL"
    assert await refunded(sim, collected, amount="4.50") == "SUCCESSFUL"
    assert await refunded(sim, collected, amount="4.50") == third
    assert await refunded(sim, collected, amount="4.50") == fourth
    moved = [one for one in (await sim.books())["movements"] if one["kind"] == "refund"]
    assert len(moved) == 2 + [third, fourth].count("SUCCESSFUL")


async def test_what_was_not_collected_is_not_refunded(start: Start) -> None:
    sim = await start(refund_check="paid")
    rejected, paid_out, waiting = ref(), ref(), ref()
    await sim.pay(rejected, payer="46733123451")
    await sim.settled(rejected)
    await sim.disburse("transfer", paid_out)
    await sim.settled(paid_out, "transfer")
    await sim.pay(waiting, payer="46733123453")

    assert await refunded(sim, ref()) == "RESOURCE_NOT_FOUND"
    assert await refunded(sim, "1") == "RESOURCE_NOT_FOUND"
    assert await refunded(sim, paid_out) == "RESOURCE_NOT_FOUND"
    assert await refunded(sim, rejected) == "NOT_ALLOWED"
    assert await refunded(sim, waiting) == "NOT_ALLOWED"
    assert [one["kind"] for one in (await sim.books())["movements"]] == ["payout"]


async def test_two_refunds_at_once_do_not_pay_a_collection_back_twice(start: Start) -> None:
    sim = await start(prompt_ms=200)
    collected, first, second = ref(), ref(), ref()
    await sim.pay(collected)
    await sim.settled(collected)

    await asyncio.gather(*(sim.disburse("refund", one, to=collected) for one in (first, second)))

    ends = sorted([(await sim.settled(one, "refund"))["status"] for one in (first, second)])
    assert ends == ["FAILED", "SUCCESSFUL"]


@pytest.mark.parametrize(("call", "operation"), [("transfer", "payout"), ("deposit", "payout"), ("refund", "refund")])
async def test_faults_reach_payouts_and_refunds(sim: Mtn, call: str, operation: str) -> None:
    collected = ref()
    await sim.pay(collected)
    await sim.settled(collected)
    to = collected if call == "refund" else "260960000001"
    await sim.fault("drop_after", operation=operation, times=1, msisdn="260960000001")
    await sim.fault("payer", operation=operation, decision="no_funds", times=1)
    await sim.fault("no_dedupe", operation=operation)
    await sim.fault("not_found_for", ms=400)
    reference = ref()

    with pytest.raises(aiohttp.ServerDisconnectedError):
        await sim.disburse(call, reference, to=to)
    assert (await sim.status(reference, call)).status == 404

    async def failed() -> bool:
        answer = await sim.status(reference, call)
        return answer.status == 200 and answer.json.get("reason") == mtn.WORDS.no_funds[1]

    await until(failed)
    assert await sim.charged(reference) == 0
    assert (await sim.disburse(call, reference, to=to)).status == 202  # and a true one, for want of dedupe

    async def charged() -> bool:
        return await sim.charged(reference) == 1

    await until(charged)


@pytest.mark.parametrize("payout_call", ["transfer", "deposit"])
async def test_our_adapter_collects_pays_out_and_refunds(sim: Mtn, payout_call: str) -> None:
    account = Account(
        base_url=f"{sim.url}/mtn",
        modes=frozenset({"test"}),
        values={**mtn.ACCOUNT_VALUES, "payout_call": payout_call},
        callback_url=None,
        webhook_secrets=(),
        answer_within_s=DEADLINE_S,
        deadline_s=DEADLINE_S,
        max_connections=10,
    )
    provider = MtnProvider(account)
    money, wallet, collected = Money(1_050, "ZMW"), Msisdn("260960000001"), ProviderReference(ref())
    asked: list[tuple[Kind, Request]] = [
        ("collection", Collection(collected, money, wallet, "mtn", "Order 7")),
        ("payout", Payout(ProviderReference(ref()), money, wallet, "mtn", "Wages")),
        ("refund", Refund(ProviderReference(ref()), money, wallet, "mtn", None, collected, None)),
    ]
    try:
        assert (await provider.check(within_s=DEADLINE_S)).trouble is None
        for kind, request in asked:
            assert await provider.find(kind, request.reference, within_s=DEADLINE_S) == NotFound(firm=False)
            for _ in range(2):
                assert await provider.send(request, within_s=DEADLINE_S, first_byte_before=None) == Accepted()
            found: Succeeded = await until(partial(succeeded, provider, kind, request.reference))
            assert (found.money, found.payer) == (money, wallet.digits)
    finally:
        await provider.close()
    movements = (await sim.books())["movements"]
    assert [(one["kind"], one["charged"]) for one in movements] == [("collection", 1), ("payout", 1), ("refund", 1)]


async def succeeded(provider: MtnProvider, kind: Kind, reference: ProviderReference) -> Succeeded | None:
    found = await provider.find(kind, reference, within_s=DEADLINE_S)
    return found if isinstance(found, Succeeded) else None


@pytest.mark.parametrize("product", ["collection", "disbursement"])
async def test_balance_and_holders_are_told(sim: Mtn, product: str) -> None:
    headers = sim.headers() if product == "collection" else sim.paying_headers()

    async def ask(path: str) -> Answer:
        return await sim.call("GET", f"/mtn/{product}/v1_0/{path}", headers=headers)

    assert (await ask("account/balance")).json == {"availableBalance": "1000", "currency": "ZMW"}
    assert (await ask("account/balance/ZMW")).json["currency"] == "ZMW"
    assert (await ask("account/balance/EUR")).json["code"] == "INVALID_CURRENCY"
    assert (await ask("accountholder/MSISDN/260960000001/active")).json == {"result": True}
    assert (await ask("accountholder/msisdn/46733123451/active")).json == {"result": False}
    for digits, (status, code) in mtn.REFUSED_HOLDERS.items():
        answer = await ask(f"accountholder/msisdn/260960000{digits}/active")
        assert (answer.status, answer.json["code"]) == (status, code)
    assert (await ask("accountholder/shoe/46733123499/active")).status == 400
    await sim.fault("error_before", operation="check", status=503)
    assert (await ask("account/balance")).status == 503
    assert (await sim.disburse("transfer")).status == 202


@pytest.mark.parametrize("product", ["collection", "disbursement"])
async def test_names_are_told_by_number(sim: Mtn, product: str) -> None:
    headers = sim.headers() if product == "collection" else sim.paying_headers()

    async def ask(msisdn: str, kind: str = "msisdn") -> Answer:
        path = f"/mtn/{product}/v1_0/accountholder/{kind}/{msisdn}/basicuserinfo"
        return await sim.call("GET", path, headers=headers)

    told = (await ask("260961234567")).json
    given, family = holder("260961234567")
    assert (told["name"], told["given_name"], told["family_name"]) == (f"{given} {family}", given, family)
    assert (told["status"], told["sub"]) == ("ACTIVE", "0")
    assert (await ask("260961234568")).json["name"] != told["name"]
    assert (await ask("260960000451")).json["status"] == "INACTIVE"
    assert (await ask("260960000456")).json == {"sub": "0", "status": "ACTIVE"}
    for digits, (status, code) in mtn.REFUSED_HOLDERS.items():
        answer = await ask(f"260960000{digits}")
        assert (answer.status, answer.json["code"]) == (status, code)
    assert (await ask("someone@shop.example", "email")).status == 404


async def test_money_that_moves_is_in_the_balances(sim: Mtn) -> None:
    async def balances() -> list[str]:
        ask = [("collection", sim.headers()), ("disbursement", sim.paying_headers())]
        calls = [await sim.call("GET", f"/mtn/{name}/v1_0/account/balance", headers=how) for name, how in ask]
        return [answer.json["availableBalance"] for answer in calls]

    assert await balances() == ["1000", "1000"]
    collected, paid = str(uuid.uuid4()), str(uuid.uuid4())
    await sim.pay(collected, amount="10.50")
    await sim.settled(collected)
    await sim.disburse("transfer", paid, amount="300")
    await sim.settled(paid, "transfer")
    assert await balances() == ["1010.50", "700"]
    await sim.configure(available_balance="250")
    assert await balances() == ["260.50", "0"]
    await sim.call("DELETE", "/_sim/books")
    assert await balances() == ["250", "250"]


# Callbacks.


async def test_a_callback_is_signed_and_holds_no_reference(sim: Mtn, shop: Shop) -> None:
    reference = ref()

    await sim.pay(reference, headers={"X-Callback-Url": shop.url})
    (told,) = await shop.wait()

    method, headers, body = shop.got[0]
    assert method == "POST"
    assert headers["Content-Type"] == "application/json; charset=utf-8"
    assert headers["User-Agent"] == "LWAC Http Client 1.0"
    assert headers["X-Signature-256"] == right(body)
    assert told == (await sim.status(reference)).json
    assert reference.encode() not in body


async def test_a_callback_may_be_put_and_unsigned_as_at_mtn(start: Start, shop: Shop) -> None:
    sim = await start(callback_method="PUT", webhook_secret=None)

    await sim.pay(payer="46733123451", headers={"X-Callback-Url": shop.url})
    (told,) = await shop.wait()

    assert shop.got[0][0] == "PUT"
    assert shop.signature() is None
    assert told["reason"] == "APPROVAL_REJECTED"


async def test_a_callback_goes_only_to_the_registered_host(start: Start, shop: Shop) -> None:
    sim = await start(log_in=False)
    user = ref()
    await sim.call(
        "POST",
        "/mtn/v1_0/apiuser",
        json={"providerCallbackHost": "127.0.0.1"},
        headers={**KEY, "X-Reference-Id": user},
    )
    key = await sim.call("POST", f"/mtn/v1_0/apiuser/{user}/apikey", headers=KEY)
    await sim.log_in(user, key.json["apiKey"])

    good = await sim.pay(headers={"X-Callback-Url": shop.url})
    bad = await sim.pay(headers={"X-Callback-Url": "http://localhost/hook"})

    assert good.status == 202
    assert (bad.status, bad.json["code"]) == (500, "INVALID_CALLBACK_URL_HOST")


async def test_a_callback_is_retried_where_a_schedule_is_set(start: Start, shop: Shop) -> None:
    sim = await start(callback_retry_ms=[10, 10, 10])
    shop.statuses = [500, 302]
    reference = ref()

    await sim.pay(reference, headers={"X-Callback-Url": shop.url})
    await shop.wait(3)

    async def tried() -> bool:
        return len(await sent(sim, reference)) == 3

    await until(tried)
    assert [one["answer"] for one in await sent(sim, reference)] == [500, 302, 200]


async def sent(sim: Mtn, reference: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = (await sim.call("GET", f"/_sim/callbacks?reference={reference}")).json["callbacks"]
    return found


async def test_a_lost_callback_never_comes(sim: Mtn, shop: Shop) -> None:
    await sim.fault("lost", times=1)
    lost, kept = ref(), ref()

    await sim.pay(lost, headers={"X-Callback-Url": shop.url})
    await sim.settled(lost)
    await sim.pay(kept, headers={"X-Callback-Url": shop.url})
    await shop.wait()

    assert await sent(sim, lost) == []
    assert len(shop.got) == 1


async def test_a_callback_comes_several_times(sim: Mtn, shop: Shop) -> None:
    await sim.fault("duplicated", copies=2)

    await sim.pay(headers={"X-Callback-Url": shop.url})
    told = await shop.wait(3)

    assert told[0] == told[1] == told[2]


async def test_a_late_callback_comes_after_the_status_is_final(sim: Mtn, shop: Shop) -> None:
    await sim.fault("late", ms=300)
    reference = ref()

    await sim.pay(reference, headers={"X-Callback-Url": shop.url})
    await sim.settled(reference)

    assert shop.got == []
    await shop.wait()


async def test_a_stale_callback_follows_the_final_one(sim: Mtn, shop: Shop) -> None:
    await sim.fault("reordered")

    await sim.pay(headers={"X-Callback-Url": shop.url})
    told = await shop.wait(2)

    assert [one["status"] for one in told] == ["SUCCESSFUL", "PENDING"]
    assert shop.signature(1) == right(shop.got[1][2])


async def test_a_forged_callback_claims_success_under_a_wrong_key(sim: Mtn, shop: Shop) -> None:
    await sim.fault("forged")
    reference = ref()

    await sim.pay(reference, payer="46733123453", headers={"X-Callback-Url": shop.url})
    (told,) = await shop.wait()

    assert told["status"] == "SUCCESSFUL"
    assert shop.signature() not in (None, right(shop.got[0][2]))
    assert await sim.charged(reference) == 0


async def test_an_unsigned_callback(sim: Mtn, shop: Shop) -> None:
    await sim.fault("unsigned")

    await sim.pay(headers={"X-Callback-Url": shop.url})
    await shop.wait()

    assert shop.signature() is None


async def test_wrong_facts_in_status_and_callback(sim: Mtn, shop: Shop) -> None:
    await sim.fault("wrong_amount", amount="1.00", operation="callback")
    await sim.fault("wrong_currency", currency="MWK", operation="status")
    await sim.fault("wrong_payer", payer="260960000777", operation="any")
    reference = ref()

    await sim.pay(reference, headers={"X-Callback-Url": shop.url})
    (told,) = await shop.wait()
    status = (await sim.status(reference)).json

    assert (told["amount"], told["currency"], told["payer"]["partyId"]) == ("1.00", "ZMW", "260960000777")
    assert (status["amount"], status["currency"], status["payer"]["partyId"]) == (
        "10.50",
        "MWK",
        "260960000777",
    )
    assert shop.signature() == right(shop.got[0][2])
    assert (await sim.books())["movements"][0]["amount"] == "10.50"


async def test_a_callback_by_hand(sim: Mtn, shop: Shop) -> None:
    reference = ref()
    await sim.pay(reference, payer="46733123453", headers={"X-Callback-Url": shop.url})
    shop.statuses = [200, 401]

    async def send(**order: Any) -> Answer:
        return await sim.call("POST", "/_sim/callbacks", json={"reference": reference, **order})

    honest = await send()
    forged = await send(status="SUCCESSFUL", amount="999", signed="wrong", method="PUT")
    bare = await send(status="FAILED", reason="EXPIRED", signed=False)

    told = await shop.wait(3)
    assert [one["status"] for one in told] == ["PENDING", "SUCCESSFUL", "FAILED"]
    assert (told[1]["amount"], told[2]["reason"]) == ("999", "EXPIRED")
    assert shop.signature(0) == right(shop.got[0][2])
    assert shop.signature(1) not in (None, right(shop.got[1][2]))
    assert shop.signature(2) is None
    assert [one.json["answer"] for one in (honest, forged, bare)] == [200, 401, 200]


async def test_a_callback_by_hand_may_invent_a_payment(sim: Mtn, shop: Shop) -> None:
    unknown = {"reference": ref(), "status": "SUCCESSFUL"}

    nowhere = await sim.call("POST", "/_sim/callbacks", json=unknown)
    invented = await sim.call("POST", "/_sim/callbacks", json={**unknown, "url": shop.url})
    wrong = await sim.call("POST", "/_sim/callbacks", json={**unknown, "colour": "red"})

    assert (nowhere.status, invented.status, wrong.status) == (404, 200, 400)
    assert "colour" in wrong.json["detail"]
    assert (await shop.wait())[0]["externalId"] == unknown["reference"]


# Faults on the wire.


async def test_latency_before_and_after(sim: Mtn) -> None:
    reference = ref()
    await sim.fault("latency", operation="create", ms=150, jitter_ms=10, times=1)
    await sim.fault("latency_after", operation="create", ms=300, times=1, skip=1)

    began = time.monotonic()
    await sim.pay(reference)
    assert time.monotonic() - began >= 0.15

    late = ref()
    answer = asyncio.create_task(sim.pay(late))
    await sim.settled(late)
    assert not answer.done()
    assert (await answer).status == 202


async def test_a_request_whose_client_gave_up_is_processed_all_the_same(sim: Mtn) -> None:
    await sim.fault("latency", operation="create", ms=1_000)
    reference = ref()

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await sim.pay(reference)

    assert (await sim.status(reference)).status == 404
    assert (await sim.settled(reference))["status"] == "SUCCESSFUL"
    assert await sim.charged(reference) == 1
    assert (await sim.pay(reference)).status == 409


@pytest.mark.parametrize(
    ("shape", "body"),
    [
        ("momo", b'"code":"SERVICE_UNAVAILABLE"'),
        ("azure", b'"statusCode":503'),
        ("error", b'{"error":"SERVICE_UNAVAILABLE"}'),
        ("html", b"<html>"),
        ("empty", b""),
    ],
)
async def test_an_error_before_moves_nothing(sim: Mtn, shape: str, body: bytes) -> None:
    reference = ref()
    await sim.fault(
        "error_before",
        operation="create",
        status=503,
        code="SERVICE_UNAVAILABLE",
        shape=shape,
        retry_after_s=7,
        times=1,
    )

    answer = await sim.pay(reference)

    assert answer.status == 503
    assert body in answer.body
    assert answer.headers["Retry-After"] == "7"
    assert (await sim.status(reference)).status == 404
    assert (await sim.pay(reference)).status == 202


async def test_an_error_after_has_moved_money(sim: Mtn) -> None:
    reference = ref()
    await sim.fault("error_after", operation="create", status=500, body="Oops", content_type="text/plain")

    answer = await sim.pay(reference)

    assert (answer.status, answer.body) == (500, b"Oops")
    await sim.settled(reference)
    assert await sim.charged(reference) == 1


@pytest.mark.parametrize(
    ("kind", "error", "charges"),
    [
        ("reset_before", aiohttp.ClientOSError, 0),
        ("reset_after", aiohttp.ClientOSError, 1),
        ("drop_after", aiohttp.ServerDisconnectedError, 1),
    ],
)
async def test_a_broken_connection(sim: Mtn, kind: str, error: type[Exception], charges: int) -> None:
    reference = ref()
    await sim.fault(kind, operation="create", times=1, reference=reference)

    with pytest.raises(error):
        await sim.pay(reference)

    if charges:
        await sim.settled(reference)
    assert (await sim.status(reference)).status == (200 if charges else 404)
    assert await sim.charged(reference) == charges


async def test_a_hang_ends_when_its_fault_is_removed(sim: Mtn) -> None:
    fault = await sim.fault("hang", operation="create", processed=True)
    reference = ref()

    hanging = asyncio.create_task(sim.pay(reference))
    await sim.settled(reference)
    assert not hanging.done()
    assert (await sim.call("DELETE", f"/_sim/faults/{fault}")).status == 204

    with pytest.raises(aiohttp.ServerDisconnectedError):
        await hanging
    assert (await sim.call("DELETE", f"/_sim/faults/{fault}")).status == 404


async def test_a_hang_does_not_outlive_its_client(sim: Mtn) -> None:
    await sim.fault("hang", operation="create")
    reference = ref()

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await sim.pay(reference)

    async def noted() -> bool:
        found = await sim.call("GET", f"/_sim/requests?reference={reference}")
        return bool(found.json["requests"][0]["answered"] == "hung")

    await until(noted)
    assert (await sim.status(reference)).status == 404


async def test_an_outage_by_503_or_reset(sim: Mtn) -> None:
    await sim.fault("outage", operation="any", times=1)
    await sim.fault("outage", operation="any", mode="reset", times=1)

    down = await sim.pay()
    with pytest.raises(aiohttp.ClientOSError):
        await sim.pay()

    assert (down.status, down.headers["Content-Type"]) == (503, "text/html; charset=utf-8")
    assert (await sim.pay()).status == 202


async def test_an_html_page_with_200(sim: Mtn) -> None:
    await sim.fault("html_200", operation="status")

    answer = await sim.status(ref())

    assert answer.status == 200
    assert answer.body.startswith(b"<!DOCTYPE html>")


async def test_not_found_then_found(sim: Mtn) -> None:
    reference = ref()
    await sim.fault("not_found_for", ms=400)

    await sim.pay(reference)

    assert (await sim.status(reference)).status == 404
    assert (await sim.settled(reference))["status"] == "SUCCESSFUL"


@pytest.mark.parametrize(
    ("fault", "status", "reason"),
    [
        ({"decision": "approve"}, "SUCCESSFUL", None),
        ({"decision": "reject"}, "FAILED", "APPROVAL_REJECTED"),
        ({"decision": "expire"}, "FAILED", "EXPIRED"),
        ({"decision": "no_funds", "prompt_ms": 0}, "FAILED", mtn.WORDS.no_funds[1]),
        ({"decision": "fail", "reason": "SOMETHING_NEW"}, "FAILED", "SOMETHING_NEW"),
    ],
)
async def test_the_payer_decides(sim: Mtn, fault: dict[str, Any], status: str, reason: str | None) -> None:
    await sim.fault("payer", msisdn="46733123451", **fault)
    reference = ref()

    await sim.pay(reference, payer="46733123451")
    settled = await sim.settled(reference)

    assert (settled["status"], settled.get("reason")) == (status, reason)


async def test_a_success_that_comes_late_or_after_a_failure(sim: Mtn, shop: Shop) -> None:
    await sim.fault("late_success", ms=150, after_failure=True)
    reference = ref()

    await sim.pay(reference, payer="46733123452", headers={"X-Callback-Url": shop.url})
    told = await shop.wait(2)

    assert [one["status"] for one in told] == ["FAILED", "SUCCESSFUL"]
    assert await sim.charged(reference) == 1


async def test_faults_are_aimed_by_reference_number_and_operation(sim: Mtn) -> None:
    aimed = ref()
    await sim.fault("error_before", reference=aimed.upper(), operation="create", status=500)
    await sim.fault("error_before", msisdn="260960000009", status=501)
    await sim.fault("error_before", operation="token", status=502)

    assert (await sim.pay(aimed)).status == 500
    assert (await sim.pay(payer="260960000009")).status == 501
    assert (await sim.pay()).status == 202
    assert (await sim.log_in()).status == 502


# The control API.


@pytest.mark.parametrize(
    ("fault", "word"),
    [
        ({"kind": "latency"}, "ms"),
        ({"kind": "latency", "ms": -1}, "ms"),
        ({"kind": "latency", "ms": "5"}, "ms"),
        ({"kind": "latency", "ms": 5, "mss": 5}, "mss"),
        ({"kind": "latency", "ms": 5, "operation": "callback"}, "operation"),
        ({"kind": "lost", "operation": "create"}, "operation"),
        ({"kind": "explode"}, "kind"),
        ({"ms": 5}, "kind"),
        ({"kind": "latency", "ms": 5, "provider": "nobody"}, "provider"),
        ({"kind": "latency", "ms": 5, "times": 0}, "times"),
        ({"kind": "error_before", "shape": "round"}, "shape"),
        ({"kind": "error_before", "status": 42}, "status"),
        ([], "object"),
        ("x", "object"),
    ],
    ids=str,
)
async def test_a_wrong_fault_is_refused_in_words(sim: Mtn, fault: Any, word: str) -> None:
    answer = await sim.call("POST", "/_sim/faults", json=fault)

    assert answer.status == 400
    assert word in answer.json["detail"]
    assert (await sim.call("GET", "/_sim/faults")).json == {"faults": []}


async def test_faults_are_listed_and_removed(sim: Mtn) -> None:
    await sim.fault("latency", ms=1, times=1)
    await sim.fault("lost")

    await sim.pay()

    (latency, lost) = (await sim.call("GET", "/_sim/faults")).json["faults"]
    assert (latency["kind"], latency["used"], latency["spent"]) == ("latency", 1, True)
    assert (lost["kind"], lost["used"], lost["spent"]) == ("lost", 0, False)
    assert (await sim.call("DELETE", "/_sim/faults")).status == 204
    assert (await sim.call("GET", "/_sim/faults")).json == {"faults": []}


async def test_requests_are_shown_without_secrets(sim: Mtn) -> None:
    reference = ref()
    await sim.call(
        "POST",
        "/mtn/collection/v1_0/requesttopay?apikey=hunter2",
        data=b'{"pin": "hunter2", "note": "seen"}',
        headers=sim.headers(**{"X-Reference-Id": reference, "X-Callback-Url": "https://x/?s=hunter2"}),
    )

    answer = await sim.call("GET", f"/_sim/requests?reference={reference}&path=/requesttopay")

    (entry,) = answer.json["requests"]
    assert (entry["operation"], entry["answered"], entry["query"]) == ("create", 400, "[hidden]")
    assert entry["headers"]["Authorization"] == "[hidden]"
    assert entry["headers"]["Ocp-Apim-Subscription-Key"] == "[hidden]"
    assert entry["body"] == {"pin": "[hidden]", "note": "seen"}
    assert b"hunter2" not in answer.body
    assert sim.token.encode() not in answer.body


async def test_books_and_payments_are_cleared(sim: Mtn) -> None:
    reference = ref()
    await sim.pay(reference)
    await sim.settled(reference)

    assert (await sim.call("DELETE", "/_sim/books")).status == 204
    assert (await sim.call("DELETE", "/_sim/payments")).status == 204

    assert (await sim.books())["totals"]["charges"] == 0
    assert (await sim.status(reference)).status == 404


async def test_settings_are_shown_and_changed(sim: Mtn) -> None:
    wrong = await sim.call("PATCH", "/_sim/settings/mtn", json={"promt_ms": 1})
    await sim.configure(prompt_ms=0)

    shown = (await sim.call("GET", "/_sim/settings")).json["providers"]["mtn"]
    assert (wrong.status, "promt_ms" in wrong.json["detail"]) == (400, True)
    assert (shown["prompt_ms"], shown["webhook_secret"]) == (0, "[hidden]")


async def test_health_and_wrong_filters(sim: Mtn) -> None:
    assert (await sim.call("GET", "/_sim/health")).json == {"status": "ok", "providers": ["mtn"]}
    assert (await sim.call("GET", "/_sim/books?colour=red")).status == 400
    assert (await sim.call("GET", "/_sim/books?limit=-1")).status == 400


def test_settings_for_a_stranger_are_refused() -> None:
    with pytest.raises(ValueError, match="nobody"):
        build({"mtn": mtn.build}, settings=SimulatorSettings(providers={"nobody": {}}))


# Hostile input and limits.


async def test_bytes_that_are_not_text_break_nothing(sim: Mtn) -> None:
    head = b"HTTP/1.1\r\nHost: x\r\nConnection: close\r\nOcp-Apim-Subscription-Key: \xff\r\n"
    pay = b"POST /mtn/collection/v1_0/requesttopay "
    for junk in (
        b"\xff\xfe /mtn HTTP/1.1\r\n\r\n",
        b"GET /mtn/%ff%fe " + head + b"X-Reference-Id: \xff\xfe\r\n\r\n",
        pay + head + b"X-Reference-Id: \xff\r\nAuthorization: Bearer \xff.\xfe.\xff\r\n\r\n",
        pay + head + b"X-Callback-Url: http://[?\xff\r\nContent-Length: 2\r\n\r\n\xff\xfe",
        b"POST /mtn/collection/token/ " + head + b"Authorization: Basic \xff\r\n\r\n",
    ):
        answer = await raw_exchange(sim.url, junk)
        assert answer.startswith((b"HTTP/1.1 4", b"HTTP/1.0 4")), answer
        assert b"Traceback" not in answer

    assert (await sim.call("GET", "/_sim/requests")).status == 200


async def test_a_large_body_is_refused(start: Start) -> None:
    sim = await start(limits={"max_body_bytes": 1024})

    assert (await sim.pay(raw=b"x" * 2000)).status == 413
    assert (await sim.call("POST", "/_sim/faults", json="x" * 2000)).status == 413
    assert (await sim.call("GET", "/_sim/requests?path=requesttopay")).json["requests"][0]["answered"] == 413


async def test_memory_is_bounded(start: Start) -> None:
    sim = await start(limits={"max_payments": 2, "max_movements": 1, "max_requests": 3})
    first, second, third = ref(), ref(), ref()

    for reference in (first, second):
        await sim.pay(reference)
        await sim.settled(reference)
    await sim.pay(third)
    await sim.settled(third)

    assert (await sim.status(first)).status == 404
    assert (await sim.books())["totals"]["dropped"] == 2
    assert len((await sim.call("GET", "/_sim/requests")).json["requests"]) == 3


async def test_serve_says_when_it_is_ready_and_stops_quickly() -> None:
    program = (
        "import asyncio; from kobiri.simulator.app import serve; from kobiri.providers.mtn import simulator;"
        "asyncio.run(serve('127.0.0.1', 0, {'mtn': simulator.build}))"
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, stdout=asyncio.subprocess.PIPE, env={**os.environ}
    )
    try:
        assert process.stdout is not None
        line = (await asyncio.wait_for(process.stdout.readline(), DEADLINE_S)).decode()
        assert line.startswith("Simulator ready on http://127.0.0.1:")
        async with aiohttp.ClientSession() as http:
            sim = Mtn(line.split()[3], http)
            await sim.log_in()
            await sim.fault("hang", operation="create")
            hanging = asyncio.create_task(sim.pay())

            async def hangs() -> bool:
                return bool((await sim.call("GET", "/_sim/faults")).json["faults"][0]["used"])

            await until(hangs)
            process.send_signal(signal.SIGTERM)
            assert await asyncio.wait_for(process.wait(), DEADLINE_S) == 0
            with pytest.raises(aiohttp.ClientError):
                await hanging
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
