"""Airtel's odder answers through the whole gateway: no money is held by a code, and none is sent twice for one."""

from typing import Any

import pytest
from structlog.testing import capture_logs

from kobiri import app as kobiri_app
from kobiri.services import callbacks, roads
from kobiri.services.unlisted import Unlisted
from tests.api.steps import charged, until
from tests.conftest import Api, ApiFactory, Simulator

PAYER = "260971234567"


async def at_airtel(make_api: ApiFactory, simulator: Simulator, **options: Any) -> Api:
    """A gateway with Airtel's account alone at the simulator, which behaves by these options."""
    answer = await simulator.client.patch("/_sim/settings/airtel", json={"prompt_ms": 20, **options})
    assert answer.status_code == 200, answer.text
    values = kobiri_app.simulated_environment(simulator.url)
    return await make_api(**{name.lower(): value for name, value in values.items() if name.startswith("AIRTEL_")})


async def test_a_code_that_nobody_listed_holds_no_money_and_is_told_once(
    make_api: ApiFactory, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    unlisted = Unlisted()
    for where in (roads, callbacks):
        monkeypatch.setattr(where, "UNLISTED", unlisted)
    api = await at_airtel(make_api, simulator, paid_code="1099")
    with capture_logs() as lines:
        for _ in range(2):
            payment = (await api.pay(payer=PAYER)).json()
            await until(api, payment["id"], "SUCCESSFUL")
            await charged(simulator, payment["provider_reference"].replace("-", ""))
    told = [line for line in lines if line["event"] == "provider.unlisted_code"]
    assert [(line["provider"], line["code"], line["seen"]) for line in told] == [("airtel", "DP00800001099", 1)]
    assert unlisted.seen["airtel", "DP00800001099"] == 2


@pytest.mark.parametrize(
    "options",
    [
        {"codes_of_success": "result_code", "first_id": "false", "first_word": "Success.", "pending_as": "bare"},
        {"numbering": "short", "success_beside_tf": True},
        {"paid_code": "1006", "success_beside_ts": False},
    ],
)
async def test_each_dialect_settles(make_api: ApiFactory, simulator: Simulator, options: dict[str, Any]) -> None:
    api = await at_airtel(make_api, simulator, **options)
    paid = (await api.pay(payer=PAYER)).json()
    await until(api, paid["id"], "SUCCESSFUL")
    await charged(simulator, paid["provider_reference"].replace("-", ""))
    failed = (await api.pay(payer="260970000407")).json()
    assert (await until(api, failed["id"], "FAILED"))["failure"]["code"] == "insufficient_funds"
