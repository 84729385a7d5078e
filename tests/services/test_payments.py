"""The payments service, called as the API calls it: create, get, list."""

import asyncio
import uuid
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import msgspec
import pytest

from kobiri.domain.errors import (
    IdempotencyKeyReused,
    NetworkUnknown,
    NoRoute,
    NotFound,
    ReferenceInUse,
    RouteClosed,
    TenantSuspended,
)
from kobiri.domain.ids import PaymentId, TenantId, new_id
from kobiri.domain.money import Money
from kobiri.domain.msisdn import Msisdn
from kobiri.domain.payment import Status
from kobiri.services import payments
from kobiri.services.access import Caller
from kobiri.services.gateway import Gateway
from kobiri.services.payments import Order, Reply
from kobiri.store.payments import Author, Filter, KeyUse
from tests.api.steps import asked_to_pay, charged, eventually, gateway, sends, stored
from tests.conftest import Api, ApiFactory, Simulator

ORDER = Order(money=Money(1_000, "ZMW"), payer=Msisdn("260961234567"))


def caller(api: Api, **changes: Any) -> Caller:
    known = Caller(
        tenant_id=TenantId(api.tenant_id),
        slug="shop",
        mode="test",
        scopes=frozenset(),
        key_id="A" * 12,
        suspended=False,
        tenant_throttle_limit=None,
        key_throttle_limit=None,
    )
    return replace(known, **changes)


def use(key: str | None = None, fingerprint: bytes = b"one") -> KeyUse:
    return KeyUse(key or str(uuid.uuid4()), "POST", "/api/v1/payments", fingerprint, timedelta(days=1))


async def create(api: Api, order: Order = ORDER, *, respond_async: bool = False, **who: Any) -> Reply:
    return await payments.create(
        gateway(api), caller(api, **who), order, use(), Author("test"), respond_async=respond_async
    )


async def second_asked(simulator: Simulator) -> bool:
    """Whether the provider has got the second request to pay."""
    return await asked_to_pay(simulator) == 2


async def test_create_records_sends_and_answers(api: Api, simulator: Simulator) -> None:
    reply = await create(api)
    assert (reply.status_code, reply.replayed) == (201, False)
    assert reply.payment.status is Status.PENDING
    assert reply.payment.accepted_at is not None
    assert msgspec.json.decode(reply.body)["id"] == reply.payment.id
    await charged(simulator, reply.payment.provider_reference)


async def test_what_is_answered_is_what_is_stored(api: Api) -> None:
    reply = await create(api, replace(ORDER, reference="r", description="Two books", metadata={"a": "b"}))
    assert await payments.get(gateway(api), caller(api), reply.payment.id) == reply.payment


async def test_the_provider_reference_is_committed_before_the_first_byte_leaves(api: Api, simulator: Simulator) -> None:
    await create(api)  # the token is there from now on
    await simulator.fault(kind="latency", operation="create", ms=1_000)
    running = asyncio.create_task(create(api))
    await eventually(lambda: second_asked(simulator))
    sent = [one for one in await simulator.requests(path="requesttopay") if one["method"] == "POST"]
    held = await api.database.fetch(
        "SELECT attempt, status FROM payments WHERE provider_reference = $1 AND accepted_at IS NULL",
        uuid.UUID(sent[-1]["reference"]),
    )
    assert [(row["attempt"], row["status"]) for row in held] == [(1, "PENDING")]
    await running


async def test_no_transaction_is_open_while_the_provider_is_asked(api: Api, simulator: Simulator) -> None:
    await create(api)
    await simulator.fault(kind="latency", operation="create", ms=800)
    running = asyncio.create_task(create(api))
    await eventually(lambda: second_asked(simulator))
    busy = await api.database.value(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
        " AND application_name = 'kobiri' AND xact_start IS NOT NULL"
    )
    assert not running.done()
    assert busy == 0
    await running


async def test_the_same_key_sends_once_and_another_order_under_it_is_refused(api: Api, simulator: Simulator) -> None:
    used = use("k")
    first, second = [
        await payments.create(gateway(api), caller(api), ORDER, used, Author("t"), respond_async=False)
        for _ in range(2)
    ]
    assert (second.payment.id, second.body, second.replayed) == (first.payment.id, first.body, True)
    with pytest.raises(IdempotencyKeyReused):
        await payments.create(gateway(api), caller(api), ORDER, use("k", b"two"), Author("t"), respond_async=False)
    assert len(await sends(simulator, first.payment.provider_reference)) == 1


async def test_respond_async_records_without_sending(api: Api, simulator: Simulator) -> None:
    reply = await create(api, respond_async=True)
    assert (reply.status_code, reply.payment.attempt) == (202, 0)
    assert await sends(simulator, reply.payment.provider_reference) == []


REFUSED: list[tuple[Callable[[Order], Order], dict[str, Any], type[Exception]]] = [
    (lambda order: order, {"suspended": True}, TenantSuspended),
    (lambda order: replace(order, network="airtel"), {}, NoRoute),
    (lambda order: replace(order, money=Money(1, "KES")), {}, NoRoute),
    (lambda order: replace(order, payer=Msisdn("254712345678")), {}, NetworkUnknown),
]


@pytest.mark.parametrize(
    ("change", "who", "error"), REFUSED, ids=["suspended", "no network", "no currency", "unknown network"]
)
async def test_what_cannot_go_is_refused_and_not_stored(
    api: Api, change: Callable[[Order], Order], who: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error):
        await create(api, change(ORDER), **who)
    assert await stored(api.database) == (0, 0)


async def test_a_mode_that_no_account_serves_has_no_road(make_api: ApiFactory) -> None:
    api = await make_api(mtn_mode="test")
    with pytest.raises(NoRoute):
        await create(api, mode="live")


async def test_a_closed_road_is_told_with_a_time(make_api: ApiFactory) -> None:
    api = await make_api(mtn_enabled=False)
    with pytest.raises(RouteClosed) as caught:
        await create(api)
    assert caught.value.retry_after_s


async def test_a_reference_is_held_by_one_payment_at_a_time(api: Api) -> None:
    first = await create(api, replace(ORDER, reference="order-7"))
    with pytest.raises(ReferenceInUse) as caught:
        await create(api, replace(ORDER, reference="order-7"))
    assert caught.value.members == {"payment_id": first.payment.id}
    await create(api, replace(ORDER, reference="order-7"), mode="live")
    await create(api, replace(ORDER, reference="order-7"), tenant_id=TenantId(new_id()))


async def test_get_knows_neither_absent_payments_nor_other_tenants_nor_other_modes(api: Api) -> None:
    made = (await create(api)).payment
    strangers = [
        (caller(api), PaymentId(new_id())),
        (caller(api), None),
        (caller(api, mode="live"), made.id),
        (caller(api, tenant_id=TenantId(new_id())), made.id),
    ]
    for who, payment_id in strangers:
        with pytest.raises(NotFound) as caught:
            await payments.get(gateway(api), who, payment_id)
        assert caught.value.detail == "There is no payment with this id."


async def test_the_list_is_newest_first_and_behind_the_wall(api: Api) -> None:
    made = [(await create(api)).payment.id for _ in range(3)]
    await create(api, mode="live")
    await create(api, tenant_id=TenantId(new_id()))
    parts: Gateway = gateway(api)
    listed = await payments.list_page(parts, caller(api), Filter(), None, 10)
    assert [payment.id for payment in listed] == made[::-1]
    rest = await payments.list_page(parts, caller(api), Filter(), made[1], 10)
    assert [payment.id for payment in rest] == [made[0]]
    both = await payments.list_with_events(parts, caller(api), Filter(), None, 1)
    assert [(payment.id, [event.type for event in events]) for payment, events in both] == [
        (made[2], ["payment.created", "payment.accepted"])
    ]


async def test_a_client_that_goes_away_leaves_a_finished_payment(api: Api, simulator: Simulator) -> None:
    await create(api)
    await simulator.fault(kind="latency", operation="create", ms=300)
    running = asyncio.create_task(create(api))
    await eventually(lambda: api.database.value("SELECT count(*) = 2 FROM payments"))
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    await eventually(lambda: api.database.value("SELECT count(accepted_at) = 2 FROM payments"))
    assert await api.database.value("SELECT count(*) FROM idempotency_keys WHERE status_code = 201") == 2
