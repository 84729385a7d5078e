"""Two hundred impatient clients with one Idempotency-Key."""

import asyncio

from tests.e2e.stack import Stack, children, cpu_ticks

STORM = 200


async def test_a_storm_of_duplicates_over_two_processes_is_one_payment_and_one_charge(stack: Stack) -> None:
    server = await stack.serve(processes=2, mtn_timeout_seconds=10)  # the token, too, comes through the storm
    api = children(server.pid)
    assert len(api) == 2
    idle = [cpu_ticks(pid) for pid in api]
    await stack.simulator.fault(kind="latency", operation="create", ms=400)  # so that many meet a running request

    answers = await asyncio.gather(*(stack.pay("storm") for _ in range(STORM)))

    assert all(cpu_ticks(pid) > before for pid, before in zip(api, idle, strict=True)), "both took part"
    first = [answer for answer in answers if answer.status_code == 201 and "idempotent-replayed" not in answer.headers]
    assert len(first) == 1
    payment = first[0].json()
    seen = set()
    for answer in answers:
        seen.add(answer.status_code)
        if answer.status_code == 201:
            assert answer.content == first[0].content
        else:
            assert answer.status_code == 409, answer.text
            assert answer.json()["code"] == "request_in_progress"
            assert int(answer.headers["retry-after"]) > 0
    assert seen == {201, 409}, "the storm was over before it met a running request"

    replays = await asyncio.gather(*(stack.pay("storm") for _ in range(20)))
    for replay in replays:
        assert (replay.status_code, replay.content) == (201, first[0].content)
        assert replay.headers["idempotent-replayed"] == "true"

    assert await stack.database.value("SELECT count(*) FROM payments") == 1
    await stack.worker()
    await stack.settled(payment["id"])
    assert await stack.sent(payment["provider_reference"]) == 1
    movements = await stack.simulator.movements()
    assert [(m["reference"], m["charged"]) for m in movements] == [(payment["provider_reference"], 1)]
