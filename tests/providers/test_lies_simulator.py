"""What simulators say that is not so, over real sockets; and the books, which tell what moved all the same."""

import asyncio
import contextlib
import json
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from kobiri.providers import registry
from kobiri.simulator.app import SimulatorSettings, build

DEADLINE_S = 10.0
PAYER = {"mtn": "260961234567", "airtel": "260971234567", "zamtel": "260951234567", "pawapay": "260763456789"}
ASKABLE = ("mtn", "airtel", "pawapay")
SUCCESS = {"mtn": "SUCCESSFUL", "airtel": "TS", "pawapay": "COMPLETED", "zamtel": "0"}
FAILURE = {"mtn": "FAILED", "airtel": "TF", "pawapay": "FAILED", "zamtel": "E8003"}
PENDING = {"mtn": "PENDING", "airtel": "TIP", "pawapay": "PROCESSING"}


@dataclass
class Told:
    """What was answered, read the way its provider writes it."""

    provider: str
    status: int
    body: bytes
    headers: Any

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def about(self) -> Any:
        """The part that speaks of the payment."""
        read = self.json
        match self.provider:
            case "airtel":
                return read["data"]["transaction"] if "data" in read else read["transaction"]
            case "pawapay":
                return read.get("data", read)
            case _:
                return read

    @property
    def word(self) -> Any:
        about = self.about
        return about.get("status", about.get("status_code"))

    @property
    def reference(self) -> Any:
        return self.about.get({"mtn": "externalId", "airtel": "id", "pawapay": "depositId"}[self.provider])

    @property
    def transaction(self) -> Any:
        names = {
            "mtn": "financialTransactionId",
            "airtel": "airtel_money_id",
            "pawapay": "providerTransactionId",
            "zamtel": "TransactionId",
        }
        return self.about.get(names[self.provider])

    @property
    def wallet(self) -> Any:
        match self.provider:
            case "mtn":
                return self.about.get("payer", {}).get("partyId")
            case "pawapay":
                return self.about["payer"]["accountDetails"].get("phoneNumber")
            case _:
                return self.about["message"].removesuffix(".").rpartition(" ")[2]  # Airtel names it in a sentence


@dataclass
class Sim:
    """One client of all the providers, the control API beside them, and a shop that takes callbacks."""

    url: str
    http: aiohttp.ClientSession
    tokens: dict[str, str] = field(default_factory=dict)
    called_back: list[Told] = field(default_factory=list)

    async def call(self, method: str, path: str, provider: str = "", **options: Any) -> Told:
        async with self.http.request(method, self.url + path, **options) as answer:
            return Told(provider, answer.status, await answer.read(), answer.headers)

    async def headers(self, provider: str, product: str = "collection") -> dict[str, str]:
        if provider not in self.tokens:
            match provider:
                case "mtn":
                    told = await self.token(product)
                    self.tokens[provider] = told.json["access_token"]
                case "airtel":
                    asked = {"client_id": "any", "client_secret": "any", "grant_type": "client_credentials"}
                    told = await self.call("POST", "/airtel/auth/oauth2/token", json=asked)
                    self.tokens[provider] = told.json["access_token"]
                case _:
                    self.tokens[provider] = "any"
        return {
            "Authorization": f"Bearer {self.tokens[provider]}",
            "Ocp-Apim-Subscription-Key": "any",
            "X-Target-Environment": "mtnzambia",
            "X-Country": "ZM",
            "X-Currency": "ZMW",
        }

    async def token(self, product: str) -> Told:
        headers = {"Ocp-Apim-Subscription-Key": "any", "Authorization": aiohttp.encode_basic_auth("any", "any")}
        return await self.call("POST", f"/mtn/{product}/token/", "mtn", headers=headers)

    async def create(self, provider: str, reference: str | None = None) -> Told:
        reference = reference or str(uuid.uuid4())
        payer, headers = PAYER[provider], await self.headers(provider)
        match provider:
            case "mtn":
                headers |= {"X-Reference-Id": reference, "X-Callback-Url": f"{self.url}/shop/mtn"}
                party = {"partyIdType": "MSISDN", "partyId": payer}
                ask = {"amount": "10.50", "currency": "ZMW", "externalId": reference, "payer": party}
                return await self.call("POST", "/mtn/collection/v1_0/requesttopay", provider, json=ask, headers=headers)
            case "airtel":
                terms = {"amount": 10.50, "id": reference.replace("-", "")}
                ask = {"reference": "Order7", "subscriber": {"msisdn": payer[3:]}, "transaction": terms}
                return await self.call("POST", "/airtel/merchant/v1/payments/", provider, json=ask, headers=headers)
            case "pawapay":
                wallet = {"type": "MMO", "accountDetails": {"phoneNumber": payer, "provider": "MTN_MOMO_ZMB"}}
                ask = {"depositId": reference, "amount": "10.50", "currency": "ZMW", "payer": wallet}
                return await self.call("POST", "/pawapay/v2/deposits", provider, json=ask, headers=headers)
            case _:
                asked = {
                    "ThirdPartyID": "any",
                    "Password": "any",
                    "Shortcode": "any",
                    "Amount": "10.50",
                    "Msisdn": payer,
                    "ConversationId": reference,
                }
                return await self.call("GET", "/zamtel/Req", provider, params=asked)

    async def ask(self, provider: str, reference: str) -> Told:
        paths = {
            "mtn": f"/mtn/collection/v1_0/requesttopay/{reference}",
            "airtel": f"/airtel/standard/v1/payments/{reference.replace('-', '')}",
            "pawapay": f"/pawapay/v2/deposits/{reference}",
        }
        return await self.call("GET", paths[provider], provider, headers=await self.headers(provider))

    async def settled(self, provider: str, word: str | None = None) -> str:
        """A new payment's reference, once it has its final word."""
        reference = str(uuid.uuid4())
        assert (await self.create(provider, reference)).status in (200, 202)

        async def final() -> bool:
            told: str = (await self.ask(provider, reference)).word
            return told == (word or SUCCESS[provider])

        await until(final)
        return reference

    async def fault(self, provider: str, kind: str, **parameters: Any) -> None:
        fault = {"kind": kind, "provider": provider, **parameters}
        answer = await self.call("POST", "/_sim/faults", json=fault)
        assert answer.status == 201, answer.body

    async def books(self, reference: str) -> list[Any]:
        spelt = (reference, reference.replace("-", ""))
        shown = [(await self.call("GET", f"/_sim/books?reference={each}")).json["movements"] for each in spelt]
        return [movement for movements in shown for movement in movements]

    async def charged(self, reference: str) -> int:
        return sum(movement["charged"] for movement in await self.books(reference))

    async def callbacks(self, number: int) -> list[Told]:
        async def come() -> bool:
            return len(self.called_back) >= number

        await until(come)
        return self.called_back


async def until(look: Callable[[], Awaitable[bool]]) -> None:
    ends = time.monotonic() + DEADLINE_S
    while not await look():
        if time.monotonic() > ends:
            pytest.fail(f"not within {DEADLINE_S} s")
        await asyncio.sleep(0.01)


Start = Callable[..., Awaitable[Sim]]


@pytest.fixture
async def sim() -> AsyncIterator[Sim]:
    """Payers take 30 ms; callbacks come back to this very server, under /shop."""
    options: dict[str, dict[str, Any]] = {name: {"prompt_ms": 30} for name in PAYER}
    app = build(registry.simulators(), settings=SimulatorSettings(providers=options))
    async with contextlib.AsyncExitStack() as stack:
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        http = await stack.enter_async_context(aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=DEADLINE_S)))
        http._retry_connection = False  # it would repeat a GET whose connection is closed
        told = Sim("", http)

        async def take(request: web.Request) -> web.Response:
            provider = request.match_info["provider"]
            told.called_back.append(Told(provider, 200, await request.read(), request.headers))
            return web.Response()

        app.router.add_post("/shop/{provider}", take)
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        told.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        hooks = {"airtel": {"callback_url": "airtel"}, "pawapay": {"deposit_callback_url": "pawapay"}}
        for provider, names in hooks.items():
            urls = {name: f"{told.url}/shop/{shop}" for name, shop in names.items()}
            assert (await told.call("PATCH", f"/_sim/settings/{provider}", json=urls)).status == 200
        yield told


# --- words ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("provider", ASKABLE)
async def test_a_status_says_another_word_once_and_then_the_true_one(sim: Sim, provider: str) -> None:
    paid = await sim.settled(provider)
    await sim.fault(provider, "wrong_word", words=["failed"], times=1)
    assert [(await sim.ask(provider, paid)).word for _ in range(2)] == [FAILURE[provider], SUCCESS[provider]]

    await sim.fault(provider, "payer", decision="reject")
    refused = await sim.settled(provider, FAILURE[provider])
    await sim.fault(provider, "wrong_word", words=["paid"], times=1)
    untrue, true = await sim.ask(provider, refused), await sim.ask(provider, refused)

    assert (untrue.word, true.word) == (SUCCESS[provider], FAILURE[provider])
    assert untrue.transaction
    assert (await sim.charged(paid), await sim.charged(refused)) == (1, 0)


@pytest.mark.parametrize("provider", ASKABLE)
async def test_words_flap_and_may_be_new_ones(sim: Sim, provider: str) -> None:
    reference = await sim.settled(provider)
    await sim.fault(provider, "wrong_word", words=["failed", "pending", "paid", "REVERSED"], times=5)

    told = [(await sim.ask(provider, reference)).word for _ in range(6)]

    failed, paid = FAILURE[provider], SUCCESS[provider]
    assert told == [failed, PENDING[provider], paid, "REVERSED", failed, paid]
    assert await sim.charged(reference) == 1


@pytest.mark.parametrize("provider", PAYER)
async def test_the_answer_to_a_request_refuses_what_it_took(sim: Sim, provider: str) -> None:
    reference = str(uuid.uuid4())
    await sim.fault(provider, "wrong_word", operation="create", words=["failed"], times=1)

    refused = await sim.create(provider, reference)

    refusals = {"mtn": b"PAYER_NOT_FOUND", "airtel": b"DP00800001008", "pawapay": b"REJECTED", "zamtel": b"E8003"}
    assert refusals[provider] in refused.body
    assert b"TransactionId" not in refused.body

    async def charged() -> bool:
        return await sim.charged(reference) == 1

    await until(charged)


@pytest.mark.parametrize("provider", ["airtel", "pawapay", "zamtel"])
async def test_the_answer_to_a_request_may_be_a_new_word(sim: Sim, provider: str) -> None:
    await sim.fault(provider, "wrong_word", operation="create", words=["PARKED"], times=1)
    assert (await sim.create(provider)).word == "PARKED"


# --- facts ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("provider", ASKABLE)
@pytest.mark.parametrize("where", ["status", "callback"])
async def test_the_number_is_written_otherwise_or_hidden(sim: Sim, provider: str, where: str) -> None:
    payer = PAYER[provider]
    styles = {"masked": f"{payer[:5]}*****{payer[-2:]}", "national": payer[3:], "number": int(payer), "absent": None}
    for number, (style, wanted) in enumerate(styles.items(), 1):
        if where == "status":
            reference = await sim.settled(provider)
        await sim.fault(provider, "payer_as", operation=where, style=style, times=1)
        if where == "callback":
            reference = await sim.settled(provider)
        told = (await sim.callbacks(number))[-1] if where == "callback" else await sim.ask(provider, reference)
        if provider == "airtel":  # a sentence has no types
            assert told.wallet == ("wallet" if wanted is None else str(wanted))
        else:
            assert told.wallet == wanted
        assert [movement["msisdn"] for movement in await sim.books(reference)] == [payer]


@pytest.mark.parametrize("provider", ASKABLE)
@pytest.mark.parametrize("where", ["status", "callback"])
async def test_the_reference_is_another_one_or_none(sim: Sim, provider: str, where: str) -> None:
    for number, told in enumerate(("another", None), 1):
        if where == "status":
            reference = await sim.settled(provider)
        await sim.fault(provider, "wrong_reference", operation=where, told=told, times=1)
        if where == "callback":
            await sim.settled(provider)
        answer = (await sim.callbacks(number))[-1] if where == "callback" else await sim.ask(provider, reference)
        assert answer.reference == told
        await sim.call("DELETE", "/_sim/faults")


@pytest.mark.parametrize("provider", PAYER)
async def test_two_payments_bear_one_transaction_id(sim: Sim, provider: str) -> None:
    await sim.fault(provider, "wrong_transaction", told="7000000001")
    if provider == "zamtel":
        told = [await sim.create(provider) for _ in range(2)]
    else:
        told = [await sim.ask(provider, await sim.settled(provider)) for _ in range(2)]
    assert [answer.transaction for answer in told] == ["7000000001"] * 2


@pytest.mark.parametrize("provider", PAYER)
async def test_another_amount_moves_and_the_books_say_so(sim: Sim, provider: str) -> None:
    await sim.fault(provider, "charged_amount", amount="9.00", times=1)
    if provider == "zamtel":
        reference = str(uuid.uuid4())
        await sim.create(provider, reference)
    else:
        reference = await sim.settled(provider)
        assert b"9.00" in (await sim.ask(provider, reference)).body
        assert b"10.50" not in (await sim.ask(provider, reference)).body
    assert [(one["amount"], one["moved"], one["charged"]) for one in await sim.books(reference)] == [
        ("9.00", "9.00", 1)
    ]


async def test_the_books_add_up_what_moved_under_one_reference(sim: Sim) -> None:
    reference = str(uuid.uuid4())
    await sim.fault("zamtel", "charged_amount", amount="0.50", skip=1)
    for _ in range(3):
        await sim.create("zamtel", reference)
    (movement,) = await sim.books(reference)
    assert (movement["amount"], movement["moved"], movement["charged"]) == ("10.50", "11.50", 3)
    assert (await sim.call("GET", "/_sim/books")).json["totals"]["amounts"] == {"ZMW": "11.50"}


# --- bytes ----------------------------------------------------------------------------------------------------------

GARBLINGS: dict[str, Callable[[bytes, bytes], bool]] = {
    "bom": lambda told, true: told == b"\xef\xbb\xbf" + true,
    "nan": lambda told, true: told == b'{"rate":NaN,' + true[1:],
    "deep": lambda told, true: told.startswith(b'{"detail":[[[[') and told.endswith(true[1:]) and len(told) > 40_000,
    "duplicate_keys": lambda told, true: json.loads(told) == json.loads(true) and len(told) > len(true) * 1.2,
    "truncated": lambda told, true: told == true[: len(true) // 2],
    "bytes": lambda told, true: b"\xff\xfe" in told and told.endswith(true[1:]),
    "array": lambda told, true: told == b"[" + true + b"]",
    "null": lambda told, true: told == b"null",
    "empty": lambda told, true: told == b"",
}


@pytest.mark.parametrize("provider", ASKABLE)
async def test_json_is_garbled_and_nothing_else(sim: Sim, provider: str) -> None:
    reference = await sim.settled(provider)
    true = (await sim.ask(provider, reference)).body
    for style, holds in GARBLINGS.items():
        await sim.fault(provider, "garbled", operation="status", style=style, times=1)
        told = await sim.ask(provider, reference)
        assert told.status == 200
        assert holds(told.body, true), style
    assert (await sim.ask(provider, reference)).body == true


SIGNS: dict[str, Callable[[bytes], bool]] = {
    "bom": lambda told: told.startswith(b"\xef\xbb\xbf{"),
    "nan": lambda told: told.startswith(b'{"rate":NaN,'),
    "deep": lambda told: told.startswith(b'{"detail":[[[['),
    "duplicate_keys": lambda told: told.count(b'"status') + told.count(b'"id"') >= 2 and b'"0"' in told,
    "truncated": lambda told: told.startswith(b"{") and not told.endswith(b"}"),
    "bytes": lambda told: told.startswith(b'{"note":"\xff\xfe",'),
    "array": lambda told: told.startswith(b"[{"),
    "null": lambda told: told == b"null",
    "empty": lambda told: told == b"",
}


@pytest.mark.parametrize("provider", PAYER)
async def test_callbacks_are_garbled_and_the_only_word_of_one_who_cannot_be_asked(sim: Sim, provider: str) -> None:
    for number, (style, holds) in enumerate(SIGNS.items(), 1):
        askable = provider in ASKABLE
        await sim.fault(provider, "garbled", operation="callback" if askable else "create", style=style, times=1)
        reference = str(uuid.uuid4())
        answer = await sim.create(provider, reference)
        told = (await sim.callbacks(number))[-1] if askable else answer
        assert holds(told.body), style
        assert await sim.charged(reference) == 1


# --- refusals -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("header", ["86400000000000000000", "-1", "NaN", "Fri, 31 Dec 9999 23:59:59 GMT", ""])
async def test_a_retry_after_that_nobody_should_heed(sim: Sim, header: str) -> None:
    await sim.fault("mtn", "error_before", operation="create", status=429, retry_after=header, times=1)
    answer = await sim.create("mtn")
    assert (answer.status, answer.headers["Retry-After"]) == (429, header)


async def test_one_product_refuses_and_the_other_serves(sim: Sim) -> None:
    await sim.fault("mtn", "error_before", operation="token", status=401, product="disbursement")
    assert (await sim.token("disbursement")).status == 401
    assert (await sim.token("collection")).status == 200


@pytest.mark.parametrize("provider", ["airtel", "pawapay", "zamtel"])
async def test_a_fault_is_aimed_at_collections_only(sim: Sim, provider: str) -> None:
    await sim.fault(provider, "error_before", status=401, product="disbursement")
    assert (await sim.create(provider)).status == 200
    await sim.fault(provider, "error_before", status=401, product="collection")
    assert (await sim.create(provider)).status == 401


@pytest.mark.parametrize("provider", PAYER)
async def test_403_everywhere(sim: Sim, provider: str) -> None:
    await sim.headers(provider)
    await sim.fault(provider, "error_before", status=403)
    assert (await sim.create(provider)).status == 403


# --- what comes later -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("provider", PAYER)
@pytest.mark.parametrize("status", [None, 503])
async def test_a_request_that_nobody_knows_is_carried_out_later(sim: Sim, provider: str, status: int | None) -> None:
    reference = str(uuid.uuid4())
    await sim.headers(provider)
    await sim.fault(provider, "queued", ms=300, times=1, **({} if status is None else {"status": status}))
    if status is None:
        with pytest.raises(aiohttp.ClientError):
            await sim.create(provider, reference)
    else:
        assert (await sim.create(provider, reference)).status == status
    if provider != "zamtel":
        unknown = await sim.ask(provider, reference)
        assert unknown.status == 404 or b"not found" in unknown.body or b"NOT_FOUND" in unknown.body
    assert await sim.charged(reference) == 0

    async def charged() -> bool:
        return await sim.charged(reference) == 1

    await until(charged)


@pytest.mark.parametrize("provider", ASKABLE)
async def test_a_queued_request_and_its_repeat_are_one_payment(sim: Sim, provider: str) -> None:
    reference = str(uuid.uuid4())
    await sim.headers(provider)
    await sim.fault(provider, "queued", ms=200, times=1, status=503)
    assert (await sim.create(provider, reference)).status == 503
    assert (await sim.create(provider, reference)).status in (200, 202)
    await asyncio.sleep(0.4)
    assert await sim.charged(reference) == 1


@pytest.mark.parametrize("provider", ASKABLE)
@pytest.mark.parametrize("signed", [True, False, "wrong"])
async def test_a_callback_comes_before_anything_happened(sim: Sim, provider: str, signed: bool | str) -> None:
    await sim.fault(provider, "payer", decision="ignore")
    await sim.fault(provider, "premature", signed=signed, times=1)
    reference = str(uuid.uuid4())
    await sim.create(provider, reference)

    (told,) = await sim.callbacks(1)

    assert told.word == SUCCESS[provider]
    sent = [
        entry
        for each in (reference, reference.replace("-", ""))
        for entry in (await sim.call("GET", f"/_sim/callbacks?reference={each}")).json["callbacks"]
    ]
    assert [entry["kind"] for entry in sent] == ["premature"]
    assert await sim.charged(reference) == 0


@pytest.mark.parametrize("provider", ASKABLE)
async def test_a_callback_contradicts_the_one_before(sim: Sim, provider: str) -> None:
    await sim.fault(provider, "contradicting", times=1)
    reference = await sim.settled(provider)
    told = await sim.callbacks(2)
    assert [each.word for each in told] == [SUCCESS[provider], FAILURE[provider]]
    assert await sim.charged(reference) == 1


# --- whom it met ----------------------------------------------------------------------------------------------------


async def test_it_is_known_which_payments_were_lied_about(sim: Sim) -> None:
    honest, other = await sim.settled("mtn"), await sim.settled("pawapay")
    await sim.fault("mtn", "wrong_word", words=["paid"], reference=honest, times=2)
    for _ in range(3):
        await sim.ask("mtn", honest)

    hits = (await sim.call("GET", "/_sim/faults/hits")).json["hits"]

    (hit,) = hits
    assert abs(time.time() - hit.pop("last_at")) < DEADLINE_S
    assert hit == {
        "provider": "mtn",
        "reference": honest,
        "fault": "f1",
        "kind": "wrong_word",
        "operation": "status",
        "word": "paid",
        "times": 2,
    }
    assert (await sim.call("GET", f"/_sim/faults/hits?reference={other}")).json["hits"] == []


@pytest.mark.parametrize(
    ("fault", "field"),
    [
        ({"kind": "wrong_word"}, "words"),
        ({"kind": "wrong_word", "words": []}, "words"),
        ({"kind": "payer_as", "style": "upside down"}, "style"),
        ({"kind": "garbled", "style": "gzip"}, "style"),
        ({"kind": "queued"}, "ms"),
        ({"kind": "charged_amount", "amount": "-1"}, "amount"),
        ({"kind": "error_before", "retry_after": "1\r\nX-Evil: 1"}, "retry_after"),
        ({"kind": "outage", "product": "remittance"}, "product"),
        ({"kind": "contradicting", "operation": "status"}, "operation"),
    ],
)
async def test_a_lie_that_cannot_be_told_is_refused(sim: Sim, fault: dict[str, Any], field: str) -> None:
    answer = await sim.call("POST", "/_sim/faults", json=fault)
    assert answer.status == 400
    assert f"`{field}`" in answer.json["detail"]
