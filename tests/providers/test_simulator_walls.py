"""Who may control the simulators, and whom they call: nobody reaches them or other machines through a browser here."""

import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

import httpx
import pytest
from aiohttp import web

from kobiri import app as kobiri_app
from kobiri.config import Settings
from kobiri.providers import registry
from kobiri.simulator import app as simulator_app
from kobiri.simulator.stage import Outgoing, SimulatorSettings, Stage
from tests.api.steps import eventually

ELSEWHERE = (
    "http://192.0.2.1/hook",
    "https://shop.example.com/hook",
    "http://169.254.169.254/latest/meta-data",
    "http://127.0.0.1.evil.example/hook",
    "http://127.0.0.1@evil.example/hook",
    "http://2130706433/hook",
    "http://[::ffff:192.0.2.1]/hook",
)
HERE = "http://127.0.0.1:9/hook?a=b@c"


@asynccontextmanager
async def simulators(settings: SimulatorSettings) -> AsyncIterator[httpx.AsyncClient]:
    runner = web.AppRunner(simulator_app.build(registry.simulators(), settings=settings), shutdown_timeout=0.5)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    async with httpx.AsyncClient(base_url=url, trust_env=False) as client:
        yield client
    await runner.cleanup()


@pytest.fixture
async def sim() -> AsyncIterator[httpx.AsyncClient]:
    prompts = {name: {"prompt_ms": 10} for name in registry.BY_ID}
    async with simulators(SimulatorSettings(providers=prompts, hosts=frozenset({"simulator", "192.0.2.7"}))) as client:
        yield client


@pytest.fixture
def posted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The addresses that anything was sent to, without anything being sent."""
    found: list[str] = []

    async def post(_: Stage, outgoing: Outgoing) -> int:
        found.append(outgoing.url)
        return 200

    monkeypatch.setattr(Stage, "_post", post)
    return found


# --- who may control ------------------------------------------------------------------------------------------------


def control_calls() -> list[tuple[str, str]]:
    """Every call of the control API, from its own table."""
    nothing: Any = None
    control = simulator_app._Control({}, nothing, nothing, nothing)
    return [(route.method, route.path.format(id="x", provider="mtn")) for route in control.routes()]


@pytest.mark.parametrize(("method", "path"), control_calls())
async def test_no_page_of_elsewhere_controls_it(sim: httpx.AsyncClient, method: str, path: str) -> None:
    port = sim.base_url.port
    for host in ("evil.example", f"evil.example:{port}", f"127.0.0.1.evil.example:{port}", "192.0.2.1", "a@127.0.0.1"):
        answer = await sim.request(method, path, headers={"host": host}, json={})
        assert answer.status_code in (400, 403), host  # the parser itself refuses some
        assert "SIMULATOR_HOSTS" in answer.text or answer.status_code == 400
    for origin in (
        "http://evil.example",
        "null",
        f"https://127.0.0.1:{port}",
        "http://127.0.0.1:1",
        "http://localhost",
    ):
        answer = await sim.request(method, path, headers={"origin": origin}, json={})
        assert answer.status_code == 403, origin
    for host in (f"localhost:{port}", f"127.0.0.1:{port}", f"[::1]:{port}", f"simulator:{port}", "192.0.2.7"):
        headers = {"host": host, "origin": f"http://{host}"}
        answer = await sim.request(method, path, headers=headers, json={})
        assert answer.status_code not in (403, 415), host


@pytest.mark.parametrize(("method", "path"), [call for call in control_calls() if call[0] in ("POST", "PATCH")])
async def test_a_body_is_json_and_says_so(sim: httpx.AsyncClient, method: str, path: str) -> None:
    body = b'{"provider": "mtn", "kind": "drop_after", "prompt_ms": 1, "reference": "x", "url": "http://127.0.0.1:9"}'
    for named in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", None):
        answer = await sim.request(method, path, content=body, headers={"content-type": named} if named else {})
        assert answer.status_code == 415, named
    assert (await sim.get("/_sim/faults")).json() == {"faults": []}
    for named in ("application/json", "Application/JSON; charset=utf-8"):
        answer = await sim.request(method, path, content=body, headers={"content-type": named})
        assert answer.status_code not in (403, 415), named
    large = await sim.request(method, path, json="x" * 70_000)
    assert large.status_code == 413


# --- whom they call -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("url", ELSEWHERE)
async def test_no_callback_by_hand_goes_elsewhere(sim: httpx.AsyncClient, posted: list[str], url: str) -> None:
    for provider in ("mtn", "airtel", "pawapay"):
        order = {"provider": provider, "reference": str(uuid.uuid4()), "status": "COMPLETED", "url": url}
        answer = await sim.post("/_sim/callbacks", json=order)
        assert (answer.status_code, "SIMULATOR_HOSTS" in answer.text) == (400, True), answer.text
    for provider, option in OPTIONS:
        answer = await sim.patch(f"/_sim/settings/{provider}", json={option: url})
        assert (answer.status_code, "SIMULATOR_HOSTS" in answer.text) == (400, True), answer.text
    assert posted == []


async def test_callbacks_go_to_this_machine_and_to_the_hosts_that_are_allowed(
    sim: httpx.AsyncClient, posted: list[str]
) -> None:
    for url in (HERE, "http://LOCALHOST:9/hook", "http://[::1]:9/hook", "https://simulator/hook", "http://192.0.2.7:9"):
        order = {"provider": "mtn", "reference": str(uuid.uuid4()), "url": url}
        assert (await sim.post("/_sim/callbacks", json=order)).json()["answer"] == 200
        assert (await sim.patch("/_sim/settings/airtel", json={"callback_url": url})).status_code == 200
        assert posted.pop() == url


def test_the_setting_reaches_the_simulators(monkeypatch: pytest.MonkeyPatch) -> None:
    served: list[SimulatorSettings] = []

    async def serve(*_: Any, settings: SimulatorSettings, **__: Any) -> None:
        served.append(settings)

    monkeypatch.setattr(simulator_app, "serve", serve)
    kobiri_app.run_simulator(Settings(simulator_hosts=frozenset({"shop"})), quiet=True)
    assert served[0].hosts == {"shop"}


def options_with_urls() -> list[tuple[str, str]]:
    """Every option of every simulator that names an address."""
    settings, nothing = SimulatorSettings(), cast(Any, None)
    found = []
    for name, build in registry.simulators().items():
        stage = Stage(name, settings, nothing, nothing, nothing, nothing)
        build(stage)
        assert stage.current_options is not None
        found += [(name, option) for option in stage.current_options.now.__struct_fields__ if option.endswith("url")]
    return found


OPTIONS = options_with_urls()


async def test_no_payment_makes_a_simulator_call_elsewhere(posted: list[str]) -> None:
    """Where the address is an option from the start, or a header of the payment's own."""
    options: dict[str, dict[str, Any]] = {name: {"prompt_ms": 10} for name in registry.BY_ID}
    for name, option in OPTIONS:
        options[name][option] = ELSEWHERE[0]
    async with simulators(SimulatorSettings(providers=options)) as sim:
        headers = {"Authorization": "Basic YTpi", "Ocp-Apim-Subscription-Key": "any"}
        token = (await sim.post("/mtn/collection/token/", headers=headers)).json()["access_token"]
        mtn = {
            "Authorization": f"Bearer {token}",
            "Ocp-Apim-Subscription-Key": "any",
            "X-Target-Environment": "mtnzambia",
        }
        party = {"partyIdType": "MSISDN", "partyId": "260961234567"}
        ask = {"amount": "1", "currency": "ZMW", "externalId": "x", "payer": party}
        for url in ELSEWHERE:
            own = {**mtn, "X-Reference-Id": str(uuid.uuid4()), "X-Callback-Url": url}
            assert (await sim.post("/mtn/collection/v1_0/requesttopay", json=ask, headers=own)).status_code == 202
        deposit = str(uuid.uuid4())
        wallet = {"type": "MMO", "accountDetails": {"phoneNumber": "260961234567", "provider": "MTN_MOMO_ZMB"}}
        asked = {"depositId": deposit, "amount": "1", "currency": "ZMW", "payer": wallet}
        await sim.post("/pawapay/v2/deposits", json=asked, headers={"Authorization": "Bearer any"})

        async def refused() -> bool:
            sent = (await sim.get("/_sim/callbacks")).json()["callbacks"]
            return len([one for one in sent if one["error"] == "HostNotAllowed"]) == len(ELSEWHERE) + 1

        await eventually(refused)
        again = await sim.post(
            f"/pawapay/v2/deposits/resend-callback/{deposit}", headers={"Authorization": "Bearer any"}
        )
        assert again.status_code == 200
        assert posted == []
