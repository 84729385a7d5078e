"""The worker's loop: takes what is due by itself, survives a defect, and stops without dropping anything."""

import asyncio
from asyncio import sleep
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from time import monotonic

import pytest

from kobiri.domain.errors import DatabaseUnavailable
from kobiri.services import checking, housekeeping
from kobiri.services.gateway import Gateway
from kobiri.store.db import CommitUnknown, Database, LockTimeout
from kobiri.store.payments import Claim
from kobiri.worker import loop, tasks
from tests.api.steps import PATIENCE_S, charged, eventually, gateway, make_due, read, sends
from tests.conftest import Api, Simulator


@asynccontextmanager
async def worker(api: Api, grace_s: float = 10) -> AsyncIterator[asyncio.Event]:
    stop = asyncio.Event()
    periodic = tasks.periodic(gateway(api), timedelta(days=90), None)
    running = asyncio.create_task(loop.run(gateway(api), periodic, stop, concurrency=10, grace_s=grace_s))
    try:
        yield stop
    finally:
        stop.set()
        await asyncio.wait_for(running, PATIENCE_S)


async def reaches(api: Api, payment_id: str, status: str) -> None:
    deadline = monotonic() + PATIENCE_S
    while (payment := await read(api, payment_id))["status"] != status:
        assert monotonic() < deadline, payment
        await make_due(api.database)
        await sleep(0.05)


async def test_it_sends_asks_and_seals_by_itself(api: Api, simulator: Simulator) -> None:
    async with worker(api):
        made = [(await api.pay(headers={"prefer": "respond-async"})).json() for _ in range(5)]
        for payment in made:
            await reaches(api, payment["id"], "SUCCESSFUL")
            await charged(simulator, payment["provider_reference"])
            assert len(await sends(simulator, payment["provider_reference"])) == 1
        deadline = monotonic() + PATIENCE_S
        while await api.database.value("SELECT count(*) FROM unsealed_events"):
            assert monotonic() < deadline
            await sleep(0.05)


async def test_questions_about_what_is_final_hold_up_nobody(api: Api, simulator: Simulator) -> None:
    """Any stranger may cause them. Here each takes its time, and there are more than the worker has places."""
    for _ in range(30):
        await api.pay()
    await api.database.fetch(
        "UPDATE payments SET status = 'SUCCESSFUL', completed_at = now(), next_run_at = now() - interval '1 hour',"
        " lease_token = NULL, hinted_at = now() - interval '1 hour'"
    )
    await simulator.fault(kind="latency", operation="status", ms=3_000, times=1_000)
    async with worker(api):
        await eventually(lambda: asked_about(simulator))
        payment = (await api.pay(headers={"prefer": "respond-async"})).json()
        began = monotonic()
        await eventually(lambda: sends(simulator, payment["provider_reference"]))
        assert monotonic() - began < 2
        assert await asked_about(simulator) < 10
        assert len(gateway(api).calls._tasks) < 4, "a place for each ten of the others"
        gateway(api).calls.cut()


async def test_questions_that_wait_for_their_providers_pace_hold_up_nobody(api: Api, simulator: Simulator) -> None:
    for _ in range(60):  # MTN wants to be asked ten times a second
        await api.pay()
    payment = (await api.pay(headers={"prefer": "respond-async"})).json()
    await api.database.fetch("UPDATE payments SET next_run_at = now() - interval '1 minute' WHERE attempt = 1")
    async with worker(api):
        began = monotonic()
        await eventually(lambda: sends(simulator, payment["provider_reference"]))
        assert monotonic() - began < 3
        waiting = "SELECT count(*) FROM payments WHERE checks = 0 AND next_run_at > now() AND attempt = 1"
        assert await api.database.value(waiting) > 20, "what was not asked does not count, and has its time"
        gateway(api).calls.cut()


async def asked_about(simulator: Simulator) -> int:
    """How many questions the provider got."""
    return len([request for request in await simulator.requests() if request["operation"] == "status"])


async def test_a_defect_with_one_payment_does_not_stop_the_others(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    bad, good = [(await api.pay(headers={"prefer": "respond-async"})).json()["id"] for _ in range(2)]
    resume = checking.resume

    async def broken(parts: Gateway, claim: Claim) -> None:
        if claim.payment_id == bad:
            raise RuntimeError
        await resume(parts, claim)

    monkeypatch.setattr(checking, "resume", broken)
    async with worker(api):
        await reaches(api, good, "SUCCESSFUL")
    assert (await read(api, bad))["status"] == "PENDING"


async def test_no_loop_ends_by_an_error(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of whatever kind: what cannot be claimed or sealed now is claimed and sealed later."""
    monkeypatch.setattr(loop, "TROUBLE_S", 0.01)
    claim_due, seal_events = checking.claim_due, housekeeping.seal_events
    errors: list[Exception] = [DatabaseUnavailable(), LockTimeout(), CommitUnknown(), RuntimeError(), OSError()]
    failing = {"claim": [*errors], "seal": [*errors]}

    async def claim(parts: Gateway, limit: int) -> list[Claim]:
        if failing["claim"]:
            raise failing["claim"].pop()
        return await claim_due(parts, limit)

    async def seal(db: Database) -> int:
        if failing["seal"]:
            raise failing["seal"].pop()
        return await seal_events(db)

    monkeypatch.setattr(checking, "claim_due", claim)
    monkeypatch.setattr(housekeeping, "seal_events", seal)
    async with worker(api):
        payment = (await api.pay(headers={"prefer": "respond-async"})).json()
        await reaches(api, payment["id"], "SUCCESSFUL")

        async def sealed() -> bool:
            return not await api.database.value("SELECT count(*) FROM unsealed_events")

        await eventually(sealed)
    assert failing == {"claim": [], "seal": []}


async def test_told_to_stop_it_finishes_what_is_at_hand(api: Api, simulator: Simulator) -> None:
    await api.pay()
    await simulator.fault(kind="latency", operation="create", ms=500)
    async with worker(api) as stop:
        payment = (await api.pay(headers={"prefer": "respond-async"})).json()
        await eventually(lambda: sends(simulator, payment["provider_reference"]))
        stop.set()
    assert await api.database.value("SELECT accepted_at FROM payments WHERE id = $1", payment["id"])


async def test_what_lasts_longer_than_the_grace_ends_as_unknown(api: Api, simulator: Simulator) -> None:
    await api.pay()
    await simulator.fault(kind="hang", operation="create", processed=True, times=1)
    async with worker(api, grace_s=0.1) as stop:
        payment = (await api.pay(headers={"prefer": "respond-async"})).json()
        await eventually(lambda: sends(simulator, payment["provider_reference"]))
        stop.set()
    row = (await api.database.fetch("SELECT status, lease_token FROM payments WHERE id = $1", payment["id"]))[0]
    assert tuple(row) == ("TIMEOUT", None)


async def test_what_is_claimed_at_the_last_moment_is_given_back(api: Api) -> None:
    payment = (await api.pay()).json()
    await api.database.fetch("UPDATE payments SET next_run_at = now() WHERE id = $1", payment["id"])
    gateway = api.app.state.api.gateway
    (claim,) = await checking.claim_due(gateway, 10)
    gateway.calls.cut()

    await checking.resume(gateway, claim)

    (row,) = await api.database.fetch("SELECT lease_token, next_run_at <= now() AS due FROM payments")
    assert (row["lease_token"], row["due"]) == (None, True)
