"""Alembic's environment: one transaction a migration, under a lock, with a lock timeout."""

import asyncio
from urllib.parse import urlsplit

import asyncpg
from alembic import context
from sqlalchemy import Connection, pool
from sqlalchemy.ext.asyncio import create_async_engine

from kobiri.store.db import HAS_RIGHTS_OF_ITS_OWN, DatabaseRefused, has_rights_of_its_own

MIGRATION_LOCK = 7_302_001  # any number, the same for every process that migrates this database


def migrate(connection: Connection) -> None:
    # Whoever comes second waits here. A migration that cannot get a table's lock fails; it must not stop all payments.
    connection.exec_driver_sql(f"SELECT pg_advisory_lock({MIGRATION_LOCK})")
    connection.exec_driver_sql("SET lock_timeout = '5s'")
    connection.commit()
    try:
        context.configure(connection=connection, transaction_per_migration=True)
        with context.begin_transaction():
            context.run_migrations()
        login = context.config.attributes["app_login"]
        if login is not None:
            grant_login(connection, login, create=context.config.attributes["create_login"])
            connection.commit()
    finally:
        connection.rollback()
        connection.exec_driver_sql(f"SELECT pg_advisory_unlock({MIGRATION_LOCK})")
        connection.commit()


def grant_login(connection: Connection, login: str, *, create: bool) -> None:
    """Let the application's login take the roles; it has no right of its own.

    Raises DatabaseRefused: it would have the roles' rights, which see every tenant, without taking one.
    """
    quoted = connection.dialect.identifier_preparer.quote_identifier(login)
    if create:
        known = connection.exec_driver_sql("SELECT 1 FROM pg_roles WHERE rolname = $1", (login,)).first()
        if known is None:
            connection.exec_driver_sql(f"CREATE ROLE {quoted} LOGIN NOINHERIT")
    connection.exec_driver_sql("GRANT SELECT ON alembic_version TO kobiri_api")
    # Before PostgreSQL 16 that is a property of the login and not of the grant.
    (version,) = connection.exec_driver_sql("SELECT current_setting('server_version_num')::integer").one()
    options = "WITH INHERIT FALSE, SET TRUE" if version >= 160_000 else ""
    connection.exec_driver_sql(f"GRANT kobiri_api, kobiri_worker, kobiri_operator TO {quoted} {options}")
    if connection.exec_driver_sql(HAS_RIGHTS_OF_ITS_OWN, (login,)).scalar_one():
        raise DatabaseRefused(has_rights_of_its_own(login))


async def run() -> None:
    dsn: str = context.config.attributes["dsn"]
    assert urlsplit(dsn).scheme in ("postgresql", "postgres")
    engine = create_async_engine(
        "postgresql+asyncpg://", async_creator=lambda: asyncpg.connect(dsn, timeout=10), poolclass=pool.NullPool
    )
    try:
        async with engine.connect() as connection:
            await connection.run_sync(migrate)
    finally:
        await engine.dispose()


asyncio.run(run())
