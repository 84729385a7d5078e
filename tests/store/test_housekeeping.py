"""What is purged and what stays, what is counted in place of being kept, and what is noted about keys."""

from datetime import timedelta

import pytest

from kobiri.domain.ids import PaymentId, TenantId
from kobiri.services import housekeeping
from kobiri.store import callbacks, idempotency, tenants
from kobiri.store.callbacks import Verdict
from kobiri.store.db import PLATFORM, Database
from tests.conftest import TestDatabase, make_tenant
from tests.store import builders
from tests.store.builders import DAY, insert, make_payment

# --- idempotency keys -----------------------------------------------------------------------------------------------


async def finish(database: TestDatabase, payment_id: PaymentId) -> None:
    await database.fetch(
        "UPDATE payments SET status = 'SUCCESSFUL', next_run_at = NULL, lease_token = NULL WHERE id = $1", payment_id
    )


async def keys(database: TestDatabase) -> set[str]:
    return {row["key"] for row in await database.fetch("SELECT key FROM idempotency_keys")}


async def test_a_key_is_purged_when_its_life_is_over_and_its_payment_final(
    db: Database, database: TestDatabase
) -> None:
    tenant_id, other = await builders.make_tenant(db), await builders.make_tenant(db)
    over = timedelta(seconds=-1)
    for who, key, life, final in (
        (tenant_id, "over and final", over, True),
        (other, "over and final, of another tenant", over, True),
        (tenant_id, "over and open", over, False),
        (tenant_id, "alive and final", DAY, True),
        (tenant_id, "alive and open", DAY, False),
    ):
        payment = await insert(db, make_payment(who), key, life=life)
        if final:
            await finish(database, payment.id)

    assert await housekeeping.purge_idempotency_keys(db) == 2

    assert await keys(database) == {"over and open", "alive and final", "alive and open"}
    assert await housekeeping.purge_idempotency_keys(db) == 0
    assert await database.value("SELECT count(*) FROM payments") == 5


async def test_one_key_in_another_mode_or_of_another_tenant_lives_its_own_life(
    db: Database, database: TestDatabase
) -> None:
    """Whoever purges a living key lets a repeat of its request move the money a second time."""
    mine, other = await builders.make_tenant(db), await builders.make_tenant(db)
    over = await insert(db, make_payment(mine, mode="test"), "k", life=timedelta(seconds=-1))
    living = [await insert(db, make_payment(mine, mode="live"), "k"), await insert(db, make_payment(other), "k")]
    await finish(database, over.id)

    assert await housekeeping.purge_idempotency_keys(db) == 1

    left = await database.fetch("SELECT payment_id::text FROM idempotency_keys ORDER BY payment_id")
    assert [row["payment_id"] for row in left] == [payment.id for payment in living]


async def test_a_purge_goes_in_steps_oldest_first(db: Database, database: TestDatabase) -> None:
    tenant_id = await builders.make_tenant(db)
    for number in range(5):
        payment = await insert(db, make_payment(tenant_id), f"key-{number}", life=timedelta(hours=-number - 1))
        await finish(database, payment.id)
    async with db.worker_transaction() as tx:
        assert await idempotency.purge(tx, 2) == 2
    assert await keys(database) == {"key-0", "key-1", "key-2"}


async def test_a_purged_key_may_be_used_again(db: Database, database: TestDatabase) -> None:
    tenant_id = await builders.make_tenant(db)
    payment = await insert(db, make_payment(tenant_id), "key-1", life=timedelta(seconds=-1))
    await finish(database, payment.id)
    assert await housekeeping.purge_idempotency_keys(db) == 1
    await insert(db, make_payment(tenant_id), "key-1")


# --- callbacks ------------------------------------------------------------------------------------------------------


async def keep(
    db: Database,
    tenant_id: TenantId,
    body: bytes,
    verdict: Verdict,
    payment_id: PaymentId | None = None,
    strays: int = 0,
) -> None:
    async with db.tenant_transaction(tenant_id) as tx:
        await callbacks.keep(tx, tenant_id, "mtn", verdict, payment_id, {"x": "y"}, body, strays=strays)


async def test_old_callbacks_are_purged(db: Database, database: TestDatabase) -> None:
    for body in (b"old", b"new"):
        await keep(db, PLATFORM, body, "unmatched")
    await database.fetch("UPDATE callbacks SET last_received_at = now() - interval '91 days' WHERE body = 'old'")

    assert await housekeeping.purge_callbacks(db, timedelta(days=90)) == 1

    assert [row["body"] for row in await database.fetch("SELECT body FROM callbacks")] == [b"new"]


async def test_the_same_bytes_again_only_count(db: Database, database: TestDatabase) -> None:
    for _ in range(3):
        await keep(db, PLATFORM, b"again", "refused")
    await keep(db, PLATFORM, b"again", "refused", strays=5)
    [row] = await database.fetch("SELECT times, headers, received_at < last_received_at AS later FROM callbacks")
    assert tuple(row) == (8, '{"x": "y"}', True)


@pytest.mark.parametrize("limit", ["KEPT_PER_PAYMENT", "KEPT_OF_STRANGERS"])
async def test_nobody_fills_the_disk(
    db: Database, database: TestDatabase, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    monkeypatch.setattr(callbacks, limit, 3)
    tenant_id = await builders.make_tenant(db)
    payment = await insert(db, make_payment(tenant_id))
    who, which = (tenant_id, payment.id) if limit == "KEPT_PER_PAYMENT" else (PLATFORM, None)
    for number in range(6):
        await keep(db, who, b"%d" % number, "hint" if which else "refused", which, strays=1)
    await keep(db, who, b"0", "hint" if which else "refused", which, strays=1)  # what is known still counts

    rows = await database.fetch("SELECT body, times FROM callbacks ORDER BY body")
    assert [tuple(row) for row in rows] == [(b"0", 2), (b"1", 1), (b"2", 1)]
    await keep(db, who, b"signed", "hint" if which else "refused", which)
    assert await database.value("SELECT count(*) FROM callbacks") == 4, "there is room for what is signed"


async def test_a_cap_for_strangers_leaves_room_for_what_is_genuine(
    db: Database, database: TestDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(callbacks, "KEPT_OF_STRANGERS", 1)
    tenant_id = await builders.make_tenant(db)
    payment = await insert(db, make_payment(tenant_id))
    for number in range(3):
        await keep(db, PLATFORM, b"%d" % number, "refused", strays=1)
        await keep(db, PLATFORM, b"%d" % number, "unmatched", strays=1)  # another verdict has a cap of its own
        await keep(db, tenant_id, b"%d" % number, "unmatched")  # a merchant may sign for its own account
    assert await database.value("SELECT count(*) FROM callbacks") == 3
    await keep(db, tenant_id, b"genuine", "applied", payment.id)
    await keep(db, PLATFORM, b"genuine", "unmatched")  # its provider signed it
    assert await database.value("SELECT count(*) FROM callbacks") == 5


async def test_health_counts_a_tenants_own_callbacks_of_a_day(db: Database, database: TestDatabase) -> None:
    tenant_id, other = await builders.make_tenant(db), await builders.make_tenant(db)
    for who in (tenant_id, other):
        payment = await insert(db, make_payment(who))
        await keep(db, who, b"paid", "applied", payment.id, strays=2)
        await keep(db, who, b"hint", "hint", payment.id)
        await keep(db, who, b"old", "hint", payment.id)
    await database.fetch("UPDATE callbacks SET last_received_at = now() - interval '25 hours' WHERE body = 'old'")

    async with db.tenant_transaction(tenant_id) as tx:
        found = await callbacks.health(tx, tenant_id, "test", "mtn")
        nothing = await callbacks.health(tx, tenant_id, "test", "another")
    assert (found.applied, found.hints) == (2, 1)
    assert found.last_received_at is not None
    assert (nothing.applied, nothing.hints, nothing.last_received_at) == (0, 0, None)


# --- keys -----------------------------------------------------------------------------------------------------------


async def test_the_use_of_keys_is_noted_across_tenants(db: Database, database: TestDatabase) -> None:
    for slug in ("first", "second", "unused"):
        await make_tenant(database, slug)
    rows = await database.fetch("SELECT key_id, slug FROM api_keys JOIN tenants ON id = tenant_id")
    used = [row["key_id"] for row in rows if row["slug"] != "unused"]

    async with db.gate_transaction() as tx:
        await tenants.note_key_use(tx, [*used, "no such key"])

    noted = await database.fetch("SELECT key_id FROM api_keys WHERE last_used_at IS NOT NULL")
    assert {row["key_id"] for row in noted} == set(used)


async def test_a_tenants_keys_are_its_own(db: Database, database: TestDatabase) -> None:
    made = [await make_tenant(database, slug) for slug in ("first", "second")]
    for text, tenant_id in made:
        async with db.operator_transaction() as tx:
            (key,) = await tenants.list_keys(tx, TenantId(tenant_id))
        assert key.key_id == text.split("_")[2]


async def test_a_key_is_found_by_its_id_alone_before_the_tenant_is_known(db: Database, database: TestDatabase) -> None:
    text, tenant_id = await make_tenant(database, "first", throttle_limit=7, scopes=("events:read",))
    key_id = text.split("_")[2]
    async with db.gate_transaction() as tx:
        owner = await tenants.find_key(tx, key_id)
        assert await tenants.find_key(tx, key_id.swapcase()) is None
        assert await tenants.find_key(tx, "%") is None
    assert owner is not None
    assert (owner.tenant_id, owner.slug, owner.tenant_status, owner.mode) == (tenant_id, "first", "active", "test")
    assert (owner.throttle_limit, set(owner.scopes)) == (7, {"events:read"})
    assert len(owner.secret_hmac) == 32
