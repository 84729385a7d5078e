"""SIGKILL of every API process while payments stand at each point between the request and its answer."""

import asyncio
from dataclasses import dataclass

import httpx

from tests.crash.invariants import assert_chain_intact, assert_invariants
from tests.crash.pg_proxy import T1, T2, Decision, Hold, Moment, PgProxy
from tests.e2e.stack import Stack, children, eventually

BEFORE_T1 = "before T1 commits"
AFTER_T1 = "after T1, before the call"
IN_CALL = "while the provider holds the answer to a charge"
UNREAD = "while the provider holds a request that it never looks at"
ANSWERED = "after the provider's answer, before T2"
BEFORE_T2 = "before T2 commits"
AFTER_T2 = "after T2, before the client got it"

HELD = {
    BEFORE_T1: (Moment.COMMIT, T1),
    AFTER_T1: (Moment.COMMITTED, T1),
    ANSWERED: (Moment.STATEMENT, T2),
    BEFORE_T2: (Moment.COMMIT, T2),
    AFTER_T2: (Moment.COMMITTED, T2),
}
HUNG = {IN_CALL: True, UNREAD: False}
POINTS = (BEFORE_T1, AFTER_T1, IN_CALL, UNREAD, ANSWERED, BEFORE_T2, AFTER_T2)
# How often the provider is asked for the money, over both lives of the gateway.
SENT = dict.fromkeys(POINTS, 1) | {UNREAD: 2}


@dataclass
class Case:
    """One payment, from its first request to the end."""

    point: str
    key: str
    payer: str
    asking: "asyncio.Task[httpx.Response]"
    hold: Hold | None


async def test_kill_9_at_every_point_loses_no_payment_and_charges_nobody_twice(stack: Stack, proxy: PgProxy) -> None:
    server = await stack.serve(processes=2, database_url=proxy.dsn)
    await stack.worker()
    acknowledged = [await stack.pay(f"acknowledged-{number}") for number in range(5)]
    assert {answer.status_code for answer in acknowledged} == {201}

    cases = [await _begin(stack, proxy, number, point) for number, point in enumerate(POINTS)]
    for case in cases:
        await _stands(stack, case)
    assert not any(case.asking.done() for case in cases), "nobody was answered yet"
    assert len(children(server.pid)) == 2
    await server.kill()
    for case in cases:
        if case.hold is not None:
            case.hold.decide(Decision.CUT)  # the kernel closes a dead process's sockets: what it held is not sent
    lost = await asyncio.gather(*(case.asking for case in cases), return_exceptions=True)
    assert all(isinstance(error, httpx.TransportError) for error in lost), lost
    known = {row["key"] for row in await stack.database.fetch("SELECT key FROM idempotency_keys")}
    assert {case.point for case in cases if case.key not in known} == {BEFORE_T1}

    await stack.serve(processes=2)
    told = await asyncio.gather(*(stack.pay_until_told(case.key, payer=case.payer) for case in cases))

    for case, answers in zip(cases, told, strict=True):
        await _assert_told_well(stack, case, answers)
    for answer in acknowledged:
        await stack.settled(answer.json()["id"])
    assert await stack.database.value("SELECT count(*) FROM payments") == len(acknowledged) + len(cases)
    await assert_invariants(stack, [*acknowledged, *(answer for answers in told for answer in answers)])
    await assert_chain_intact(stack)


async def _begin(stack: Stack, proxy: PgProxy, number: int, point: str) -> Case:
    key, payer = f"key-{number}", f"26096123400{number}"
    hold = None
    if point in HELD:
        moment, statement = HELD[point]
        hold = proxy.hold(moment, statement, containing=key)
    else:
        await stack.simulator.fault(kind="hang", operation="create", msisdn=payer, processed=HUNG[point], times=1)
    return Case(point, key, payer, asyncio.create_task(stack.pay(key, payer=payer)), hold)


async def _stands(stack: Stack, case: Case) -> None:
    """Wait until the payment is at its point."""
    if case.hold is not None:
        await asyncio.wait_for(case.hold.reached.wait(), 20)
        return

    async def arrived() -> bool:
        asked = await stack.simulator.requests(path="requesttopay")
        return any(r["operation"] == "create" and r["body"]["payer"]["partyId"] == case.payer for r in asked)

    await eventually(arrived, f"the provider has the request: {case.point}")


async def _assert_told_well(stack: Stack, case: Case, answers: list[httpx.Response]) -> None:
    first, last = answers[0], answers[-1]
    assert last.status_code == 201, f"{case.point}: {last.status_code} {last.text}"
    replayed = "idempotent-replayed" in last.headers
    assert replayed is (case.point != BEFORE_T1), case.point
    if case.point in (BEFORE_T1, AFTER_T2):
        assert first is last, f"{case.point}: had to wait"
    for answer in answers[:-1]:  # the dead process's lease still ran
        assert answer.status_code == 409, f"{case.point}: {answer.status_code} {answer.text}"
        assert int(answer.headers["retry-after"]) > 0
    payment = await stack.settled(last.json()["id"])
    reference = payment["provider_reference"]
    assert await stack.charged(reference) == 1, case.point
    assert await stack.sent(reference) == SENT[case.point], case.point
