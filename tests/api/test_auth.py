"""Keys with their database: revocation and suspension within five seconds, modes, scopes, what is stored."""

from asyncio import sleep
from collections.abc import Awaitable, Callable
from datetime import timedelta
from time import monotonic

import httpx

from kobiri.domain import api_key
from kobiri.services import tenants
from tests.api.steps import PAYMENTS, gateway, problem, read
from tests.conftest import Api, ApiFactory

WITHIN_S = 5.0
SLACK_S = 10.0  # of a machine that is busy with other tests


async def get(api: Api, key: str, path: str = PAYMENTS) -> httpx.Response:
    return await api.client.get(path, headers={"x-api-key": key})


async def within(seconds: float, condition: Callable[[], Awaitable[bool]]) -> None:
    deadline = monotonic() + seconds + SLACK_S
    while not await condition():
        assert monotonic() < deadline
        await sleep(0.1)


def key_id(key: str) -> str:
    parsed = api_key.parse(key)
    assert parsed is not None
    return parsed.key_id


async def test_revoked_suspended_and_resumed_keys_are_noticed(make_api: ApiFactory) -> None:
    api = await make_api()
    db = gateway(api).db
    gone, kept, other = await api.tenant("shop"), api.key, await api.tenant("other")
    for key in (gone, kept, other):
        assert (await get(api, key)).status_code == 200
    await tenants.revoke_key(db, key_id(gone), "test")
    await tenants.suspend(db, "other", "test")

    # A process that has not seen the keys knows at once.
    fresh = await make_api()
    problem(await get(fresh, gone), 401, "unauthenticated")
    problem(await fresh.pay("k", headers={"x-api-key": other}), 403, "tenant_suspended")
    assert (await fresh.pay(headers={"x-api-key": kept})).status_code == 201

    async def noticed() -> bool:
        refused = await get(api, gone)
        stopped = await api.pay(headers={"x-api-key": other})
        return (refused.status_code, stopped.status_code) == (401, 403)

    await within(WITHIN_S, noticed)
    assert (await get(api, kept)).status_code == 200
    assert (await get(api, other)).status_code == 200  # running payments may be read

    await tenants.resume(db, "other", "test")

    async def open_again() -> bool:
        return (await api.pay(headers={"x-api-key": other})).status_code == 201

    await within(WITHIN_S, open_again)


async def test_a_suspended_tenants_finished_request_is_replayed(api: Api) -> None:
    first = await api.pay("k")
    await tenants.suspend(gateway(api).db, "shop", "test")
    api.app.state.api.access._owners.clear()
    again = await api.pay("k")
    assert (again.status_code, again.content) == (201, first.content)
    problem(await api.pay("new"), 403, "tenant_suspended")
    assert (await read(api, first.json()["id"]))["id"] == first.json()["id"]


async def test_a_key_ends_by_itself(api: Api) -> None:
    short = await api.tenant("shop", lasts=timedelta(milliseconds=300))

    async def over() -> bool:
        return (await get(api, short)).status_code == 401

    await within(1.0, over)


async def test_each_operation_needs_its_scope(api: Api) -> None:
    needed = {
        ("POST", PAYMENTS): "payments:write",
        ("GET", PAYMENTS): "payments:read",
        ("GET", f"{PAYMENTS}/x"): "payments:read",
        ("GET", "/api/v1/transactions"): "payments:read",
        ("GET", "/api/v1/webhooks/mtn/status"): "payments:read",
        ("GET", "/api/v1/events"): "events:read",
    }
    keys = {scope: await api.tenant("shop", scopes=(scope,)) for scope in api_key.SCOPES}
    for (method, path), scope in needed.items():
        for held, key in keys.items():
            answer = await api.client.request(method, path, headers={"x-api-key": key})
            if held == scope:
                assert answer.status_code not in (401, 403), (method, path, held)
            else:
                assert scope in problem(answer, 403, "scope_missing")["detail"]


async def test_a_key_works_in_its_mode_alone(api: Api) -> None:
    live = await api.tenant("shop", mode="live")
    made = (await api.pay(headers={"x-api-key": live})).json()
    assert made["mode"] == "live"
    problem(await api.client.get(f"{PAYMENTS}/{made['id']}"), 404, "not_found")
    swapped = api.key.replace("kob_test_", "kob_live_")
    problem(await get(api, swapped), 401, "unauthenticated")


async def test_the_database_holds_no_usable_key(api: Api) -> None:
    everything = await api.database.value("SELECT string_agg(k::text, '') FROM api_keys k")
    assert api.key not in everything
    parsed = api_key.parse(api.key)
    assert parsed is not None
    assert parsed.secret not in everything
    assert parsed.key_id in everything


async def test_use_is_noted_later_and_once(api: Api) -> None:
    await get(api, api.key)
    assert await api.database.value("SELECT last_used_at FROM api_keys") is None
    await api.app.state.api.access.note_use()
    assert await api.database.value("SELECT last_used_at FROM api_keys") is not None


async def test_unknown_keys_fill_no_memory(api: Api) -> None:
    for n in range(50):
        made = api_key.ApiKey("test", f"{n:012d}", "s" * 43)
        problem(await get(api, made.text), 401, "unauthenticated")
    assert len(api.app.state.api.access._owners) <= 50
