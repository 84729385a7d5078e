"""SIGKILL of the API around the switch from one road to the next: whatever died, the payer is charged once."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from kobiri.providers import registry
from tests.api.steps import end_leases
from tests.conftest import Simulator, TestDatabase
from tests.crash.invariants import assert_chain_intact, assert_invariants
from tests.crash.pg_proxy import T2, Decision, Hold, Moment, PgProxy
from tests.e2e.stack import Stack, eventually, running

SWITCH = "WITH switched AS"
FIRST, SECOND = "mtn", "pawapay"

pytestmark = pytest.mark.skipif(
    SECOND not in registry.BY_ID, reason="there is no pawaPay here, so no second road to MTN's wallets"
)


@pytest.fixture
async def stack(tmp_path: Path, database: TestDatabase, simulator: Simulator) -> AsyncIterator[Stack]:
    """A gateway whose platform has two roads to MTN's wallets. The first one gives no token, so it is sent nothing."""
    values = registry.simulated_values()[SECOND]
    settings: dict[str, object] = {f"{SECOND}_{name}": value for name, value in values.items()}
    settings |= {f"{SECOND}_base_url": f"{simulator.url}/{SECOND}", f"{SECOND}_mode": "both"}
    async with running(tmp_path, database, simulator, **settings) as made:
        # Time enough for three repeats at the first road and for the second.
        made.environment["MTN_TIMEOUT_SECONDS"] = "5"
        await simulator.fault(kind="error_before", operation="token", status=503)
        yield made


async def payment_row(stack: Stack) -> Any:
    (row,) = await stack.database.fetch("SELECT * FROM payments")
    return row


async def left_behind(stack: Stack) -> list[Any]:
    return list(await stack.database.fetch("SELECT * FROM attempts ORDER BY attempt"))


async def asked_to_pay(stack: Stack, provider: str) -> int:
    return sum(r["operation"] == "create" for r in await stack.simulator.requests(provider=provider))


async def killed_at(stack: Stack, proxy: PgProxy, hold: Hold) -> None:
    """SIGKILL the API while its payment stands there; nothing that it held goes out any more."""
    server = await stack.serve(processes=1, database_url=proxy.dsn)
    asking = asyncio.create_task(stack.pay("k"))
    await asyncio.wait_for(hold.reached.wait(), 20)
    await server.kill()
    hold.decide(Decision.CUT)
    (lost,) = await asyncio.gather(asking, return_exceptions=True)
    assert isinstance(lost, Exception), "nobody was answered"


async def settled_once(stack: Stack, provider: str) -> None:
    """Restart everything: it ends well by one road, and over all references the payer was charged once."""
    await stack.serve(processes=1)
    await stack.worker()
    await end_leases(stack.database)
    told = await stack.pay_until_told("k")
    done = await stack.settled(told[-1].json()["id"])
    assert done["provider"] == provider

    references = [str((await payment_row(stack))["provider_reference"])]
    references += [str(left["provider_reference"]) for left in await left_behind(stack)]
    movements = await stack.simulator.movements()
    assert [(m["provider"], m["charged"]) for m in movements] == [(provider, 1)]
    assert movements[0]["reference"] in references
    assert await asked_to_pay(stack, FIRST) + await asked_to_pay(stack, SECOND) == 1
    assert await stack.database.value("SELECT count(*) FROM payments") == 1
    await assert_invariants(stack, told)
    await assert_chain_intact(stack)


@pytest.mark.parametrize("recovers", [True, False], ids=["the first road is back", "the first road stays away"])
async def test_killed_after_the_first_road_sent_nothing_and_before_the_switch_commits(
    stack: Stack, proxy: PgProxy, recovers: bool
) -> None:
    await killed_at(stack, proxy, proxy.hold(Moment.COMMIT, SWITCH))
    row = await payment_row(stack)
    assert (row["provider"], row["attempt"], row["unsent"]) == (FIRST, 1, False)
    assert await left_behind(stack) == []
    assert await asked_to_pay(stack, SECOND) == 0
    if not recovers:
        # Nobody knows any more that nothing was sent, and it cannot be asked: no other road may be taken.
        await stack.serve(processes=1)
        await stack.worker()
        await end_leases(stack.database)
        await eventually(lambda: asked_for_a_token(stack), "the worker asks the first road")
        assert (await payment_row(stack))["provider"] == FIRST
        assert await asked_to_pay(stack, SECOND) == 0
        for process in stack.processes:
            if process.is_running:
                await process.kill()
    await stack.simulator.clear_faults()
    await settled_once(stack, FIRST)


async def asked_for_a_token(stack: Stack) -> bool:
    """Somebody did so since the kill."""
    row = await payment_row(stack)
    return bool(row["version"] > 1)


async def test_killed_after_the_switch_committed_and_before_the_second_road_is_sent_anything(
    stack: Stack, proxy: PgProxy
) -> None:
    await killed_at(stack, proxy, proxy.hold(Moment.COMMITTED, SWITCH))
    row = await payment_row(stack)
    assert (row["provider"], row["attempt"], row["unsent"]) == (SECOND, 2, False)
    assert [left["provider"] for left in await left_behind(stack)] == [FIRST]
    assert await asked_to_pay(stack, SECOND) == 0
    await settled_once(stack, SECOND)


@pytest.mark.parametrize("processed", [True, False], ids=["it was processed", "it was never read"])
async def test_killed_before_the_second_road_answers(stack: Stack, proxy: PgProxy, processed: bool) -> None:
    await stack.simulator.fault(provider=SECOND, kind="hang", operation="create", processed=processed, times=1)
    server = await stack.serve(processes=1)
    asking = asyncio.create_task(stack.pay("k"))

    async def arrived() -> bool:
        return await asked_to_pay(stack, SECOND) == 1

    await eventually(arrived, "the second road has the request")
    row = await payment_row(stack)
    assert (row["provider"], row["attempt"]) == (SECOND, 2)
    await server.kill()
    await asyncio.gather(asking, return_exceptions=True)
    if not processed:
        # It is sent once more, under the same reference.
        await stack.simulator.client.delete("/_sim/requests")
    await settled_once(stack, SECOND)
    assert str((await payment_row(stack))["provider_reference"]) == str(row["provider_reference"])


async def test_killed_after_the_second_road_answered_and_before_t2(stack: Stack, proxy: PgProxy) -> None:
    await killed_at(stack, proxy, proxy.hold(Moment.STATEMENT, T2))
    row = await payment_row(stack)
    assert (row["provider"], row["attempt"], row["accepted_at"]) == (SECOND, 2, None)
    assert await asked_to_pay(stack, SECOND) == 1
    await settled_once(stack, SECOND)
