"""Quotas: floods of bad keys by address, all else by tenant and key."""

import re
from asyncio import sleep
from time import monotonic
from typing import Any

import httpx
import pytest

from tests.api.steps import PAYMENTS, problem
from tests.conftest import Api, ApiFactory

POLICY = re.compile(r'"default";q=([1-9][0-9]*);w=([1-9][0-9]*)')
LEFT = re.compile(r'"default";r=(0|[1-9][0-9]*);t=([1-9][0-9]*)')


def quota(answer: httpx.Response) -> tuple[int, int, int, int]:
    """Limit, window, remaining and reset, of headers that parse as structured fields."""
    policy, left = POLICY.fullmatch(answer.headers["ratelimit-policy"]), LEFT.fullmatch(answer.headers["ratelimit"])
    assert policy, answer.headers
    assert left, answer.headers
    return int(policy[1]), int(policy[2]), int(left[1]), int(left[2])


def refused(answer: httpx.Response, limit: int) -> None:
    body = problem(answer, 429, "too_many_requests")
    assert body["retryable"] is True
    shown_limit, window, remaining, reset = quota(answer)
    assert (shown_limit, remaining) == (limit, 0)
    assert int(answer.headers["retry-after"]) >= reset
    assert reset <= window


async def get(api: Api, key: str | None = None, **headers: str) -> httpx.Response:
    sent = {"x-api-key": key or api.key} | {name.replace("_", "-"): value for name, value in headers.items()}
    return await api.client.get(PAYMENTS, headers=sent)


def client_at(api: Api, peer: str) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(app=api.app, client=(peer, 1))
    return httpx.AsyncClient(transport=transport, base_url="http://api.test")


async def test_a_tenant_has_a_quota_over_all_its_keys(make_api: ApiFactory) -> None:
    api = await make_api(throttle_limit=4)
    second, stranger = await api.tenant("shop"), await api.tenant("other")
    left = [quota(await get(api, key))[2] for key in (api.key, second, api.key, second)]
    assert left == [3, 2, 1, 0]
    for key in (api.key, second):
        refused(await get(api, key), 4)
    refused(await api.pay(), 4)
    assert (await get(api, stranger)).status_code == 200


async def test_tenants_and_keys_may_have_their_own(make_api: ApiFactory) -> None:
    api = await make_api(throttle_limit=3)
    narrow = await api.tenant("shop", throttle_limit=2)
    big = await api.tenant("big")
    await api.database.fetch("UPDATE tenants SET throttle_limit = 6 WHERE slug = 'big'")
    assert [(await get(api, narrow)).status_code for _ in range(3)] == [200, 200, 429]
    assert (await get(api)).status_code == 200
    assert [(await get(api, big)).status_code for _ in range(7)] == [200] * 6 + [429]


async def test_each_key_has_its_own(make_api: ApiFactory) -> None:
    api = await make_api(throttle_limit=100)
    narrow = [await api.tenant("shop", throttle_limit=2) for _ in range(2)]
    for key in narrow:
        assert [(await get(api, key)).status_code for _ in range(3)] == [200, 200, 429]


async def test_the_narrower_quota_is_shown(make_api: ApiFactory) -> None:
    api = await make_api(throttle_limit=100)
    narrow = await api.tenant("shop", throttle_limit=5)
    assert quota(await get(api, narrow))[:3] == (5, 60, 4)


async def test_the_window_passes(make_api: ApiFactory) -> None:
    api = await make_api(throttle_limit=1, throttle_ttl=1_000)
    assert (await get(api)).status_code == 200
    deadline = monotonic() + 20
    while (await get(api)).status_code != 200:
        assert monotonic() < deadline
        await sleep(0.1)


async def test_a_flood_of_bad_keys_is_stopped_by_address(make_api: ApiFactory) -> None:
    api = await make_api(throttle_limit=5)
    bad: list[dict[str, Any]] = [
        {"x-api-key": "nonsense"},
        {},
        {"authorization": "Bearer x"},
        {"x-api-key": api.key, "x-tenant-id": "other"},
        {"x-api-key": api.key.swapcase()},
    ]
    async with client_at(api, "198.51.100.9") as flood, client_at(api, "198.51.100.10") as neighbour:
        codes = [(await flood.get(PAYMENTS, headers=headers)).status_code for headers in bad]
        assert codes == [401, 401, 401, 403, 401]
        refused(await flood.get(PAYMENTS, headers=bad[0]), 5)
        refused(await flood.get("/api/v1/events", headers=bad[0]), 5)
        assert (await neighbour.get(PAYMENTS, headers={"x-api-key": api.key})).status_code == 200
        assert (await flood.get("/health/live")).status_code == 200
        assert (await flood.get("/health/ready")).status_code == 200
        lied = {"x-api-key": "nonsense", "x-forwarded-for": "203.0.113.77"}
        refused(await flood.get(PAYMENTS, headers=lied), 5)


@pytest.mark.parametrize(
    ("peers", "one"),
    [
        (["2001:db8:7:7::1", "2001:db8:7:7::2", "2001:0db8:7:7:ffff::3"], True),
        (["192.0.2.7", "::ffff:192.0.2.7", "::ffff:c000:207"], True),
        (["2001:db8:7:7::1", "2001:db8:7:8::1", "2001:db8:8:7::1"], False),
        (["192.0.2.7", "192.0.2.8", "::ffff:192.0.2.9"], False),
    ],
    ids=["one network", "one mapped address", "three networks", "three addresses"],
)
async def test_one_customer_is_one_address(make_api: ApiFactory, peers: list[str], one: bool) -> None:
    api = await make_api(throttle_limit=2)
    codes = []
    for peer in peers:
        async with client_at(api, peer) as client:
            codes.append((await client.get(PAYMENTS)).status_code)
    assert codes == [401, 401, 429 if one else 401]


async def test_behind_a_proxy_the_client_is_counted_and_not_the_proxy(make_api: ApiFactory) -> None:
    api = await make_api(throttle_limit=2, trusted_proxies="10.0.0.0/8")
    async with client_at(api, "10.0.0.1") as proxy:
        for _ in range(3):
            last = await proxy.get(PAYMENTS, headers={"x-forwarded-for": "1.2.3.4, 198.51.100.9"})
        refused(last, 2)
        assert (await proxy.get(PAYMENTS, headers={"x-forwarded-for": "198.51.100.10"})).status_code == 401
        lied = await proxy.get(PAYMENTS, headers={"x-forwarded-for": "198.51.100.77, 198.51.100.9"})
        refused(lied, 2)


async def test_zero_switches_it_off(make_api: ApiFactory) -> None:
    api = await make_api(throttle_limit=0)
    async with client_at(api, "198.51.100.9") as flood:
        codes = {(await flood.get(PAYMENTS)).status_code for _ in range(150)}
    assert codes == {401}
    for _ in range(120):
        answer = await get(api)
    assert answer.status_code == 200
    assert "ratelimit" not in answer.headers
    narrow = await api.tenant("shop", throttle_limit=1)  # what somebody set on purpose still holds
    assert [(await get(api, narrow)).status_code for _ in range(2)] == [200, 429]
