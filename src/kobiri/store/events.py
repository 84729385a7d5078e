"""Rows of `events` and their seals. A payment's events are inserted with it, in `payments`."""

import hashlib
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from kobiri.domain.ids import EventId, TenantId, new_id
from kobiri.domain.payment import Mode
from kobiri.store.db import Record, Tx

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Event:
    """One fact. `sequence` counts per tenant, without gaps; None while the event is not sealed yet."""

    id: EventId
    sequence: int | None
    mode: Mode | None
    type: str
    subject_id: str
    actor: str
    data: Mapping[str, Any]
    request_id: str | None
    created_at: datetime


async def insert(
    tx: Tx, tenant_id: TenantId, type_: str, subject_id: str, actor: str, data: Mapping[str, object]
) -> None:
    """Write down a fact that is not about a payment."""
    await tx.execute(
        "INSERT INTO events (tenant_id, id, type, subject_id, actor, data) VALUES ($1, $2, $3, $4, $5, $6::jsonb)",
        tenant_id,
        new_id(),
        type_,
        subject_id,
        actor,
        json.dumps(data),
    )


COLUMNS = "e.tenant_id, e.id, e.mode, e.type, e.subject_id, e.actor, e.data, e.request_id, e.created_at"

# Sequence numbers live in the seals, MAX_BATCH events at most in one: so a page reads the few rows that hold it.
# Facts about the tenant itself (its keys, its suspension) have no mode and are shown in both. OFFSET 0 holds the
# planner to one look-up by primary key for each event: without statistics it would compare all with all.
MAX_BATCH = 1_000
STRAYS_TIMEOUT_S = 600

LIST = f"""
SELECT {COLUMNS}, s.first_seq + u.position - 1 AS sequence
FROM event_seals s
CROSS JOIN LATERAL unnest(s.event_ids) WITH ORDINALITY AS u (event_id, position)
CROSS JOIN LATERAL (SELECT {COLUMNS} FROM events e WHERE tenant_id = $1 AND id = u.event_id OFFSET 0) e
WHERE s.tenant_id = $1 AND s.first_seq > $3::bigint - $7::bigint AND s.first_seq + u.position - 1 > $3
  AND (e.mode = $2 OR e.mode IS NULL)
  AND ($4::text IS NULL OR e.type = $4)
  AND ($5::text IS NULL OR e.subject_id = $5)
ORDER BY s.first_seq, u.position LIMIT $6
"""  # noqa: S608  # put together from the constants above

OF_SUBJECTS = f"""
SELECT {COLUMNS}, NULL::bigint AS sequence FROM events e WHERE tenant_id = $1 AND subject_id = ANY ($2) ORDER BY id
"""  # noqa: S608  # the same


async def list_page(
    tx: Tx, tenant_id: TenantId, mode: Mode, after: int, type_: str | None, subject_id: str | None, limit: int
) -> list[Event]:
    """Sealed events after a sequence number, oldest first."""
    return [_event(row) for row in await tx.fetch(LIST, tenant_id, mode, after, type_, subject_id, limit, MAX_BATCH)]


async def of_subjects(tx: Tx, tenant_id: TenantId, subject_ids: Sequence[str]) -> dict[str, list[Event]]:
    """The events of each of these payments, oldest first."""
    rows = await tx.fetch(OF_SUBJECTS, tenant_id, list(subject_ids))
    found: dict[str, list[Event]] = {subject_id: [] for subject_id in subject_ids}
    for row in rows:
        found[row["subject_id"]].append(_event(row))
    return found


async def seal(tx: Tx) -> int:
    """Seal up to MAX_BATCH events of each tenant into its chain; how many. Needs a worker's transaction."""
    count: int = await tx.fetchval("SELECT seal_events($1)", MAX_BATCH)
    return count


@dataclass(frozen=True, slots=True)
class Link:
    """One link of a tenant's chain, as it is stored, with the hash that its event should have."""

    sequence: int
    event_id: EventId
    stored_hash: bytes
    event: Record | None

    def hash_after(self, previous: bytes) -> bytes | None:
        """What the hash must be, computed from the event alone; None when the event is gone."""
        return None if self.event is None else _link_hash(previous, self.sequence, self.event)


CHAIN = f"""
SELECT s.first_seq + u.position - 1 AS seq, u.event_id, u.hash, e.tenant_id, e.id, e.mode, e.type, e.subject_id,
       e.actor, e.data::text AS data, e.request_id, e.created_at
FROM event_seals s
CROSS JOIN LATERAL unnest(s.event_ids, s.hashes) WITH ORDINALITY AS u (event_id, hash, position)
LEFT JOIN LATERAL (SELECT {COLUMNS} FROM events e WHERE tenant_id = $1 AND id = u.event_id OFFSET 0) e ON true
WHERE s.tenant_id = $1 ORDER BY s.first_seq, u.position
"""  # noqa: S608  # the same


async def chain(tx: Tx, tenant_id: TenantId) -> AsyncIterator[Link]:
    """A tenant's whole chain, link by link. Needs an operator's transaction."""
    async for row in tx.cursor(CHAIN, tenant_id, prefetch=1000):
        yield Link(row["seq"], EventId(str(row["event_id"])), row["hash"], row if row["id"] else None)


async def strays(tx: Tx, tenant_id: TenantId) -> list[EventId]:
    """Events that are neither in the chain nor waiting for it. Needs an operator's transaction."""
    await tx.execute("SET LOCAL statement_timeout = 0")  # it reads every id of a chain that may be long
    rows = await tx.fetch(
        """
        SELECT id FROM events WHERE tenant_id = $1
        EXCEPT SELECT event_id FROM unsealed_events WHERE tenant_id = $1
        EXCEPT SELECT unnest(event_ids) FROM event_seals WHERE tenant_id = $1
        ORDER BY id LIMIT 10
        """,
        tenant_id,
        timeout=STRAYS_TIMEOUT_S,
    )
    return [EventId(str(row["id"])) for row in rows]


async def gone_before_sealing(tx: Tx, tenant_id: TenantId) -> list[EventId]:
    """Events that wait for the chain and are not there. Needs an operator's transaction."""
    rows = await tx.fetch(
        """
        SELECT event_id FROM unsealed_events WHERE tenant_id = $1
        EXCEPT SELECT id FROM events WHERE tenant_id = $1
        ORDER BY event_id LIMIT 10
        """,
        tenant_id,
        timeout=STRAYS_TIMEOUT_S,
    )
    return [EventId(str(row["event_id"])) for row in rows]


def _link_hash(previous: bytes, sequence: int, row: Record) -> bytes:
    """The database's event_hash, written a second time on purpose: the verifier trusts no function over there."""
    created_us = (row["created_at"] - EPOCH) // timedelta(microseconds=1)
    fields = (
        str(sequence),
        str(row["tenant_id"]),
        str(row["id"]),
        row["mode"],
        row["type"],
        row["subject_id"],
        row["actor"],
        row["data"],
        row["request_id"],
        str(created_us),
    )
    return hashlib.sha256(previous + b"".join(map(_sealed_field, fields))).digest()


def _sealed_field(text: str | None) -> bytes:
    if text is None:
        return b"-"
    encoded = text.encode()
    return b"%d:%s" % (len(encoded), encoded)


def _event(row: Record) -> Event:
    return Event(
        id=EventId(str(row["id"])),
        sequence=row["sequence"],
        mode=row["mode"],
        type=row["type"],
        subject_id=row["subject_id"],
        actor=row["actor"],
        data=json.loads(row["data"]),
        request_id=row["request_id"],
        created_at=row["created_at"],
    )
