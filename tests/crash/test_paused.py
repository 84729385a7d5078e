"""A process that is stopped for longer than its lease, and wakes when another has done its work."""

import asyncio
import os
import signal
from typing import Any

from kobiri.services.submission import SEND_AT_ONCE_S
from tests.crash.invariants import assert_invariants
from tests.crash.pg_proxy import ATTEMPT, T1, T2, Decision, Moment, PgProxy
from tests.e2e.stack import Process, Stack, children, eventually


class Paused:
    """Processes under SIGSTOP."""

    def __init__(self, pids: list[int]) -> None:
        self._pids = pids
        self._signal(signal.SIGSTOP)

    def wake(self) -> None:
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        for pid in self._pids:
            os.kill(pid, number)


BEFORE_SEND = "between T1 and the send"
IN_CALL = "while the provider answers"
IN_T2 = "in the middle of T2"
PAYERS = {BEFORE_SEND: "260961234501", IN_CALL: "260961234502", IN_T2: "260961234503"}


async def test_an_api_process_paused_at_any_point_changes_nothing_when_it_wakes(stack: Stack, proxy: PgProxy) -> None:
    server = await stack.serve(processes=1, database_url=proxy.dsn)
    holds = {
        BEFORE_SEND: proxy.hold(Moment.COMMITTED, T1, BEFORE_SEND),
        IN_T2: proxy.hold(Moment.STATEMENT, T2, IN_T2),
    }
    await stack.simulator.fault(kind="latency_after", operation="create", msisdn=PAYERS[IN_CALL], ms=1500)
    asking = {point: asyncio.create_task(stack.pay(point, payer=payer)) for point, payer in PAYERS.items()}
    for hold in holds.values():
        await asyncio.wait_for(hold.reached.wait(), 20)
    await _provider_has(stack, PAYERS[IN_CALL])
    paused = Paused(children(server.pid))
    for hold in holds.values():
        # It is told that T1 is committed and cannot hear. Its T2 runs and locks the row; the COMMIT stays away.
        hold.decide(Decision.PASS)
    await stack.worker()
    before = await _settled_by_the_worker(stack, len(PAYERS))

    paused.wake()
    answers = dict(zip(asking, await asyncio.gather(*asking.values()), strict=True))

    for point in (BEFORE_SEND, IN_CALL):
        assert answers[point].status_code == 201, f"{point}: {answers[point].text}"
        assert answers[point].json()["status"] == "SUCCESSFUL", point
    assert answers[IN_T2].status_code in (201, 503), answers[IN_T2].text  # its connection was taken away
    replays = {point: await stack.pay(point, payer=payer) for point, payer in PAYERS.items()}
    for point, replay in replays.items():
        assert replay.status_code == 201
        assert replay.json()["status"] == "SUCCESSFUL"
        assert answers[point].status_code != 201 or replay.content == answers[point].content
    await _assert_nothing_changed(stack, before)
    await assert_invariants(stack, [*answers.values(), *replays.values()])


async def test_who_was_held_up_for_two_seconds_after_the_commit_sends_nothing(stack: Stack, proxy: PgProxy) -> None:
    await stack.serve(processes=1, database_url=proxy.dsn)
    hold = proxy.hold(Moment.COMMITTED, T1, "held up")
    asking = asyncio.create_task(stack.pay("held up"))
    await asyncio.wait_for(hold.reached.wait(), 20)
    await asyncio.sleep(SEND_AT_ONCE_S + 0.2)
    hold.decide(Decision.PASS)

    answer = await asking

    assert answer.status_code == 202, answer.text
    assert not await stack.simulator.requests(), "not even a token is asked for"
    assert await stack.history(answer.json()["id"]) == ["payment.created", "payment.not_sent"]

    hold = proxy.hold(Moment.COMMITTED, ATTEMPT)
    await stack.worker(database_url=proxy.dsn)
    await asyncio.wait_for(hold.reached.wait(), 20)
    await asyncio.sleep(SEND_AT_ONCE_S + 0.2)
    assert not await stack.simulator.requests()
    hold.decide(Decision.PASS)
    payment = await stack.settled(answer.json()["id"])
    row = (await stack.database.fetch("SELECT * FROM payments"))[0]
    assert row["attempt"] == 3, "the API's and the worker's first attempt were not sent"
    assert await stack.sent(payment["provider_reference"]) == 1
    await assert_invariants(stack, [answer])


async def test_an_api_process_paused_while_it_waits_for_a_token_sends_nothing_when_it_wakes(stack: Stack) -> None:
    server = await stack.serve(processes=1)
    await stack.simulator.fault(kind="latency", operation="token", ms=500, times=1)
    asking = asyncio.create_task(stack.pay("paused"))

    async def token_wanted() -> bool:
        return bool(await stack.simulator.requests(path="token"))

    await eventually(token_wanted, "the provider is asked for a token")
    paused = Paused(children(server.pid))
    await stack.worker()
    before = await _settled_by_the_worker(stack)

    paused.wake()
    answer = await asking

    assert answer.status_code == 201, answer.text
    assert answer.json()["status"] == "SUCCESSFUL"
    await _assert_nothing_changed(stack, before)
    await assert_invariants(stack, [answer])


async def test_an_api_process_paused_during_the_call_takes_no_payment_back_that_waits_for_its_payer(
    stack: Stack,
) -> None:
    server = await stack.serve(processes=1)
    await stack.simulator.fault(kind="payer", decision="ignore")
    await stack.simulator.fault(kind="latency_after", operation="create", ms=1500, times=1)
    asking = asyncio.create_task(stack.pay("paused", payer=PAYERS[IN_CALL]))
    await _provider_has(stack, PAYERS[IN_CALL])
    paused = Paused(children(server.pid))
    await stack.worker()

    async def accepted() -> bool:
        return bool(await stack.database.fetch("SELECT FROM payments WHERE accepted_at IS NOT NULL"))

    await eventually(accepted, "the worker has learnt that the provider waits for the payer")
    paused.wake()
    answer = await asking

    assert answer.status_code == 201, answer.text
    row = (await stack.database.fetch("SELECT * FROM payments"))[0]
    assert row["status"] == "PENDING", f"the woken process made it {row['status']}"
    assert await stack.history(str(row["id"])) == ["payment.created", "payment.accepted"]
    assert await stack.sent(str(row["provider_reference"])) == 1


async def test_a_worker_paused_between_its_commit_and_the_send_sends_nothing_when_it_wakes(
    stack: Stack, proxy: PgProxy
) -> None:
    await stack.serve(processes=1)
    sleepy = await stack.worker(database_url=proxy.dsn)
    hold = proxy.hold(Moment.COMMITTED, ATTEMPT)
    asked = await stack.pay("paused", prefer="respond-async")
    assert asked.status_code == 202, asked.text
    await asyncio.wait_for(hold.reached.wait(), 20)
    paused = Paused([sleepy.pid])
    hold.decide(Decision.PASS)
    await stack.worker()
    before = await _settled_by_the_worker(stack)

    paused.wake()
    await _has_given_up(sleepy)

    await _assert_nothing_changed(stack, before)
    await assert_invariants(stack, [asked])


async def test_a_worker_paused_during_its_question_changes_nothing_when_it_wakes(stack: Stack) -> None:
    await stack.serve(processes=1)
    await stack.simulator.fault(kind="latency", operation="status", ms=500, times=1)
    asked = await stack.pay("paused")
    sleepy = await stack.worker()

    async def questioned() -> bool:
        return any(r["operation"] == "status" for r in await stack.simulator.requests())

    await eventually(questioned, "the worker asks the provider")
    paused = Paused([sleepy.pid])
    await stack.worker()
    before = await _settled_by_the_worker(stack)

    paused.wake()
    await _has_given_up(sleepy)

    await _assert_nothing_changed(stack, before)
    await assert_invariants(stack, [asked])


async def _provider_has(stack: Stack, payer: str) -> None:
    async def there() -> bool:
        asked = await stack.simulator.requests(path="requesttopay")
        return any(r["operation"] == "create" and r["body"]["payer"]["partyId"] == payer for r in asked)

    await eventually(there, "the provider has the request")


async def _rows(stack: Stack) -> dict[str, dict[str, Any]]:
    """The payments, read past the API, which sleeps."""
    rows = await stack.database.fetch("SELECT * FROM payments")
    return {str(row["id"]): dict(row) for row in rows}


async def _settled_by_the_worker(stack: Stack, count: int = 1) -> dict[str, dict[str, Any]]:
    async def there() -> dict[str, dict[str, Any]] | None:
        rows = await _rows(stack)
        done = len(rows) == count and all(row["status"] == "SUCCESSFUL" for row in rows.values())
        return rows if done else None

    return await eventually(there, "the worker has settled what the sleeper had begun")


async def _has_given_up(worker: Process) -> None:
    """The woken worker came to the end of what it was doing: it stops in good order, and so has finished it."""
    worker.signal(signal.SIGTERM)
    assert await worker.ended() == 0


async def _assert_nothing_changed(stack: Stack, before: dict[str, dict[str, Any]]) -> None:
    """The rows are what the worker left, and nobody asked the provider for the money a second time."""
    assert await _rows(stack) == before
    for payment_id, row in before.items():
        reference = str(row["provider_reference"])
        assert await stack.sent(reference) == 1
        assert await stack.charged(reference) == 1
        history = await stack.history(payment_id)
        assert history[-1] == "payment.succeeded"
        assert history.count("payment.succeeded") == 1
