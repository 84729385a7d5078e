"""The windows in which a failure leaves a doubt, one test each, and what is done about it.

C is the call to the provider, T1 the commit before it, T2 the commit of what it said.
"""

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import replace
from typing import Any

import httpx
import pytest

from kobiri.services import checking, housekeeping
from kobiri.store.db import PLATFORM
from tests.api.steps import (
    LOG,
    SECRET,
    age,
    asked_to_pay,
    callback,
    charged,
    check,
    end_leases,
    eventually,
    gateway,
    history,
    ledger,
    make_due,
    post_callback,
    problem,
    read,
    sends,
    stored,
    until,
    work,
)
from tests.conftest import LOGIN, Api, ApiFactory, Cluster, Simulator, TestDatabase, make_settings
from tests.crash.pg_proxy import T1, T2, Decision, Moment, PgProxy, proxied
from tests.e2e.stack import Stack

COLLECTED = {"provider:mtn": 1_000, "merchant_available": -1_000}
PASSES = 4  # how often one call sends what it may repeat
TAKEN = 20  # seconds until a held transaction must stand


@pytest.fixture
async def proxy(database: TestDatabase) -> AsyncIterator[PgProxy]:
    """The way to the database that can be held or cut."""
    async with proxied(database.dsn) as made:
        yield made


async def killed_at(stack: Stack, proxy: PgProxy, moment: Moment, statement: str, key: str = "k") -> None:
    """SIGKILL the API while a payment stands there; nothing that it held goes out any more."""
    server = await stack.serve(processes=1, database_url=proxy.dsn)
    hold = proxy.hold(moment, statement)
    asking = asyncio.create_task(stack.pay(key))
    await asyncio.wait_for(hold.reached.wait(), TAKEN)
    await server.kill()
    hold.decide(Decision.CUT)
    with pytest.raises(httpx.TransportError):
        await asking


async def the_row(database: TestDatabase) -> Any:
    (row,) = await database.fetch("SELECT * FROM payments")
    return row


async def settled_once(api: Api, simulator: Simulator, payment_id: str, *, sent: int = 1) -> None:
    """It ends well, was asked for so often under one reference, and was charged and booked once."""
    done = await until(api, payment_id, "SUCCESSFUL")
    assert len(await sends(simulator, done["provider_reference"])) == sent
    await charged(simulator, done["provider_reference"])
    assert len(await simulator.movements()) == 1
    assert await ledger(api, payment_id) == COLLECTED


# --- W0 to W2: before the call --------------------------------------------------------------------------------------


async def test_w0_a_client_whose_connection_drops_repeats_its_key_and_pays_once(stack: Stack) -> None:
    await stack.serve(processes=1)
    await stack.simulator.fault(kind="latency", operation="create", ms=1_500, times=1)
    dropped = asyncio.create_task(stack.pay("k"))
    await eventually(lambda: _has(stack.simulator, 1))
    dropped.cancel()
    with suppress(asyncio.CancelledError):
        await dropped

    answers = await stack.pay_until_told("k")

    assert len(answers) > 1, "the first request goes on, though nobody waits for it"
    for answer in answers[:-1]:
        problem(answer, 409, "request_in_progress")
        assert int(answer.headers["retry-after"]) > 0
    assert answers[-1].status_code == 201
    assert answers[-1].headers["idempotent-replayed"] == "true"
    assert await stored(stack.database) == (1, 1)
    assert await stack.sent(answers[-1].json()["provider_reference"]) == 1
    await charged(stack.simulator, answers[-1].json()["provider_reference"])


async def _has(simulator: Simulator, count: int) -> bool:
    return await asked_to_pay(simulator) >= count


async def test_w1_a_crash_before_t1_commits_leaves_nothing_and_the_repeat_runs_afresh(
    stack: Stack, proxy: PgProxy, make_api: ApiFactory
) -> None:
    await killed_at(stack, proxy, Moment.COMMIT, T1)
    assert await stored(stack.database) == (0, 0)
    assert await stack.simulator.requests() == []

    api = await make_api()
    answer = await api.pay("k")

    assert answer.status_code == 201
    assert "idempotent-replayed" not in answer.headers
    await settled_once(api, stack.simulator, answer.json()["id"])


@pytest.mark.parametrize("moment", [Moment.COMMIT, Moment.COMMITTED], ids=lambda moment: moment.name)
@pytest.mark.parametrize("statement", [T1, T2], ids=["T1", "T2"])
async def test_w1b_a_connection_lost_during_commit_is_read_and_never_guessed(
    make_api: ApiFactory, simulator: Simulator, proxy: PgProxy, statement: str, moment: Moment
) -> None:
    api = await make_api(database_url=proxy.dsn)
    hold = proxy.hold(moment, statement)
    asking = asyncio.create_task(api.pay("k"))
    await asyncio.wait_for(hold.reached.wait(), TAKEN)
    hold.decide(Decision.CUT)

    answer = await asking

    assert answer.status_code == 201, answer.text
    again = await api.pay("k")
    assert (again.status_code, again.content) == (201, answer.content)
    assert await stored(api.database) == (1, 1)
    assert (await history(api, answer.json()["id"]))[:2] == ["payment.created", "payment.accepted"]
    await settled_once(api, simulator, answer.json()["id"])


async def test_w2_a_crash_between_t1_and_the_call_is_resumed_under_the_same_reference(
    stack: Stack, proxy: PgProxy, make_api: ApiFactory
) -> None:
    await killed_at(stack, proxy, Moment.COMMITTED, T1)
    before = await the_row(stack.database)
    assert await stack.simulator.requests() == []

    api = await make_api()
    problem(await api.pay("k"), 409, "request_in_progress")  # the dead process's lease still runs
    assert await work(api) == 0
    await end_leases(api.database)
    assert await work(api) == 1

    # Nobody can know that it was not sent: so the provider is asked first.
    assert [r["operation"] for r in await stack.simulator.requests() if r["reference"]] == ["status", "create"]
    after = await the_row(stack.database)
    assert after["provider_reference"] == before["provider_reference"]
    assert (after["attempt"], after["sent_before"]) == (2, True)
    await settled_once(api, stack.simulator, str(before["id"]))
    assert (await api.pay("k")).headers["idempotent-replayed"] == "true"


# --- W3, W4: after it -----------------------------------------------------------------------------------------------


LOST: list[dict[str, Any]] = [
    {"kind": "hang", "processed": True},
    {"kind": "reset_after", "times": PASSES},
    {"kind": "error_after", "status": 500, "times": PASSES},
    {"kind": "html_200", "processed": True, "times": PASSES},
]


@pytest.mark.parametrize("fault", LOST, ids=lambda fault: fault["kind"])
async def test_w3_no_answer_or_no_sense_in_it_is_unknown_and_never_failed(
    make_api: ApiFactory, simulator: Simulator, fault: dict[str, Any]
) -> None:
    api = await make_api(mtn_timeout_seconds=1)
    await simulator.fault(operation="create", **fault)

    told = problem(await api.pay("k"), 504, "provider_timeout")

    row = await the_row(api.database)
    assert (row["status"], row["failure_code"], row["next_run_at"] is None) == ("TIMEOUT", None, False)
    reference = str(row["provider_reference"])
    sent = len(await sends(simulator, reference))
    await simulator.clear_faults()
    again = await api.pay("k")
    assert (again.status_code, again.json()["status"]) == (201, "TIMEOUT"), "a repeat asks for no second payment"
    await settled_once(api, simulator, told["payment_id"], sent=sent)
    assert str((await the_row(api.database))["provider_reference"]) == reference
    assert "payment.failed" not in await history(api, told["payment_id"])


@pytest.mark.parametrize("asked_too_early", [False, True])
async def test_w4_an_answer_that_died_with_its_process_is_found_again(
    stack: Stack, proxy: PgProxy, make_api: ApiFactory, asked_too_early: bool
) -> None:
    await killed_at(stack, proxy, Moment.STATEMENT, T2)
    before = await the_row(stack.database)
    assert (before["status"], before["accepted_at"]) == ("PENDING", None)
    reference = str(before["provider_reference"])
    assert len(await sends(stack.simulator, reference)) == 1
    if asked_too_early:
        await stack.simulator.fault(kind="not_found_for", operation="status", ms=600_000, times=1)

    api = await make_api()
    await end_leases(api.database)
    await work(api)

    answers = [request["answered"] for request in await sends(stack.simulator, reference)]
    assert answers == ([202, 409] if asked_too_early else [202])
    assert (await the_row(stack.database))["accepted_at"] or not asked_too_early, "a duplicate was accepted before"
    await settled_once(api, stack.simulator, str(before["id"]), sent=len(answers))


# --- W5: order ------------------------------------------------------------------------------------------------------


async def test_w5_a_callback_that_comes_before_t2_is_not_overwritten_by_it(
    make_api: ApiFactory, simulator: Simulator, proxy: PgProxy
) -> None:
    signing = {"mtn_webhook_secret": SECRET}
    slow, other = await make_api(database_url=proxy.dsn, **signing), await make_api(**signing)
    hold = proxy.hold(Moment.STATEMENT, T2)
    asking = asyncio.create_task(slow.pay("k"))
    await asyncio.wait_for(hold.reached.wait(), TAKEN)
    payment_id = str((await the_row(slow.database))["id"])
    payment = await read(other, payment_id)

    assert (await post_callback(other, callback(payment))).status_code == 200
    settled = await read(other, payment_id)
    assert settled["status"] == "SUCCESSFUL"
    hold.decide(Decision.PASS)
    answer = await asking

    assert (answer.status_code, answer.json()) == (201, settled)
    assert await read(other, payment_id) == settled
    assert await history(other, payment_id) == ["payment.created", "payment.succeeded"]
    assert await ledger(other, payment_id) == COLLECTED
    await charged(simulator, payment["provider_reference"])


# --- W6: what is told afterwards ------------------------------------------------------------------------------------

TOGETHER = """
SELECT p.status, count(DISTINCT e.id) AS events, count(DISTINCT l.ctid) AS entries,
    bool_and(e.xmin = p.xmin AND l.xmin = p.xmin) AS one_commit
FROM payments p
LEFT JOIN events e ON e.subject_id = p.id::text AND e.type = 'payment.succeeded'
LEFT JOIN ledger_entries l ON l.payment_id = p.id
GROUP BY p.status
"""


@pytest.mark.parametrize("moment", [Moment.COMMIT, Moment.COMMITTED], ids=lambda moment: moment.name)
async def test_w6_the_final_status_its_event_and_its_ledger_entry_are_one_commit(
    stack: Stack, proxy: PgProxy, make_api: ApiFactory, moment: Moment
) -> None:
    api = await make_api()
    payment = (await api.pay()).json()
    await charged(stack.simulator, payment["provider_reference"])
    hold = proxy.hold(moment, T2)
    worker = await stack.worker(database_url=proxy.dsn)
    await make_due(api.database)
    await asyncio.wait_for(hold.reached.wait(), TAKEN)

    await worker.kill()
    hold.decide(Decision.CUT)

    (row,) = await api.database.fetch(TOGETHER)
    if moment is Moment.COMMIT:
        assert tuple(row)[:3] == ("PENDING", 0, 0)
        await end_leases(api.database)
        await work(api)
        (row,) = await api.database.fetch(TOGETHER)
    assert tuple(row) == ("SUCCESSFUL", 1, 2, True)
    assert (await history(api, payment["id"])).count("payment.succeeded") == 1
    await settled_once(api, stack.simulator, payment["id"])


# --- W7: two at once ------------------------------------------------------------------------------------------------


async def test_w7_who_outlives_his_lease_changes_nothing_and_sends_nothing(api: Api, simulator: Simulator) -> None:
    asking = (await api.pay()).json()
    await charged(simulator, asking["provider_reference"])
    sending = (await api.pay(headers={"prefer": "respond-async"})).json()
    await make_due(api.database)
    old = {claim.payment_id: claim for claim in await checking.claim_due(gateway(api), 10)}
    await simulator.fault(
        kind="latency_after", operation="status", reference=asking["provider_reference"], ms=2_000, times=1
    )
    slow = asyncio.create_task(checking.resume(gateway(api), old[asking["id"]]))
    await eventually(lambda: _asked(simulator, asking["provider_reference"]))
    await end_leases(api.database)
    await work(api)
    done = await until(api, sending["id"], "SUCCESSFUL")
    before = await api.database.fetch("SELECT * FROM payments ORDER BY id")
    assert {row["status"] for row in before} == {"SUCCESSFUL"}
    assert not slow.done(), "he came too early to tell"

    await slow
    await checking.resume(gateway(api), old[sending["id"]])

    assert await api.database.fetch("SELECT * FROM payments ORDER BY id") == before
    for payment in (asking, done):
        assert (await history(api, payment["id"])).count("payment.succeeded") == 1
        assert await ledger(api, payment["id"]) == COLLECTED
        assert len(await sends(simulator, payment["provider_reference"])) == 1
        await charged(simulator, payment["provider_reference"])


async def _asked(simulator: Simulator, reference: str) -> bool:
    return any(r["operation"] == "status" for r in await simulator.requests(reference=reference))


# --- W8 to W10: time ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arrived", [False, True], ids=["it never arrived", "it is still queued"])
async def test_w8_not_found_soon_after_a_lost_call_is_no_failure_but_sends_the_same_again(
    api: Api, simulator: Simulator, arrived: bool
) -> None:
    await simulator.fault(kind="drop_after" if arrived else "reset_before", operation="create", times=PASSES)
    told = problem(await api.pay(), 504, "provider_timeout")
    reference = str((await the_row(api.database))["provider_reference"])
    if arrived:
        await simulator.fault(kind="not_found_for", operation="status", ms=600_000, times=1)

    await check(api)

    row = await the_row(api.database)
    assert (row["status"], row["not_founds"], row["attempt"]) == ("TIMEOUT", 0, 2)
    answers = [request["answered"] for request in await sends(simulator, reference)]
    assert answers[PASSES:] == [409 if arrived else 202]
    await settled_once(api, simulator, told["payment_id"], sent=PASSES + 1)


async def test_w9_a_key_outlives_its_day_while_its_payment_is_open_and_a_reference_for_ever(
    api: Api, simulator: Simulator
) -> None:
    await simulator.fault(kind="payer", decision="ignore", times=1)
    payment = (await api.pay("k", reference="INV-1")).json()
    await age(api.database, "31 days")
    assert await housekeeping.purge_idempotency_keys(gateway(api).db) == 0

    again = await api.pay("k", reference="INV-1")

    assert (again.status_code, again.json()["id"]) == (201, payment["id"])
    assert again.headers["idempotent-replayed"] == "true"
    assert problem(await api.pay(reference="INV-1"), 409, "reference_in_use")["payment_id"] == payment["id"]
    assert await asked_to_pay(simulator) == 1

    settled = (await api.pay("settled", reference="INV-2")).json()
    await until(api, settled["id"], "SUCCESSFUL")
    await age(api.database, "31 days")
    assert await housekeeping.purge_idempotency_keys(gateway(api).db) == 1
    assert problem(await api.pay("settled", reference="INV-2"), 409, "reference_in_use")["payment_id"] == settled["id"]
    assert await asked_to_pay(simulator) == 2


async def test_w10_a_success_that_comes_after_we_gave_up_is_booked_and_told(
    make_api: ApiFactory, simulator: Simulator
) -> None:
    api = await make_api(payment_expires_after_seconds=0.2)
    await simulator.fault(kind="late_success", ms=1_000, times=1)
    payment = (await api.pay()).json()
    await until(api, payment["id"], "TIMEOUT")
    assert await ledger(api, payment["id"]) == {}

    done = await until(api, payment["id"], "SUCCESSFUL")

    assert (done["failure"], done["review"]) == (None, None)
    told = ["payment.created", "payment.accepted", "payment.timed_out", "payment.succeeded"]
    assert await history(api, payment["id"]) == told
    await settled_once(api, simulator, payment["id"])


async def test_w10_a_success_after_a_failure_waits_in_suspense_for_a_person(
    make_api: ApiFactory, simulator: Simulator
) -> None:
    api = await make_api(mtn_webhook_secret=SECRET)
    payment = (await api.pay(payer="260960000451")).json()
    failed = await until(api, payment["id"], "FAILED")
    for _ in range(2):
        assert (await post_callback(api, callback(failed))).status_code == 200
    after = await read(api, payment["id"])
    assert (after["status"], after["review"]) == ("FAILED", "contradicted")
    assert (await history(api, payment["id"])).count("payment.contradicted") == 1
    assert await ledger(api, payment["id"]) == {"provider:mtn": 1_000, "suspense": -1_000}


# --- W11: an old backup ---------------------------------------------------------------------------------------------


@pytest.fixture
async def restored(cluster: Cluster, database: TestDatabase) -> AsyncIterator[TestDatabase]:
    """The test's database as it was before everything."""
    name = f"kobiri_test_{uuid.uuid4().hex[:16]}"
    await cluster.execute(f"CREATE DATABASE {name} TEMPLATE {database.owner_dsn.partition('?')[0].rpartition('/')[2]}")
    yield TestDatabase(cluster.address(name), cluster.address(name, LOGIN))
    await cluster.execute(f"DROP DATABASE {name} WITH (FORCE)")


async def lost_payments(make_api: ApiFactory, simulator: Simulator, count: int = 1) -> list[dict[str, Any]]:
    """Payments that were made, charged and then lost with their database."""
    before = await make_api(mtn_webhook_secret=SECRET)
    made = [(await before.pay()).json() for _ in range(count)]
    for payment in made:
        await charged(simulator, payment["provider_reference"])
    return made


async def test_w11_callbacks_that_a_restored_database_does_not_know_are_kept_and_told_and_nothing_is_sent(
    restored: TestDatabase,
    make_api: ApiFactory,
    database: TestDatabase,
    simulator: Simulator,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (lost,) = await lost_payments(make_api, simulator)
    asked = len(await simulator.requests())
    address = make_settings(restored, simulator.url).database_url
    assert address is not None
    api = await make_api(mtn_webhook_secret=SECRET, database_url=address.get_secret_value())
    body = callback(lost)

    assert [(await post_callback(api, body)).status_code for _ in range(2)] == [200, 200]

    (kept,) = await restored.fetch("SELECT * FROM callbacks")
    assert (str(kept["tenant_id"]), kept["verdict"], kept["payment_id"]) == (PLATFORM, "unmatched", None)
    assert (kept["provider"], bytes(kept["body"])) == ("mtn", body)
    written = capsys.readouterr()
    assert "callback.unmatched" in written.out + written.err + LOG.text
    assert await stored(restored) == (0, 0), "a callback makes no payment"
    assert await work(replace(api, database=restored)) == 0
    assert len(await simulator.requests()) == asked


async def test_w11_no_signed_callback_is_dropped_however_many_come_at_once(
    restored: TestDatabase, make_api: ApiFactory, simulator: Simulator
) -> None:
    lost = await lost_payments(make_api, simulator, 3)
    address = make_settings(restored, simulator.url).database_url
    assert address is not None
    api = await make_api(mtn_webhook_secret=SECRET, database_url=address.get_secret_value())
    bodies = [callback(payment) for payment in lost]
    answers = await asyncio.gather(*(post_callback(api, body) for body in bodies))
    assert {answer.status_code for answer in answers} == {200}
    kept = await restored.fetch("SELECT body FROM callbacks")
    assert sorted(bytes(row["body"]) for row in kept) == sorted(bodies)


# --- W12, W13: what the provider says -------------------------------------------------------------------------------


LIES: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"kind": "wrong_amount", "amount": "9.99"}, {"amount": "9.99"}),
    ({"kind": "wrong_currency", "currency": "KES"}, {"currency": "KES"}),
    (
        {"kind": "wrong_payer", "payer": "260961234568"},
        {"payer": {"partyIdType": "MSISDN", "partyId": "260961234568"}},
    ),
]


@pytest.mark.parametrize("by", ["status", "callback"])
@pytest.mark.parametrize("lie", LIES, ids=lambda lie: lie[0]["kind"])
async def test_w12_a_success_of_another_amount_currency_or_payer_settles_nothing_and_is_given_to_a_person(
    make_api: ApiFactory, simulator: Simulator, lie: tuple[dict[str, Any], dict[str, Any]], by: str
) -> None:
    api = await make_api(mtn_webhook_secret=SECRET)
    fault, told = lie
    await simulator.fault(operation="status", **fault)
    payment = (await api.pay()).json()
    await charged(simulator, payment["provider_reference"])

    for _ in range(2):
        if by == "status":
            await check(api)
        else:
            assert (await post_callback(api, callback(payment, **told))).status_code == 200

    held = await read(api, payment["id"])
    assert (held["status"], held["review"]) == ("PENDING", "mismatched")
    assert (await history(api, payment["id"])).count("payment.mismatched") == 1
    assert await ledger(api, payment["id"]) == {}
    assert (await the_row(api.database))["next_run_at"] is not None, "it is asked for again"


async def test_w13_a_token_that_is_refused_is_renewed_once_for_all_and_the_same_is_sent_again(
    api: Api, simulator: Simulator
) -> None:
    await api.pay()  # a token is there from now on
    payers = [f"26096123456{number}" for number in range(5)]
    await simulator.fault(kind="latency", operation="token", ms=500)  # the others are refused while it is renewed
    await simulator.fault(kind="latency", operation="create", ms=1_000, times=5)  # all five bear the old token
    for payer in payers:
        await simulator.fault(kind="error_before", operation="create", msisdn=payer, status=401, shape="azure", times=1)

    answers = await asyncio.gather(*(api.pay(payer=payer) for payer in payers))

    assert {answer.status_code for answer in answers} == {201}
    tokens = [r for r in await simulator.requests() if r["operation"] == "token"]
    assert len(tokens) == 2, "one at first, and one for all five"
    for answer in answers:
        payment = answer.json()
        sent = await sends(simulator, payment["provider_reference"])
        assert [request["answered"] for request in sent] == [401, 202]
        await until(api, payment["id"], "SUCCESSFUL")
        await charged(simulator, payment["provider_reference"])
    assert await asked_to_pay(simulator) == 1 + 2 * 5
