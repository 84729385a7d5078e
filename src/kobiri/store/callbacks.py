"""Rows of `callbacks`: what providers, or strangers, posted to us."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from kobiri.domain.ids import PaymentId, TenantId, new_id
from kobiri.domain.payment import Mode
from kobiri.store.db import PLATFORM, Tx

Verdict = Literal["applied", "hint", "unmatched", "refused"]

KEPT_PER_PAYMENT, KEPT_SIGNED_PER_PAYMENT = 50, 100  # distinct bodies; a provider sends two or three
# Without a payment, for each provider and verdict. What the platform's providers signed has room beside strangers'.
KEPT_OF_STRANGERS, KEPT_SIGNED = 1_000, 10_000


# The same bytes again only raise a counter, and the number of distinct ones is capped: nobody can fill the disk.
INSERT = """
INSERT INTO callbacks (tenant_id, id, provider, verdict, payment_id, digest, headers, body, times)
SELECT $1, $2, $3, $4, $5, $6, $7::jsonb, $8, $9
WHERE EXISTS (
    SELECT FROM callbacks WHERE tenant_id = $1 AND provider = $3 AND verdict = $4 AND digest = $6
) OR (
    SELECT count(*) FROM (
        SELECT FROM callbacks
        WHERE tenant_id = $1 AND payment_id IS NOT DISTINCT FROM $5::uuid
          AND ($5::uuid IS NOT NULL OR (provider = $3 AND verdict = $4))
        LIMIT $10
    ) kept
) < $10
ON CONFLICT ON CONSTRAINT callbacks_digest
DO UPDATE SET times = callbacks.times + excluded.times, last_received_at = clock_timestamp()
"""


async def keep(
    tx: Tx,
    tenant_id: TenantId,
    provider: str,
    verdict: Verdict,
    payment_id: PaymentId | None,
    headers: Mapping[str, str],
    body: bytes,
    *,
    strays: int = 0,
) -> None:
    """Store what came in, byte for byte, within the caps.

    `strays`: it is a sample of so many that nobody signed. What a merchant's own account signs has its merchant's room.
    """
    if payment_id:
        most = KEPT_PER_PAYMENT if strays else KEPT_SIGNED_PER_PAYMENT
    else:
        most = KEPT_SIGNED if tenant_id == PLATFORM and not strays else KEPT_OF_STRANGERS
    await tx.execute(
        INSERT,
        tenant_id,
        new_id(),
        provider,
        verdict,
        payment_id,
        hashlib.sha256(body).digest(),
        json.dumps(dict(headers)),
        body,
        strays or 1,
        most,
    )


@dataclass(frozen=True, slots=True)
class Health:
    """A tenant's callbacks from one provider in the last 24 hours, repeats counted."""

    applied: int
    hints: int
    last_received_at: datetime | None


async def health(tx: Tx, tenant_id: TenantId, mode: Mode, provider: str) -> Health:
    """How the callbacks about this tenant's payments of one mode arrive."""
    row = await tx.fetchrow(
        """
        SELECT coalesce(sum(c.times) FILTER (WHERE c.verdict = 'applied'), 0)::bigint AS applied,
               coalesce(sum(c.times) FILTER (WHERE c.verdict = 'hint'), 0)::bigint AS hints,
               max(c.last_received_at) AS last_received_at
        FROM callbacks c JOIN payments p ON p.tenant_id = c.tenant_id AND p.id = c.payment_id
        WHERE c.tenant_id = $1 AND p.mode = $2 AND c.provider = $3
          AND c.last_received_at > now() - interval '24 hours'
        """,
        tenant_id,
        mode,
        provider,
    )
    assert row is not None, "an aggregate always has a row"
    return Health(row["applied"], row["hints"], row["last_received_at"])


@dataclass(frozen=True, slots=True)
class KeptCallback:
    """A stored callback, as it came in."""

    provider: str
    verdict: Verdict
    headers: Mapping[str, str]
    body: bytes
    times: int
    received_at: datetime


async def of_payment(tx: Tx, tenant_id: TenantId, payment_id: PaymentId) -> list[KeptCallback]:
    """What providers posted about one payment, oldest first."""
    rows = await tx.fetch(
        "SELECT provider, verdict, headers, body, times, received_at FROM callbacks"
        " WHERE tenant_id = $1 AND payment_id = $2 ORDER BY received_at",
        tenant_id,
        payment_id,
    )
    return [
        KeptCallback(
            provider=row["provider"],
            verdict=row["verdict"],
            headers=json.loads(row["headers"]),
            body=row["body"],
            times=row["times"],
            received_at=row["received_at"],
        )
        for row in rows
    ]


async def purge(tx: Tx, older_than: timedelta, limit: int) -> int:
    """Delete callbacks past their retention. Needs a worker's transaction."""
    count: int = await tx.fetchval("SELECT purge_callbacks($1, $2)", older_than, limit)
    return count
