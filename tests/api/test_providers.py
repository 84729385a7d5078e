"""What can be paid now, whose wallet a number is, and what a merchant is told when a guess was wrong."""

from typing import Any

import pytest

from kobiri import app as kobiri_app
from kobiri.domain.breaker import IN_A_ROW
from kobiri.providers.mtn.adapter import MtnProvider
from kobiri.services import switching
from tests.api.steps import gateway, history, problem, stored, until
from tests.conftest import Api, ApiFactory, Simulator

NOBODY = "http://127.0.0.1:9/mtn"


async def offers(api: Api) -> dict[tuple[str, str], dict[str, Any]]:
    answer = await api.client.get("/api/v1/providers")
    assert answer.status_code == 200, answer.text
    return {(offer["provider"], offer["kind"]): offer for offer in answer.json()["data"]}


async def turn(api: Api, provider: str, *, is_open: bool) -> None:
    """An operator moves a switch; five seconds pass."""
    roads = gateway(api).roads
    await switching.turn(gateway(api).db, ("mtn",), provider, "maintenance until 06:00", "test", is_open=is_open)
    roads._switches_read_at = float("-inf")


async def everything(make_api: ApiFactory, simulator: Simulator, **overrides: Any) -> Api:
    """Accounts at all simulators."""
    simulated = {name.lower(): value for name, value in kobiri_app.simulated_environment(simulator.url).items()}
    return await make_api(**(simulated | overrides))


async def test_all_roads_are_offered_in_the_order_in_which_they_are_tried(
    make_api: ApiFactory, simulator: Simulator
) -> None:
    api = await everything(make_api, simulator)
    answer = await api.client.get("/api/v1/providers")
    order = list(dict.fromkeys(offer["provider"] for offer in answer.json()["data"]))
    assert order == ["mtn", "airtel", "zamtel", "pawapay"]
    found = await offers(api)
    assert found["pawapay", "payout"]["networks"] == ["airtel", "mtn", "zamtel"]
    assert ("zamtel", "refund") not in found
    assert all(offer["open"] and offer["currencies"] == ["ZMW"] for offer in found.values())


async def test_the_largest_amount_is_shown_and_refused_above(make_api: ApiFactory, simulator: Simulator) -> None:
    api = await everything(make_api, simulator, payment_max_amounts="ZMW:20.50")
    assert {(offer["min_amount"], offer["max_amount"]) for offer in (await offers(api)).values()} == {(None, "20.50")}
    for network in ("mtn", "airtel", "zamtel"):
        refused = problem(await api.pay(amount="20.51", network=network), 422, "amount_out_of_limits")
        assert f"{network}: takes 20.50 at most; pawapay: takes 20.50 at most" in refused["detail"]
    assert await stored(api.database) == (0, 0)
    assert await simulator.requests() == []
    assert (await api.pay(amount="20.50")).status_code == 201


async def test_availability_comes_from_our_own_calls(api: Api, simulator: Simulator) -> None:
    assert (await offers(api))["mtn", "collection"]["availability"] == "unknown"
    await api.pay()
    assert (await offers(api))["mtn", "collection"]["availability"] == "operational"
    await simulator.fault(kind="error_before", operation="create", status=500, shape="empty")
    await api.pay()
    assert (await offers(api))["mtn", "collection"]["availability"] == "degraded"
    for number in range(IN_A_ROW - 1):
        await api.pay()
        assert (await offers(api))["mtn", "collection"]["open"], "what fails for one number alone closes nothing"
        await api.pay(payer=f"26096000000{number}")
    offer = (await offers(api))["mtn", "collection"]
    assert (offer["availability"], offer["open"], offer["closed_because"]) == ("down", False, "its circuit is open")
    refused = problem(await api.pay(), 503, "route_closed")
    assert "mtn: its circuit is open" in refused["detail"]


async def test_declines_never_make_a_provider_look_down(api: Api) -> None:
    """The breaker's rule: a hundred payers without money are no outage."""
    for _ in range(3 * IN_A_ROW):
        payment = (await api.pay(payer="260960000465")).json()
        await until(api, payment["id"], "FAILED")
    offer = (await offers(api))["mtn", "collection"]
    assert (offer["availability"], offer["open"]) == ("operational", True)


@pytest.mark.parametrize("status", [400, 403, 404, 409, 422, 429])
async def test_refusals_of_a_request_are_no_outage(api: Api, simulator: Simulator, status: int) -> None:
    await simulator.fault(kind="error_before", operation="create", status=status, code="ODD")
    for _ in range(2 * IN_A_ROW):
        await api.pay()
    assert (await offers(api))["mtn", "collection"]["open"] is True


async def test_a_provider_that_asks_for_rest_gets_it(api: Api, simulator: Simulator) -> None:
    await simulator.fault(kind="error_before", operation="create", status=429, retry_after_s=60, times=5)
    for payer in range(260961234567, 260961234572):  # a few numbers' limits stop nobody else
        assert (await offers(api))["mtn", "collection"]["open"]
        await api.pay(payer=str(payer))
    offer = (await offers(api))["mtn", "collection"]
    assert (offer["open"], offer["closed_because"]) == (False, "it asked for a rest")
    before = len(await simulator.requests(path="requesttopay"))
    problem(await api.pay(), 503, "route_closed")
    assert len(await simulator.requests(path="requesttopay")) == before


async def test_an_operator_closes_a_provider_with_a_reason_and_opens_it(api: Api, simulator: Simulator) -> None:
    await turn(api, "mtn", is_open=False)
    refused = problem(await api.pay(), 503, "route_closed")
    assert "maintenance until 06:00" in refused["detail"]
    assert int((await api.pay()).headers["retry-after"]) > 0
    assert (await offers(api))["mtn", "collection"]["closed_because"] == "switched off: maintenance until 06:00"
    assert await simulator.movements() == []
    await turn(api, "mtn", is_open=True)
    assert (await api.pay()).status_code == 201


async def test_a_closed_provider_is_passed_over_and_the_event_says_why(
    make_api: ApiFactory, simulator: Simulator
) -> None:
    api = await everything(make_api, simulator)
    await turn(api, "mtn", is_open=False)
    payment = (await api.pay()).json()
    assert payment["provider"] == "pawapay"
    event = await api.database.fetch("SELECT data::text FROM events WHERE type = 'payment.created'")
    assert "mtn: switched off: maintenance until 06:00" in event[0]["data"]
    done = await until(api, payment["id"], "SUCCESSFUL")
    assert (await history(api, done["id"]))[0] == "payment.created"


@pytest.mark.parametrize(
    ("number", "network"),
    [("0961234567", "mtn"), ("+260 97 1234567", "airtel"), ("260951234567", "zamtel"), ("260981234567", None)],
)
async def test_a_prediction_is_a_hint_that_says_what_it_rests_on(api: Api, number: str, network: str | None) -> None:
    answer = await api.client.get("/api/v1/providers/predict", params={"msisdn": number})
    assert answer.status_code == 200, answer.text
    told = answer.json()
    assert (told["country"], told["network"]) == ("ZM", network)
    assert told["predicted_from"] == ("prefix" if network else None)
    assert "network" in told["advice"]


@pytest.mark.parametrize("number", ["\u202d0961234567\u202c", "+260\u00a096\u20111234567", "0961234567\r\n"])
async def test_a_prediction_reads_past_what_nobody_sees(api: Api, number: str) -> None:
    answer = await api.client.get("/api/v1/providers/predict", params={"msisdn": number})
    assert (answer.status_code, answer.json().get("msisdn")) == (200, "260961234567"), answer.text


@pytest.mark.parametrize(
    ("number", "country"), [("+9612345678", None), ("256772123456", "UG"), ("00447911123456", None)]
)
async def test_a_foreign_number_is_predicted_to_be_nobodys(api: Api, number: str, country: str | None) -> None:
    told = (await api.client.get("/api/v1/providers/predict", params={"msisdn": number})).json()
    assert (told["country"], told["network"], told["predicted_from"]) == (country, None, None)


@pytest.mark.parametrize("number", ["", "1", "260111234567", "096 123 456", "9612345678", "x" * 32, "096123456\x00"])
async def test_what_is_no_number_is_told(api: Api, number: str) -> None:
    answer = await api.client.get("/api/v1/providers/predict", params={"msisdn": number})
    assert answer.status_code in (400, 422), answer.text


async def test_a_number_of_another_country_is_refused_by_all_who_serve_one(
    make_api: ApiFactory, simulator: Simulator
) -> None:
    api = await everything(make_api, simulator)
    for network in ("mtn", "airtel", "zamtel"):
        for payer in ("+9612345678", "254712345678", "00256772123456", "46733123450"):
            refused = problem(await api.pay(payer=payer, network=network), 422, "country_not_served")
            assert f"{network}: serves numbers of ZM; pawapay: serves numbers of ZM" in refused["detail"]
        problem(await api.pay(payer="9612345678", network=network), 422, "invalid_number")
    assert await stored(api.database) == (0, 0)
    assert await simulator.requests() == []


async def test_mtns_sandbox_takes_any_number(make_api: ApiFactory) -> None:
    api = await make_api(mtn_target_environment="sandbox")
    for payer in ("46733123450", "+9612345678", "260961234567"):
        assert (await api.pay(payer=payer, network="mtn", currency="EUR")).status_code == 201


async def test_what_was_taken_once_is_answered_again_whoever_serves_the_number_now(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = await api.pay("k")
    monkeypatch.setattr(MtnProvider, "countries", frozenset({"UG"}))
    again = await api.pay("k")
    assert (again.status_code, again.content) == (first.status_code, first.content)
    problem(await api.pay(), 422, "country_not_served")


async def test_a_caller_who_knows_better_is_believed(make_api: ApiFactory, simulator: Simulator) -> None:
    """A number may have moved: an MTN prefix with an Airtel wallet."""
    api = await everything(make_api, simulator)
    payment = (await api.pay(payer="260961234567", network="airtel")).json()
    assert (payment["network"], payment["provider"]) == ("airtel", "airtel")
    row = (await api.database.fetch("SELECT data->>'network_from' AS said FROM events WHERE type = 'payment.created'"))[
        0
    ]
    assert row["said"] == "caller"


async def test_a_wallet_that_is_not_there_is_reported_and_not_hidden(api: Api) -> None:
    payment = (await api.pay(payer="260960000455")).json()
    done = await until(api, payment["id"], "FAILED")
    assert done["failure"] == {"code": "payer_not_found", "provider_code": "PAYER_NOT_FOUND"}
    row = (await api.database.fetch("SELECT data->>'network_from' AS said FROM events WHERE type = 'payment.created'"))[
        0
    ]
    assert row["said"] == "prefix", "who reads it sees that it was a guess"


async def test_a_number_of_nobody_is_refused_until_its_network_is_named(api: Api) -> None:
    problem(await api.pay(payer="260981234567"), 422, "network_unknown")
    assert (await api.pay(payer="260981234567", network="mtn")).status_code == 201
