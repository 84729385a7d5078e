"""A body that does not arrive holds no place for ever."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from kobiri.api import observe
from tests.conftest import Api


async def test_a_body_that_stops_halfway_is_given_up(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(observe, "BODY_WITHIN_S", 0.2)

    async def trickle() -> AsyncIterator[bytes]:
        yield b'{"amount": '
        await asyncio.Event().wait()

    headers = {"content-type": "application/json", "idempotency-key": "slow"}
    async with asyncio.timeout(10):
        answer = await api.client.post("/api/v1/payments", content=trickle(), headers=headers)

    assert (answer.status_code, answer.json()["code"]) == (408, "request_timeout")
    assert await api.database.value("SELECT count(*) FROM idempotency_keys") == 0
    assert (await api.pay("slow")).status_code == 201
