"""Every refusal is a whole problem, every answer has its headers, and a defect of ours tells no internals."""

import json
import re
from importlib.resources import files
from typing import Any

import pytest

from kobiri.api.problems import EXPECTED
from tests.api.steps import LOG, PAYMENTS, REQUEST_ID, problem, stored
from tests.conftest import Api, ApiFactory, payment_body

pytestmark = pytest.mark.asyncio(loop_scope="module")

ADDRESSES = [PAYMENTS, f"{PAYMENTS}/x", "/api/v1/transactions", "/api/v1/events", "/api/v1/webhooks/mtn/status"]
NOWHERE = [
    "/",
    "/api",
    "/api/v1",
    "/api/v1/nope",
    "/api/v2/payments",
    f"{PAYMENTS}/x/y",
    "/%2e%2e/x",
    "/api/v1/payments%00",
]


async def test_no_such_address_is_a_problem(shared_api: Api) -> None:
    for path in NOWHERE:
        for method in ("GET", "POST", "DELETE"):
            problem(await shared_api.client.request(method, path), 404, "not_found")


async def test_no_such_method_names_those_there_are(shared_api: Api) -> None:
    expected = {
        PAYMENTS: {"GET", "POST", "OPTIONS"},
        f"{PAYMENTS}/x": {"GET", "OPTIONS"},
        "/api/v1/webhooks/mtn": {"POST", "PUT", "OPTIONS"},
        "/health/live": {"GET", "OPTIONS"},
    }
    for path, allowed in expected.items():
        for method in ("DELETE", "PATCH", "TRACE", "BREW"):
            answer = await shared_api.client.request(method, path)
            problem(answer, 405, "method_not_allowed")
            assert set(answer.headers["allow"].split(", ")) == allowed, (method, path)


async def test_options_needs_no_key_and_opens_no_cors(shared_api: Api) -> None:
    for headers in ({"x-api-key": ""}, {"origin": "https://evil.example", "access-control-request-method": "POST"}):
        for path in (*ADDRESSES, "/health/live"):
            answer = await shared_api.client.options(path, headers=headers)
            assert answer.status_code == 204, answer.text
            assert not [name for name in answer.headers if name.startswith("access-control")]


async def test_every_answer_has_its_headers(shared_api: Api) -> None:
    for path in (*ADDRESSES, "/health/live", "/health/ready", "/nope"):
        answer = await shared_api.client.get(path, headers={"x-request-id": "mine", "origin": "https://x.example"})
        assert REQUEST_ID.fullmatch(answer.headers["x-request-id"])
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "access-control-allow-origin" not in answer.headers
        assert "server" not in answer.headers


async def test_request_ids_are_ours_and_differ(shared_api: Api) -> None:
    answers = [await shared_api.client.get("/health/live", headers={"x-request-id": "abc"}) for _ in range(3)]
    assert len({answer.headers["x-request-id"] for answer in answers}) == 3


BAD_QUERIES = [
    ("limit=0", "limit"),
    ("limit=-1", "limit"),
    ("limit=ten", "limit"),
    ("limit=1.5", "limit"),
    ("limit=", "limit"),
    ("limit=1&limit=2", "limit"),
    ("limit=1;drop", "limit"),
    ("Limit=1", "Limit"),
    ("api_key=kob", "api_key"),
    ("x-api-key=kob", "x-api-key"),
    ("tenant_id=1", "tenant_id"),
    ("offset=1", "offset"),
]
BAD_FILTERS = [
    ("status=pending", "status"),
    ("status=", "status"),
    ("status=PENDING&status=FAILED", "status"),
    ("reference=a%00b", "reference"),
    ("reference=" + "x" * 101, "reference"),
    ("provider=%1b", "provider"),
    ("created_from=yesterday", "created_from"),
    ("created_from=2026", "created_from"),
    ("created_from=1767225600", "created_from"),
    ("created_from=2026-02-01", "created_from"),
    ("created_from=2026-02-01T08:00:00", "created_from"),
    ("created_from=2026-02-30T08:00:00Z", "created_from"),
    ("created_from=0001-01-01T00:00:00%2B14:00", "created_from"),
    ("created_before=9999-12-31T23:59:59-14:00", "created_before"),
    ("created_before=", "created_before"),
]
BAD_EVENTS = [
    ("type=%00", "type"),
    ("subject_id=%00", "subject_id"),
    ("type=a%0ab", "type"),
    ("status=PENDING", "status"),
]


TOLD = [
    ("/payments?limit=abc", "limit: expected a whole number of 1 or more, such as 50."),
    ("/payments?limit=0", "limit: expected a whole number of 1 or more, such as 50."),
    ("/payments?status=pending", "status: expected one of PENDING, TIMEOUT, SUCCESSFUL, FAILED, REVERSED."),
    ("/transactions?created_from=x", "created_from: expected a time with its zone, such as 2026-02-01T08:00:00Z."),
    ("/payments?created_before=7", "created_before: expected a time with its zone, such as 2026-02-01T08:00:00Z."),
    ("/payments?limit=x&cursor=" + "x" * 1001, ("limit: expected a whole number of 1 or more, such as 50; cursor:"
     " expected next_cursor of the page before, unchanged.")),
    (f"/events?cursor={'x' * 1001}", "cursor: expected next_cursor of the page before, unchanged."),
    ("/providers/predict", "msisdn: it is required, a phone number of at most 32 characters, such as 0961234567."),
]  # fmt: skip


async def test_a_bad_query_is_told_in_plain_words_and_all_at_once(shared_api: Api) -> None:
    for query, detail in TOLD:
        answer = await shared_api.client.get(f"/api/v1{query}")
        assert problem(answer, 400, "invalid_query")["detail"] == detail


async def test_every_query_parameter_that_the_framework_may_refuse_has_its_words() -> None:
    document = json.loads((files("kobiri.api.reference") / "openapi.json").read_text())
    for path in document["paths"].values():
        for parameter in (one for operation in path.values() for one in operation.get("parameters", ())):
            if parameter.get("in") == "query" and set(parameter["schema"]) - {"type", "default"}:
                assert parameter["name"] in EXPECTED, parameter


async def test_a_bad_query_is_refused_and_named(shared_api: Api) -> None:
    cases = [(path, *case) for path in (PAYMENTS, "/api/v1/transactions") for case in BAD_QUERIES + BAD_FILTERS]
    cases += [("/api/v1/events", *case) for case in BAD_QUERIES + BAD_EVENTS]
    cases += [(f"{PAYMENTS}/x", "limit=1", "limit"), ("/health/ready", "x=1", "x")]
    for path, query, name in cases:
        answer = await shared_api.client.get(f"{path}?{query}")
        assert answer.status_code == 400, (path, query, answer.text)
        assert name in problem(answer, 400, "invalid_query")["detail"]
    posted = await shared_api.client.post(
        f"{PAYMENTS}?dry_run=1", json=payment_body(), headers={"idempotency-key": "k"}
    )
    problem(posted, 400, "invalid_query")
    assert await stored(shared_api.database) == (0, 0)


async def test_a_huge_limit_is_cut(shared_api: Api) -> None:
    for limit in ("1000", "1001", "9" * 40):
        assert (await shared_api.client.get(f"{PAYMENTS}?limit={limit}")).status_code == 200


INTERNALS = re.compile(r"traceback|asyncpg|select |psql|/site-packages|\.py|kobiri\.|litestar|secret of", re.IGNORECASE)


async def test_a_defect_tells_the_log_and_not_the_client(shared_api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken:
        def __getattr__(self, name: str) -> Any:
            raise RuntimeError("SELECT secret of the house")

    for part in ("gateway", "access"):
        LOG.pieces.clear()
        with monkeypatch.context() as patch:
            patch.setattr(shared_api.app.state.api, part, Broken())
            answer = await shared_api.client.get(PAYMENTS)
        body = problem(answer, 500, "internal_error")
        assert body["retryable"] is True
        assert not INTERNALS.search(answer.text)
        crashed = [piece for piece in LOG.pieces if "request.crashed" in piece]
        assert len(crashed) == 1
        assert "secret of the house" in crashed[0]
        assert answer.headers["x-request-id"] in crashed[0]
    assert (await shared_api.client.get(PAYMENTS)).status_code == 200


async def test_no_refusal_shows_internals(shared_api: Api) -> None:
    for method, path in [("GET", "/nope"), ("DELETE", PAYMENTS), ("GET", f"{PAYMENTS}?limit=x"), ("POST", PAYMENTS)]:
        assert not INTERNALS.search((await shared_api.client.request(method, path)).text)


async def test_a_long_unknown_name_is_not_sent_back_whole(shared_api: Api) -> None:
    body = b'{"' + b"x" * 60_000 + b'":1}'
    headers = {"content-type": "application/json", "idempotency-key": "k"}
    answer = await shared_api.client.post(PAYMENTS, content=body, headers=headers)
    problem(answer, 400, "invalid_fields")
    assert len(answer.content) < 2_000


@pytest.mark.asyncio(loop_scope="function")
async def test_health(make_api: ApiFactory) -> None:
    """Alive without anything; ready with its database, and whatever the provider does."""
    api = await make_api(mtn_base_url="http://127.0.0.1:9")
    state = api.app.state.api
    ready = await api.client.get("/health/ready", headers={"x-api-key": ""})
    assert (ready.status_code, ready.json()["status"]) == (200, "pass")
    assert ready.headers["content-type"].startswith("application/health+json")

    await api.database.fetch("UPDATE alembic_version SET version_num = '0000'")
    behind = await api.client.get("/health/ready")
    assert (behind.status_code, behind.json()["status"]) == (503, "fail")
    assert "migration" in behind.json()["output"]
    await api.database.fetch(f"UPDATE alembic_version SET version_num = '{state.newest_migration}'")
    assert (await api.client.get("/health/ready")).status_code == 200

    state.draining = True
    draining = await api.client.get("/health/ready")
    assert (draining.status_code, draining.headers["retry-after"]) == (503, "1")
    assert (await api.client.get("/health/live")).status_code == 200
    state.draining = False

    await state.gateway.db.close()
    assert (await api.client.get("/health/live")).json()["status"] == "pass"
    assert (await api.client.get("/health/ready")).status_code == 503
    lost = await api.pay()
    assert problem(lost, 503, "database_unavailable")["retryable"] is True
    assert int(lost.headers["retry-after"]) >= 1
