"""The walls between tenants, by real attempts with the application's own login."""

import asyncio
import uuid
from dataclasses import replace

import asyncpg
import pytest

from kobiri.domain.ids import TenantId, new_provider_reference
from kobiri.domain.outcome import Accepted, Source
from kobiri.domain.payment import EventDraft, Review, transition
from kobiri.store import attempts, events, idempotency, payments
from kobiri.store.attempts import EarlierRoad
from kobiri.store.db import PLATFORM, Database
from kobiri.store.payments import Answer, Claim
from tests.conftest import TestDatabase
from tests.store.builders import AUTHOR, MINUTE, insert, make_payment, make_tenant
from tests.structure.catalogue import NOT_TENANTS_DATA

EVENT = """
INSERT INTO events (tenant_id, id, type, subject_id, actor, data) VALUES ($1, gen_random_uuid(), 't', 's', 'a', '{}')
"""


async def test_without_a_tenant_no_row_is_seen_and_none_gets_in(db: Database) -> None:
    tenant_id = await make_tenant(db)
    await insert(db, make_payment(tenant_id))

    async with db.gate_transaction() as tx:
        for table in ("tenants", "api_keys", "payments", "idempotency_keys", "events", "event_seals", "callbacks"):
            assert await tx.fetch(f"SELECT * FROM {table}") == [], table
        assert await tx.execute("UPDATE payments SET version = 0") == "UPDATE 0"
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        async with db.gate_transaction() as tx:
            await tx.execute(EVENT, tenant_id)


async def test_each_tenant_sees_its_own_rows_alone(db: Database, database: TestDatabase) -> None:
    mine, other = await make_tenant(db), await make_tenant(db)
    payment = await insert(db, make_payment(mine))
    await insert(db, make_payment(other))

    async with db.tenant_transaction(mine) as tx:
        assert [str(row["id"]) for row in await tx.fetch("SELECT id FROM payments")] == [payment.id]
        assert {str(row["tenant_id"]) for row in await tx.fetch("SELECT tenant_id FROM events")} == {mine}
        assert [str(row["id"]) for row in await tx.fetch("SELECT id FROM tenants")] == [mine]
    assert await database.value("SELECT count(*) FROM payments") == 2


async def test_a_row_of_another_tenant_is_refused(db: Database) -> None:
    mine, other = await make_tenant(db), await make_tenant(db)

    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        async with db.tenant_transaction(mine) as tx:
            await tx.execute(EVENT, other)


async def test_another_tenants_rows_cannot_be_changed_nor_given_away(db: Database) -> None:
    mine, other = await make_tenant(db), await make_tenant(db)
    theirs = await insert(db, make_payment(other))
    await insert(db, make_payment(mine))

    async with db.tenant_transaction(mine) as tx:
        assert await tx.execute("UPDATE payments SET version = 9 WHERE id = $1", theirs.id) == "UPDATE 0"
        assert await payments.get(tx, other, theirs.id) is None
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        async with db.tenant_transaction(mine) as tx:
            await tx.execute("UPDATE payments SET tenant_id = $1", other)


async def test_a_foreign_key_cannot_reach_into_another_tenant(db: Database) -> None:
    """Foreign keys are checked past the walls: so they hold the tenant, too."""
    mine, other = await make_tenant(db), await make_tenant(db)
    theirs = await insert(db, make_payment(other))
    rows = {
        "ledger_entries (tenant_id, payment_id, reason, account, amount_minor, currency)": "'r', 'a', 1, 'ZMW'",
        "idempotency_keys (tenant_id, payment_id, mode, key, method, path, fingerprint, expires_at)": (
            "'test', 'k', 'POST', '/', '', now()"
        ),
        "callbacks (tenant_id, payment_id, id, provider, verdict, digest, headers, body)": (
            "gen_random_uuid(), 'mtn', 'hint', '', '{}', ''"
        ),
    }
    for columns, values in rows.items():
        with pytest.raises(asyncpg.ForeignKeyViolationError):
            async with db.tenant_transaction(mine) as tx:
                await tx.execute(f"INSERT INTO {columns} VALUES ($1, $2, {values})", mine, theirs.id)


async def test_the_same_key_and_reference_of_two_tenants_do_not_meet(db: Database) -> None:
    mine, other = await make_tenant(db), await make_tenant(db)

    for tenant_id in (mine, other):
        await insert(db, make_payment(tenant_id, reference="order-1"), key="same-key")


async def test_no_tenant_stays_on_a_pooled_connection(database: TestDatabase) -> None:
    db = await Database.open(database.dsn, pool_size=1)
    try:
        tenant_id = await make_tenant(db)
        await insert(db, make_payment(tenant_id))
        with pytest.raises(ZeroDivisionError):
            async with db.tenant_transaction(tenant_id):
                raise ZeroDivisionError  # the way out by an error must clean up, too
        async with db.gate_transaction() as tx:
            assert await tx.fetchval("SELECT coalesce(current_setting('app.tenant_id', true), '')") == ""
            assert await tx.fetchval("SELECT count(*) FROM payments") == 0
        connection = await db._pool.acquire(1)
        assert await connection.fetchval("SELECT current_user = session_user")
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute("SELECT * FROM payments")
        db._pool.release(connection)
    finally:
        await db.close()


async def test_a_cancelled_task_leaves_neither_tenant_nor_transaction(database: TestDatabase) -> None:
    db = await Database.open(database.dsn, pool_size=1)
    try:
        tenant_id = await make_tenant(db)
        inside = asyncio.Event()

        async def be_cancelled() -> None:
            async with db.tenant_transaction(tenant_id) as tx:
                inside.set()
                await tx.execute("SELECT pg_sleep(60)")

        task = asyncio.create_task(be_cancelled())
        await inside.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        async with db.gate_transaction() as tx:
            assert await tx.fetchval("SELECT coalesce(current_setting('app.tenant_id', true), '')") == ""
    finally:
        await db.close()


async def test_two_tenants_take_turns_on_one_connection(database: TestDatabase) -> None:
    db = await Database.open(database.dsn, pool_size=1)
    try:
        tenants = [await make_tenant(db) for _ in range(2)]
        backends = set()

        async def live(tenant_id: TenantId) -> None:
            for number in range(10):
                await insert(db, make_payment(tenant_id))
                async with db.tenant_transaction(tenant_id) as tx:
                    backends.add(await tx.fetchval("SELECT pg_backend_pid()"))
                    await asyncio.sleep(0)
                    seen = await tx.fetch("SELECT tenant_id FROM payments")
                    assert [str(row["tenant_id"]) for row in seen] == [tenant_id] * (number + 1)

        await asyncio.gather(*map(live, tenants))
        assert len(backends) == 1
    finally:
        await db.close()


@pytest.mark.parametrize("garbage", ["x", "'; RESET ROLE; --", "", "00000000-0000-7000-8000-00000000000"])
async def test_what_is_no_id_never_becomes_sql(db: Database, garbage: str) -> None:
    with pytest.raises(AssertionError):
        async with db.tenant_transaction(TenantId(garbage)):
            pass


async def test_garbage_as_tenant_is_an_error_and_not_a_view_of_something(db: Database) -> None:
    with pytest.raises(asyncpg.DataError):
        async with db.gate_transaction() as tx:
            await tx.execute("SET LOCAL app.tenant_id = 'x'; SELECT * FROM payments")


async def test_the_applications_own_login_can_do_nothing(database: TestDatabase) -> None:
    connection = await asyncpg.connect(database.dsn)
    try:
        names = await connection.fetch("SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace")
        tables = {row["relname"] for row in names} & {"payments", "events", "tenants", "api_keys", *NOT_TENANTS_DATA}
        assert len(tables) == 5
        for table in tables:
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.execute(f"SELECT * FROM {table}")
        for statement in ("SELECT seal_events(1)", "SET ROLE kobiri_claimer", "CREATE TABLE mine (x integer)"):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.execute(statement)
    finally:
        await connection.close()


async def test_the_worker_has_its_functions_and_no_table(db: Database) -> None:
    async with db.worker_transaction() as tx:
        assert await tx.fetchval("SELECT seal_events(1)") == 0
    for statement in ("SELECT * FROM payments", "SELECT authenticate_key('x')", "DELETE FROM unsealed_events"):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            async with db.worker_transaction() as tx:
                await tx.execute(statement)


@pytest.mark.parametrize("function", ["claim_payments(1, 1)", "seal_events(1)", "purge_idempotency_keys(1)"])
async def test_the_api_cannot_do_the_workers_work(db: Database, function: str) -> None:
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        async with db.tenant_transaction(PLATFORM) as tx:
            await tx.execute(f"SELECT {function}")


@pytest.mark.parametrize("statement", ["TRUNCATE payments CASCADE", "DELETE FROM payments", "DROP TABLE payments"])
async def test_the_api_can_delete_nothing(db: Database, statement: str) -> None:
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        async with db.tenant_transaction(await make_tenant(db)) as tx:
            await tx.execute(statement)


async def test_switching_row_security_off_is_an_error_and_no_way_past(db: Database) -> None:
    tenant_id = await make_tenant(db)
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        async with db.tenant_transaction(tenant_id) as tx:
            await tx.execute("SET LOCAL row_security = off; SELECT * FROM payments")


async def test_a_tables_owner_is_behind_the_wall_as_well(database: TestDatabase, db: Database) -> None:
    """Row security is forced: a login that owns the schema and is no superuser sees nothing."""
    await insert(db, make_payment(await make_tenant(db)))
    owner = f"kobiri_owner_{uuid.uuid4().hex[:8]}"
    connection = await asyncpg.connect(database.owner_dsn)
    try:
        await connection.execute(f"CREATE ROLE {owner}; ALTER TABLE payments OWNER TO {owner}; SET ROLE {owner}")
        assert await connection.fetchval("SELECT count(*) FROM payments") == 0
        await connection.execute(f"RESET ROLE; ALTER TABLE payments OWNER TO CURRENT_USER; DROP ROLE {owner}")
    finally:
        await connection.close()


async def test_without_the_databases_wall_the_application_writes_nothing_of_another_tenant(
    db: Database, database: TestDatabase
) -> None:
    """Each statement that changes a payment, for a login that may change all rows, with everything right but whose."""
    mine, other = await make_tenant(db), await make_tenant(db)
    payment = await insert(db, make_payment(mine), key="k")
    theirs = replace(payment, tenant_id=other)
    change = transition(theirs, Accepted(), Source.SEND, payment.created_at, 0.5, attempt=payment.attempt)
    assert change is not None
    assert payment.lease_token is not None
    road, answer = replace(theirs, provider="other"), Answer("k", 201, b"theirs")
    await database.fetch("UPDATE payments SET review = 'unresolved'")
    left = EarlierRoad(other, payment.id, 0, "mtn", None, "somewhere", new_provider_reference(), 0)
    await database.fetch(
        "INSERT INTO attempts (tenant_id, payment_id, attempt, provider, account_fingerprint, provider_reference,"
        " reason) VALUES ($1, $2, 0, 'mtn', 'somewhere', $3, 'no token')",
        mine, payment.id, left.provider_reference,
    )  # fmt: skip

    async def rows() -> list[asyncpg.Record]:
        return await database.fetch(
            "SELECT * FROM payments p JOIN idempotency_keys k ON k.payment_id = p.id"
            " JOIN attempts a ON a.payment_id = p.id"
        )

    before = await rows()
    owner = await asyncpg.connect(database.owner_dsn)
    try:
        assert not await payments.write(owner, theirs, change, AUTHOR, answer)
        assert await payments.begin_attempt(owner, theirs, MINUTE) is None
        event = EventDraft("payment.rerouted", {})
        assert await payments.switch_road(owner, theirs, road, "down", event, AUTHOR, MINUTE) is None
        assert not await idempotency.answer(owner, theirs, answer)
        await payments.release(owner, Claim(other, payment.id, payment.lease_token))
        await payments.note_review_told(owner, replace(theirs, review=Review.UNRESOLVED))
        await attempts.hint(owner, other, left.provider_reference, known=True)
        await attempts.answered(owner, left, MINUTE)
        assert await rows() == before
        await owner.execute("UPDATE payments SET lease_token = NULL")
        before = await rows()
        await payments.hint(owner, other, payment.id)
        assert await rows() == before
    finally:
        await owner.close()


async def test_a_forgotten_where_still_shows_one_tenant(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """The application's own filter removed: the database is the second wall."""
    mine, other = await make_tenant(db), await make_tenant(db)
    await insert(db, make_payment(other))
    monkeypatch.setattr(payments, "LIST", payments.LIST.replace("tenant_id = $1", "$1::uuid IS NOT NULL"))
    monkeypatch.setattr(events, "LIST", events.LIST.replace("s.tenant_id = $1", "$1::uuid IS NOT NULL"))

    async with db.worker_transaction() as tx:
        assert await events.seal(tx)
    async with db.tenant_transaction(mine) as tx:
        assert await payments.list_page(tx, mine, "test", payments.Filter(), None, 10) == []
        assert {event.subject_id for event in await events.list_page(tx, mine, "test", 0, None, None, 10)} == {mine}
