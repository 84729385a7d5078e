"""Rows for the tests of the store."""

import uuid
from asyncio import sleep
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from time import monotonic
from typing import Any

from kobiri.domain.ids import LeaseToken, PaymentId, TenantId, new_id, new_provider_reference
from kobiri.domain.money import Money
from kobiri.domain.msisdn import Msisdn
from kobiri.domain.payment import Payment, Status, created
from kobiri.services import tenants
from kobiri.store import payments
from kobiri.store.db import Database, Tx
from kobiri.store.payments import Author, KeyUse, Read
from tests.conftest import TestDatabase

AUTHOR = Author("test", "request-1")
MINUTE = timedelta(minutes=1)
DAY = timedelta(days=1)
LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)


async def make_tenant(db: Database, slug: str | None = None) -> TenantId:
    """A tenant of its own slug unless told otherwise."""
    slug = slug or f"shop-{uuid.uuid4().hex[:8]}"
    return (await tenants.create(db, slug, slug, None, "test")).id


def make_payment(tenant_id: TenantId, **over: object) -> Payment:
    """A payment that is about to be sent for the first time."""
    fields: dict[str, Any] = over
    payment = Payment(
        id=PaymentId(new_id()),
        tenant_id=tenant_id,
        mode="test",
        kind="collection",
        status=Status.PENDING,
        money=Money(1_000, "ZMW"),
        payer=Msisdn("260961234567"),
        network="mtn",
        provider="mtn",
        account_fingerprint="somewhere",
        provider_reference=new_provider_reference(),
        send_before=LONG_AGO,
        expires_at=LONG_AGO,
        created_at=LONG_AGO,
        attempt=1,
        lease_token=LeaseToken(new_id()),
    )
    return replace(payment, **fields)


async def insert_once(
    tx: Tx,
    payment: Payment,
    key: str | None = None,
    *,
    first_run_in: timedelta = MINUTE,
    life: timedelta = DAY,
) -> datetime | None:
    """T1."""
    use = KeyUse(key or new_id(), "POST", "/api/v1/payments", b"fingerprint", life)
    return await payments.insert_once(
        tx,
        payment,
        use,
        created(payment, "prefix", ()),
        AUTHOR,
        send_within=MINUTE,
        expires_after=15 * MINUTE,
        first_run_in=first_run_in,
    )


async def insert(
    db: Database, payment: Payment, key: str | None = None, *, first_run_in: timedelta = MINUTE, life: timedelta = DAY
) -> Payment:
    """T1, committed; the payment as it then stands."""
    async with db.tenant_transaction(payment.tenant_id) as tx:
        assert await insert_once(tx, payment, key, first_run_in=first_run_in, life=life)
    return (await get(db, payment)).payment


async def get(db: Database, payment: Payment) -> Read:
    """The payment as it stands."""
    async with db.tenant_transaction(payment.tenant_id) as tx:
        read = await payments.get(tx, payment.tenant_id, payment.id)
    assert read is not None
    return read


async def lock_awaited(database: TestDatabase, waiting: int = 1) -> None:
    """Wait until so many transactions of this database wait for another one."""
    deadline = monotonic() + 60
    sql = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    while await database.value(sql) < waiting:
        assert monotonic() < deadline, "nobody waits"
        await sleep(0.01)
