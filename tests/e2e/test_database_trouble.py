"""The database is in trouble for some seconds, under real processes: none dies, no word is lost, and all heals."""

import asyncio
import shutil
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest

from kobiri import app as kobiri_app
from kobiri import embedded
from kobiri.store.migrations import run as migrations
from tests.conftest import LOGIN, PASSWORD, Cluster, Simulator, TestDatabase
from tests.e2e.stack import Stack, descendants, eventually, running

TROUBLE_S = 3.0
ANSWERED_WITHIN_S = 2.0
HEALED_WITHIN_S = 10.0
DISK_BYTES = 150_000_000
ZAMTEL_PAYER = "260951234567"
TABLES_WRITTEN = ("payments", "idempotency_keys", "events", "ledger_entries", "event_seals")


@dataclass
class Server:
    """A PostgreSQL server on a disk of its own. `disk` None: nothing can be mounted here."""

    database: TestDatabase
    disk: Path | None

    async def admin(self, sql: str) -> None:
        """As superuser, also while the server takes no writes."""
        connection = await asyncpg.connect(
            self.database.owner_dsn, server_settings={"default_transaction_read_only": "off"}
        )
        try:
            for statement in sql.split(";;"):
                await connection.execute(statement)
        finally:
            connection.terminate()


@pytest.fixture
def server() -> Iterator[Server]:
    """On a small tmpfs, where mounting is allowed."""
    folder = Path(tempfile.mkdtemp(prefix="kobiri-disk-"))
    folder.chmod(0o711)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES},mode=711", "tmpfs", str(folder)]
    mounted = subprocess.run(mount, check=False, capture_output=True).returncode == 0
    home = folder / "home"
    try:
        cluster = Cluster(embedded.start(home, throwaway=True))
        asyncio.run(cluster.execute(f"CREATE ROLE {LOGIN} LOGIN NOINHERIT PASSWORD '{PASSWORD}'", "kobiri"))
        database = TestDatabase(cluster.address("kobiri"), cluster.address("kobiri", LOGIN))
        migrations.migrate(database.owner_dsn, LOGIN)
        yield Server(database, folder if mounted else None)
    finally:
        embedded.remove(home)
        if mounted:
            subprocess.run(["umount", str(folder)], check=True)
        shutil.rmtree(folder)


@asynccontextmanager
async def disk_full(server: Server) -> AsyncIterator[None]:
    """Not one byte is left. Where nothing can be mounted, PostgreSQL says so of every row."""
    if server.disk is None:
        raising = "CREATE FUNCTION no_space() RETURNS trigger LANGUAGE plpgsql AS"
        raising += " $$ BEGIN RAISE EXCEPTION 'no space left' USING ERRCODE = 'disk_full'; END $$"
        on = "BEFORE INSERT OR UPDATE ON {0} FOR EACH ROW EXECUTE FUNCTION no_space()"
        await server.admin(raising)
        for table in TABLES_WRITTEN:
            await server.admin(f"CREATE TRIGGER no_space {on.format(table)}")
        yield
        await server.admin("DROP FUNCTION no_space CASCADE")
        return
    ballast = server.disk / "ballast"
    with ballast.open("wb", buffering=0) as file, suppress(OSError):
        for size in (1_000_000, 4_096):
            with suppress(OSError):
                while True:
                    file.write(bytes(size))
    yield
    ballast.unlink()


@asynccontextmanager
async def read_only(server: Server) -> AsyncIterator[None]:
    """As a primary that was demoted."""
    await server.admin("ALTER SYSTEM SET default_transaction_read_only = on;;SELECT pg_reload_conf()")
    yield
    await server.admin("ALTER SYSTEM RESET default_transaction_read_only;;SELECT pg_reload_conf()")


@asynccontextmanager
async def every_connection_ended(server: Server) -> AsyncIterator[None]:
    """Again and again."""
    kill = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'kobiri'"

    async def go_on() -> None:
        while True:
            await server.admin(kill)
            await asyncio.sleep(0.05)

    killing = asyncio.create_task(go_on())
    yield
    killing.cancel()
    await asyncio.wait({killing})


@asynccontextmanager
async def additive_migration(server: Server) -> AsyncIterator[None]:
    """Each table gets a column while everything runs."""
    for table in (*TABLES_WRITTEN, "tenants", "api_keys", "callbacks", "attempts"):
        await server.admin(f"SET lock_timeout = '5s';;ALTER TABLE {table} ADD COLUMN added_later text")
    yield


@dataclass
class Shop:
    """A merchant that pays all the time, and repeats what was not told."""

    stack: Stack
    name: str
    told: dict[str, str] = field(default_factory=dict)  # the payment of each key
    unavailable: int = 0
    number: int = 0

    async def order(self, **body: str) -> str:
        """One order until it is told; its payment."""
        self.number += 1
        key = f"{self.name}-{self.number}"
        while key not in self.told:
            began = time.monotonic()
            try:
                answer = await self.stack.pay(key, **body)
            except httpx.TransportError:  # an answer that comes before the body was read may end the connection
                continue
            took_s = time.monotonic() - began
            self._judge(answer, took_s)
            if answer.status_code in (201, 202):
                self.told[key] = answer.json()["id"]
            elif answer.status_code == 504:  # PENDING or TIMEOUT, and it is followed
                self.told[key] = answer.json()["payment_id"]
            else:
                await asyncio.sleep(0.1)
        return self.told[key]

    def _judge(self, answer: httpx.Response, took_s: float) -> None:
        assert answer.status_code in (201, 202, 409, 503, 504), answer.text
        if answer.status_code == 503:
            self.unavailable += 1
            assert answer.headers["retry-after"], answer.text
            assert took_s < ANSWERED_WITHIN_S, answer.text

    async def was_refused(self) -> bool:
        return self.unavailable > 0

    async def go_on(self) -> None:
        while True:
            await self.order()
            await asyncio.sleep(0.25)


async def settled(stack: Stack, payment_id: str) -> bool:
    """The time until the next question is left out: it is no part of healing."""
    await stack.database.fetch(
        "UPDATE payments SET next_run_at = now() WHERE next_run_at > now() AND lease_token IS NULL"
    )
    return bool((await stack.payment(payment_id))["status"] == "SUCCESSFUL")


TROUBLES: dict[str, Callable[[Server], AbstractAsyncContextManager[None]]] = {
    "read-only": read_only,
    "every connection ended": every_connection_ended,
    "additive migration": additive_migration,
    "disk full": disk_full,
}


async def test_it_heals_by_itself(tmp_path: Path, server: Server, simulator: Simulator) -> None:
    zamtel: dict[str, Any] = {
        name.lower(): value
        for name, value in kobiri_app.simulated_environment(simulator.url).items()
        if name.startswith("ZAMTEL_")
    }
    await simulator.client.patch("/_sim/settings/zamtel", json={"prompt_ms": 1_500})
    async with running(
        tmp_path, server.database, simulator, **zamtel, zamtel_timeout_seconds=1, zamtel_deadline_seconds=6
    ) as stack:
        api, worker = await stack.serve(processes=1), await stack.worker()
        at_first = descendants(api.pid)
        told: list[str] = []
        for name, trouble in TROUBLES.items():
            shop = Shop(stack, name)
            zamtel_payment = await shop.order(payer=ZAMTEL_PAYER)  # its only word comes in the middle of the trouble
            shopping = [asyncio.create_task(shop.go_on()) for _ in range(2)]
            async with trouble(server):
                if trouble is not additive_migration:
                    await eventually(shop.was_refused, f"{name}: a 503")
                await asyncio.sleep(TROUBLE_S)
            over = time.monotonic()
            fresh = await shop.order()
            for payment_id in (fresh, zamtel_payment):
                await eventually(partial(settled, stack, payment_id), f"{name}: {payment_id}")
            assert time.monotonic() - over < HEALED_WITHIN_S, name
            for task in shopping:
                task.cancel()
            for result in await asyncio.gather(*shopping, return_exceptions=True):
                assert isinstance(result, asyncio.CancelledError), (name, result)
            assert api.is_running, name
            assert worker.is_running, name
            assert descendants(api.pid) == at_first, name
            told += shop.told.values()
        for payment_id in told:
            await eventually(partial(settled, stack, payment_id), payment_id)

        rows = await server.database.fetch("SELECT provider_reference FROM payments WHERE provider = 'mtn'")
        movements = await simulator.movements()
        for (reference,) in rows:
            charges = [m for m in movements if m["reference"] == str(reference) and m["charged"]]
            assert len(charges) == 1, reference
