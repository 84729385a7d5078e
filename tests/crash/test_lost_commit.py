"""The connection to PostgreSQL is lost during COMMIT: it happened, or it did not, and nobody can tell which."""

import asyncio

import httpx
import pytest

from tests.api.steps import asked_to_pay, charged, end_leases, problem, until
from tests.conftest import ApiFactory, Simulator
from tests.crash.invariants import assert_invariants
from tests.crash.pg_proxy import T1, T2, Decision, Moment, PgProxy
from tests.e2e.stack import Stack

T1_DID_NOT_HAPPEN = "T1 did not happen"
T1_HAPPENED = "T1 happened"
T2_DID_NOT_HAPPEN = "T2 did not happen"
T2_HAPPENED = "T2 happened"
T1_NEVER_ENDED = "T1 is still open on a server that knows nothing of the loss"
T2_NEVER_ENDED = "T2 is still open on a server that knows nothing of the loss"

LOSSES = {
    T1_DID_NOT_HAPPEN: (Moment.COMMIT, T1, Decision.CUT),
    T1_HAPPENED: (Moment.COMMITTED, T1, Decision.CUT),
    T2_DID_NOT_HAPPEN: (Moment.COMMIT, T2, Decision.CUT),
    T2_HAPPENED: (Moment.COMMITTED, T2, Decision.CUT),
    T1_NEVER_ENDED: (Moment.COMMIT, T1, Decision.HALF_OPEN),
    T2_NEVER_ENDED: (Moment.COMMIT, T2, Decision.HALF_OPEN),
}
KNOWN_AT_ONCE = (T1_DID_NOT_HAPPEN, T1_HAPPENED, T2_DID_NOT_HAPPEN, T2_HAPPENED)


async def test_a_commit_whose_answer_is_lost_is_read_again_and_never_guessed(stack: Stack, proxy: PgProxy) -> None:
    await stack.serve(processes=1, database_url=proxy.dsn)
    await stack.worker()
    holds = {loss: proxy.hold(moment, statement, loss) for loss, (moment, statement, _) in LOSSES.items()}
    asking = {loss: asyncio.create_task(stack.pay(loss)) for loss in LOSSES}
    for loss, (_, _, decision) in LOSSES.items():
        await asyncio.wait_for(holds[loss].reached.wait(), 20)
        holds[loss].decide(decision)

    first = dict(zip(asking, await asyncio.gather(*asking.values()), strict=True))

    for loss in KNOWN_AT_ONCE:
        assert first[loss].status_code == 201, f"{loss}: {first[loss].text}"
        assert "idempotent-replayed" not in first[loss].headers
        again = await stack.pay(loss)
        assert (again.status_code, again.content) == (201, first[loss].content), loss
    for loss in (T1_NEVER_ENDED, T2_NEVER_ENDED):  # the open transaction holds the row
        assert first[loss].status_code == 503, f"{loss}: {first[loss].text}"
        assert int(first[loss].headers["retry-after"]) > 0

    # PostgreSQL ends by itself what stands still, so nothing waits for the network to notice.
    late = await asyncio.gather(*(stack.pay_until_told(loss) for loss in (T1_NEVER_ENDED, T2_NEVER_ENDED)))
    for answer in [*(first[loss] for loss in KNOWN_AT_ONCE), *(answers[-1] for answers in late)]:
        payment = await stack.settled(answer.json()["id"])
        assert await stack.sent(payment["provider_reference"]) == 1
        assert await stack.charged(payment["provider_reference"]) == 1
    assert await stack.database.value("SELECT count(*) FROM payments") == len(LOSSES)
    await assert_invariants(stack, [*first.values(), *(answer for answers in late for answer in answers)])


async def test_a_database_that_is_gone_after_the_lost_commit_is_an_honest_503(stack: Stack, proxy: PgProxy) -> None:
    await stack.serve(processes=1, database_url=proxy.dsn)
    await stack.worker()
    losses = {
        "after T1": proxy.hold(Moment.COMMITTED, T1, "after T1"),
        "before T2": proxy.hold(Moment.COMMIT, T2, "before T2"),
        "after T2": proxy.hold(Moment.COMMITTED, T2, "after T2"),
    }
    asking = [asyncio.create_task(stack.pay(loss)) for loss in losses]
    for hold in losses.values():
        await asyncio.wait_for(hold.reached.wait(), 20)

    await proxy.refuse()
    for hold in losses.values():
        hold.decide(Decision.CUT)
    first: list[httpx.Response] = await asyncio.gather(*asking)

    for answer in first:
        assert answer.status_code == 503, answer.text
        assert int(answer.headers["retry-after"]) > 0
    unsent = await stack.database.value("SELECT count(*) FROM payments WHERE version = 1")
    assert unsent == 2, "after T2 all was written"

    await proxy.start(proxy.port)
    late = await asyncio.gather(*(stack.pay_until_told(loss) for loss in losses))
    for answers in late:
        payment = await stack.settled(answers[-1].json()["id"])
        assert await stack.charged(payment["provider_reference"]) == 1
        assert await stack.sent(payment["provider_reference"]) == 1
    assert await stack.database.value("SELECT count(*) FROM payments") == len(losses)
    await assert_invariants(stack, [*first, *(answer for answers in late for answer in answers)])


@pytest.mark.parametrize(
    "meanwhile",
    ["lease_token = gen_random_uuid()", "version = version + 1", "created_at = created_at - interval '3 seconds'"],
    ids=["somebody took it", "somebody went on", "its moment is over"],
)
async def test_who_learns_late_that_t1_happened_sends_only_while_it_is_his_turn(
    proxy: PgProxy, make_api: ApiFactory, simulator: Simulator, meanwhile: str
) -> None:
    api = await make_api(database_url=proxy.dsn)
    hold = proxy.hold(Moment.COMMITTED, T1)
    asking = asyncio.create_task(api.pay("k"))
    await asyncio.wait_for(hold.reached.wait(), 20)
    await api.database.fetch(f"UPDATE payments SET {meanwhile}")
    hold.decide(Decision.CUT)
    assert (await asking).status_code in (202, 409)
    assert await asked_to_pay(simulator) == 0
    await end_leases(api.database)
    done = await until(api, str(await api.database.value("SELECT id FROM payments")), "SUCCESSFUL")
    await charged(simulator, done["provider_reference"])


async def test_a_key_that_another_order_took_after_the_lost_commit_is_not_ours(
    proxy: PgProxy, make_api: ApiFactory
) -> None:
    """Neither of the two has a lease, nor has anybody gone on with it: the payment's id alone tells."""
    api, twin = await make_api(database_url=proxy.dsn), await make_api()
    later = {"prefer": "respond-async"}
    lost = proxy.hold(Moment.COMMIT, T1)
    asking = asyncio.create_task(api.pay("k", headers=later))
    await asyncio.wait_for(lost.reached.wait(), 20)
    again = proxy.hold(Moment.STATEMENT, T1)
    lost.decide(Decision.CUT)
    await asyncio.wait_for(again.reached.wait(), 20)
    won = await twin.pay("k", amount="11", headers=later)
    again.decide(Decision.PASS)
    assert won.status_code == 202
    problem(await asking, 422, "idempotency_key_reused")
    assert await twin.database.value("SELECT count(*) FROM payments") == 1
