"""Lists: order, pages, filters; nothing skipped, nothing twice, nothing of the other mode."""

import asyncio
from datetime import UTC, datetime
from typing import Any

import pytest

from kobiri.services import housekeeping
from tests.api.steps import PAYMENTS, gateway, problem, until
from tests.conftest import Api, Simulator

TRANSACTIONS, EVENTS = "/api/v1/transactions", "/api/v1/events"


async def page(api: Api, path: str, key: str | None = None, **query: Any) -> dict[str, Any]:
    answer = await api.client.get(path, params=query, headers={"x-api-key": key or api.key})
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def pages(api: Api, path: str, **query: Any) -> list[dict[str, Any]]:
    """All pages, one behind the other."""
    found: list[dict[str, Any]] = []
    cursor: str | None = None
    while True:
        one = await page(api, path, **query, **({"cursor": cursor} if cursor else {}))
        found += one["data"]
        cursor = one["next_cursor"]
        if cursor is None or not one["data"]:
            return found


async def make(api: Api, count: int, **body: Any) -> list[str]:
    """Payments that wait for the worker."""
    answers = [await api.pay(headers={"prefer": "respond-async"}, **body) for _ in range(count)]
    return [answer.json()["id"] for answer in answers]


async def test_payments_come_newest_first_in_pages(api: Api) -> None:
    made = await make(api, 7)
    assert [one["id"] for one in await pages(api, PAYMENTS, limit=3)] == made[::-1]
    assert [one["id"] for one in await pages(api, PAYMENTS, limit=7)] == made[::-1]
    last = await page(api, PAYMENTS, limit=7)
    assert last["next_cursor"] is None
    assert [one["payment"]["id"] for one in await pages(api, TRANSACTIONS, limit=2)] == made[::-1]
    assert (await page(api, PAYMENTS))["data"][0] == (await api.client.get(f"{PAYMENTS}/{made[-1]}")).json()


async def test_while_others_insert_none_is_skipped_or_doubled(api: Api) -> None:
    before = await make(api, 20)
    stop = asyncio.Event()

    async def insert() -> None:
        while not stop.is_set():
            await make(api, 1)

    writers = [asyncio.create_task(insert()) for _ in range(2)]
    for path in (PAYMENTS, TRANSACTIONS):
        seen = [one.get("payment", one)["id"] for one in await pages(api, path, limit=3)]
        assert len(seen) == len(set(seen))
        assert [one for one in seen if one in before] == before[::-1]
        assert seen == sorted(seen, reverse=True)
    stop.set()
    await asyncio.gather(*writers)


async def test_filters(api: Api) -> None:
    middle = datetime.now(UTC)
    # This payer's prompt stays unanswered, however often the provider is asked.
    (waiting,) = await make(api, 1, reference="order-1", payer="260960000453")
    paid = (await api.pay(reference="order-2")).json()["id"]
    await until(api, paid, "SUCCESSFUL")
    await api.database.fetch("UPDATE payments SET created_at = created_at - interval '1 day' WHERE id = $1", waiting)

    async def ids(**query: Any) -> list[str]:
        listed = [one["id"] for one in await pages(api, PAYMENTS, **query)]
        assert [one["payment"]["id"] for one in await pages(api, TRANSACTIONS, **query)] == listed
        return listed

    stamp = middle.isoformat()
    assert await ids(status="SUCCESSFUL") == [paid]
    assert await ids(status="FAILED") == []
    assert await ids(reference="order-1") == [waiting]
    assert await ids(reference="order") == []
    assert await ids(reference="' OR 1=1 --") == []
    assert await ids(provider="mtn") == [paid, waiting]
    assert await ids(provider="airtel") == []
    assert await ids(created_from=stamp) == [paid]
    assert await ids(created_before=stamp) == [waiting]
    assert await ids(created_from=middle.replace(microsecond=0).isoformat().replace("+00:00", "Z")) == [paid]
    assert await ids(created_from=stamp, status="PENDING") == []


async def test_a_time_span_is_half_open(api: Api) -> None:
    (made,) = await make(api, 1)
    await api.database.fetch("UPDATE payments SET created_at = '2026-02-01 08:00:00+00'")
    for query, expected in (
        ({"created_from": "2026-02-01T08:00:00Z"}, [made]),
        ({"created_before": "2026-02-01T08:00:00Z"}, []),
        ({"created_from": "2026-02-01T10:00:00+02:00"}, [made]),
        ({"created_from": "2026-02-01T08:00:00.000001Z"}, []),
    ):
        assert [one["id"] for one in (await page(api, PAYMENTS, **query))["data"]] == expected


async def test_a_transaction_carries_its_whole_history(api: Api) -> None:
    paid = (await api.pay()).json()["id"]
    done = await until(api, paid, "SUCCESSFUL")
    (one,) = (await page(api, TRANSACTIONS))["data"]
    assert one["payment"] == done
    assert [event["type"] for event in one["events"]] == ["payment.created", "payment.accepted", "payment.succeeded"]
    assert one["events"][0]["actor"].startswith("api_key:")
    assert one["events"][0]["data"]["amount"] == "10.00"
    assert "260961234567" not in str(one["events"])


CURSORS = [(PAYMENTS, TRANSACTIONS), (TRANSACTIONS, PAYMENTS), (EVENTS, PAYMENTS), (PAYMENTS, EVENTS)]


async def test_a_cursor_is_good_for_one_list_tenant_mode_and_filter(api: Api) -> None:
    await make(api, 3)
    await housekeeping.seal_events(gateway(api).db)
    other, live = await api.tenant("other"), await api.tenant("shop", mode="live")

    async def refused(path: str, cursor: str, key: str | None = None, **query: Any) -> None:
        answer = await api.client.get(path, params={"cursor": cursor} | query, headers={"x-api-key": key or api.key})
        problem(answer, 400, "invalid_cursor")

    for path in (PAYMENTS, TRANSACTIONS, EVENTS):
        cursor = (await page(api, path, limit=1))["next_cursor"]
        assert (await page(api, path, limit=2, cursor=cursor))["data"]
        await refused(path, cursor, other)
        await refused(path, cursor, live)
        forged = ("B" if cursor[0] == "A" else "A") + cursor[1:]
        for tampered in (cursor[:-2], cursor + "AA", forged, "x", "é", "====", "A" * 999, cursor[::-1]):
            await refused(path, tampered)
    for made_for, used_at in CURSORS:
        await refused(used_at, (await page(api, made_for, limit=1))["next_cursor"])
    cursor = (await page(api, PAYMENTS, limit=1, status="PENDING"))["next_cursor"]
    await refused(PAYMENTS, cursor)
    await refused(PAYMENTS, cursor, status="FAILED")
    await refused(PAYMENTS, cursor, status="PENDING", provider="mtn")
    cursor = (await page(api, EVENTS, limit=1, type="payment.created"))["next_cursor"]
    await refused(EVENTS, cursor)
    await refused(EVENTS, cursor, type="payment.accepted")
    too_long = await api.client.get(PAYMENTS, params={"cursor": "A" * 5_000})
    assert too_long.status_code == 400


async def test_events_are_sealed_numbered_without_gaps_and_oldest_first(api: Api) -> None:
    paid = (await api.pay()).json()["id"]
    await until(api, paid, "SUCCESSFUL")
    assert (await page(api, EVENTS))["data"] == []  # not sealed yet
    db = gateway(api).db
    while await housekeeping.seal_events(db):
        pass
    listed = await pages(api, EVENTS, limit=2)
    assert [event["sequence"] for event in listed] == list(range(1, len(listed) + 1))
    assert [event["type"] for event in listed] == [
        "tenant.created",
        "api_key.created",
        "payment.created",
        "payment.accepted",
        "payment.succeeded",
    ]
    assert {event["subject_id"] for event in listed[2:]} == {paid}
    assert "260961234567" not in str(listed)
    only = await pages(api, EVENTS, type="payment.succeeded", subject_id=paid)
    assert [event["sequence"] for event in only] == [5]
    # The last cursor is good for what comes later.
    rest = (await page(api, EVENTS))["next_cursor"]
    assert (await page(api, EVENTS, cursor=rest))["data"] == []
    await make(api, 1)
    await housekeeping.seal_events(db)
    assert [event["sequence"] for event in (await page(api, EVENTS, cursor=rest))["data"]] == [6]
    assert all(verdict.broken is None for verdict in await housekeeping.verify_events(db))


async def test_modes_do_not_see_each_other(api: Api) -> None:
    live = await api.tenant("shop", mode="live")
    of_test = (await api.pay()).json()
    of_live = (await api.pay(headers={"x-api-key": live})).json()
    assert (of_test["mode"], of_live["mode"]) == ("test", "live")
    await housekeeping.seal_events(gateway(api).db)
    for key, own, foreign in ((api.key, of_test, of_live), (live, of_live, of_test)):
        assert [one["id"] for one in (await page(api, PAYMENTS, key))["data"]] == [own["id"]]
        assert [one["payment"]["id"] for one in (await page(api, TRANSACTIONS, key))["data"]] == [own["id"]]
        events = (await page(api, EVENTS, key))["data"]
        subjects = {event["subject_id"] for event in events if event["type"].startswith("payment.")}
        assert subjects == {own["id"]}
        assert [event["type"] for event in events].count("api_key.created") == 2  # the tenant's own facts: in both
        answer = await api.client.get(f"{PAYMENTS}/{foreign['id']}", headers={"x-api-key": key})
        problem(answer, 404, "not_found")
        assert (await page(api, EVENTS, key, subject_id=foreign["id"]))["data"] == []


async def test_the_providers_word_stands_beside_an_open_payment(api: Api, simulator: Simulator) -> None:
    await simulator.fault(kind="error_before", operation="token", status=503, code="SERVICE_UNAVAILABLE")
    assert (await api.pay()).status_code == 202
    (one,) = (await page(api, TRANSACTIONS))["data"]
    assert one["payment"]["status"] == "PENDING"
    assert "503" in one["events"][-1]["data"]["reason"]


@pytest.mark.parametrize("count", [50, 51])
async def test_the_default_page_has_fifty(api: Api, count: int) -> None:
    await api.database.fetch(
        "INSERT INTO payments (tenant_id, id, mode, kind, status, amount_minor, currency, payer, network, provider,"
        " account_fingerprint, provider_reference, attempt, send_before, expires_at, next_run_at)"
        " SELECT $1, gen_random_uuid(), 'test', 'collection', 'PENDING', 1, 'ZMW', '260961234567', 'mtn', 'mtn', 'x',"
        " gen_random_uuid(), 0, now(), now(), now() FROM generate_series(1, $2)",
        api.tenant_id,
        count,
    )
    listed = await page(api, PAYMENTS)
    assert len(listed["data"]) == 50
    assert (listed["next_cursor"] is None) == (count == 50)
