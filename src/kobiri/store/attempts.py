"""Roads that were left unsent, of which somebody speaks all the same: the questions about them."""

from dataclasses import dataclass
from datetime import timedelta

from kobiri.domain.ids import AccountId, PaymentId, ProviderReference, TenantId
from kobiri.store.db import Tx


@dataclass(frozen=True, slots=True)
class EarlierRoad:
    """A road of a payment that was left, claimed to be asked about.

    `checks`: how often it was asked in vain. `known`: its provider showed once, by an answer or by a genuine
    callback, that it has the reference.
    """

    tenant_id: TenantId
    payment_id: PaymentId
    attempt: int
    provider: str
    account_id: AccountId | None
    account_fingerprint: str
    provider_reference: ProviderReference
    checks: int
    known: bool = False


# Due five seconds after the last question at the earliest, and twice as long after each: strangers may hint as well.
HINT = """
UPDATE attempts SET hinted = true, known = known OR $3, next_run_at = coalesce(
    next_run_at, greatest(now(), asked_at + interval '5 seconds' * (1 << least(checks, 10))))
WHERE tenant_id = $1 AND provider_reference = $2 AND NOT (hinted AND (known OR NOT $3))
"""

ANSWERED = """
UPDATE attempts SET checks = $4, known = known OR $6, next_run_at = CASE
    WHEN hinted THEN greatest(now(), asked_at + interval '5 seconds' * (1 << least($4, 10)))
    ELSE now() + $5::interval END
WHERE tenant_id = $1 AND payment_id = $2 AND attempt = $3
"""


CLAIM = """
SELECT tenant_id, payment_id, attempt, provider, account_id, account_fingerprint, provider_reference, checks,
    known
FROM claim_attempts($1, $2)
"""


async def hint(tx: Tx, tenant_id: TenantId, reference: ProviderReference, *, known: bool) -> None:
    """Somebody speaks of a road that was left: ask there. The wish outlives this process.

    `known`: it is the provider who speaks, so it has the reference.
    """
    await tx.execute(HINT, tenant_id, reference, known)


async def account_of(tx: Tx, tenant_id: TenantId, reference: ProviderReference) -> str:
    """The fingerprint of the account by which a road that was left would have gone."""
    sql = "SELECT account_fingerprint FROM attempts WHERE tenant_id = $1 AND provider_reference = $2"
    return str(await tx.fetchval(sql, tenant_id, reference))


async def claim(tx: Tx, limit: int, lease_s: float) -> list[EarlierRoad]:
    """Take roads that are due to be asked about, of any tenant. Needs a worker's transaction."""
    rows = await tx.fetch(CLAIM, limit, lease_s)
    return [
        EarlierRoad(
            tenant_id=TenantId(str(row["tenant_id"])),
            payment_id=PaymentId(str(row["payment_id"])),
            attempt=row["attempt"],
            provider=row["provider"],
            account_id=AccountId(str(row["account_id"])) if row["account_id"] else None,
            account_fingerprint=row["account_fingerprint"],
            provider_reference=ProviderReference(str(row["provider_reference"])),
            checks=row["checks"],
            known=row["known"],
        )
        for row in rows
    ]


async def answered(tx: Tx, road: EarlierRoad, again_in: timedelta | None) -> None:
    """Write down `checks` and `known`, and when to ask again, or that there is no need to (None).

    A hint that came meanwhile has its own need.
    """
    await tx.execute(ANSWERED, road.tenant_id, road.payment_id, road.attempt, road.checks, again_in, road.known)
