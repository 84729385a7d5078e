"""Rows of `idempotency_keys`. They are claimed in `payments.insert_once` and answered in `payments.write`."""

from dataclasses import dataclass
from datetime import datetime

from kobiri.domain.ids import TenantId
from kobiri.domain.payment import Mode, Payment
from kobiri.store.db import Tx
from kobiri.store.payments import COLUMNS, Answer, payment_from


@dataclass(frozen=True, slots=True)
class UsedKey:
    """A key that was used before, with its payment as it stands at `now`, the database's clock."""

    method: str
    path: str
    fingerprint: bytes
    status_code: int | None
    response_body: bytes | None
    payment: Payment
    now: datetime


GET = f"""
SELECT k.method, k.path, k.fingerprint, k.status_code, k.response_body, {COLUMNS}, clock_timestamp() AS now
FROM idempotency_keys k JOIN payments p ON p.tenant_id = k.tenant_id AND p.id = k.payment_id
WHERE k.tenant_id = $1 AND k.mode = $2 AND k.key = $3
"""  # noqa: S608  # put together from a constant


async def get(tx: Tx, tenant_id: TenantId, mode: Mode, key: str) -> UsedKey | None:
    """The first use of a key, within tenant and mode."""
    row = await tx.fetchrow(GET, tenant_id, mode, key)
    if row is None:
        return None
    return UsedKey(
        method=row["method"],
        path=row["path"],
        fingerprint=row["fingerprint"],
        status_code=row["status_code"],
        response_body=row["response_body"],
        payment=payment_from(row),
        now=row["now"],
    )


async def answer(tx: Tx, payment: Payment, given: Answer) -> bool:
    """Keep an answer that is given outside of T2. False: one was given already, and stays."""
    kept = await tx.fetchval(
        "UPDATE idempotency_keys SET status_code = $4, response_body = $5"
        " WHERE tenant_id = $1 AND mode = $2 AND key = $3 AND status_code IS NULL RETURNING true",
        payment.tenant_id,
        payment.mode,
        given.key,
        given.status_code,
        given.body,
    )
    return bool(kept)


async def purge(tx: Tx, limit: int) -> int:
    """Delete keys whose life is over and whose payment is final. Needs a worker's transaction."""
    count: int = await tx.fetchval("SELECT purge_idempotency_keys($1)", limit)
    return count
