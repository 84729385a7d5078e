"""What every provider must keep, driven against its own simulator over real HTTP.

A provider takes part by its line in the registry alone; here is nothing about any of them. What it declares in its spec
switches cases off, and each skip says which. `docs/providers.md` tells what a simulator brings for this suite.
"""

import asyncio
import inspect
import json
import logging
import re
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import aiohttp
import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from kobiri.config import Settings
from kobiri.domain.ids import PaymentId, ProviderReference, TenantId
from kobiri.domain.money import Money
from kobiri.domain.msisdn import COUNTRIES, Msisdn
from kobiri.domain.outcome import (
    Accepted,
    Declined,
    Doubtful,
    FailureCode,
    Finding,
    NotFound,
    NotSent,
    Outcome,
    Succeeded,
    Unknown,
)
from kobiri.domain.payment import Kind, Payment, Status, agrees
from kobiri.providers import registry
from kobiri.providers.base import (
    Account,
    Authenticity,
    Callback,
    CallbackWord,
    Collection,
    Operation,
    Payout,
    Provider,
    ProviderSpec,
    Refund,
    Request,
    Unreadable,
)
from kobiri.simulator.dialects import Dialect
from tests.conftest import Simulator, simulator_of

ROOT = Path(__file__).parents[2]
OPERATIONS: Mapping[Kind, str] = {"collection": "create", "payout": "payout", "refund": "refund"}  # as faults say
NUMBERS = {"mtn": "260961234567", "airtel": "260971234567", "zamtel": "260951234567"}
MINOR = 1_050  # K10.50: an amount that a float, or whole kwacha, would spoil
WITHIN_S = 8.0
SHORT_S = 0.4
SLACK_S = 3.5  # for a busy machine, and less than a provider's own limit
SOON_S = 10.0
POLL_S = 0.005
REFUSALS = (400, 401, 403, 404, 408, 409, 422, 429)
FAILURES = (500, 502, 503, 504)

Answered: TypeAlias = Outcome | Finding
Said = TypeVar("Said", bound=Answered)
PROVIDERS = [pytest.param(entry, id=entry.spec.id) for entry in registry.PROVIDERS]
KINDS = [
    pytest.param(entry, kind, id=f"{entry.spec.id}-{kind}")
    for entry in registry.PROVIDERS
    for kind in entry.spec.operations
]
USUAL = Dialect()
DIALECTS = [
    pytest.param(entry, dialect, id=f"{entry.spec.id}-{name}")
    for entry in registry.PROVIDERS
    for name, dialect in simulator_of(entry.spec).DIALECTS.items()
    if dialect != USUAL  # the usual one has the whole suite
]
each_provider = pytest.mark.parametrize("entry", PROVIDERS)
each_kind = pytest.mark.parametrize(("entry", "kind"), KINDS)


# --- the hands of the tests -------------------------------------------------------------------------------------------


def account_of(spec: ProviderSpec, base_url: str, callback_url: str | None = None, **values: str) -> Account:
    account = registry.account(
        Settings(),
        spec,
        base_url=base_url,
        mode="both",
        values={**registry.simulated_values()[spec.id], **values},
        callback_url=callback_url,
        webhook_secrets=(),
    )
    assert account is not None, "ACCOUNT_VALUES of its simulator are not all that its spec asks for"
    return account


@dataclass
class Bench:
    """One account at one simulator, and what really happened there."""

    spec: ProviderSpec
    provider: Provider
    simulator: Simulator
    dialect: Dialect = USUAL

    def unread(self, kind: Kind, said: Answered) -> bool:
        """Whether it is said in words that prove nothing, as this dialect has them: a person settles it."""
        return kind in self.dialect.unread and isinstance(said, Unknown) and not said.askable

    async def request(self, kind: Kind) -> Request:
        """A fresh one; for a refund its collection has succeeded before."""
        reference = ProviderReference(str(uuid.uuid4()))
        money = Money(MINOR, min(self.provider.currencies))
        network = min(self.spec.networks)
        number = Msisdn(NUMBERS.get(network, NUMBERS["mtn"]))
        match kind:
            case "collection":
                return Collection(reference, money, number, network, "Order 7")
            case "payout":
                return Payout(reference, money, number, network, "Wages 7")
            case "refund":
                collection = await self.request("collection")
                paid = await self.outcome(collection)
                assert isinstance(paid, Succeeded), paid
                ours, theirs = collection.reference, paid.provider_transaction_id
                return Refund(reference, money, number, network, "Order 7", ours, theirs)

    async def send(self, request: Request, within_s: float = WITHIN_S, before: float | None = None) -> Outcome:
        return plain(await self.provider.send(request, within_s=within_s, first_byte_before=before))

    async def find(self, request: Request, within_s: float = WITHIN_S) -> Finding:
        return plain(await self.provider.find(kind_of(request), request.reference, within_s=within_s))

    async def outcome(self, request: Request) -> Answered:
        """Send, and ask for as long as it is on its way."""
        return await self.settled(request, await self.send(request))

    async def settled(self, request: Request, said: Answered) -> Answered:
        ends_at = time.monotonic() + SOON_S
        while isinstance(said, Accepted | NotFound) or (isinstance(said, Unknown) and said.askable):
            assert time.monotonic() < ends_at, f"{said} for {SOON_S} s"
            await asyncio.sleep(POLL_S)
            said = await self.find(request)
        return said

    async def fault(self, **fault: Any) -> None:
        await self.simulator.fault(provider=self.spec.id, **fault)

    async def configure(self, options: Mapping[str, Any]) -> None:
        answer = await self.simulator.client.patch(f"/_sim/settings/{self.spec.id}", json=options)
        assert answer.status_code == 200, answer.text

    async def options(self) -> dict[str, Any]:
        found: dict[str, Any] = (await self.simulator.client.get("/_sim/settings")).json()["providers"][self.spec.id]
        return found

    async def moved(self, kind: Kind) -> list[dict[str, Any]]:
        return [movement for movement in await self.simulator.movements() if movement["kind"] == kind]

    async def charges(self, kind: Kind) -> int:
        return sum(movement["charged"] for movement in await self.moved(kind))

    async def arrived(self, *operations: str) -> int:
        asked = await self.simulator.requests(provider=self.spec.id)
        return sum(one["operation"] in operations for one in asked)

    async def clear(self) -> None:
        await self.simulator.clear_faults()
        await self.simulator.client.delete("/_sim/requests")
        await self.simulator.client.delete("/_sim/books")

    async def shapes(self) -> tuple[str | None, ...]:
        """The ways in which this simulator phrases an error, its usual one first."""
        answer = await self.simulator.client.post(
            "/_sim/faults", json={"provider": self.spec.id, "kind": "error_before", "shape": "?"}
        )
        return (None, *sorted(re.findall(r"has (.*)\.", answer.json()["detail"])[0].split(", ")))


def plain(said: Said) -> Said:
    """What was said, with `str` for each text in it: it is stored and told, and JSON has no word for another kind."""
    for name in (each.name for each in fields(said)):
        text = getattr(said, name)
        assert not isinstance(text, str) or type(text) in (str, FailureCode), (name, said)
    return said


def kind_of(request: Request) -> Kind:
    kinds: dict[type[Request], Kind] = {Collection: "collection", Payout: "payout", Refund: "refund"}
    return kinds[type(request)]


def number_of(request: Request) -> Msisdn:
    return request.payee if isinstance(request, Payout) else request.payer


def payment_of(request: Request) -> Payment:
    """Our row of it, against which a success is held."""
    now = datetime.now(UTC)
    return Payment(
        id=PaymentId(str(uuid.uuid4())),
        tenant_id=TenantId(str(uuid.uuid4())),
        mode="test",
        kind=kind_of(request),
        status=Status.PENDING,
        money=request.money,
        payer=number_of(request),
        network=request.network,
        provider="any",
        account_fingerprint="any",
        provider_reference=request.reference,
        send_before=now,
        expires_at=now,
        created_at=now,
    )


Open = Callable[..., Awaitable[Bench]]


@pytest.fixture
async def open_bench(simulator: Simulator) -> AsyncIterator[Open]:
    """Open an account at the simulator, or at what stands in front of it; payers answer at once."""
    async with AsyncExitStack() as stack:

        async def opened(
            entry: registry.Registration,
            *,
            url: str | None = None,
            callback_url: str | None = None,
            dialect: Dialect = USUAL,
            **values: str,
        ) -> Bench:
            base_url = f"{url or simulator.url}/{entry.spec.id}"
            provider = entry.build(account_of(entry.spec, base_url, callback_url, **{**dialect.values, **values}))
            stack.push_async_callback(provider.close)
            bench = Bench(entry.spec, provider, simulator, dialect)
            await bench.configure({"prompt_ms": 10, **dialect.options})
            return bench

        yield opened


@asynccontextmanager
async def listening(answer: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]) -> AsyncIterator[str]:
    runner = web.ServerRunner(web.Server(answer, access_log=None), shutdown_timeout=0.5)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@dataclass
class Relay:
    """Stands between adapter and simulator: sees what both say, and may say something else."""

    simulator: Simulator
    session: aiohttp.ClientSession
    instead: Callable[[str, int, bytes], tuple[int, bytes]] = lambda _operation, status, body: (status, body)
    bearer: str | None = None  # the next token to pass is taken for this one
    heard: list[tuple[str, str, Mapping[str, str], bytes]] = field(default_factory=list)

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        body = await request.read()
        kept = {name: value for name, value in request.headers.items() if name.lower() not in ("host", "connection")}
        if self.bearer is not None and kept.get("Authorization", "").startswith("Bearer "):
            kept["Authorization"], self.bearer = f"Bearer {self.bearer}", None
        url = self.simulator.url + request.path_qs
        async with self.session.request(request.method, url, headers=kept, data=body or None) as answer:
            answered = await answer.read()
            operation = (await self.simulator.requests())[-1]["operation"]
            self.heard.append((operation, request.query_string, kept, answered))
            status, told = self.instead(operation, answer.status, answered)
            return web.Response(status=status, body=told, content_type=answer.content_type)


@pytest.fixture
async def relay(simulator: Simulator) -> AsyncIterator[tuple[Relay, str]]:
    async with (
        aiohttp.ClientSession(skip_auto_headers=("Content-Type", "User-Agent")) as session,
        listening(stand := Relay(simulator, session)) as url,
    ):
        yield stand, url


def closed_port() -> str:
    return "http://127.0.0.1:1"


def declared(spec: ProviderSpec, kind: Kind) -> Operation:
    return spec.operations[kind]


def skip_unaskable(spec: ProviderSpec, kind: Kind) -> None:
    if spec.operations[kind].status_query == "none":
        pytest.skip(f"{spec.id}: no status query for a {kind}")


# --- money moves, once ------------------------------------------------------------------------------------------------


@each_kind
async def test_it_succeeds_and_the_money_moves_once(entry: registry.Registration, kind: Kind, open_bench: Open) -> None:
    bench = await open_bench(entry)
    request = await bench.request(kind)
    said = await bench.outcome(request)

    if kind in bench.dialect.unread:
        assert bench.unread(kind, said), said
    else:
        assert isinstance(said, Succeeded), said
        assert agrees(payment_of(request), said)
    [movement] = await bench.moved(kind)
    assert movement["charged"] == 1
    assert Money.read(movement["amount"], movement["currency"]) == request.money  # to the last ngwee
    assert Msisdn.parse(movement["msisdn"]) == number_of(request)
    assert await bench.arrived(OPERATIONS[kind]) == 1


@each_kind
@pytest.mark.parametrize("decision", ["reject", "expire", "no_funds"])
async def test_who_does_not_pay_is_told_apart(
    entry: registry.Registration, kind: Kind, decision: str, open_bench: Open
) -> None:
    bench = await open_bench(entry)
    request = await bench.request(kind)
    await bench.fault(kind="payer", operation=OPERATIONS[kind], decision=decision)
    said = await bench.outcome(request)

    assert await bench.moved(kind) == []
    if bench.unread(kind, said):
        return
    if isinstance(said, Unknown):  # it may not know what became of a prompt, if nobody could ask: a person settles it
        assert declared(entry.spec, kind).status_query == "none"
        assert (decision, said.askable) == ("expire", False)
        return
    if isinstance(said, Doubtful):
        assert bench.dialect.doubtful
        assert said.proven == Declined(said.code, said.provider_code)
        return
    assert isinstance(said, Declined), said
    assert said.code in FailureCode
    assert said.provider_code
    assert decision != "no_funds" or said.code is FailureCode.INSUFFICIENT_FUNDS


@each_kind
async def test_a_reference_sent_again_moves_nothing(entry: registry.Registration, kind: Kind, open_bench: Open) -> None:
    if not declared(entry.spec, kind).dedupes:
        pytest.skip(f"{entry.spec.id}: a {kind} is not deduped")
    bench = await open_bench(entry)
    request = await bench.request(kind)
    first = await asyncio.gather(*(bench.send(request) for _ in range(10)))
    assert isinstance(await bench.outcome(request), Succeeded)
    again = await bench.send(request)

    assert {type(outcome) for outcome in (*first, again)} <= {Accepted, Succeeded}, (first, again)
    assert await bench.charges(kind) == 1


# --- faults -----------------------------------------------------------------------------------------------------------


def wrong_with(outcome: Outcome, status: int, arrived: int, *, dedupes: bool) -> str | None:
    """What an adapter may not make of an error answer to a money request; None: it did well."""
    match outcome:
        case Succeeded():
            return "an error is no success"
        case Declined() if status >= 500:
            return "trouble over there is no refusal"
        case NotSent() if arrived:
            return "it arrived"
    repeats = 2 if dedupes and status in (401, 403) else 1  # a refused token, and only where a second one is harmless
    return f"it was sent {arrived} times" if arrived > repeats else None


@each_kind
@pytest.mark.parametrize("when", ["error_before", "error_after"])
async def test_an_error_answer_is_never_taken_for_more_than_it_says(
    entry: registry.Registration, kind: Kind, when: str, open_bench: Open
) -> None:
    bench = await open_bench(entry)
    request = await bench.request(kind)
    dedupes = declared(entry.spec, kind).dedupes
    wrong: list[str] = []
    for shape in await bench.shapes():
        for status in (*REFUSALS, *FAILURES):
            await bench.clear()
            await bench.fault(kind=when, operation=OPERATIONS[kind], status=status, shape=shape)
            outcome = await bench.send(replace(request, reference=ProviderReference(str(uuid.uuid4()))))
            why = wrong_with(outcome, status, await bench.arrived(OPERATIONS[kind]), dedupes=dedupes)
            wrong += [f"{status} as {shape}: {outcome}: {why}"] if why else []
            if isinstance(outcome, Unknown) and outcome.askable == (declared(entry.spec, kind).status_query == "none"):
                wrong.append(f"{status} as {shape}: askable {outcome.askable}")
    assert wrong == []


LOST = [
    pytest.param(fault, id="-".join(str(value) for value in fault.values()))
    for fault in (
        {"kind": "drop_after"},
        {"kind": "reset_before"},
        {"kind": "reset_after"},
        {"kind": "hang"},
        {"kind": "hang", "processed": True},
        {"kind": "html_200"},
        {"kind": "html_200", "processed": True},
        {"kind": "outage"},
        {"kind": "outage", "mode": "reset"},
        {"kind": "latency_after", "ms": 10_000},
    )
]


@each_kind
@pytest.mark.parametrize("fault", LOST)
async def test_a_lost_answer_leaves_it_unknown_and_unrepeated(
    entry: registry.Registration, kind: Kind, fault: dict[str, Any], open_bench: Open
) -> None:
    bench = await open_bench(entry)
    request = await bench.request(kind)
    slow = fault["kind"] in ("hang", "latency_after")
    await bench.provider.check(within_s=WITHIN_S)  # a token is there, where one is needed
    await bench.fault(operation=OPERATIONS[kind], **fault)
    began = time.monotonic()
    outcome = await bench.send(request, SHORT_S if slow else WITHIN_S)
    took_s = time.monotonic() - began

    assert isinstance(outcome, Unknown), outcome
    assert outcome.askable == (declared(entry.spec, kind).status_query != "none")
    assert await bench.arrived(OPERATIONS[kind]) == 1
    assert not slow or took_s < SHORT_S + SLACK_S
    await bench.simulator.clear_faults()


@each_kind
async def test_a_lost_answer_is_found_again(entry: registry.Registration, kind: Kind, open_bench: Open) -> None:
    skip_unaskable(entry.spec, kind)
    bench = await open_bench(entry)
    request = await bench.request(kind)
    await bench.fault(kind="drop_after", operation=OPERATIONS[kind], times=1)
    assert isinstance(await bench.send(request), Unknown)
    said = await bench.settled(request, Accepted())
    assert isinstance(said, Succeeded)
    assert agrees(payment_of(request), said)
    assert await bench.charges(kind) == 1


@each_kind
async def test_an_answer_too_large_is_unknown(
    entry: registry.Registration, kind: Kind, open_bench: Open, relay: tuple[Relay, str]
) -> None:
    stand, url = relay
    bench = await open_bench(entry, url=url)
    request = await bench.request(kind)
    stand.instead = lambda operation, status, body: (
        (status, body + b" " * 70_000) if operation in (*OPERATIONS.values(), "status") else (status, body)
    )
    assert isinstance(await bench.send(request), Unknown)
    assert isinstance(await bench.find(request), Unknown)
    assert await bench.arrived(OPERATIONS[kind]) == 1


@each_kind
async def test_a_question_with_a_bad_answer_stays_open(
    entry: registry.Registration, kind: Kind, open_bench: Open
) -> None:
    skip_unaskable(entry.spec, kind)
    bench = await open_bench(entry)
    request = await bench.request(kind)
    await bench.outcome(request)
    said: dict[str, Finding] = {}
    faults: list[dict[str, Any]] = [
        *({"kind": "error_before", "status": status} for status in (*REFUSALS, *FAILURES)),
        *({"kind": name} for name in ("drop_after", "reset_before", "html_200", "outage")),
    ]
    for fault in faults:
        await bench.simulator.clear_faults()
        await bench.fault(operation="status", **fault)
        said[str(fault)] = await bench.find(request)
    assert {fault: finding for fault, finding in said.items() if not isinstance(finding, Unknown)} == {}


@each_kind
async def test_a_question_that_cannot_leave_says_so(entry: registry.Registration, kind: Kind, open_bench: Open) -> None:
    skip_unaskable(entry.spec, kind)
    bench = await open_bench(entry, url="http://127.0.0.1:9")
    finding = await bench.find(await bench.request("collection"))
    assert isinstance(finding, Unknown)
    assert (finding.asked, finding.askable, finding.outage) == (False, True, True)
    there = await open_bench(entry)
    await there.fault(operation="status", kind="drop_after")
    finding = await there.find(await there.request("collection"))
    assert isinstance(finding, Unknown)
    assert finding.asked


@each_kind
@pytest.mark.parametrize("status", [429, 503])
async def test_a_rest_that_is_asked_for_is_told(
    entry: registry.Registration, kind: Kind, status: int, open_bench: Open
) -> None:
    bench = await open_bench(entry)
    request = await bench.request(kind)
    await bench.fault(kind="error_before", operation=OPERATIONS[kind], status=status, retry_after_s=7)
    outcome = await bench.send(request)
    assert isinstance(outcome, Unknown), outcome
    assert outcome.retry_after_s == 7
    await bench.fault(kind="error_before", operation="status", status=status, retry_after_s=9)
    finding = await bench.find(request)
    assert isinstance(finding, Unknown)
    assert not finding.askable or finding.retry_after_s == 9


# --- nothing leaves ---------------------------------------------------------------------------------------------------


@each_kind
async def test_where_nobody_listens_nothing_is_sent(entry: registry.Registration, kind: Kind, open_bench: Open) -> None:
    request = await (await open_bench(entry)).request(kind)
    bench = await open_bench(entry, url=closed_port())
    assert isinstance(await bench.send(request), NotSent)
    finding = await bench.find(request)
    assert isinstance(finding, Unknown)
    assert finding.askable == (declared(entry.spec, kind).status_query != "none")


@each_kind
async def test_after_its_moment_no_byte_leaves(entry: registry.Registration, kind: Kind, open_bench: Open) -> None:
    bench = await open_bench(entry)
    request = await bench.request(kind)
    outcome = await bench.send(request, before=time.monotonic() - 0.001)
    assert isinstance(outcome, NotSent), outcome
    assert not outcome.outage
    assert await bench.arrived(OPERATIONS[kind]) == 0
    assert await bench.moved(kind) == []


# --- tokens -----------------------------------------------------------------------------------------------------------


async def with_tokens(bench: Bench, kind: Kind) -> Request:
    """A request whose token is fetched anew, by an adapter that has none yet; skips where there is none to fetch."""
    request = await bench.request(kind)
    await bench.send(await bench.request(kind))
    if not await bench.arrived("token"):
        assert "token_ttl_s" not in await bench.options(), "its tokens live for a while, and none was fetched"
        pytest.skip(f"{bench.spec.id}: no token to fetch")
    return request


@each_kind
async def test_a_cold_start_fetches_one_token(entry: registry.Registration, kind: Kind, open_bench: Open) -> None:
    warm = await open_bench(entry)
    requests = [await with_tokens(warm, kind) for _ in range(3)] + [await warm.request(kind) for _ in range(7)]
    bench = await open_bench(entry)
    await bench.clear()
    outcomes = await asyncio.gather(*(bench.send(request) for request in requests))
    assert {type(outcome) for outcome in outcomes} <= {Accepted, Succeeded}, outcomes
    assert await bench.arrived("token") == 1


async def assert_sent_once_more_at_most(
    entry: registry.Registration, kind: Kind, bench: Bench, outcome: Outcome
) -> None:
    """After a refused token: with a fresh one where the provider dedupes, and else not at all."""
    if declared(entry.spec, kind).dedupes:
        assert isinstance(outcome, Accepted | Succeeded), outcome
        assert (await bench.arrived("token"), await bench.arrived(OPERATIONS[kind])) == (1, 2)
    else:
        assert isinstance(outcome, Unknown), outcome
        assert await bench.arrived(OPERATIONS[kind]) == 1


@each_kind
async def test_a_refused_token_is_fetched_anew_and_the_request_sent_once_more_at_most(
    entry: registry.Registration, kind: Kind, open_bench: Open
) -> None:
    bench = await open_bench(entry)
    request = await with_tokens(bench, kind)
    await bench.clear()
    await bench.fault(kind="error_before", operation=OPERATIONS[kind], status=401, times=1)
    outcome = await bench.send(request)
    await assert_sent_once_more_at_most(entry, kind, bench, outcome)
    await bench.clear()
    await bench.fault(kind="error_before", operation=OPERATIONS[kind], status=401)
    assert isinstance(await bench.send(await bench.request(kind)), Unknown)


@each_kind
async def test_a_token_that_is_forgotten_over_there_is_fetched_anew(
    entry: registry.Registration, kind: Kind, open_bench: Open, relay: tuple[Relay, str]
) -> None:
    stand, url = relay
    bench = await open_bench(entry, url=url)
    request = await with_tokens(bench, kind)
    await bench.clear()
    stand.bearer = "one-of-yesterday"
    outcome = await bench.send(request)
    await assert_sent_once_more_at_most(entry, kind, bench, outcome)


@each_kind
async def test_a_token_that_ends_is_replaced(entry: registry.Registration, kind: Kind, open_bench: Open) -> None:
    bench = await open_bench(entry)
    request = await with_tokens(bench, kind)
    if "token_ttl_s" not in await bench.options():
        pytest.skip(f"{entry.spec.id}: its tokens do not end")
    await bench.configure({"token_ttl_s": 1})
    bench = await open_bench(entry)
    assert isinstance(await bench.send(request), Accepted | Succeeded)
    await bench.clear()
    ends_at = time.monotonic() + SOON_S
    while not await bench.arrived("token"):  # half-way, while the first is still good
        assert time.monotonic() < ends_at
        outcome = await bench.send(await bench.request(kind))
        assert isinstance(outcome, Accepted | Succeeded), outcome
        await asyncio.sleep(POLL_S)
    request, sent = await bench.request(kind), await bench.arrived(OPERATIONS[kind])
    await asyncio.sleep(1.1)  # nobody asks until it has ended: a request under way at that moment may be refused
    outcome = await bench.send(request)
    assert isinstance(outcome, Accepted | Succeeded), outcome
    assert await bench.arrived("token") >= 2
    assert await bench.arrived(OPERATIONS[kind]) == sent + 1, "one was sent with a token that had ended"


@each_kind
@pytest.mark.parametrize("fault", [{"kind": "error_before", "status": 500}, {"kind": "hang"}, {"kind": "html_200"}])
async def test_without_a_token_nothing_is_sent(
    entry: registry.Registration, kind: Kind, fault: dict[str, Any], open_bench: Open
) -> None:
    request = await with_tokens(await open_bench(entry), kind)
    bench = await open_bench(entry)
    await bench.clear()
    await bench.fault(operation="token", **fault)
    began = time.monotonic()
    outcome = await bench.send(request, SHORT_S if fault["kind"] == "hang" else WITHIN_S)
    assert isinstance(outcome, NotSent), outcome
    assert await bench.arrived(OPERATIONS[kind]) == 0
    assert fault["kind"] != "hang" or time.monotonic() - began < SHORT_S + SLACK_S
    await bench.simulator.clear_faults()


# --- questions --------------------------------------------------------------------------------------------------------


@each_kind
async def test_what_it_never_heard_of_is_not_found_as_declared(
    entry: registry.Registration, kind: Kind, open_bench: Open
) -> None:
    bench = await open_bench(entry)
    finding = await bench.provider.find(kind, ProviderReference(str(uuid.uuid4())), within_s=WITHIN_S)
    match declared(entry.spec, kind).status_query:
        case "none":
            assert isinstance(finding, Unknown)
            assert not finding.askable
            assert await bench.arrived("status") == 0
        case "soft":
            assert finding == NotFound(firm=False)
        case "firm":
            assert finding == NotFound(firm=True)


@each_kind
@pytest.mark.parametrize("lie", ["wrong_amount", "wrong_currency", "wrong_payer"])
async def test_a_lie_about_a_success_is_noticed(
    entry: registry.Registration, kind: Kind, lie: str, open_bench: Open
) -> None:
    skip_unaskable(entry.spec, kind)
    bench = await open_bench(entry)
    request = await bench.request(kind)
    truth = await bench.settled(request, await bench.send(request))
    told = await bench.find(request)
    assert isinstance(truth, Succeeded)
    assert isinstance(told, Succeeded)
    await bench.fault(kind=lie, operation="status")
    finding = await bench.find(request)
    if (told.payer if lie == "wrong_payer" else told.money) is None:  # it is in a sentence only, which nobody reads
        assert finding == told
        return
    assert isinstance(finding, Unknown | Succeeded)
    assert isinstance(finding, Unknown) or not agrees(payment_of(request), finding)


@each_kind
async def test_an_answer_about_another_is_not_this_ones(
    entry: registry.Registration, kind: Kind, open_bench: Open, relay: tuple[Relay, str]
) -> None:
    skip_unaskable(entry.spec, kind)
    stand, url = relay
    bench = await open_bench(entry, url=url)
    paid, other = await bench.request(kind), await bench.request(kind)
    assert isinstance(await bench.settled(paid, await bench.send(paid)), Succeeded)
    assert isinstance(await bench.find(paid), Succeeded)
    answer = next(body for operation, _, _, body in reversed(stand.heard) if operation == "status")
    stand.instead = lambda operation, status, body: (200, answer) if operation == "status" else (status, body)
    assert isinstance(await bench.find(other), Unknown)


# --- callbacks --------------------------------------------------------------------------------------------------------


@dataclass
class Door:
    """Where callbacks come in, kept as the gateway hands them on."""

    got: list[Callback] = field(default_factory=list)

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        headers = [(name.lower(), value) for name, value in request.headers.items()]
        authority = request.headers["Host"]
        self.got.append(Callback(request.method, authority, request.path, headers, await request.read()))
        return web.Response()

    async def wait(self, number: int = 1) -> list[Callback]:
        ends_at = time.monotonic() + SOON_S
        while len(self.got) < number:
            assert time.monotonic() < ends_at, f"{len(self.got)} of {number} callbacks came"
            await asyncio.sleep(POLL_S)
        return self.got

    async def last_word(self, bench: Bench, request: Request) -> tuple[Callback, CallbackWord]:
        """What tells how it ended; what came about others, or on the way, is passed over."""
        number = 0
        while True:
            callback = (await self.wait(number + 1))[number]
            word = bench.provider.read_callback(callback)
            plain(word.finding)
            if word.reference == request.reference and not isinstance(word.finding, Accepted):
                return callback, word
            number += 1


@pytest.fixture
async def door() -> AsyncIterator[tuple[Door, str]]:
    async with listening(door := Door()) as url:
        yield door, f"{url}/api/v1/webhooks/any"


async def called_back(
    open_bench: Open, entry: registry.Registration, url: str, kind: Kind, *, signed: bool = True
) -> Bench:
    """An account whose provider calls back there; skips where it never does."""
    of_it = simulator_of(entry.spec)
    if (options := of_it.callbacks_to(url)) is None:
        pytest.skip(f"{entry.spec.id}: no callbacks")
    skip_unaskable(entry.spec, kind)  # what cannot be asked about is not told of either
    bench = await open_bench(entry, callback_url=url, **(of_it.SIGNED_VALUES if signed else {}))
    await bench.configure(options)
    return bench


def tampered(callback: Callback) -> Callback:
    # Every digit, for no single one is sure to be there: the reference is random.
    return replace(callback, body=callback.body.translate(bytes.maketrans(b"0123456789", b"1234567890")))


@each_kind
@pytest.mark.parametrize("decision", ["approve", "reject"])
async def test_its_callback_is_read_and_its_signature_checked(
    entry: registry.Registration, kind: Kind, decision: str, open_bench: Open, door: tuple[Door, str]
) -> None:
    came, url = door
    bench = await called_back(open_bench, entry, url, kind)
    request = await bench.request(kind)
    await bench.fault(kind="payer", operation=OPERATIONS[kind], decision=decision, prompt_ms=10)
    said = await bench.outcome(request)
    callback, word = await came.last_word(bench, request)

    refused = Unknown if isinstance(said, Doubtful) else Declined  # one callback proves it as little as one answer
    assert isinstance(word.finding, Succeeded if decision == "approve" else refused)
    assert word.money in (None, request.money)
    assert word.payer in (None, number_of(request).digits)
    assert not isinstance(word.finding, Succeeded) or agrees(payment_of(request), word.finding)
    promised = Authenticity.GENUINE if entry.spec.signs_callbacks else Authenticity.UNSIGNED
    assert await bench.provider.verify(callback) is promised
    assert tampered(callback) != callback
    assert await bench.provider.verify(tampered(callback)) is not Authenticity.GENUINE


@each_provider
async def test_what_is_not_signed_is_not_genuine(
    entry: registry.Registration, open_bench: Open, door: tuple[Door, str]
) -> None:
    came, url = door
    bench = await called_back(open_bench, entry, url, "collection")
    await bench.fault(kind="forged")
    await bench.fault(kind="unsigned")
    await bench.outcome(await bench.request("collection"))
    forged, unsigned = (await came.wait(2))[:2]
    wanted = Authenticity.FORGED if entry.spec.signs_callbacks else Authenticity.UNSIGNED
    assert [await bench.provider.verify(callback) for callback in (forged, unsigned)] == [wanted, wanted]
    bare = replace(forged, headers=())
    assert await bench.provider.verify(bare) is not Authenticity.GENUINE


@each_provider
async def test_an_account_that_asks_for_no_signature_gets_hints(
    entry: registry.Registration, open_bench: Open, door: tuple[Door, str]
) -> None:
    came, url = door
    bench = await called_back(open_bench, entry, url, "collection", signed=False)
    await bench.outcome(await bench.request("collection"))
    assert await bench.provider.verify((await came.wait())[0]) is Authenticity.UNSIGNED


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=12,
)


@each_provider
async def test_any_bytes_are_read_or_refused_as_unreadable(entry: registry.Registration) -> None:
    provider = entry.build(
        account_of(entry.spec, closed_port(), **simulator_of(entry.spec).SIGNED_VALUES),
    )

    @given(st.binary(max_size=200) | st.builds(lambda value: json.dumps(value).encode(), JSON))
    def reads(body: bytes) -> None:
        try:
            word: object = provider.read_callback(Callback("POST", "pay.example.com", "/x", (), body))
        except Unreadable as refusal:
            word = refusal
        if isinstance(word, CallbackWord):
            plain(word.finding)
        else:
            assert str(word).endswith(".")

    try:
        await asyncio.to_thread(reads)
        deep = b'{"transaction":' + b"[" * 20_000
        for body in (b"", b"null", b"[]", b"{}", deep, b'{"a":1,"a":2}', b'{"a":NaN}', b"\xff\xfe{}"):
            callback = Callback("POST", "pay.example.com", "/x", (("signature", "x"), ("signature", "y")), body)
            with pytest.raises(Unreadable):
                provider.read_callback(callback)
            assert await provider.verify(callback) is not Authenticity.GENUINE
    finally:
        await provider.close()


# --- the account ------------------------------------------------------------------------------------------------------


@each_provider
async def test_a_fingerprint_changes_with_where_the_account_points_and_tells_nothing(
    entry: registry.Registration,
) -> None:
    async def of(kind: Kind, base_url: str = "https://one.example.com", **values: str) -> str:
        provider = entry.build(account_of(entry.spec, base_url, **values))
        await provider.close()
        return provider.fingerprint_of(kind)

    known = registry.simulated_values()[entry.spec.id]
    for kind in entry.spec.operations:
        ours = await of(kind)
        assert re.fullmatch(r"[0-9a-f]{16}", ours)
        assert await of(kind) == ours == await of(kind, "https://one.example.com/")
        assert await of(kind, "https://two.example.com") != ours
        free = [one.name for one in entry.spec.fields if one.name in known and not one.choices]
        assert any([await of(kind, **{name: "another"}) != ours for name in free])


@each_provider
async def test_a_check_tells_whether_the_account_is_taken(entry: registry.Registration, open_bench: Open) -> None:
    bench = await open_bench(entry)
    assert (await bench.provider.check(within_s=WITHIN_S)).trouble is None
    assert await bench.arrived(*OPERATIONS.values()) == 0
    refusals = [(await (await open_bench(entry, url=closed_port())).provider.check(within_s=WITHIN_S)).trouble]
    if (refusing := simulator_of(entry.spec).REFUSING) is not None:
        await bench.configure(refusing)
        refusals.append((await bench.provider.check(within_s=WITHIN_S)).trouble)
    for why in refusals:
        assert why
        assert "\n" not in why
        assert told_secrets(why, secrets_of(entry.spec)) == []


@each_provider
async def test_a_check_ends_in_time(entry: registry.Registration, open_bench: Open) -> None:
    bench = await open_bench(entry)
    await bench.fault(kind="hang")
    began = time.monotonic()
    assert (await bench.provider.check(within_s=SHORT_S)).trouble
    assert time.monotonic() - began < SHORT_S + SLACK_S
    await bench.simulator.clear_faults()


# --- secrets ----------------------------------------------------------------------------------------------------------


def secrets_of(spec: ProviderSpec) -> dict[str, str]:
    """Values that nothing may tell, by what they are."""
    values = {**registry.simulated_values()[spec.id], **simulator_of(spec).SIGNED_VALUES}
    return {one.name: values[one.name] for one in spec.fields if one.secret and one.name in values}


def told_secrets(text: str, secret: Mapping[str, str]) -> list[str]:
    """Short ones, such as a PIN, count where they stand alone: a port or a time may hold the same digits."""
    return [
        f"{name} in: {found.string[max(0, found.start() - 80) : found.end() + 20]}"
        for name, value in secret.items()
        if (found := re.search(rf"(?<![\w.]){re.escape(value)}(?![\w.])" if len(value) < 8 else re.escape(value), text))
    ]


def heard_secrets(stand: Relay) -> Iterable[tuple[str, str]]:
    for number, (_, query, headers, _) in enumerate(stand.heard):
        scheme, _, token = headers.get("Authorization", "").partition(" ")
        if token and scheme.lower() in ("bearer", "basic"):
            yield f"token {number}", token
        if len(query) > 40:
            yield f"query {number}", query


@each_provider
async def test_no_secret_is_told(
    entry: registry.Registration,
    open_bench: Open,
    relay: tuple[Relay, str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    for name in list(logging.root.manager.loggerDict):
        caplog.set_level(logging.DEBUG, logger=name)
    stand, url = relay
    callback_url = f"{url}/hook?canary-callback-token"
    bench = await open_bench(entry, url=url, callback_url=callback_url, **simulator_of(entry.spec).SIGNED_VALUES)
    provider = bench.provider
    told = [repr(provider), repr(provider.account), str(provider.account), repr(vars(provider)), repr(entry)]
    for kind in entry.spec.operations:
        for fault in (
            None, *({"kind": "error_after", "status": status} for status in (400, 401, 403, 500)),
            {"kind": "drop_after"}, {"kind": "outage"},
        ):  # fmt: skip
            await bench.simulator.clear_faults()
            request = await bench.request(kind)
            if fault is not None:
                await bench.fault(**fault)
            told += [repr(await bench.send(request)), repr(await bench.find(request))]
            told += [repr(await provider.check(within_s=WITHIN_S)), repr(vars(provider))]
    number = NUMBERS.get(min(entry.spec.networks), NUMBERS["mtn"])
    secret = {
        **secrets_of(entry.spec),
        **dict(heard_secrets(stand)),
        "number": number,
        "national": number[3:],
        "callback": "canary-callback-token",
    }
    ours = [
        record for record in caplog.records if not record.name.startswith(("kobiri.simulator", "httpx", "httpcore"))
    ]
    for record in ours:
        record.process = record.taskName = None  # numbers of the machine, which may happen to be a PIN
    logged = "\n".join(f"{record.getMessage()} {record.exc_text} {record.__dict__}" for record in ours)
    assert told_secrets("\n".join(told), secret) == []
    assert told_secrets(logged, secret) == []


# --- in every dialect -------------------------------------------------------------------------------------------------


async def unsigned_alone(entry: registry.Registration, kind: Kind, open_bench: Open, door: tuple[Door, str]) -> None:
    if kind == "collection":
        await test_what_is_not_signed_is_not_genuine(entry, open_bench, door)


async def a_check(entry: registry.Registration, kind: Kind, open_bench: Open) -> None:
    if kind == "collection":
        await test_a_check_tells_whether_the_account_is_taken(entry, open_bench)


Case = Callable[..., Awaitable[None]]
# What can differ, and what each needs besides. The last two leave the simulator's options changed.
CASES: tuple[tuple[Case, dict[str, str]], ...] = (
    (test_it_succeeds_and_the_money_moves_once, {}),
    *((test_who_does_not_pay_is_told_apart, {"decision": each}) for each in ("reject", "expire", "no_funds")),
    (test_a_reference_sent_again_moves_nothing, {}),
    (test_a_lost_answer_is_found_again, {}),
    (test_what_it_never_heard_of_is_not_found_as_declared, {}),
    (test_a_token_that_is_forgotten_over_there_is_fetched_anew, {}),
    *((test_its_callback_is_read_and_its_signature_checked, {"decision": each}) for each in ("approve", "reject")),
    (unsigned_alone, {}),
    (a_check, {}),
)


@pytest.mark.parametrize(("entry", "dialect"), DIALECTS)
async def test_what_can_differ_by_dialect_holds_in_each(
    entry: registry.Registration,
    dialect: Dialect,
    open_bench: Open,
    relay: tuple[Relay, str],
    door: tuple[Door, str],
) -> None:
    benches: dict[str, Bench] = {}

    async def opened(one: registry.Registration, *, url: str | None = None, **how: Any) -> Bench:
        """The same account as before; a new one only behind an address of its own, where tokens are what matters."""
        if url is not None:
            return await open_bench(one, dialect=dialect, url=url, **how)
        known = repr(sorted(how.items()))
        if known not in benches:
            benches[known] = await open_bench(one, dialect=dialect, **how)
        return benches[known]

    stands = {"relay": relay, "door": door}
    for case, told in CASES:
        needed = {name: stand for name, stand in stands.items() if name in inspect.signature(case).parameters}
        for kind in entry.spec.operations:
            await (await opened(entry)).clear()
            door[0].got.clear()
            try:
                await case(entry, kind, open_bench=opened, **needed, **told)
            except pytest.skip.Exception:  # the usual dialect's own test says why
                pass
            except BaseException as error:
                error.add_note(f"{case.__name__}, {kind}, {told}")
                raise


# --- what is declared -------------------------------------------------------------------------------------------------


@each_provider
def test_the_spec_declares_everything(entry: registry.Registration) -> None:
    spec = entry.spec
    assert re.fullmatch(r"[a-z][a-z0-9]*", spec.id)
    assert spec.base_url.startswith("https://")
    assert spec.name
    assert all((spec.networks, spec.operations, spec.fields))
    assert 0 < spec.answer_within_s <= (spec.deadline_s or spec.answer_within_s)
    askable = any(operation.status_query != "none" for operation in spec.operations.values())
    assert (spec.deadline_s is None) == askable  # longer by itself only where a call is never cut short
    assert all(operation.dedupes or not operation.repeats for operation in spec.operations.values())
    names = [one.name for one in spec.fields]
    assert len(set(names)) == len(names)
    for one in spec.fields:
        assert one.label
        assert not one.choices or one.default in one.choices or (one.optional and one.default is None)
        assert not (one.secret and one.default)
        hides = re.search(r"secret|password|pin$|token|(?<!public)(?<!^pin)(?<!^sign)_key$|credential", one.name)
        assert one.secret or not hides, f"{one.name} looks secret"


@each_provider
async def test_an_account_that_moves_money_serves_countries_that_are_known(entry: registry.Registration) -> None:
    provider = entry.build(account_of(entry.spec, entry.spec.base_url))
    assert provider.countries is None or (provider.countries and provider.countries <= set(COUNTRIES.values()))
    assert provider.countries or provider.spec.known_mode(provider.account.base_url) == "test"
    await provider.close()


@each_provider
def test_every_field_has_its_setting(entry: registry.Registration) -> None:
    known, prefix = Settings.model_fields, entry.spec.id
    for one in entry.spec.fields:
        setting = known.get(f"{prefix}_{one.name}")
        assert setting is not None, f"{prefix}_{one.name}".upper()
        assert not one.secret or SecretStr in getattr(setting.annotation, "__args__", ()), one.name
    for name in ("enabled", "base_url", "mode", "webhook_secret", "webhook_secret_previous", "timeout_seconds",
                 "deadline_seconds"):  # fmt: skip
        assert f"{prefix}_{name}" in known, f"{prefix}_{name}".upper()
    values: dict[str, Any] = {f"{prefix}_{name}": value for name, value in registry.simulated_values()[prefix].items()}
    account = registry.platform_account(Settings(**values), entry.spec)
    assert account is not None
    assert account.answer_within_s == entry.spec.answer_within_s
    assert account.deadline_s == (entry.spec.deadline_s or entry.spec.answer_within_s)
    for client_s, provider_s, gets_s in ((2, None, entry.spec.deadline_s or 2), (2, 30, 30), (40, 30, 40)):
        limits: dict[str, Any] = {
            "timeout_seconds": client_s,
            **({"deadline_seconds": provider_s} if provider_s else {}),
        }
        named = {f"{prefix}_{name}": value for name, value in limits.items()}
        account = registry.platform_account(Settings(**values, **named), entry.spec)
        assert account is not None
        assert (account.answer_within_s, account.deadline_s) == (client_s, gets_s)


@each_provider
def test_its_folder_is_whole(entry: registry.Registration) -> None:
    name = entry.spec.id
    folder = ROOT / "src" / "kobiri" / "providers" / name
    facts = (folder / "README.md").read_text()
    assert "## Sources" in facts
    assert (folder / "wire.py").is_file()
    assert "kobiri import net" not in (folder / "wire.py").read_text()  # pure
    assert list((folder / "recordings").glob("*.json"))
    page = ROOT / "docs" / "simulators" / f"{name}.md"
    assert page.is_file() or f"under `/{name}`" in (ROOT / "docs" / "simulator.md").read_text()
    assert not inspect.iscoroutinefunction(entry.build)
