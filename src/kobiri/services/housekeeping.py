"""Keep the books short and sealed; prove that nobody changed them."""

from dataclasses import dataclass
from datetime import timedelta

import structlog

from kobiri.domain.errors import NotFound
from kobiri.store import callbacks, events, idempotency, tenants
from kobiri.store.db import Database, Tx
from kobiri.store.tenants import Tenant

log = structlog.get_logger(__name__)

PURGED_AT_ONCE = 1_000


async def seal_events(db: Database) -> int:
    """Add what is new to each tenant's chain; how many events."""
    async with db.worker_transaction() as tx:
        return await events.seal(tx)


async def purge_idempotency_keys(db: Database) -> int:
    """Delete keys whose life is over and whose payment is final; how many."""
    async with db.worker_transaction() as tx:
        return await idempotency.purge(tx, PURGED_AT_ONCE)


async def purge_callbacks(db: Database, retention: timedelta) -> int:
    """Delete callbacks past their retention; how many."""
    async with db.worker_transaction() as tx:
        return await callbacks.purge(tx, retention, PURGED_AT_ONCE)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the check of one tenant's chain found. `broken` None: every link holds."""

    tenant: str
    links: int
    head: str | None
    broken: str | None


async def verify_events(db: Database, slug: str | None = None, head: str | None = None) -> list[Verdict]:
    """Check the chains of all tenants, or of one, from their first link.

    `head` is a hash that was kept elsewhere: it must still be in the chain. Raises NotFound.
    """
    async with db.operator_transaction() as tx:
        known = await tenants.list_tenants(tx)
        chosen = [tenant for tenant in known if slug in (None, tenant.slug)]
        if slug is not None and not chosen:
            raise NotFound(f"There is no tenant {slug!r}; kobiri tenants list shows all.")
        return [await _verify(tx, tenant, bytes.fromhex(head) if head else None) for tenant in chosen]


async def _verify(tx: Tx, tenant: Tenant, kept_head: bytes | None) -> Verdict:
    previous, links, seen_head, broken = b"", 0, kept_head is None, None
    async for link in events.chain(tx, tenant.id):
        if link.sequence != links + 1:
            broken = f"link {links + 1} is missing: after {links} comes {link.sequence}"
        elif link.event is None:
            broken = f"link {link.sequence}: event {link.event_id} is gone"
        elif link.hash_after(previous) != link.stored_hash:
            broken = f"link {link.sequence}: event {link.event_id} is not what was sealed"
        if broken:
            break
        previous, links = link.stored_hash, link.sequence
        seen_head = seen_head or previous == kept_head
    if broken is None and not seen_head:
        broken = "the head that was kept elsewhere is not in the chain: it was rewritten or cut"
    if broken is None:
        strays = await events.strays(tx, tenant.id)
        gone = await events.gone_before_sealing(tx, tenant.id)
        if strays:
            broken = f"event {strays[0]} was put in behind the chain's back"
        elif gone:
            broken = f"event {gone[0]} was deleted before it was sealed"
    return Verdict(tenant.slug, links, previous.hex() or None, broken)
