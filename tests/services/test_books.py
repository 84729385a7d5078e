"""The ledger tells the truth about money that arrived: booked from evidence, once, and of one payment alone."""

import asyncio
from typing import Any

import asyncpg
import pytest

from kobiri.domain.errors import Conflict, Unprocessable
from kobiri.domain.ids import PaymentId, TenantId
from kobiri.domain.money import Money
from kobiri.domain.outcome import Declined, FailureCode, Source, Succeeded, Unknown
from kobiri.domain.payment import Payment, Review, Status
from kobiri.services import outcomes, reviews
from kobiri.store.db import Database
from tests.api.steps import SECRET, age, callback, charged, check, gateway, ledger, post_callback, read
from tests.conftest import Api, ApiFactory, Simulator, TestDatabase
from tests.services.test_reviews import ACTOR, WHY, lost_at_mtn, lost_at_zamtel
from tests.store.builders import AUTHOR, get, insert, make_payment, make_tenant

NINE, TEN = Money(900, "ZMW"), Money(1_000, "ZMW")


@pytest.fixture
async def tenant_id(db: Database) -> TenantId:
    return await make_tenant(db, "shop")


async def hear(db: Database, payment: Payment, said: Any, source: Source = Source.CHECK) -> Payment:
    payment = (await get(db, payment)).payment
    return await outcomes.apply(db, payment, said, source, payment.created_at, AUTHOR)


async def timed_out(db: Database, tenant_id: TenantId, **over: Any) -> Payment:
    payment = await insert(db, make_payment(tenant_id, **over))
    return await hear(db, payment, Unknown("no answer"), Source.SEND)


async def failed(db: Database, tenant_id: TenantId, **over: Any) -> Payment:
    payment = await insert(db, make_payment(tenant_id, **over))
    return await hear(db, payment, Declined(FailureCode.PAYER_DECLINED))


async def suspense(database: TestDatabase) -> list[int]:
    rows = await database.fetch(
        "SELECT -amount_minor AS minor FROM ledger_entries WHERE account = 'suspense' ORDER BY created_at, movement_id"
    )
    assert await database.value("SELECT coalesce(sum(amount_minor), 0)::bigint FROM ledger_entries") == 0
    return [row["minor"] for row in rows]


async def close_review(db: Database, payment: Payment) -> None:
    await outcomes.seen(db, (await get(db, payment)).payment, WHY, AUTHOR)


# --- booked once ----------------------------------------------------------------------------------------------------


async def test_money_that_is_booked_is_a_fact_and_no_error(
    db: Database, database: TestDatabase, tenant_id: TenantId
) -> None:
    payment = await failed(db, tenant_id)
    first = await hear(db, payment, Succeeded("X", TEN))
    assert (first.review, first.received) == (Review.CONTRADICTED, TEN)
    repeats = [Succeeded("X", TEN), Succeeded(None, TEN), Succeeded("X"), Succeeded("X", TEN)]
    for source in (Source.CHECK, Source.CALLBACK, Source.STATEMENT):
        for said in repeats:
            assert await hear(db, payment, said, source) == first
    await close_review(db, payment)
    for source in (Source.CHECK, Source.CALLBACK, Source.STATEMENT):
        after = await hear(db, payment, repeats[0], source)
        assert after.review is None, "what was seen is no news"
    assert await suspense(database) == [1_000]


async def test_distinct_money_is_booked_distinctly(db: Database, database: TestDatabase, tenant_id: TenantId) -> None:
    payment = await failed(db, tenant_id)
    for said in (Succeeded("X", TEN), Succeeded("Y", NINE), Succeeded("Y", NINE), Succeeded("Z", TEN)):
        after = await hear(db, payment, said)
    assert sorted(await suspense(database)) == [900, 1_000, 1_000]
    assert after.received == Money(2_900, "ZMW")


async def test_of_the_same_money_told_by_two_at_once_one_is_booked(
    db: Database, database: TestDatabase, tenant_id: TenantId
) -> None:
    payment = await failed(db, tenant_id)
    await asyncio.gather(*(hear(db, payment, Succeeded(f"X{n % 2}", TEN)) for n in range(6)))
    assert await suspense(database) == [1_000, 1_000]


async def test_a_signed_callback_again_after_a_person_has_seen_it_is_no_error(
    make_api: ApiFactory, simulator: Simulator
) -> None:
    api = await make_api(mtn_webhook_secret=SECRET)
    await simulator.fault(kind="payer", decision="reject", prompt_ms=0)
    payment = (await api.pay()).json()
    while (await read(api, payment["id"]))["status"] != "FAILED":
        await check(api)
    body = callback(payment)
    for _ in range(2):
        assert (await post_callback(api, body)).status_code == 200
    await reviews.resolve(gateway(api), PaymentId(payment["id"]), "seen", WHY, ACTOR)
    for _ in range(3):
        assert (await post_callback(api, body)).status_code == 200
    after = await read(api, payment["id"])
    assert (after["status"], after["review"], after["received_amount"]) == ("FAILED", None, "10.00")
    assert await ledger(api, payment["id"]) == {"provider:mtn": 1_000, "suspense": -1_000}


# --- one transaction id, one payment --------------------------------------------------------------------------------


@pytest.mark.parametrize("source", [Source.SEND, Source.CHECK, Source.CALLBACK, Source.STATEMENT])
async def test_a_transaction_id_settles_one_payment(
    db: Database, database: TestDatabase, tenant_id: TenantId, source: Source
) -> None:
    other_tenant = await make_tenant(db)
    first, second = await timed_out(db, other_tenant), await timed_out(db, tenant_id)
    assert (await hear(db, first, Succeeded("X", TEN))).status is Status.SUCCESSFUL
    after = await hear(db, second, Succeeded("X", TEN), source)
    assert (after.status, after.review) == (Status.TIMEOUT, Review.MISMATCHED)
    assert await hear(db, second, Succeeded("X", TEN), Source.CALLBACK) == after, "its evidence is written down once"
    data = await database.value(
        "SELECT data FROM events WHERE type = 'payment.mismatched' AND subject_id = $1", second.id
    )
    assert "another payment" in data
    assert first.id not in data, "the other payment is another merchant's"
    assert after.received is None
    done = await hear(db, second, Succeeded("Y", TEN))
    assert (done.status, done.provider_transaction_id) == (Status.SUCCESSFUL, "Y")


@pytest.mark.parametrize("over", [{"provider": "airtel"}, {"account_fingerprint": "elsewhere"}], ids=str)
async def test_another_accounts_ids_are_others(db: Database, tenant_id: TenantId, over: dict[str, Any]) -> None:
    for payment in (await timed_out(db, tenant_id), await timed_out(db, tenant_id, **over)):
        assert (await hear(db, payment, Succeeded("X"))).status is Status.SUCCESSFUL


async def test_of_many_that_come_at_once_with_one_id_one_is_settled(
    db: Database, database: TestDatabase, tenant_id: TenantId
) -> None:
    there = [await timed_out(db, tenant_id) for _ in range(4)] + [await failed(db, tenant_id) for _ in range(2)]
    await asyncio.gather(*(hear(db, payment, Succeeded("X", TEN)) for payment in there))
    after = [(await get(db, payment)).payment for payment in there]
    rows = await database.fetch("SELECT DISTINCT movement_id FROM ledger_entries")
    assert len(rows) == 1, "the money is in the books once, collected or in suspense"
    assert sum(payment.review is None for payment in after) <= 1


async def test_money_in_suspense_settles_no_other_payment(
    db: Database, database: TestDatabase, tenant_id: TenantId
) -> None:
    late, other, third = await failed(db, tenant_id), await timed_out(db, tenant_id), await failed(db, tenant_id)
    await hear(db, late, Succeeded("X", TEN))
    assert (await hear(db, other, Succeeded("X", TEN))).status is Status.TIMEOUT
    after = await hear(db, third, Succeeded("X", TEN))
    assert (after.review, after.received) == (Review.CONTRADICTED, None)
    assert await suspense(database) == [1_000]
    # A transaction that was booked for this very payment is this payment's.
    assert (await hear(db, late, Succeeded("X", TEN))).review is Review.CONTRADICTED


async def test_a_person_cannot_settle_two_payments_with_one_id(make_api: ApiFactory, simulator: Simulator) -> None:
    api, first = await lost_at_zamtel(make_api, simulator)
    await simulator.fault(provider="zamtel", operation="create", kind="drop_after")
    second = (await api.pay(payer="260951234567")).json()["payment_id"]
    await age(api.database, "1 hour")
    await reviews.resolve(gateway(api), PaymentId(first), "successful", WHY, ACTOR, "MP-1")
    for decision in ("successful", "failed"):
        with pytest.raises(Conflict, match=rf"'MP-1' is that of payment {first} \(tenant shop\)"):
            await reviews.resolve(gateway(api), PaymentId(second), decision, WHY, ACTOR, "MP-1")
    await reviews.resolve(gateway(api), PaymentId(second), "successful", WHY, ACTOR, "MP-2")


async def test_the_database_itself_refuses_a_second_payment_with_an_id(
    db: Database, database: TestDatabase, tenant_id: TenantId
) -> None:
    first, second = await timed_out(db, tenant_id), await timed_out(db, await make_tenant(db))
    await hear(db, first, Succeeded("X"))
    with pytest.raises(asyncpg.UniqueViolationError):
        await database.fetch("UPDATE payments SET provider_transaction_id = 'X' WHERE id = $1", second.id)


# --- money that arrived while nobody can be asked -------------------------------------------------------------------


async def mismatched(api: Api, simulator: Simulator) -> str:
    """A payment of K10 of which MTN said once that K9 came, and that cannot be asked about any more."""
    await simulator.fault(kind="wrong_amount", operation="status", amount="9.00", times=1)
    payment = (await api.pay()).json()
    await charged(simulator, payment["provider_reference"])
    await check(api)
    assert (await read(api, payment["id"]))["received_amount"] == "9.00"
    await age(api.database, "1 hour")
    await simulator.fault(kind="error_before", operation="status", status=503, times=20)
    return str(payment["id"])


async def test_stored_evidence_books_what_arrived_when_the_provider_is_mute(api: Api, simulator: Simulator) -> None:
    payment_id = PaymentId(await mismatched(api, simulator))
    with pytest.raises(Conflict, match=r"9\.00 ZMW arrived, 10\.00 ZMW was asked for\. Resolve it as failed"):
        await reviews.resolve(gateway(api), payment_id, "successful", WHY, ACTOR)
    payment, finding = await reviews.resolve(gateway(api), payment_id, "failed", WHY, ACTOR)
    assert isinstance(finding, Unknown), "the command says that nobody could be asked"
    after = await read(api, payment_id)
    assert after["failure"]["code"] == "amount_mismatch"
    assert (after["received_amount"], after["received_currency"]) == ("9.00", "ZMW")
    assert await ledger(api, payment_id) == {"provider:mtn": 900, "suspense": -900}
    row = (await api.database.fetch("SELECT * FROM arrivals"))[0]
    assert (row["why"], row["told_in"]) == ("mismatched", "payment.mismatched by check")
    assert row["transaction_id"], "the id that the provider named with it"
    assert payment.status is Status.FAILED


async def test_what_a_statement_says_arrived_is_a_persons_to_tell(api: Api, simulator: Simulator) -> None:
    payment_id = PaymentId(await lost_at_mtn(api, simulator, kind="reset_before"))
    await simulator.fault(kind="error_before", operation="status", status=503, times=20)
    await age(api.database, "1 hour")
    refused: list[tuple[str, str, str]] = [
        ("failed", "10.00", "is what was asked for"),
        ("failed", "9,00", "decimal digits"),
        ("failed", "-1", "decimal digits"),
        ("failed", "0", "more than zero"),
        ("successful", "9.00", "--as failed"),
        ("seen", "9.00", "--as failed"),
    ]
    for decision, arrived, said in refused:
        with pytest.raises(Unprocessable, match=said):
            await reviews.resolve(gateway(api), payment_id, decision, WHY, ACTOR, "MP-9", arrived)  # type: ignore[arg-type]
    await reviews.resolve(gateway(api), payment_id, "failed", WHY, ACTOR, "MP-9", "9.00")
    after = await read(api, payment_id)
    assert (after["failure"]["code"], after["received_amount"]) == ("amount_mismatch", "9.00")
    assert await ledger(api, payment_id) == {"provider:mtn": 900, "suspense": -900}
