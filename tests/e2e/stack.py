"""Real processes of Kobiri on ports of their own, each ended by its id when the test is over."""

import asyncio
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import httpx

import kobiri
from tests.conftest import PEPPER, Simulator, TestDatabase, make_tenant, payment_body

T = TypeVar("T")

SOURCE = Path(kobiri.__file__).parent.parent
PATIENCE_S = 45.0  # for what must happen; a good run never waits so long
DEFECTS = ("was never retrieved",)  # of a task that nobody waited for
GONE = (FileNotFoundError, ProcessLookupError)  # what reading /proc raises of a process that has just ended
PORTS = range(20_000, 32_000)  # below those that the kernel gives to clients


class NotYet(AssertionError):
    """Something that must happen did not."""


async def eventually(
    check: Callable[[], Awaitable[T | None]], what: str, within_s: float = PATIENCE_S, every_s: float = 0.05
) -> T:
    """The first result of `check` that counts as true."""
    deadline = time.monotonic() + within_s
    while True:
        found = await check()
        if found:
            return found
        if time.monotonic() > deadline:
            raise NotYet(f"not within {within_s} s: {what} (last seen: {found!r})")
        await asyncio.sleep(every_s)


def free_port() -> int:
    """A port where nothing listens, not even something that would share it."""
    for port in random.sample(PORTS, 100):
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError("no free port")


def is_taken(port: int) -> bool:
    """Whether somebody listens there."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def is_running(pid: int) -> bool:
    """Whether this process exists and is no zombie."""
    try:
        return _stat(pid)[0] not in "ZX"
    except GONE:
        return False


def children(pid: int) -> list[int]:
    """The living processes whose parent is `pid`."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(*GONE):
                state, parent, *_ = _stat(int(entry.name))
                if int(parent) == pid and state not in "ZX":
                    found.append(int(entry.name))
    return sorted(found)


def descendants(pid: int) -> list[int]:
    """All living processes below `pid`."""
    below = children(pid)
    return below + [deeper for child in below for deeper in descendants(child)]


def cpu_ticks(pid: int) -> int:
    """How much a process has computed so far."""
    numbers = _stat(pid)
    return int(numbers[11]) + int(numbers[12])


def _stat(pid: int) -> list[str]:
    # The name stands in brackets and may hold anything, so what counts begins after the last one.
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


@dataclass
class Process:
    """One process that this test started, with its log."""

    name: str
    popen: subprocess.Popen[bytes]
    log: Path  # what it writes to stderr, where all logs go but those of the demo

    @property
    def stdout(self) -> Path:
        return self.log.with_suffix(".out")

    @property
    def text(self) -> str:
        """All that it has written."""
        return self.stdout.read_text(errors="replace") + self.log.read_text(errors="replace")

    @property
    def pid(self) -> int:
        return self.popen.pid

    @property
    def is_running(self) -> bool:
        return self.popen.poll() is None

    def signal(self, number: signal.Signals) -> None:
        self.popen.send_signal(number)

    async def ended(self, within_s: float = PATIENCE_S) -> int:
        """Its exit code, once it has ended."""

        async def code() -> tuple[int] | None:
            found = self.popen.poll()
            return None if found is None else (found,)

        return (await eventually(code, f"the end of {self.name}", within_s))[0]

    async def kill(self) -> None:
        """SIGKILL to it and all below it. Stopped first, so that none of them notices that another has gone."""
        family = [self.pid, *descendants(self.pid)]
        for number in (signal.SIGSTOP, signal.SIGKILL):
            for pid in family:
                with suppress(ProcessLookupError):
                    os.kill(pid, number)
        await self.ended()

        async def buried() -> bool:
            return not any(is_running(pid) for pid in family)

        await eventually(buried, f"the death of {self.name}")

    def defects(self) -> list[str]:
        """What it calls a defect itself, and what Python says of one."""
        text = self.text
        found = [line for line in text.splitlines() if '"level":"error"' in line.replace('": "', '":"')]
        found += [text[-4000:] for sign in DEFECTS if sign in text]
        return [f"{self.name}: {each}" for each in found]

    def records(self) -> list[dict[str, Any]]:
        """The lines of its log that are JSON."""
        found = []
        for line in self.text.splitlines():
            with suppress(ValueError):
                found.append(json.loads(line))
        return found


@dataclass
class Stack:
    """The processes of one gateway around one database and one simulator."""

    folder: Path
    database: TestDatabase
    simulator: Simulator
    port: int
    environment: dict[str, str]
    client: httpx.AsyncClient
    tenant_id: str
    processes: list[Process] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self, name: str, **settings: object) -> Process:
        """Start `kobiri name` with the stack's settings and some of its own."""
        environment = self.environment | {key.upper(): str(value) for key, value in settings.items()}
        process = start_process(self.folder, f"{name}-{len(self.processes)}", [name], environment)
        self.processes.append(process)
        return process

    async def serve(self, processes: int = 2, port: int | None = None, **settings: object) -> Process:
        """The API, once it is ready with that many processes."""
        port = port or self.port
        server = self.start("serve", api_processes=processes, port=port, **settings)

        async def ready() -> bool:
            assert server.is_running, server.text
            started = sum(record.get("event") == "api.started" for record in server.records())
            if started < processes:
                return False
            with suppress(httpx.TransportError):
                return (await self.client.get(f"http://127.0.0.1:{port}/health/ready")).status_code == 200
            return False

        await eventually(ready, "the API is ready")
        return server

    async def worker(self, **settings: object) -> Process:
        """A worker, once it works."""
        process = self.start("worker", **settings)

        async def ready() -> bool:
            assert process.is_running, process.text
            return any(record.get("event") == "worker.started" for record in process.records())

        await eventually(ready, "the worker works")
        return process

    async def command(self, *words: str) -> tuple[int, str]:
        """Run another `kobiri` command to its end: exit code, output."""
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "kobiri",
            *words,
            env=self.environment,
            cwd=self.folder,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        output, _ = await process.communicate()
        assert process.returncode is not None
        return process.returncode, output.decode()

    async def pay(self, key: str, prefer: str | None = None, **body: str) -> httpx.Response:
        """POST a payment."""
        headers = {"idempotency-key": key} | ({"prefer": prefer} if prefer else {})
        return await self.client.post("/api/v1/payments", json=payment_body(**body), headers=headers)

    async def pay_until_told(self, key: str, within_s: float = PATIENCE_S, **body: str) -> list[httpx.Response]:
        """What a client does that never gives up: the same request until it is told 201 or 202. All answers."""
        answers: list[httpx.Response] = []

        async def told() -> bool:
            with suppress(httpx.TransportError):
                answers.append(await self.pay(key, **body))
            return bool(answers) and answers[-1].status_code in (201, 202)

        await eventually(told, f"an answer to {key}", within_s, every_s=0.2)
        return answers

    async def payment(self, payment_id: str) -> dict[str, Any]:
        answer = await self.client.get(f"/api/v1/payments/{payment_id}")
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    async def settled(self, payment_id: str, status: str = "SUCCESSFUL") -> dict[str, Any]:
        """The payment once it has this status."""

        async def there() -> dict[str, Any] | None:
            found = await self.payment(payment_id)
            return found if found["status"] == status else None

        return await eventually(there, f"{payment_id} is {status}", every_s=0.2)

    async def history(self, payment_id: str) -> list[str]:
        """The types of its events, oldest first."""
        rows = await self.database.fetch("SELECT type FROM events WHERE subject_id = $1 ORDER BY id", payment_id)
        return [row["type"] for row in rows]

    async def sent(self, reference: str) -> int:
        """How many requests to pay under this reference have reached the provider."""
        return sum(r["operation"] == "create" for r in await self.simulator.requests(reference=reference))

    async def charged(self, reference: str) -> int:
        """How often the payer was charged under this reference, by the provider's own books."""
        return sum(movement["charged"] for movement in await self.simulator.movements(reference))

    def assert_no_defects(self) -> None:
        """What a process itself calls a defect is one."""
        found = [defect for process in self.processes for defect in process.defects()]
        assert not found, found[0]


def start_process(
    folder: Path, name: str, words: list[str], environment: dict[str, str], before: Sequence[str] = ()
) -> Process:
    """Start `kobiri` with these words, in a folder where no .env lies; `before`: a command that starts it."""
    log = folder / f"{name}.log"
    with log.open("wb") as errors, log.with_suffix(".out").open("wb") as output:
        popen = subprocess.Popen(
            [*before, sys.executable, "-m", "kobiri", *words],
            env=environment,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=errors,
            start_new_session=True,
        )
    return Process(name, popen, log)


@asynccontextmanager
async def running(
    folder: Path, database: TestDatabase, simulator: Simulator, **settings: object
) -> AsyncIterator[Stack]:
    """A stack with one tenant, whose key is in the client's headers. Nothing runs yet."""
    key, tenant_id = await make_tenant(database, "shop")
    port = free_port()
    environment = environment_of(
        kobiri_home=folder / "home",
        port=port,
        database_url=database.dsn,
        api_key_pepper=PEPPER,
        mtn_base_url=f"{simulator.url}/mtn",
        mtn_target_environment="mtnzambia",
        mtn_mode="both",
        mtn_collection_api_user="8c5f5a5e-0000-4000-8000-000000000001",
        mtn_collection_api_key="test-api-key-0123456789",
        mtn_collection_subscription_key="test-subscription-key",
        mtn_timeout_seconds=2,
        throttle_limit=0,
        **settings,
    )
    # No connection is kept: one that a killed process held would fail the next request.
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
    async with httpx.AsyncClient(
        base_url=f"http://127.0.0.1:{port}",
        headers={"x-api-key": key},
        limits=limits,
        timeout=60,
        trust_env=False,
        verify=False,
    ) as client:
        stack = Stack(folder, database, simulator, port, environment, client, tenant_id)
        try:
            yield stack
            stack.assert_no_defects()
        finally:
            await end_all(stack.processes)


async def end_all(processes: list[Process]) -> None:
    """Kill what still runs and show the logs, which pytest prints when the test has failed."""
    for process in processes:
        if process.is_running:
            await process.kill()
        print(f"--- {process.name} {process.pid}\n{process.text[-20_000:]}")


def environment_of(**settings: object) -> dict[str, str]:
    """The tests' own environment with settings in it, so that the same sources are run."""
    return os.environ | {"PYTHONPATH": str(SOURCE)} | {name.upper(): str(value) for name, value in settings.items()}
