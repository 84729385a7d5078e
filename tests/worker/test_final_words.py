"""What somebody says about a payment that is final: no status changes, and no word is lost."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from kobiri.domain.ids import PaymentId, TenantId
from kobiri.domain.outcome import Accepted, Declined, FailureCode, Outcome, Source, Unknown
from kobiri.services import outcomes
from kobiri.store import payments
from kobiri.store.payments import Author
from tests.api.steps import (
    SECRET,
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
    read,
    until,
    work,
)
from tests.conftest import Api, ApiFactory, Simulator

STRAY = {"provider:mtn": 1_000, "suspense": -1_000}


async def questions(simulator: Simulator, payment: dict[str, Any]) -> int:
    found = await simulator.requests(path=payment["provider_reference"])
    return len([request for request in found if request["operation"] == "status"])


async def due_in(api: Api, payment: dict[str, Any]) -> float | None:
    """How long it is until the payment is looked at, in seconds."""
    sql = "SELECT extract(epoch FROM next_run_at - now())::float AS s FROM payments WHERE id = $1"
    seconds: float | None = await api.database.value(sql, payment["id"])
    return seconds


async def failed_by_a_lie(api: Api, simulator: Simulator, *words: str) -> dict[str, Any]:
    """MTN says FAILED once, then these words in turn, then the truth: the payer has paid."""
    await simulator.fault(kind="wrong_word", words=["failed", *words], times=1 + len(words))
    payment = (await api.pay()).json()
    await check(api)
    done = await read(api, payment["id"])
    assert done["status"] == "FAILED"
    await charged(simulator, payment["provider_reference"])
    return done


async def failed_unheard(api: Api, simulator: Simulator) -> dict[str, Any]:
    """The payer has paid, and it was concluded that nothing arrived."""
    payment = (await api.pay()).json()
    await charged(simulator, payment["provider_reference"])
    await api.database.fetch(
        "UPDATE payments SET status = 'FAILED', failure_code = 'not_received', completed_at = now(),"
        " accepted_at = NULL, next_run_at = NULL, version = version + 1"
    )
    return await read(api, payment["id"])


async def is_contradicted_once(api: Api, payment: dict[str, Any]) -> None:
    after = await read(api, payment["id"])
    assert (after["status"], after["review"]) == ("FAILED", "contradicted")
    assert (after["failure"], after["completed_at"]) == (payment["failure"], payment["completed_at"])
    assert (await history(api, payment["id"])).count("payment.contradicted") == 1
    assert await ledger(api, payment["id"]) == STRAY
    assert await due_in(api, payment) is None


@pytest.mark.parametrize("failed", [failed_by_a_lie, failed_unheard])
async def test_an_unsigned_callback_about_a_failed_payment_finds_the_money(
    api: Api, simulator: Simulator, failed: Any
) -> None:
    payment = await failed(api, simulator)
    assert await work(api) == 0
    asked = await questions(simulator, payment)
    for _ in range(5):
        assert (await post_callback(api, callback(payment), secret=None)).status_code == 200
    assert await work(api) == 1
    await is_contradicted_once(api, payment)
    assert await questions(simulator, payment) == asked + 1
    assert await work(api) == 0


async def test_a_provider_that_wavers_is_asked_until_it_has_a_firm_word(api: Api, simulator: Simulator) -> None:
    payment = await failed_by_a_lie(api, simulator, "pending", "pending")
    await post_callback(api, callback(payment, status="PENDING"), secret=None)
    for _ in range(2):
        assert await work(api) == 1
        assert (await read(api, payment["id"]))["review"] is None
        seconds = await due_in(api, payment)
        assert seconds is not None
        assert 40 < seconds < 150
        await make_due(api.database)
    assert await work(api) == 1
    await is_contradicted_once(api, payment)


async def test_a_mute_provider_is_asked_until_it_answers_and_a_person_hears_of_it(
    api: Api, simulator: Simulator
) -> None:
    payment = await failed_by_a_lie(api, simulator)
    await simulator.fault(kind="wrong_word", words=["gibberish"], times=100)
    await post_callback(api, callback(payment), secret=None)
    for _ in range(6):
        await make_due(api.database)
        assert await work(api) == 1
        assert (await read(api, payment["id"]))["status"] == "FAILED"
    assert (await read(api, payment["id"]))["review"] == "unresolved"
    await simulator.clear_faults()
    await make_due(api.database)
    assert await work(api) == 1
    await is_contradicted_once(api, payment)


async def test_a_callback_that_agrees_asks_for_nothing(api: Api, simulator: Simulator) -> None:
    paid = await until(api, (await api.pay()).json()["id"], "SUCCESSFUL")
    unpaid = await until(api, (await api.pay(payer="260960000451")).json()["id"], "FAILED")
    for payment, words in ((paid, ("SUCCESSFUL", "PENDING")), (unpaid, ("FAILED",))):
        for word in words:
            said = callback(payment, status=word, financialTransactionId=payment["provider_transaction_id"])
            await post_callback(api, said, secret=None)
    assert await work(api) == 0
    await post_callback(api, callback(unpaid), secret=None)
    await post_callback(api, callback(paid, status="FAILED", reason="EXPIRED"), secret=None)
    assert await work(api) == 2
    for payment in (paid, unpaid):
        after = await read(api, payment["id"])
        assert (after["status"], after["review"]) == (payment["status"], None), "a stranger's lie"
        assert await due_in(api, payment) is None


@pytest.mark.parametrize("secret", [SECRET, None], ids=["signed", "unsigned"])
async def test_a_callback_ahead_of_the_status_and_its_copy_minutes_later_are_no_lies(
    make_api: ApiFactory, simulator: Simulator, secret: str | None
) -> None:
    """MTN posts before its status call knows, and posts the same again three minutes after a 200."""
    api = await make_api(mtn_webhook_secret=secret)
    payment = (await api.pay()).json()
    await charged(simulator, payment["provider_reference"])
    await simulator.fault(kind="wrong_word", operation="status", words=["pending"], times=2)
    assert (await post_callback(api, callback(payment), secret=secret)).status_code == 200
    while secret is None and await questions(simulator, payment) < 2:
        await check(api)
        after = await read(api, payment["id"])
        assert (after["status"], after["review"]) == ("PENDING", None)
    done = await until(api, payment["id"], "SUCCESSFUL")
    before, asked = await history(api, payment["id"]), await questions(simulator, payment)
    copy = callback(payment, financialTransactionId=done["provider_transaction_id"])
    assert (await post_callback(api, copy, secret=secret)).status_code == 200
    assert await due_in(api, payment) is None
    assert (await read(api, payment["id"]), await history(api, payment["id"])) == (done, before)
    assert await questions(simulator, payment) == asked


async def test_strangers_cause_few_questions_about_what_is_final(api: Api, simulator: Simulator) -> None:
    unpaid = await until(api, (await api.pay(payer="260960000451")).json()["id"], "FAILED")
    asked = await questions(simulator, unpaid)
    for n in range(10):
        await post_callback(api, callback(unpaid, n=n), secret=None)
        await work(api)
    assert await questions(simulator, unpaid) == asked + 1
    seconds = await due_in(api, unpaid)
    assert seconds is not None
    assert 50 < seconds <= 60


async def test_an_open_send_that_is_accepted_after_its_payment_failed_is_asked_about(
    make_api: ApiFactory, simulator: Simulator
) -> None:
    api = await make_api(mtn_webhook_secret=SECRET)
    await api.pay()
    await simulator.fault(kind="latency_after", operation="create", ms=700)
    running = asyncio.create_task(api.pay("k"))
    found = await eventually(lambda: api.database.fetch("SELECT id::text FROM payments WHERE accepted_at IS NULL"))
    payment = await read(api, found[0]["id"])
    await post_callback(api, callback(payment, status="FAILED", reason="EXPIRED"))
    assert not running.done()
    answer = await running
    assert (answer.status_code, answer.json()["status"]) == (201, "FAILED")
    failed = await read(api, payment["id"])
    await charged(simulator, payment["provider_reference"])
    await check(api)
    await is_contradicted_once(api, failed)


@pytest.mark.parametrize(
    ("word", "code", "review"),
    [
        (Accepted(), "resolved_by_operator", "unresolved"),
        (Accepted(), "not_received", "unresolved"),
        (Accepted(), "payer_declined", None),
        (Unknown("no answer in time"), "resolved_by_operator", None),
    ],
    ids=repr,
)
async def test_a_send_that_answers_after_the_end_is_never_lost(
    api: Api, simulator: Simulator, word: Outcome, code: str, review: str | None
) -> None:
    payment = await failed_unheard(api, simulator)
    await api.database.fetch("UPDATE payments SET failure_code = $1", code)
    tenant_id = TenantId(api.tenant_id)
    async with gateway(api).db.tenant_transaction(tenant_id) as tx:
        found = await payments.get(tx, tenant_id, PaymentId(payment["id"]))
    assert found is not None
    await outcomes.apply(gateway(api).db, found.payment, word, Source.SEND, found.now, Author("test"))
    assert (await read(api, payment["id"]))["review"] == review
    assert await work(api) == 1
    assert (await read(api, payment["id"]))["review"] == "contradicted"
    assert await ledger(api, payment["id"]) == STRAY


@pytest.mark.parametrize("source", [Source.STATEMENT, Source.CALLBACK, Source.CHECK])
async def test_the_word_of_an_open_send_of_a_failed_payment_is_asked_for_where_its_process_died(
    api: Api, simulator: Simulator, source: Source
) -> None:
    """Or where the database was away just then: nobody but the provider knows of the send."""
    payment = (await api.pay()).json()
    await charged(simulator, payment["provider_reference"])
    # As if the sender had not come so far as to write down what MTN answered.
    await api.database.fetch("UPDATE payments SET accepted_at = NULL, lease_token = gen_random_uuid()")
    tenant_id = TenantId(api.tenant_id)
    async with gateway(api).db.tenant_transaction(tenant_id) as tx:
        found = await payments.get(tx, tenant_id, PaymentId(payment["id"]))
    assert found is not None
    unheld = replace(found.payment, lease_token=None)
    said = Declined(FailureCode.PROVIDER_ERROR)
    await outcomes.apply(gateway(api).db, unheld, said, source, found.now, Author("test"))
    failed = await read(api, payment["id"])
    assert failed["status"] == "FAILED"
    await end_leases(api.database)
    assert await work(api) == 1
    await is_contradicted_once(api, failed)


async def test_a_person_who_has_seen_it_ends_no_question(api: Api, simulator: Simulator) -> None:
    payment = await failed_unheard(api, simulator)
    await simulator.fault(kind="wrong_word", words=["pending"], times=2)
    await post_callback(api, callback(payment), secret=None)
    assert await work(api) == 1
    assert (await read(api, payment["id"]))["review"] == "unresolved"
    for _ in range(2):
        async with gateway(api).db.operator_transaction() as tx:
            found = await payments.find(tx, PaymentId(payment["id"]))
        assert found is not None
        if found[1].review is not None:
            await outcomes.seen(gateway(api).db, found[1], "we know", Author("operator:test"))
        assert (await read(api, payment["id"]))["review"] is None
        assert await due_in(api, payment) is not None
        await make_due(api.database)
        assert await work(api) == 1
    await is_contradicted_once(api, payment)
