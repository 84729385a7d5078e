"""`kobiri demo`: the contract that `make run` gives to scripts."""

import asyncio
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from kobiri import embedded
from tests.e2e.stack import (
    GONE,
    Process,
    children,
    descendants,
    end_all,
    environment_of,
    eventually,
    free_port,
    is_running,
    is_taken,
    start_process,
)

STOPS_WITHIN_S = 20.0
# A network of one's own: as root, or by an account that may make one.
ALONE = ["unshare", "--net"] if os.geteuid() == 0 else ["unshare", "--net", "--map-current-user", "--keep-caps"]
INSIDE = ["nsenter", "--net"] if os.geteuid() == 0 else ["nsenter", "--net", "--user", "--preserve-credentials"]
LOOPBACK_UP = """
import fcntl, os, socket, struct, sys
with socket.socket() as any_socket:
    fcntl.ioctl(any_socket, 0x8914, struct.pack("16sh14x", b"lo", 0x41))  # SIOCSIFFLAGS: up and running
os.execv(sys.argv[1], sys.argv[1:])
"""
PAY = """
import http.client, json, sys, uuid
document = json.loads(sys.argv[1])
connection = http.client.HTTPConnection(document["base_url"].removeprefix("http://"))
headers = {"x-api-key": document["api_key"], "content-type": "application/json", "idempotency-key": str(uuid.uuid4())}
body = json.dumps({"amount": "7.00", "currency": "ZMW", "payer": "260961234567"})
connection.request("POST", "/api/v1/payments", body, headers)
answer = connection.getresponse()
print(json.dumps([answer.status, json.loads(answer.read())]))
"""
README = Path(__file__).parents[2] / "README.md"


@dataclass
class Demo:
    """One demo in a home of its own."""

    folder: Path
    home: Path
    port: int = field(default_factory=free_port)
    simulator_port: int = field(default_factory=free_port)
    processes: list[Process] = field(default_factory=list)

    @property
    def file(self) -> Path:
        return self.home / "demo.json"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self, *words: str, before: Sequence[str] = (), **settings: object) -> Process:
        mine: dict[str, object] = {
            "kobiri_home": self.home,
            "port": self.port,
            "simulator_port": self.simulator_port,
            "api_processes": 2,
        }
        environment = environment_of(**(mine | settings))
        name = f"{self.home.name}-{len(self.processes)}"
        process = start_process(self.folder, name, list(words or ["demo"]), environment, before)
        self.processes.append(process)
        return process

    async def ready(self, process: Process) -> dict[str, Any]:
        """The document, once it is there."""

        async def written() -> bool:
            assert process.is_running, process.text
            return self.file.exists()

        await eventually(written, "demo.json")
        found: dict[str, Any] = json.loads(self.file.read_text())
        return found

    async def paid(self, document: dict[str, Any]) -> list[dict[str, Any]]:
        """The demo tenant's payments, once one has succeeded."""
        async with httpx.AsyncClient(base_url=document["base_url"], trust_env=False, verify=False) as client:

            async def there() -> list[dict[str, Any]] | None:
                answer = await client.get("/api/v1/payments", headers={"x-api-key": document["api_key"]})
                payments: list[dict[str, Any]] = answer.json()["data"]
                return payments if any(payment["status"] == "SUCCESSFUL" for payment in payments) else None

            return await eventually(there, "a payment has succeeded", every_s=0.2)

    async def gone(self, family: list[int]) -> None:
        """No process of it is left, and no port is held."""

        async def nothing() -> bool:
            return not any(is_running(pid) for pid in family) and not self.is_heard

        try:
            await eventually(nothing, f"nothing is left of {family}", STOPS_WITHIN_S)
        finally:
            for pid in family:  # a failed test leaves no orphan either
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    @property
    def is_heard(self) -> bool:
        return is_taken(self.port) or is_taken(self.simulator_port)

    def api(self, process: Process) -> list[int]:
        """The API's processes."""
        server = next(pid for pid in children(process.pid) if b"serve" in _command_line(pid))
        return [pid for pid in children(server) if (line := _command_line(pid)) and b"resource_tracker" not in line]


def _command_line(pid: int) -> bytes:
    """How a process was started; nothing of one that has ended since it was listed."""
    with suppress(*GONE):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""


@asynccontextmanager
async def demo(folder: Path, name: str) -> AsyncIterator[Demo]:
    """A demo to start, and what it leaves behind removed."""
    made = Demo(folder, folder / name)
    made.home.mkdir()
    try:
        yield made
    finally:
        await end_all(made.processes)
        await asyncio.to_thread(embedded.remove, made.home)


async def _stops(one: Demo, process: Process, number: signal.Signals) -> None:
    """Everything it started ends within the promised time."""
    family = [process.pid, *descendants(process.pid)]
    assert len(family) >= 6, "demo, simulator, worker, serve and its two processes"
    process.signal(number)
    assert await process.ended(STOPS_WITHIN_S) == 0
    assert not any(is_running(pid) for pid in family)
    assert not one.is_heard
    assert not one.file.exists()
    assert embedded.running_dsn(one.home) is None


async def test_a_demo_from_its_start_to_its_stop(tmp_path: Path) -> None:
    async with demo(tmp_path, "home") as one:
        process = one.start()
        document = await one.ready(process)
        assert {"base_url", "tenant", "api_key", "simulator_url"} <= set(document)
        assert set(document) <= {"base_url", "tenant", "api_key", "simulator_url", "admin_token"}
        assert document["base_url"] == one.url
        assert document["simulator_url"] == f"http://127.0.0.1:{one.simulator_port}"
        async with httpx.AsyncClient(trust_env=False, verify=False) as client:  # it is there only when all is ready
            assert (await client.get(f"{document['base_url']}/health/ready")).status_code == 200
            assert (await client.get(f"{document['simulator_url']}/_sim/health")).status_code == 200
        payments = await one.paid(document)
        assert [payment["status"] for payment in payments] == ["SUCCESSFUL"]
        expected = 1 + await asyncio.to_thread(_paid_by_the_readme, one)

        second = one.start()
        assert await second.ended() == 2
        _assert_one_sentence(second, str(one.home))
        other = one.start(kobiri_home=tmp_path / "elsewhere", simulator_port=free_port())
        assert await other.ended() == 2
        _assert_one_sentence(other, str(one.port))
        assert one.file.exists(), "the one that runs is not disturbed"

        victim = one.api(process)[0]
        os.kill(victim, signal.SIGKILL)

        async def replaced() -> bool:
            return len(one.api(process)) == 2 and not is_running(victim)

        await eventually(replaced, "the killed API process is back")
        assert len(await one.paid(document)) == expected

        await _stops(one, process, signal.SIGTERM)


async def test_two_demos_side_by_side_one_interrupted_and_one_killed(tmp_path: Path) -> None:
    async with demo(tmp_path, "first") as first, demo(tmp_path, "second") as second:
        talking, killed = first.start("demo", "--json"), second.start()
        documents = await asyncio.gather(first.ready(talking), second.ready(killed))
        assert documents[0]["api_key"] != documents[1]["api_key"]
        for one, document in zip((first, second), documents, strict=True):
            assert len(await one.paid(document)) == 1

        await _stops(first, talking, signal.SIGINT)
        assert json.loads(talking.stdout.read_text()) == documents[0], "one JSON document and nothing else"
        assert len(await second.paid(documents[1])) == 1, "the other one goes on"

        family = [killed.pid, *descendants(killed.pid)]
        killed.signal(signal.SIGKILL)
        await killed.ended()
        await second.gone(family)

        again = second.start()

        async def new_document() -> bool:
            document = await second.ready(again)
            return bool(document["api_key"] != documents[1]["api_key"])

        await eventually(new_document, "the next start works")
        assert len(await second.paid(json.loads(second.file.read_text()))) >= 1
        await _stops(second, again, signal.SIGTERM)


async def test_no_request_of_a_demo_leaves_loopback(tmp_path: Path) -> None:
    """In a network without a way out, where the kernel counts who looks for one: for a call, or to look up a name."""
    if _alone("true").returncode != 0:
        pytest.skip("needs the right to make a network namespace")
    (tmp_path / ".env").write_text("mtn_timeout_seconds=3\nHTTP_PROXY=http://192.0.2.1:3128\nAIRTEL_MODE=test\n")
    async with demo(tmp_path, "home") as one:
        process = one.start(
            before=[*ALONE, sys.executable, "-c", LOOPBACK_UP],
            https_proxy="http://proxy.invalid",
            all_proxy="socks5://192.0.2.1",
            airtel_base_url="http://localhost:1",
        )
        document = await one.ready(process)

        async def paid() -> bool:
            assert process.is_running, process.text
            return "The payment is SUCCESSFUL." in process.text

        await eventually(paid, "the demo's payment")
        (tmp_path / "account.json").write_text('{"api_token": "in production use"}')
        there = [
            "--base-url",
            "https://pawapay.example.com",
            "--file",
            "account.json",
            "--unchecked",
            "it is not asked",
        ]
        stored = one.start("accounts", "set", "demo", "pawapay", "--mode", "test", *there)
        assert await stored.ended() == 0, stored.text

        async def held_back() -> bool:
            """The merchant's own account is taken within five seconds. It is not called."""
            inside = [*INSIDE, "--target", str(process.pid), sys.executable, "-c", PAY, json.dumps(document)]
            done = await asyncio.to_thread(subprocess.run, inside, capture_output=True, text=True, check=True)
            status, payment = json.loads(done.stdout)
            return (status, payment["provider"]) == (202, "pawapay")

        await eventually(held_back, "a payment that would go elsewhere", every_s=0.5)
        assert _looks_for_a_way_out(process.pid) == 0
        await _stops(one, process, signal.SIGTERM)

        again = one.start(airtel_base_url="http://localhost:1")
        assert await again.ended() == 2
        assert "pawapay is not on this machine" in again.text


async def test_a_demo_does_not_start_with_what_leads_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "file").mkdir()
    async with demo(tmp_path / "file", "home") as told, demo(tmp_path, "home") as set_:
        (told.folder / ".env").write_text("mtn_collection_primary_key=hunter2\n")
        named = {"MTN_COLLECTION_PRIMARY_KEY": told.start(), "DATABASE_HOST": set_.start(database_host="127.0.0.1")}
        for name, process in named.items():
            assert await process.ended() == 2
            _assert_one_sentence(process, name)
            assert "hunter2" not in process.text
        assert not [*told.home.iterdir(), *set_.home.iterdir()], "nothing was begun"


def _alone(*command: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([*ALONE, *command], capture_output=True, check=False)


def _looks_for_a_way_out(pid: int) -> int:
    """How often the kernel found no route, in the network of this process."""
    names, numbers = (line.split() for line in Path(f"/proc/{pid}/net/snmp").read_text().splitlines()[:2])
    sixth = re.search(r"^Ip6OutNoRoutes\s+(\d+)$", Path(f"/proc/{pid}/net/snmp6").read_text(), re.MULTILINE)
    return int(numbers[names.index("OutNoRoutes")]) + (int(sixth[1]) if sixth else 0)


def _paid_by_the_readme(one: Demo) -> int:
    """Run the README's curl against this demo, twice as it says; how many payments that makes."""
    if shutil.which("curl") is None:
        return 0
    blocks = re.findall(r"```sh\n(.*?)```", README.read_text(), re.DOTALL)
    (block,) = (block for block in blocks if "demo.json" in block)
    script = block.replace(".kobiri/demo.json", str(one.file)).replace("http://127.0.0.1:8000", one.url)
    answers = [
        subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True, timeout=30).stdout
        for _ in range(2)
    ]
    assert answers[0] == answers[1], "the second one is the replay of the first"
    assert json.loads(answers[0])["amount"] == "75.50"
    return 1


def _assert_one_sentence(process: Process, names: str) -> None:
    said = process.text
    lines = [line for line in said.splitlines() if line.strip()]
    assert len(lines) == 1, said
    assert names in lines[0]
