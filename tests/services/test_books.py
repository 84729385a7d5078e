"""The ledger tells the truth about money that arrived: booked from evidence, once, and of one payment alone."""

import asyncio
import json
from typing import Any

import asyncpg
import pytest

from kobiri.domain.errors import Conflict, DatabaseUnavailable, NotFound, Unprocessable
from kobiri.domain.ids import PaymentId, TenantId, new_id, new_provider_reference
from kobiri.domain.ledger import Arrival, Why
from kobiri.domain.money import Money
from kobiri.domain.outcome import Accepted, Declined, FailureCode, Source, Succeeded, Unknown
from kobiri.domain.payment import Payment, Review, Status, paid_twice
from kobiri.domain.statement import Verdict
from kobiri.services import outcomes, proposals, reviews
from kobiri.services import suspense as books
from kobiri.store.db import PLATFORM, Database
from tests.api.steps import SECRET, age, callback, charged, check, gateway, ledger, post_callback, read, signature
from tests.conftest import Api, ApiFactory, Simulator, TestDatabase
from tests.services.test_reviews import ACTOR, WHY, lost_at_mtn, lost_at_zamtel
from tests.services.test_statements import by_facts, line_of, reconcile
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


@pytest.mark.parametrize("typed", [None, "X", "S"])
@pytest.mark.parametrize("order", [(Source.CALLBACK, Source.STATEMENT), (Source.STATEMENT, Source.CALLBACK)])
async def test_what_a_person_told_of_is_booked_once_whoever_tells_of_it_next(
    db: Database, database: TestDatabase, tenant_id: TenantId, typed: str | None, order: tuple[Source, Source]
) -> None:
    payment = await timed_out(db, tenant_id)
    word = Declined(FailureCode.AMOUNT_MISMATCH, arrived=Succeeded(typed, NINE, told_in="a person's word"))
    await hear(db, payment, word, Source.PERSON)
    ids = {Source.CALLBACK: "X", Source.STATEMENT: "S"}
    for source in (*order, *order):
        await hear(db, payment, Succeeded(ids[source], NINE), source)
    assert await suspense(database) == [900]
    [entry] = await books.waiting(db)
    assert {entry.transaction_id, entry.other_id} == {"X", "S"}
    assert entry.evidence == order[0], "the provider's word is better evidence than a person's"
    for _ in range(2):
        await hear(db, payment, Succeeded("Y", NINE), Source.CHECK)
    assert await suspense(database) == [900, 900]


@pytest.mark.parametrize("lines", [("X", "Y"), ("Y", "X")])
async def test_a_second_charge_is_seen_where_statements_show_the_ids_of_the_api(
    db: Database, database: TestDatabase, tenant_id: TenantId, lines: tuple[str, str]
) -> None:
    payment = await failed(db, tenant_id)
    await hear(db, payment, Succeeded("X", TEN))
    for line in (*lines, *lines):
        await hear(db, payment, Succeeded(line, TEN), Source.STATEMENT)
    assert await suspense(database) == [1_000, 1_000]


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


async def test_money_that_came_stays_in_the_books_when_its_provider_says_failed_later(
    db: Database, database: TestDatabase, tenant_id: TenantId
) -> None:
    payment = await timed_out(db, tenant_id)
    await hear(db, payment, Succeeded("X", NINE))
    for source in (Source.CHECK, Source.CALLBACK, Source.STATEMENT):
        after = await hear(db, payment, Declined(FailureCode.PROVIDER_ERROR), source)
        assert (after.status, after.received, after.review) == (Status.FAILED, NINE, Review.MISMATCHED)
    await hear(db, payment, Succeeded("X", NINE), Source.STATEMENT)
    assert await suspense(database) == [900]
    [entry] = await books.waiting(db)
    assert (entry.why, entry.money) == (Why.MISMATCHED, NINE)


async def test_other_money_that_came_stays_in_the_list_whatever_a_person_must_look_at(
    db: Database, tenant_id: TenantId
) -> None:
    payment = await timed_out(db, tenant_id)
    await outcomes.take_hint(db, payment, Succeeded(), payment.created_at, AUTHOR)
    await hear(db, payment, Succeeded("X", NINE), Source.STATEMENT)
    after = await hear(db, payment, Declined(FailureCode.PROVIDER_ERROR))
    assert (after.status, after.review) == (Status.TIMEOUT, Review.CONTRADICTED)
    [entry] = await books.waiting(db)
    assert (entry.payment_id, entry.money, entry.booked) == (payment.id, NINE, False)


@pytest.mark.parametrize("source", [Source.SEND, Source.CHECK, Source.CALLBACK])
async def test_a_second_transaction_of_a_paid_payment_is_seen_once_and_not_booked(
    db: Database, database: TestDatabase, tenant_id: TenantId, source: Source
) -> None:
    payment = await timed_out(db, tenant_id)
    await hear(db, payment, Succeeded("X", TEN))
    for said in (Succeeded("X", TEN), Succeeded(None, TEN)):
        assert (await hear(db, payment, said, source)).review is None
    after = await hear(db, payment, Succeeded("Y", TEN), source)
    assert (after.status, after.provider_transaction_id, after.review) == ("SUCCESSFUL", "X", Review.CONTRADICTED)
    told = json.loads(await database.value("SELECT data FROM events WHERE type = 'payment.contradicted'"))
    assert (told["provider_says"], told["provider_transaction_id"]) == ("another transaction", "Y")
    await close_review(db, payment)
    assert (await hear(db, payment, Succeeded("Y", TEN), source)).review is None, "what was seen is no news"
    assert (await hear(db, payment, Succeeded("Z", TEN), source)).review is Review.CONTRADICTED
    assert await suspense(database) == []


@pytest.mark.parametrize("settled_by", [Source.STATEMENT, Source.PERSON])
async def test_an_id_of_a_statement_or_a_person_may_be_of_another_kind(
    db: Database, tenant_id: TenantId, settled_by: Source
) -> None:
    payment = await timed_out(db, tenant_id)
    await hear(db, payment, Succeeded("STATEMENT-1", TEN), settled_by)
    for number in ("X", "STATEMENT-1"):
        for source in (Source.CHECK, Source.CALLBACK):
            after = await hear(db, payment, Succeeded(number, TEN), source)
            assert (after.review, after.provider_transaction_id) == (None, "STATEMENT-1")
    # What answers name is of one kind.
    assert (await hear(db, payment, Succeeded("Y", TEN))).review is Review.CONTRADICTED


@pytest.mark.parametrize("settled_by", Source)
async def test_what_is_settled_without_a_number_learns_it_from_an_answer(
    db: Database, database: TestDatabase, tenant_id: TenantId, settled_by: Source
) -> None:
    payment = await timed_out(db, tenant_id)
    await hear(db, payment, Succeeded(None, TEN), settled_by)
    for _ in range(2):
        after = await hear(db, payment, Succeeded("A", TEN))
        assert (after.provider_transaction_id, after.review) == ("A", None)
    told = await database.fetch("SELECT data FROM events WHERE type = 'payment.transaction_told'")
    assert [json.loads(row["data"]) for row in told] == [{"source": "check", "provider_transaction_id": "A"}]
    found = await reconcile(db, [line_of(payment, their_id="STATEMENT-1")])
    assert found.entries[0].verdict is Verdict.AGREED, "its number may be of another kind"
    after = await hear(db, payment, Succeeded("B", TEN))
    assert (after.provider_transaction_id, after.review) == ("A", Review.CONTRADICTED)
    assert await suspense(database) == []


@pytest.mark.parametrize("signed_hint", [False, True], ids=["answer", "hint"])
async def test_the_number_of_another_payment_is_not_learnt(
    db: Database, tenant_id: TenantId, signed_hint: bool
) -> None:
    first, payment = await timed_out(db, tenant_id), await timed_out(db, tenant_id)
    await hear(db, first, Succeeded("X", TEN))
    after = await hear(db, payment, Succeeded(None, TEN))
    said = Succeeded("X", None if signed_hint else TEN)
    for _ in range(2):
        if signed_hint:
            await outcomes.take_hint(db, after, said, payment.created_at, AUTHOR)
        else:
            await hear(db, payment, said)
        after = (await get(db, payment)).payment
        assert (after.provider_transaction_id, after.review) == (None, Review.CONTRADICTED)
    await close_review(db, payment)
    await outcomes.take_hint(db, (await get(db, payment)).payment, Succeeded("Y"), payment.created_at, AUTHOR)
    after = (await get(db, payment)).payment
    assert (after.provider_transaction_id, after.review) == ("Y", None)


@pytest.mark.parametrize("said", [Succeeded("B", TEN), Accepted(receipt="B")], ids=["id", "receipt"])
async def test_the_number_of_second_money_is_not_learnt(
    db: Database, database: TestDatabase, tenant_id: TenantId, said: Succeeded | Accepted
) -> None:
    """Which of the two is the payment's own, nobody knows: the statement's other line would be a third money."""
    payment = await timed_out(db, tenant_id)
    await hear(db, payment, Succeeded(None, TEN))
    lines = [line_of(payment, 2, their_id="A"), line_of(payment, 3, their_id="B")]
    await reconcile(db, lines)
    assert await suspense(database) == [1_000]
    after = await hear(db, payment, said)
    assert (after.provider_transaction_id, after.provider_receipt) == (None, None)
    await reconcile(db, lines)
    assert await suspense(database) == [1_000]


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


async def test_a_person_may_name_the_receipt_and_nobody_elses(make_api: ApiFactory, simulator: Simulator) -> None:
    api, first = await lost_at_zamtel(make_api, simulator)
    second = (await api.pay(payer="260951234567")).json()["payment_id"]
    await age(api.database, "1 hour")
    await api.database.fetch("UPDATE payments SET provider_receipt = 'R-1' WHERE id = $1", first)
    for decision in ("successful", "failed"):
        with pytest.raises(Conflict, match=rf"'R-1' is that of payment {first} \(tenant shop\)"):
            await reviews.resolve(gateway(api), PaymentId(second), decision, WHY, ACTOR, "R-1")
    await reviews.resolve(gateway(api), PaymentId(first), "successful", WHY, ACTOR, "R-1")
    done = await read(api, first)
    assert (done["status"], done["provider_transaction_id"], done["provider_receipt"]) == ("SUCCESSFUL", None, "R-1")


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


async def test_a_space_makes_no_transaction_id_another(make_api: ApiFactory, simulator: Simulator) -> None:
    api, first = await lost_at_zamtel(make_api, simulator)
    second = (await api.pay(payer="260951234568")).json()["payment_id"]
    await age(api.database, "2 minutes")
    await reviews.resolve(gateway(api), PaymentId(first), "successful", WHY, ACTOR, " MP-1")
    assert (await read(api, first))["provider_transaction_id"] == "MP-1"
    with pytest.raises(Conflict, match="'MP-1' is that of payment"):
        await reviews.resolve(gateway(api), PaymentId(second), "successful", WHY, ACTOR, "MP-1 ")


# --- a line that a person accepts ------------------------------------------------------------------------------------


@pytest.mark.parametrize("interrupted", [False, True])
async def test_an_accepted_line_of_a_payment_that_failed_meanwhile_is_late_money(
    api: Api, simulator: Simulator, monkeypatch: pytest.MonkeyPatch, *, interrupted: bool
) -> None:
    await simulator.fault(kind="payer", decision="reject", prompt_ms=0)
    payment_id, db = PaymentId(await lost_at_mtn(api, simulator)), gateway(api).db
    payment = (await reviews.evidence(db, payment_id)).payment
    await reconcile(db, [by_facts(payment)])
    [proposal] = await proposals.waiting(db)
    if interrupted:  # the database is away when the money is to be booked

        async def away(*_: Any) -> Any:
            raise DatabaseUnavailable(retry_after_s=1)

        await reviews.check(gateway(api), payment_id, ACTOR)
        with monkeypatch.context() as patched:
            patched.setattr(outcomes, "apply", away)
            with pytest.raises(DatabaseUnavailable):
                await proposals.accept(gateway(api), proposal.id, WHY, ACTOR)
        [proposal] = await proposals.waiting(db)
    after = await proposals.accept(gateway(api), proposal.id, WHY, ACTOR)
    assert (after.status, after.review) == (Status.FAILED, Review.CONTRADICTED)
    assert await suspense(api.database) == [1_000]
    with pytest.raises(Conflict, match="accepted already"):
        await proposals.accept(gateway(api), proposal.id, WHY, ACTOR)
    assert await suspense(api.database) == [1_000]


async def test_an_acceptance_that_was_cut_short_is_finished_though_its_payment_failed_meanwhile(
    api: Api, simulator: Simulator
) -> None:
    """The process died between the person's word and the payment, and the worker heard that it failed."""
    await simulator.fault(kind="payer", decision="reject", prompt_ms=0)
    payment_id, db = PaymentId(await lost_at_mtn(api, simulator)), gateway(api).db
    await reconcile(db, [by_facts((await reviews.evidence(db, payment_id)).payment)])
    [proposal] = await proposals.waiting(db)
    await api.database.fetch("UPDATE proposals SET accepted = true, decided_at = now()")
    await reviews.check(gateway(api), payment_id, ACTOR)
    assert (await proposals.accept(gateway(api), proposal.id, WHY, ACTOR)).status is Status.FAILED
    assert await suspense(api.database) == [1_000]


async def test_who_read_a_proposal_before_another_decided_on_it_decides_nothing(api: Api, simulator: Simulator) -> None:
    payment_id, db = PaymentId(await lost_at_mtn(api, simulator)), gateway(api).db
    await reconcile(db, [by_facts((await reviews.evidence(db, payment_id)).payment)])
    [read] = await proposals.waiting(db)
    await proposals.reject(db, read.id, WHY, ACTOR)
    with pytest.raises(Conflict, match="meanwhile"):
        await proposals._decide(db, read, WHY, ACTOR, accepted=True)
    assert await api.database.value("SELECT accepted FROM proposals") is False


# --- money of nobody here, as a signed callback tells it -------------------------------------------------------------


async def test_a_signed_callback_of_a_payment_that_is_lost_is_booked_once(make_api: ApiFactory) -> None:
    api = await make_api(mtn_webhook_secret=SECRET)
    lost = {
        "provider_reference": new_provider_reference(),
        "amount": "10.00",
        "currency": "ZMW",
        "payer": "260961234567",
    }
    body = callback(lost)
    for _ in range(3):
        assert (await post_callback(api, body)).status_code == 200
    assert await suspense(api.database) == [1_000]
    row = (await api.database.fetch("SELECT tenant_id::text, why, source, transaction_id FROM arrivals"))[0]
    assert tuple(row) == (PLATFORM, "unasked", "callback", "4711")
    for _ in range(2):  # another transaction under the same reference is other money
        assert (await post_callback(api, callback(lost, financialTransactionId="4712"))).status_code == 200
    assert await suspense(api.database) == [1_000, 1_000]


async def test_of_unasked_money_told_by_many_at_once_one_is_booked(db: Database, database: TestDatabase) -> None:
    reference = new_provider_reference()

    async def tell(source: Source) -> bool:
        arrival = Arrival("mtn", "", TEN, Why.UNASKED, source, f"by {source}", "somewhere")
        return await books.book_unasked(db, PLATFORM, "live", reference, arrival, AUTHOR)

    assert sum(await asyncio.gather(*(tell(source) for source in [Source.CALLBACK, Source.STATEMENT] * 2))) == 1
    assert await suspense(database) == [1_000]


@pytest.mark.parametrize(
    ("changes", "secret"),
    [
        ({}, None),  # nobody signed it
        ({"status": "FAILED"}, SECRET),
        ({"status": "PENDING"}, SECRET),
        ({"amount": None}, SECRET),
        ({"externalId": "01a21f57-dede-7751-ac73-0e4e34a9f745"}, SECRET),  # no version of UUID that we send
        ({"externalId": "order 17"}, SECRET),
        ({"payer": None, "payee": {"partyIdType": "MSISDN", "partyId": "260961234567"}}, SECRET),  # it went out
        ({"payee": {"partyIdType": "MSISDN", "partyId": "260961234567"}}, SECRET),  # nobody knows which way it went
        ({"payer": None}, SECRET),  # the same
    ],
    ids=str,
)
async def test_what_is_no_word_about_money_of_ours_is_not_booked(
    make_api: ApiFactory, changes: dict[str, Any], secret: str | None
) -> None:
    api = await make_api(mtn_webhook_secret=SECRET)
    lost = {
        "provider_reference": new_provider_reference(),
        "amount": "10.00",
        "currency": "ZMW",
        "payer": "260961234567",
    }
    await post_callback(api, callback(lost, **changes), secret=secret)
    assert await suspense(api.database) == []


@pytest.mark.parametrize(
    ("named", "arrived"), [({"depositId": ""}, [500]), ({"payoutId": ""}, []), ({"refundId": "", "depositId": ""}, [])]
)
async def test_pawapays_word_about_money_that_went_out_is_no_arrival(
    make_api: ApiFactory, simulator: Simulator, named: dict[str, str], arrived: list[int]
) -> None:
    api = await make_api(
        pawapay_base_url=f"{simulator.url}/pawapay", pawapay_mode="both", pawapay_api_token="t" * 40,
        pawapay_currency="ZMW", pawapay_webhook_secret=SECRET,
    )  # fmt: skip
    wallet = {"type": "MMO", "accountDetails": {"phoneNumber": "260961234567", "provider": "MTN_MOMO_ZMB"}}
    told = {name: new_provider_reference() for name in named} | {
        "status": "COMPLETED", "amount": "5.00", "currency": "ZMW", "providerTransactionId": "OUT-1",
        "payer" if arrived else "recipient": wallet,
    }  # fmt: skip
    body = json.dumps(told).encode()
    headers = {"content-type": "application/json", "x-api-key": "", **signature(body)}
    answer = await api.client.post("/api/v1/webhooks/pawapay", content=body, headers=headers)
    assert (answer.status_code, await suspense(api.database)) == (200, arrived)


async def test_a_word_about_money_that_goes_out_settles_no_collection(
    make_api: ApiFactory, simulator: Simulator
) -> None:
    """It stands under the collection's own reference, signed and with its amount and number."""
    api = await make_api(mtn_webhook_secret=SECRET)
    await simulator.fault(kind="payer", decision="ignore")
    payment = (await api.pay()).json()
    wallet = {"partyIdType": "MSISDN", "partyId": payment["payer"]}
    assert (await post_callback(api, callback(payment, payer=None, payee=wallet))).status_code == 200
    assert (await read(api, payment["id"]))["status"] == "PENDING"


async def test_a_callback_with_a_payments_own_transaction_id_is_not_booked(
    make_api: ApiFactory, simulator: Simulator
) -> None:
    api = await make_api(mtn_webhook_secret=SECRET)
    payment = (await api.pay()).json()
    assert (await post_callback(api, callback(payment))).status_code == 200
    lost = payment | {"provider_reference": new_provider_reference()}
    assert (await post_callback(api, callback(lost))).status_code == 200
    assert await suspense(api.database) == []


# --- what waits, and its end ----------------------------------------------------------------------------------------


async def everything(db: Database, tenant_id: TenantId) -> dict[str, Payment]:
    """A payment for each reason why money waits."""
    late, open_ = await failed(db, tenant_id), await timed_out(db, tenant_id)
    await hear(db, late, Succeeded("L", TEN, told_in="statement 0b7a line 3"), Source.STATEMENT)
    await hear(db, open_, Succeeded("M", NINE))
    twice = await hear(db, await timed_out(db, tenant_id), Succeeded("A"))
    await outcomes.note(db, twice, lambda payment: paid_twice(payment, Succeeded("B"), Source.STATEMENT), AUTHOR)
    earlier = await timed_out(db, tenant_id)
    await outcomes.suspect(
        db, earlier, new_provider_reference(), "airtel", "there", Succeeded("E"), Source.CHECK, AUTHOR
    )
    unasked = Arrival("mtn", "", TEN, Why.UNASKED, Source.STATEMENT, "U", "statement 0b7a line 4")
    assert await books.book_unasked(db, PLATFORM, "live", new_provider_reference(), unasked, AUTHOR)
    return {"late": late, "mismatched": open_, "twice": twice, "earlier_road": earlier}


async def test_all_that_waits_is_listed_with_what_it_waits_for(
    db: Database, database: TestDatabase, tenant_id: TenantId
) -> None:
    there = await everything(db, tenant_id)
    found = {entry.why: entry for entry in await books.waiting(db)}
    assert set(found) == set(Why)
    for why, payment in there.items():
        entry = found[Why(why)]
        assert (entry.payment_id, entry.tenant, entry.booked) == (payment.id, "shop", why != "mismatched")
        assert entry.next_step
        assert 0 <= entry.age_s < 600
    assert (found[Why.UNASKED].payment_id, found[Why.UNASKED].mode) == (None, "live")
    assert {entry.mode for why, entry in found.items() if why is not Why.UNASKED} == {"test"}
    assert ("sandbox" in found[Why.LATE].next_step, "sandbox" in found[Why.UNASKED].next_step) == (True, False)
    assert found[Why.LATE].evidence == "statement: statement 0b7a line 3"
    assert found[Why.EARLIER_ROAD].provider == "airtel"
    assert (found[Why.MISMATCHED].money, found[Why.MISMATCHED].id) == (NINE, None)
    assert found[Why.MISMATCHED].next_step.endswith(f"kobiri payments resolve {there['mismatched'].id} --as failed")
    assert sum(entry.money.minor for entry in found.values() if entry.booked) == sum(await suspense(database))
    assert len(await books.waiting(db, limit=2)) == 2


@pytest.mark.parametrize(("clearing", "account"), [("returned", "provider:mtn"), ("merchant", "merchant_available")])
async def test_what_is_cleared_waits_no_more(
    db: Database, database: TestDatabase, tenant_id: TenantId, clearing: Any, account: str
) -> None:
    payment = await failed(db, tenant_id)
    await hear(db, payment, Succeeded("L", TEN))
    [entry] = await books.waiting(db)
    assert entry.id is not None
    cleared = await asyncio.gather(
        *(books.clear(db, entry.id, clearing, WHY, ACTOR) for _ in range(3)), return_exceptions=True
    )
    assert sorted(type(one).__name__ for one in cleared) == ["Conflict", "Conflict", "StoredArrival"]
    assert await books.waiting(db) == []
    assert sum(await suspense(database)) == 0
    rows = await database.fetch("SELECT account, sum(amount_minor)::bigint AS minor FROM ledger_entries GROUP BY 1")
    found = {row["account"]: row["minor"] for row in rows if row["minor"]}
    assert found == ({} if clearing == "returned" else {"provider:mtn": 1_000, account: -1_000})
    facts = json.loads(await database.value("SELECT data FROM events WHERE type = 'arrival.cleared'"))
    assert facts == {"as": clearing, "reason": WHY, "payment_id": payment.id}
    assert await hear(db, payment, Succeeded("L", TEN)) == (await get(db, payment)).payment, "it is not booked again"


async def test_what_an_earlier_road_brought_decides_nothing_about_the_open_one(
    db: Database, database: TestDatabase, tenant_id: TenantId
) -> None:
    payment = await timed_out(db, tenant_id)
    reference = new_provider_reference()
    words: list[Accepted | Succeeded] = [Accepted(), Succeeded("E"), Succeeded("E"), Accepted()]
    for said in words:
        after = (await get(db, payment)).payment
        after = await outcomes.suspect(db, after, reference, "airtel", "there", said, Source.CHECK, AUTHOR)
    assert (after.status, after.review, after.received) == (Status.TIMEOUT, Review.MISMATCHED, None)
    done = await hear(db, payment, Succeeded("A", TEN))
    assert (done.status, done.review) == (Status.SUCCESSFUL, Review.MISMATCHED)
    assert await suspense(database) == [1_000]


async def test_what_cannot_be_cleared_says_why(db: Database, tenant_id: TenantId) -> None:
    await everything(db, tenant_id)
    [unasked] = [entry for entry in await books.waiting(db) if entry.why is Why.UNASKED]
    assert unasked.id is not None
    with pytest.raises(Conflict, match="of no merchant"):
        await books.clear(db, unasked.id, "merchant", WHY, ACTOR)
    with pytest.raises(Unprocessable):
        await books.clear(db, unasked.id, "returned", " ", ACTOR)
    for id_ in (new_id(), "nonsense"):
        with pytest.raises(NotFound):
            await books.clear(db, id_, "returned", WHY, ACTOR)
    await books.clear(db, unasked.id, "returned", WHY, ACTOR)
