"""SIGTERM: what was begun is finished and answered, what would take too long ends as unknown and is resumed."""

import asyncio
import signal
import time

import httpx

from tests.crash.invariants import assert_invariants
from tests.e2e.stack import Stack, children, eventually, is_running, is_taken

LOAD = 30


async def _provider_has(stack: Stack, count: int) -> None:
    async def there() -> bool:
        asked = await stack.simulator.requests(path="requesttopay")
        return len([request for request in asked if request["operation"] == "create"]) >= count

    await eventually(there, f"the provider has {count} requests")


async def test_a_stopping_api_answers_every_request_that_it_has(stack: Stack) -> None:
    server = await stack.serve(processes=2)
    family = [server.pid, *children(server.pid)]
    await stack.simulator.fault(kind="latency_after", operation="create", ms=1000)
    asking = [asyncio.create_task(stack.pay(f"load-{number}")) for number in range(LOAD)]
    await _provider_has(stack, LOAD)

    server.signal(signal.SIGTERM)
    answers = await asyncio.gather(*asking)

    assert {answer.status_code for answer in answers} == {201}
    assert await server.ended() == 0
    assert not any(is_running(pid) for pid in family)
    assert not is_taken(stack.port)
    await stack.serve()
    await stack.worker()
    await asyncio.gather(*(stack.settled(answer.json()["id"]) for answer in answers))
    await assert_invariants(stack, answers)


async def test_clients_that_never_pause_are_cut_off_by_a_stop_only_before_anything_has_begun(stack: Stack) -> None:
    server = await stack.serve(processes=2)
    await stack.simulator.fault(kind="latency_after", operation="create", ms=50, jitter_ms=100)
    answers: list[httpx.Response] = []
    cut: list[str] = []

    async def never_pauses(client: int) -> None:
        for number in range(10_000):
            key = f"client-{client}-{number}"
            try:
                answers.append(await stack.pay(key))
            except httpx.ConnectError:
                return  # nobody listens any more
            except httpx.TransportError:
                # The kernel took the connection and nobody accepted it before the port was closed.
                cut.append(key)
                return

    clients = [asyncio.create_task(never_pauses(client)) for client in range(20)]

    async def in_full_flow() -> bool:
        return len(answers) > 40

    await eventually(in_full_flow, "requests are answered")
    server.signal(signal.SIGTERM)
    await asyncio.gather(*clients)

    assert await server.ended() == 0
    assert {answer.status_code for answer in answers} == {201}
    begun = {row["key"] for row in await stack.database.fetch("SELECT key FROM idempotency_keys")}
    assert not begun & set(cut), "what was begun is answered"
    assert len(begun) == len(answers)


async def test_a_call_that_outlasts_the_grace_ends_as_unknown_and_the_next_start_resolves_it(stack: Stack) -> None:
    patient = {"shutdown_grace_seconds": 2, "mtn_timeout_seconds": 20}
    server = await stack.serve(processes=2, **patient)
    await stack.simulator.fault(kind="hang", operation="create", processed=True, times=3)
    asking = [asyncio.create_task(stack.pay(f"slow-{number}")) for number in range(3)]
    await _provider_has(stack, 3)

    stopped_at = time.monotonic()
    server.signal(signal.SIGTERM)
    answers = await asyncio.gather(*asking)
    assert await server.ended() == 0
    assert time.monotonic() - stopped_at < 20, "it waited for the provider"

    for answer in answers:
        assert answer.status_code == 504, answer.text
        assert answer.json()["code"] == "provider_timeout"
        row = (await stack.database.fetch("SELECT * FROM payments WHERE id = $1", answer.json()["payment_id"]))[0]
        assert row["status"] == "TIMEOUT"
        assert row["lease_token"] is None, "its lease was released"

    await stack.serve(**patient)
    await stack.worker(**patient)
    for answer in answers:
        payment = await stack.settled(answer.json()["payment_id"])
        assert await stack.charged(payment["provider_reference"]) == 1
    replays = [await stack.pay(f"slow-{number}") for number in range(3)]
    assert [replay.status_code for replay in replays] == [201] * 3
    await assert_invariants(stack, [*answers, *replays])


async def test_a_stopping_worker_finishes_what_it_has(stack: Stack) -> None:
    await stack.serve(processes=1)
    await stack.simulator.fault(kind="latency_after", operation="create", ms=1000)
    asked = [await stack.pay(f"later-{number}", prefer="respond-async") for number in range(5)]
    assert {answer.status_code for answer in asked} == {202}
    worker = await stack.worker()
    await _provider_has(stack, 5)

    worker.signal(signal.SIGTERM)

    assert await worker.ended() == 0
    rows = await stack.database.fetch("SELECT * FROM payments")
    assert {row["status"] for row in rows} == {"PENDING"}
    assert all(row["accepted_at"] is not None and row["lease_token"] is None for row in rows)


async def test_a_worker_out_of_grace_leaves_what_it_has_to_the_next_one(stack: Stack) -> None:
    patient = {"shutdown_grace_seconds": 1, "mtn_timeout_seconds": 20}
    await stack.serve(processes=1, **patient)
    await stack.simulator.fault(kind="hang", operation="create", processed=True, times=1)
    asked = await stack.pay("later", prefer="respond-async")
    worker = await stack.worker(**patient)
    await _provider_has(stack, 1)

    stopped_at = time.monotonic()
    worker.signal(signal.SIGTERM)

    assert await worker.ended() == 0
    assert time.monotonic() - stopped_at < 15, "it waited for the provider"
    row = (await stack.database.fetch("SELECT * FROM payments"))[0]
    assert row["status"] == "TIMEOUT"
    assert row["lease_token"] is None, "its lease was released"
    await stack.worker(**patient)
    payment = await stack.settled(asked.json()["id"])
    assert await stack.charged(payment["provider_reference"]) == 1
    assert await stack.sent(payment["provider_reference"]) == 1
    await assert_invariants(stack, [asked])
