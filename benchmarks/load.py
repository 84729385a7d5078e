"""Load: creates payments over kept-alive connections; wrk where it is installed, else a few lines of asyncio."""

import asyncio
import json
import re
import subprocess
import sys
import time
import uuid
from dataclasses import dataclass
from pathlib import Path

from benchmarks.machine import installed

BODY = '{"amount":"10.00","currency":"ZMW","payer":"260961234567","description":"Two school books"}'

# A fresh key for each request: the thread's number, a random start, and a counter.
WRK_SCRIPT = """
local counter = 0
function setup(thread) thread:set("id", math.random(1000000000)) end
function init(args) start = tostring(os.time()) .. "-" .. tostring(id) .. "-" .. tostring(math.random(1000000000)) end
function request()
  counter = counter + 1
  return wrk.format("POST", "/api/v1/payments", {
    ["x-api-key"] = "%(key)s", ["content-type"] = "application/json", ["idempotency-key"] = start .. "-" .. counter
  }, '%(body)s')
end
function done(summary, latency, requests)
  io.write(string.format("RESULT %%d %%d %%d %%.3f %%.3f\\n", summary.requests, summary.errors.status +
    summary.errors.connect + summary.errors.read + summary.errors.write + summary.errors.timeout, summary.duration,
    latency:percentile(50) / 1000, latency:percentile(99) / 1000))
end
"""


@dataclass(frozen=True)
class Outcome:
    """What a run of load saw. Latencies in milliseconds."""

    requests: int
    errors: int
    seconds: float
    p50_ms: float
    p99_ms: float

    @property
    def per_second(self) -> float:
        return self.requests / self.seconds


def generator() -> str:
    """Its name."""
    return "wrk" if installed("wrk") else "built-in"


def run(base_url: str, key: str, connections: int, seconds: int, folder: Path) -> Outcome:
    """Create payments as fast as they are answered."""
    wrk = installed("wrk")
    if wrk:
        script = folder / "load.lua"
        script.write_text(WRK_SCRIPT % {"key": key, "body": BODY})
        command = [wrk, "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "10s", "-s", str(script), base_url]
        printed = subprocess.run(command, check=True, capture_output=True, text=True, timeout=seconds + 60).stdout
        match = re.search(r"RESULT (\d+) (\d+) (\d+) ([\d.]+) ([\d.]+)", printed)
        assert match is not None, printed
        return Outcome(int(match[1]), int(match[2]), int(match[3]) / 1e6, float(match[4]), float(match[5]))
    own = [sys.executable, "-m", "benchmarks.load", base_url, key, str(connections), str(seconds)]
    printed = subprocess.run(own, check=True, capture_output=True, text=True, timeout=seconds + 60).stdout
    return Outcome(**json.loads(printed))


async def _client(host: str, port: int, key: str, until: float, latencies: list[float]) -> int:
    reader, writer = await asyncio.open_connection(host, port)
    head = f"POST /api/v1/payments HTTP/1.1\r\nHost: {host}\r\nx-api-key: {key}\r\ncontent-type: application/json\r\n"
    errors = 0
    while time.perf_counter() < until:
        began = time.perf_counter()
        rest = f"idempotency-key: {uuid.uuid4()}\r\ncontent-length: {len(BODY)}\r\n\r\n{BODY}"
        writer.write((head + rest).encode())
        answer = await reader.readuntil(b"\r\n\r\n")
        length = int(answer.lower().partition(b"content-length:")[2].split(b"\r\n", 1)[0])
        await reader.readexactly(length)
        errors += not answer.startswith(b"HTTP/1.1 201")
        latencies.append(time.perf_counter() - began)
    writer.close()
    return errors


async def _main(base_url: str, key: str, connections: int, seconds: int) -> None:
    host, _, port = base_url.removeprefix("http://").partition(":")
    began, latencies = time.perf_counter(), list[float]()
    clients = [_client(host, int(port), key, began + seconds, latencies) for _ in range(connections)]
    errors = sum(await asyncio.gather(*clients))
    elapsed_s = time.perf_counter() - began
    latencies.sort()
    p50, p99 = (latencies[int(len(latencies) * share)] * 1000 for share in (0.50, 0.99))
    print(
        json.dumps({"requests": len(latencies), "errors": errors, "seconds": elapsed_s, "p50_ms": p50, "p99_ms": p99})
    )


if __name__ == "__main__":
    asyncio.run(_main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])))
