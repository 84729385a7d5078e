"""A payment from the API through the provider to its end, with every fault between."""

import asyncio
from typing import Any

import pytest

from kobiri import app as kobiri_app
from kobiri.domain.allowance import BUDGET_FULL
from kobiri.domain.breaker import IN_A_ROW
from kobiri.domain.ids import PaymentId, TenantId
from kobiri.domain.outcome import Source, Succeeded
from kobiri.services import checking, outcomes, submission
from kobiri.store import payments
from tests.api.steps import (
    ANOTHER_ACCOUNT,
    age,
    asked_to_pay,
    charged,
    check,
    end_leases,
    eventually,
    gateway,
    history,
    ledger,
    make_due,
    problem,
    read,
    sends,
    until,
    work,
)
from tests.conftest import Api, ApiFactory, Simulator

# Each repeats what it may, three times at most, before the client is told that nobody knows.
PASSES = 4

COLLECTED = {"provider:mtn": 1_000, "merchant_available": -1_000}


async def asked(simulator: Simulator, reference: str) -> int:
    """How often the provider was asked about a payment."""
    return len([r for r in await simulator.requests(path=reference) if r["method"] == "GET"])


async def sent_unknown(api: Api) -> dict[str, Any]:
    """A payment whose provider call ends as unknown."""
    body = problem(await api.pay(), 504, "provider_timeout")
    payment = await read(api, body["payment_id"])
    assert payment["status"] == "TIMEOUT"
    return payment


async def test_accepted_approved_and_collected(api: Api, simulator: Simulator) -> None:
    answer = await api.pay()
    assert answer.status_code == 201
    payment = answer.json()
    assert payment["status"] == "PENDING"
    assert answer.headers["location"] == f"/api/v1/payments/{payment['id']}"
    done = await until(api, payment["id"], "SUCCESSFUL")
    assert done["provider_transaction_id"]
    assert done["completed_at"]
    assert await history(api, payment["id"]) == ["payment.created", "payment.accepted", "payment.succeeded"]
    assert await ledger(api, payment["id"]) == COLLECTED
    assert len(await sends(simulator, payment["provider_reference"])) == 1
    await charged(simulator, payment["provider_reference"])


@pytest.mark.parametrize(
    ("last_digits", "failure"),
    [
        ("451", "payer_declined"),
        ("452", "payer_timeout"),
        ("455", "payer_not_found"),
        ("465", "insufficient_funds"),
        ("467", "insufficient_funds"),
    ],
)
async def test_a_payer_who_does_not_pay_ends_it(api: Api, simulator: Simulator, last_digits: str, failure: str) -> None:
    payment = (await api.pay(payer=f"260960000{last_digits}")).json()
    done = await until(api, payment["id"], "FAILED")
    assert done["failure"]["code"] == failure
    assert done["failure"]["provider_code"]
    assert await ledger(api, payment["id"]) == {}
    await charged(simulator, payment["provider_reference"], times=0)


@pytest.mark.parametrize(
    ("fault", "failure"),
    [
        ({"status": 400, "code": "NOT_ENOUGH_FUNDS"}, "insufficient_funds"),
        ({"status": 422, "code": "PAYER_NOT_FOUND"}, "payer_not_found"),
        ({"status": 500, "code": "PAYER_LIMIT_REACHED"}, "payer_limit_reached"),
    ],
)
async def test_declined_at_once_is_told_at_once(
    api: Api, simulator: Simulator, fault: dict[str, Any], failure: str
) -> None:
    await simulator.fault(kind="error_before", operation="create", **fault)
    answer = await api.pay()
    assert answer.status_code == 201
    payment = answer.json()
    assert (payment["status"], payment["failure"]["code"]) == ("FAILED", failure)
    assert payment["failure"]["provider_code"] == fault["code"]
    assert await work(api) == 0


PROCESSED: list[dict[str, Any]] = [
    {"kind": "drop_after"},
    {"kind": "reset_after"},
    {"kind": "error_after", "status": 500},
    {"kind": "error_after", "status": 503, "shape": "html"},
    {"kind": "error_after", "status": 401, "shape": "azure"},
    {"kind": "html_200", "processed": True},
    {"kind": "hang", "processed": True},
]


@pytest.mark.parametrize("fault", PROCESSED, ids=lambda fault: f"{fault['kind']}-{fault.get('status', '')}")
async def test_an_answer_that_is_lost_after_processing_costs_one_charge(
    make_api: ApiFactory, simulator: Simulator, fault: dict[str, Any]
) -> None:
    api = await make_api(mtn_timeout_seconds=1)
    await api.pay()  # the provider's token is there from now on
    await simulator.fault(operation="create", **fault)
    payment = await sent_unknown(api)
    # Of the 401s only the second is unknown: the first is a token that was refused, and sends again.
    before = 2 if fault.get("status") == 401 else 1
    assert len(await sends(simulator, payment["provider_reference"])) == before
    await simulator.clear_faults()
    done = await until(api, payment["id"], "SUCCESSFUL")
    assert done["review"] is None
    # Asked early enough, the provider says first that the payer has not answered yet.
    told = [type_ for type_ in await history(api, payment["id"]) if type_ != "payment.accepted"]
    assert told == ["payment.created", "payment.timed_out", "payment.succeeded"]
    assert len(await sends(simulator, payment["provider_reference"])) == before
    assert await ledger(api, payment["id"]) == COLLECTED
    await charged(simulator, payment["provider_reference"])


UNPROCESSED: list[dict[str, Any]] = [
    {"kind": "reset_before"},
    {"kind": "error_before", "status": 500},
    {"kind": "outage", "mode": "503"},
    {"kind": "html_200"},
    {"kind": "hang"},
]


@pytest.mark.parametrize("fault", UNPROCESSED, ids=lambda fault: fault["kind"])
async def test_what_never_arrived_is_asked_for_and_sent_again_under_its_reference(
    make_api: ApiFactory, simulator: Simulator, fault: dict[str, Any]
) -> None:
    api = await make_api(mtn_timeout_seconds=1)
    await api.pay()
    await simulator.fault(operation="create", times=1, **fault)
    payment = await sent_unknown(api)
    reference = payment["provider_reference"]
    await check(api)
    assert await asked(simulator, reference) == 1
    assert len(await sends(simulator, reference)) == 2
    done = await until(api, payment["id"], "SUCCESSFUL")
    assert done["provider_reference"] == reference
    assert len(await sends(simulator, reference)) == 2
    await charged(simulator, reference)


async def test_after_send_before_it_is_not_sent_again(api: Api, simulator: Simulator) -> None:
    await simulator.fault(kind="reset_before", operation="create", times=PASSES)
    payment = await sent_unknown(api)
    await age(api.database, "61 seconds")
    await check(api)
    assert len(await sends(simulator, payment["provider_reference"])) == PASSES
    assert (await read(api, payment["id"]))["status"] == "TIMEOUT"


async def test_three_not_founds_over_ten_minutes_end_it(api: Api, simulator: Simulator) -> None:
    await simulator.fault(kind="reset_before", operation="create", times=PASSES)
    payment = await sent_unknown(api)
    await age(api.database, "61 seconds")
    await check(api)
    assert (await api.database.value("SELECT not_founds FROM payments")) == 0  # MTN may have it in a queue
    await age(api.database, "60 seconds")
    for _ in range(4):
        await check(api)
    assert (await read(api, payment["id"]))["status"] == "TIMEOUT"  # often enough, but too quickly
    await age(api.database, "9 minutes")
    await check(api)
    assert (await read(api, payment["id"]))["status"] == "TIMEOUT"
    await age(api.database, "61 seconds")
    await check(api)
    done = await read(api, payment["id"])
    assert (done["status"], done["failure"]["code"]) == ("FAILED", "not_received")
    await charged(simulator, payment["provider_reference"], times=0)


async def test_a_firm_no_that_overtakes_the_request_fails_nothing(make_api: ApiFactory, simulator: Simulator) -> None:
    """Sent late in its window, to a provider so slow that it is asked before the request is in its books."""
    values = {
        name.lower(): value
        for name, value in kobiri_app.simulated_environment(simulator.url).items()
        if name.startswith("PAWAPAY_")
    }
    api = await make_api(**values, pawapay_timeout_seconds=1, payment_send_within_seconds=1)
    await simulator.fault(provider="pawapay", kind="latency", operation="create", ms=2_500)
    payment = (await api.pay(payer="260971234567", headers={"prefer": "respond-async"})).json()
    assert payment["provider"] == "pawapay"
    assert await work(api) == 1
    for _ in range(3):
        await check(api)
        assert (await read(api, payment["id"]))["status"] == "TIMEOUT"
    assert len([r for r in await simulator.requests(provider="pawapay") if r["operation"] == "status"]) == 3
    await charged(simulator, payment["provider_reference"])
    await until(api, payment["id"], "SUCCESSFUL")
    assert await ledger(api, payment["id"]) == {"provider:pawapay": 1_000, "merchant_available": -1_000}


async def test_not_found_before_send_before_does_not_count(api: Api, simulator: Simulator) -> None:
    await simulator.fault(kind="drop_after", operation="create")
    payment = await sent_unknown(api)
    await simulator.fault(kind="not_found_for", operation="status", ms=600_000)
    for _ in range(5):
        await check(api)
    row = (await api.database.fetch("SELECT status, not_founds FROM payments"))[0]
    assert tuple(row) == ("TIMEOUT", 0)
    await simulator.clear_faults()
    await until(api, payment["id"], "SUCCESSFUL")
    await charged(simulator, payment["provider_reference"])


async def test_409_is_no_new_payment_and_is_asked_for(api: Api, simulator: Simulator) -> None:
    """The first send arrived and its answer was lost; so were those of its repeats, and the first status answer."""
    await simulator.fault(kind="drop_after", operation="create", times=PASSES)
    payment = await sent_unknown(api)
    await simulator.fault(kind="not_found_for", operation="status", ms=600_000, times=1)
    await check(api)  # not found, so it is sent again: 409
    answers = [request["answered"] for request in await sends(simulator, payment["provider_reference"])]
    assert answers == ["dropped"] * PASSES + [409]
    assert (await read(api, payment["id"]))["status"] == "TIMEOUT"  # never back to PENDING
    await until(api, payment["id"], "SUCCESSFUL")
    await charged(simulator, payment["provider_reference"])


async def test_404_then_found(api: Api, simulator: Simulator) -> None:
    payment = (await api.pay()).json()
    await simulator.fault(kind="not_found_for", operation="status", ms=600_000, times=2)
    await check(api)
    await check(api)
    assert (await read(api, payment["id"]))["status"] == "PENDING"
    await until(api, payment["id"], "SUCCESSFUL")
    assert len(await sends(simulator, payment["provider_reference"])) == 1
    await charged(simulator, payment["provider_reference"])


async def test_a_refused_repeat_says_nothing_about_the_first(api: Api, simulator: Simulator) -> None:
    await simulator.fault(kind="drop_after", operation="create", times=PASSES)
    payment = await sent_unknown(api)
    await simulator.fault(kind="not_found_for", operation="status", ms=600_000, times=1)
    await simulator.fault(kind="error_before", operation="create", status=400, code="NOT_ALLOWED", times=1)
    await check(api)
    assert (await read(api, payment["id"]))["status"] == "TIMEOUT"
    await until(api, payment["id"], "SUCCESSFUL")
    await charged(simulator, payment["provider_reference"])


async def test_expiry_is_unknown_and_late_success_settles(make_api: ApiFactory, simulator: Simulator) -> None:
    api = await make_api(payment_expires_after_seconds=0.2)
    await simulator.fault(kind="payer", decision="ignore", times=1)
    ignored = (await api.pay()).json()
    await until(api, ignored["id"], "TIMEOUT")
    await simulator.fault(kind="late_success", ms=700, times=1)
    payment = (await api.pay()).json()
    await until(api, payment["id"], "TIMEOUT")
    done = await until(api, payment["id"], "SUCCESSFUL")
    assert done["review"] is None
    assert await history(api, payment["id"]) == [
        "payment.created",
        "payment.accepted",
        "payment.timed_out",
        "payment.succeeded",
    ]
    assert await ledger(api, payment["id"]) == COLLECTED
    await charged(simulator, payment["provider_reference"])
    assert (await read(api, ignored["id"]))["failure"] is None


async def test_success_after_failure_changes_no_status_but_is_told_and_booked(api: Api, simulator: Simulator) -> None:
    await simulator.fault(kind="late_success", ms=400, after_failure=True, times=1)
    payment = (await api.pay()).json()
    failed = await until(api, payment["id"], "FAILED")
    await charged(simulator, payment["provider_reference"])
    word = await gateway(api).roads._platform[0].provider.find("collection", payment["provider_reference"], within_s=4)
    # No check is due for what is final: the word comes as a late callback, a statement or an operator's question.
    await tell(api, payment["id"], word)
    await tell(api, payment["id"], word)
    after = await read(api, payment["id"])
    assert (after["status"], after["failure"], after["completed_at"]) == (
        "FAILED",
        failed["failure"],
        failed["completed_at"],
    )
    assert after["review"] == "contradicted"
    assert (await history(api, payment["id"])).count("payment.contradicted") == 1
    assert await ledger(api, payment["id"]) == {"provider:mtn": 1_000, "suspense": -1_000}


async def tell(api: Api, payment_id: str, word: Any) -> None:
    tenant_id = TenantId(api.tenant_id)
    async with gateway(api).db.tenant_transaction(tenant_id) as tx:
        found = await payments.get(tx, tenant_id, PaymentId(payment_id))
    assert found is not None
    await outcomes.apply(gateway(api).db, found.payment, word, Source.CHECK, found.now, checking.WORKER)


WRONG: list[dict[str, Any]] = [
    {"kind": "wrong_amount", "amount": "9.99"},
    {"kind": "wrong_amount", "amount": "1000"},
    {"kind": "wrong_currency", "currency": "KES"},
    {"kind": "wrong_payer", "payer": "260961234568"},
]


@pytest.mark.parametrize("fault", WRONG, ids=lambda fault: "-".join(map(str, fault.values())))
async def test_a_success_that_is_not_ours_is_never_settled(
    api: Api, simulator: Simulator, fault: dict[str, Any]
) -> None:
    await simulator.fault(operation="status", **fault)
    payment = (await api.pay()).json()
    await charged(simulator, payment["provider_reference"])
    for _ in range(3):
        await check(api)
    held = await read(api, payment["id"])
    assert (held["status"], held["review"]) == ("PENDING", "mismatched")
    assert (await history(api, payment["id"])).count("payment.mismatched") == 1
    assert await ledger(api, payment["id"]) == {}
    await simulator.clear_faults()  # the provider corrects itself: a person still has it in review
    done = await until(api, payment["id"], "SUCCESSFUL")
    assert done["review"] == "mismatched"
    assert await ledger(api, payment["id"]) == COLLECTED


async def test_what_could_not_be_sent_waits_and_fails_in_the_end(make_api: ApiFactory) -> None:
    api = await make_api(mtn_base_url="http://127.0.0.1:9/mtn")
    answer = await api.pay("k")
    assert answer.status_code == 202
    payment = answer.json()
    assert payment["status"] == "PENDING"
    again = await api.pay("k")
    assert (again.status_code, again.content) == (202, answer.content)
    await check(api)
    assert (await read(api, payment["id"]))["status"] == "PENDING"
    assert (await api.database.value("SELECT attempt FROM payments")) == 2
    await age(api.database, "61 seconds")
    await check(api)
    done = await read(api, payment["id"])
    assert (done["status"], done["failure"]["code"]) == ("FAILED", "provider_unavailable")
    told = await history(api, payment["id"])
    assert (told[:2], told[-1]) == (["payment.created", "payment.not_sent"], "payment.failed")
    assert await ledger(api, payment["id"]) == {}


async def test_what_could_not_be_sent_goes_when_the_provider_is_back(api: Api, simulator: Simulator) -> None:
    await simulator.fault(kind="error_before", operation="token", status=503)
    payment = (await api.pay()).json()
    assert await sends(simulator, payment["provider_reference"]) == []
    await simulator.clear_faults()
    await until(api, payment["id"], "SUCCESSFUL")
    assert len(await sends(simulator, payment["provider_reference"])) == 1
    await charged(simulator, payment["provider_reference"])


async def test_respond_async_is_sent_by_the_worker(api: Api, simulator: Simulator) -> None:
    answer = await api.pay(headers={"prefer": "wait=5, Respond-Async"})
    assert (answer.status_code, answer.headers["preference-applied"]) == (202, "respond-async")
    payment = answer.json()
    assert await sends(simulator, payment["provider_reference"]) == []
    assert await work(api) == 1  # due at once
    assert len(await sends(simulator, payment["provider_reference"])) == 1
    await until(api, payment["id"], "SUCCESSFUL")
    await charged(simulator, payment["provider_reference"])


async def test_an_async_order_that_no_worker_took_in_time_is_given_up(api: Api, simulator: Simulator) -> None:
    payment = (await api.pay(headers={"prefer": "respond-async"})).json()
    await age(api.database, "61 seconds")
    await work(api)
    done = await read(api, payment["id"])
    assert (done["status"], done["failure"]["code"]) == ("FAILED", "provider_unavailable")
    assert await sends(simulator, payment["provider_reference"]) == []


async def test_an_account_that_points_elsewhere_sends_nothing_old_and_proves_nothing(
    make_api: ApiFactory, simulator: Simulator
) -> None:
    first = await make_api()
    await simulator.fault(kind="reset_before", operation="create", times=PASSES)
    payment = await sent_unknown(first)
    waiting = (await first.pay(headers={"prefer": "respond-async"})).json()
    other = await make_api(mtn_collection_api_user="8c5f5a5e-0000-4000-8000-000000000002")
    for _ in range(3):
        await check(other)
    assert len(await sends(simulator, payment["provider_reference"])) == PASSES, "it was not sent again"
    assert (await read(other, payment["id"]))["status"] == "TIMEOUT"
    # What nobody was told of goes by the new account, under a new reference.
    assert await sends(simulator, waiting["provider_reference"]) == []
    sent = await until(other, waiting["id"], "SUCCESSFUL")
    assert sent["provider_reference"] != waiting["provider_reference"]
    assert "payment.rerouted" in await history(other, waiting["id"])
    await until(first, payment["id"], "SUCCESSFUL")  # the old account is configured again
    await charged(simulator, payment["provider_reference"])


@pytest.mark.parametrize("account", ANOTHER_ACCOUNT)
async def test_what_another_account_does_not_know_may_still_have_been_charged(
    make_api: ApiFactory, simulator: Simulator, account: str
) -> None:
    """Long after the last moment to send, when a not-found of the account that was used would count."""
    first = await make_api()
    await simulator.fault(kind="reset_before", operation="create", times=PASSES)
    payment = await sent_unknown(first)
    other = await make_api(**ANOTHER_ACCOUNT[account])

    async def asks_for_an_hour(api: Api) -> dict[str, Any]:
        for _ in range(6):
            await age(api.database, "11 minutes")
            await check(api)
        return await read(first, payment["id"])

    assert (await asks_for_an_hour(other))["status"] == "TIMEOUT"
    done = await asks_for_an_hour(first)  # the old account is configured again: its word counts
    assert (done["status"], done["failure"]["code"]) == ("FAILED", "not_received")


async def test_a_repeat_heals_what_was_lost_once(api: Api, simulator: Simulator) -> None:
    for kind in ("drop_after", "reset_before"):
        await simulator.fault(kind=kind, operation="create", times=1)
        answer = await api.pay()
        assert answer.status_code == 201, kind
        payment = await until(api, answer.json()["id"], "SUCCESSFUL")
        assert len(await sends(simulator, payment["provider_reference"])) == 2
        await charged(simulator, payment["provider_reference"])


async def test_a_hundred_failures_do_not_double_the_load(api: Api, simulator: Simulator) -> None:
    """Repeats are a tenth of the calls, beside what a rested budget holds, and an open circuit sends nothing."""
    await simulator.fault(kind="error_before", operation="create", status=500, shape="empty")
    answers = [await api.pay(payer=f"2609612345{n:02d}") for n in range(40)]
    assert {answer.status_code for answer in answers} == {503, 504}
    sent = [answer for answer in answers if answer.status_code == 504]
    assert len(sent) == IN_A_ROW
    assert await asked_to_pay(simulator) <= len(sent) * 1.1 + BUDGET_FULL


async def test_questions_that_never_left_are_no_checks(api: Api, simulator: Simulator) -> None:
    """Each would slow the next one down, and the payment would wait long after the provider is back."""
    made = [(await api.pay(payer=f"26096123456{n}")).json() for n in range(IN_A_ROW)]
    await simulator.fault(kind="outage", operation="status")
    for _ in range(10):
        await check(api)
    rows = await api.database.fetch("SELECT checks, next_run_at - now() AS wait FROM payments")
    counted = [await asked(simulator, payment["provider_reference"]) for payment in made]
    assert sorted(row["checks"] for row in rows) == sorted(counted)
    assert sum(counted) == IN_A_ROW
    assert max(row["wait"].total_seconds() for row in rows) < 20


async def test_unknown_for_an_hour_is_given_to_a_person_and_still_resolved(api: Api, simulator: Simulator) -> None:
    await simulator.fault(kind="late_success", ms=800, times=1)
    payment = (await api.pay()).json()
    await age(api.database, "1 hour")
    await check(api)
    held = await read(api, payment["id"])
    assert (held["status"], held["review"]) == ("TIMEOUT", "unresolved")
    assert (await history(api, payment["id"]))[-2:] == ["payment.timed_out", "payment.review_needed"]
    await until(api, payment["id"], "SUCCESSFUL")


# --- leases ---------------------------------------------------------------------------------------------------------


async def test_two_workers_do_not_take_one_payment(api: Api, simulator: Simulator) -> None:
    made = [(await api.pay(headers={"prefer": "respond-async"})).json() for _ in range(6)]
    taken = await asyncio.gather(*(checking.claim_due(gateway(api), 4) for _ in range(4)))
    claims = [claim for part in taken for claim in part]
    assert sorted(claim.payment_id for claim in claims) == sorted(payment["id"] for payment in made)
    assert await work(api) == 0


async def test_a_worker_that_wakes_after_its_lease_changes_nothing(api: Api, simulator: Simulator) -> None:
    payment = (await api.pay(headers={"prefer": "respond-async"})).json()
    (old,) = await checking.claim_due(gateway(api), 10)
    await end_leases(api.database)
    (new,) = await checking.claim_due(gateway(api), 10)
    await checking.resume(gateway(api), old)
    assert await sends(simulator, payment["provider_reference"]) == []
    await checking.resume(gateway(api), new)
    await checking.resume(gateway(api), new)
    assert len(await sends(simulator, payment["provider_reference"])) == 1


async def test_whoever_wakes_late_may_not_send_on_his_old_lease(api: Api, simulator: Simulator) -> None:
    """The lease ended, and nobody else has taken the payment yet: the token still fits, the time does not."""
    payment = (await api.pay(headers={"prefer": "respond-async"})).json()
    (claim,) = await checking.claim_due(gateway(api), 10)
    await end_leases(api.database)
    await checking.resume(gateway(api), claim)
    assert await sends(simulator, payment["provider_reference"]) == []


async def test_a_process_held_up_after_its_commit_sends_nothing(
    api: Api, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(submission, "SEND_AT_ONCE_S", 0.0)
    answer = await api.pay()
    assert answer.status_code == 202
    assert await sends(simulator, answer.json()["provider_reference"]) == []


async def sent_twice(simulator: Simulator) -> bool:
    return await asked_to_pay(simulator) == 2


async def test_a_stop_ends_open_calls_as_unknown(api: Api, simulator: Simulator) -> None:
    await api.pay()
    await simulator.fault(kind="hang", operation="create", processed=True)
    running = asyncio.create_task(api.pay())
    await eventually(lambda: sent_twice(simulator))
    gateway(api).calls.cut()
    body = problem(await running, 504, "provider_timeout")
    late = await api.pay()
    assert late.status_code == 202  # not one byte is sent any more
    assert await sends(simulator, late.json()["provider_reference"]) == []
    assert (await read(api, body["payment_id"]))["status"] == "TIMEOUT"


async def test_nothing_is_due_when_all_is_final(api: Api) -> None:
    payment = (await api.pay()).json()
    await until(api, payment["id"], "SUCCESSFUL")
    await make_due(api.database)
    assert await work(api) == 0


async def pawapay_api(make_api: ApiFactory, simulator: Simulator, **overrides: Any) -> Api:
    values = kobiri_app.simulated_environment(simulator.url)
    return await make_api(
        **{name.lower(): value for name, value in values.items() if name.startswith("PAWAPAY_")}, **overrides
    )


async def test_pawapay_refuses_a_kind_of_movement_with_403(make_api: ApiFactory, simulator: Simulator) -> None:
    api = await pawapay_api(make_api, simulator)
    not_allowed = {"kind": "error_before", "operation": "create", "status": 403, "code": "DEPOSITS_NOT_ALLOWED"}
    await simulator.fault(provider="pawapay", times=1, **not_allowed)
    refused = (await api.pay(payer="260971234567")).json()
    assert (refused["status"], refused["failure"]["code"]) == ("FAILED", "not_allowed")
    assert refused["failure"]["provider_code"] == "DEPOSITS_NOT_ALLOWED"
    assert await work(api) == 0


@pytest.mark.parametrize("lost", [1, PASSES], ids=["repeated at once", "sent again by the worker"])
async def test_pawapays_403_to_a_repeat_says_nothing_about_the_first(
    make_api: ApiFactory, simulator: Simulator, lost: int
) -> None:
    api = await pawapay_api(make_api, simulator)
    await simulator.fault(provider="pawapay", kind="drop_after", operation="create", times=lost)
    await simulator.fault(
        provider="pawapay", kind="error_before", operation="create", status=403, code="DEPOSITS_NOT_ALLOWED", skip=lost
    )
    body = problem(await api.pay(payer="260971234567"), 504, "provider_timeout")
    if lost == PASSES:
        await simulator.fault(provider="pawapay", kind="not_found_for", operation="status", ms=600_000, times=1)
        await check(api)  # not found, so it is sent again
    payment = await read(api, body["payment_id"])
    sent = [r for r in await simulator.requests(provider="pawapay") if r["operation"] == "create"]
    assert [r["answered"] for r in sent] == ["dropped"] * lost + [403]
    assert payment["status"] == "TIMEOUT"
    await until(api, payment["id"], "SUCCESSFUL")
    await charged(simulator, payment["provider_reference"])


async def airtel(make_api: ApiFactory, simulator: Simulator, **settings: Any) -> Api:
    values = kobiri_app.simulated_environment(simulator.url)
    return await make_api(**{n.lower(): v for n, v in values.items() if n.startswith("AIRTEL_")}, **settings)


async def failed_in_doubt(make_api: ApiFactory, simulator: Simulator) -> tuple[Api, dict[str, Any]]:
    """A payment that Airtel says has failed, beside the code that means "ambiguous, ask"; first heard just now."""
    api = await airtel(make_api, simulator)
    doubt = {"decision": "reject", "reason": "DP00800001000", "prompt_ms": 0, "times": 1}
    await simulator.fault(provider="airtel", kind="payer", **doubt)
    payment: dict[str, Any] = (await api.pay(payer="260971234567")).json()
    await age(api.database, "121 seconds")  # no send can arrive any more
    await check(api)
    assert (await api.database.value("SELECT doubts FROM payments")) == 1
    return api, payment


async def test_a_failure_of_which_airtel_is_not_sure_is_one_when_it_was_said_again_and_again(
    make_api: ApiFactory, simulator: Simulator
) -> None:
    api, payment = await failed_in_doubt(make_api, simulator)
    for _ in range(3):
        await check(api)
    assert (await read(api, payment["id"]))["status"] == "PENDING"  # often enough, but too quickly
    await age(api.database, "9 minutes")
    await check(api)
    assert (await read(api, payment["id"]))["status"] == "PENDING"
    await age(api.database, "61 seconds")
    await check(api)
    done = await read(api, payment["id"])
    assert (done["status"], done["failure"]) == (
        "FAILED",
        {"code": "provider_error", "provider_code": "DP00800001000"},
    )
    assert await history(api, payment["id"]) == ["payment.created", "payment.accepted", "payment.failed"]
    assert await work(api) == 0
    await charged(simulator, payment["provider_reference"], times=0)
    await tell(api, payment["id"], Succeeded("MP250101.1200.L00001"))  # it was not sure, and rightly so
    assert (await read(api, payment["id"]))["review"] == "contradicted"
    assert await ledger(api, payment["id"]) == {"provider:airtel": 1_000, "suspense": -1_000}


@pytest.mark.parametrize(
    ("between", "ends"),
    [
        ({"kind": "wrong_word", "words": ["pending"]}, False),
        ({"kind": "wrong_word", "words": ["TA"]}, False),
        ({"kind": "not_found_for", "ms": 600_000}, False),
        ({"kind": "error_before", "status": 503}, True),
    ],
    ids=["TIP", "TA", "not found", "503"],
)
async def test_another_word_of_airtels_between_two_failures_in_doubt_starts_the_count_anew(
    make_api: ApiFactory, simulator: Simulator, between: dict[str, Any], ends: bool
) -> None:
    api, payment = await failed_in_doubt(make_api, simulator)
    await check(api)
    await check(api)
    await simulator.fault(provider="airtel", operation="status", times=1, **between)
    await check(api)
    await age(api.database, "11 minutes")
    await check(api)
    assert (await api.database.value("SELECT doubts FROM payments")) == (0 if ends else 1)
    assert (await read(api, payment["id"]))["status"] == ("FAILED" if ends else "PENDING")


async def test_where_no_repeat_is_promised_no_second_request_leaves_beside_an_open_one(
    make_api: ApiFactory, simulator: Simulator
) -> None:
    api = await airtel(make_api, simulator, airtel_timeout_seconds=1)
    await simulator.fault(provider="airtel", kind="latency", operation="create", ms=3_000)
    slow = problem(await api.pay(payer="260971234567"), 504, "provider_timeout")
    for _ in range(3):
        await end_leases(api.database)
        assert await work(api) == 1
    asked = await simulator.requests(provider="airtel")
    assert [r["operation"] for r in asked if r["operation"] in ("create", "status")] == ["create"] + 3 * ["status"]
    assert (await read(api, slow["payment_id"]))["status"] == "TIMEOUT"
