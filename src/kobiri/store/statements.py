"""A provider's statement beside our payments of all tenants. Functions need an operator's transaction.

One that writes needs its tenant's, and says so.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from kobiri.domain.ids import PaymentId, TenantId
from kobiri.domain.money import Money
from kobiri.domain.payment import Mode, Review, Status
from kobiri.domain.statement import Counterpart, StatementLine, reference_of
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
    """A provider account by its fingerprint, and the mode of the payments there."""

    fingerprint: str
    mode: Mode


OURS = """
    p.tenant_id, p.id, p.mode, p.kind, p.status, p.amount_minor, p.currency, p.payer, p.provider_transaction_id,
    p.provider_receipt, p.account_fingerprint, p.review
"""

# Money that comes in is a collection, money that goes out is anything else. A reversal tells no direction ($4).
SAME_DIRECTION = "(l.direction IS NULL OR (l.direction = 'in') = (p.kind = 'collection'))"

BY_REFERENCE = f"""
SELECT l.number, 1 AS fits, {OURS}
FROM unnest($2::integer[], $3::uuid[], $4::text[]) AS l (number, reference, direction)
JOIN payments p ON p.provider_reference = l.reference
WHERE p.provider = $1 AND {SAME_DIRECTION}
"""  # noqa: S608  # put together from the constants above

# References that a payment had before, on roads on which nothing was sent: the account is that road's.
BY_EARLIER_REFERENCE = f"""
SELECT l.number, 1 AS fits, {OURS.replace("p.account_fingerprint", "a.account_fingerprint")}
FROM unnest($2::integer[], $3::uuid[], $4::text[]) AS l (number, reference, direction)
JOIN attempts a ON a.provider_reference = l.reference
JOIN payments p ON p.tenant_id = a.tenant_id AND p.id = a.payment_id
WHERE a.provider = $1 AND {SAME_DIRECTION}
"""  # noqa: S608  # the same

KNOWN_REFERENCES = """
SELECT provider_reference FROM payments WHERE provider_reference = ANY ($1::uuid[])
UNION ALL
SELECT provider_reference FROM attempts WHERE provider_reference = ANY ($1)
"""

# The same id at another account is another transaction.
BY_EITHER_NUMBER = f"""
SELECT l.number, {OURS}
FROM unnest($2::integer[], $3::text[], $4::text[]) AS l (number, their_id, direction)
JOIN payments p ON {{is_its}}
WHERE p.provider = $1 AND {SAME_DIRECTION}
    AND ($5::text[] IS NULL OR (p.account_fingerprint, p.mode) IN (SELECT * FROM unnest($5, $6::text[])))
"""  # noqa: S608  # the same

# A statement shows the id that the API tells, or the receipt; each is joined by itself, for OR knows no index.
BY_THEIR_ID = f"""
SELECT DISTINCT ON (p.number) p.number, count(*) OVER (PARTITION BY p.number) AS fits, {OURS} FROM (
    {BY_EITHER_NUMBER.format(is_its="p.provider_transaction_id = l.their_id")}
    UNION ALL
    {
    BY_EITHER_NUMBER.format(
        is_its="p.provider_receipt = l.their_id AND l.their_id IS DISTINCT FROM p.provider_transaction_id"
    )
}
) p
ORDER BY p.number
"""  # noqa: S608  # the same

# Ids of money that waits in suspense: the line tells nothing new.
BY_ARRIVALS_ID = f"""
SELECT DISTINCT ON (l.number) l.number, count(*) OVER (PARTITION BY l.number) AS fits, {OURS}
FROM unnest($2::integer[], $3::text[], $4::text[]) AS l (number, their_id, direction)
JOIN (
    SELECT tenant_id, payment_id, account_fingerprint, unnest(ARRAY[transaction_id, other_id]) AS known_id
    FROM arrivals WHERE provider = $1
) a ON a.known_id = l.their_id
JOIN payments p ON p.tenant_id = a.tenant_id AND p.id = a.payment_id
WHERE {SAME_DIRECTION}
    AND ($5::text[] IS NULL OR (a.account_fingerprint, p.mode) IN (SELECT * FROM unnest($5, $6::text[])))
ORDER BY l.number
"""  # noqa: S608  # the same

# Both sides must be alone: one line for the payment, one payment for the line. Payments that a stronger mark has taken
# ($9) are none, nor are those that surely never reached the provider (Payment.surely_unsent). A payment that has
# another transaction id does not fit (either of its numbers was looked for before). But it may have been this line's
# all the same, under another kind of id: so the line fits no other payment either.
BY_FACTS = f"""
SELECT DISTINCT ON (number) * FROM (
    SELECT l.number, (l.their_id = coalesce(p.provider_transaction_id, p.provider_receipt)) IS FALSE AS is_other,
        greatest(count(*) OVER (PARTITION BY l.number), count(*) OVER (PARTITION BY p.tenant_id, p.id)) AS fits, {OURS}
    FROM unnest($2::integer[], $3::bigint[], $4::text[], $5::text[], $6::timestamptz[], $7::text[], $8::text[])
        AS l (number, amount_minor, currency, payer, at, their_id, direction)
    JOIN payments p ON p.payer = l.payer AND p.amount_minor = l.amount_minor AND p.currency = l.currency
        AND p.created_at BETWEEN l.at - $12::interval AND l.at + $11::interval
    WHERE p.provider = $1 AND {SAME_DIRECTION}
        AND p.created_at BETWEEN $13::timestamptz - $12 AND $14::timestamptz + $11
        AND NOT ((p.attempt = 0 OR p.unsent) AND NOT p.sent_before AND p.accepted_at IS NULL)
        AND ($10::text[] IS NULL OR (p.account_fingerprint, p.mode) IN (SELECT * FROM unnest($10, $15::text[])))
        AND NOT EXISTS (SELECT FROM unnest($9::uuid[]) AS taken (id) WHERE taken.id = p.id)
) pairs
WHERE NOT is_other
ORDER BY number
"""  # noqa: S608  # the same

# Payments that a statement's line has settled, or whose id one has shown: that is of the kind that statements show.
SETTLED_BY_STATEMENT = """
SELECT p.id::text FROM unnest($1::uuid[], $2::text[]) AS wanted (tenant_id, subject_id)
JOIN payments p ON p.tenant_id = wanted.tenant_id AND p.id = wanted.subject_id::uuid
WHERE p.id_in_statement
UNION ALL
SELECT e.subject_id FROM unnest($1::uuid[], $2::text[]) AS wanted (tenant_id, subject_id)
JOIN events e ON e.tenant_id = wanted.tenant_id AND e.subject_id = wanted.subject_id
WHERE e.type = 'payment.succeeded' AND e.data->>'source' = 'statement'
    AND e.data->>'provider_transaction_id' IS NOT NULL
"""

ACCOUNT_OWNERS = """
SELECT DISTINCT CASE WHEN account_id IS NULL THEN $3::uuid ELSE tenant_id END
FROM payments WHERE provider = $1 AND account_fingerprint = $2
"""

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
    return await _match_references(tx, BY_REFERENCE, provider, lines)


async def match_earlier_references(tx: Tx, provider: str, lines: Sequence[StatementLine]) -> list[Match]:
    """The payments that had the lines' references before, on roads on which nothing was sent."""
    return await _match_references(tx, BY_EARLIER_REFERENCE, provider, lines)


async def _match_references(tx: Tx, sql: str, provider: str, lines: Sequence[StatementLine]) -> list[Match]:
    ours = [(line, reference) for line in lines if (reference := reference_of(line.our_reference or "")) is not None]
    rows = await _fetch(
        tx,
        sql,
        provider,
        [line.number for line, _ in ours],
        [reference for _, reference in ours],
        [_direction(line) for line, _ in ours],
    )
    return [_match(row) for row in rows]


async def known_references(tx: Tx, references: Collection[str]) -> set[str]:
    """Which of these are ours, of whatever provider."""
    return {str(row[0]) for row in await _fetch(tx, KNOWN_REFERENCES, list(references))}


async def match_their_ids(
    tx: Tx, provider: str, lines: Sequence[StatementLine], accounts: Collection[Account] | None
) -> list[Match]:
    """The payments that bear the lines' transaction ids, in either place. `accounts`: of these alone; None: of all."""
    return await _match_ids(tx, BY_THEIR_ID, provider, lines, accounts)


async def match_arrivals(
    tx: Tx, provider: str, lines: Sequence[StatementLine], accounts: Collection[Account] | None
) -> list[Match]:
    """The payments about which money with the lines' transaction ids waits in suspense."""
    return await _match_ids(tx, BY_ARRIVALS_ID, provider, lines, accounts)


async def _match_ids(
    tx: Tx, sql: str, provider: str, lines: Sequence[StatementLine], accounts: Collection[Account] | None
) -> list[Match]:
    known = [line for line in lines if line.their_id is not None]
    rows = await _fetch(
        tx,
        sql,
        provider,
        [line.number for line in known],
        [line.their_id for line in known],
        [_direction(line) for line in known],
        *_zipped(accounts),
    )
    return [_match(row) for row in rows]


async def match_facts(
    tx: Tx,
    provider: str,
    lines: Sequence[StatementLine],
    taken: Collection[PaymentId],
    accounts: Collection[Account] | None,
) -> list[Match]:
    """The payments of the same number and amount at about the same time. All lines that may fit must come in one call.

    Lines without number or time are left out. `accounts`: of these alone; None: of all.
    """
    told = [(line, line.at) for line in lines if line.at is not None and line.msisdn is not None]
    if not told:
        return []
    fingerprints, modes = _zipped(accounts)
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
        [_direction(line) for line, _ in told],
        list(taken),
        fingerprints,
        FACTS_BEFORE,
        FACTS_AFTER,
        min(at for _, at in told),
        max(at for _, at in told),
        modes,
    )
    return [_match(row) for row in rows]


async def settled_by_statement(tx: Tx, ours: Sequence[Counterpart]) -> set[PaymentId]:
    """Of which of these payments a statement has told the id that we know."""
    tenants, ids = [one.tenant_id for one in ours], [one.payment_id for one in ours]
    return {PaymentId(row[0]) for row in await _fetch(tx, SETTLED_BY_STATEMENT, tenants, ids)}


async def account_owners(tx: Tx, provider: str, account: Account) -> set[TenantId]:
    """Whose payments went by an account: the merchants' whose own it is, and PLATFORM where it is the platform's."""
    rows = await _fetch(tx, ACCOUNT_OWNERS, provider, account.fingerprint, PLATFORM)
    return {TenantId(str(row[0])) for row in rows}


async def missing(
    tx: Tx,
    provider: str,
    period: tuple[datetime, datetime],
    seen: Collection[PaymentId],
    spoken_of: Collection[Counterpart],
) -> list[Counterpart]:
    """Payments made in the period, SUCCESSFUL or TIMEOUT, that are not among `seen`.

    Of the accounts and kinds of movement of those that are `spoken_of` alone; of all where there are none.
    """
    scopes = list({(ours.account, ours.kind) for ours in spoken_of})
    rows = await _fetch(
        tx,
        MISSING,
        provider,
        *period,
        list(seen),
        [account for account, _ in scopes] or None,
        [kind for _, kind in scopes] or None,
    )
    return [_counterpart(row) for row in rows]


async def remember_ids(tx: Tx, tenant_id: TenantId, shown: Sequence[tuple[PaymentId, str]]) -> None:
    """Note of which payments a statement shows an id that we know. Needs the tenant's transaction."""
    await tx.execute(
        "UPDATE payments p SET id_in_statement = true FROM unnest($2::uuid[], $3::text[]) AS s (id, their_id)"
        " WHERE p.tenant_id = $1 AND p.id = s.id AND s.their_id IN (p.provider_transaction_id, p.provider_receipt)"
        " AND NOT p.id_in_statement",
        tenant_id,
        [payment_id for payment_id, _ in shown],
        [their_id for _, their_id in shown],
    )


def _direction(line: StatementLine) -> str | None:
    return None if line.reverses else line.direction


def _zipped(accounts: Collection[Account] | None) -> tuple[list[str] | None, list[str] | None]:
    if accounts is None:
        return None, None
    return [account.fingerprint for account in accounts], [account.mode for account in accounts]


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
        mode=row["mode"],
        kind=row["kind"],
        status=Status(row["status"]),
        money=Money(row["amount_minor"], row["currency"]),
        payer=row["payer"],
        their_id=row["provider_transaction_id"],
        receipt=row["provider_receipt"],
        account=row["account_fingerprint"],
        review=Review(row["review"]) if row["review"] else None,
    )
