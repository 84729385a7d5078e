"""Real PostgreSQL for every test: one cluster a run, one migrated template, a copy for each test that asks."""

import asyncio
import fcntl
import gc
import os
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, cast
from urllib.parse import quote, urlsplit, urlunsplit

import asyncpg
import httpx
import hypothesis
import pytest
from aiohttp import web
from litestar import Litestar

from kobiri import app as kobiri_app
from kobiri import embedded
from kobiri.config import Settings
from kobiri.domain.api_key import SCOPES
from kobiri.providers import registry
from kobiri.providers.base import ProviderSpec
from kobiri.services import tenants
from kobiri.services.tenants import NewKey
from kobiri.simulator import app as simulator_app
from kobiri.simulator.stage import SimulatorSettings
from kobiri.store.db import PLATFORM, Database
from kobiri.store.migrations import run as migrations

LOGIN, PASSWORD = "kobiri_test_app", "only-for-tests"
PEPPER = "a pepper that is long enough for tests"

for name in list(os.environ):  # a developer's own settings must not change what is tested
    if name.lower() in Settings.model_fields:
        del os.environ[name]
Settings.model_config["env_file"] = None


# How long an example takes tells how busy the machine is.
hypothesis.settings.register_profile("kobiri", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("kobiri")


def pytest_collection_finish() -> None:
    # A full collection of all that the modules hold stops a worker for half a second, in the middle of some test.
    gc.collect()
    gc.freeze()


@dataclass(frozen=True)
class Cluster:
    """A PostgreSQL server, by its superuser's address."""

    dsn: str

    def address(self, database: str, login: str | None = None) -> str:
        parts = urlsplit(self.dsn)
        host = parts.netloc.rpartition("@")[2]
        who = f"{login}:{quote(PASSWORD)}" if login else parts.netloc.rpartition("@")[0]
        return urlunsplit(parts._replace(netloc=f"{who}@{host}", path=f"/{database}"))

    async def execute(self, sql: str, database: str = "postgres") -> None:
        connection = await asyncpg.connect(self.address(database))
        try:
            await connection.execute(sql)
        finally:
            await connection.close()


@dataclass(frozen=True)
class TestDatabase:
    """One test's own database. `owner_dsn` may do everything, `dsn` is the application's login."""

    __test__ = False

    owner_dsn: str
    dsn: str

    async def fetch(self, sql: str, *arguments: Any) -> list[asyncpg.Record]:
        """As superuser, past all walls."""
        connection = await asyncpg.connect(self.owner_dsn)
        try:
            return await connection.fetch(sql, *arguments)
        finally:
            await connection.close()

    async def value(self, sql: str, *arguments: Any) -> Any:
        """The first column of the first row."""
        return (await self.fetch(sql, *arguments))[0][0]


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shared by all processes of this run."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base


@pytest.fixture(scope="session")
def cluster(run_folder: Path) -> Iterator[Cluster]:
    """The server of this run: TEST_DATABASE_URL, or an embedded one of the first process, stopped by the last."""
    with _Shared(run_folder, "cluster") as users:
        external = os.environ.get("TEST_DATABASE_URL")
        home = run_folder / "pg"
        home.mkdir(exist_ok=True)
        dsn = external or embedded.start(home, throwaway=True, settings={"max_connections": "400"})
        server = Cluster(dsn.replace("/kobiri?", "/postgres?") if external is None else dsn)
        if users == 1:
            asyncio.run(_prepare_template(server))
    try:
        yield server
    finally:
        with _Shared(run_folder, "cluster", leave=True) as users:
            if users == 0 and external is None:
                embedded.remove(home)


class _Shared:
    """Counts the processes that use something, under a file lock."""

    def __init__(self, folder: Path, name: str, *, leave: bool = False) -> None:
        self._count, self._step = folder / f"{name}.users", -1 if leave else 1
        self._lock = (folder / f"{name}.lock").open("w")

    def __enter__(self) -> int:
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        users = int(self._count.read_text()) if self._count.exists() else 0
        self._count.write_text(str(users + self._step))
        return users + self._step

    def __exit__(self, *_: object) -> None:
        self._lock.close()


def _template() -> str:
    return f"kobiri_template_{os.environ.get('PYTEST_XDIST_TESTRUNUID', 'alone')[:12]}"


async def _prepare_template(server: Cluster) -> None:
    await server.execute(
        f"DO $$ BEGIN CREATE ROLE {LOGIN} LOGIN NOINHERIT PASSWORD '{PASSWORD}';"
        " EXCEPTION WHEN duplicate_object THEN NULL; END $$"
    )
    await server.execute(f"DROP DATABASE IF EXISTS {_template()}")
    await server.execute(f"CREATE DATABASE {_template()}")
    await asyncio.to_thread(migrations.migrate, server.address(_template()), LOGIN)


@pytest.fixture
def alone_with_roles(run_folder: Path) -> Iterator[None]:
    """Roles belong to the whole server: the tests that change them go one at a time, over all processes."""
    with (run_folder / "roles.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


# What a test may leave behind beside rows: definitions, rights, settings, statistics, and tables that have grown.
TRACES = """
SELECT md5(string_agg(trace, '|' ORDER BY trace)) FROM (
    SELECT concat_ws(' ', 'schema', nspname, nspacl) AS trace FROM pg_namespace WHERE nspname !~ '^pg_'
    UNION ALL SELECT concat_ws(' ', 'relation', relname, relkind, relowner, relacl, reloptions, relrowsecurity,
            relforcerowsecurity, reltuples, pg_relation_size(oid) > 1000000)
        FROM pg_class WHERE relnamespace = 'public'::regnamespace
    UNION ALL SELECT concat_ws(' ', 'column', attrelid, attname, atttypid, attnotnull, attisdropped)
        FROM pg_attribute JOIN pg_class c ON c.oid = attrelid WHERE c.relnamespace = 'public'::regnamespace
    UNION ALL SELECT concat_ws(' ', 'function', oid, proname, proowner, proacl, md5(prosrc), proconfig)
        FROM pg_proc WHERE pronamespace = 'public'::regnamespace
    UNION ALL SELECT concat_ws(' ', 'trigger', tgrelid, tgname, tgenabled) FROM pg_trigger WHERE NOT tgisinternal
    UNION ALL SELECT concat_ws(' ', 'policy', oid, polname, polroles) FROM pg_policy
    UNION ALL SELECT concat_ws(' ', 'constraint', oid, conname, conrelid)
        FROM pg_constraint WHERE connamespace = 'public'::regnamespace
    UNION ALL SELECT concat_ws(' ', 'setting', setrole, setconfig)
        FROM pg_db_role_setting s JOIN pg_database d ON d.oid = s.setdatabase WHERE datname = current_database()
    UNION ALL SELECT concat_ws(' ', 'row', tenants) FROM tenants
    UNION ALL SELECT concat_ws(' ', 'row', alembic_version) FROM alembic_version
) AS traces
"""
FILLED_BY_MIGRATIONS = ("alembic_version", "tenants")


async def _traces(server: Cluster, name: str) -> str:
    connection = await asyncpg.connect(server.address(name))
    try:
        traces: str = await connection.fetchval(TRACES)
        return traces
    finally:
        await connection.close()


async def _is_clean(server: Cluster, name: str, traces: str) -> bool:
    """Remove all rows that a test made. False: it left more than rows."""
    try:
        connection = await asyncpg.connect(server.address(name))
    except asyncpg.PostgresError:
        return False
    try:
        await connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        tables = await connection.fetch(
            "SELECT quote_ident(tablename) FROM pg_tables WHERE schemaname = 'public' AND tablename <> ALL ($1)",
            FILLED_BY_MIGRATIONS,
        )
        await connection.execute("SET session_replication_role = replica")  # no trigger, no order among the tables
        await connection.execute("; ".join(f"DELETE FROM {table}" for (table,) in tables))
        await connection.execute("DELETE FROM tenants WHERE id <> $1", PLATFORM)
        left: str = await connection.fetchval(TRACES)
    except (asyncpg.PostgresError, OSError):
        return False
    else:
        return left == traces
    finally:
        connection.terminate()


@pytest.fixture(scope="session")
def clean_databases(cluster: Cluster) -> Iterator[list[tuple[str, str]]]:
    """Names and traces of databases that earlier tests of this process left clean: a new copy takes longer."""
    databases: list[tuple[str, str]] = []
    yield databases
    for name, _ in databases:
        asyncio.run(cluster.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)"))


@pytest.fixture
async def database(cluster: Cluster, clean_databases: list[tuple[str, str]]) -> AsyncIterator[TestDatabase]:
    """A migrated database of this test's own, without rows."""
    if clean_databases:
        name, traces = clean_databases.pop()
    else:
        name = f"kobiri_test_{uuid.uuid4().hex[:16]}"
        await cluster.execute(f"CREATE DATABASE {name} TEMPLATE {_template()}")
        traces = await _traces(cluster, name)
    yield TestDatabase(cluster.address(name), cluster.address(name, LOGIN))
    if await _is_clean(cluster, name, traces):
        clean_databases.append((name, traces))
    else:
        await cluster.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


@pytest.fixture
async def db(database: TestDatabase) -> AsyncIterator[Database]:
    """The application's pool on this test's database."""
    opened = await Database.open(database.dsn, pool_size=8)
    yield opened
    await opened.close()


def simulator_of(spec: ProviderSpec) -> ModuleType:
    """What a provider's simulator brings for tests: see docs/providers.md, section 5."""
    return import_module(f"kobiri.providers.{spec.id}.simulator")


@dataclass
class Simulator:
    """The simulators, running in this test's loop and reached over real HTTP."""

    url: str
    client: httpx.AsyncClient

    async def fault(self, **fault: Any) -> None:
        answer = await self.client.post("/_sim/faults", json={"provider": "mtn", **fault})
        assert answer.status_code < 300, answer.text

    async def clear_faults(self) -> None:
        await self.client.delete("/_sim/faults")

    async def configure(self, **options: Any) -> None:
        answer = await self.client.patch("/_sim/settings/mtn", json=options)
        assert answer.status_code == 200, answer.text

    async def movements(self, reference: str | None = None) -> list[dict[str, Any]]:
        answer = await self.client.get("/_sim/books", params={"reference": reference} if reference else {})
        found: list[dict[str, Any]] = answer.json()["movements"]
        return found

    async def requests(self, **query: str) -> list[dict[str, Any]]:
        answer = await self.client.get("/_sim/requests", params=query)
        found: list[dict[str, Any]] = answer.json()["requests"]
        return found


@pytest.fixture
async def simulator() -> AsyncIterator[Simulator]:
    """MTN's simulator: prompts are answered after 50 ms."""
    settings = SimulatorSettings(providers={"mtn": {"prompt_ms": 50}})
    runner = web.AppRunner(
        simulator_app.build(registry.simulators(), settings=settings), access_log=None, shutdown_timeout=0.5
    )
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    async with httpx.AsyncClient(base_url=f"http://{host}:{port}", trust_env=False, verify=False) as client:
        yield Simulator(f"http://{host}:{port}", client)
    await runner.cleanup()


def make_settings(database: TestDatabase, simulator_url: str, **overrides: Any) -> Settings:
    """Settings of a gateway whose MTN account is at the simulator."""
    values: dict[str, Any] = {
        "database_url": database.dsn,
        "api_key_pepper": PEPPER,
        "mtn_base_url": f"{simulator_url}/mtn",
        "mtn_target_environment": "mtnzambia",
        "mtn_mode": "both",
        "mtn_collection_api_user": "8c5f5a5e-0000-4000-8000-000000000001",
        "mtn_collection_api_key": "test-api-key-0123456789",
        "mtn_collection_subscription_key": "test-subscription-key",
        "mtn_timeout_seconds": 4,
        "throttle_limit": 0,
        "database_pool_size": 8,
    }
    return Settings(**(values | overrides))


@asynccontextmanager
async def _lifespan(application: Litestar) -> AsyncIterator[None]:
    """The application's lifespan in a task of its own: a fixture is set up and torn down in different ones."""
    begun, over = asyncio.Event(), asyncio.Event()

    async def live() -> None:
        async with application.lifespan():
            begun.set()
            await over.wait()

    task = asyncio.create_task(live())
    waiting = asyncio.create_task(begun.wait())
    await asyncio.wait({task, waiting}, return_when=asyncio.FIRST_COMPLETED)
    if task.done():
        waiting.cancel()
        await task
    yield
    over.set()
    await task


@dataclass
class Api:
    """The API in this test's loop, called through its ASGI door, with one tenant's key already in the headers."""

    app: Any
    client: httpx.AsyncClient
    settings: Settings
    database: TestDatabase
    key: str
    tenant_id: str

    async def tenant(self, slug: str, **key: Any) -> str:
        """Another tenant (if it is not there yet) and a key of it."""
        return (await make_tenant(self.database, slug, **key))[0]

    async def pay(self, key: str | None = None, headers: dict[str, str] | None = None, **body: Any) -> httpx.Response:
        """POST a payment of K10 under a fresh Idempotency-Key, unless told otherwise."""
        sent = {"idempotency-key": key or str(uuid.uuid4())} | (headers or {})
        return await self.client.post("/api/v1/payments", json=payment_body(**body), headers=sent)


def payment_body(**overrides: Any) -> dict[str, Any]:
    """A small acceptable order; None leaves a field out."""
    body = {"amount": "10.00", "currency": "ZMW", "payer": "260961234567"} | overrides
    return {name: value for name, value in body.items() if value is not None}


async def make_tenant(database: TestDatabase, slug: str, **key: Any) -> tuple[str, str]:
    """A tenant (if it is not there yet) and a new key of it, in test mode unless told otherwise: key, tenant id."""
    opened = await Database.open(database.dsn, pool_size=2)
    try:
        known = {tenant.slug: tenant for tenant in await tenants.list_all(opened)}
        tenant = known.get(slug) or await tenants.create(opened, slug, slug, None, "test")
        wanted = NewKey(**({"name": "test", "mode": "test", "scopes": SCOPES} | key))
        made, _ = await tenants.create_key(opened, PEPPER.encode(), slug, wanted, "test")
        return made.text, tenant.id
    finally:
        await opened.close()


ApiFactory = Callable[..., Awaitable[Api]]


@pytest.fixture
async def make_api(database: TestDatabase, simulator: Simulator) -> AsyncIterator[ApiFactory]:
    """Make the API with settings of one's own."""
    async with AsyncExitStack() as stack:

        async def make(**overrides: Any) -> Api:
            settings = make_settings(database, simulator.url, **overrides)
            application = kobiri_app.build_api(settings)
            await stack.enter_async_context(_lifespan(application))
            key, tenant_id = await make_tenant(database, "shop")
            client = await stack.enter_async_context(
                httpx.AsyncClient(
                    transport=httpx.ASGITransport(app=cast("Any", application)),
                    base_url="http://api.test",
                    headers={"x-api-key": key},
                )
            )
            return Api(application, client, settings, database, key, tenant_id)

        yield make


@pytest.fixture
async def api(make_api: ApiFactory) -> Api:
    """The API with default settings."""
    return await make_api()
