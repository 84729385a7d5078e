"""Claims: due work is taken once, of all tenants, without looking at what is not due."""

import asyncio
import json
import re
from datetime import timedelta
from typing import Any

import asyncpg

from kobiri.store import attempts, payments
from kobiri.store.db import Database
from kobiri.store.payments import Claim
from tests.conftest import TestDatabase
from tests.store.builders import MINUTE, get, insert, make_payment, make_tenant

DUE = -MINUTE


async def claim(db: Database, limit: int = 100, lease_s: float = 60) -> list[Claim]:
    async with db.worker_transaction() as tx:
        return await payments.claim(tx, limit, lease_s)


async def claim_final(db: Database, limit: int = 100) -> list[Claim]:
    async with db.worker_transaction() as tx:
        return await payments.claim_final(tx, limit, 60)


async def test_due_payments_of_all_tenants_are_claimed_and_no_others(db: Database) -> None:
    due = [await insert(db, make_payment(await make_tenant(db), lease_token=None), first_run_in=DUE) for _ in range(3)]
    await insert(db, make_payment(await make_tenant(db), lease_token=None), first_run_in=MINUTE)

    claims = await claim(db)

    assert {(c.tenant_id, c.payment_id) for c in claims} == {(p.tenant_id, p.id) for p in due}
    assert len({c.lease_token for c in claims}) == 3
    for c, p in zip(sorted(claims, key=lambda c: c.payment_id), due, strict=True):
        read = await get(db, p)
        assert read.payment.lease_token == c.lease_token
        assert read.payment.next_run_at is not None
        assert timedelta(seconds=50) < read.payment.next_run_at - read.now <= MINUTE
        assert read.payment.version == p.version
    assert await claim(db) == []


async def test_of_two_roads_that_were_left_the_one_that_is_due_is_asked(db: Database, database: TestDatabase) -> None:
    payment = await insert(db, make_payment(await make_tenant(db)))
    await database.fetch(
        "INSERT INTO attempts (tenant_id, payment_id, attempt, provider, account_fingerprint, provider_reference,"
        " reason, next_run_at) SELECT tenant_id, id, n, 'mtn', 'somewhere', gen_random_uuid(), 'no token',"
        " now() + interval '1 h' * (n - 1) FROM payments, generate_series(1, 2) n"
    )

    async def due() -> list[tuple[int, float]]:
        sql = "SELECT attempt, extract(epoch FROM next_run_at - now())::float FROM attempts ORDER BY attempt"
        return [(number, round(seconds / 60)) for number, seconds in await database.fetch(sql)]

    async with db.worker_transaction() as tx:
        [claimed] = await attempts.claim(tx, 10, 60)
    assert (claimed.payment_id, claimed.attempt) == (payment.id, 1)
    assert await due() == [(1, 1), (2, 60)]
    async with db.tenant_transaction(payment.tenant_id) as tx:
        await attempts.answered(tx, claimed, 10 * MINUTE)
    assert await due() == [(1, 10), (2, 60)]


async def test_the_longest_overdue_are_claimed_first(db: Database) -> None:
    tenant_id = await make_tenant(db)
    overdue = [
        await insert(db, make_payment(tenant_id, lease_token=None), first_run_in=timedelta(seconds=-seconds))
        for seconds in (10, 30, 20)
    ]
    order = [(await claim(db, limit=1))[0].payment_id for _ in range(3)]
    assert order == [overdue[1].id, overdue[2].id, overdue[0].id]


async def test_an_ended_lease_is_due_again_under_another_token(db: Database, database: TestDatabase) -> None:
    payment = await insert(db, make_payment(await make_tenant(db), lease_token=None), first_run_in=DUE)
    [first] = await claim(db)
    assert await claim(db) == []
    await database.fetch("UPDATE payments SET next_run_at = now() - interval '1 ms'")

    [second] = await claim(db)

    assert second.payment_id == payment.id
    assert second.lease_token != first.lease_token


async def test_a_claimer_passes_over_what_another_one_is_taking(db: Database) -> None:
    """Without waiting: SKIP LOCKED."""
    tenant_id = await make_tenant(db)
    for _ in range(4):
        await insert(db, make_payment(tenant_id, lease_token=None), first_run_in=DUE)
    async with db.worker_transaction() as first:
        taken = await payments.claim(first, 2, 60)
        async with db.worker_transaction() as second:
            others = await payments.claim(second, 100, 60)
    assert len(taken) == len(others) == 2
    assert not {c.payment_id for c in taken} & {c.payment_id for c in others}


async def test_many_claimers_never_take_a_payment_twice(db: Database, database: TestDatabase) -> None:
    tenant_id = await make_tenant(db)
    await many(database, tenant_id, count=600, due_in="-1 minute")

    async def work() -> list[str]:
        mine: list[str] = []
        while taken := await claim(db, limit=7):
            mine += [c.payment_id for c in taken]
        return mine

    shares = await asyncio.gather(*(work() for _ in range(6)))
    taken = [payment_id for share in shares for payment_id in share]
    assert len(taken) == len(set(taken)) == 600


async def test_final_payments_are_claimed_apart_and_only_where_a_question_is_due(
    db: Database, database: TestDatabase
) -> None:
    done, asked, open_one = [
        await insert(db, make_payment(await make_tenant(db), lease_token=None), first_run_in=DUE) for _ in range(3)
    ]
    await database.fetch("UPDATE payments SET status = 'SUCCESSFUL' WHERE id <> $1", open_one.id)
    await database.fetch("UPDATE payments SET next_run_at = NULL WHERE id = $1", done.id)
    assert [c.payment_id for c in await claim(db)] == [open_one.id]
    assert [c.payment_id for c in await claim_final(db)] == [asked.id]
    assert await claim(db) == await claim_final(db) == []


async def test_ten_due_among_200_000_waiting_are_found_by_the_index(db: Database, database: TestDatabase) -> None:
    """Whatever is due about final payments: 20,000 of these, all due for longer, cost nothing."""
    tenant_id = await make_tenant(db)
    await database.fetch("DROP INDEX payments_reference")  # neither has a part in this, and both take their time
    await database.fetch("DROP INDEX payments_provider_reference")
    await many(database, tenant_id, count=200_000, due_in="1 hour")
    await many(database, tenant_id, count=20_000, due_in="-1 hour", status="SUCCESSFUL", number="3")
    await many(database, tenant_id, count=10, due_in="-1 minute")
    await database.fetch("ALTER TABLE payments SET (autovacuum_enabled = false)")
    for statistics in ("none", "of an empty table", "fresh"):
        if statistics == "of an empty table":
            await database.fetch("UPDATE pg_class SET reltuples = 0, relpages = 1 WHERE relname LIKE 'payments%'")
        if statistics == "fresh":
            await database.fetch("ANALYZE payments")
        for function, index, limit in (
            ("claim_payments", "payments_due", 50),
            ("claim_final_payments", "payments_final_due", 1),
        ):
            blocks, nodes = await explain_claim(database, function, limit)
            # A thousandth of the table's pages: an index that must pass over what waits would read it all.
            assert blocks < 500, nodes
            assert index in {node.get("Index Name") for node in nodes}, nodes
            assert not [node for node in nodes if node["Node Type"] == "Seq Scan"], nodes
    assert len(await claim(db)) == 10


async def many(
    database: TestDatabase, tenant_id: str, *, count: int, due_in: str, status: str = "PENDING", number: str = ""
) -> None:
    """Payments that nobody holds, put in by the superuser."""
    number = number or ("2" if due_in.startswith("-") else "1")
    await database.fetch(
        f"""
        INSERT INTO payments (tenant_id, id, mode, kind, status, amount_minor, currency, payer, network, provider,
            account_fingerprint, provider_reference, attempt, send_before, expires_at, next_run_at)
        SELECT $1, ('{number}' || lpad(n::text, 31, '0'))::uuid, 'test', 'collection',
            '{status}', 100, 'ZMW', '260961234567', 'mtn', 'mtn', 'x', gen_random_uuid(), 1, now(), now(),
            now() + interval '{due_in}' + n * interval '1 ms'
        FROM generate_series(1, {count}) n
        """,
        tenant_id,
    )


async def explain_claim(database: TestDatabase, function: str, limit: int) -> tuple[int, list[dict[str, Any]]]:
    """The blocks that one call touches, and the plan of how it finds what is due, as its owner. It is taken back."""
    connection = await asyncpg.connect(database.owner_dsn, server_settings={"jit": "off"})
    try:
        source = await connection.fetchval("SELECT prosrc FROM pg_proc WHERE proname = $1", function)
        (finds,) = re.findall(r"SELECT d\..*?SKIP LOCKED", source, re.DOTALL)
        transaction = connection.transaction()
        await transaction.start()
        await connection.execute("SET LOCAL ROLE kobiri_claimer")
        explain = "EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON)"
        found = await connection.fetchval(f"{explain} {finds.replace('p_limit', str(limit))}")
        called = await connection.fetchval(f"{explain} SELECT * FROM {function}({limit}, 60)")
        await transaction.rollback()
    finally:
        await connection.close()
    call = json.loads(called)[0]["Plan"]
    return call["Shared Hit Blocks"] + call["Shared Read Blocks"], walk(json.loads(found)[0]["Plan"])


def walk(node: dict[str, Any]) -> list[dict[str, Any]]:
    """A plan's nodes without what they contain."""
    below = [inner for child in node.get("Plans", ()) for inner in walk(child)]
    return [{name: node.get(name) for name in ("Node Type", "Index Name", "Actual Rows")}, *below]
