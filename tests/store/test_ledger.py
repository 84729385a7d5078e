"""The ledger and the audit log refuse what would falsify them, whoever asks."""

import asyncio

import asyncpg
import pytest

from kobiri.domain.ids import PaymentId, TenantId
from kobiri.domain.payment import Payment
from kobiri.store.db import Database, Tx
from tests.conftest import TestDatabase
from tests.store.builders import insert, lock_awaited, make_payment, make_tenant

Ids = tuple[TenantId, PaymentId]

LINE = "INSERT INTO ledger_entries (tenant_id, payment_id, reason, account, amount_minor, currency)"


async def book(tx: Tx, ids: Ids, *lines: tuple[str, int, str], reason: str = "collected") -> None:
    for account, minor, currency in lines:
        await tx.execute(f"{LINE} VALUES ($1, $2, $3, $4, $5, $6)", *ids, reason, account, minor, currency)


@pytest.fixture
async def ids(db: Database) -> Ids:
    """A tenant and a payment of it."""
    payment = await insert(db, make_payment(await make_tenant(db)))
    return payment.tenant_id, payment.id


async def test_a_movement_is_balanced_at_commit_and_not_before(db: Database, database: TestDatabase, ids: Ids) -> None:
    async with db.tenant_transaction(ids[0]) as tx:
        await book(tx, ids, ("a", 1_000, "ZMW"))
        await book(tx, ids, ("b", -600, "ZMW"))
        await book(tx, ids, ("c", -400, "ZMW"))
    assert await database.value("SELECT count(*) FROM ledger_entries") == 3


@pytest.mark.parametrize(
    "lines",
    [
        [("a", 1_000, "ZMW")],
        [("a", -1_000, "ZMW")],
        [("a", 1_000, "ZMW"), ("b", -999, "ZMW")],
        [("a", 1_000, "ZMW"), ("b", -1_001, "ZMW")],
        [("a", 1_000, "ZMW"), ("b", -1_000, "USD")],  # sums to zero, in two currencies
    ],
)
async def test_an_unbalanced_movement_is_refused_at_commit(
    db: Database, database: TestDatabase, ids: Ids, lines: list[tuple[str, int, str]]
) -> None:
    reached_commit = False
    with pytest.raises(asyncpg.CheckViolationError) as refused:  # noqa: PT012  # where it is raised is the point
        async with db.tenant_transaction(ids[0]) as tx:
            await book(tx, ids, *lines)
            reached_commit = True
    assert reached_commit
    assert refused.value.constraint_name == "ledger_balance"
    assert await database.value("SELECT count(*) FROM ledger_entries") == 0


async def test_two_movements_do_not_balance_each_other(db: Database, ids: Ids) -> None:
    async def book_two() -> None:
        async with db.tenant_transaction(ids[0]) as tx:
            await book(tx, ids, ("a", 5, "ZMW"), reason="collected")
            await book(tx, ids, ("a", -5, "ZMW"), reason="reversed")

    with pytest.raises(asyncpg.CheckViolationError):
        await book_two()


async def test_a_movement_that_was_balanced_cannot_be_added_to(db: Database, ids: Ids) -> None:
    async with db.tenant_transaction(ids[0]) as tx:
        await book(tx, ids, ("a", 5, "ZMW"), ("b", -5, "ZMW"))
    with pytest.raises(asyncpg.CheckViolationError):
        async with db.tenant_transaction(ids[0]) as tx:
            await book(tx, ids, ("c", 1, "ZMW"))


async def test_the_same_movement_is_booked_once(db: Database, ids: Ids) -> None:
    async with db.tenant_transaction(ids[0]) as tx:
        await book(tx, ids, ("a", 5, "ZMW"), ("b", -5, "ZMW"))
    with pytest.raises(asyncpg.UniqueViolationError):
        async with db.tenant_transaction(ids[0]) as tx:
            await book(tx, ids, ("a", 5, "ZMW"), ("b", -5, "ZMW"))


async def test_a_line_of_nothing_is_refused(db: Database, ids: Ids) -> None:
    with pytest.raises(asyncpg.CheckViolationError):
        async with db.tenant_transaction(ids[0]) as tx:
            await book(tx, ids, ("a", 0, "ZMW"))


@pytest.mark.parametrize("table", ["events", "event_seals", "ledger_entries"])
@pytest.mark.parametrize("statement", ["UPDATE {} SET tenant_id = tenant_id", "DELETE FROM {}", "TRUNCATE {}"])
async def test_not_even_the_owner_can_change_what_is_append_only(
    database: TestDatabase, table: str, statement: str
) -> None:
    with pytest.raises(asyncpg.InsufficientPrivilegeError, match=f"{table} is append-only"):
        await database.fetch(statement.format(table))


@pytest.mark.parametrize("table", ["events", "event_seals", "ledger_entries"])
@pytest.mark.parametrize("statement", ["UPDATE {} SET tenant_id = tenant_id", "DELETE FROM {}", "TRUNCATE {}"])
async def test_the_api_has_no_right_to_try(db: Database, table: str, statement: str) -> None:
    tenant_id = await make_tenant(db)
    with pytest.raises(asyncpg.InsufficientPrivilegeError, match="permission denied"):
        async with db.tenant_transaction(tenant_id) as tx:
            await tx.execute(statement.format(table))


# --- one transaction of an account is one payment's -----------------------------------------------------------------


COLUMN = {"arrived": "transaction_id", "known by it": "other_id"}
SETTLE = {
    "settled": "UPDATE payments SET provider_transaction_id = $2 WHERE id = $1",
    "receipt": "UPDATE payments SET provider_receipt = $2 WHERE id = $1",
}
ARRIVE = """
INSERT INTO arrivals (tenant_id, id, payment_id, provider, account_fingerprint, {}, amount_minor, currency, why, source)
SELECT tenant_id, gen_random_uuid(), id, provider, account_fingerprint, $2, 900, 'ZMW', 'late', 'check'
FROM payments WHERE id = $1
"""


async def take(db: Database, payment: Payment, how: str, transaction_id: str) -> bool:
    """Whether this payment may be settled by a transaction, or money that arrived about it be booked under its id."""
    try:
        async with db.tenant_transaction(payment.tenant_id) as tx:
            await tx.execute(SETTLE.get(how) or ARRIVE.format(COLUMN[how]), payment.id, transaction_id)
    except asyncpg.UniqueViolationError:
        return False
    return True


@pytest.mark.parametrize("first", [*SETTLE, *COLUMN])
@pytest.mark.parametrize("second", [*SETTLE, *COLUMN])
async def test_a_transaction_id_is_taken_once_in_its_account_whoevers_payment_it_is(
    db: Database, first: str, second: str
) -> None:
    """Two providers, and two accounts of one, count their transactions each for itself."""
    ours = await insert(db, make_payment(await make_tenant(db)))
    assert await take(db, ours, first, "X")
    for place, free in (({}, False), ({"provider": "airtel"}, True), ({"account_fingerprint": "elsewhere"}, True)):
        other = await insert(db, make_payment(await make_tenant(db), **place))
        assert await take(db, other, second, "X") is free, place
        assert await take(db, other, second, "Y")
    if {first, second} & set(SETTLE):
        assert await take(db, ours, second, "X"), "it is its own"
    elif first == second:
        assert not await take(db, ours, second, "X"), "the same money is booked once"


@pytest.mark.parametrize(("first", "second"), [("settled", "receipt"), ("receipt", "settled"), ("receipt", "arrived")])
async def test_of_two_that_come_at_once_one_has_the_number(
    db: Database, database: TestDatabase, first: str, second: str
) -> None:
    """In whichever place it stands: neither sees the other's uncommitted row."""
    one, other = [await insert(db, make_payment(await make_tenant(db))) for _ in range(2)]
    async with db.tenant_transaction(one.tenant_id) as tx:
        await tx.execute(SETTLE[first], one.id, "X")
        later = asyncio.create_task(take(db, other, second, "X"))
        await lock_awaited(database)
    assert not await later


async def test_payments_that_share_a_number_since_an_older_version_change_otherwise(
    db: Database, database: TestDatabase
) -> None:
    one, other, third = [await insert(db, make_payment(await make_tenant(db))) for _ in range(3)]
    assert await take(db, one, "settled", "X")
    await database.fetch(
        "UPDATE payments SET provider_transaction_id = 'X', shares_transaction_id = true WHERE id = $1", other.id
    )
    assert await take(db, other, "receipt", "R")
    assert not await take(db, third, "receipt", "X")
    assert not await take(db, third, "settled", "R")


ARRIVE_UNASKED = """
INSERT INTO arrivals (tenant_id, id, provider, account_fingerprint, provider_reference, {}, amount_minor, currency, why,
    source, mode)
VALUES ($1, gen_random_uuid(), 'mtn', 'x', gen_random_uuid(), $2, 900, 'ZMW', 'unasked', 'statement', 'test')
"""


@pytest.mark.parametrize("first", COLUMN.values())
@pytest.mark.parametrize("second", COLUMN.values())
async def test_a_transaction_of_no_payment_is_booked_once(db: Database, first: str, second: str) -> None:
    tenant_id = await make_tenant(db)
    async with db.tenant_transaction(tenant_id) as tx:
        await tx.execute(ARRIVE_UNASKED.format(first), tenant_id, "X")
        await tx.execute(ARRIVE_UNASKED.format(second), tenant_id, "Y")
    with pytest.raises(asyncpg.UniqueViolationError):
        async with db.tenant_transaction(tenant_id) as tx:
            await tx.execute(ARRIVE_UNASKED.format(second), tenant_id, "X")
