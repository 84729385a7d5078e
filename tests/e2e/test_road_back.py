"""A road that is down is left at once, costs nobody money, and is taken again soon after it is back."""

import asyncio
import itertools
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from aiohttp import web

from kobiri import app as kobiri_app
from kobiri.domain import breaker
from kobiri.domain.breaker import IN_A_ROW
from kobiri.domain.payment import Status
from kobiri.providers import registry
from kobiri.simulator import app as simulator_app
from kobiri.simulator.stage import SimulatorSettings
from tests.api.steps import age, asked_to_pay, charged, check, end_leases, gateway
from tests.conftest import ApiFactory, Simulator, payment_body
from tests.crash.pg_proxy import T1, Decision, Moment, proxied
from tests.e2e.stack import Stack, eventually, free_port

BACK_WITHIN_S = 30
BACK_AFTER_TROUBLE_S = 90


@asynccontextmanager
async def second_simulator(port: int) -> AsyncIterator[None]:
    """MTN comes back, at the port where nothing listened."""
    settings = SimulatorSettings(providers={"mtn": {"prompt_ms": 50}})
    built = simulator_app.build(registry.simulators(), settings=settings)
    runner = web.AppRunner(built, access_log=None, shutdown_timeout=0.5)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    yield
    await runner.cleanup()


async def test_new_payments_leave_a_road_that_is_down_and_take_it_again_soon_after_its_return(
    make_api: ApiFactory, simulator: Simulator
) -> None:
    port = free_port()
    behind = kobiri_app.simulated_environment(simulator.url)
    pawapay = {name.lower(): value for name, value in behind.items() if name.startswith("PAWAPAY_")}
    answer = await simulator.client.patch("/_sim/settings/pawapay", json={"prompt_ms": 50})
    assert answer.status_code == 200
    api = await make_api(mtn_base_url=f"http://127.0.0.1:{port}/mtn", **pawapay)

    answers = [await api.pay() for _ in range(IN_A_ROW + 3)]
    assert {answer.status_code for answer in answers} == {201}
    assert {answer.json()["provider"] for answer in answers} == {"pawapay"}
    road = gateway(api).roads.receiver("mtn")
    assert road is not None
    assert road.availability("collection") == "down"
    # With the circuit open the road is passed over before anything is recorded for it.
    assert await api.database.value("SELECT count(*) FROM attempts") == IN_A_ROW

    async def settled() -> bool:
        await check(api)
        return bool(await api.database.value("SELECT bool_and(status = 'SUCCESSFUL') FROM payments"))

    await eventually(settled, "all payments went through by the other road")
    movements = await simulator.movements()
    assert [(movement["provider"], movement["charged"]) for movement in movements] == [("pawapay", 1)] * len(answers)

    async with second_simulator(port):
        began = time.monotonic()
        made = list(answers)

        async def goes_by_mtn() -> bool:
            made.append(await api.pay())
            assert made[-1].status_code == 201, "nobody is turned away meanwhile"
            return bool(made[-1].json()["provider"] == "mtn")

        await eventually(goes_by_mtn, "new payments go by MTN again", BACK_WITHIN_S, every_s=0.5)
        assert time.monotonic() - began <= BACK_WITHIN_S
        assert (await api.pay()).json()["provider"] == "mtn", "and it stays so"
        await eventually(settled, "all payments went through")
        for movement in await simulator.movements():
            assert movement["charged"] == 1
        await api.client.get("/health/ready")


TROUBLES: dict[str, dict[str, object]] = {
    "a rest of a day": {"kind": "error_before", "status": 429, "retry_after_s": 86_400},
    "one product's key refused": {"kind": "error_before", "status": 401, "product": "collection"},
    "403 everywhere": {"kind": "error_before", "status": 403},
}
PAYERS = itertools.count(260_961_000_001)


@pytest.mark.parametrize("trouble", [*TROUBLES, "nobody listens"])
async def test_a_road_is_closed_by_its_trouble_and_back_soon_after_it(
    make_api: ApiFactory, simulator: Simulator, monkeypatch: pytest.MonkeyPatch, trouble: str
) -> None:
    """With circuits that stay open for a thirtieth of their time."""
    monkeypatch.setattr(breaker, "OPEN_S", 0.3)
    monkeypatch.setattr(breaker, "LONGEST_S", 1.2)
    port = free_port()
    api = await make_api() if trouble in TROUBLES else await make_api(mtn_base_url=f"http://127.0.0.1:{port}/mtn")
    if trouble in TROUBLES:
        await simulator.fault(**TROUBLES[trouble])

    async def pay() -> int:
        return (await api.pay(payer=str(next(PAYERS)))).status_code

    async def closed() -> bool:
        await check(api)
        return await pay() == 503

    await eventually(closed, "the road is closed")
    sent = await asked_to_pay(simulator)
    for _ in range(10):
        assert await pay() == 503
    assert await asked_to_pay(simulator) == sent, "nobody has to try whether it works again"

    async with second_simulator(port):
        await simulator.clear_faults()
        began = time.monotonic()

        async def pays() -> bool:
            return await pay() == 201

        await eventually(pays, "payments succeed again")
        assert time.monotonic() - began <= BACK_WITHIN_S
        assert [await pay() for _ in range(5)] == [201] * 5, "and it stays so"

        async def settled() -> bool:
            await check(api)
            return not await api.database.value("SELECT count(*) FROM payments WHERE status <> 'SUCCESSFUL'")

        await eventually(settled, "what was on its way meanwhile is found out too")


@pytest.mark.full("waits for circuits of real processes")
@pytest.mark.parametrize("trouble", TROUBLES)
async def test_after_three_seconds_of_trouble_every_process_pays_again_without_a_restart(
    stack: Stack, trouble: str
) -> None:
    await stack.serve(processes=2)
    await stack.worker()
    await stack.simulator.fault(**TROUBLES[trouble])

    async def pay(**headers: str) -> dict[str, Any]:
        key = str(uuid.uuid4())
        async with httpx.AsyncClient(base_url=stack.url, headers=stack.client.headers, trust_env=False) as client:
            body = payment_body(payer=str(next(PAYERS)))
            answer = await client.post("/api/v1/payments", json=body, headers={"idempotency-key": key, **headers})
        return {"status_code": answer.status_code, **answer.json()}

    until = time.monotonic() + 3
    while time.monotonic() < until:
        await asyncio.gather(pay(), pay(), pay(prefer="respond-async"))
    await stack.simulator.clear_faults()
    began = time.monotonic()

    async def all_pay() -> bool:
        """Ten connections of their own, so that both processes answer; and one that the worker sends."""
        made = await asyncio.gather(*(pay() for _ in range(10)), pay(prefer="respond-async"))
        return {payment["status_code"] for payment in made[:10]} == {201} and made[10]["status_code"] in (201, 202)

    await eventually(all_pay, "all processes take payments again", BACK_AFTER_TROUBLE_S, every_s=1.0)

    async def settled() -> bool:
        open_ones = "SELECT count(*) FROM payments WHERE status NOT IN ('SUCCESSFUL', 'FAILED')"
        return not await stack.database.value(open_ones)

    left_s = BACK_AFTER_TROUBLE_S - (time.monotonic() - began)
    await eventually(settled, "the worker sends and finds out", left_s)


async def test_a_payment_that_was_interrupted_for_two_hours_prompts_nobody(stack: Stack) -> None:
    async with proxied(stack.database.dsn) as proxy:
        server = await stack.serve(processes=1, database_url=proxy.dsn)
        hold = proxy.hold(Moment.COMMITTED, T1, "k")
        asking = asyncio.create_task(stack.pay("k"))
        await asyncio.wait_for(hold.reached.wait(), 20)
        await server.kill()
        hold.decide(Decision.CUT)
        await asyncio.gather(asking, return_exceptions=True)
    await age(stack.database, "2 hours")
    await end_leases(stack.database)
    (row,) = await stack.database.fetch("SELECT id, provider_reference::text AS reference FROM payments")

    await stack.worker()

    async def asked() -> bool:
        return any(r["operation"] == "status" for r in await stack.simulator.requests(reference=row["reference"]))

    async def looked_at() -> bool:
        return bool(await stack.database.value("SELECT checks >= 1 FROM payments"))

    await eventually(asked, "the worker asks")
    await eventually(looked_at, "the worker wrote what it was told")
    assert await stack.sent(row["reference"]) == 0
    await charged(stack.simulator, row["reference"], times=0)
    (after,) = await stack.database.fetch("SELECT status, review, attempt FROM payments")
    assert tuple(after) == (Status.TIMEOUT, "unresolved", 1), "unknown, and a person is told"
