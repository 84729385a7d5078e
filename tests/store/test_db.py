"""The pool: what PostgreSQL and the network do to it, told in our words."""

import asyncio
import time
import traceback
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import asyncpg
import pytest

from kobiri import embedded
from kobiri.domain.errors import Busy, DatabaseUnavailable, NotFound
from kobiri.store import db as store_db
from kobiri.store.db import PLATFORM, CommitUnknown, Database, LockTimeout
from kobiri.store.migrations import run as migrations
from kobiri.store.pool import Pool
from tests.conftest import Cluster, TestDatabase
from tests.store.builders import get, insert, lock_awaited, make_payment, make_tenant


@pytest.fixture
async def single(database: TestDatabase) -> AsyncIterator[Database]:
    """A pool of one connection: what one use leaves behind, the next one meets."""
    opened = await Database.open(database.dsn, pool_size=1)
    yield opened
    await opened.close()


async def kill_backends(database: TestDatabase) -> None:
    """End the server's side of all connections of the application."""
    await database.fetch(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND application_name = 'kobiri'"
    )


async def usable(db: Database) -> None:
    async with db.gate_transaction() as tx:
        assert await tx.fetchval("SELECT 1") == 1


async def test_a_commit_is_kept_and_an_error_takes_all_back(db: Database) -> None:
    tenant_id = await make_tenant(db)
    payment = await insert(db, make_payment(tenant_id))

    async def fail() -> None:
        async with db.tenant_transaction(tenant_id) as tx:
            await tx.execute("UPDATE payments SET version = 99")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail()
    assert (await get(db, payment)).payment.version == payment.version


async def test_an_error_that_was_swallowed_inside_is_not_told_as_a_commit(db: Database) -> None:
    async def swallow() -> None:
        async with db.gate_transaction() as tx:
            with suppress(asyncpg.PostgresError):
                await tx.execute("SELECT 1/0")

    with pytest.raises(AssertionError, match="swallowed"):
        await swallow()
    await usable(db)


# What PostgreSQL says when the fault is not in the statement, and whether the pool's other connections are suspect.
TROUBLES = {
    "53100": False,  # disk full
    "53200": False,  # out of memory
    "53300": False,  # too many connections
    "53400": False,
    "58030": False,  # an error of the disk
    "58P01": False,
    "XX000": False,
    "XX001": False,  # a page is corrupt
    "25P03": False,
    "25P04": False,
    "08006": True,
    "08P01": True,  # PgBouncer's own
    "57P01": True,  # the server shuts down
    "57P02": True,
    "57P03": True,
    "25006": True,  # read-only: a primary that was demoted
    "26000": True,  # a prepared statement that another server connection has
    "42P05": True,
}


async def backend(db: Database) -> int:
    """Which of the server's processes the next transaction gets."""
    async with db.gate_transaction() as tx:
        pid: int = await tx.fetchval("SELECT pg_backend_pid()")
        return pid


async def raises_at_commit(database: TestDatabase) -> None:
    """A table that refuses at COMMIT with the SQLSTATE that was put in."""
    await database.fetch("CREATE TABLE troubles (sqlstate text)")
    await database.fetch("GRANT INSERT ON troubles TO kobiri_api")
    await database.fetch(
        "CREATE FUNCTION raise_it() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN RAISE EXCEPTION 'trouble' USING ERRCODE = NEW.sqlstate; END $$"
    )
    await database.fetch(
        "CREATE CONSTRAINT TRIGGER t AFTER INSERT ON troubles DEFERRABLE INITIALLY DEFERRED"
        " FOR EACH ROW EXECUTE FUNCTION raise_it()"
    )


@pytest.mark.parametrize("at_commit", [False, True], ids=["inside", "at-commit"])
async def test_what_is_not_the_statements_fault_is_the_database_that_is_away(
    database: TestDatabase, at_commit: bool
) -> None:
    """The connection is not used again; where the server itself is suspect, no other that was open is either."""
    db = await Database.open(database.dsn, pool_size=2)
    if at_commit:
        await raises_at_commit(database)

    async def fail(sqlstate: str) -> int:
        async with db.gate_transaction() as tx:
            pid: int = await tx.fetchval("SELECT pg_backend_pid()")
            failed.append(pid)
            if at_commit:
                await tx.execute("INSERT INTO troubles VALUES ($1)", sqlstate)
            else:
                await tx.execute(f"DO $$ BEGIN RAISE EXCEPTION 'trouble' USING ERRCODE = '{sqlstate}'; END $$")
        return pid

    for sqlstate, all_suspect in TROUBLES.items():
        async with db.gate_transaction() as tx:
            lent = await tx.fetchval("SELECT pg_backend_pid()")
            free = await backend(db)  # two are open now
            failed: list[int] = []
            with pytest.raises(DatabaseUnavailable) as raised:
                await fail(sqlstate)
            assert isinstance(raised.value, CommitUnknown) is at_commit, sqlstate
            assert raised.value.retry_after_s, sqlstate
            assert failed == [free], sqlstate
        assert (await backend(db) != lent) is all_suspect, sqlstate
        async with db.gate_transaction():
            assert await backend(db) != free, sqlstate
    await db.close()


async def test_what_is_refused_at_commit_is_no_lost_commit(db: Database, database: TestDatabase) -> None:
    await raises_at_commit(database)
    with pytest.raises(asyncpg.CheckViolationError):
        async with db.gate_transaction() as tx:
            await tx.execute("INSERT INTO troubles VALUES ('23514')")
    await usable(db)


async def test_a_plan_from_before_the_schema_changed_costs_one_failure(database: TestDatabase) -> None:
    db = await Database.open(database.dsn, pool_size=2)
    await database.fetch("CREATE TABLE coins (n integer)")
    await database.fetch("GRANT SELECT ON coins TO kobiri_api")

    async def read() -> None:
        async with db.gate_transaction() as tx:
            await tx.fetch("SELECT * FROM coins")

    async with db.gate_transaction() as tx:
        await tx.fetch("SELECT * FROM coins")
        await read()
    await database.fetch("ALTER TABLE coins ADD COLUMN metal text")
    with pytest.raises(DatabaseUnavailable):
        await read()
    async with db.gate_transaction() as tx:
        await tx.fetch("SELECT * FROM coins")
        await read()
    await db.close()


async def test_a_server_that_was_read_only_for_a_while(database: TestDatabase, cluster: Cluster) -> None:
    """A session keeps what the database said when it was opened: none of that time may be used again."""
    db = await Database.open(database.dsn, pool_size=2)
    tenant_id = await make_tenant(db)
    name = await database.value("SELECT current_database()")
    await cluster.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    await kill_backends(database)
    while True:
        with suppress(DatabaseUnavailable):
            async with db.gate_transaction():
                await usable(db)  # both are opened anew, and are read-only
            break
    with pytest.raises(DatabaseUnavailable):
        await insert(db, make_payment(tenant_id))
    async with db.gate_transaction():
        await usable(db)
    await cluster.execute(f"ALTER DATABASE {name} RESET default_transaction_read_only")
    with pytest.raises(DatabaseUnavailable):
        await insert(db, make_payment(tenant_id))
    async with db.gate_transaction():
        await insert(db, make_payment(tenant_id))
        await insert(db, make_payment(tenant_id))
    await db.close()


async def test_a_login_that_is_refused_for_a_while(database: TestDatabase) -> None:
    """At start it is told as PostgreSQL tells it; a process that runs calls it the database that is away."""
    db = await Database.open(database.dsn, pool_size=1)
    name = await database.value("SELECT current_database()")
    await database.fetch(f"REVOKE CONNECT ON DATABASE {name} FROM PUBLIC")
    await kill_backends(database)
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await Database.open(database.dsn, pool_size=1)
    for _ in range(2):
        with pytest.raises(DatabaseUnavailable):
            await usable(db)
    await database.fetch(f"GRANT CONNECT ON DATABASE {name} TO PUBLIC")
    await usable(db)
    await db.close()


async def test_a_connection_whose_user_was_cancelled_is_not_used_again(single: Database) -> None:
    before = await backend(single)
    begun = asyncio.Event()

    async def wait() -> None:
        async with single.gate_transaction() as tx:
            begun.set()
            await tx.execute("SELECT pg_sleep(30)")

    waiting = asyncio.create_task(wait())
    await begun.wait()
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert await backend(single) != before


async def test_a_connection_that_comes_back_inside_of_a_transaction_is_not_used_again(database: TestDatabase) -> None:
    pool = Pool(database.dsn, size=1, connect_within_s=5, command_within_s=5, statement_cache_size=0)
    first = await pool.acquire(1)
    await first.execute("BEGIN")
    pool.release(first)
    second = await pool.acquire(1)
    assert second is not first
    pool.release(second)
    assert await pool.acquire(1) is second
    await pool.close()
    pool.release(second)
    assert second.is_closed()


async def test_who_waits_too_long_for_a_row_is_told_so(db: Database) -> None:
    tenant_id = await make_tenant(db)
    await insert(db, make_payment(tenant_id))
    async with db.tenant_transaction(tenant_id) as tx:
        await tx.execute("UPDATE payments SET version = 2")
        with pytest.raises(LockTimeout):
            async with db.tenant_transaction(tenant_id) as second:
                await second.execute("UPDATE payments SET version = 3")
    await usable(db)


async def test_a_deadlock_is_told_as_a_lock_that_was_not_to_be_had(
    db: Database, database: TestDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_db, "LOCK_TIMEOUT_MS", 60_000)  # PostgreSQL looks for deadlocks after one second
    tenant_id = await make_tenant(db)
    pair = [await insert(db, make_payment(tenant_id)) for _ in range(2)]
    holding = [asyncio.Event(), asyncio.Event()]

    async def cross(first: int) -> None:
        async with db.tenant_transaction(tenant_id) as tx:
            await tx.execute("UPDATE payments SET checks = checks + 1 WHERE id = $1", pair[first].id)
            holding[first].set()
            await holding[1 - first].wait()
            await tx.execute("UPDATE payments SET checks = checks + 1 WHERE id = $1", pair[1 - first].id)

    outcomes = await asyncio.gather(cross(0), cross(1), return_exceptions=True)
    assert [type(outcome) for outcome in outcomes if outcome] == [LockTimeout]


async def test_a_statement_that_takes_too_long_is_busy(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_db, "STATEMENT_TIMEOUT_MS", 50)
    with pytest.raises(Busy):
        async with db.gate_transaction() as tx:
            await tx.execute("SELECT pg_sleep(30)")
    await usable(db)


async def test_an_exhausted_pool_is_busy_after_its_limit_and_not_before(
    single: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_db, "POOL_WAIT_S", 0.5)
    async with single.gate_transaction():
        began = time.monotonic()
        with pytest.raises(Busy) as busy:
            async with single.gate_transaction():
                pass
        assert time.monotonic() - began >= 0.45
        assert busy.value.retry_after_s
    await usable(single)


async def test_who_waits_for_a_connection_gets_the_next_free_one(single: Database) -> None:
    async with single.gate_transaction():
        waiting = asyncio.create_task(usable(single))
        await asyncio.sleep(0)
    await waiting


async def test_a_connection_lost_inside_a_transaction(single: Database, database: TestDatabase) -> None:
    async def lose() -> None:
        async with single.gate_transaction() as tx:
            await kill_backends(database)
            await tx.fetchval("SELECT 1")

    with pytest.raises(DatabaseUnavailable) as lost:
        await lose()
    assert not isinstance(lost.value, CommitUnknown)
    assert lost.value.retry_after_s
    await usable(single)


async def test_a_connection_lost_before_commit_is_not_known_to_have_committed(
    single: Database, database: TestDatabase
) -> None:
    tenant_id = await make_tenant(single)
    payment = await insert(single, make_payment(tenant_id))

    async def lose() -> None:
        async with single.tenant_transaction(tenant_id) as tx:
            await tx.execute("UPDATE payments SET version = 99")
            await kill_backends(database)

    with pytest.raises(CommitUnknown):
        await lose()
    assert (await get(single, payment)).payment.version == payment.version


async def test_a_connection_lost_while_it_waits_for_a_lock(db: Database, database: TestDatabase) -> None:
    tenant_id = await make_tenant(db)
    await insert(db, make_payment(tenant_id))
    holder = await asyncpg.connect(database.owner_dsn)
    try:
        await holder.execute("BEGIN; UPDATE payments SET version = 2")

        async def wait() -> None:
            async with db.tenant_transaction(tenant_id) as tx:
                await tx.execute("UPDATE payments SET version = 3")

        waiting = asyncio.create_task(wait())
        await lock_awaited(database)
        await kill_backends(database)
        with pytest.raises(DatabaseUnavailable):
            await waiting
    finally:
        await holder.close()
    await usable(db)


async def test_a_connection_that_died_in_the_pool_is_replaced_within_two_tries(
    single: Database, database: TestDatabase
) -> None:
    await usable(single)
    await kill_backends(database)
    for _ in range(2):
        try:
            await usable(single)
        except DatabaseUnavailable:
            continue
        break
    else:
        pytest.fail("the pool keeps a dead connection")


async def test_a_server_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DatabaseUnavailable):
        await Database.open(f"postgresql://nobody@/kobiri?host={tmp_path}", pool_size=1)


async def test_our_own_mistakes_are_not_told_as_the_networks(db: Database) -> None:
    with pytest.raises(asyncpg.UndefinedTableError):
        async with db.gate_transaction() as tx:
            await tx.execute("SELECT * FROM no_such_table")
    with pytest.raises(asyncpg.DataError):
        async with db.gate_transaction() as tx:
            await tx.execute("SELECT $1::uuid", "no uuid")
    await usable(db)


async def test_every_transaction_has_its_limits(db: Database) -> None:
    for opened in (
        db.gate_transaction(),
        db.worker_transaction(),
        db.operator_transaction(),
        db.tenant_transaction(PLATFORM),
    ):
        async with opened as tx:
            for limit in ("lock_timeout", "statement_timeout"):
                assert await tx.fetchval("SELECT current_setting($1)", limit) not in ("0", ""), limit


async def test_readiness_says_what_is_wrong(db: Database, database: TestDatabase) -> None:
    assert await db.is_ready(migrations.head()) is None
    assert "needs 9999" in str(await db.is_ready("9999"))
    await database.fetch("ALTER TABLE alembic_version RENAME TO gone")
    assert "not migrated" in str(await db.is_ready(migrations.head()))


async def test_the_pool_recovers_when_the_server_comes_back(tmp_path: Path) -> None:
    """A throwaway server of this test's own is stopped and started."""
    address = await asyncio.to_thread(embedded.start, tmp_path, throwaway=True)
    try:
        db = await Database.open(address, pool_size=3)
        async with db._transaction("SET LOCAL application_name = 'a'") as tx:
            assert await tx.fetchval("SELECT 1") == 1
        await asyncio.to_thread(embedded.stop, tmp_path)
        for _ in range(2):
            assert "does not answer" in str(await db.is_ready(migrations.head()))
        with pytest.raises(DatabaseUnavailable):
            async with db._transaction("SET LOCAL application_name = 'a'"):
                pass
        assert await asyncio.to_thread(embedded.start, tmp_path, throwaway=True) == address
        tries = 0
        while True:
            tries += 1
            try:
                async with db._transaction("SET LOCAL application_name = 'a'") as tx:
                    assert await tx.fetchval("SELECT 1") == 1
                break
            except DatabaseUnavailable:
                assert tries < 5, "the pool does not recover"
        await db.close()
    finally:
        await asyncio.to_thread(embedded.remove, tmp_path)


CANARY = "canary-school-fees-77120"

# What PostgreSQL and its driver quote: in the message, in its detail, of a row, of an argument.
QUOTING = {
    "SELECT $1::text::uuid": "22P02",
    "SELECT $1::text::jsonb": "22P02",
    "SELECT $1::text::timestamptz": "22007",
    "UPDATE payments SET amount_minor = $1::text::bigint": "22P02",
    "SELECT $1::integer": "22000",
    "SELECT $1::uuid": "22000",
    "INSERT INTO notes VALUES ($1), ($1)": "23505",
    "INSERT INTO notes VALUES ($1), (NULL)": "23502",
    "INSERT INTO notes VALUES ($1 || '-')": "23514",
    "INSERT INTO words SELECT FROM (SELECT raise_it($1)) quoted": "P0001",
}


@pytest.mark.parametrize("way", ["tenant_transaction", "gate_transaction", "operator_transaction"])
async def test_no_error_of_the_driver_quotes_a_value(db: Database, database: TestDatabase, way: str) -> None:
    """Whoever logs it, with all that led to it: what a payer buys is nobody else's business."""
    tenant_id = await make_tenant(db)
    await insert(db, make_payment(tenant_id, description=CANARY))
    for sql in (
        "CREATE TABLE notes (note text PRIMARY KEY, CONSTRAINT no_dash CHECK (note NOT LIKE '%-'))",
        "CREATE TABLE words ()",
        """
        CREATE FUNCTION raise_it(word text) RETURNS text LANGUAGE plpgsql AS
        $$ BEGIN RAISE EXCEPTION 'not so' USING DETAIL = word; END $$
        """,
        "GRANT ALL ON ALL TABLES IN SCHEMA public TO kobiri_api, kobiri_operator",
    ):
        await database.fetch(sql)

    async def fail(sql: str) -> None:
        opened = db.tenant_transaction(tenant_id) if way == "tenant_transaction" else getattr(db, way)()
        async with opened as tx:
            try:
                await tx.execute(sql, CANARY)
            except asyncpg.CheckViolationError as error:
                raise NotFound from error  # as the services say it in their words

    for sql, sqlstate in QUOTING.items():
        with pytest.raises((asyncpg.PostgresError, NotFound)) as raised:
            await fail(sql)
        told = "".join(traceback.format_exception(raised.value))
        assert CANARY not in told, told
        cause = raised.value.__cause__ if isinstance(raised.value, NotFound) else raised.value
        assert isinstance(cause, asyncpg.PostgresError)
        assert cause.sqlstate == sqlstate, sql
