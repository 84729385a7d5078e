"""One account at pawaPay over real HTTP, against its simulator: outcomes, callbacks, keys, and what shows nowhere."""

import asyncio
import base64
import contextlib
import json
import logging
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

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
from kobiri.providers.base import Account, Authenticity, Callback, Collection, Payout, Provider, Refund, Request
from kobiri.providers.pawapay import simulator
from kobiri.providers.pawapay.adapter import KEYS_PAUSE_S, KEYS_WITHIN_S, SPEC, PawapayProvider
from kobiri.simulator.app import SimulatorSettings, build

DEADLINE_S = 10.0
K10 = Money(1_000, "ZMW")
PAYER = "260761234567"
CALLBACKS = "https://pay.example.com/canary-callback"
CANARIES = ("canary-token", "canary-callback", "canary-webhook", "761234567")


async def until(look: Callable[[], Awaitable[Any]]) -> Any:
    """What `look` sees once it sees something."""
    ends = time.monotonic() + DEADLINE_S
    while not (seen := await look()):
        if time.monotonic() > ends:
            pytest.fail(f"not within {DEADLINE_S} s")
        await asyncio.sleep(0.01)
    return seen


@dataclass
class Pawapay:
    """The simulator's control API, and what came in at our callback's door."""

    url: str
    hook: str
    http: aiohttp.ClientSession
    got: list[Callback] = field(default_factory=list)

    async def call(self, method: str, path: str, **options: Any) -> Any:
        async with self.http.request(method, self.url + path, **options) as answer:
            assert answer.status < 300, await answer.text()
            return await answer.json() if answer.status != 204 else None

    async def fault(self, kind: str, **parameters: Any) -> None:
        await self.call("POST", "/_sim/faults", json={"kind": kind, "provider": "pawapay", **parameters})

    async def configure(self, **options: Any) -> None:
        await self.call("PATCH", "/_sim/settings/pawapay", json=options)

    async def movements(self, reference: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = (await self.call("GET", f"/_sim/books?reference={reference}"))["movements"]
        return found

    async def requests(self, path: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = (await self.call("GET", f"/_sim/requests?path={path}"))["requests"]
        return found

    async def receive(self, request: web.Request) -> web.Response:
        headers = tuple((name.lower(), value) for name, value in request.headers.items())
        self.got.append(Callback(request.method, request.headers["Host"], request.path, headers, await request.read()))
        return web.Response()

    async def callback(self, number: int = 1) -> Callback:
        async def look() -> bool:
            return len(self.got) >= number

        await until(look)
        return self.got[number - 1]


@contextlib.asynccontextmanager
async def listening(app: web.Application) -> AsyncIterator[str]:
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@pytest.fixture
async def pawapay() -> AsyncIterator[Pawapay]:
    async with contextlib.AsyncExitStack() as stack:
        http = await stack.enter_async_context(aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=DEADLINE_S)))
        self = Pawapay("", "", http)
        door = web.Application()
        door.router.add_post("/api/v1/webhooks/pawapay", self.receive)
        self.hook = await stack.enter_async_context(listening(door)) + "/api/v1/webhooks/pawapay"
        urls = {f"{kind}_callback_url": self.hook for kind in ("deposit", "payout", "refund")}
        options = {"prompt_ms": 20, "api_tokens": ["canary-token"], **urls}
        settings = SimulatorSettings(providers={"pawapay": options})
        self.url = await stack.enter_async_context(listening(build({"pawapay": simulator.build}, settings=settings)))
        yield self


class Clock:
    now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def account_at(url: str, **changes: object) -> Account:
    """Changes of values and of the account's own fields, by their names."""
    names = {spec_field.name for spec_field in SPEC.fields}
    values = {"api_token": "canary-token", "currency": "ZMW", "callback_signatures": "required"}
    values |= {name: str(changes.pop(name)) for name in list(changes) if name in names}
    account = Account(
        base_url=url,
        modes=frozenset({"test"}),
        values=values,
        callback_url=CALLBACKS,
        webhook_secrets=(b"canary-webhook",),
        answer_within_s=5.0,
        deadline_s=5.0,
        max_connections=50,
    )
    return replace(account, **changes)  # type: ignore[arg-type]


@contextlib.asynccontextmanager
async def provider_at(
    url: str, clock: Clock | None = None, now: Callable[[], float] = time.time, **changes: object
) -> AsyncIterator[PawapayProvider]:
    provider = PawapayProvider(account_at(url, **changes), clock=clock or time.monotonic, now=now)
    try:
        yield provider
    finally:
        await provider.close()


@pytest.fixture
async def provider(pawapay: Pawapay) -> AsyncIterator[PawapayProvider]:
    async with provider_at(pawapay.url + "/pawapay") as provider:
        yield provider


def reference() -> ProviderReference:
    return ProviderReference(str(uuid.uuid4()))


def collection(payer: str = PAYER, network: str = "mtn") -> Collection:
    return Collection(reference(), K10, Msisdn(payer), network, "Order 7")


async def send(provider: PawapayProvider, request: Request, within_s: float = 5.0) -> Outcome:
    return await provider.send(request, within_s=within_s, first_byte_before=None)


async def final(provider: PawapayProvider, kind: Kind, wanted: ProviderReference) -> Finding:
    async def look() -> Finding | None:
        finding = await provider.find(kind, wanted, within_s=5.0)
        return None if isinstance(finding, Accepted) else finding

    found: Finding = await until(look)
    return found


async def paid(provider: PawapayProvider) -> Collection:
    request = collection()
    assert isinstance(await send(provider, request), Accepted)
    assert isinstance(await final(provider, "collection", request.reference), Succeeded)
    return request


# --- money --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("network", "payer"), [("mtn", PAYER), ("airtel", "260971234567"), ("zamtel", "260951234567")])
async def test_a_wallet_of_each_network_is_collected_from(
    pawapay: Pawapay, provider: PawapayProvider, network: str, payer: str
) -> None:
    request = collection(payer, network)
    assert await send(provider, request) == Accepted(calls_back=True)
    finding = await final(provider, "collection", request.reference)
    assert isinstance(finding, Succeeded)
    assert (finding.money, finding.payer) == (K10, payer)
    [movement] = await pawapay.movements(request.reference)
    assert (movement["kind"], movement["charged"], movement["msisdn"]) == ("collection", 1, payer)


async def test_money_is_paid_out_and_paid_back_in_parts(pawapay: Pawapay, provider: PawapayProvider) -> None:
    payout = Payout(reference(), K10, Msisdn(PAYER), "mtn", "Wages")
    assert await send(provider, payout) == Accepted(calls_back=True)
    assert isinstance(await final(provider, "payout", payout.reference), Succeeded)
    [movement] = await pawapay.movements(payout.reference)
    assert (movement["kind"], movement["amount"]) == ("payout", "10")

    deposit = await paid(provider)
    for minor in (250, 750):
        money = Money(minor, "ZMW")
        refund = Refund(reference(), money, Msisdn(PAYER), "mtn", None, deposit.reference, None)
        assert await send(provider, refund) == Accepted(calls_back=True)
        finding = await final(provider, "refund", refund.reference)
        assert isinstance(finding, Succeeded)
        assert (finding.money, finding.payer) == (money, PAYER)
        [movement] = await pawapay.movements(refund.reference)
        assert (movement["kind"], movement["charged"]) == ("refund", 1)
    refund = Refund(reference(), Money(1, "ZMW"), Msisdn(PAYER), "mtn", None, deposit.reference, None)
    assert await send(provider, refund) == Declined(FailureCode.PROVIDER_REJECTED, "DEPOSIT_ALREADY_REFUNDED")


async def test_the_same_reference_moves_money_once(pawapay: Pawapay, provider: PawapayProvider) -> None:
    request = collection()
    assert await send(provider, request) == Accepted(calls_back=True)
    assert await send(provider, request) == Accepted(calls_back=False)
    assert isinstance(await final(provider, "collection", request.reference), Succeeded)
    assert await send(provider, request) == Accepted(calls_back=False)
    [movement] = await pawapay.movements(request.reference)
    assert movement["charged"] == 1


async def test_nobody_waits_for_callbacks_without_an_address(pawapay: Pawapay) -> None:
    async with provider_at(pawapay.url + "/pawapay", callback_url=None) as provider:
        assert await send(provider, collection()) == Accepted(calls_back=False)


async def test_a_kind_is_asked_for_where_it_was_sent(provider: PawapayProvider) -> None:
    deposit = await paid(provider)
    assert await provider.find("payout", deposit.reference, within_s=5) == NotFound(firm=True)
    assert await provider.find("collection", reference(), within_s=5) == NotFound(firm=True)


async def test_what_pawapay_does_not_do_is_declined(pawapay: Pawapay, provider: PawapayProvider) -> None:
    await pawapay.configure(availability="CLOSED")
    unavailable = Declined(FailureCode.PROVIDER_UNAVAILABLE, "PROVIDER_TEMPORARILY_UNAVAILABLE")
    assert await send(provider, collection()) == unavailable
    await pawapay.configure(availability="OPERATIONAL")
    wrong = replace(collection(), money=Money(1_000, "EUR"))
    assert await send(provider, wrong) == Declined(FailureCode.PROVIDER_REJECTED, "INVALID_CURRENCY")
    request = collection("260763456039")
    assert isinstance(await send(provider, request), Accepted)
    declined = Declined(FailureCode.PAYER_DECLINED, "PAYMENT_NOT_APPROVED")
    assert await final(provider, "collection", request.reference) == declined


@pytest.mark.parametrize(
    ("fault", "unknown", "charged"),
    [
        ({"kind": "drop_after"}, Unknown("the connection was closed without an answer"), 1),
        ({"kind": "reset_after"}, None, 1),
        ({"kind": "error_after", "status": 500}, Unknown("HTTP 500 UNKNOWN_ERROR"), 1),
        ({"kind": "error_before", "status": 503, "shape": "html", "retry_after_s": 7}, None, 0),
        (
            {"kind": "error_before", "status": 403, "code": "AUTHENTICATION_ERROR"},
            Unknown("HTTP 403 AUTHENTICATION_ERROR", outage=False, refused=True),
            0,
        ),
        ({"kind": "html_200", "processed": True}, Unknown("the body is not JSON"), 1),
        ({"kind": "hang", "processed": True}, Unknown("no answer in time"), 1),
    ],
)
async def test_after_the_first_byte_everything_strange_is_unknown_and_said_once(
    pawapay: Pawapay, provider: PawapayProvider, fault: dict[str, Any], unknown: Unknown | None, charged: int
) -> None:
    await pawapay.fault(operation="create", times=1, **fault)
    request = collection()
    outcome = await send(provider, request, within_s=2.0)
    assert isinstance(outcome, Unknown)
    assert unknown is None or outcome == unknown
    assert outcome.retry_after_s == fault.get("retry_after_s")
    assert len(await pawapay.requests("/v2/deposits")) == 1
    finding = await final(provider, "collection", request.reference)
    assert isinstance(finding, Succeeded if charged else NotFound)
    assert sum(one["charged"] for one in await pawapay.movements(request.reference)) == charged


async def test_before_the_first_byte_nothing_was_sent(pawapay: Pawapay, provider: PawapayProvider) -> None:
    late = await provider.send(collection(), within_s=5, first_byte_before=time.monotonic() - 1)
    assert late == NotSent("it was held up for too long", outage=False)
    assert await send(provider, collection(), within_s=0) == NotSent("no time is left")
    async with provider_at("http://127.0.0.1:9") as nowhere:
        outcome = await send(nowhere, collection())
        assert isinstance(outcome, NotSent)
        assert isinstance(await nowhere.find("collection", reference(), within_s=1), Unknown)
    assert await pawapay.requests("/v2/deposits") == []


async def test_a_refused_token_moves_nothing_and_proves_nothing(pawapay: Pawapay, provider: PawapayProvider) -> None:
    deposit = await paid(provider)
    async with provider_at(pawapay.url + "/pawapay", api_token="canary-token-of-old") as stranger:
        refused = Unknown("HTTP 403 AUTHENTICATION_ERROR", outage=False, refused=True)
        assert await send(stranger, collection()) == refused
        assert await stranger.find("collection", deposit.reference, within_s=5) == refused


# --- callbacks ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["raw", "der"])
async def test_a_signed_callback_is_genuine_and_says_all(
    pawapay: Pawapay, provider: PawapayProvider, form: str
) -> None:
    await pawapay.configure(callback_signatures=form)
    deposit = await paid(provider)
    callback = await pawapay.callback()
    assert await provider.verify(callback) is Authenticity.GENUINE
    word = provider.read_callback(callback)
    assert isinstance(word.finding, Succeeded)
    assert (word.reference, word.money, word.payer) == (deposit.reference, K10, PAYER)
    assert await provider.verify(replace(callback, body=callback.body + b" ")) is Authenticity.FORGED
    assert await provider.verify(replace(callback, path="/other")) is Authenticity.FORGED


async def test_payouts_and_refunds_call_back_too(pawapay: Pawapay, provider: PawapayProvider) -> None:
    deposit = await paid(provider)
    await pawapay.callback(1)
    payout = Payout(reference(), K10, Msisdn(PAYER), "mtn", None)
    refund = Refund(reference(), K10, Msisdn(PAYER), "mtn", None, deposit.reference, None)
    for number, request in ((2, payout), (3, refund)):
        await send(provider, request)
        callback = await pawapay.callback(number)
        assert await provider.verify(callback) is Authenticity.GENUINE
        word = provider.read_callback(callback)
        assert (word.reference, word.money, word.payer) == (request.reference, K10, PAYER)


async def test_forged_and_unsigned_callbacks_are_refused(pawapay: Pawapay, provider: PawapayProvider) -> None:
    await pawapay.fault("forged", times=1)
    await pawapay.fault("payer", decision="ignore", times=1)
    await send(provider, collection())
    assert await provider.verify(await pawapay.callback(1)) is Authenticity.FORGED
    await pawapay.fault("unsigned", times=1)
    await send(provider, collection())
    assert await provider.verify(await pawapay.callback(2)) is Authenticity.FORGED


async def test_without_signatures_every_callback_is_a_hint(pawapay: Pawapay) -> None:
    async with provider_at(pawapay.url + "/pawapay", callback_signatures="off") as provider:
        await paid(provider)
        assert await provider.verify(await pawapay.callback()) is Authenticity.UNSIGNED
    assert await pawapay.requests("/v2/public-key/http") == []


async def test_an_old_callback_is_a_hint(pawapay: Pawapay) -> None:
    async with provider_at(pawapay.url + "/pawapay", now=lambda: time.time() + 3600) as provider:
        await paid(provider)
        assert await provider.verify(await pawapay.callback()) is Authenticity.UNSIGNED


async def test_a_new_key_is_learnt_and_strangers_make_us_ask_once_a_minute(pawapay: Pawapay) -> None:
    clock = Clock()
    async with provider_at(pawapay.url + "/pawapay", clock) as provider:
        await paid(provider)
        first = await pawapay.callback(1)
        verdicts = await asyncio.gather(*(provider.verify(first) for _ in range(20)))
        assert verdicts == [Authenticity.GENUINE] * 20
        await pawapay.configure(signing_key=2)
        await paid(provider)
        second = await pawapay.callback(2)
        assert await provider.verify(second) is Authenticity.FORGED
        assert len(await pawapay.requests("/v2/public-key/http")) == 1
        clock.now_s += KEYS_PAUSE_S
        assert await provider.verify(second) is Authenticity.GENUINE
        assert await provider.verify(first) is Authenticity.FORGED
        assert len(await pawapay.requests("/v2/public-key/http")) == 2


async def test_keys_that_may_be_old_forge_nothing(pawapay: Pawapay) -> None:
    """A key was replaced, and the new one cannot be asked for: the callback may be genuine."""
    clock = Clock()
    async with provider_at(pawapay.url + "/pawapay", clock) as provider:
        await paid(provider)
        assert await provider.verify(await pawapay.callback(1)) is Authenticity.GENUINE
        await pawapay.configure(signing_key=2)
        await paid(provider)
        await pawapay.fault("outage", operation="check")
        clock.now_s += KEYS_PAUSE_S
        assert await provider.verify(await pawapay.callback(2)) is Authenticity.UNSIGNED
        assert await provider.verify(await pawapay.callback(1)) is Authenticity.GENUINE


@pytest.mark.parametrize(
    "fault",
    [
        {"kind": "outage"},
        {"kind": "error_before", "status": 403, "code": "AUTHENTICATION_ERROR"},
        {"kind": "html_200"},
        {"kind": "drop_after"},
    ],
)
async def test_keys_out_of_reach_make_a_hint_and_never_a_proof(pawapay: Pawapay, fault: dict[str, Any]) -> None:
    clock = Clock()
    async with provider_at(pawapay.url + "/pawapay", clock) as provider:
        await paid(provider)
        callback = await pawapay.callback()
        # A GET is written twice when its connection is lost: two are dropped.
        await pawapay.fault(operation="check", times=2 if fault["kind"] == "drop_after" else 1, **fault)
        assert await provider.verify(callback) is Authenticity.UNSIGNED
        assert await provider.verify(callback) is Authenticity.UNSIGNED
        clock.now_s += KEYS_PAUSE_S
        assert await provider.verify(callback) is Authenticity.GENUINE


async def test_a_key_of_the_owners_is_the_only_one(pawapay: Pawapay, provider: PawapayProvider) -> None:
    await paid(provider)
    callback = await pawapay.callback()
    headers = {"Authorization": "Bearer canary-token"}
    [key] = await pawapay.call("GET", "/pawapay/v2/public-key/http", headers=headers)
    asked = len(await pawapay.requests("/v2/public-key/http"))
    stranger = ec.generate_private_key(ec.SECP256R1()).public_key()
    other = stranger.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    for pem, authenticity in (
        (key["key"], Authenticity.GENUINE),
        (other, Authenticity.FORGED),
        ("not a key", Authenticity.UNSIGNED),
    ):
        async with provider_at(pawapay.url + "/pawapay", callback_public_key=pem) as pinned:
            assert await pinned.verify(callback) is authenticity
    assert len(await pawapay.requests("/v2/public-key/http")) == asked


async def test_closing_ends_a_question_for_keys_that_hangs(pawapay: Pawapay) -> None:
    await pawapay.fault("hang", operation="check")
    provider = PawapayProvider(account_at(pawapay.url + "/pawapay"))
    await paid(provider)
    waiting = asyncio.create_task(provider.verify(await pawapay.callback()))

    async def asked() -> bool:
        return bool(await pawapay.requests("/v2/public-key/http"))

    await until(asked)
    async with asyncio.timeout(KEYS_WITHIN_S / 2):
        await provider.close()
    assert await waiting is Authenticity.UNSIGNED


# --- the account --------------------------------------------------------------------------------------------


async def test_check_tells_whether_the_account_works(pawapay: Pawapay, provider: PawapayProvider) -> None:
    assert (await provider.check(within_s=5)).trouble is None
    async with provider_at(pawapay.url + "/pawapay", api_token="canary-token-of-old") as stranger:
        told = (await stranger.check(within_s=5)).trouble
        assert told == "pawaPay does not take this account: HTTP 403 AUTHENTICATION_ERROR"
    async with provider_at("http://127.0.0.1:9") as nowhere:
        assert ((await nowhere.check(within_s=5)).trouble or "").startswith("pawaPay does not answer: ")
    async with provider_at(pawapay.url + "/pawapay", callback_public_key="not a key") as pinned:
        assert ((await pinned.check(within_s=5)).trouble or "").startswith("callback_public_key is not ")


async def test_the_account_is_what_a_provider_is(pawapay: Pawapay) -> None:
    async with provider_at(pawapay.url) as made:
        provider: Provider = made
        assert provider.spec is SPEC
        assert SPEC.networks == {"mtn", "airtel", "zamtel"}
        assert provider.currencies == {"ZMW"}
        for operation in SPEC.operations.values():
            assert (operation.dedupes, operation.status_query) == (True, "firm")
        assert [kind for kind, operation in SPEC.operations.items() if operation.partial] == ["refund"]


@pytest.mark.parametrize(
    ("url", "known"),
    [
        (SPEC.base_url, "test"),
        ("https://API.sandbox.pawapay.io/", "test"),
        ("https://api.pawapay.io", "live"),
        ("https://api.pawapay.io./sandbox", "live"),
        ("https://sandbox.example.com", None),
        ("https://api.sandbox.pawapay.io@example.com", None),
        ("http://[", None),
        ("not a url", None),
    ],
)
def test_the_host_tells_the_mode(url: str, known: str | None) -> None:
    assert SPEC.known_mode(url) == known


def jwt(subject: str, number: int) -> str:
    claims = json.dumps({"sub": subject, "jti": number}).encode()
    return f"eyJhbGciOiJFUzI1NiJ9.{base64.urlsafe_b64encode(claims).decode()}.c2ln"


async def test_a_fingerprint_follows_the_account_and_not_its_token() -> None:
    async def fingerprint(token: str, url: str = "https://api.pawapay.io", **changes: Any) -> str:
        async with provider_at(url, api_token=token, **changes) as provider:
            return provider.fingerprint_of("collection")

    ours = await fingerprint(jwt("135", 1))
    assert len(ours) == 16
    int(ours, 16)
    assert await fingerprint(jwt("135", 2)) == ours
    assert await fingerprint(jwt("135", 1), "https://api.pawapay.io/") == ours
    assert await fingerprint(jwt("135", 1), callback_url=None, callback_signatures="off") == ours
    others = [
        await fingerprint(jwt("136", 1)),
        await fingerprint(jwt("135", 1), "https://api.sandbox.pawapay.io"),
        await fingerprint("opaque"),
        await fingerprint("opaque too"),
    ]
    assert len({ours, *others}) == 5


async def test_secrets_and_numbers_show_nowhere(pawapay: Pawapay, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    account = account_at(pawapay.url + "/pawapay", callback_public_key="canary-token")
    provider = PawapayProvider(account)
    told = [repr(account), str(account), repr(provider), repr(SPEC), provider.fingerprint_of("collection")]
    faults: list[dict[str, Any]] = [
        {"kind": "drop_after"},
        {"kind": "error_before", "status": 403, "code": "AUTHENTICATION_ERROR"},
        {"kind": "error_before", "status": 400, "body": '{"failureReason": "canary-token"}'},
        {"kind": "error_before", "status": 500, "body": "canary-token 260761234567"},
    ]
    for fault in faults:
        await pawapay.fault(times=2, **fault)
        request = collection()
        told.append(repr(await send(provider, request)))
        told.append(repr(await provider.find("collection", request.reference, within_s=5)))
        told.append(repr(await provider.check(within_s=5)))
        await pawapay.call("DELETE", "/_sim/faults")
    told.append(repr(await send(provider, collection("260763456039"))))
    callback = Callback("POST", "pay.example.com", "/x", (), b'{"depositId": "canary-token", "status": "FAILED"}')
    told.append(repr(await provider.verify(callback)))
    with pytest.raises(Exception, match="no callback") as refused:
        provider.read_callback(callback)
    told.append(repr(refused.value))
    await provider.close()
    told.append(repr(await send(provider, collection())))
    told.append(caplog.text)
    assert [canary for canary in CANARIES if canary in "".join(told)] == []
