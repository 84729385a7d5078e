"""Airtel's odder answers through the whole gateway: no money is held by a code, and none is sent twice for one."""

import base64
import hashlib
import hmac
from typing import Any

import msgspec
import pytest
from structlog.testing import capture_logs

from kobiri import app as kobiri_app
from tests.api.steps import SECRET, age, charged, check, gateway, history, read, until
from tests.conftest import Api, ApiFactory, Simulator

PAYER = "260971234567"

PAID: dict[str, Any] = {"status_code": "TS"}
STRANGELY_PAID: dict[str, Any] = {"status_code": " ts.", "airtel_money_id": False}
IN_PROGRESS = {"status_code": "TIP"}
FAILED = {"status_code": "TF"}
IN_DOUBT = {"status_code": "TF", "code": "DP00800001000"}


async def at_airtel(make_api: ApiFactory, simulator: Simulator, **options: Any) -> Api:
    """A gateway with Airtel's account alone at the simulator, which behaves by these options."""
    answer = await simulator.client.patch("/_sim/settings/airtel", json={"prompt_ms": 20, **options})
    assert answer.status_code == 200, answer.text
    values = kobiri_app.simulated_environment(simulator.url) | {"AIRTEL_CALLBACK_KEY": options.get("callback_key")}
    return await make_api(**{name.lower(): value for name, value in values.items() if name.startswith("AIRTEL_")})


async def test_a_code_that_nobody_listed_holds_no_money_and_is_told_once(
    make_api: ApiFactory, simulator: Simulator
) -> None:
    api = await at_airtel(make_api, simulator, paid_code="1099")
    with capture_logs() as lines:
        for _ in range(2):
            payment = (await api.pay(payer=PAYER)).json()
            await until(api, payment["id"], "SUCCESSFUL")
            await charged(simulator, payment["provider_reference"].replace("-", ""))
    told = [line for line in lines if line["event"] == "provider.unlisted_code"]
    assert [(line["provider"], line["code"], line["seen"]) for line in told] == [("airtel", "DP00800001099", 1)]
    road = gateway(api).roads.receiver("airtel")
    assert road is not None
    assert road.unlisted.seen == {"DP00800001099": 2}


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


async def post(api: Api, payment: dict[str, Any], **said: Any) -> None:
    """Airtel's callback, with a right hash: it says so, and by its nature neither how much nor by whom."""
    told = {"airtel_money_id": "MP1.2.A3", **said, "id": payment["provider_reference"].replace("-", "")}
    content = msgspec.json.encode(told)
    mac = base64.b64encode(hmac.digest(SECRET.encode(), content, hashlib.sha256))
    body = b'{"transaction":' + content + b',"hash":"' + mac + b'"}'
    assert (await api.client.post("/api/v1/webhooks/airtel", content=body)).status_code == 200


@pytest.mark.parametrize("paid", [PAID, STRANGELY_PAID])
@pytest.mark.parametrize("when", ["before", "between", "after"])
async def test_what_a_genuine_callback_calls_paid_no_failure_in_doubt_ends_unseen(
    make_api: ApiFactory, simulator: Simulator, when: str, paid: dict[str, Any]
) -> None:
    api = await at_airtel(make_api, simulator, callback_key=SECRET)
    payment = (await api.pay(payer="260970000421")).json()  # TF with DP00800001000
    await age(api.database, "121 seconds")
    if when == "before":
        await post(api, payment, **paid)
    await check(api)
    await check(api)
    if when == "between":
        await post(api, payment, **paid)
    await age(api.database, "11 minutes")
    await check(api)
    await check(api)
    assert ((await read(api, payment["id"]))["status"] == "FAILED") == (when == "after")
    if when == "after":
        await post(api, payment, **paid)
    for _ in range(7):
        await age(api.database, "1 hour")
        await check(api)
    done = await read(api, payment["id"])
    held = ("FAILED", "contradicted") if when == "after" else ("TIMEOUT", "unresolved")
    assert (done["status"], done["review"]) == held


@pytest.mark.parametrize("said", [PAID, IN_PROGRESS, FAILED, IN_DOUBT])
async def test_what_a_genuine_callback_speaks_of_is_never_not_received(
    make_api: ApiFactory, simulator: Simulator, said: dict[str, str]
) -> None:
    """An enquiry that lags behind its callback says not found."""
    api = await at_airtel(make_api, simulator, callback_key=SECRET)
    await simulator.fault(provider="airtel", kind="error_after", operation="create", status=504, times=1)
    await simulator.fault(provider="airtel", kind="not_found_for", operation="status", ms=6_000_000)
    payment = await read(api, (await api.pay(payer=PAYER)).json()["payment_id"])
    await age(api.database, "181 seconds")
    await check(api)
    await post(api, payment, **said)
    for _ in range(4):
        await age(api.database, "11 minutes")
        await check(api)
    assert (await read(api, payment["id"]))["status"] == "TIMEOUT"


@pytest.mark.parametrize(
    ("said", "review"),
    [
        ({"status_code": "TS"}, None),
        ({"status_code": "TIP"}, None),
        ({"status_code": "TS", "airtel_money_id": "MP999999.9999.B99999"}, "contradicted"),
        ({"status_code": "TF", "code": "DP00800001009"}, "contradicted"),
    ],
)
async def test_a_genuine_callback_against_what_is_paid_comes_to_a_person(
    make_api: ApiFactory, simulator: Simulator, said: dict[str, str], review: str | None
) -> None:
    """Asking would end it: Airtel's list knows one transaction alone, or nothing any more."""
    api = await at_airtel(make_api, simulator, callback_key=SECRET)
    payment = (await api.pay(payer=PAYER)).json()
    paid = await until(api, payment["id"], "SUCCESSFUL")
    await simulator.fault(provider="airtel", kind="not_found_for", operation="status", ms=60_000)
    for _ in range(2):
        await post(api, payment, **{"airtel_money_id": paid["provider_transaction_id"], **said})
        await check(api)
    after = await read(api, payment["id"])
    assert (after["status"], after["review"]) == ("SUCCESSFUL", review)
    assert (await history(api, payment["id"])).count("payment.contradicted") == (review is not None)
