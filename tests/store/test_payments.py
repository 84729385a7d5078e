"""T1, T2, attempts, hints, claims: what the statements write, and when they write nothing."""

import asyncio
import json
from dataclasses import replace
from datetime import timedelta
from itertools import pairwise
from typing import Any

import asyncpg
import pytest

from kobiri.domain.errors import ReferenceInUse
from kobiri.domain.ids import LeaseToken, PaymentId, new_id, new_provider_reference
from kobiri.domain.money import Money
from kobiri.domain.outcome import Accepted, Declined, FailureCode, Outcome, Source, Succeeded, Unknown
from kobiri.domain.payment import Change, EventDraft, Payment, Review, Status, transition
from kobiri.store import idempotency, payments
from kobiri.store.db import Database, LockTimeout
from kobiri.store.payments import Answer, Claim, Filter
from tests.conftest import TestDatabase
from tests.store.builders import AUTHOR, MINUTE, get, insert, insert_once, lock_awaited, make_payment, make_tenant


def change_of(payment: Payment, outcome: Outcome, source: Source = Source.SEND) -> Change:
    change = transition(payment, outcome, source, payment.created_at, 0.5, attempt=payment.attempt)
    assert change is not None
    return change


async def write(db: Database, payment: Payment, change: Change, answer: Answer | None = None) -> bool:
    async with db.tenant_transaction(payment.tenant_id) as tx:
        return await payments.write(tx, payment, change, AUTHOR, answer)


# --- T1 -------------------------------------------------------------------------------------------------------------


async def test_t1_stores_key_payment_and_event_together(db: Database, database: TestDatabase) -> None:
    tenant_id = await make_tenant(db)
    asked = make_payment(
        tenant_id, reference="order-1", description="two books", metadata={"shelf": "ø"}, callback_url="https://x.test"
    )

    stored = await insert(db, asked, key="key-1")

    assert replace(
        stored,
        send_before=asked.send_before,
        expires_at=asked.expires_at,
        created_at=asked.created_at,
        sent_until=None,
        next_run_at=None,
    ) == replace(asked, next_run_at=None)
    event = (await database.fetch("SELECT * FROM events WHERE subject_id = $1", asked.id))[0]
    assert (event["type"], event["actor"], event["request_id"]) == ("payment.created", "test", "request-1")
    assert (str(event["tenant_id"]), event["mode"]) == (tenant_id, "test")
    assert json.loads(event["data"])["amount"] == "10.00"
    async with db.tenant_transaction(tenant_id) as tx:
        used = await idempotency.get(tx, tenant_id, "test", "key-1")
    assert used is not None
    assert (used.payment.id, used.method, used.path, used.fingerprint) == (
        asked.id,
        "POST",
        "/api/v1/payments",
        b"fingerprint",
    )
    assert (used.status_code, used.response_body) == (None, None)


async def test_t1_counts_its_times_by_the_databases_clock(db: Database) -> None:
    tenant_id = await make_tenant(db)
    payment = make_payment(tenant_id)
    async with db.tenant_transaction(tenant_id) as tx:
        now = await tx.fetchval("SELECT now()")
        assert await insert_once(tx, payment, first_run_in=timedelta(seconds=7)) == now

    stored = (await get(db, payment)).payment
    assert (stored.created_at, stored.send_before, stored.expires_at, stored.next_run_at) == (
        now,
        now + MINUTE,
        now + 15 * MINUTE,
        now + timedelta(seconds=7),
    )
    assert stored.sent_until == stored.next_run_at, "it may be sent until its lease ends"
    unsent = await insert(db, make_payment(tenant_id, attempt=0, lease_token=None))
    assert unsent.sent_until is None


async def test_a_used_key_stores_nothing_at_all(db: Database, database: TestDatabase) -> None:
    tenant_id = await make_tenant(db)
    first = await insert(db, make_payment(tenant_id), key="key-1")
    before = await database.value("SELECT count(*) FROM events")

    async with db.tenant_transaction(tenant_id) as tx:
        assert await insert_once(tx, make_payment(tenant_id), "key-1") is None

    assert [str(row["id"]) for row in await database.fetch("SELECT id FROM payments")] == [first.id]
    assert await database.value("SELECT count(*) FROM events") == before


async def test_a_key_means_something_else_in_the_other_mode(db: Database) -> None:
    tenant_id = await make_tenant(db)

    await insert(db, make_payment(tenant_id, mode="test"), key="key-1")
    await insert(db, make_payment(tenant_id, mode="live"), key="key-1")


async def test_concurrent_twins_make_one_payment(db: Database, database: TestDatabase) -> None:
    tenant_id = await make_tenant(db)

    async def attempt() -> bool:
        async with db.tenant_transaction(tenant_id) as tx:
            return await insert_once(tx, make_payment(tenant_id), "key-1") is not None

    assert sorted(await asyncio.gather(*(attempt() for _ in range(8)))) == [False] * 7 + [True]
    assert await database.value("SELECT count(*) FROM payments") == 1


async def test_the_loser_sees_the_winner_with_its_second_statement(db: Database, database: TestDatabase) -> None:
    """The first one's snapshot cannot: it was taken before the winner committed."""
    tenant_id = await make_tenant(db)
    winner = make_payment(tenant_id)

    async def lose() -> PaymentId | None:
        async with db.tenant_transaction(tenant_id) as tx:
            assert await insert_once(tx, make_payment(tenant_id), "key-1") is None
            used = await idempotency.get(tx, tenant_id, "test", "key-1")
            return used.payment.id if used else None

    async with db.tenant_transaction(tenant_id) as tx:
        assert await insert_once(tx, winner, "key-1")
        loser = asyncio.create_task(lose())
        await lock_awaited(database)
    assert await loser == winner.id


async def test_a_twin_that_must_wait_too_long_gives_up_with_nothing_written(db: Database) -> None:
    tenant_id = await make_tenant(db)

    async with db.tenant_transaction(tenant_id) as tx:
        assert await insert_once(tx, make_payment(tenant_id), "key-1")
        with pytest.raises(LockTimeout):
            async with db.tenant_transaction(tenant_id) as second:
                await insert_once(second, make_payment(tenant_id), "key-1")


async def test_a_reference_belongs_to_one_payment_that_has_not_failed(db: Database) -> None:
    tenant_id = await make_tenant(db)
    first = await insert(db, make_payment(tenant_id, reference="order-1"))
    async with db.tenant_transaction(tenant_id) as tx:
        assert await payments.get_by_reference(tx, tenant_id, "test", "order-1") == first.id
    with pytest.raises(ReferenceInUse):
        await insert(db, make_payment(tenant_id, reference="order-1"), key="key-2")
    await insert(db, make_payment(tenant_id, mode="live", reference="order-1"))

    assert await write(db, first, change_of(first, Declined(FailureCode.PAYER_DECLINED)))
    async with db.tenant_transaction(tenant_id) as tx:
        assert await payments.get_by_reference(tx, tenant_id, "test", "order-1") is None
    second = await insert(db, make_payment(tenant_id, reference="order-1"), key="key-2")
    async with db.tenant_transaction(tenant_id) as tx:
        assert await payments.get_by_reference(tx, tenant_id, "test", "order-1") == second.id


async def test_a_reference_in_use_leaves_the_key_free(db: Database, database: TestDatabase) -> None:
    tenant_id = await make_tenant(db)
    await insert(db, make_payment(tenant_id, reference="order-1"))
    with pytest.raises(ReferenceInUse):
        await insert(db, make_payment(tenant_id, reference="order-1"), key="key-2")
    assert await database.value("SELECT count(*) FROM idempotency_keys WHERE key = 'key-2'") == 0


async def test_a_provider_reference_is_used_once(db: Database) -> None:
    reference = new_provider_reference()
    await insert(db, make_payment(await make_tenant(db), provider_reference=reference))
    with pytest.raises(asyncpg.UniqueViolationError):
        await insert(db, make_payment(await make_tenant(db), provider_reference=reference))


# --- T2 -------------------------------------------------------------------------------------------------------------


async def test_t2_writes_status_event_ledger_and_answer_together(db: Database, database: TestDatabase) -> None:
    payment = await insert(db, make_payment(await make_tenant(db)), key="key-1")

    change = change_of(payment, Succeeded("theirs-1"))
    assert await write(db, payment, change, Answer("key-1", 201, b'{"paid":true}'))

    stored = (await get(db, payment)).payment
    assert stored == change.after
    assert (stored.status, stored.version, stored.next_run_at) == (Status.SUCCESSFUL, payment.version + 1, None)
    types = await database.fetch("SELECT type FROM events WHERE subject_id = $1 ORDER BY id", payment.id)
    assert [row["type"] for row in types] == ["payment.created", "payment.succeeded"]
    entries = await database.fetch("SELECT account, amount_minor, currency FROM ledger_entries ORDER BY account")
    assert [tuple(row) for row in entries] == [("merchant_available", -1_000, "ZMW"), ("provider:mtn", 1_000, "ZMW")]
    async with db.tenant_transaction(payment.tenant_id) as tx:
        used = await idempotency.get(tx, payment.tenant_id, "test", "key-1")
    assert used is not None
    assert (used.status_code, used.response_body) == (201, b'{"paid":true}')


async def test_t2_of_one_who_came_late_writes_nothing_at_all(db: Database, database: TestDatabase) -> None:
    payment = await insert(db, make_payment(await make_tenant(db)), key="key-1")
    assert await write(db, payment, change_of(payment, Succeeded("theirs-1")), Answer("key-1", 201, b"first"))
    before = await database.fetch("SELECT (SELECT count(*) FROM events), (SELECT count(*) FROM ledger_entries)")

    late = change_of(payment, Declined(FailureCode.PAYER_DECLINED))
    assert not await write(db, payment, late, Answer("key-1", 201, b"second"))

    assert (await get(db, payment)).payment.status is Status.SUCCESSFUL
    after = await database.fetch("SELECT (SELECT count(*) FROM events), (SELECT count(*) FROM ledger_entries)")
    assert after == before
    assert await database.value("SELECT response_body FROM idempotency_keys WHERE key = 'key-1'") == b"first"


async def test_of_many_writers_one_wins(db: Database, database: TestDatabase) -> None:
    payment = await insert(db, make_payment(await make_tenant(db)))
    outcomes: list[Outcome] = [Succeeded("theirs-1"), Declined(FailureCode.PAYER_DECLINED), Unknown("lost")] * 3

    written = await asyncio.gather(*(write(db, payment, change_of(payment, outcome)) for outcome in outcomes))

    assert written.count(True) == 1
    assert await database.value("SELECT count(*) FROM events WHERE subject_id = $1", payment.id) == 2


async def test_t2_cannot_answer_another_payments_key(db: Database, database: TestDatabase) -> None:
    tenant_id = await make_tenant(db)
    payment = await insert(db, make_payment(tenant_id))
    await insert(db, make_payment(tenant_id), key="other")

    assert await write(db, payment, change_of(payment, Accepted()), Answer("other", 201, b"wrong"))

    assert await database.value("SELECT response_body FROM idempotency_keys WHERE key = 'other'") is None


async def test_an_answer_that_was_given_stays(db: Database, database: TestDatabase) -> None:
    """A client that repeats its request must not be told two things."""
    tenant_id = await make_tenant(db)
    payment = await insert(db, make_payment(tenant_id), key="key-1")
    async with db.tenant_transaction(tenant_id) as tx:
        assert await idempotency.answer(tx, payment, Answer("key-1", 202, b"first"))
    async with db.tenant_transaction(tenant_id) as tx:
        assert not await idempotency.answer(tx, payment, Answer("key-1", 201, b"second"))
    assert await write(db, payment, change_of(payment, Accepted()), Answer("key-1", 201, b"third"))
    kept = await database.fetch("SELECT status_code, response_body FROM idempotency_keys")
    assert [tuple(row) for row in kept] == [(202, b"first")]


async def test_an_answer_belongs_to_one_mode(db: Database, database: TestDatabase) -> None:
    tenant_id = await make_tenant(db)
    live = await insert(db, make_payment(tenant_id, mode="live"), key="key-1")
    await insert(db, make_payment(tenant_id, mode="test"), key="key-1")
    async with db.tenant_transaction(tenant_id) as tx:
        assert await idempotency.answer(tx, live, Answer("key-1", 202, b"live"))
    kept = await database.fetch("SELECT mode, response_body FROM idempotency_keys ORDER BY mode")
    assert [tuple(row) for row in kept] == [("live", b"live"), ("test", None)]


async def test_a_word_without_the_lease_leaves_the_schedule_to_its_holder(db: Database) -> None:
    """A callback that is written while a worker asks must not cut the worker's lease short."""
    payment = await insert(db, make_payment(await make_tenant(db)))

    assert await write(db, payment, change_of(payment, Accepted(), Source.CALLBACK))

    stored = (await get(db, payment)).payment
    assert stored.accepted_at is not None
    assert (stored.next_run_at, stored.lease_token) == (payment.next_run_at, payment.lease_token)


async def test_who_read_before_a_claim_does_not_take_the_claims_lease(db: Database) -> None:
    """A claim does not raise the version: the lease itself must tell."""
    payment = await insert(db, make_payment(await make_tenant(db), lease_token=None), first_run_in=-MINUTE)
    async with db.worker_transaction() as tx:
        [claim] = await payments.claim(tx, 1, 60)

    held = (await get(db, payment)).payment

    assert await write(db, payment, change_of(payment, Accepted(), Source.CHECK))

    stored = (await get(db, payment)).payment
    assert stored.accepted_at is not None
    assert (stored.lease_token, stored.next_run_at) == (claim.lease_token, held.next_run_at)


async def test_a_final_word_ends_the_schedule_whoever_holds_the_lease(db: Database) -> None:
    payment = await insert(db, make_payment(await make_tenant(db), lease_token=None), first_run_in=-MINUTE)
    async with db.worker_transaction() as tx:
        assert await payments.claim(tx, 1, 60)

    assert await write(db, payment, change_of(payment, Succeeded("theirs-1"), Source.CALLBACK))

    stored = (await get(db, payment)).payment
    assert (stored.next_run_at, stored.lease_token) == (None, None)


async def test_the_operator_is_told_of_each_reason_although_the_case_changed_meanwhile(
    db: Database, database: TestDatabase
) -> None:
    """Told of the old reason, somebody writes that down; of the new one nobody was told."""
    payment = await insert(db, make_payment(await make_tenant(db)))
    await database.fetch("UPDATE payments SET review = 'mismatched'")
    for review, told in ((Review.UNRESOLVED, False), (Review.MISMATCHED, True)):
        async with db.tenant_transaction(payment.tenant_id) as tx:
            await payments.note_review_told(tx, replace(payment, review=review))
        assert await database.value("SELECT review_told_at IS NOT NULL FROM payments") is told


# --- attempts and leases --------------------------------------------------------------------------------------------


async def test_an_attempt_begins_under_a_live_lease_of_ones_own(db: Database) -> None:
    payment = await insert(db, make_payment(await make_tenant(db)))

    async with db.tenant_transaction(payment.tenant_id) as tx:
        begun = await payments.begin_attempt(tx, payment, timedelta(seconds=30))

    assert begun is not None
    assert (begun.payment.attempt, begun.payment.version) == (payment.attempt + 1, payment.version + 1)
    assert begun.payment.next_run_at == begun.payment.sent_until == begun.now + timedelta(seconds=30)
    assert begun.payment == (await get(db, payment)).payment


@pytest.mark.parametrize("why", ["another's lease", "no lease", "an old version", "a lease that ended", "an old order"])
async def test_no_attempt_begins_with(db: Database, database: TestDatabase, why: str) -> None:
    first_run_in = timedelta(seconds=-1) if why == "a lease that ended" else MINUTE
    payment = await insert(db, make_payment(await make_tenant(db)), first_run_in=first_run_in)
    if why == "an old order":
        await database.fetch("UPDATE payments SET send_before = now()")
        payment = (await get(db, payment)).payment
    believed = {
        "another's lease": replace(payment, lease_token=LeaseToken(new_id())),
        "no lease": replace(payment, lease_token=None),
        "an old version": replace(payment, version=payment.version - 1),
        "a lease that ended": payment,
        "an old order": payment,
    }[why]
    other = replace(believed, provider="other", provider_reference=new_provider_reference())
    event = EventDraft("payment.rerouted", {})

    async with db.tenant_transaction(payment.tenant_id) as tx:
        assert await payments.begin_attempt(tx, believed, MINUTE) is None
        assert await payments.switch_road(tx, believed, other, "no connection", event, AUTHOR, MINUTE) is None

    assert (await get(db, payment)).payment == payment


async def test_one_lease_begins_one_attempt(db: Database) -> None:
    payment = await insert(db, make_payment(await make_tenant(db)))

    async def begin() -> bool:
        async with db.tenant_transaction(payment.tenant_id) as tx:
            return await payments.begin_attempt(tx, payment, MINUTE) is not None

    assert sorted(await asyncio.gather(*(begin() for _ in range(4)))) == [False, False, False, True]


async def test_a_lease_is_given_back_by_its_holder_alone(db: Database) -> None:
    payment = await insert(db, make_payment(await make_tenant(db), lease_token=None), first_run_in=-MINUTE)
    async with db.worker_transaction() as tx:
        [claim] = await payments.claim(tx, 1, 60)

    async with db.tenant_transaction(payment.tenant_id) as tx:
        await payments.release(tx, replace(claim, lease_token=LeaseToken(new_id())))
    assert (await get(db, payment)).payment.lease_token == claim.lease_token
    async with db.tenant_transaction(payment.tenant_id) as tx:
        await payments.release(tx, claim)
    assert (await get(db, payment)).payment.lease_token is None
    async with db.worker_transaction() as tx:
        assert len(await payments.claim(tx, 1, 60)) == 1


# --- hints ----------------------------------------------------------------------------------------------------------


async def hint(db: Database, payment: Payment) -> bool:
    """Whether a hint made the payment due."""
    async with db.tenant_transaction(payment.tenant_id) as tx:
        await payments.hint(tx, payment.tenant_id, payment.id)
    read = await get(db, payment)
    return read.payment.next_run_at is not None and read.payment.next_run_at <= read.now


async def waiting(db: Database, database: TestDatabase) -> Payment:
    """A payment that nobody holds and that is due in an hour."""
    return await insert(db, make_payment(await make_tenant(db), lease_token=None), first_run_in=timedelta(hours=1))


async def test_a_hint_makes_the_next_check_due(db: Database, database: TestDatabase) -> None:
    payment = await waiting(db, database)
    assert await hint(db, payment)
    assert (await get(db, payment)).payment.version == payment.version


async def row(database: TestDatabase, payment: Payment) -> Any:
    """The row with how long it is until it is due, in seconds."""
    sql = "SELECT *, extract(epoch FROM next_run_at - now())::float AS due_in FROM payments WHERE id = $1"
    return (await database.fetch(sql, payment.id))[0]


async def test_a_hint_does_not_cut_a_lease_short(db: Database) -> None:
    payment = await insert(db, make_payment(await make_tenant(db)))
    assert not await hint(db, payment)
    assert (await get(db, payment)).payment == payment


async def claim(db: Database) -> list[Claim]:
    async with db.worker_transaction() as tx:
        return [*await payments.claim(tx, 10, 60), *await payments.claim_final(tx, 10, 60)]


async def test_a_hint_that_comes_while_somebody_asks_is_kept(db: Database, database: TestDatabase) -> None:
    """The answer that is on its way may be older: also where it is a final one."""
    for outcome, is_final in ((Accepted(), False), (Succeeded("theirs-1"), True)):
        payment = await waiting(db, database)
        await hint(db, payment)
        assert len(await claim(db)) == 1
        held = (await get(db, payment)).payment
        await hint(db, payment)  # five seconds after the first one, at the earliest
        assert (await get(db, payment)).payment == held
        assert await write(db, held, change_of(held, outcome, Source.CHECK))
        after = await row(database, payment)
        assert (after["completed_at"] is not None, after["lease_token"]) == (is_final, None)
        assert 3 < after["due_in"] <= 5
        await database.fetch("UPDATE payments SET next_run_at = now() WHERE id = $1", payment.id)
        assert len(await claim(db)) == 1
        held = (await get(db, payment)).payment
        assert await write(db, held, change_of(held, outcome, Source.CHECK))
        after = await row(database, payment)
        assert after["due_in"] is None if is_final else after["due_in"] <= 15, "it is answered now"
        await database.fetch("DELETE FROM idempotency_keys")


async def test_hints_count_once_in_five_seconds(db: Database, database: TestDatabase) -> None:
    payment = await waiting(db, database)
    for hinted_ago, due_in in ((0, 5), (4, 1), (6, 0)):
        await database.fetch(
            "UPDATE payments SET next_run_at = now() + interval '1 h', hinted = false,"
            f" hinted_at = now() - interval '{hinted_ago} s'"
        )
        for _ in range(3):
            await hint(db, payment)
        assert (await row(database, payment))["due_in"] == pytest.approx(due_in, abs=0.9), hinted_ago


async def test_a_flood_of_hints_does_not_put_off_the_question_after_the_next(
    db: Database, database: TestDatabase
) -> None:
    """Strangers hint for nothing: a genuine hint must be heeded five seconds after the last question all the same."""
    payment = await waiting(db, database)
    for _ in range(20):
        await hint(db, payment)
    assert len(await claim(db)) == 1
    held = (await get(db, payment)).payment
    assert await write(db, held, change_of(held, Accepted(), Source.CHECK))
    await database.fetch("UPDATE payments SET next_run_at = now() + interval '1 h'")
    await hint(db, payment)
    assert (await row(database, payment))["due_in"] <= 5


async def test_hints_about_what_is_final_cause_fewer_and_fewer_questions_and_are_never_lost(
    db: Database, database: TestDatabase
) -> None:
    """A stranger hints without end: eleven questions on the first day, one on each day after it."""
    payment = await insert(db, make_payment(await make_tenant(db), lease_token=None))
    assert await write(db, payment, change_of(payment, Succeeded("theirs-1")))
    await database.fetch("UPDATE payments SET hinted_at = now() - interval '1 minute'")
    assert await hint(db, payment)
    assert (await get(db, payment)).payment.version == payment.version + 1
    for checks in range(14):
        assert len(await claim(db)) == 1
        held = (await get(db, payment)).payment
        await database.fetch("UPDATE payments SET hinted_at = now(), checks = $1", checks)
        assert await write(db, held, Change(replace(held, checks=checks, next_run_at=None, lease_token=None)))
        assert (await row(database, payment))["due_in"] is None
        for _ in range(3):
            assert not await hint(db, payment)
        due_in = (await row(database, payment))["due_in"]
        assert due_in == pytest.approx(min(60 * 2**checks, 86_400), abs=5)
        await database.fetch("UPDATE payments SET next_run_at = now()")


async def test_who_does_not_hold_a_final_payment_ends_no_question_about_it(
    db: Database, database: TestDatabase
) -> None:
    payment = await insert(db, make_payment(await make_tenant(db), lease_token=None))
    assert await write(db, payment, change_of(payment, Declined(FailureCode.PAYER_DECLINED)))
    failed = (await get(db, payment)).payment
    assert await hint(db, payment)
    # Somebody who read the payment before that hint writes: a statement's line, a person who has seen it.
    assert await write(db, failed, Change(replace(failed, review=Review.CONTRADICTED)))
    assert (await row(database, payment))["due_in"] <= 0
    [claimed] = await claim(db)
    stale = (await get(db, payment)).payment
    assert await write(db, replace(stale, lease_token=None), Change(replace(stale, review=None, next_run_at=None)))
    after = await row(database, payment)
    assert (str(after["lease_token"]), after["due_in"] > 50) == (claimed.lease_token, True)


# --- lists ----------------------------------------------------------------------------------------------------------


async def test_a_list_is_newest_first_and_pages_without_gap_or_repeat(db: Database) -> None:
    tenant_id = await make_tenant(db)
    made = [(await insert(db, make_payment(tenant_id))).id for _ in range(5)]
    await insert(db, make_payment(tenant_id, mode="live"))

    found: list[PaymentId] = []
    async with db.tenant_transaction(tenant_id) as tx:
        while page := await payments.list_page(tx, tenant_id, "test", Filter(), found[-1] if found else None, 2):
            found += [payment.id for payment in page]
    assert found == made[::-1]
    assert all(newer > older for newer, older in pairwise(found))


async def test_a_list_shows_what_all_conditions_allow(db: Database) -> None:
    tenant_id = await make_tenant(db)
    paid = await insert(db, make_payment(tenant_id, reference="order-1", money=Money(5, "ZMW")))
    waits = await insert(db, make_payment(tenant_id, provider="other"))
    assert await write(db, paid, change_of(paid, Succeeded("theirs-1")))

    async def ids(wanted: Filter) -> set[str]:
        async with db.tenant_transaction(tenant_id) as tx:
            return {payment.id for payment in await payments.list_page(tx, tenant_id, "test", wanted, None, 10)}

    assert await ids(Filter(status=Status.SUCCESSFUL)) == {paid.id}
    assert await ids(Filter(provider="other")) == {waits.id}
    assert await ids(Filter(reference="order-1")) == {paid.id}
    assert await ids(Filter(reference="order-1", status=Status.PENDING)) == set()
    assert await ids(Filter(created_from=waits.created_at)) == {waits.id}
    assert await ids(Filter(created_before=waits.created_at)) == {paid.id}


# --- the table's own rules ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "damage",
    [
        "amount_minor = 0",
        "amount_minor = -5",
        "status = 'DONE'",
        "status = 'FAILED'",  # without saying why
        "failure_code = 'payer_declined'",  # and not failed
        "next_run_at = NULL",  # not final, and nobody would ever look again
    ],
)
async def test_the_table_refuses(db: Database, damage: str) -> None:
    payment = await insert(db, make_payment(await make_tenant(db)))
    with pytest.raises(asyncpg.CheckViolationError):
        async with db.tenant_transaction(payment.tenant_id) as tx:
            await tx.execute(f"UPDATE payments SET {damage}")
