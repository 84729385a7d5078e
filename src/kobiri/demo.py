"""Everything on one machine: embedded database, simulators, API, worker, a demo tenant and one real payment."""

import asyncio
import fcntl
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from collections.abc import Set as AbstractSet
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from kobiri import app, embedded, migrate
from kobiri.config import ConfigurationError, Settings, load, named
from kobiri.domain.address import on_this_machine
from kobiri.services import accounts, tenants
from kobiri.services.tenants import NewKey

TENANT = "demo"
READY_WITHIN_S = 30
PAID_WITHIN_S = 30
STOP_WITHIN_S = 18  # of the 20 that an operator waits: the rest is for the database
RESTART_AFTER_S = 0.5

# Settings of a provider that say neither where an account is nor whose.
TUNING = ("_enabled", "_timeout_seconds", "_deadline_seconds")

ACTOR = "operator:demo"
PAYER = "260961234567"


@dataclass(slots=True)
class Child:
    """One process of the stack, started again when it ends by itself."""

    name: str
    environment: dict[str, str]
    log: Path
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "kobiri", self.name],
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,  # Ctrl-C reaches this process alone, which then stops the others in order
            )

    @property
    def alive(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def tell(self, number: signal.Signals) -> None:
        if self.process is not None and self.alive:
            with suppress(ProcessLookupError):
                self.process.send_signal(number)

    def wait(self, deadline: float) -> None:
        if self.process is None:
            return
        try:
            self.process.wait(max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


@dataclass(slots=True)
class Stack:
    """What a running demo consists of."""

    settings: Settings
    say: Callable[[str], None]
    stopping: threading.Event = field(default_factory=threading.Event)
    children: list[Child] = field(default_factory=list)

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.settings.port}"

    @property
    def simulator_url(self) -> str:
        return f"http://127.0.0.1:{self.settings.simulator_port}"

    @property
    def file(self) -> Path:
        return self.settings.kobiri_home / "demo.json"

    @property
    def log(self) -> Path:
        """What the processes say."""
        return self.settings.kobiri_home / "demo.log"


def run(say: Callable[[str], None], log: TextIO, ready: Callable[[dict[str, Any]], None]) -> None:
    """Start everything, make one payment, and serve until SIGINT or SIGTERM.

    `say` gets the lines for people, `log` what the processes log from then on (all of it is in demo.log), `ready` the
    document that is written to demo.json. Raises ConfigurationError, EmbeddedError.
    """
    began = time.monotonic()
    if os.environ.get("KOBIRI_SUPERVISED"):  # make was killed: nobody else would stop what it started
        app.die_with_parent()
    stack = Stack(load(demo=True), say)
    environment = _environment(stack.settings, named())
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stack.stopping.set())
    settings = stack.settings
    settings.kobiri_home.mkdir(parents=True, exist_ok=True)
    with _alone(settings.kobiri_home):
        for name, port in (("PORT", settings.port), ("SIMULATOR_PORT", settings.simulator_port)):
            _refuse_taken(name, port)
        try:
            _start(stack, environment)
            if stack.stopping.is_set():
                return
            document = _demo_tenant(stack)
            say(f"Ready after {time.monotonic() - began:.1f} s.")
            _write(stack.file, document)
            ready(document)
            _show_payment(stack, document)
            _supervise(stack, log)
        finally:
            _stop(stack)


def _start(stack: Stack, environment: dict[str, str]) -> None:
    settings = stack.settings
    stack.say("Starting the embedded PostgreSQL …")
    embedded.start(settings.kobiri_home)
    revision = migrate.migrate(settings)
    asyncio.run(_refuse_accounts_elsewhere(settings))
    stack.say(f"Database at migration {revision}. Starting simulators, API and worker …")
    stack.log.unlink(missing_ok=True)
    stack.children = [Child(name, environment, stack.log) for name in ("simulator", "serve", "worker")]
    for child in stack.children:
        child.start()
    _await(stack, f"{stack.simulator_url}/_sim/health", "simulator")
    _await(stack, f"{stack.base_url}/health/ready", "serve")


def _environment(settings: Settings, names: AbstractSet[str]) -> dict[str, str]:
    """The processes' environment: yours, with accounts at the simulators of the providers that you say nothing of.

    Parts of a real account are never mixed with parts of a simulated one. `names`: what is set, in lower case.
    Raises ConfigurationError: an account of which nobody knows that it is on this machine.
    """
    yours = set()
    for provider in app.provider_ids():
        about = sorted(name for name in names if name.startswith(f"{provider}_") and not name.endswith(TUNING))
        if about and not on_this_machine(getattr(settings, f"{provider}_base_url") or ""):
            raise ConfigurationError(
                f"{about[0].upper()} is set, and {provider.upper()}_BASE_URL names nothing on this machine: kobiri demo"
                " calls nothing else, and mixes no account with a simulated one; unset it, in .env too"
            )
        if about:
            yours.add(provider)
    ours = app.simulated_environment(f"http://127.0.0.1:{settings.simulator_port}", but=yours)
    ours |= {"KOBIRI_DEMO": "true", "KOBIRI_SUPERVISED": "1"}
    if settings.public_base_url is None:
        ours["PUBLIC_BASE_URL"] = f"http://127.0.0.1:{settings.port}"
    if "log_format" not in names:
        ours["LOG_FORMAT"] = "pretty"
    taken = {name.lower() for name in ours}  # another spelling of one of these would be read in its place
    return {name: value for name, value in os.environ.items() if name.lower() not in taken} | ours


async def _refuse_accounts_elsewhere(settings: Settings) -> None:
    """Of merchants, as they were stored before. Raises ConfigurationError."""
    async with app.database(settings) as db:
        for tenant in await tenants.list_all(db):
            for account in await accounts.list_all(db, tenant.slug):
                if not on_this_machine(account.base_url):
                    raise ConfigurationError(
                        f"KOBIRI_HOME: an account of {tenant.slug} at {account.provider} is not on this machine, and"
                        " kobiri demo calls nothing else; name another folder"
                    )


def _demo_tenant(stack: Stack) -> dict[str, Any]:
    """A tenant with a fresh key; the keys of earlier runs are revoked."""

    async def work() -> str:
        async with app.database(stack.settings) as db:
            if TENANT not in {tenant.slug for tenant in await tenants.list_all(db)}:
                await tenants.create(db, TENANT, "Demo merchant", None, ACTOR)
            for old in await tenants.list_keys(db, TENANT):
                if old.name == TENANT and old.revoked_at is None:
                    await tenants.revoke_key(db, old.key_id, ACTOR)
            key, _ = await tenants.create_key(
                db, app.pepper(stack.settings), TENANT, NewKey(name=TENANT, mode="test"), ACTOR
            )
            return key.text

    return {
        "base_url": stack.base_url,
        "tenant": TENANT,
        "api_key": asyncio.run(work()),
        "simulator_url": stack.simulator_url,
    }


def _show_payment(stack: Stack, document: dict[str, Any]) -> None:
    """Make one payment through the front door and tell what happened."""
    say, key = stack.say, document["api_key"]
    body = {"amount": "50.00", "currency": "ZMW", "payer": PAYER, "description": "Two school books"}
    headers = {"x-api-key": key, "content-type": "application/json", "idempotency-key": str(uuid.uuid4())}
    status, payment = _call("POST", f"{stack.base_url}/api/v1/payments", headers, json.dumps(body))
    if status not in (201, 202):
        say(f"The demo payment was refused: {status} {payment}")
        return
    say(f"Asked {PAYER} for K{payment['amount']}: {status}, payment {payment['id']} is {payment['status']}.")
    address = f"{stack.base_url}/api/v1/payments/{payment['id']}"
    deadline = time.monotonic() + PAID_WITHIN_S
    while payment["status"] not in ("SUCCESSFUL", "FAILED") and time.monotonic() < deadline:
        if stack.stopping.wait(0.1):
            return
        _, payment = _call("GET", address, {"x-api-key": key})
    _, history = _call("GET", f"{stack.base_url}/api/v1/transactions?limit=1", {"x-api-key": key})
    for event in history["data"][0]["events"]:
        say(f"  {event['created_at'][11:23]}  {event['type']:<20} by {event['actor']}")
    say(f"The payment is {payment['status']}.")
    say("")
    say(f"API        {stack.base_url}/api/v1   reference: {stack.base_url}/docs")
    say(f"Simulator  {stack.simulator_url}      money moved: {stack.simulator_url}/_sim/books")
    say(f"API key    {key}")
    say("")
    say("Try it:")
    say(curl(stack.base_url, key))
    say("")
    say("Ctrl-C stops everything. The live log follows.")


def curl(base_url: str, key: str) -> str:
    """A request that can be pasted into a shell."""
    return (
        f"curl -sS {base_url}/api/v1/payments \\\n"
        f"  -H 'x-api-key: {key}' -H 'content-type: application/json' \\\n"
        f'  -H "Idempotency-Key: $(cat /proc/sys/kernel/random/uuid)" \\\n'
        f"""  -d '{{"amount": "75.50", "currency": "ZMW", "payer": "{PAYER}", "description": "Two pens"}}'"""
    )


def _supervise(stack: Stack, log: TextIO) -> None:
    """Show the log as it grows, and start again what ended by itself."""
    with stack.log.open(errors="replace") as lines:
        lines.seek(0, os.SEEK_END)
        looked_at = time.monotonic()
        while not stack.stopping.wait(0.1):
            log.write(lines.read())
            log.flush()
            if time.monotonic() - looked_at < RESTART_AFTER_S:
                continue
            looked_at = time.monotonic()
            for child in stack.children:
                if not child.alive:
                    stack.say(f"The process {child.name} ended; starting it again.")
                    child.start()


def _stop(stack: Stack) -> None:
    stack.file.unlink(missing_ok=True)
    deadline = time.monotonic() + STOP_WITHIN_S
    simulators = [child for child in stack.children if child.name == "simulator"]
    others = [child for child in stack.children if child.name != "simulator"]
    if others:
        stack.say("Stopping …")
    for group in (others, simulators):  # the provider goes last: requests that wait for it are not cut off
        for child in group:
            child.tell(signal.SIGTERM)
        for child in group:
            child.wait(deadline)
    embedded.stop(stack.settings.kobiri_home)
    if others:
        stack.say("Stopped.")


def _await(stack: Stack, url: str, name: str) -> None:
    child = next(child for child in stack.children if child.name == name)
    deadline = time.monotonic() + READY_WITHIN_S
    while not stack.stopping.is_set():
        with suppress(OSError, http.client.HTTPException):
            if _call("GET", url, {})[0] == 200:
                return
        if not child.alive:
            raise ConfigurationError(f"kobiri {name} did not start; {stack.log} ends with: {_last_line(stack.log)}")
        if time.monotonic() > deadline:
            raise ConfigurationError(f"kobiri {name} did not get ready within {READY_WITHIN_S} s; see {stack.log}.")
        time.sleep(0.03)


def _call(method: str, url: str, headers: dict[str, str], body: str | None = None) -> tuple[int, Any]:
    """One request to this machine, whatever proxies the environment names."""
    place, _, path = url.removeprefix("http://").partition("/")
    connection = http.client.HTTPConnection(place, timeout=20)
    try:
        connection.request(method, "/" + path, body, headers)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read() or b"null")
    finally:
        connection.close()


@contextmanager
def _alone(home: Path) -> Iterator[None]:
    """One demo in one home."""
    with (home / "demo.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigurationError(f"A demo runs in {home} already; stop it, or set KOBIRI_HOME.") from None
        yield


def _refuse_taken(name: str, port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            raise ConfigurationError(f"Port {port} is taken; choose another with {name}=…") from None


def _last_line(path: Path) -> str:
    return next((line for line in reversed(path.read_text(errors="replace").splitlines()) if line.strip()), "nothing")


def _write(path: Path, document: dict[str, Any]) -> None:
    """All at once: whoever sees the file can read it whole."""
    temporary = path.with_suffix(".tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        json.dump(document, file, indent=2)
        file.write("\n")
    temporary.replace(path)
