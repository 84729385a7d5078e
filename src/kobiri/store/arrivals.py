"""Rows of `arrivals`: money that came in and waits in suspense for a person."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime

from kobiri.domain.ids import PaymentId, ProviderReference, TenantId
from kobiri.domain.ledger import Arrival, Movement, Why
from kobiri.domain.money import Money
from kobiri.domain.outcome import Source
from kobiri.domain.payment import Mode, Status
from kobiri.store.db import Record, Tx, UniqueViolation

COLUMNS = """
    a.id, a.provider, a.account_fingerprint, a.amount_minor, a.currency, a.why, a.source, a.transaction_id, a.told_in,
    a.other_id
"""


# Of each, one number is one payment's: its transaction id, its receipt, and both ids of money in suspense.
TRANSACTIONS = ("payments_transaction", "payments_receipt", "arrivals_transaction", "arrivals_other_id")


class TransactionTaken(Exception):
    """The provider's transaction id belongs to another payment, or to money that is in suspense."""


@contextmanager
def refusing_taken() -> Iterator[None]:
    """Turn the database's refusal of a transaction id that is another's into ours."""
    try:
        yield
    except UniqueViolation as error:
        if error.constraint_name in TRANSACTIONS:
            raise TransactionTaken from error
        raise


async def insert(tx: Tx, tenant_id: TenantId, id_: str, payment_id: PaymentId, arrival: Arrival) -> None:
    """Add money that arrived about a payment; its ledger entries are written with the payment."""
    await tx.execute(
        """
        INSERT INTO arrivals (tenant_id, id, payment_id, provider, account_fingerprint, transaction_id, amount_minor,
            currency, why, source, told_in, other_id)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)
        """,
        tenant_id,
        id_,
        payment_id,
        arrival.provider,
        arrival.account,
        arrival.transaction_id,
        arrival.money.minor,
        arrival.money.currency,
        arrival.why,
        arrival.source,
        arrival.told_in,
        arrival.other_id,
    )


# Fenced by the ids themselves: what another has taught meanwhile is not written over.
LEARN = """
UPDATE arrivals SET source = $5, told_in = $6, transaction_id = $7, other_id = $8
WHERE tenant_id = $1 AND id = $2
    AND transaction_id IS NOT DISTINCT FROM $3::text AND other_id IS NOT DISTINCT FROM $4::text
"""


async def learn(tx: Tx, tenant_id: TenantId, known: Arrival, learned: Arrival) -> None:
    """Keep the ids by which money is known, and who told of them. Nothing is written where others stand by now.

    Raises TransactionTaken.
    """
    with refusing_taken():
        await tx.execute(
            LEARN,
            tenant_id,
            known.id,
            known.transaction_id,
            known.other_id,
            learned.source,
            learned.told_in,
            learned.transaction_id,
            learned.other_id,
        )


# Fenced by `cleared_at`: of two persons one decides.
CLEAR = """
WITH cleared AS (
    UPDATE arrivals SET cleared_at = now() WHERE tenant_id = $1 AND id = $2 AND cleared_at IS NULL
    RETURNING id, payment_id
), booked AS (
    INSERT INTO ledger_entries (tenant_id, payment_id, arrival_id, reason, account, amount_minor, currency)
    SELECT $1, c.payment_id, c.id, $3, l.account, l.amount_minor, l.currency
    FROM cleared c, unnest($4::text[], $5::bigint[], $6::text[]) AS l (account, amount_minor, currency)
)
SELECT true FROM cleared
"""


async def clear(tx: Tx, tenant_id: TenantId, id_: str, movement: Movement) -> bool:
    """Book what becomes of money in suspense. False: it was cleared already."""
    cleared = await tx.fetchval(
        CLEAR,
        tenant_id,
        id_,
        movement.reason,
        [posting.account for posting in movement.postings],
        [posting.minor for posting in movement.postings],
        [posting.currency for posting in movement.postings],
    )
    return bool(cleared)


# The movement is written with the arrival, or not at all.
BOOK_UNASKED = """
WITH arrived AS (
    INSERT INTO arrivals (tenant_id, id, provider, account_fingerprint, provider_reference, transaction_id,
        amount_minor, currency, why, source, told_in, mode)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $16)
    RETURNING id
), booked AS (
    INSERT INTO ledger_entries (tenant_id, arrival_id, reason, account, amount_minor, currency)
    SELECT $1, a.id, $12, l.account, l.amount_minor, l.currency
    FROM arrived a, unnest($13::text[], $14::bigint[], $15::text[]) AS l (account, amount_minor, currency)
)
SELECT true FROM arrived
"""


async def book_unasked(
    tx: Tx, tenant_id: TenantId, mode: Mode, id_: str, reference: ProviderReference, movement: Movement
) -> None:
    """Book money under a reference of ours of which there is no payment. Raises TransactionTaken."""
    arrival = movement.arrival
    assert arrival is not None, "it brings money into suspense"
    with refusing_taken():
        await tx.fetchval(
            BOOK_UNASKED,
            tenant_id,
            id_,
            arrival.provider,
            arrival.account,
            reference,
            arrival.transaction_id,
            arrival.money.minor,
            arrival.money.currency,
            arrival.why,
            arrival.source,
            arrival.told_in,
            movement.reason,
            [posting.account for posting in movement.postings],
            [posting.minor for posting in movement.postings],
            [posting.currency for posting in movement.postings],
            mode,
        )


async def of_payment(tx: Tx, tenant_id: TenantId, payment_id: PaymentId) -> list[Arrival]:
    """What arrived about a payment and was booked to suspense, oldest first."""
    rows = await tx.fetch(
        f"SELECT {COLUMNS} FROM arrivals a WHERE tenant_id = $1 AND payment_id = $2 ORDER BY id",  # noqa: S608
        tenant_id,
        payment_id,
    )
    return [_arrival(row) for row in rows]


async def of_reference(tx: Tx, tenant_id: TenantId, reference: ProviderReference) -> list[Arrival]:
    """What arrived under a reference of no payment, oldest first. Until this commits, nobody else books any."""
    await tx.execute("SELECT pg_advisory_xact_lock(hashtextextended(concat_ws(' ', 'kobiri', $1::text), 0))", reference)
    rows = await tx.fetch(
        f"SELECT {COLUMNS} FROM arrivals a WHERE tenant_id = $1 AND provider_reference = $2 ORDER BY id",  # noqa: S608
        tenant_id,
        reference,
    )
    return [_arrival(row) for row in rows]


def _arrival(row: Record) -> Arrival:
    return Arrival(
        provider=row["provider"],
        account=row["account_fingerprint"],
        money=Money(row["amount_minor"], row["currency"]),
        why=Why(row["why"]),
        source=Source(row["source"]),
        transaction_id=row["transaction_id"],
        told_in=row["told_in"],
        other_id=row["other_id"],
        id=str(row["id"]),
    )


# --- across tenants: these need an operator's transaction ---


@dataclass(frozen=True, slots=True)
class StoredArrival:
    """Money in suspense. `payment_id` and `status` None: of no payment."""

    id: str
    tenant_id: TenantId
    tenant: str
    mode: Mode
    payment_id: PaymentId | None
    status: Status | None
    provider_reference: ProviderReference
    arrival: Arrival
    created_at: datetime
    age_s: int


SELECT = f"""
SELECT {COLUMNS}, t.slug, a.tenant_id, a.payment_id, a.created_at, p.status, coalesce(p.mode, a.mode) AS mode,
    coalesce(a.provider_reference, p.provider_reference) AS provider_reference,
    extract(epoch FROM clock_timestamp() - a.created_at)::bigint AS age_s
FROM arrivals a JOIN tenants t ON t.id = a.tenant_id
LEFT JOIN payments p ON p.tenant_id = a.tenant_id AND p.id = a.payment_id
"""  # noqa: S608  # put together from the constant above
WAITING = f"{SELECT} WHERE a.cleared_at IS NULL ORDER BY a.created_at, a.id LIMIT $1"


async def waiting(tx: Tx, limit: int) -> list[StoredArrival]:
    """The money that nobody has cleared yet, oldest first."""
    return [_stored(row) for row in await tx.fetch(WAITING, limit)]


async def find(tx: Tx, id_: str) -> StoredArrival | None:
    """Money in suspense by its id alone."""
    row = await tx.fetchrow(f"{SELECT} WHERE a.id = $1", id_)
    return _stored(row) if row else None


def _stored(row: Record) -> StoredArrival:
    return StoredArrival(
        id=str(row["id"]),
        tenant_id=TenantId(str(row["tenant_id"])),
        tenant=row["slug"],
        mode=row["mode"],
        payment_id=PaymentId(str(row["payment_id"])) if row["payment_id"] else None,
        status=Status(row["status"]) if row["status"] else None,
        provider_reference=ProviderReference(str(row["provider_reference"])),
        arrival=_arrival(row),
        created_at=row["created_at"],
        age_s=row["age_s"],
    )


@dataclass(frozen=True, slots=True)
class Holder:
    """Whose a transaction id is: a tenant's slug and its payment; None: money of no payment."""

    tenant: str
    payment_id: PaymentId | None


HOLDER = """
SELECT t.slug, h.payment_id FROM (
    SELECT tenant_id, id AS payment_id FROM payments
    WHERE provider = $1 AND account_fingerprint = $2 AND provider_transaction_id = $3
    UNION ALL
    SELECT tenant_id, id FROM payments WHERE provider = $1 AND account_fingerprint = $2 AND provider_receipt = $3
    UNION ALL
    SELECT tenant_id, payment_id FROM arrivals
    WHERE provider = $1 AND account_fingerprint = $2 AND $3 IN (transaction_id, other_id)
) h JOIN tenants t ON t.id = h.tenant_id LIMIT 1
"""


async def holder(tx: Tx, provider: str, account: str, transaction_id: str) -> Holder | None:
    """The payment that bears a number of a provider's account (its fingerprint) in either place, or the money."""
    row = await tx.fetchrow(HOLDER, provider, account, transaction_id)
    if row is None:
        return None
    return Holder(row["slug"], PaymentId(str(row["payment_id"])) if row["payment_id"] else None)
