"""A provider that can be asked, and is slow: cut and asked about, or given more time than the client has."""

import asyncio
from typing import Any

import pytest

from kobiri import app as kobiri_app
from kobiri.services import recording, roads, submission
from kobiri.services.recording import Chosen, Recorder
from tests.api.steps import check, eventually, gateway, history, problem, read, work
from tests.conftest import Api, ApiFactory, Simulator
from tests.services.test_recording import Ear

PAYERS = [f"2609712345{number:02}" for number in range(6)]


async def airtel(make_api: ApiFactory, simulator: Simulator, deadline_s: float | None) -> Api:
    """The client waits 0.5 s; Airtel prompts the payer at once, and says so a second later."""
    simulated = kobiri_app.simulated_environment(simulator.url, but=("mtn", "pawapay", "zamtel"))
    values: dict[str, Any] = {name.lower(): value for name, value in simulated.items()}
    await simulator.fault(kind="latency_after", provider="airtel", operation="create", ms=1_000)
    return await make_api(**values, airtel_timeout_seconds=0.5, airtel_deadline_seconds=deadline_s)


async def sent(simulator: Simulator) -> int:
    return len([r for r in await simulator.requests(provider="airtel") if r["operation"] == "create"])


async def test_a_late_answer_is_a_firm_word_where_the_provider_gets_the_time(
    make_api: ApiFactory, simulator: Simulator
) -> None:
    api = await airtel(make_api, simulator, deadline_s=10)
    answer = await api.pay("k", payer=PAYERS[0])
    assert (answer.status_code, answer.json()["status"]) == (202, "PENDING")
    again = await api.pay("k", payer=PAYERS[0])
    assert (again.status_code, again.content) == (202, answer.content)
    assert await work(api) == 0, "the lease of the open call keeps the worker away"
    payment_id = answer.json()["id"]

    async def accepted() -> bool:
        return await history(api, payment_id) == ["payment.created", "payment.accepted"]

    await eventually(accepted)
    assert await sent(simulator) == 1


@pytest.mark.parametrize("deadline_s", [None, 10])
async def test_late_answers_close_the_road_only_where_they_are_cut(
    make_api: ApiFactory, simulator: Simulator, deadline_s: float | None
) -> None:
    """Six payers at a slow evening: each of them is prompted."""
    api = await airtel(make_api, simulator, deadline_s)
    answers = await asyncio.gather(*(api.pay(payer=payer) for payer in PAYERS))
    assert {answer.status_code for answer in answers} == {504 if deadline_s is None else 202}

    async def answered() -> bool:
        return gateway(api).calls.running == 0

    await eventually(answered)
    after = await api.pay(payer="260971234599")
    if deadline_s is None:
        problem(after, 503, "route_closed")
    else:
        assert after.status_code == 202
        assert await api.database.value("SELECT count(*) FROM payments WHERE status = 'TIMEOUT'") == 0


async def test_no_answer_in_all_that_time_is_asked_about(make_api: ApiFactory, simulator: Simulator) -> None:
    api = await airtel(make_api, simulator, deadline_s=0.8)
    payment_id = (await api.pay(payer=PAYERS[0])).json()["id"]

    async def cut() -> bool:
        return bool((await read(api, payment_id))["status"] == "TIMEOUT")

    await eventually(cut)

    async def found() -> bool:
        await work(api)
        return bool((await read(api, payment_id))["status"] in ("PENDING", "SUCCESSFUL"))

    await eventually(found)
    assert await sent(simulator) == 1


async def test_a_lease_outlasts_the_call_that_it_allows(make_api: ApiFactory, simulator: Simulator) -> None:
    """Else a worker would ask, or a person decide, while the bytes may still leave."""
    for deadline_s, lasts_s in ((None, 5.5), (10, 15), (0.1, 5.5)):
        api = await airtel(make_api, simulator, deadline_s)
        (road,) = (one for one in gateway(api).roads._platform if one.spec.id == "airtel")
        assert submission.lease(road).total_seconds() == lasts_s


async def test_questions_and_probes_get_the_same_time(
    make_api: ApiFactory, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else payers of a slow operator are prompted, and what they paid is told to nobody."""
    monkeypatch.setattr(roads, "CHECK_WITHIN_S", 0.5)
    api = await airtel(make_api, simulator, deadline_s=10)
    (await simulator.client.patch("/_sim/settings/airtel", json={"prompt_ms": 20})).raise_for_status()
    await simulator.fault(kind="latency_after", provider="airtel", operation="status", ms=1_000)
    payment_ids = [(await api.pay(payer=payer)).json()["id"] for payer in PAYERS]

    async def settled() -> bool:
        await check(api)
        return {(await read(api, one))["status"] for one in payment_ids} == {"SUCCESSFUL"}

    await eventually(settled)
    assert gateway(api).roads.longest_question_s == 10
    # Where the token is as slow, the probe has nothing else that would do.
    await simulator.fault(kind="latency_after", provider="airtel", operation="token", ms=1_000)
    (road,) = (one for one in gateway(api).roads._platform if one.spec.id == "airtel")
    assert await road._trouble_of("collection") is None


async def test_a_recorded_check_gets_the_same_time(
    make_api: ApiFactory, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recording, "CHECK_WITHIN_S", 0.5)
    await simulator.fault(kind="latency_after", provider="airtel", operation="token", ms=1_000)
    for deadline_s, taken in ((None, False), (10, True)):
        api = await airtel(make_api, simulator, deadline_s)
        (road,) = (one for one in gateway(api).roads._platform if one.spec.id == "airtel")
        monkeypatch.setattr(road, "provider", Recorder(road.provider))
        trouble = await recording.check(gateway(api), Chosen(None, "airtel", None), Ear())
        assert (trouble is None) is taken
