"""python -m benchmarks: the create-payment path beside the database's own limit, in one run."""

import argparse
import asyncio
import json
import os
import secrets
import shutil
import statistics
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.request import ProxyHandler, build_opener

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from benchmarks import decoding, hanging, limit, load
from benchmarks.machine import Part, free_port, kobiri, process
from benchmarks.provider import provider
from kobiri import app, embedded, migrate
from kobiri.config import Settings
from kobiri.services import tenants
from kobiri.services.tenants import NewKey

CONNECTIONS = 32
API_PROCESSES = 2


@dataclass(frozen=True)
class Round:
    """One pair of measurements, made one after the other."""

    outcome: load.Outcome
    limit_tps: float
    cpu_ms: dict[str, float]  # of each part, for each payment

    @property
    def ratio(self) -> float:
        return self.outcome.per_second / self.limit_tps


def main() -> None:
    """Measure, print a table, and write bench.json."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="pairs of measurements; the median counts (default 5)")
    parser.add_argument("--seconds", type=int, default=5, help="length of each measurement (default 5)")
    parser.add_argument("--only", choices=("create", "hanging"), help="one of the two parts")
    chosen = parser.parse_args()
    home = Path(os.environ.get("KOBIRI_HOME", ".kobiri"))
    home.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        # nginx's worker is another user when root starts it.
        Path(folder).chmod(0o755)
        document: dict[str, Any] = {}
        if chosen.only != "hanging":
            document |= _measure(Path(folder), chosen.rounds, chosen.seconds)
        if chosen.only != "create":
            document["hanging"] = _hanging(Path(folder), chosen.rounds, chosen.seconds)
    path = home / "bench.json"
    path.write_text(json.dumps(document, indent=2) + "\n")
    console = Console()
    if "create" in document:
        _show(console, document)
    if "hanging" in document:
        _show_hanging(console, document["hanging"])
    console.print(f"Written to {path}")


def _hanging(folder: Path, rounds: int, seconds: int) -> dict[str, Any]:
    """What everybody else notices of a provider that hangs, on a database of its own."""
    with _database(folder / "second"), Console(stderr=True).status("A provider that hangs …"):
        settings = _settings(folder, "http://127.0.0.1:9").model_copy(update={"kobiri_home": folder / "second"})
        _, key = asyncio.run(_tenant(settings))
        pepper = app.pepper(settings).decode()
        return asyncio.run(hanging.measure(folder / "second", pepper, key, rounds, seconds))


def _show_hanging(console: Console, found: dict[str, Any]) -> None:
    told, cost = found["noticed"], found["waiting"]
    console.print(f"\nA provider that hangs: {told['hanging_calls']} calls open at Zamtel, 2 API processes")
    table = Table("", "WITHOUT", "WITH", "RATIO", box=None, pad_edge=False, header_style="bold")
    for name, label in (("pay", "p99 of MTN's payments in ms"), ("read", "p99 of reads in ms")):
        ms = told["p99_ms"]
        table.add_row(label, str(ms[name]), str(ms[f"{name}_hanging"]), str(told["ratio"][name]))
    console.print(table)
    health = cost["health_ms"]
    console.print(
        f"\n{cost['waiting']} requests wait at once for a provider that takes 9 s: answered {cost['answered']},"
        f" {cost['kb_each']} kB of memory each; health answered in {health['p50']} ms (p99 {health['p99']}, at most"
        f" {health['max']}, {health['checks']} checks), 1 API process"
    )


def _measure(folder: Path, rounds: int, seconds: int) -> dict[str, Any]:
    with ExitStack() as stack, Progress(console=Console(stderr=True), transient=True) as progress:
        step = progress.add_task("Starting …", total=rounds * 2 + 2)
        database = stack.enter_context(_database(folder / "home"))
        provider_name, provider_url, provider_part = stack.enter_context(provider(folder))
        settings = _settings(folder, provider_url)
        tenant_id, key = asyncio.run(_tenant(settings))
        api = stack.enter_context(process(kobiri("serve"), _environment(settings), folder / "api.log"))
        worker = stack.enter_context(process(kobiri("worker"), _environment(settings), folder / "worker.log"))
        base_url = f"http://127.0.0.1:{settings.port}"
        _await_ready(base_url, folder / "api.log")
        time.sleep(2)  # idle memory is that of a process which has started, not of one that starts
        idle_mb = sorted(Part("api", api.pid).memory_mb().values())[-API_PROCESSES:]
        parts = [Part("API", api.pid), Part("worker", worker.pid), database, provider_part]
        progress.update(step, advance=1, description="Warming up …")
        load.run(base_url, key, CONNECTIONS, 3, folder)
        limit.settle(_superuser(settings))
        measured = []
        for number in range(rounds):
            progress.update(step, advance=1, description=f"Round {number + 1} of {rounds}: Kobiri")
            outcome, cpu_ms = _loaded(parts, base_url, key, seconds, folder)
            limit.settle(_superuser(settings))
            progress.update(step, advance=1, description=f"Round {number + 1} of {rounds}: pgbench")
            limit_tps = limit.run(_superuser(settings), tenant_id, CONNECTIONS, seconds, folder)
            limit.settle(_superuser(settings))
            measured.append(Round(outcome, limit_tps, cpu_ms))
        busy_mb = sorted(Part("api", api.pid).memory_mb().values())[-API_PROCESSES:]
        lost = asyncio.run(_lost(settings))
    return _document(measured, provider_name, idle_mb, busy_mb, lost)


def _loaded(
    parts: list[Part], base_url: str, key: str, seconds: int, folder: Path
) -> tuple[load.Outcome, dict[str, float]]:
    before = {part.name: part.cpu_s() for part in parts}
    spent_before = os.times()
    outcome = load.run(base_url, key, CONNECTIONS, seconds, folder)
    spent = os.times()
    cpu_ms = {part.name: (part.cpu_s() - before[part.name]) * 1000 / outcome.requests for part in parts}
    children = (spent.children_user - spent_before.children_user) + (
        spent.children_system - spent_before.children_system
    )
    cpu_ms["load"] = children * 1000 / outcome.requests
    return outcome, cpu_ms


def _document(
    rounds: list[Round], provider_name: str, idle_mb: list[float], busy_mb: list[float], lost: int
) -> dict[str, Any]:
    def median(values: Iterator[float]) -> float:
        return round(statistics.median(values), 3)

    return {
        "create": {
            "rps": median(item.outcome.per_second for item in rounds),
            "limit_tps": median(item.limit_tps for item in rounds),
            "ratio": median(item.ratio for item in rounds),
            "p50_ms": median(item.outcome.p50_ms for item in rounds),
            "p99_ms": median(item.outcome.p99_ms for item in rounds),
            "ratios": [round(item.ratio, 3) for item in rounds],
            "errors": sum(item.outcome.errors for item in rounds),
            "requests": sum(item.outcome.requests for item in rounds),
            "cpu_ms_per_payment": {name: median(item.cpu_ms[name] for item in rounds) for name in rounds[0].cpu_ms},
        },
        "decode": decoding.measure(),
        "memory_mb": {"api_idle": [round(mb) for mb in idle_mb], "api_after_load": [round(mb) for mb in busy_mb]},
        "setup": {
            "provider": provider_name,
            "load": load.generator(),
            "api_processes": API_PROCESSES,
            "connections": CONNECTIONS,
            "cores": os.cpu_count(),
            "python": sys.version.split()[0],
        },
        "unsettled_payments_without_event": lost,
    }


@contextmanager
def _database(home: Path) -> Iterator[Part]:
    """An embedded PostgreSQL of its own, with the settings of a real one: fsync on."""
    embedded.start(home)
    try:
        pid = embedded.postmaster_pid(home)
        assert pid is not None
        yield Part("database", pid)
    finally:
        embedded.remove(home)
        shutil.rmtree(home, ignore_errors=True)


def _settings(folder: Path, provider_url: str) -> Settings:
    values = dict[str, Any](
        kobiri_home=folder / "home",
        port=free_port(),
        api_processes=API_PROCESSES,
        api_key_pepper=secrets.token_hex(32),
        mtn_base_url=provider_url,
        mtn_target_environment="mtnzambia",
        mtn_mode="both",
        mtn_collection_api_user=str(uuid.uuid4()),
        mtn_collection_api_key="benchmark",
        mtn_collection_subscription_key="benchmark",
        # Callbacks are expected, as in production, so the worker does not ask at once; this provider sends none.
        public_base_url="https://kobiri.example",
        throttle_limit=0,
    )
    return Settings(**values)


def _environment(settings: Settings) -> dict[str, str]:
    values = {
        "KOBIRI_HOME": settings.kobiri_home,
        "PORT": settings.port,
        "API_PROCESSES": settings.api_processes,
        "API_KEY_PEPPER": settings.api_key_pepper.get_secret_value() if settings.api_key_pepper else "",
        "MTN_BASE_URL": settings.mtn_base_url,
        "MTN_TARGET_ENVIRONMENT": settings.mtn_target_environment,
        "MTN_MODE": settings.mtn_mode,
        "MTN_COLLECTION_API_USER": settings.mtn_collection_api_user,
        "MTN_COLLECTION_API_KEY": "benchmark",
        "MTN_COLLECTION_SUBSCRIPTION_KEY": "benchmark",
        "PUBLIC_BASE_URL": settings.public_base_url,
        "THROTTLE_LIMIT": 0,
    }
    names = {name.upper() for name in Settings.model_fields}
    inherited = {name: value for name, value in os.environ.items() if name.upper() not in names}
    return inherited | {name: str(value) for name, value in values.items()}


def _superuser(settings: Settings) -> str:
    return app.migration_dsn(settings)


async def _tenant(settings: Settings) -> tuple[str, str]:
    await asyncio.to_thread(migrate.migrate, settings)
    async with app.database(settings) as db:
        tenant = await tenants.create(db, "bench", "Benchmark", None, "benchmark")
        key, _ = await tenants.create_key(db, app.pepper(settings), "bench", NewKey("bench", "test"), "benchmark")
    return tenant.id, key.text


async def _lost(settings: Settings) -> int:
    """Payments without their first event: there must be none."""
    async with app.database(settings) as db, db.operator_transaction() as tx:
        count: int = await tx.fetchval(
            "SELECT count(*) FROM payments p WHERE NOT EXISTS (SELECT FROM events e WHERE e.tenant_id = p.tenant_id"
            " AND e.subject_id = p.id::text AND e.type = 'payment.created')",
            timeout=60,
        )
        return count


def _await_ready(base_url: str, log: Path) -> None:
    opener = build_opener(ProxyHandler({}))
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            opener.open(f"{base_url}/health/ready", timeout=1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise SystemExit(f"The API did not get ready: {log.read_text()[-2000:]}")


def _show(console: Console, document: dict[str, Any]) -> None:
    create, setup = document["create"], document["setup"]
    console.print(
        f"Create payment: {setup['api_processes']} API processes, {setup['connections']} connections,"
        f" provider {setup['provider']}, load {setup['load']}, worker running, {setup['cores']} cores"
    )
    table = Table("", "MEDIAN", box=None, pad_edge=False, header_style="bold")
    table.add_row("payments a second", f"{create['rps']:.0f}")
    table.add_row("pgbench, the same T1 and T2", f"{create['limit_tps']:.0f}")
    table.add_row("ratio", f"{create['ratio']:.2f}   (rounds: {', '.join(map(str, create['ratios']))})")
    table.add_row("p50 / p99 in ms", f"{create['p50_ms']:.1f} / {create['p99_ms']:.1f}")
    for name, cost in create["cpu_ms_per_payment"].items():
        table.add_row(f"CPU ms a payment, {name}", f"{cost:.3f}")
    for name, cost in document["decode"].items():
        table.add_row(f"decode, {name}, in µs", f"{cost:.1f}")
    table.add_row("memory of an API process in MB, idle", ", ".join(map(str, document["memory_mb"]["api_idle"])))
    table.add_row("the same after the load", ", ".join(map(str, document["memory_mb"]["api_after_load"])))
    table.add_row("errors", f"{create['errors']} of {create['requests']}")
    console.print(table)


if __name__ == "__main__":
    main()
