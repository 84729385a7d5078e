"""The tenant's own view of its audit log."""

from kobiri.services.access import Caller
from kobiri.store import events
from kobiri.store.db import Database
from kobiri.store.events import Event


async def list_page(
    db: Database, caller: Caller, after: int, type_: str | None, subject_id: str | None, limit: int
) -> list[Event]:
    """Sealed events after the sequence number `after`, oldest first."""
    async with db.tenant_transaction(caller.tenant_id) as tx:
        return await events.list_page(tx, caller.tenant_id, caller.mode, after, type_, subject_id, limit)
