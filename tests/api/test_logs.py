"""The log over a whole run: no secret, no whole phone number, one JSON object a line whatever comes in."""

import base64
import json
from typing import Any

import httpx
import pytest

from tests.api.steps import (
    CALLBACKS,
    LOG,
    PAYMENTS,
    SECRET,
    age,
    callback,
    check,
    gateway,
    post_callback,
    until,
)
from tests.conftest import PEPPER, Api, ApiFactory, Simulator, payment_body

API_USER = "8c5f5a5e-0000-4000-8000-00000000cafe"
MTN_KEY = "canary-mtn-api-key-77120"
SUBSCRIPTION_KEY = "canary-subscription-key-33419"
OLD_SECRET = "canary-previous-webhook-secret"
PAYERS = ("260967712345", "260960000451", "260967654321")

HOSTILE = 'a\r\nb\x00\x1b[31mred\x1b[0m\u2028c\u2029d\x85e\x0bf\x1cg"h\\i{"level":"forged"}\x7f\u202e'


@pytest.fixture
async def api(make_api: ApiFactory) -> Api:
    LOG.pieces.clear()
    return await make_api(
        mtn_collection_api_user=API_USER,
        mtn_collection_api_key=MTN_KEY,
        mtn_collection_subscription_key=SUBSCRIPTION_KEY,
        mtn_webhook_secret=SECRET,
        mtn_webhook_secret_previous=OLD_SECRET,
        public_base_url="http://127.0.0.1:9",
        mtn_timeout_seconds=1,
        throttle_limit=60,
    )


def secrets_of(api: Api) -> dict[str, str]:
    basic = base64.b64encode(f"{API_USER}:{MTN_KEY}".encode()).decode()
    parts = api.key.split("_")
    return {
        "API key": parts[-1],
        "part of the API key": parts[-1][5:30],
        "MTN key": MTN_KEY,
        "MTN credentials": basic,
        "subscription key": SUBSCRIPTION_KEY,
        "webhook secret": SECRET,
        "previous webhook secret": OLD_SECRET,
        "pepper": PEPPER,
        "database password": "only-for-tests",
        **{f"payer {payer}": payer for payer in PAYERS},
        "payer as dialled": PAYERS[0].removeprefix("260"),
    }


async def live_through(api: Api, simulator: Simulator) -> list[httpx.Response]:
    """A day's worth of trouble; the answers that are no payments."""
    answers: list[httpx.Response] = []
    made = (await api.pay("k", payer=PAYERS[0], reference="order-1", description="For " + PAYERS[0])).json()
    await api.pay("k", payer=PAYERS[0], reference="order-1", description="For " + PAYERS[0])
    answers.append(await api.pay("k", payer=PAYERS[2]))
    answers.append(await api.pay(payer=PAYERS[0], reference="order-1"))
    await post_callback(api, callback(made, amount="999"), secret="forged")
    await post_callback(api, callback(made, amount="999"))
    await until(api, made["id"], "SUCCESSFUL")
    declined = (await api.pay(payer=PAYERS[1])).json()
    await until(api, declined["id"], "FAILED")
    for fault in (
        {"kind": "drop_after", "operation": "create"},
        {"kind": "error_before", "operation": "create", "status": 500, "message": f"for {PAYERS[2]}"},
        {"kind": "error_before", "operation": "create", "status": 401, "shape": "azure"},
        {"kind": "html_200", "operation": "create"},
        {"kind": "reset_before", "operation": "create"},
    ):
        await simulator.fault(**fault)
        answers.append(await api.pay(payer=PAYERS[2]))
        await simulator.clear_faults()
    await simulator.fault(kind="wrong_payer", payer=PAYERS[1], operation="status")
    await check(api)
    await simulator.clear_faults()
    await check(api)
    bad_headers: list[dict[str, str]] = [
        {"x-api-key": api.key[:-1] + "x"},
        {"authorization": f"Basic {api.key}"},
        {"x-api-key": api.key, "x-tenant-id": PAYERS[0]},
        {"x-api-key": api.key, "x-request-id": PAYERS[0], "traceparent": api.key},
    ]
    answers += [await api.client.get(PAYMENTS, headers=headers) for headers in bad_headers]
    bad_paths = [
        f"{PAYMENTS}?api_key={api.key}",
        f"{PAYMENTS}/{api.key}",
        f"{PAYMENTS}/{PAYERS[0]}",
        f"/{PAYERS[0]}/{api.key}",
        f"{PAYMENTS}?reference={PAYERS[0]}&limit=0",
    ]
    answers += [await api.client.get(path) for path in bad_paths]
    bad_bodies = [
        payment_body(payer=PAYERS[0] + "0"),
        payment_body(payer=PAYERS[0], amount="x"),
        payment_body(payer=PAYERS[0], secret=MTN_KEY),
    ]
    answers += [await api.client.post(PAYMENTS, json=body, headers={"idempotency-key": "x"}) for body in bad_bodies]
    await api.database.fetch("ALTER TABLE payments ADD CONSTRAINT broken CHECK (payer <> '260967654321') NOT VALID")
    answers.append(await api.pay(payer=PAYERS[2]))  # the driver's error tells the whole row
    await api.database.fetch("ALTER TABLE payments DROP CONSTRAINT broken")
    await age(api.database, "61 seconds")
    await check(api)
    return answers


async def test_no_secret_and_no_whole_number_is_told(api: Api, simulator: Simulator) -> None:
    answers = await live_through(api, simulator)
    assert 500 in {answer.status_code for answer in answers}
    told = {
        "log": LOG.text,
        "problems": "".join(answer.text + str(answer.headers) for answer in answers if answer.status_code >= 400),
        "repr": repr(
            [
                api.settings,
                api.app.state.api,
                gateway(api),
                gateway(api).roads._platform,
                [vars(road) for road in gateway(api).roads._platform],
                [vars(road.provider) for road in gateway(api).roads._platform],
                [
                    tokens._current
                    for road in gateway(api).roads._platform
                    for tokens in vars(road.provider)["_tokens"].values()
                ],
            ]
        ),
    }
    assert '"event":"provider.answered"' in told["log"]
    assert '"event":"request.crashed"' in told["log"]
    for place, text in told.items():
        for name, secret in secrets_of(api).items():
            assert secret not in text, f"{name} stands in the {place}: {text[max(0, text.find(secret) - 300) :][:400]}"
    # Only an unknown parameter's name comes back, and the payer's number not at all.
    assert "Bearer " not in told["log"]
    assert '"Authorization"' not in told["log"]


async def test_a_refusal_writes_nothing_but_its_line(
    api: Api, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """Neither the driver nor the loop have a word of their own, which would be no JSON."""
    await api.pay("k", reference="order-1")
    capfd.readouterr()
    for _ in range(3):
        assert (await api.pay(reference="order-1")).status_code == 409
    assert caplog.records == []
    assert capfd.readouterr() == ("", "")


async def test_one_request_can_be_followed(api: Api, simulator: Simulator) -> None:
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    headers = {"traceparent": f"00-{trace}-00f067aa0ba902b7-01", "x-request-id": "shop-7"}
    answer = await api.pay(headers=headers)
    request_id, payment_id = answer.headers["x-request-id"], answer.json()["id"]
    lines = [json.loads(line) for line in LOG.text.splitlines()]
    own = [line for line in lines if line.get("request_id") == request_id]
    assert {"provider.answered", "request"} <= {line["event"] for line in own}
    for line in own:
        assert (line["trace_id"], line["client_request_id"]) == (trace, "shop-7")
        assert (line["payment_id"], line["tenant_id"]) == (payment_id, api.tenant_id)
    events = await api.database.fetch("SELECT DISTINCT request_id FROM events WHERE subject_id = $1", payment_id)
    assert [row["request_id"] for row in events] == [request_id]
    for bad in ("", "0" * 55, "00-" + "0" * 32 + "-00f067aa0ba902b7-01", f"00-{trace.upper()}-00f067aa0ba902b7-01"):
        LOG.pieces.clear()
        await api.client.get(PAYMENTS, headers={"traceparent": bad})
        assert "trace_id" not in LOG.text


@pytest.mark.parametrize("token", ["Zq3-x_9LkT0vB7mN2pRsW4yH8dFgJ6cA", "zq3zx59lkt0vb7mn2prsw4yh8dfgj6ca"])
async def test_an_accounts_callback_token_is_hidden_wherever_it_stands(api: Api, token: str) -> None:
    """The path before it may be a little wrong in an operator's portal; the token never changes afterwards."""
    paths = [
        f"/api/v1/webhook/airtel/{token}",
        f"/api/v1/webhooks/{token}",
        f"/api/v1/webhooks/{token}/status",
        f"/api/v1/webhooks/airtel/{token}/status",
        f"/webhooks/airtel/{token}",
        f"/docs/{token}",
        f"/{token}.",
        f"/api/v1/webhook/airtel,{token[:-2]}",
        f"/x//{token}{token}//",
        f"/x/{token[:3]}%255F{token[4:]}",
    ]
    for path in paths:
        for method in ("GET", "POST"):
            assert (await api.client.request(method, path)).status_code in (401, 404, 405), path
    assert LOG.text.count("[hidden]") == 2 * len(paths)
    assert token[4:30] not in LOG.text
    payment = (await api.pay()).json()["id"]
    await api.client.get(f"{PAYMENTS}/{payment}")
    assert f'"path":"{PAYMENTS}/{payment}"' in LOG.text, "what is no secret stays"


async def test_every_line_is_one_json_object(api: Api, simulator: Simulator) -> None:
    raw = HOSTILE.encode()
    client: Any = api.client
    for path in (f"{PAYMENTS}/", "/", "/api/v1/webhooks/"):
        for method in ("GET", "POST"):
            await client.request(method, httpx.URL("http://api.test" + path).join(_quoted(raw)))
    for header in (
        "x-request-id",
        "user-agent",
        "traceparent",
        "x-api-key",
        "x-tenant-id",
        "idempotency-key",
        "prefer",
    ):
        for value in (raw, b"\r\n{}", HOSTILE.encode("utf-16")):
            await client.post(PAYMENTS, json=payment_body(), headers={"idempotency-key": "k"} | {header: value})
    for name in ("description", "reference", "payer", "currency"):
        hostile: dict[str, Any] = {name: HOSTILE}
        await api.pay(**hostile)
        await api.client.post(CALLBACKS, json={name: HOSTILE, "externalId": HOSTILE, "status": HOSTILE})
    await simulator.fault(kind="error_before", operation="create", status=400, code=HOSTILE, message=HOSTILE)
    await api.pay()
    await simulator.clear_faults()
    await simulator.fault(kind="error_before", operation="create", status=500, code=HOSTILE, message=HOSTILE)
    await api.pay()
    await check(api)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(api.app.state.api, "access", Raises())
        assert (await api.client.get(PAYMENTS)).status_code == 500

    text = LOG.text
    assert text.endswith("\n")
    lines = text.splitlines()  # which breaks at all that anybody takes for a line's end
    assert len(lines) == text.count("\n") > 40
    for line in lines:
        told = json.loads(line)
        assert list(told)[:3] == ["ts", "level", "event"]
        assert told["ts"].endswith("Z")
        assert told["level"] in ("debug", "info", "warning", "error")
        assert not [letter for letter in line if ord(letter) < 0x20 or 0x7F <= ord(letter) <= 0x9F]
    assert "forged" not in {json.loads(line)["level"] for line in lines}


class Raises:
    """A part whose error has hostile text."""

    async def authenticate(self, *_: object) -> None:
        raise RuntimeError(HOSTILE)


def _quoted(raw: bytes) -> str:
    return "".join(f"%{byte:02x}" for byte in raw)
