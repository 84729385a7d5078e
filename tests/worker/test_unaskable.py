"""A provider that cannot be asked: sent at most once whatever happens, awaited after the client was answered."""

import asyncio
from typing import Any

import pytest

from kobiri import app as kobiri_app
from kobiri.domain.errors import DatabaseUnavailable
from kobiri.domain.payment import Payment
from kobiri.services import checking, outcomes, submission
from kobiri.services import payments as service
from kobiri.store import payments as store
from kobiri.store.db import CommitUnknown
from kobiri.store.payments import Claim
from tests.api.steps import (
    age,
    charged,
    check,
    end_leases,
    eventually,
    gateway,
    history,
    ledger,
    problem,
    read,
    until,
    work,
)
from tests.conftest import Api, ApiFactory, Simulator

PAYER = "260951234567"
BOOKED = {"provider:zamtel": 1_000, "merchant_available": -1_000}


async def sent(simulator: Simulator) -> int:
    """How many requests that move money Zamtel has got."""
    return len([r for r in await simulator.requests(provider="zamtel") if r["operation"] == "create"])


async def zamtel(make_api: ApiFactory, simulator: Simulator, **overrides: Any) -> Api:
    """The client waits 1 s, Zamtel gets 4."""
    values = {
        name.lower(): value
        for name, value in kobiri_app.simulated_environment(simulator.url).items()
        if name.startswith("ZAMTEL_")
    }
    limits: dict[str, Any] = {"zamtel_timeout_seconds": 1, "zamtel_deadline_seconds": 4}
    return await make_api(**(values | limits | overrides))


async def prompt(simulator: Simulator, ms: int) -> None:
    answer = await simulator.client.patch("/_sim/settings/zamtel", json={"prompt_ms": ms})
    assert answer.status_code == 200, answer.text


async def test_an_answer_in_time_is_told_at_once(make_api: ApiFactory, simulator: Simulator) -> None:
    api = await zamtel(make_api, simulator, zamtel_timeout_seconds=4)
    await prompt(simulator, 50)
    answer = await api.pay(payer=PAYER)
    assert (answer.status_code, answer.json()["status"], answer.json()["provider"]) == (201, "SUCCESSFUL", "zamtel")
    assert await ledger(api, answer.json()["id"]) == BOOKED


async def test_a_late_answer_is_applied_after_the_client_was_answered(
    make_api: ApiFactory, simulator: Simulator
) -> None:
    api = await zamtel(make_api, simulator)
    await prompt(simulator, 2_000)
    answer = await api.pay("k", payer=PAYER)
    assert (answer.status_code, answer.json()["status"]) == (202, "PENDING")
    again = await api.pay("k", payer=PAYER)
    assert (again.status_code, again.content) == (202, answer.content)
    assert again.headers["idempotent-replayed"] == "true"
    assert await work(api) == 0, "the lease of the open call keeps the worker away"
    payment_id = answer.json()["id"]

    async def settled() -> bool:
        return bool((await read(api, payment_id))["status"] == "SUCCESSFUL")

    await eventually(settled)
    assert await ledger(api, payment_id) == BOOKED
    assert await history(api, payment_id) == ["payment.created", "payment.succeeded"]
    later = await api.pay("k", payer=PAYER)
    assert (later.status_code, later.content) == (202, answer.content), "what was told once is told again"
    assert await sent(simulator) == 1


LOST: list[dict[str, Any]] = [
    {"kind": "drop_after"},
    {"kind": "reset_after"},
    {"kind": "reset_before"},
    {"kind": "error_after", "status": 500},
    {"kind": "error_before", "status": 503},
    {"kind": "html_200", "processed": True},
    {"kind": "hang", "processed": True},
    {"kind": "hang"},
]


@pytest.mark.parametrize("fault", LOST, ids=lambda fault: f"{fault['kind']}-{fault.get('processed', '')}")
async def test_an_unanswered_call_goes_to_review_and_is_never_sent_again(
    make_api: ApiFactory, simulator: Simulator, fault: dict[str, Any]
) -> None:
    api = await zamtel(make_api, simulator, zamtel_deadline_seconds=2)
    await prompt(simulator, 50)
    response = await simulator.client.post("/_sim/faults", json={"provider": "zamtel", "operation": "create", **fault})
    assert response.status_code == 201, response.text
    answer = await api.pay("k", payer=PAYER)
    assert answer.status_code in (202, 504), answer.text
    payment_id = answer.json()["payment_id" if answer.status_code == 504 else "id"]

    async def parked() -> bool:
        return bool((await read(api, payment_id))["review"] == "unresolved")

    await eventually(parked)
    assert (await read(api, payment_id))["status"] == "TIMEOUT"
    assert await history(api, payment_id) == ["payment.created", "payment.timed_out", "payment.review_needed"]
    for _ in range(3):
        await check(api)
    await age(api.database, "2 hours")
    await end_leases(api.database)
    await work(api)
    again = await api.pay("k", payer=PAYER)
    assert again.status_code in (201, 202)
    assert await sent(simulator) == 1
    assert (await read(api, payment_id))["status"] == "TIMEOUT", "silence settles nothing"


async def test_what_a_dead_process_had_begun_is_not_begun_again(
    make_api: ApiFactory, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The commit that allows the send is there, and nobody knows whether it was made use of."""
    api = await zamtel(make_api, simulator)

    async def dies(*_: object, **__: object) -> Any:
        raise asyncio.CancelledError

    with monkeypatch.context() as patch:
        patch.setattr(submission, "_call", dies)
        with pytest.raises(asyncio.CancelledError):
            await api.pay("k", payer=PAYER)
    await end_leases(api.database)
    assert await work(api) == 1
    row = (await api.database.fetch("SELECT id, status, review FROM payments"))[0]
    assert (row["status"], row["review"]) == ("TIMEOUT", "unresolved")
    assert await sent(simulator) == 0


async def test_what_a_lost_commit_allowed_and_nobody_sent_is_sent_later(
    make_api: ApiFactory, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """T1 happened, its answer was lost with the database: this process alone knows that nothing was sent."""
    api = await zamtel(make_api, simulator)
    await prompt(simulator, 50)
    record, calls = service._record_once, 0

    async def lost(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls > 1:
            raise DatabaseUnavailable("gone")
        await record(*arguments)
        raise CommitUnknown("lost")

    with monkeypatch.context() as patch:
        patch.setattr(service, "_record_once", lost)
        problem(await api.pay("k", payer=PAYER), 503, "database_unavailable")
    await is_taken_back(api)
    assert await sent(simulator) == 0
    done = await until(api, (await api.pay("k", payer=PAYER)).json()["id"], "SUCCESSFUL")
    assert done["review"] is None
    assert await history(api, done["id"]) == ["payment.created", "payment.not_sent", "payment.succeeded"]
    assert await sent(simulator) == 1


@pytest.mark.parametrize("step", ["begin_attempt", "switch_road"])
async def test_the_same_where_the_worker_was_about_to_send(
    make_api: ApiFactory, simulator: Simulator, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    api = await zamtel(make_api, simulator)
    await prompt(simulator, 50)
    payment = (await api.pay(payer=PAYER, headers={"prefer": "respond-async"})).json()
    road = gateway(api).roads.receiver("zamtel")
    assert road is not None
    (claim,) = await checking.claim_due(gateway(api), 10)
    read_payment, real = store.get, getattr(store, step)
    held = await payment_of(api, claim)
    gone = False

    async def get(*arguments: Any) -> Any:
        if gone:
            raise DatabaseUnavailable("gone")
        return await read_payment(*arguments)

    async def lost(tx: Any, *arguments: Any) -> Any:
        nonlocal gone
        gone = True
        async with gateway(api).db.tenant_transaction(claim.tenant_id) as other:
            assert await real(other, *arguments) is not None
        raise CommitUnknown("lost")

    with monkeypatch.context() as patch:
        patch.setattr(store, step, lost)
        patch.setattr(store, "get", get)
        parts, author = gateway(api), checking.WORKER
        with pytest.raises((CommitUnknown, DatabaseUnavailable)):
            await (
                submission.begin(parts, road, held, author)
                if step == "begin_attempt"
                else submission.switch(parts, road, held, "no connection", (), author)
            )
    await is_taken_back(api)
    assert await sent(simulator) == 0
    await until(api, payment["id"], "SUCCESSFUL")
    assert await sent(simulator) == 1


async def payment_of(api: Api, claim: Claim) -> Payment:
    async with gateway(api).db.tenant_transaction(claim.tenant_id) as tx:
        found = await store.get(tx, claim.tenant_id, claim.payment_id)
    assert found is not None
    return found.payment


async def is_taken_back(api: Api) -> None:
    async def unsent() -> bool:
        return bool(await api.database.value("SELECT unsent AND lease_token IS NULL FROM payments"))

    await eventually(unsent)


async def test_who_is_held_up_sends_nothing_and_it_may_be_sent_later(
    make_api: ApiFactory, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not two seconds after the commit, not by one byte: so nothing was sent, and another attempt may be made."""
    api = await zamtel(make_api, simulator)
    await prompt(simulator, 50)
    with monkeypatch.context() as patch:
        patch.setattr(submission, "SEND_AT_ONCE_S", -1.0)
        answer = await api.pay("k", payer=PAYER)
    assert answer.status_code == 202
    assert await sent(simulator) == 0
    done = await until(api, answer.json()["id"], "SUCCESSFUL")
    assert done["review"] is None
    assert await sent(simulator) == 1
    await charged(simulator, done["provider_reference"].replace("-", ""))


async def test_the_unanswered_do_not_open_the_circuit(make_api: ApiFactory, simulator: Simulator) -> None:
    """Payers who let the prompt stand are no outage."""
    api = await zamtel(make_api, simulator, zamtel_deadline_seconds=1.5)
    await prompt(simulator, 60_000)
    answers = await asyncio.gather(*(api.pay(payer=PAYER) for _ in range(7)))
    assert {answer.status_code for answer in answers} == {202}

    async def all_parked() -> bool:
        return bool(await api.database.value("SELECT count(*) FROM payments WHERE review IS NOT NULL") == 7)

    await eventually(all_parked)
    await prompt(simulator, 50)
    assert (await api.pay(payer=PAYER)).status_code == 201


async def test_a_stop_parks_what_is_open(make_api: ApiFactory, simulator: Simulator) -> None:
    api = await zamtel(make_api, simulator)
    await prompt(simulator, 60_000)
    asking = asyncio.create_task(api.pay(payer=PAYER))

    async def asked() -> bool:
        return await sent(simulator) == 1

    await eventually(asked)
    gateway(api).calls.cut()
    await asking

    async def parked() -> bool:
        return bool(await api.database.value("SELECT count(*) FROM payments WHERE review = 'unresolved'"))

    await eventually(parked)


async def test_the_only_word_there_will_ever_be_outlasts_a_database_that_is_away(
    make_api: ApiFactory, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    api = await zamtel(make_api, simulator)
    await prompt(simulator, 1_500)
    answer = await api.pay(payer=PAYER)
    assert answer.status_code == 202
    away = asyncio.Event()
    apply = outcomes.apply

    async def unavailable_at_first(*arguments: Any, **named: Any) -> Any:
        if not away.is_set():
            away.set()
            raise DatabaseUnavailable
        return await apply(*arguments, **named)

    monkeypatch.setattr(outcomes, "apply", unavailable_at_first)

    async def settled() -> bool:
        return bool((await read(api, answer.json()["id"]))["status"] == "SUCCESSFUL")

    await eventually(settled)
    assert away.is_set()
    assert await sent(simulator) == 1
