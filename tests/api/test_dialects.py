"""A refusal whose code is a text or a JSON number, through the whole gateway: it is stored and told."""

import pytest

from kobiri import app as kobiri_app
from tests.conftest import ApiFactory, Simulator


@pytest.mark.parametrize("mode", ["number", "text"])
async def test_a_refusal_is_one_however_its_code_is_written(
    make_api: ApiFactory, simulator: Simulator, mode: str
) -> None:
    answer = await simulator.client.patch("/_sim/settings/zamtel", json={"prompt_ms": 20, "code_as": mode})
    assert answer.status_code == 200, answer.text
    values = kobiri_app.simulated_environment(simulator.url)
    api = await make_api(**{name.lower(): value for name, value in values.items() if name.startswith("ZAMTEL_")})
    paid = await api.pay(payer="260950000006")

    assert paid.status_code == 201, paid.text
    [row] = await api.database.fetch("select status, failure_provider_code from payments")
    assert tuple(row) == ("FAILED", "2006")
