"""Migrations: numbered, reversible, safe to run at once, and never waiting long for a table that payments use."""

import asyncio
import os
import re
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
import pytest

from kobiri import embedded
from kobiri.domain.money import Money
from kobiri.domain.outcome import Declined, FailureCode, Source, Succeeded
from kobiri.services import outcomes, suspense
from kobiri.store.db import Database, DatabaseRefused
from kobiri.store.migrations import run as migrations
from tests.conftest import LOGIN, PASSWORD, Cluster, TestDatabase
from tests.store.builders import AUTHOR, insert, lock_awaited, make_payment, make_tenant
from tests.structure.catalogue import violations

pytestmark = pytest.mark.usefixtures("alone_with_roles")

VERSIONS = migrations.FOLDER / "versions"


@pytest.fixture
async def empty(cluster: Cluster) -> AsyncIterator[TestDatabase]:
    """A database without migrations."""
    name = f"kobiri_empty_{uuid.uuid4().hex[:12]}"
    await cluster.execute(f"CREATE DATABASE {name}")
    yield TestDatabase(cluster.address(name), cluster.address(name, LOGIN))
    await cluster.execute(f"DROP DATABASE {name} WITH (FORCE)")


def schema(dsn: str) -> str:
    """As pg_dump writes it, without its comments and its one-time words."""
    done = subprocess.run(
        [embedded.bin_path("pg_dump"), "--schema-only", "--no-password", "-d", dsn],
        capture_output=True,
        check=False,
        env={name: value for name, value in os.environ.items() if not name.startswith("PG")},
        text=True,
    )
    if "version mismatch" in done.stderr:
        pytest.skip(f"pg_dump of the embedded PostgreSQL refuses this server: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if line and not line.startswith(("--", "\\"))]
    return "\n".join(lines)


async def migrate(database: TestDatabase, login: str = LOGIN) -> None:
    await asyncio.to_thread(migrations.migrate, database.owner_dsn, login)


async def revert(database: TestDatabase) -> None:
    await asyncio.to_thread(migrations.revert, database.owner_dsn)


def test_they_are_numbered_without_a_gap() -> None:
    names = sorted(path.name for path in VERSIONS.glob("*.py") if path.name != "__init__.py")
    assert all(re.fullmatch(r"\d{4}_[a-z0-9_]+\.py", name) for name in names), names
    numbers = [name[:4] for name in names]
    assert numbers == [f"{number:04d}" for number in range(1, len(names) + 1)]
    for number, name in zip(numbers, names, strict=True):
        text = (VERSIONS / name).read_text()
        before = f'"{int(number) - 1:04d}"' if number != "0001" else "None"
        assert f'\nrevision = "{number}"\n' in text
        assert f"\ndown_revision = {before}\n" in text
        assert text.startswith('"""'), f"{name}: say in a docstring what it does"
        assert "\ndef downgrade() -> None:" in text
    assert migrations.head() == numbers[-1]


async def test_each_goes_up_down_and_up_to_the_same_schema(empty: TestDatabase) -> None:
    await migrate(empty)
    up = await asyncio.to_thread(schema, empty.owner_dsn)
    assert "CREATE POLICY" in up
    for _ in VERSIONS.glob("[0-9]*.py"):
        await revert(empty)
    left = await asyncio.to_thread(schema, empty.owner_dsn)
    assert re.findall(r"CREATE (?!SCHEMA)\w+ [\w.]+", left) == ["CREATE TABLE public.alembic_version"]

    await migrate(empty)

    assert await asyncio.to_thread(schema, empty.owner_dsn) == up


async def test_migrating_twice_changes_nothing(database: TestDatabase) -> None:
    before = await asyncio.to_thread(schema, database.owner_dsn)
    await migrate(database)
    assert await asyncio.to_thread(schema, database.owner_dsn) == before


async def test_several_migrators_at_once(empty: TestDatabase) -> None:
    [number] = re.findall(r"MIGRATION_LOCK = ([0-9_]+)", (migrations.FOLDER / "env.py").read_text())
    gate = await asyncpg.connect(empty.owner_dsn)
    await gate.execute(f"SELECT pg_advisory_lock({int(number)})")
    running = [
        subprocess.Popen(  # noqa: ASYNC220  # started at once, awaited in threads
            [sys.executable, "-m", "kobiri", "db", "migrate", "--json"],
            env=os.environ | {"DATABASE_URL": empty.dsn, "DATABASE_MIGRATION_URL": empty.owner_dsn},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        for _ in range(3)
    ]
    try:
        await lock_awaited(empty, waiting=len(running))
    finally:
        await gate.close()
    for process in running:
        output, _ = await asyncio.to_thread(process.communicate)
        assert process.returncode == 0, output.decode()
    assert await empty.value("SELECT version_num FROM alembic_version") == migrations.head()
    connection = await asyncpg.connect(empty.owner_dsn)
    try:
        assert await violations(connection, LOGIN) == []
    finally:
        await connection.close()


async def test_a_migration_that_cannot_get_a_table_gives_up_and_changes_nothing(database: TestDatabase) -> None:
    before = await asyncio.to_thread(schema, database.owner_dsn)
    payments = await asyncpg.connect(database.owner_dsn)
    try:
        tables = await database.value("SELECT string_agg(tablename, ', ') FROM pg_tables WHERE schemaname = 'public'")
        await payments.execute(f"BEGIN; LOCK TABLE {tables} IN ACCESS SHARE MODE")
        with pytest.raises(DatabaseRefused, match="lock timeout"):
            await revert(database)
        await payments.execute("ROLLBACK")
    finally:
        await payments.close()
    assert await asyncio.to_thread(schema, database.owner_dsn) == before
    assert await database.value("SELECT version_num FROM alembic_version") == migrations.head()
    await migrate(database)  # and the lock of the migrations is free again


async def _version(cluster: Cluster) -> int:
    connection = await asyncpg.connect(cluster.dsn)
    try:
        return connection.get_server_version().major
    finally:
        await connection.close()


@asynccontextmanager
async def owned_by_no_superuser(cluster: Cluster) -> AsyncIterator[tuple[TestDatabase, str, str]]:
    """As a hosted PostgreSQL has it: the database's owner may make roles, and no more. With its login and its name."""
    suffix = uuid.uuid4().hex[:8]
    owner, login, name = f"kobiri_dba_{suffix}", f"kobiri_app_{suffix}", f"kobiri_owned_{suffix}"
    held = "kobiri_api, kobiri_worker, kobiri_operator, kobiri_claimer"
    await cluster.execute(
        f"CREATE ROLE {owner} LOGIN CREATEROLE PASSWORD '{PASSWORD}';"
        f"CREATE ROLE {login} LOGIN NOINHERIT PASSWORD '{PASSWORD}';"
        # It made them, had another database not been first: from PostgreSQL 16 on it then does not inherit them.
        f"GRANT {held} TO {owner} WITH ADMIN OPTION"
    )
    if await _version(cluster) >= 16:
        await cluster.execute(f"GRANT {held} TO {owner} WITH INHERIT FALSE, SET FALSE")
    await cluster.execute(f"CREATE DATABASE {name} OWNER {owner}")
    try:
        yield TestDatabase(cluster.address(name, owner), cluster.address(name, login)), login, name
    finally:
        await cluster.execute(f"DROP DATABASE {name} WITH (FORCE)")
        await cluster.execute(f"DROP OWNED BY {owner} CASCADE; DROP ROLE {login}; DROP ROLE {owner}")


async def test_an_owner_without_a_superusers_rights_is_enough(cluster: Cluster) -> None:
    async with owned_by_no_superuser(cluster) as (owned, login, name):
        await migrate(owned, login)
        connection = await asyncpg.connect(cluster.address(name))
        try:
            assert await violations(connection, login) == []
        finally:
            await connection.close()
        db = await Database.open(owned.dsn, pool_size=1)
        assert await db.is_ready(migrations.head()) is None
        await db.close()
        await revert(owned)


OLD_PAYMENTS = """
INSERT INTO payments (tenant_id, id, mode, kind, status, amount_minor, currency, payer, network, provider,
    account_fingerprint, provider_reference, attempt, send_before, expires_at, provider_transaction_id, failure_code)
SELECT gen_random_uuid(), gen_random_uuid(), 'live', 'collection', s.status, 1000, 'ZMW', '260961234567', 'mtn', 'mtn',
    'here', gen_random_uuid(), 1, now(), now(), s.their_id, s.failure
FROM (VALUES ('SUCCESSFUL', 'X', NULL), ('SUCCESSFUL', 'X', NULL), ('SUCCESSFUL', 'Y', NULL),
    ('FAILED', NULL, 'payer_declined')) AS s (status, their_id, failure);
INSERT INTO ledger_entries (tenant_id, payment_id, reason, account, amount_minor, currency)
SELECT p.tenant_id, p.id, 'arrived_unexpectedly', l.account, l.minor, 'ZMW'
FROM payments p, (VALUES ('provider:mtn', 900), ('suspense', -900)) AS l (account, minor) WHERE p.status = 'FAILED';
"""


async def test_what_older_versions_booked_is_taken_along(cluster: Cluster) -> None:
    """Two payments with one transaction id, and money in suspense: neither may stop a migration, nor be forgotten."""
    async with owned_by_no_superuser(cluster) as (owned, login, name):
        await migrate(owned, login)
        while await owned.value("SELECT version_num FROM alembic_version") != "0004":
            await revert(owned)
        superuser = await asyncpg.connect(cluster.address(name))
        try:
            await superuser.execute(OLD_PAYMENTS)
            await migrate(owned, login)
            arrived = await superuser.fetch("SELECT why, amount_minor, payment_id IS NOT NULL FROM arrivals")
            assert [tuple(row) for row in arrived] == [("late", 900, True)]
            assert await superuser.fetchval("SELECT received_minor FROM payments WHERE status = 'FAILED'") == 900
            sharing = await superuser.fetch("SELECT provider_transaction_id FROM payments WHERE shares_transaction_id")
            assert [row[0] for row in sharing] == ["X"]
            for their_id in ("X", "Y"):
                with pytest.raises(asyncpg.UniqueViolationError):
                    await superuser.execute(
                        "UPDATE payments SET provider_transaction_id = $1 WHERE status = 'FAILED'", their_id
                    )
            while await owned.value("SELECT version_num FROM alembic_version") != "0004":
                await revert(owned)
            assert await superuser.fetchval("SELECT count(*) FROM ledger_entries") == 2
        finally:
            await superuser.close()


async def test_what_a_process_of_the_version_before_books_is_listed_and_not_booked_again(
    empty: TestDatabase,
) -> None:
    """It may run while the schema is new, and knows no arrivals."""
    await migrate(empty)
    db = await Database.open(empty.dsn, pool_size=1)
    payment = await insert(db, make_payment(await make_tenant(db)))
    declined = Declined(FailureCode.PROVIDER_ERROR)
    failed = await outcomes.apply(db, payment, declined, Source.SEND, payment.created_at, AUTHOR)
    async with db.tenant_transaction(payment.tenant_id) as tx:
        await tx.execute(
            "INSERT INTO ledger_entries (tenant_id, payment_id, reason, account, amount_minor, currency)"
            " SELECT $1, $2, 'arrived_unexpectedly', l.account, l.minor, 'ZMW'"
            " FROM (VALUES ('provider:mtn', 1000), ('suspense', -1000)) AS l (account, minor)",
            payment.tenant_id,
            payment.id,
        )
    [waiting] = await suspense.waiting(db)
    assert (waiting.payment_id, waiting.money) == (payment.id, Money(1_000, "ZMW"))
    assert waiting.id is not None
    said = Succeeded("TX1", Money(1_000, "ZMW"))
    await outcomes.apply(db, failed, said, Source.CHECK, payment.created_at, AUTHOR)
    assert await empty.value("SELECT received_minor FROM payments") == 1_000
    assert await empty.value("SELECT sum(amount_minor)::bigint FROM ledger_entries WHERE account = 'suspense'") == -1000

    # And what was cleared is so after a way back and forth.
    await suspense.clear(db, waiting.id, "returned", "paid back", "operator:test")
    await db.close()
    while await empty.value("SELECT version_num FROM alembic_version") != "0004":
        await revert(empty)
    await migrate(empty)
    [again] = await empty.fetch("SELECT amount_minor, cleared_at IS NOT NULL AS cleared FROM arrivals")
    assert (again["amount_minor"], again["cleared"]) == (1_000, True)
