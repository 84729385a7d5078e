"""A signed callback that comes in before the request that caused it has written what the provider answered."""

import asyncio
from typing import Any

from tests.crash.invariants import assert_invariants
from tests.crash.pg_proxy import T2, Decision, Moment, PgProxy
from tests.e2e.stack import Stack, free_port

SECRET = "a secret that MTN's simulator shares"


async def test_a_callback_that_overtakes_t2_is_not_overwritten_by_it(stack: Stack, proxy: PgProxy) -> None:
    await stack.simulator.configure(webhook_secret=SECRET)
    port = free_port()
    signing: dict[str, Any] = {"mtn_webhook_secret": SECRET, "public_base_url": f"http://127.0.0.1:{port}"}
    await stack.serve(processes=1, database_url=proxy.dsn, **signing)
    await stack.serve(processes=1, port=port, **signing)  # the callbacks' own process
    hold = proxy.hold(Moment.STATEMENT, T2, "overtaken")

    asking = asyncio.create_task(stack.pay("overtaken"))
    await asyncio.wait_for(hold.reached.wait(), 20)
    payment_id = str(await stack.database.value("SELECT id FROM payments"))
    settled = await stack.settled(payment_id)
    assert not asking.done()
    hold.decide(Decision.PASS)
    answer = await asking

    assert answer.status_code == 201, answer.text
    assert answer.json() == settled
    assert await stack.payment(payment_id) == settled
    replay = await stack.pay("overtaken")
    assert (replay.status_code, replay.content) == (201, answer.content)
    assert replay.headers["idempotent-replayed"] == "true"
    assert "payment.timed_out" not in await stack.history(payment_id)
    assert await stack.charged(settled["provider_reference"]) == 1
    await assert_invariants(stack, [answer, replay])
