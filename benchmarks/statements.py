"""python -m benchmarks.statements: how fast a statement is read and compared with as many payments."""

import argparse
import asyncio
import os
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
import structlog
from rich.console import Console
from rich.table import Table

from benchmarks.machine import Part
from kobiri import app, embedded, migrate
from kobiri.config import Settings
from kobiri.domain import statement
from kobiri.domain.statement import LAYOUTS
from kobiri.services import statements, tenants
from kobiri.services.statements import Reconciliation
from kobiri.store.db import Database
from kobiri.store.payments import Author

# One payment a second, up to now. Each hundredth is TIMEOUT: the statement settles it.
FILL = """
INSERT INTO payments (tenant_id, id, mode, kind, status, amount_minor, currency, payer, network, provider,
    account_fingerprint, provider_reference, provider_transaction_id, attempt, send_before, expires_at, created_at,
    next_run_at)
SELECT $1, gen_random_uuid(), 'live', 'collection',
    CASE WHEN $4 AND n % 100 = 0 THEN 'TIMEOUT' ELSE 'SUCCESSFUL' END, 1000 + n % 5000, 'ZMW', (260960000000 + n)::text,
    'mtn', 'mtn', 'account', gen_random_uuid(), CASE WHEN $4 AND n % 100 = 0 THEN NULL ELSE $5 || n END, 1,
    now(), now(), now() - make_interval(secs => $2 + $3 - n),
    CASE WHEN $4 AND n % 100 = 0 THEN now() + interval '1 day' END
FROM generate_series(1, $2) n
"""

HEADER = "reference,transaction id,time,status,amount,currency,msisdn"


def main() -> None:
    """Fill a database of its own, make a statement, import it twice, print figures."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.statements", description=__doc__)
    parser.add_argument("--lines", type=int, default=100_000, help="lines, and payments of the period (100000)")
    parser.add_argument("--older", type=int, default=0, help="payments from before the period (0)")
    chosen = parser.parse_args()
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory())  # a line for each settled payment
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(_measure(Path(folder) / "home", chosen.lines, chosen.older))


async def _measure(home: Path, lines: int, older: int) -> None:
    async with _database(home) as (db, owner):
        tenant = await tenants.create(db, "bench", "Benchmark", None, "benchmark")
        connection = await asyncpg.connect(owner)
        try:
            if older:
                await connection.execute(FILL, tenant.id, older, lines, False, "O", timeout=3_600)
            await connection.execute(FILL, tenant.id, lines, 0, True, "T", timeout=3_600)
            await connection.execute("VACUUM ANALYZE payments")
            rows = await connection.fetch(
                "SELECT * FROM (SELECT * FROM payments ORDER BY created_at DESC LIMIT $1) p ORDER BY created_at", lines
            )
        finally:
            await connection.close()
        text = "\n".join([HEADER, *_rows(rows)]).encode()
        shown = Table("", "SECONDS", "LINES A SECOND", "CHANGED", box=None, pad_edge=False, header_style="bold")
        began = time.perf_counter()
        read = statement.read(_chunks(text), LAYOUTS["generic"])
        _row(shown, "read", began, len(read.lines), None)
        for name, dry_run in (("compare (dry run)", True), ("compare and settle", False), ("the same again", False)):
            began = time.perf_counter()
            found = await statements.reconcile(db, read, "mtn", Author("benchmark"), dry_run=dry_run)
            _row(shown, name, began, len(read.lines), found)
        memory_mb = sum(Part("benchmark", os.getpid()).memory_mb().values())
    console = Console()
    console.print(f"{len(read.lines)} lines, {len(rows) + older} payments, {memory_mb:.0f} MB of memory")
    console.print({verdict.value: count for verdict, count in found.counts.items() if count})
    console.print(shown)


def _row(shown: Table, name: str, began: float, lines: int, found: Reconciliation | None) -> None:
    took_s = time.perf_counter() - began
    shown.add_row(name, f"{took_s:.2f}", f"{lines / took_s:,.0f}", str(found.changed) if found else "-")


def _rows(payments: Sequence[asyncpg.Record]) -> Iterator[str]:
    """Of ten lines seven bear our reference, two their id alone, one neither."""
    for number, payment in enumerate(payments):
        kind = number % 10
        reference = str(payment["provider_reference"]) if kind < 7 else ""
        their_id = (payment["provider_transaction_id"] or f"N{number}") if kind < 9 else ""
        amount = f"{payment['amount_minor'] // 100}.{payment['amount_minor'] % 100:02}"
        at = payment["created_at"].isoformat()
        yield f"{reference},{their_id},{at},successful,{amount},ZMW,{payment['payer']}"


def _chunks(data: bytes) -> Iterator[bytes]:
    for start in range(0, len(data), 65_536):
        yield data[start : start + 65_536]


@asynccontextmanager
async def _database(home: Path) -> AsyncIterator[tuple[Database, str]]:
    """An embedded PostgreSQL of its own, migrated, with the settings of a real one."""
    embedded.start(home)
    try:
        settings = Settings(kobiri_home=home)
        await asyncio.to_thread(migrate.migrate, settings)
        async with app.database(settings) as db:
            yield db, app.migration_dsn(settings)
    finally:
        embedded.remove(home)
        shutil.rmtree(home, ignore_errors=True)


if __name__ == "__main__":
    main()
