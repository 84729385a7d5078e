"""The pool, the transaction that carries the tenant, and the driver's errors as ours."""

from contextlib import AbstractAsyncContextManager, suppress
from typing import Self, TypeAlias

import asyncpg
import structlog

from kobiri.domain.errors import Busy, DatabaseUnavailable
from kobiri.domain.ids import TenantId, parse_id
from kobiri.store.pool import Connection, NoneFree, Pool

log = structlog.get_logger(__name__)

Tx: TypeAlias = Connection  # the connection of one open transaction
Record = asyncpg.Record
UniqueViolation = asyncpg.UniqueViolationError

LOCK_TIMEOUT_MS = 1_000
STATEMENT_TIMEOUT_MS = 5_000
# Who stands still in a transaction, or was cut off without the server's notice, must not keep its rows from others.
IDLE_TIMEOUT_MS = 5_000
POOL_WAIT_S = 2.0

PLATFORM = TenantId("00000000-0000-7000-8000-000000000000")


class DatabaseRefused(Exception):
    """PostgreSQL refuses what an operator asks; the message is one sentence."""


class LockTimeout(Busy):
    """Another transaction holds the row; nothing was written."""


class CommitUnknown(DatabaseUnavailable):
    """The connection was lost during COMMIT: it may or may not have happened. Read before deciding."""


# A connection that is gone, in all the shapes in which the driver reports it.
CONNECTION_LOST = (asyncpg.InterfaceError, asyncpg.InternalClientError, OSError, TimeoutError)

# What PostgreSQL says when the fault is not in our statement, by the beginning of its SQLSTATE: the connection failed
# (08), resources are used up (53: disk full, out of memory, too many connections), somebody intervened (57), the
# machine failed (58), PostgreSQL itself did (XX), it takes no writes (25006), a session's time is over (25P03, 25P04),
# a statement was prepared on another server connection (26000, 42P05: PgBouncer without
# DATABASE_STATEMENT_CACHE_SIZE=0). A statement that was prepared before the schema changed is a class of the driver's.
NOT_OUR_STATEMENT = ("08", "53", "57", "58", "XX", "25006", "25P03", "25P04", "26000", "42P05")

# After these the pool's other connections are no better than the one that told: they lead to a server that was
# demoted or is shutting down, or they hold statements that were prepared before the schema changed.
ALL_SUSPECT = ("08", "57P", "25006", "26000", "42P05")


class Database:
    """A pool of connections of the application's login, which has no right but to take a role."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    @classmethod
    async def open(cls, dsn: str, *, pool_size: int, statement_cache_size: int = 100) -> Self:
        """Connect. Raises DatabaseUnavailable, or what PostgreSQL says to this login: an operator can mend that."""
        pool = Pool(
            dsn,
            size=pool_size,
            connect_within_s=POOL_WAIT_S * 2,
            command_within_s=STATEMENT_TIMEOUT_MS / 1000 + 2,
            statement_cache_size=statement_cache_size,
        )
        database = cls(pool)
        try:
            async with database._transaction("SET LOCAL application_name = 'kobiri'"):
                return database
        except DatabaseUnavailable as error:
            if isinstance(error.__cause__, asyncpg.PostgresError) and not _is_unavailable(error.__cause__):
                raise error.__cause__ from None
            raise

    async def close(self) -> None:
        await self._pool.close()

    def tenant_transaction(self, tenant_id: TenantId) -> AbstractAsyncContextManager[Tx]:
        """A transaction behind the tenant's wall: as role kobiri_api, which sees this tenant's rows alone.

        Raises Busy (no connection free in time), LockTimeout, DatabaseUnavailable, CommitUnknown.
        """
        canonical = parse_id(tenant_id)
        assert canonical is not None, "the tenant id becomes SQL text"
        return self._transaction(f"SET LOCAL ROLE kobiri_api; SET LOCAL app.tenant_id = '{canonical}'")

    def gate_transaction(self) -> AbstractAsyncContextManager[Tx]:
        """As role kobiri_api with no tenant set: sees no row, may call the definer functions of the API."""
        return self._transaction("SET LOCAL ROLE kobiri_api")

    def worker_transaction(self) -> AbstractAsyncContextManager[Tx]:
        """As role kobiri_worker: no table at all, the worker's definer functions only."""
        return self._transaction("SET LOCAL ROLE kobiri_worker")

    def operator_transaction(self) -> AbstractAsyncContextManager[Tx]:
        """As role kobiri_operator: sees all tenants. For the operator's own commands and pages."""
        return self._transaction("SET LOCAL ROLE kobiri_operator")

    def _transaction(self, settings: str) -> "_Transaction":
        return _Transaction(self._pool, begin(settings))

    async def check_login(self) -> None:
        """Raises DatabaseRefused where the login sees tenants without taking a role: then a wall is missing."""
        async with self.gate_transaction() as tx:
            await _check_login(tx)

    async def is_ready(self, newest_revision: str) -> str | None:
        """None when the database answers and is migrated, else one sentence that says what is wrong."""
        try:
            async with self.gate_transaction() as tx:
                revision = await tx.fetchval("SELECT version_num FROM alembic_version")
                await _check_login(tx)
        except (DatabaseUnavailable, Busy):
            return "the database does not answer"
        except DatabaseRefused:
            return "the database's login has rights of its own: run kobiri db migrate"  # strangers need not know more
        except asyncpg.PostgresError:
            return "the database is not migrated: run kobiri db migrate"
        if revision != newest_revision:
            return f"the database is at migration {revision}, this version needs {newest_revision}"
        return None


# Whether a login has the rights of a role that it did not take: it inherits them, or it is a superuser.
HAS_RIGHTS_OF_ITS_OWN = """
SELECT bool_or(pg_has_role($1::text::name, role, 'USAGE'))
FROM unnest('{kobiri_api, kobiri_worker, kobiri_operator, kobiri_claimer}'::name[]) AS role
"""


def has_rights_of_its_own(login: str) -> str:
    """What an operator is told of such a login."""
    return (
        f"The login {login} sees every tenant without taking a role, because it inherits the roles' rights or is a"
        f" superuser: run ALTER ROLE {login} NOINHERIT and then kobiri db migrate, or use another login."
    )


async def _check_login(tx: Tx) -> None:
    login: str = await tx.fetchval("SELECT session_user::text")
    if await tx.fetchval(HAS_RIGHTS_OF_ITS_OWN, login):
        raise DatabaseRefused(has_rights_of_its_own(login))


def begin(settings: str) -> str:
    """The opening of a transaction, in one round trip of the simple protocol."""
    return (
        f"BEGIN; {settings}; SET LOCAL lock_timeout = {LOCK_TIMEOUT_MS}; "
        f"SET LOCAL statement_timeout = {STATEMENT_TIMEOUT_MS}; "
        f"SET LOCAL idle_in_transaction_session_timeout = {IDLE_TIMEOUT_MS}"
    )


class _Transaction(AbstractAsyncContextManager[Tx]):
    """A transaction on a borrowed connection. A class, because a generator costs twice as much on the payment path."""

    __slots__ = ("_begin", "_connection", "_pool")

    def __init__(self, pool: Pool, begin: str) -> None:
        self._pool = pool
        self._begin = begin
        self._connection: Connection

    async def __aenter__(self) -> Tx:
        try:
            self._connection = await self._pool.acquire(POOL_WAIT_S)
        except NoneFree:
            raise Busy("No database connection became free in time.", retry_after_s=1) from None
        except asyncpg.ClientConfigurationError:
            raise
        except (*CONNECTION_LOST, asyncpg.PostgresError) as error:
            # A refused password, a database that is gone for a while: no fault of what is asked.
            raise _unavailable(error) from error
        try:
            await self._connection.execute(self._begin)
        except BaseException as error:
            await self._abandon(error)
            raise
        return self._connection

    async def __aexit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if error is not None:
            _hide_values(error)
            await self._abandon(error)
            return
        try:
            done = await self._connection.execute("COMMIT")
            # PostgreSQL rolls back, and calls that no error, where a statement's error was swallowed before.
            assert done == "COMMIT", "an error inside of this transaction was swallowed"
        except BaseException as refusal:
            _hide_values(refusal)
            try:
                await self._abandon(refusal)
            except DatabaseUnavailable as lost:
                raise CommitUnknown(retry_after_s=1) from lost
            raise
        self._pool.release(self._connection)

    async def _abandon(self, error: BaseException) -> None:
        """Give the connection back after an error; raises ours where it was the driver's."""
        ours = _ours(error)
        if isinstance(ours, DatabaseUnavailable) or not isinstance(ours, Exception):
            # Lost, or cancelled in the middle of a statement: nobody knows what it is at.
            self._pool.drop(self._connection)
            if _makes_all_suspect(error):
                self._pool.distrust()
        else:
            await _roll_back(self._connection)
            self._pool.release(self._connection)
        if ours is not error:
            raise ours from error


def _hide_values(error: BaseException | None) -> None:
    """Take out of an error, and of those that led to it, what it quotes of rows and arguments: it may be logged."""
    while error is not None:
        if isinstance(error, asyncpg.PostgresError):
            error.detail = None
            if isinstance(error, asyncpg.DataError):
                error.args = (f"SQLSTATE {error.sqlstate}: a value is not acceptable; which one is not shown",)
                error.__cause__ = error.__context__ = None  # the driver's own look at an argument quotes it as well
            elif error.constraint_name is not None:
                error.args = (f"SQLSTATE {error.sqlstate}: constraint {error.constraint_name}",)
        error = error.__cause__ or error.__context__


async def _roll_back(connection: Tx) -> None:
    """A refusal costs no connection."""
    with suppress(*CONNECTION_LOST, asyncpg.PostgresError):
        if connection.is_in_transaction():
            await connection.execute("ROLLBACK")


def _ours(error: BaseException) -> BaseException:
    """The driver's errors as ours; a mistake in our SQL or arguments stays what it is."""
    if isinstance(error, asyncpg.DataError | asyncpg.ClientConfigurationError):
        return error
    if isinstance(error, asyncpg.LockNotAvailableError | asyncpg.TransactionRollbackError):
        return LockTimeout("Another request is at work on the same thing.", retry_after_s=1)
    if isinstance(error, asyncpg.QueryCanceledError):
        return Busy("The database took too long.", retry_after_s=1)
    return _unavailable(error) if _is_unavailable(error) else error


def _is_unavailable(error: BaseException) -> bool:
    if isinstance(error, asyncpg.PostgresError):
        return _is_stale(error) or str(error.sqlstate).startswith(NOT_OUR_STATEMENT)
    return isinstance(error, CONNECTION_LOST)


def _is_stale(error: asyncpg.PostgresError) -> bool:
    """The statement was prepared before the schema changed."""
    return isinstance(error, asyncpg.InvalidCachedStatementError)


def _unavailable(error: BaseException) -> DatabaseUnavailable:
    log.warning("database.unavailable", error=type(error).__name__, sqlstate=getattr(error, "sqlstate", None))
    return DatabaseUnavailable(retry_after_s=1)


def _makes_all_suspect(error: BaseException) -> bool:
    if isinstance(error, asyncpg.PostgresError):
        return _is_stale(error) or str(error.sqlstate).startswith(ALL_SUSPECT)
    return isinstance(error, CONNECTION_LOST)


# What an operator's command may meet beside ours: a wrong password, a missing right, a database without migrations.
DRIVER_ERRORS = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)

NOT_MIGRATED = (asyncpg.UndefinedTableError, asyncpg.UndefinedFunctionError, asyncpg.InvalidParameterValueError)


def refusal(error: Exception) -> str:
    """A driver's error as one sentence for an operator."""
    if not isinstance(error, asyncpg.PostgresError):
        return f"The database cannot be used: {str(error) or type(error).__name__}."
    said = f"PostgreSQL refuses: {str(error).splitlines()[0]}."
    if isinstance(error, NOT_MIGRATED) or "set role" in said:
        said += " The database is not migrated, or not for this login: run kobiri db migrate."
    return said
