"""The gateway under chaos: its own PostgreSQL behind a proxy, simulators, API, workers; and how to hurt them."""

import asyncio
import os
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, assert_never

import httpx

from kobiri import app, embedded
from kobiri.config import Settings
from kobiri.providers import registry
from kobiri.store.migrations import run as migrations
from tests.chaos import plan as plans
from tests.chaos.plan import Cut, Kill, Pause, Plan, ProviderFault, Restart, Stall, Step, Target
from tests.conftest import PEPPER, Simulator, TestDatabase, make_tenant, simulator_of
from tests.crash.pg_proxy import T2, Decision, Hold, Moment, PgProxy, proxied
from tests.e2e.stack import Process, Stack, children, environment_of, eventually, free_port, is_running

LOGIN = "kobiri_app"
API_PROCESSES, WORKERS = 2, 2
ANSWER_WITHIN_S, DEADLINE_S = 3, 8
SECRET = "a secret that simulators and gateway share"
SHARED_SECRETS = ("webhook_secret", "callback_key")  # where both a simulator's option and a setting bear the name
# A killed server keeps nothing in memory, so only COMMIT must wait for the kernel; no power is cut here.
DATABASE_SETTINGS = {"synchronous_commit": "on", "max_connections": "200"}
RESPAWN_AFTER_S = 0.3
STALLED_WITHIN_S = 5.0


@dataclass
class Site:
    """All of it. `callers`: keys of the API, of two tenants and both modes.

    `told`: every fault by its id. `unwell`: the providers that refuse everybody at times, where operators lie.
    `usual`: options with which each simulator speaks as usual.
    """

    home: Path
    stack: Stack
    proxy: PgProxy
    callers: tuple[str, ...]
    urls: tuple[str, ...]
    unwell: frozenset[str]
    usual: dict[str, dict[str, Any]] = field(default_factory=dict)
    told: dict[str, dict[str, Any]] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    _slots: list[tuple[str, Process]] = field(default_factory=list)
    _cuts: list[Hold] = field(default_factory=list)
    _restarting: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def lying(self) -> bool:
        """Whether operators lie."""
        return bool(self.unwell)

    @property
    def cut_commits(self) -> int:
        return sum(cut.reached.is_set() for cut in self._cuts)

    async def start(self) -> None:
        """One server with several processes; or, of several addresses, one process at each."""
        if len(self.urls) == 1:
            self._slots.append(("serve", await self.stack.serve(API_PROCESSES)))
        else:
            ports = [int(url.rpartition(":")[2]) for url in self.urls]
            self._slots += [("serve", await self.stack.serve(1, port)) for port in ports]
        self._slots += [("worker", process) for process in [await self.stack.worker() for _ in range(WORKERS)]]

    async def supervise(self) -> None:
        """Start again what ended, as an operating system's supervisor would."""
        while True:
            for index, (name, process) in enumerate(self._slots):
                if not process.is_running:
                    settings = {"api_processes": API_PROCESSES} if name == "serve" else {}
                    self._slots[index] = (name, self.stack.start(name, **settings))
                    self.counts["started again"] += 1
            await asyncio.sleep(RESPAWN_AFTER_S)

    async def stop_workers(self) -> None:
        """So that nothing changes any more while one looks."""
        workers = [process for name, process in self._slots if name == "worker"]
        self._slots = [(name, process) for name, process in self._slots if name != "worker"]
        for worker in workers:
            worker.signal(signal.SIGTERM)
        for worker in workers:
            await worker.ended()

    async def carry_out(self, plan: Plan, began: float) -> None:
        """Every step at its time; ends when the last one is over."""
        async with asyncio.TaskGroup() as group:
            for step in plan.steps:
                await asyncio.sleep(max(0.0, began + step.at_s - time.monotonic()))
                group.create_task(self._do(step))

    async def calm(self) -> None:
        """No fault any more; what lies down gets up."""
        await self.stack.simulator.clear_faults()
        self.proxy.clear()

        async def ready() -> bool:
            with suppress(httpx.TransportError):
                return (await self.stack.client.get("/health/ready")).status_code == 200
            return False

        await eventually(ready, "the API is ready again")

    async def speak_as_usual(self, provider: str) -> None:
        """Whatever it has been asked before."""
        await _configure(self.stack.simulator, provider, self.usual[provider])

    async def _do(self, step: Step) -> None:
        match step:
            case ProviderFault():
                await self._fault(step)
            case Kill():
                await self._kill(step)
            case Pause():
                await self._pause(step)
            case Restart():
                await self._restart(step)
            case Cut():
                cut = self.proxy.hold(step.moment, step.statement)
                cut.decide(step.decision)
                self._cuts.append(cut)
            case Stall():
                await self._stall(step)
            case _:
                assert_never(step)

    async def _fault(self, step: ProviderFault) -> None:
        client = self.stack.simulator.client
        answer = await client.post("/_sim/faults", json=step.fault)
        assert answer.status_code == 201, f"{step.fault}: {answer.text}"
        known = answer.json()["id"]
        self.told[known] = step.fault
        await asyncio.sleep(step.lasts_s)
        listed = (await client.get("/_sim/faults")).json()["faults"]
        self.faults[step.fault["kind"]] += next(fault["used"] for fault in listed if fault["id"] == known)
        await client.delete(f"/_sim/faults/{known}")

    def _pids(self, target: Target) -> list[int]:
        """Those that run now, of the processes that we started."""
        wanted = "worker" if target == "worker" else "serve"
        parents = [process.pid for name, process in self._slots if name == wanted and process.is_running]
        return [pid for parent in parents for pid in children(parent)] if target == "api" else parents

    async def _kill(self, step: Kill) -> None:
        pids = self._pids(step.target)
        if not pids:
            return
        pid = pids[int(step.which * len(pids))]
        self.counts[f"kills: {step.target}"] += 1
        process = next((process for _, process in self._slots if process.pid == pid), None)
        if process is not None:
            await process.kill()  # with what is below it
            return
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)

    async def _pause(self, step: Pause) -> None:
        pids = self._pids(step.target)
        if not pids:
            return
        pid = pids[int(step.which * len(pids))]
        self.counts[f"pauses: {step.target}"] += 1
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)
            try:
                await asyncio.sleep(step.lasts_s)
            finally:
                os.kill(pid, signal.SIGCONT)

    async def _stall(self, step: Stall) -> None:
        stall = self.proxy.hold(Moment.STATEMENT, T2)
        try:
            await asyncio.wait_for(stall.reached.wait(), STALLED_WITHIN_S)
            self.counts["stalled writes"] += 1
            await asyncio.sleep(step.lasts_s)
        except TimeoutError:
            pass  # nobody wrote anything
        finally:
            stall.decide(Decision.PASS)

    async def _restart(self, step: Restart) -> None:
        async with self._restarting:
            pid = embedded.postmaster_pid(self.home)
            assert pid is not None, "PostgreSQL is up between its restarts"
            os.kill(pid, signal.SIGQUIT)

            async def gone() -> bool:
                return not is_running(pid)

            await eventually(gone, "PostgreSQL is down", every_s=0.01)
            self.counts["restarts of PostgreSQL"] += 1
            await asyncio.sleep(step.lasts_s)
            await asyncio.to_thread(_start_database, self.home)


@asynccontextmanager
async def running(folder: Path, plan: Plan) -> AsyncIterator[Site]:
    """Everything started; at the end every process of it is gone, and the database too."""
    home = folder / "database"
    try:
        superuser = await asyncio.to_thread(_start_database, home)
        database = TestDatabase(superuser, app.as_login(superuser, LOGIN))
        await database.fetch(f"CREATE ROLE {LOGIN} LOGIN NOINHERIT")
        await asyncio.to_thread(migrations.migrate, superuser, LOGIN)
        async with proxied(database.dsn) as proxy, _processes(folder, home, database, proxy, plan) as site:
            yield site
    finally:
        await asyncio.to_thread(embedded.remove, home)


@asynccontextmanager
async def _processes(
    folder: Path, home: Path, database: TestDatabase, proxy: PgProxy, plan: Plan
) -> AsyncIterator[Site]:
    callers = [
        await make_tenant(database, slug, mode=mode)
        for slug, mode in (("kitwe-books", "test"), ("kitwe-books", "live"), ("ndola-shoes", "test"))
    ]
    port, simulator_port = free_port(), free_port()
    url, simulators = f"http://127.0.0.1:{port}", f"http://127.0.0.1:{simulator_port}"
    environment = environment_of(
        kobiri_home=folder / "home",
        kobiri_supervised=1,  # when this process is killed they end by themselves
        port=port,
        simulator_port=simulator_port,
        public_base_url=url,
        database_url=proxy.dsn,
        api_key_pepper=PEPPER,
        throttle_limit=0,
        payment_send_within_seconds=plan.send_within_s,
        payment_expires_after_seconds=6,
    )
    async with (
        httpx.AsyncClient(base_url=url, timeout=10, trust_env=False, verify=False) as client,
        httpx.AsyncClient(base_url=simulators, timeout=30, trust_env=False, verify=False) as control,
    ):
        simulator = Simulator(simulators, control)
        stack = Stack(folder, database, simulator, port, environment, client, callers[0][1])
        urls = (url,) if plan.unwell is None else (url, f"http://127.0.0.1:{free_port()}")
        site = Site(home, stack, proxy, tuple(key for key, _ in callers), urls, plan.unwell or frozenset())
        try:
            stack.start("simulator")
            stack.environment |= await _provider_settings(site, url, plan)
            await site.start()
            yield site
        finally:
            for process in stack.processes:
                if process.is_running:
                    await process.kill()


async def _provider_settings(site: Site, url: str, plan: Plan) -> dict[str, str]:
    """An account at each simulator, as settings. The simulators are told how to speak, whom to call, how to sign."""
    simulator = site.stack.simulator

    async def up() -> bool:
        with suppress(httpx.TransportError):
            return (await simulator.client.get("/_sim/health")).status_code == 200
        return False

    await eventually(up, "the simulators are up")
    options = (await simulator.client.get("/_sim/settings")).json()["providers"]
    settings: dict[str, object] = {}
    for provider, values in registry.simulated_values().items():
        told: dict[str, Any] = {
            name: f"{url}/api/v1/webhooks/{provider}" for name in options[provider] if name.endswith("callback_url")
        }
        mine: dict[str, object] = dict(values) | {
            "base_url": f"{simulator.url}/{provider}",
            "mode": "both",
            "timeout_seconds": ANSWER_WITHIN_S,
            "deadline_seconds": DEADLINE_S,
        }
        spoken = dict(plan.spoken).get(provider, "usual")
        dialect = simulator_of(registry.BY_ID[provider].spec).DIALECTS[spoken]
        site.usual[provider] = {name: options[provider][name] for name in dialect.options}
        told, mine = told | dialect.options, mine | dialect.values
        if provider in plan.signed:
            secrets = {name: SECRET for name in SHARED_SECRETS if name in options[provider]}
            told, mine = told | secrets, mine | secrets
        await _configure(simulator, provider, told)
        settings |= {f"{provider}_{name}": value for name, value in mine.items()}
    return {name.upper(): str(value) for name, value in settings.items() if name in Settings.model_fields}


async def _configure(simulator: Simulator, provider: str, options: Mapping[str, object]) -> None:
    answer = await simulator.client.patch(f"/_sim/settings/{provider}", json=options)
    assert answer.status_code == 200, answer.text


def _start_database(home: Path) -> str:
    return embedded.start(home, throwaway=True, settings=DATABASE_SETTINGS)


def askable() -> tuple[str, ...]:
    """The providers that can be asked what became of a payment."""
    return tuple(each.provider for each in plans.traits() if each.askable)
