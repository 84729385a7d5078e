"""A provider's statement beside our payments of all tenants. Each function needs an operator's transaction."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from kobiri.domain.ids import PaymentId, TenantId, parse_id
from kobiri.domain.money import Money
from kobiri.domain.payment import Review, Status
from kobiri.domain.statement import Counterpart, StatementLine
from kobiri.store.db import PLATFORM, Record, Tx

# The provider's clock may be behind ours; a payer answers within the day.
FACTS_BEFORE = timedelta(minutes=15)
FACTS_AFTER = timedelta(hours=24)

LONG_STATEMENT_S = 120


@dataclass(frozen=True, slots=True)
class Match:
    """A line's number and the payment that it speaks of; None: it fits several."""

    line: int
    ours: Counterpart | None


@dataclass(frozen=True, slots=True)
class Account:
    """A provider account by its fingerprint, and one kind of movement there."""

    fingerprint: str
    kind: str


OURS = """
    p.tenant_id, p.id, p.kind, p.status, p.amount_minor, p.currency, p.payer, p.provider_transaction_id,
    p.account_fingerprint, p.review
"""

# Money that comes in is a collection, money that goes out is anything else.
SAME_DIRECTION = "(l.direction IS NULL OR (l.direction = 'in') = (p.kind = 'collection'))"

# The one place that knows under which references of ours a payment ever went out. Earlier ones join here by UNION ALL;
# a line that failed under an earlier reference says nothing about the payment, so only successful ones may.
REFERENCES = "SELECT provider_reference AS reference, tenant_id, id FROM payments"

BY_REFERENCE = f"""
SELECT l.number, 1 AS fits, {OURS}
FROM unnest($2::integer[], $3::uuid[], $4::text[]) AS l (number, reference, direction)
JOIN ({REFERENCES}) r ON r.reference = l.reference
JOIN payments p ON p.tenant_id = r.tenant_id AND p.id = r.id
WHERE p.provider = $1 AND {SAME_DIRECTION}
"""  # noqa: S608  # put together from the constants above

BY_THEIR_ID = f"""
SELECT DISTINCT ON (l.number) l.number, count(*) OVER (PARTITION BY l.number) AS fits, {OURS}
FROM unnest($2::integer[], $3::text[], $4::text[]) AS l (number, their_id, direction)
JOIN payments p ON p.provider_transaction_id = l.their_id
WHERE p.provider = $1 AND {SAME_DIRECTION}
ORDER BY l.number
"""  # noqa: S608  # the same

# Both sides must be alone: one line for the payment, one payment for the line. Payments that a stronger mark has taken
# ($9) are none, nor are those whose transaction at the provider is known to be another, nor those that surely never
# reached it (Payment.surely_unsent).
BY_FACTS = f"""
SELECT DISTINCT ON (number) * FROM (
    SELECT l.number,
        greatest(count(*) OVER (PARTITION BY l.number), count(*) OVER (PARTITION BY p.tenant_id, p.id)) AS fits, {OURS}
    FROM unnest($2::integer[], $3::bigint[], $4::text[], $5::text[], $6::timestamptz[], $7::text[], $8::text[])
        AS l (number, amount_minor, currency, payer, at, their_id, direction)
    JOIN payments p ON p.payer = l.payer AND p.amount_minor = l.amount_minor AND p.currency = l.currency
        AND p.created_at BETWEEN l.at - $12::interval AND l.at + $11::interval
    WHERE p.provider = $1 AND {SAME_DIRECTION}
        AND p.created_at BETWEEN $13::timestamptz - $12 AND $14::timestamptz + $11
        AND coalesce(p.provider_transaction_id = l.their_id, true)
        AND NOT ((p.attempt = 0 OR p.unsent) AND NOT p.sent_before AND p.accepted_at IS NULL)
        AND ($10::text[] IS NULL OR p.account_fingerprint = ANY ($10))
        AND NOT EXISTS (SELECT FROM unnest($9::uuid[]) AS taken (id) WHERE taken.id = p.id)
) pairs
ORDER BY number
"""  # noqa: S608  # the same

MISSING = f"""
SELECT {OURS} FROM payments p
WHERE p.provider = $1 AND p.created_at BETWEEN $2 AND $3 AND p.status IN ('SUCCESSFUL', 'TIMEOUT')
    AND ($5::text[] IS NULL OR (p.account_fingerprint, p.kind) IN (SELECT * FROM unnest($5, $6::text[])))
    AND NOT EXISTS (SELECT FROM unnest($4::uuid[]) AS seen (id) WHERE seen.id = p.id)
ORDER BY p.created_at, p.id
"""  # noqa: S608  # the same


async def knows_provider(tx: Tx, provider: str) -> bool:
    """Whether there is any payment of this provider."""
    await _take_time(tx)
    found: bool = await tx.fetchval(
        "SELECT EXISTS (SELECT FROM payments WHERE provider = $1)", provider, timeout=LONG_STATEMENT_S
    )
    return found


async def imported_at(tx: Tx, provider: str, sha256: str) -> datetime | None:
    """When this very file was imported for the first time."""
    found: datetime | None = await tx.fetchval(
        "SELECT min(created_at) FROM events WHERE tenant_id = $1 AND subject_id = $2 AND type = 'statement.imported'"
        " AND data->>'provider' = $3",
        PLATFORM,
        sha256,
        provider,
    )
    return found


async def match_references(tx: Tx, provider: str, lines: Sequence[StatementLine]) -> list[Match]:
    """The payments that went out under the lines' references; lines with another's reference are left out."""
    ours = [(line, reference) for line in lines if (reference := reference_of(line)) is not None]
    rows = await _fetch(
        tx,
        BY_REFERENCE,
        provider,
        [line.number for line, _ in ours],
        [reference for _, reference in ours],
        [line.direction for line, _ in ours],
    )
    return [_match(row) for row in rows]


async def match_their_ids(tx: Tx, provider: str, lines: Sequence[StatementLine]) -> list[Match]:
    """The payments that bear the lines' transaction ids."""
    known = [line for line in lines if line.their_id is not None]
    rows = await _fetch(
        tx,
        BY_THEIR_ID,
        provider,
        [line.number for line in known],
        [line.their_id for line in known],
        [line.direction for line in known],
    )
    return [_match(row) for row in rows]


async def match_facts(
    tx: Tx,
    provider: str,
    lines: Sequence[StatementLine],
    taken: Collection[PaymentId],
    fingerprints: Collection[str] | None,
) -> list[Match]:
    """The payments of the same number and amount at about the same time. All lines that may fit must come in one call.

    Lines without number or time are left out. `fingerprints`: of these accounts alone; None: of all.
    """
    told = [(line, line.at) for line in lines if line.at is not None and line.msisdn is not None]
    if not told:
        return []
    rows = await _fetch(
        tx,
        BY_FACTS,
        provider,
        [line.number for line, _ in told],
        [line.money.minor for line, _ in told],
        [line.money.currency for line, _ in told],
        [line.msisdn for line, _ in told],
        [at for _, at in told],
        [line.their_id for line, _ in told],
        [line.direction for line, _ in told],
        list(taken),
        None if fingerprints is None else list(fingerprints),
        FACTS_BEFORE,
        FACTS_AFTER,
        min(at for _, at in told),
        max(at for _, at in told),
    )
    return [_match(row) for row in rows]


async def missing(
    tx: Tx,
    provider: str,
    period: tuple[datetime, datetime],
    seen: Collection[PaymentId],
    accounts: Collection[Account] | None,
) -> list[Counterpart]:
    """Payments made in the period, SUCCESSFUL or TIMEOUT, that are not among `seen`. `accounts` None: of all."""
    rows = await _fetch(
        tx,
        MISSING,
        provider,
        *period,
        list(seen),
        None if accounts is None else [account.fingerprint for account in accounts],
        None if accounts is None else [account.kind for account in accounts],
    )
    return [_counterpart(row) for row in rows]


def reference_of(line: StatementLine) -> str | None:
    """The reference in the form of ours, hyphens or none; None when we cannot have made it."""
    text = line.our_reference or ""
    if len(text) == 32:
        text = "-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:]))
    return parse_id(text)


async def _take_time(tx: Tx) -> None:
    """A statement's lines may be many, and payments are searched that have no index for it.

    Each plan must see how long its arrays are: a generic one takes them for ten lines, and was ten times slower.
    """
    await tx.execute(
        f"SET LOCAL statement_timeout = '{LONG_STATEMENT_S}s'; SET LOCAL plan_cache_mode = force_custom_plan"
    )


async def _fetch(tx: Tx, sql: str, *arguments: object) -> list[Record]:
    await _take_time(tx)
    return await tx.fetch(sql, *arguments, timeout=LONG_STATEMENT_S)


def _match(row: Record) -> Match:
    return Match(row["number"], _counterpart(row) if row["fits"] == 1 else None)


def _counterpart(row: Record) -> Counterpart:
    return Counterpart(
        tenant_id=TenantId(str(row["tenant_id"])),
        payment_id=PaymentId(str(row["id"])),
        kind=row["kind"],
        status=Status(row["status"]),
        money=Money(row["amount_minor"], row["currency"]),
        payer=row["payer"],
        their_id=row["provider_transaction_id"],
        account=row["account_fingerprint"],
        review=Review(row["review"]) if row["review"] else None,
    )
