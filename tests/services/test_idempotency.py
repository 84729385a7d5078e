"""The Idempotency-Key, through the API's own door: design section 4, sentence by sentence."""

import asyncio
import json
import uuid
from datetime import timedelta
from typing import Any

import asyncpg
import httpx
import pytest

from kobiri.domain.ids import TenantId, new_id, new_provider_reference
from kobiri.services import housekeeping
from tests.api.steps import (
    PAYMENTS,
    age,
    charged,
    end_leases,
    eventually,
    gateway,
    problem,
    read,
    sends,
    stored,
    until,
    work,
)
from tests.conftest import Api, ApiFactory, Simulator, payment_body

REPLAYED = "idempotent-replayed"


async def post(api: Api, body: bytes | dict[str, Any] | None = None, **headers: str) -> httpx.Response:
    """POST exactly these bytes under exactly these headers."""
    content = json.dumps(payment_body()).encode() if body is None else body
    content = json.dumps(content).encode() if isinstance(content, dict) else content
    sent = {"content-type": "application/json"} | {n.replace("_", "-"): v for n, v in headers.items()}
    return await api.client.post(PAYMENTS, content=content, headers=sent)


async def count(api: Api, table: str) -> int:
    found: int = await api.database.value(f"SELECT count(*) FROM {table}")
    return found


# --- the same again -------------------------------------------------------------------------------------------------


async def test_a_repeat_across_a_deployment_is_a_repeat(api: Api, simulator: Simulator) -> None:
    """The hash that the version of November 2026 stored for this very request."""
    first = await api.pay("k")
    stored_then = bytes.fromhex("6ae2641af2a563efef278ba3e8b980faa646c6a3b1806d2dc837915c2e650244")
    await api.database.fetch("UPDATE idempotency_keys SET fingerprint = $1", stored_then)
    again = await api.pay("k")
    assert (again.status_code, again.content, again.headers[REPLAYED]) == (201, first.content, "true")
    problem(await api.pay("k", amount="10.01"), 422, "idempotency_key_reused")
    await charged(simulator, first.json()["provider_reference"])
    assert len(await simulator.movements()) == 1


async def test_a_repeat_gets_the_same_bytes_and_nothing_happens(api: Api, simulator: Simulator) -> None:
    first = await api.pay("k", reference="order-1", description="Zwei Bücher", metadata={"z": "1", "a": "2"})
    assert first.status_code == 201
    assert REPLAYED not in first.headers
    reference = first.json()["provider_reference"]
    await until(api, first.json()["id"], "SUCCESSFUL")  # the stored answer does not follow
    before = [await count(api, table) for table in ("payments", "idempotency_keys", "events", "ledger_entries")]
    for _ in range(20):
        again = await api.pay("k", reference="order-1", description="Zwei Bücher", metadata={"z": "1", "a": "2"})
        assert again.status_code == 201
        assert again.content == first.content
        assert again.headers[REPLAYED] == "true"
        assert again.headers["location"] == first.headers["location"]
        assert again.headers["content-type"] == first.headers["content-type"]
    after = [await count(api, table) for table in ("payments", "idempotency_keys", "events", "ledger_entries")]
    assert after == before
    assert len(await sends(simulator, reference)) == 1
    await charged(simulator, reference)


SAME = [
    b'{"payer":"260961234567","currency":"ZMW","amount":"10.00"}',
    b'\n { "amount" : 10 , "currency" : "ZMW" , "payer" : "260961234567" } \n',
    b'{"amount":"10","currency":"ZMW","payer":"260961234567"}',
    b'{"amount":10.0,"currency":"ZMW","payer":"260961234567"}',
    b'{"amount":"10.00","currency":"\\u005aMW","payer":"260961234567"}',
    b'{"amount":"10.00","currency":"ZMW","payer":"+260 96 1234567"}',
    b'{"amount":"10.00","currency":"ZMW","payer":"260961234567","reference":null,"metadata":{}}',
]


async def test_the_same_order_spelt_otherwise_is_a_repeat(api: Api) -> None:
    first = await api.pay("k")
    for body in SAME:
        again = await post(api, body, idempotency_key="k")
        assert (again.status_code, again.content) == (201, first.content), body
        assert again.headers[REPLAYED] == "true"


CHANGES: list[dict[str, Any]] = [
    {"amount": "10.01"},
    {"payer": "260961234568"},
    {"network": "mtn"},
    {"reference": "other"},
    {"description": "other"},
    {"metadata": {"other": "1"}},
    {"callback_url": "https://shop.example/hook"},
]


async def test_another_order_under_the_key_is_refused_and_changes_nothing(api: Api) -> None:
    first = await api.pay("k")
    for change in CHANGES:
        answer = await api.pay("k", **change)
        assert problem(answer, 422, "idempotency_key_reused")["retryable"] is False
    assert await stored(api.database) == (1, 1)
    assert (await api.pay("k")).content == first.content


async def test_another_path_under_the_key_is_refused(api: Api) -> None:
    """One route takes the header today, so the stored path is changed behind its back."""
    await api.pay("k")
    await api.database.fetch("UPDATE idempotency_keys SET path = '/api/v1/payouts'")
    problem(await api.pay("k"), 422, "idempotency_key_reused")
    await api.database.fetch("UPDATE idempotency_keys SET path = '/api/v1/payments', method = 'PUT'")
    problem(await api.pay("k"), 422, "idempotency_key_reused")


async def test_a_slash_at_the_end_is_the_same_path(api: Api) -> None:
    first = await api.pay("k")
    again = await api.client.post(f"{PAYMENTS}/", json=payment_body(), headers={"idempotency-key": "k"})
    assert (again.status_code, again.content) == (201, first.content)
    assert again.headers["location"] == first.headers["location"]


async def test_a_failure_told_at_once_is_replayed_too(api: Api, simulator: Simulator) -> None:
    await simulator.fault(kind="error_before", operation="create", status=400, code="NOT_ENOUGH_FUNDS", times=1)
    first = await api.pay("k")
    assert (first.status_code, first.json()["status"]) == (201, "FAILED")
    again = await api.pay("k")
    assert (again.status_code, again.content, again.headers[REPLAYED]) == (201, first.content, "true")


async def test_an_answer_before_sending_is_replayed_with_its_status(api: Api) -> None:
    first = await api.pay("k", headers={"prefer": "respond-async"})
    assert first.status_code == 202
    assert first.headers["preference-applied"] == "respond-async"
    await until(api, first.json()["id"], "SUCCESSFUL")
    again = await api.pay("k")
    assert (again.status_code, again.content, again.headers[REPLAYED]) == (202, first.content, "true")


# --- the header -----------------------------------------------------------------------------------------------------

GOOD = [
    ("8e03978e-40d5-43e8-bc93-6894a57f9324", "8e03978e-40d5-43e8-bc93-6894a57f9324"),
    ('"8e03978e-40d5-43e8-bc93-6894a57f9324"', "8e03978e-40d5-43e8-bc93-6894a57f9324"),
    ("  padded \t", "padded"),
    ("two words", "two words"),
    ("it's:a/key?~", "it's:a/key?~"),
    ('in"side', 'in"side'),
    ("x" * 255, "x" * 255),
    ('"' + "x" * 255 + '"', "x" * 255),
]


async def test_the_key_is_quoted_or_bare(api: Api) -> None:
    for header, key in GOOD:
        await api.database.fetch("DELETE FROM idempotency_keys")
        assert (await post(api, idempotency_key=header)).status_code == 201, header
        assert await api.database.value("SELECT key FROM idempotency_keys") == key


async def test_quoted_and_bare_are_one_key(api: Api) -> None:
    first = await post(api, idempotency_key="abc")
    again = await post(api, idempotency_key='"abc"')
    assert (again.content, again.headers[REPLAYED]) == (first.content, "true")


BAD = [
    b"",
    b'""',
    b'"',
    b"   ",
    b'" "',
    b"x" * 256,
    b'"' + b"x" * 256 + b'"',
    b'"open',
    b'"in"side"',
    b'"back\\slash"',
    "schlüssel".encode(),
    "ключ".encode(),
    b"caf\xe9",
    b"a\x00b",
    b"a\x07b",
    b"a\tb",
    b"a\x7fb",
    b"a\rb",
]


async def test_a_bad_key_is_refused_and_nothing_is_stored(api: Api) -> None:
    for header in BAD:
        headers = [(b"content-type", b"application/json"), (b"idempotency-key", header)]
        answer = await api.client.post(PAYMENTS, json=payment_body(), headers=headers)
        problem(answer, 400, "idempotency_key_malformed")
    assert await stored(api.database) == (0, 0)


async def test_two_keys_are_none(api: Api) -> None:
    headers = [("idempotency-key", "a"), ("idempotency-key", "a")]
    problem(
        await api.client.post(PAYMENTS, json=payment_body(), headers=headers),
        400,
        "idempotency_key_malformed",
    )


async def test_a_key_is_required(api: Api) -> None:
    problem(await post(api), 400, "idempotency_key_missing")
    assert await stored(api.database) == (0, 0)


async def test_a_key_may_be_left_out_where_it_is_not_required(make_api: ApiFactory) -> None:
    api = await make_api(idempotency_required=False)
    first, second = await post(api), await post(api)
    assert (first.status_code, second.status_code) == (201, 201)
    assert first.json()["id"] != second.json()["id"]
    given = [await post(api, idempotency_key="k") for _ in range(2)]
    assert given[0].content == given[1].content
    problem(await post(api, idempotency_key=""), 400, "idempotency_key_malformed")


# --- still running, or unknown --------------------------------------------------------------------------------------


async def test_while_the_first_runs_a_repeat_is_a_conflict(api: Api, simulator: Simulator) -> None:
    await api.pay()  # the provider's token is there from now on
    await simulator.fault(kind="latency", operation="create", ms=1_000)
    first = asyncio.create_task(api.pay("k"))
    await eventually(lambda: api.database.value("SELECT count(*) = 2 FROM payments"))
    repeats = await asyncio.gather(*(api.pay("k") for _ in range(20)))
    assert not first.done()
    for repeat in repeats:
        assert problem(repeat, 409, "request_in_progress")["retryable"] is True
        assert int(repeat.headers["retry-after"]) >= 1
    problem(await api.pay("k", amount="11"), 422, "idempotency_key_reused")
    done = await first
    assert done.status_code == 201
    again = await api.pay("k")
    assert (again.status_code, again.content) == (201, done.content)


async def test_fifty_at_once_are_one_payment(api: Api, simulator: Simulator) -> None:
    answers = await asyncio.gather(*(api.pay("k") for _ in range(50)))
    fresh = [answer for answer in answers if answer.status_code == 201 and REPLAYED not in answer.headers]
    assert len(fresh) == 1
    for answer in answers:
        assert answer.status_code in (201, 409), answer.text
        if answer.status_code == 201:
            assert answer.content == fresh[0].content
        else:
            problem(answer, 409, "request_in_progress")
    assert await stored(api.database) == (1, 1)
    reference = fresh[0].json()["provider_reference"]
    assert len(await sends(simulator, reference)) == 1
    await charged(simulator, reference)


async def test_after_a_timeout_a_repeat_gets_the_payment_as_it_stands(api: Api, simulator: Simulator) -> None:
    await simulator.fault(kind="drop_after", operation="create", times=4)  # the repeats' answers too
    body = problem(await api.pay("k"), 504, "provider_timeout")
    assert body["retryable"] is True
    stored_answer = await api.database.fetch("SELECT status_code, response_body FROM idempotency_keys")
    assert [tuple(row) for row in stored_answer] == [(None, None)]

    again = await api.pay("k")
    assert (again.status_code, again.headers[REPLAYED]) == (201, "true")
    assert (again.json()["id"], again.json()["status"]) == (body["payment_id"], "TIMEOUT")

    await until(api, body["payment_id"], "SUCCESSFUL")
    later = await api.pay("k")
    assert (later.status_code, later.headers[REPLAYED]) == (201, "true")
    assert later.json() == await read(api, body["payment_id"])
    assert later.json()["status"] == "SUCCESSFUL"
    assert len(await sends(simulator, later.json()["provider_reference"])) == 4
    await charged(simulator, later.json()["provider_reference"])


async def test_after_the_first_died_a_repeat_gets_the_payment_and_the_worker_goes_on(
    api: Api, simulator: Simulator
) -> None:
    first = await api.pay("k")
    # As a crash between the two commits leaves it: no answer stored, the payment as T1 wrote it.
    await api.database.fetch("UPDATE idempotency_keys SET status_code = NULL, response_body = NULL")
    await api.database.fetch(
        "UPDATE payments SET version = 1, accepted_at = NULL, lease_token = gen_random_uuid(),"
        " next_run_at = now() + interval '7 seconds'"
    )
    problem(await api.pay("k"), 409, "request_in_progress")
    await end_leases(api.database)
    again = await api.pay("k")
    assert (again.status_code, again.headers[REPLAYED]) == (201, "true")
    assert again.json()["status"] == "PENDING"
    await until(api, first.json()["id"], "SUCCESSFUL")
    await charged(simulator, first.json()["provider_reference"])


# --- what stores nothing --------------------------------------------------------------------------------------------


async def test_whoever_is_refused_before_may_use_the_key_again(api: Api) -> None:
    foreign = await api.tenant("other")
    reader = await api.tenant("shop", scopes=("payments:read",))
    refused = [
        (await post(api, b"{", idempotency_key="k"), 400),
        (await api.pay("k", amount="10.001"), 422),
        (await api.pay("k", payer="123"), 422),
        (await api.pay("k", network="airtel"), 422),
        (await api.pay("k", headers={"x-api-key": "nonsense"}), 401),
        (await api.pay("k", headers={"x-api-key": foreign, "x-tenant-id": "shop"}), 403),
        (await api.pay("k", headers={"x-api-key": reader}), 403),
        (await post(api, b" " * 70_000, idempotency_key="k"), 413),
        (await post(api, b"{}", idempotency_key="k", content_type="text/plain"), 415),
    ]
    assert [(answer.status_code, status) for answer, status in refused if answer.status_code != status] == []
    assert await stored(api.database) == (0, 0)
    assert (await api.pay("k")).status_code == 201


async def test_a_throttled_request_may_use_the_key_again(make_api: ApiFactory) -> None:
    api = await make_api()
    key = await api.tenant("shop", throttle_limit=1)
    limited = {"x-api-key": key}
    assert (await api.client.get(PAYMENTS, headers=limited)).status_code == 200
    problem(await api.pay("k", headers=limited), 429, "too_many_requests")
    assert await stored(api.database) == (0, 0)
    assert (await api.pay("k")).status_code == 201


async def test_with_no_road_open_nothing_is_stored_but_a_finished_one_is_replayed(
    make_api: ApiFactory,
) -> None:
    open_api, closed_api = await make_api(), await make_api(mtn_enabled=False)
    first = await open_api.pay("done")
    refused = await closed_api.pay("new")
    assert problem(refused, 503, "route_closed")["retryable"] is True
    assert int(refused.headers["retry-after"]) >= 1
    assert await stored(open_api.database) == (1, 1)
    again = await closed_api.pay("done")
    assert (again.status_code, again.content, again.headers[REPLAYED]) == (201, first.content, "true")
    problem(await closed_api.pay("done", amount="11"), 422, "idempotency_key_reused")
    assert (await open_api.pay("new")).status_code == 201


# --- scope ----------------------------------------------------------------------------------------------------------


async def test_tenants_and_modes_do_not_share_keys(api: Api) -> None:
    callers = [api.key, await api.tenant("other"), await api.tenant("shop", mode="live")]
    answers = [
        await api.pay("k", amount=str(amount), reference="r", headers={"x-api-key": key})
        for amount, key in enumerate(callers, start=1)
    ]
    assert [answer.status_code for answer in answers] == [201] * 3
    assert len({answer.json()["id"] for answer in answers}) == 3
    assert not any(REPLAYED in answer.headers for answer in answers)
    assert await stored(api.database) == (3, 3)


@pytest.mark.parametrize("first", ["test", "live"])
async def test_a_repeat_is_told_of_its_own_modes_payment(api: Api, first: str) -> None:
    """The very same request under the very same key: money moves in one mode and not in the other."""
    keys = {"test": api.key, "live": await api.tenant("shop", mode="live")}
    order = [first, *(mode for mode in keys if mode != first)]
    told = {mode: await api.pay("k", headers={"x-api-key": keys[mode]}) for mode in order}
    assert told["test"].json()["id"] != told["live"].json()["id"]
    for mode, key in keys.items():
        again = await api.pay("k", headers={"x-api-key": key})
        assert (again.headers[REPLAYED], again.content) == ("true", told[mode].content)


async def test_what_the_other_mode_was_told_is_no_answer_where_no_road_is_open(make_api: ApiFactory) -> None:
    api = await make_api(mtn_mode="test")
    assert (await api.pay("k")).status_code == 201
    refused = await api.pay("k", headers={"x-api-key": await api.tenant("shop", mode="live")})
    assert refused.status_code == 422
    assert REPLAYED not in refused.headers


async def test_two_keys_of_one_tenant_share_them(api: Api) -> None:
    first = await api.pay("k")
    again = await api.pay("k", headers={"x-api-key": await api.tenant("shop")})
    assert (again.content, again.headers[REPLAYED]) == (first.content, "true")


# --- its life -------------------------------------------------------------------------------------------------------


async def test_a_key_lives_a_day_and_as_long_as_its_payment_is_open(api: Api, simulator: Simulator) -> None:
    await simulator.fault(kind="payer", decision="ignore", times=1)
    stuck = await api.pay("stuck", reference="r")
    done = await api.pay("done")
    await until(api, done.json()["id"], "SUCCESSFUL")
    db = gateway(api).db
    life = await api.database.value("SELECT min(expires_at - created_at) FROM idempotency_keys")
    assert life >= timedelta(hours=24)
    await age(api.database, "23 hours")
    assert await housekeeping.purge_idempotency_keys(db) == 0
    await age(api.database, "40 days")
    assert await housekeeping.purge_idempotency_keys(db) == 1
    keys = await api.database.fetch("SELECT key FROM idempotency_keys")
    assert [row["key"] for row in keys] == ["stuck"]
    assert (await api.pay("stuck", reference="r")).json()["id"] == stuck.json()["id"]
    fresh = await api.pay("done")
    assert (fresh.status_code, fresh.json()["id"] != done.json()["id"]) == (201, True)
    body = problem(await api.pay("new", reference="r"), 409, "reference_in_use")
    assert body["payment_id"] == stuck.json()["id"]


# --- locks ----------------------------------------------------------------------------------------------------------

HOLD_PAYMENT = """
INSERT INTO payments (tenant_id, id, mode, kind, status, amount_minor, currency, payer, network, provider,
    account_fingerprint, provider_reference, attempt, send_before, expires_at, next_run_at)
VALUES ($1, $2, 'test', 'collection', 'PENDING', 1000, 'ZMW', '260961234567', 'mtn', 'mtn', 'x', $3, 1,
    now(), now(), now())
"""
HOLD_KEY = """
INSERT INTO idempotency_keys (tenant_id, mode, key, method, path, fingerprint, payment_id, expires_at)
VALUES ($1, 'test', 'k', 'POST', '/api/v1/payments', '\\x00', $2, now() + interval '1 day')
"""


async def hold(connection: "asyncpg.Connection[asyncpg.Record]", tenant_id: str) -> str:
    """As T1 of a twin that does not commit."""
    payment_id = new_id()
    await connection.execute(HOLD_PAYMENT, TenantId(tenant_id), payment_id, new_provider_reference())
    await connection.execute(HOLD_KEY, tenant_id, payment_id)
    return payment_id


async def test_a_twin_that_holds_the_key_costs_the_lock_timeout_and_no_more(api: Api, simulator: Simulator) -> None:
    await api.pay()
    twin = await asyncpg.connect(api.database.owner_dsn)
    try:
        held = twin.transaction()
        await held.start()
        await hold(twin, api.tenant_id)
        answer = await asyncio.wait_for(api.pay("k"), timeout=10)
        told = problem(answer, 503, "busy")
        assert told["retryable"] is True
        assert "Idempotency-Key" in told["detail"]  # it was the lock's time and not the statement's
        assert int(answer.headers["retry-after"]) >= 1
        assert await stored(api.database) == (1, 1)
        await held.rollback()
    finally:
        await twin.close()
    assert (await api.pay("k")).status_code == 201


async def test_a_twin_that_commits_while_we_wait_is_seen(api: Api) -> None:
    twin = await asyncpg.connect(api.database.owner_dsn)
    try:
        held = twin.transaction()
        await held.start()
        await hold(twin, api.tenant_id)
        waiting = asyncio.create_task(api.pay("k"))
        waits = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        await eventually(lambda: api.database.value(waits))
        await held.commit()
        problem(await waiting, 422, "idempotency_key_reused")  # the twin's order was another one
    finally:
        await twin.close()
    assert await stored(api.database) == (1, 1)


# --- the merchant's reference ---------------------------------------------------------------------------------------


async def test_a_reference_in_use_is_a_conflict_that_names_the_payment(api: Api) -> None:
    first = (await api.pay(reference="order-7")).json()
    body = problem(await api.pay("second", reference="order-7"), 409, "reference_in_use")
    assert (body["payment_id"], body["retryable"]) == (first["id"], False)
    assert await stored(api.database) == (1, 1)
    await until(api, first["id"], "SUCCESSFUL")
    problem(await api.pay("second", reference="order-7"), 409, "reference_in_use")
    assert (await api.pay("second", reference="order-8")).status_code == 201


async def test_a_reference_is_free_again_after_a_failure(api: Api) -> None:
    first = (await api.pay(reference="order-7", payer="260960000451")).json()
    await until(api, first["id"], "FAILED")
    second = await api.pay(reference="order-7")
    assert second.status_code == 201
    assert second.json()["id"] != first["id"]


async def test_a_race_for_one_reference_has_one_winner(api: Api) -> None:
    answers = await asyncio.gather(*(api.pay(str(uuid.uuid4()), reference="order-7") for _ in range(10)))
    won = [answer for answer in answers if answer.status_code == 201]
    assert len(won) == 1
    for answer in answers:
        if answer is not won[0]:
            assert problem(answer, 409, "reference_in_use")["payment_id"] == won[0].json()["id"]
    assert await work(api) == 0
    assert await stored(api.database) == (1, 1)
