"""Rows of `proposals`: lines of statements that fit one payment by facts, for a person to accept or reject."""

from dataclasses import dataclass
from datetime import datetime

from kobiri.domain.ids import PaymentId, TenantId
from kobiri.domain.money import Money
from kobiri.store.db import Record, Tx, UniqueViolation


@dataclass(frozen=True, slots=True)
class Draft:
    """A line that fits a payment. `digest` knows the line again, in whichever file it stands."""

    payment_id: PaymentId
    provider: str
    digest: bytes
    transaction_id: str | None
    money: Money
    moved_at: datetime
    told_in: str


@dataclass(frozen=True, slots=True)
class Proposal:
    """A stored draft. `accepted` None: nobody has decided yet."""

    id: str
    tenant_id: TenantId
    tenant: str
    draft: Draft
    accepted: bool | None
    created_at: datetime


class LineTaken(Exception):
    """The line was accepted for another payment."""


async def add(tx: Tx, tenant_id: TenantId, id_: str, draft: Draft) -> bool:
    """Keep a proposal. False: it is there already, whatever became of it."""
    added = await tx.fetchval(
        """
        INSERT INTO proposals (tenant_id, id, payment_id, provider, line_digest, transaction_id, amount_minor, currency,
            moved_at, told_in)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
        ON CONFLICT ON CONSTRAINT proposals_line DO NOTHING RETURNING true
        """,
        tenant_id,
        id_,
        draft.payment_id,
        draft.provider,
        draft.digest,
        draft.transaction_id,
        draft.money.minor,
        draft.money.currency,
        draft.moved_at,
        draft.told_in,
    )
    return bool(added)


async def decide(tx: Tx, tenant_id: TenantId, id_: str, *, before: bool | None, accepted: bool | None) -> bool:
    """Write down what a person decided; None: it is open again. False: it is not as it was `before`.

    Raises LineTaken.
    """
    try:
        written = await tx.fetchval(
            "UPDATE proposals SET accepted = $3, decided_at = CASE WHEN $3::boolean IS NOT NULL THEN now() END"
            " WHERE tenant_id = $1 AND id = $2 AND accepted IS NOT DISTINCT FROM $4 RETURNING true",
            tenant_id,
            id_,
            accepted,
            before,
        )
    except UniqueViolation as error:
        raise LineTaken from error
    return bool(written)


# --- across tenants: these need an operator's transaction ---

SELECT = """
SELECT t.slug, p.tenant_id, p.id, p.payment_id, p.provider, p.line_digest, p.transaction_id, p.amount_minor, p.currency,
    p.moved_at, p.told_in, p.accepted, p.created_at
FROM proposals p JOIN tenants t ON t.id = p.tenant_id
"""


async def waiting(tx: Tx, limit: int) -> list[Proposal]:
    """The proposals that nobody has decided on, oldest first."""
    rows = await tx.fetch(f"{SELECT} WHERE p.accepted IS NULL ORDER BY p.id LIMIT $1", limit)
    return [_proposal(row) for row in rows]


async def find(tx: Tx, id_: str) -> Proposal | None:
    """A proposal by its id alone."""
    row = await tx.fetchrow(f"{SELECT} WHERE p.id = $1", id_)
    return _proposal(row) if row else None


def _proposal(row: Record) -> Proposal:
    draft = Draft(
        payment_id=PaymentId(str(row["payment_id"])),
        provider=row["provider"],
        digest=row["line_digest"],
        transaction_id=row["transaction_id"],
        money=Money(row["amount_minor"], row["currency"]),
        moved_at=row["moved_at"],
        told_in=row["told_in"],
    )
    return Proposal(
        str(row["id"]), TenantId(str(row["tenant_id"])), row["slug"], draft, row["accepted"], row["created_at"]
    )
