"""Two roads to one wallet: what the first one surely did not send goes by the second, and nothing else does."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import httpx
import pytest
from aiohttp import web

from kobiri.domain.ids import ProviderReference
from kobiri.domain.money import Money
from kobiri.domain.msisdn import Msisdn
from kobiri.domain.outcome import Accepted, Declined, Doubtful, FailureCode, Finding, NotFound, Succeeded, Unknown
from kobiri.providers import registry
from kobiri.providers.base import Account, ProviderSpec
from kobiri.providers.mtn.adapter import SPEC, MtnProvider
from kobiri.services import callbacks, checking
from kobiri.services.roads import Road
from kobiri.services.routing import REMEMBER_S, Roads
from kobiri.simulator import app as simulator_app
from kobiri.simulator.stage import SimulatorSettings
from kobiri.store import attempts, switches
from kobiri.store.attempts import EarlierRoad
from kobiri.store.payments import Match, Read
from kobiri.worker import loop, tasks
from tests.api.steps import (
    SECRET,
    age,
    callback,
    charged,
    check,
    eventually,
    gateway,
    history,
    ledger,
    post_callback,
    problem,
    read,
    sends,
    signature,
    until,
    work,
)
from tests.conftest import Api, ApiFactory, Simulator, TestDatabase
from tests.crash.pg_proxy import READ, SWITCH, Decision, Moment, proxied
from tests.services.scripted import order

SECOND = "second"
NO_TOKEN: dict[str, Any] = {"kind": "error_before", "operation": "token", "status": 503}


class SecondProvider(MtnProvider):
    """Another road to MTN's wallets, which happens to speak MTN's language."""

    @property
    def spec(self) -> ProviderSpec:
        return replace(SPEC, id=SECOND)


@dataclass
class Two:
    """A gateway with two roads."""

    api: Api
    simulator: Simulator
    first: Road
    second: Road

    async def asked(self, provider: str) -> int:
        """How many requests of any sort a provider got."""
        return len(await self.simulator.requests(provider=provider))

    async def row(self) -> Any:
        (row,) = await self.api.database.fetch("SELECT *, next_run_at > now() AS is_leased FROM payments")
        return row

    async def left_behind(self) -> list[Any]:
        return list(await self.api.database.fetch("SELECT * FROM attempts ORDER BY attempt"))

    async def rerouting(self) -> dict[str, Any]:
        sql = "SELECT data::text FROM events WHERE type = 'payment.rerouted'"
        found: dict[str, Any] = httpx.Response(200, text=await self.api.database.value(sql)).json()
        return found

    async def claim_earlier(self) -> list[EarlierRoad]:
        """What the worker claims that asks about roads that were left."""
        async with gateway(self.api).db.worker_transaction() as tx:
            return await attempts.claim(tx, 10, 60)

    async def switch_off(self, provider: str) -> None:
        """An operator's switch, once the gateway has read it."""
        async with gateway(self.api).db.operator_transaction() as tx:
            await switches.turn(tx, provider, "they settle late", is_open=False)
        gateway(self.api).roads._switches_read_at -= REMEMBER_S


@pytest.fixture
async def simulator() -> AsyncIterator[Simulator]:
    """MTN's simulator twice: prompts are answered after 50 ms."""
    build = registry.simulators()["mtn"]
    settings = SimulatorSettings(providers={name: {"prompt_ms": 50} for name in ("mtn", SECOND)})
    application = simulator_app.build({"mtn": build, SECOND: build}, settings=settings)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.5)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0][:2]
    async with httpx.AsyncClient(base_url=f"http://{host}:{port}", trust_env=False, verify=False) as client:
        yield Simulator(f"http://{host}:{port}", client)
    await runner.cleanup()


async def two_roads(make_api: ApiFactory, simulator: Simulator, **settings: Any) -> Two:
    api = await make_api(**({"mtn_timeout_seconds": 10, "mtn_webhook_secret": SECRET} | settings))
    account = registry.platform_account(api.settings, SPEC)
    assert isinstance(account, Account)
    first = Road(MtnProvider(account))
    second = Road(SecondProvider(replace(account, base_url=f"{simulator.url}/{SECOND}")), priority=1)
    parts = gateway(api)
    await parts.roads.close()
    object.__setattr__(parts, "roads", Roads(parts.db, [second, first]))
    return Two(api, simulator, first, second)


@pytest.fixture
async def two(request: pytest.FixtureRequest, make_api: ApiFactory, simulator: Simulator) -> Two:
    """As `two_roads` has it, by default with signed callbacks."""
    return await two_roads(make_api, simulator, mtn_webhook_secret=getattr(request, "param", SECRET))


UNSIGNED = pytest.mark.parametrize("two", [None], indirect=True, ids=["unsigned"])  # anybody may post a callback


async def test_what_the_first_road_could_not_send_goes_by_the_second_and_is_charged_once(two: Two) -> None:
    await two.simulator.fault(**NO_TOKEN)
    answer = await two.api.pay("k")
    assert answer.status_code == 201, answer.text
    payment = answer.json()
    assert (payment["provider"], payment["status"]) == (SECOND, "PENDING")

    (left,) = await two.left_behind()
    row = await two.row()
    assert (left["provider"], left["attempt"], str(left["payment_id"])) == ("mtn", 1, payment["id"])
    assert left["account_fingerprint"] == two.first.provider.fingerprint_of("collection")
    assert "no token" in left["reason"]
    assert (row["provider"], row["attempt"]) == (SECOND, 2)
    assert row["account_fingerprint"] == two.second.provider.fingerprint_of("collection")
    old = str(left["provider_reference"])
    assert old != payment["provider_reference"]
    assert await two.rerouting() == {
        "reason": left["reason"],
        "from_provider": "mtn",
        "from_reference": old,
        "provider": SECOND,
        "account_id": None,
        "provider_reference": payment["provider_reference"],
        "passed_over": [],
    }

    await until(two.api, payment["id"], "SUCCESSFUL")
    told = await history(two.api, payment["id"])
    assert told == ["payment.created", "payment.rerouted", "payment.accepted", "payment.succeeded"]
    assert await sends(two.simulator, old) == []
    assert len(await sends(two.simulator, payment["provider_reference"])) == 1
    assert [(m["provider"], m["charged"]) for m in await two.simulator.movements()] == [(SECOND, 1)]
    assert await ledger(two.api, payment["id"]) == {f"provider:{SECOND}": 1_000, "merchant_available": -1_000}
    again = await two.api.pay("k")
    assert (again.status_code, again.content) == (201, answer.content)


async def test_the_switch_is_committed_before_the_second_road_hears_of_it(two: Two) -> None:
    await two.simulator.fault(**NO_TOKEN)
    await two.simulator.fault(provider=SECOND, kind="hang", operation="create", processed=True)
    asking = asyncio.create_task(two.api.pay())

    async def sent() -> bool:
        return any(r["operation"] == "create" for r in await two.simulator.requests(provider=SECOND))

    await eventually(sent)
    row = await two.row()
    assert (row["provider"], row["attempt"], row["is_leased"]) == (SECOND, 2, True)
    assert row["sent_until"] == row["next_run_at"], "a later not-found counts from the end of this very send"
    assert len(await sends(two.simulator, str(row["provider_reference"]))) == 1
    (left,) = await two.left_behind()
    assert left["provider"] == "mtn"
    # Whoever takes it after this process died asks the second road, and finds it.
    gateway(two.api).calls.cut()
    body = problem(await asking, 504, "provider_timeout")
    gateway(two.api).calls.stopped = False
    await two.simulator.clear_faults()
    done = await until(two.api, body["payment_id"], "SUCCESSFUL")
    assert done["provider"] == SECOND
    assert len(await sends(two.simulator, done["provider_reference"])) == 1
    await charged(two.simulator, done["provider_reference"])


@pytest.mark.parametrize(
    "meanwhile",
    [
        "version = version + 1",
        "lease_token = gen_random_uuid()",
        "next_run_at = now() - interval '1 second'",
        "sent_before = true",
        "accepted_at = now()",
        "send_before = now() - interval '1 second'",
    ],
)
async def test_who_is_not_the_payments_holder_any_more_takes_no_other_road(two: Two, meanwhile: str) -> None:
    await two.simulator.fault(kind="latency", operation="token", ms=1500, times=1)
    await two.simulator.fault(**NO_TOKEN)
    asking = asyncio.create_task(two.api.pay())

    async def waits_for_a_token() -> bool:
        return await two.asked("mtn") > 0

    await eventually(waits_for_a_token)
    await two.api.database.fetch(f"UPDATE payments SET {meanwhile}")
    await asking
    assert (await two.row())["provider"] == "mtn"
    assert await two.left_behind() == []
    assert await two.asked(SECOND) == 0


@pytest.mark.parametrize(
    ("meanwhile", "sent"),
    [("version = version", 1), ("version = version + 1", 0), ("lease_token = gen_random_uuid()", 0)],
    ids=["nobody came", "somebody went on", "somebody took it"],
)
async def test_who_learns_late_that_it_switched_sends_only_while_nobody_else_came(
    make_api: ApiFactory, simulator: Simulator, database: TestDatabase, meanwhile: str, sent: int
) -> None:
    async with proxied(database.dsn) as proxy:
        two = await two_roads(make_api, simulator, database_url=proxy.dsn)
        await simulator.fault(**NO_TOKEN)
        hold = proxy.hold(Moment.COMMITTED, SWITCH)
        asking = asyncio.create_task(two.api.pay())
        await asyncio.wait_for(hold.reached.wait(), 20)
        await database.fetch(f"UPDATE payments SET {meanwhile}")
        hold.decide(Decision.CUT)
        await asking
    row = await two.row()
    assert (row["provider"], row["attempt"]) == (SECOND, 2), "the switch was committed"
    assert len(await sends(simulator, str(row["provider_reference"]))) == sent


async def test_a_switch_that_was_lost_is_not_taken_for_one_because_somebody_else_wrote(
    make_api: ApiFactory, simulator: Simulator, database: TestDatabase
) -> None:
    """The row stands one version further, under its old reference: that is not the commit that allows the send."""
    async with proxied(database.dsn) as proxy:
        two = await two_roads(make_api, simulator, database_url=proxy.dsn)
        await simulator.fault(**NO_TOKEN)
        lost = proxy.hold(Moment.COMMIT, SWITCH)
        asking = asyncio.create_task(two.api.pay())
        await asyncio.wait_for(lost.reached.wait(), 20)
        reads = proxy.hold(Moment.STATEMENT, READ)
        lost.decide(Decision.CUT)
        await asyncio.wait_for(reads.reached.wait(), 20)
        await database.fetch("UPDATE payments SET version = version + 1")
        reads.decide(Decision.PASS)
        await asking
    assert (await two.row())["provider"] == "mtn"
    assert await two.asked(SECOND) == 0


@pytest.mark.parametrize("fault", ["drop_after", "reset_before"])
async def test_after_a_doubt_no_other_road_is_taken(two: Two, fault: str) -> None:
    await two.simulator.fault(kind=fault, operation="create", times=4)
    body = problem(await two.api.pay(), 504, "provider_timeout")
    await check(two.api)
    done = await until(two.api, body["payment_id"], "SUCCESSFUL")
    assert done["provider"] == "mtn"
    assert await two.asked(SECOND) == 0
    assert await two.left_behind() == []
    await charged(two.simulator, done["provider_reference"])


async def test_a_payment_that_an_earlier_attempt_may_have_sent_takes_no_other_road(two: Two) -> None:
    await two.simulator.fault(kind="reset_before", operation="create", times=4)
    body = problem(await two.api.pay(), 504, "provider_timeout")
    # Its token is refused, and there is no other: this attempt surely sends nothing. The first one may have.
    await two.simulator.fault(kind="error_before", operation="create", status=401, shape="azure")
    await two.simulator.fault(**NO_TOKEN)
    await check(two.api)
    row = await two.row()
    assert (row["attempt"], row["sent_before"], row["unsent"]) == (2, True, True), "it was tried again, in vain"
    assert (row["provider"], row["status"]) == ("mtn", "TIMEOUT")
    assert await two.asked(SECOND) == 0
    await two.simulator.clear_faults()
    done = await until(two.api, body["payment_id"], "SUCCESSFUL")
    await charged(two.simulator, done["provider_reference"])


async def test_after_send_before_no_other_road_is_taken(make_api: ApiFactory, simulator: Simulator) -> None:
    two = await two_roads(make_api, simulator, payment_send_within_seconds=0.2)
    await simulator.fault(**NO_TOKEN)  # the repeats alone take longer than that
    payment = (await two.api.pay()).json()
    assert (payment["status"], payment["failure"]["code"]) == ("FAILED", "provider_unavailable")
    assert await two.asked(SECOND) == 0
    assert await two.left_behind() == []


async def test_when_no_road_could_send_it_all_are_told_and_the_worker_goes_on(two: Two) -> None:
    await two.simulator.fault(**NO_TOKEN)
    await two.simulator.fault(**NO_TOKEN | {"provider": SECOND})
    answer = await two.api.pay()
    assert answer.status_code == 202, answer.text
    payment_id = answer.json()["id"]
    assert await history(two.api, payment_id) == ["payment.created", "payment.rerouted", "payment.not_sent"]
    await two.simulator.clear_faults()
    done = await until(two.api, payment_id, "SUCCESSFUL")
    await charged(two.simulator, done["provider_reference"])
    assert len(await two.simulator.movements()) == 1


# --- the worker -----------------------------------------------------------------------------------------------------


async def test_a_worker_fails_over_too(two: Two) -> None:
    await two.simulator.fault(**NO_TOKEN)
    payment = (await two.api.pay(headers={"prefer": "respond-async"})).json()
    assert payment["provider"] == "mtn"
    assert await work(two.api) == 1
    after = await read(two.api, payment["id"])
    assert after["provider"] == SECOND
    await until(two.api, payment["id"], "SUCCESSFUL")
    assert await history(two.api, payment["id"]) == [
        "payment.created",
        "payment.rerouted",
        "payment.accepted",
        "payment.succeeded",
    ]
    (left,) = await two.left_behind()
    assert str(left["provider_reference"]) == payment["provider_reference"]
    assert [(m["provider"], m["charged"]) for m in await two.simulator.movements()] == [(SECOND, 1)]


async def test_a_road_that_was_switched_off_is_not_sent_to_even_by_a_payment_that_was_recorded_for_it(two: Two) -> None:
    payment = (await two.api.pay(headers={"prefer": "respond-async"})).json()
    await two.switch_off("mtn")
    await work(two.api)
    assert (await read(two.api, payment["id"]))["provider"] == SECOND
    told = await two.rerouting()
    assert told["reason"] == "they settle late"
    assert told["passed_over"] == ["mtn: switched off: they settle late"]
    assert await two.asked("mtn") == 0, "not even a token"
    await until(two.api, payment["id"], "SUCCESSFUL")
    assert [(m["provider"], m["charged"]) for m in await two.simulator.movements()] == [(SECOND, 1)]


async def test_what_a_provider_never_got_is_not_sent_again_while_it_is_switched_off(two: Two) -> None:
    """It may be asked about, and goes by no other road either: perhaps the first send arrives after all."""
    await two.simulator.fault(kind="reset_before", operation="create", times=4)
    body = problem(await two.api.pay(), 504, "provider_timeout")
    reference = (await read(two.api, body["payment_id"]))["provider_reference"]
    before = len(await sends(two.simulator, reference))
    await two.switch_off("mtn")
    await check(two.api)
    assert [r["answered"] for r in await two.simulator.requests(path=reference) if r["method"] == "GET"] == [404]
    assert len(await sends(two.simulator, reference)) == before
    assert await two.asked(SECOND) == 0


async def test_while_all_roads_are_switched_off_nothing_is_sent_and_it_fails_in_the_end(two: Two) -> None:
    payment = (await two.api.pay(headers={"prefer": "respond-async"})).json()
    await two.switch_off("mtn")
    await two.switch_off(SECOND)
    await check(two.api)
    assert (await read(two.api, payment["id"]))["status"] == "PENDING"
    await age(two.api.database, "61 seconds")
    await check(two.api)
    done = await read(two.api, payment["id"])
    assert (done["status"], done["failure"]["code"]) == ("FAILED", "provider_unavailable")
    assert await two.asked("mtn") == 0
    assert await two.asked(SECOND) == 0


async def test_a_road_whose_circuit_is_open_is_left_without_a_try(two: Two) -> None:
    payment = (await two.api.pay(headers={"prefer": "respond-async"})).json()
    two.first._breakers["send", "collection"].open(two.first._clock(), 0.5)
    await work(two.api)
    assert (await read(two.api, payment["id"]))["provider"] == SECOND
    assert (await two.rerouting())["reason"] == "its circuit is open"
    assert await two.asked("mtn") == 0
    await until(two.api, payment["id"], "SUCCESSFUL")


async def test_a_road_that_swallows_connections_is_left_by_the_worker_at_the_latest(
    make_api: ApiFactory, simulator: Simulator
) -> None:
    with ExitStack() as sockets:
        listener = sockets.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(3):  # its queue is full: whoever comes next is not answered
            waiting = sockets.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(listener.getsockname())
        base_url = f"http://127.0.0.1:{listener.getsockname()[1]}/mtn"
        two = await two_roads(make_api, simulator, mtn_base_url=base_url, mtn_timeout_seconds=4)
        payment = (await two.api.pay()).json()
        await check(two.api)
        assert (await read(two.api, payment["id"]))["provider"] == SECOND


# --- callbacks of the road that was left ----------------------------------------------------------------------------


async def rerouted_and_waiting(two: Two) -> tuple[dict[str, Any], dict[str, Any]]:
    """A payment that waits for its payer at the second road, as it is and as the first road would know it."""
    await two.simulator.fault(**NO_TOKEN)
    await two.simulator.fault(provider=SECOND, kind="payer", decision="ignore")
    payment = (await two.api.pay()).json()
    assert payment["provider"] == SECOND
    await two.simulator.clear_faults()
    (left,) = await two.left_behind()
    return payment, payment | {"provider_reference": str(left["provider_reference"])}


async def settled_at_the_first(two: Two, reference: ProviderReference) -> None:
    """Wait until the first road has a firm word about what it was sent after all."""

    async def settled() -> bool:
        return isinstance(await two.first.provider.find("collection", reference, within_s=5), Succeeded | Declined)

    await eventually(settled)


@pytest.mark.parametrize("road", ["taken", "left"])
async def test_a_provider_is_not_heard_about_a_reference_of_another_one(two: Two, road: str) -> None:
    """Both platform accounts have no id, and each of the two may sign: the provider itself must tell them apart."""
    payment, old = await rerouted_and_waiting(two)
    spoken_of, stranger = {"taken": (payment, "mtn"), "left": (old, SECOND)}[road]
    row, asked = await two.row(), await two.asked("mtn") + await two.asked(SECOND)
    body = callback(spoken_of)
    answer = await two.api.client.post(f"/api/v1/webhooks/{stranger}", content=body, headers=signature(body))
    assert answer.status_code == 200
    await eventually(lambda: at_rest(two))
    assert await two.row() == row, "neither settled nor asked about sooner"
    assert await two.asked("mtn") + await two.asked(SECOND) == asked
    (kept,) = await two.api.database.fetch("SELECT verdict, payment_id FROM callbacks")
    assert tuple(kept) == ("unmatched", None)


async def at_rest(two: Two) -> bool:
    return gateway(two.api).calls.running == 0


@pytest.mark.parametrize("when", ["before it was read", "before it was written"])
async def test_a_callback_for_a_road_that_is_left_meanwhile_is_none_about_the_next(
    two: Two, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    payment, old = await rerouted_and_waiting(two)
    real_match, real_read = callbacks._match, callbacks._read

    async def matched_before(*args: Any) -> Match | None:
        match = await real_match(*args)
        return match and replace(match, earlier=False)

    async def read_before(*args: Any) -> Read:
        read = await real_read(*args)
        return replace(read, payment=replace(read.payment, provider_reference=old["provider_reference"], version=0))

    monkeypatch.setattr(callbacks, "_match", matched_before)
    if when == "before it was written":
        monkeypatch.setattr(callbacks, "_read", read_before)
    for body in (callback(old), callback(old, amount=None)):
        answer = await post_callback(two.api, body)
        assert answer.status_code == (200 if when == "before it was read" else 503)
    row = await two.row()
    assert (row["status"], row["told_paid"]) == ("PENDING", False)
    assert "provider:second" not in await ledger(two.api, payment["id"])


@UNSIGNED
async def test_an_unsigned_callback_for_the_road_that_was_left_settles_nothing_and_makes_us_ask_there(
    two: Two,
) -> None:
    payment, old = await rerouted_and_waiting(two)
    answer = await post_callback(two.api, callback(old), secret=None)
    assert answer.status_code == 200
    assert await questions_until_the_end(two) == checking.EARLIER_UNPROVEN_AGAIN + 1
    questions = await two.simulator.requests(provider="mtn", path=old["provider_reference"])
    assert {r["answered"] for r in questions} == {404}
    after = await read(two.api, payment["id"])
    assert (after["status"], after["review"]) == ("PENDING", None), "MTN does not know it: somebody made it up"
    assert await ledger(two.api, payment["id"]) == {}
    (kept,) = await two.api.database.fetch("SELECT * FROM callbacks")
    assert (kept["verdict"], str(kept["payment_id"])) == ("hint", payment["id"])


async def questions_until_the_end(two: Two, at_most: int = checking.EARLIER_UNPROVEN_AGAIN + 3) -> int:
    """Ask about roads that were left, as if all waiting were over, while there is a need to; how often."""
    for n in range(at_most):
        await two.api.database.fetch("UPDATE attempts SET next_run_at = now() WHERE next_run_at IS NOT NULL")
        if not await checking.ask_earlier_road(gateway(two.api)):
            return n
    return at_most


def answers(two: Two, *words: Finding) -> None:
    """Let the first road's enquiry answer with these, then with the last one again and again."""
    left = list(words)

    async def find(*_: Any, **__: Any) -> Finding:
        return left.pop(0) if len(left) > 1 else left[0]

    two.first.provider.find = find  # type: ignore[method-assign]


BOOKED = {"provider:mtn": 1_000, "suspense": -1_000}
FAILED = Declined(FailureCode.PROVIDER_ERROR, "X")
FOUND = Succeeded("4711", Money(1_000, "ZMW"), "260961234567")
THIN = {"amount": None, "currency": None, "payer": None}  # as Airtel's are
UNKNOWN_WAY = {"payee": ""}  # beside the payer, who may be the merchant then


@pytest.mark.parametrize(
    ("names", "words", "asks_on", "booked", "booked_then"),
    [
        ({}, [NotFound()], True, BOOKED, BOOKED),
        ({}, [FAILED], False, BOOKED, BOOKED),
        ({}, [NotFound(), FOUND], False, BOOKED, BOOKED),
        (THIN, [NotFound()], True, {}, {}),
        (THIN, [FAILED], False, {}, {}),
        (THIN, [NotFound(), FOUND], False, {}, BOOKED),
        (UNKNOWN_WAY, [NotFound(), FOUND], False, {}, BOOKED),
        (THIN | {"financialTransactionId": None}, [Accepted(), FAILED], False, {}, {}),
    ],
)
async def test_a_signed_callback_that_says_that_the_road_that_was_left_was_paid_goes_to_a_person_at_once(
    two: Two, names: dict[str, Any], words: list[Finding], asks_on: bool, booked: object, booked_then: object
) -> None:
    payment, old = await rerouted_and_waiting(two)
    answers(two, *words)
    if words[0] == Accepted():  # a person has seen that it is known: that it is paid is news all the same
        await post_callback(two.api, callback(old, **names | {"status": "PENDING"}))
        await two.api.database.fetch("UPDATE payments SET review = NULL")
    told_before = (await history(two.api, payment["id"])).count("payment.mismatched")
    for _ in range(2):
        assert (await post_callback(two.api, callback(old, **names))).status_code == 200
        after = await read(two.api, payment["id"])
        assert (after["status"], after["review"]) == ("PENDING", "mismatched")
        assert (await history(two.api, payment["id"])).count("payment.mismatched") == told_before + 1
        assert await ledger(two.api, payment["id"]) == booked
    many = checking.EARLIER_UNPROVEN_AGAIN + 3
    assert await questions_until_the_end(two, many) == (many if asks_on else len(words))
    assert await ledger(two.api, payment["id"]) == booked_then
    # The second road is paid as well.
    body = callback(payment, financialTransactionId="4712")
    answer = await two.api.client.post(f"/api/v1/webhooks/{SECOND}", content=body, headers=signature(body))
    assert answer.status_code == 200
    done = await read(two.api, payment["id"])
    assert (done["status"], done["review"]) == ("SUCCESSFUL", "mismatched")


@pytest.mark.parametrize(("status", "is_told"), [("PENDING", True), ("NEWS", True), ("FAILED", False)])
async def test_any_signed_word_about_the_road_that_was_left_shows_that_its_provider_knows_it(
    two: Two, status: str, is_told: bool
) -> None:
    payment, old = await rerouted_and_waiting(two)
    answers(two, NotFound())
    await two.api.database.fetch("UPDATE attempts SET next_run_at = now()")
    (claim,) = await two.claim_earlier()
    assert (await post_callback(two.api, callback(old, status=status))).status_code == 200
    async with gateway(two.api).db.tenant_transaction(claim.tenant_id) as tx:
        await attempts.answered(tx, claim, None)  # who asked meanwhile has not heard of it
    assert ((await read(two.api, payment["id"]))["review"] == "mismatched") is is_told
    many = checking.EARLIER_UNPROVEN_AGAIN + 3
    assert await questions_until_the_end(two, many) == many, "no not-found proves anything"
    answers(two, Accepted())
    assert await questions_until_the_end(two, 2) == 2
    assert (await read(two.api, payment["id"]))["review"] == "mismatched"
    assert (await history(two.api, payment["id"])).count("payment.mismatched") == 1


async def test_a_signed_word_about_money_that_goes_out_says_nothing_of_the_road_that_was_left(two: Two) -> None:
    payment, old = await rerouted_and_waiting(two)
    wallet = {"partyIdType": "MSISDN", "partyId": payment["payer"]}
    assert (await post_callback(two.api, callback(old, payer=None, payee=wallet))).status_code == 200
    assert await questions_until_the_end(two) == checking.EARLIER_UNPROVEN_AGAIN + 1
    assert (await read(two.api, payment["id"]))["review"] is None
    assert await ledger(two.api, payment["id"]) == {}


@UNSIGNED
@pytest.mark.parametrize("account", ["points elsewhere", "is gone"])
async def test_another_account_does_not_answer_for_the_road_that_was_left(two: Two, account: str) -> None:
    _, old = await rerouted_and_waiting(two)
    assert (await post_callback(two.api, callback(old), secret=None)).status_code == 200
    parts = gateway(two.api)
    roads, others = parts.roads, [two.second]
    if account == "points elsewhere":
        values = {**two.first.account.values, "collection_api_user": "8c5f5a5e-0000-4000-8000-000000000002"}
        others.append(Road(MtnProvider(replace(two.first.account, values=values))))

    async def still_asked_by(those: Roads) -> bool:
        object.__setattr__(parts, "roads", those)
        await two.api.database.fetch("UPDATE attempts SET next_run_at = now()")
        assert await checking.ask_earlier_road(parts) == 1
        (left,) = await two.left_behind()
        return left["next_run_at"] is not None

    assert await still_asked_by(roads), "one not-found is no answer"
    await two.api.database.fetch("UPDATE attempts SET checks = 7")
    assert await still_asked_by(Roads(parts.db, others)), "the account that was used may know it"
    assert not await still_asked_by(roads), "it does not know it"
    for road in others[1:]:
        await road.close()


@UNSIGNED
@pytest.mark.parametrize(("payer", "pays"), [("260961234567", True), ("260960000451", False)])
async def test_a_road_that_knows_what_it_was_never_sent_gives_the_payment_to_a_person_unless_no_money_moved(
    two: Two, payer: str, pays: bool
) -> None:
    payment, old = await rerouted_and_waiting(two)
    # As if a byte had left after all.
    asked = order(reference=ProviderReference(old["provider_reference"]), payer=Msisdn(payer))
    await two.first.provider.send(asked, within_s=5, first_byte_before=None)

    await settled_at_the_first(two, asked.reference)
    assert (await post_callback(two.api, callback(old), secret=None)).status_code == 200
    await checking.ask_earlier_road(gateway(two.api))
    after = await read(two.api, payment["id"])
    assert after["status"] == "PENDING", "the road that was taken says how it ends"
    told = await history(two.api, payment["id"])
    if not pays:
        assert after["review"] is None
        assert "payment.mismatched" not in told
    else:
        assert after["review"] == "mismatched"
        assert told.count("payment.mismatched") == 1
        await post_callback(two.api, callback(old, financialTransactionId="again"), secret=None)
        await checking.ask_earlier_road(gateway(two.api))
        assert (await history(two.api, payment["id"])).count("payment.mismatched") == 1
    assert await ledger(two.api, payment["id"]) == ({"provider:mtn": 1_000, "suspense": -1_000} if pays else {})


@UNSIGNED
async def test_callbacks_for_the_road_that_was_left_cause_few_questions_and_none_is_lost(two: Two) -> None:
    payment, old = await rerouted_and_waiting(two)
    asked = order(reference=ProviderReference(old["provider_reference"]))
    await two.simulator.fault(kind="error_before", operation="status", status=503)

    async def questions() -> int:
        return len(await two.simulator.requests(provider="mtn", path=old["provider_reference"]))

    async def due_in() -> float | None:
        sql = "SELECT extract(epoch FROM next_run_at - now())::float FROM attempts"
        seconds: float | None = await two.api.database.value(sql)
        return seconds

    async def asks() -> int:
        return await checking.ask_earlier_road(gateway(two.api))

    await post_callback(two.api, callback(old), secret=None)
    assert (await asks(), await questions()) == (1, 1)
    assert await due_in() is not None, "it had no answer"
    for n in range(20):
        assert (await post_callback(two.api, callback(old, n=n), secret=None)).status_code == 200
        await asks()
    assert await questions() == 1
    seconds = await due_in()
    assert seconds is not None
    assert 5 < seconds <= 12, "it had no answer, so it is asked again, whoever posts what"
    await two.api.database.fetch("UPDATE attempts SET next_run_at = now()")
    (claim,) = await two.claim_earlier()  # the process that asks dies
    assert await asks() == 0
    await post_callback(two.api, callback(old), secret=None)
    await two.simulator.clear_faults()
    await two.first.provider.send(asked, within_s=5, first_byte_before=None)
    await settled_at_the_first(two, asked.reference)
    before = await questions()
    await two.api.database.fetch("UPDATE attempts SET next_run_at = now()")
    assert await asks() == 1
    assert (await read(two.api, payment["id"]))["review"] == "mismatched"
    assert (await questions(), await due_in()) == (before + 1, None)
    await post_callback(two.api, callback(old, n=99), secret=None)
    seconds = await due_in()
    assert seconds is not None
    assert 10 < seconds <= 20, "answered, and asked again later and later"
    await two.api.database.fetch("UPDATE attempts SET next_run_at = now()")
    (claim,) = await two.claim_earlier()
    await post_callback(two.api, callback(old, n=100), secret=None)  # while somebody asks: the answer may be older
    async with gateway(two.api).db.tenant_transaction(claim.tenant_id) as tx:
        await attempts.answered(tx, claim, None)
    assert await due_in() is not None


@UNSIGNED
async def test_a_road_that_was_left_and_knows_it_is_asked_until_it_has_a_firm_word(two: Two) -> None:
    payment, old = await rerouted_and_waiting(two)
    paid = Succeeded("4711", Money(1_000, "ZMW"), payment["payer"])
    words: list[Finding] = [Accepted(), Accepted(), *(8 * [NotFound()]), Unknown("HTTP 503"), paid]
    answers = iter(words)

    async def find(*_: Any, **__: Any) -> Finding:
        return next(answers)

    two.first.provider.find = find  # type: ignore[method-assign]
    await post_callback(two.api, callback(old, status="PENDING"), secret=None)
    for n in range(len(words)):
        assert await checking.ask_earlier_road(gateway(two.api)) == 1, n
        if n == 0:
            assert (await read(two.api, payment["id"]))["review"] == "mismatched"
            await two.api.database.fetch("UPDATE payments SET review = NULL")
        elif n < len(words) - 1:
            assert (await read(two.api, payment["id"]))["review"] is None, "what a person has seen is no news"
        await two.api.database.fetch("UPDATE attempts SET next_run_at = now() WHERE next_run_at IS NOT NULL")
    assert await checking.ask_earlier_road(gateway(two.api)) == 0
    assert (await read(two.api, payment["id"]))["review"] == "mismatched"
    assert await ledger(two.api, payment["id"]) == {"provider:mtn": 1_000, "suspense": -1_000}


async def test_a_slow_road_that_was_left_holds_up_no_other_and_no_stop(
    two: Two, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checking, "EARLIER_PER_S", 100.0)
    asked: list[str] = []
    await two.simulator.fault(**NO_TOKEN, times=100)
    for n in range(5):
        assert (await two.api.pay(f"k{n}")).json()["provider"] == SECOND

    async def find(*about: Any, **_: Any) -> Finding:
        asked.append(about[1])
        if len(asked) < 4:
            await asyncio.sleep(30)
        return NotFound()

    two.first.provider.find = find  # type: ignore[method-assign]
    await two.api.database.fetch("UPDATE attempts SET hinted = true, next_run_at = now()")
    stop, parts = asyncio.Event(), gateway(two.api)
    of_roads = [task for task in tasks.periodic(parts, timedelta(days=1), None) if "road" in task.name]
    worker = asyncio.create_task(loop.run(parts, of_roads, stop, concurrency=1, grace_s=1))

    async def all_asked() -> bool:
        return len(set(asked)) == 5

    await eventually(all_asked)
    stop.set()
    await asyncio.wait_for(worker, 5)


@UNSIGNED
async def test_a_road_that_was_left_and_failed_it_in_doubt_knows_it_and_is_not_asked_for_ever(two: Two) -> None:
    payment, old = await rerouted_and_waiting(two)

    async def find(*_: Any, **__: Any) -> Finding:
        return Doubtful(FailureCode.PROVIDER_ERROR, "AMBIGUOUS")

    two.first.provider.find = find  # type: ignore[method-assign]
    await post_callback(two.api, callback(old, status="PENDING"), secret=None)
    for n in range(checking.EARLIER_UNPROVEN_AGAIN + 2):  # as many as a not-found gets, and more
        assert await checking.ask_earlier_road(gateway(two.api)) == 1, n
        await two.api.database.fetch("UPDATE attempts SET next_run_at = now() WHERE next_run_at IS NOT NULL")
    await two.api.database.fetch(
        "UPDATE attempts SET checks = $1 WHERE next_run_at IS NOT NULL", checking.EARLIER_DOUBTED_AGAIN
    )
    assert await checking.ask_earlier_road(gateway(two.api)) == 1
    assert await checking.ask_earlier_road(gateway(two.api)) == 0
    assert (await read(two.api, payment["id"]))["review"] == "mismatched"
    assert (await history(two.api, payment["id"])).count("payment.mismatched") == 1
