"""A provider that hangs: what the others' payments, reads and health checks notice of it, and what waiting costs."""

import asyncio
import json
import os
import statistics
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.machine import Part, free_port, kobiri, process
from kobiri.config import Settings

HANGING = 500
RATE_PER_S = 40.0  # of payments, and of reads: enough to see a p99, little enough that nothing queues by itself
WAITING = 1_000
ARRIVING_PER_S = 140.0  # so that all wait at once for two seconds: it is the waiting that is measured, not the rate
ANSWER_AFTER_S = 9.0
MTN_PAYER, ZAMTEL_PAYER = "260961234567", "260951234567"

TOKEN = b'{"access_token":"bench","token_type":"access_token","expires_in":3600}'
PAID = b'{"status":"0","message":"Success","TransactionId":"1"}'


class Provider(asyncio.Protocol):
    """MTN and Zamtel in one: tokens at once; MTN's requests after `mtn_after_s`; Zamtel's when the gate opens."""

    mtn_after_s = 0.0

    def __init__(self, held: "set[Provider]") -> None:
        self.held = held
        self.unread = b""
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def connection_lost(self, _error: Exception | None) -> None:
        self.held.discard(self)

    def data_received(self, data: bytes) -> None:
        self.unread += data
        while (end := self.unread.find(b"\r\n\r\n")) >= 0:
            head = self.unread[:end].lower()
            at = head.find(b"content-length:")
            length = int(head[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
            if len(self.unread) < end + 4 + length:
                return
            self.unread = self.unread[end + 4 + length :]
            self.take(head)

    def take(self, head: bytes) -> None:
        line = head.split(b"\r\n", 1)[0]
        if b"/token/" in line:
            self.answer(b"200 OK", TOKEN)
        elif b"/zamtel/" in line:
            self.held.add(self)
        elif line.startswith(b"post"):
            asyncio.get_running_loop().call_later(type(self).mtn_after_s, self.answer, b"202 Accepted", b"")
        else:
            self.answer(b"200 OK", b'{"status":"PENDING"}')

    def answer(self, status: bytes, body: bytes) -> None:
        head = b"HTTP/1.1 %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % (status, len(body))
        self.transport.write(head + body)


@dataclass
class Client:
    """Requests over connections of their own; each notes how long it took from when it was due."""

    port: int
    key: str
    statuses: list[int] = field(default_factory=list)

    async def request(self, head: str, body: str = "") -> int:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            writer.write(
                f"{head} HTTP/1.1\r\nhost: 127.0.0.1\r\nx-api-key: {self.key}\r\nconnection: close\r\n"
                f"content-type: application/json\r\nidempotency-key: {uuid.uuid4()}\r\n"
                f"content-length: {len(body)}\r\n\r\n{body}".encode()
            )
            answer = await reader.read()
        finally:
            writer.close()
        status = int(answer.split(b" ", 2)[1]) if answer else 0
        self.statuses.append(status)
        return status

    async def pay(self, payer: str) -> int:
        return await self.request(
            "POST /api/v1/payments", json.dumps({"amount": "10.00", "currency": "ZMW", "payer": payer})
        )

    async def read(self) -> int:
        return await self.request("GET /api/v1/payments?limit=1")


async def paced(call: Any, seconds: float, rate_per_s: float) -> list[float]:
    """Latencies in ms, from when each call was due: waiting behind others counts."""
    began, latencies = time.perf_counter(), list[float]()

    async def one(due: float) -> None:
        await asyncio.sleep(max(due - time.perf_counter(), 0))
        await call()
        latencies.append((time.perf_counter() - due) * 1000)

    await asyncio.gather(*(one(began + number / rate_per_s) for number in range(int(seconds * rate_per_s))))
    return latencies


def p99(latencies: list[float]) -> float:
    ordered = sorted(latencies)
    return ordered[min(int(len(ordered) * 0.99), len(ordered) - 1)]


async def noticed(client: Client, held: set[Provider], rounds: int, seconds: float) -> dict[str, Any]:
    """The p99 of MTN's payments and of reads, without and with 500 calls that hang at Zamtel, in turns."""
    found: dict[str, list[float]] = {name: [] for name in ("pay", "read", "pay_hanging", "read_hanging")}

    async def measure(suffix: str) -> None:
        pays, reads = await asyncio.gather(
            paced(lambda: client.pay(MTN_PAYER), seconds, RATE_PER_S), paced(client.read, seconds, RATE_PER_S)
        )
        found["pay" + suffix].append(p99(pays))
        found["read" + suffix].append(p99(reads))

    for _ in range(rounds):
        await measure("")
        hanging = [asyncio.create_task(client.pay(ZAMTEL_PAYER)) for _ in range(HANGING)]
        await asyncio.gather(*hanging)  # each was told 202; the calls themselves go on
        assert len(held) == HANGING, f"{len(held)} calls hang"
        await measure("_hanging")
        for call in list(held):
            call.answer(b"200 OK", PAID)
        held.clear()
        await asyncio.sleep(2)
    medians = {name: round(statistics.median(values), 1) for name, values in found.items()}
    ratios = {name: round(medians[f"{name}_hanging"] / medians[name], 2) for name in ("pay", "read")}
    return {"hanging_calls": HANGING, "p99_ms": medians, "ratio": ratios, "rounds": rounds}


async def waiting(client: Client, api: Part) -> dict[str, Any]:
    """What 1,000 requests cost that wait at once for a provider that takes nine seconds."""
    Provider.mtn_after_s = ANSWER_AFTER_S
    before_mb = sum(api.memory_mb().values())
    peak_mb, health_ms = before_mb, list[float]()
    client.statuses.clear()
    asking = asyncio.create_task(paced(lambda: client.pay(MTN_PAYER), WAITING / ARRIVING_PER_S, ARRIVING_PER_S))
    while not asking.done():
        for path in ("/health/live", "/health/ready"):
            began = time.perf_counter()
            status = await Client(client.port, "").request(f"GET {path}")
            assert status == 200, f"{path}: {status}"
            health_ms.append((time.perf_counter() - began) * 1000)
        peak_mb = max(peak_mb, sum(api.memory_mb().values()))
        await asyncio.sleep(0.1)
    await asking
    Provider.mtn_after_s = 0.0
    return {
        "waiting": WAITING,
        "answered": {str(status): count for status, count in sorted(Counter(client.statuses).items())},
        "kb_each": round((peak_mb - before_mb) * 1000 / WAITING, 1),
        "health_ms": {"p50": round(statistics.median(health_ms), 1), "p99": round(p99(health_ms), 1),
                      "max": round(max(health_ms), 1), "checks": len(health_ms)},
    }  # fmt: skip


@contextmanager
def gateway(home: Path, pepper: str, provider_port: int, processes: int) -> Iterator[tuple[int, Part]]:
    """An API on the benchmark's database, with accounts at MTN and Zamtel; its port and process."""
    port = free_port()
    mine = {
        "KOBIRI_HOME": home, "PORT": port, "API_PROCESSES": processes, "THROTTLE_LIMIT": 0,
        "API_KEY_PEPPER": pepper, "PUBLIC_BASE_URL": "https://kobiri.example",
        "MTN_BASE_URL": f"http://127.0.0.1:{provider_port}/mtn", "MTN_MODE": "both",
        "MTN_TARGET_ENVIRONMENT": "mtnzambia", "MTN_COLLECTION_API_USER": uuid.uuid4(),
        "MTN_COLLECTION_API_KEY": "bench", "MTN_COLLECTION_SUBSCRIPTION_KEY": "bench",
        "ZAMTEL_BASE_URL": f"http://127.0.0.1:{provider_port}/zamtel", "ZAMTEL_MODE": "both",
        "ZAMTEL_THIRD_PARTY_ID": "bench", "ZAMTEL_PASSWORD": "bench", "ZAMTEL_SHORTCODE": "000001",
        "LOG_LEVEL": "warning",
    }  # fmt: skip
    names = {name.upper() for name in Settings.model_fields}
    inherited = {name: value for name, value in os.environ.items() if name.upper() not in names}
    environment = inherited | {name: str(value) for name, value in mine.items()}
    with process(kobiri("serve"), environment, home.parent / "hanging-api.log") as api:
        yield port, Part("api", api.pid)


async def _ready(port: int) -> None:
    client, deadline = Client(port, ""), time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            if await client.request("GET /health/ready") == 200:
                return
        except OSError:
            pass
        await asyncio.sleep(0.05)
    raise SystemExit("The API did not get ready.")


async def measure(home: Path, pepper: str, key: str, rounds: int, seconds: float) -> dict[str, Any]:
    """Both measurements, on a database under `home` that is migrated and has a tenant with this key."""
    held: set[Provider] = set()
    server = await asyncio.get_running_loop().create_server(lambda: Provider(held), "127.0.0.1", 0)
    provider_port = server.sockets[0].getsockname()[1]
    try:
        with gateway(home, pepper, provider_port, 2) as (port, _):
            await _ready(port)
            client = Client(port, key)
            await paced(lambda: client.pay(MTN_PAYER), 2, RATE_PER_S)
            told = await noticed(client, held, rounds, seconds)
        with gateway(home, pepper, provider_port, 1) as (port, api):
            await _ready(port)
            client = Client(port, key)
            await asyncio.gather(*(client.pay(MTN_PAYER) for _ in range(200)))
            cost = await waiting(client, api)
    finally:
        server.close()
    return {"noticed": told, "waiting": cost}
