"""Rows of `payments`: T1 (`insert_once`), T2 (`write`), claims, reads."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from kobiri.domain.errors import ReferenceInUse
from kobiri.domain.ids import AccountId, LeaseToken, PaymentId, ProviderReference, TenantId, new_id
from kobiri.domain.money import Money
from kobiri.domain.msisdn import Msisdn
from kobiri.domain.payment import Change, EventDraft, Mode, Payment, Review, Status
from kobiri.store import arrivals
from kobiri.store.db import Record, Tx, UniqueViolation


@dataclass(frozen=True, slots=True)
class KeyUse:
    """An Idempotency-Key and the request that it stands for."""

    key: str
    method: str
    path: str
    fingerprint: bytes
    life: timedelta


@dataclass(frozen=True, slots=True)
class Author:
    """Who causes a change, for the audit log."""

    actor: str
    request_id: str | None = None


@dataclass(frozen=True, slots=True)
class Claim:
    """The right to call the provider about one payment until the lease ends."""

    tenant_id: TenantId
    payment_id: PaymentId
    lease_token: LeaseToken


# T1. No row comes back when the key is taken: this statement's snapshot cannot see a concurrent twin's row.
INSERT_ONCE = """
WITH claimed AS (
    INSERT INTO idempotency_keys (tenant_id, mode, key, method, path, fingerprint, payment_id, expires_at)
    VALUES ($1, $2, $3, $4, $5, $6, $7, now() + $8::interval)
    ON CONFLICT DO NOTHING
    RETURNING payment_id
), paid AS (
    INSERT INTO payments (
        tenant_id, id, mode, kind, status, amount_minor, currency, payer, network, provider, account_fingerprint,
        provider_reference, reference, description, metadata, callback_url, attempt, send_before, expires_at,
        next_run_at, lease_token, sent_until, account_id)
    SELECT $1, payment_id, $2, $9, 'PENDING', $10, $11, $12, $13, $14, $15, $16, $17, $18, $19::jsonb, $20,
        $21, now() + $22::interval, now() + $23::interval, now() + $24::interval, $25,
        CASE WHEN $25::uuid IS NOT NULL THEN now() + $24::interval END, $31
    FROM claimed
    RETURNING id, created_at
), noted AS (
    INSERT INTO events (tenant_id, id, mode, type, subject_id, actor, data, request_id)
    SELECT $1, $26, $2, $27, id::text, $28, $29::jsonb, $30 FROM paid
)
SELECT created_at FROM paid
"""


async def insert_once(
    tx: Tx,
    payment: Payment,
    use: KeyUse,
    event: EventDraft,
    author: Author,
    *,
    send_within: timedelta,
    expires_after: timedelta,
    first_run_in: timedelta,
) -> datetime | None:
    """Claim the key and insert the payment with its first event. Returns when (database clock), None: key taken.

    The times of `payment` are not read: they are counted from the transaction's start by the database's clock.
    Raises ReferenceInUse.
    """
    try:
        created_at: datetime | None = await tx.fetchval(
            INSERT_ONCE,
            payment.tenant_id,
            payment.mode,
            use.key,
            use.method,
            use.path,
            use.fingerprint,
            payment.id,
            use.life,
            payment.kind,
            payment.money.minor,
            payment.money.currency,
            payment.payer.digits,
            payment.network,
            payment.provider,
            payment.account_fingerprint,
            payment.provider_reference,
            payment.reference,
            payment.description,
            json.dumps(payment.metadata) if payment.metadata else None,
            payment.callback_url,
            payment.attempt,
            send_within,
            expires_after,
            first_run_in,
            payment.lease_token,
            new_id(),
            event.type,
            author.actor,
            json.dumps(event.data),
            author.request_id,
            payment.account_id,
        )
    except UniqueViolation as error:
        if error.constraint_name == "payments_reference":
            raise ReferenceInUse(f"Another payment has the reference {payment.reference!r}.") from error
        raise
    return created_at


NOBODY = LeaseToken("00000000-0000-0000-0000-000000000000")

# T2. Fenced by `version`: when another writer came first, nothing at all is written. Neither a claim nor a hint raises
# the version: who wrote without being the lease's holder ($9) leaves the schedule to its holder, and what a hint asks
# for stays due, also where the payment is final now: the provider's answer may be older than the hint.
WRITE = """
WITH written AS (
    UPDATE payments SET
        status = $4, provider_transaction_id = $5, failure_code = $6, failure_provider_code = $7, review = $8,
        version = version + 1, unsent = $10, checks = $11, not_founds = $12, first_not_found_at = $13,
        accepted_at = $14, completed_at = $15, received_minor = $32, received_currency = $33,
        doubts = $35, first_doubt_at = $36, provider_receipt = $37, told_paid = $38,
        review_told_at = CASE WHEN review IS NOT DISTINCT FROM $8 THEN review_told_at END,
        next_run_at = CASE
            WHEN $18 THEN next_run_at
            WHEN lease_token <> $9::uuid AND ($16::timestamptz IS NOT NULL OR status NOT IN ('PENDING', 'TIMEOUT'))
            THEN next_run_at
            WHEN hinted THEN least($16, greatest(now(), hinted_at))
            ELSE $16 END,
        lease_token = CASE
            WHEN $18 OR (lease_token <> $9 AND ($16 IS NOT NULL OR status NOT IN ('PENDING', 'TIMEOUT')))
            THEN lease_token ELSE $17 END
    WHERE tenant_id = $1 AND id = $2 AND version = $3
    RETURNING id, mode, currency
), noted AS (
    INSERT INTO events (tenant_id, id, mode, type, subject_id, actor, data, request_id)
    SELECT $1, e.id, w.mode, e.type, w.id::text, $19, e.data::jsonb, $20
    FROM written w, unnest($21::uuid[], $22::text[], $23::text[]) AS e (id, type, data)
), booked AS (
    INSERT INTO ledger_entries (tenant_id, payment_id, arrival_id, reason, account, amount_minor, currency)
    SELECT $1, w.id, $34, $24, l.account, l.amount_minor, l.currency
    FROM written w, unnest($25::text[], $26::bigint[], $27::text[]) AS l (account, amount_minor, currency)
), answered AS (
    UPDATE idempotency_keys k SET status_code = $30, response_body = $31
    FROM written w WHERE k.tenant_id = $1 AND k.mode = $28 AND k.key = $29 AND k.payment_id = w.id
      AND k.status_code IS NULL
)
SELECT true FROM written
"""


@dataclass(frozen=True, slots=True)
class Answer:
    """What the client is told, kept under its Idempotency-Key in the same commit."""

    key: str
    status_code: int
    body: bytes


async def write(tx: Tx, before: Payment, change: Change, author: Author, answer: Answer | None = None) -> bool:
    """Write a change, its events, its ledger movement and the client's answer. False: `before` is out of date.

    Raises TransactionTaken.
    """
    with arrivals.refusing_taken():
        return await _write(tx, before, change, author, answer)


async def _write(tx: Tx, before: Payment, change: Change, author: Author, answer: Answer | None) -> bool:
    after = change.after
    postings = change.movement.postings if change.movement else ()
    arrival = change.movement.arrival if change.movement else None
    arrival_id = new_id() if arrival else None
    written = await tx.fetchval(
        WRITE,
        before.tenant_id,
        before.id,
        before.version,
        after.status,
        after.provider_transaction_id,
        after.failure_code,
        after.failure_provider_code,
        after.review,
        before.lease_token or NOBODY,
        after.unsent,
        after.checks,
        after.not_founds,
        after.first_not_found_at,
        after.accepted_at,
        after.completed_at,
        after.next_run_at,
        after.lease_token,
        change.keeps_schedule,
        author.actor,
        author.request_id,
        [new_id() for _ in change.events],
        [event.type for event in change.events],
        [json.dumps(event.data) for event in change.events],
        change.movement.reason if change.movement else None,
        [posting.account for posting in postings],
        [posting.minor for posting in postings],
        [posting.currency for posting in postings],
        before.mode,
        answer.key if answer else None,
        answer.status_code if answer else None,
        answer.body if answer else None,
        after.received.minor if after.received else None,
        after.received.currency if after.received else None,
        arrival_id,
        after.doubts,
        after.first_doubt_at,
        after.provider_receipt,
        after.told_paid,
    )
    if written and arrival and arrival_id:
        await arrivals.insert(tx, before.tenant_id, arrival_id, before.id, arrival)
    return bool(written)


# What `payment_from` reads. No statement of the store says `*`: a migration that adds a column would change what a
# statement returns that a running process has prepared, and PostgreSQL refuses to run it then.
COLUMNS = """
    p.id, p.tenant_id, p.mode, p.kind, p.status, p.amount_minor, p.currency, p.payer, p.network, p.provider,
    p.account_id, p.account_fingerprint, p.provider_reference, p.send_before, p.expires_at, p.created_at, p.reference,
    p.description, p.metadata, p.callback_url, p.provider_transaction_id, p.failure_code, p.failure_provider_code,
    p.review, p.version, p.attempt, p.unsent, p.sent_before, p.checks, p.not_founds, p.first_not_found_at,
    p.accepted_at, p.completed_at, p.next_run_at, p.lease_token, p.sent_until,
    p.received_minor, p.received_currency, p.doubts, p.first_doubt_at, p.provider_receipt, p.told_paid
"""

# The commit that precedes a send. Lease and order are checked by the database's clock: who was paused may not send.
# With each of these commits stands until when its bytes may leave, for what is concluded from a not-found afterwards.
BEGIN_ATTEMPT = f"""
UPDATE payments p
SET attempt = attempt + 1, sent_before = sent_before OR (attempt > 0 AND NOT unsent), unsent = false,
    version = version + 1, next_run_at = now() + $5::interval, sent_until = now() + $5::interval
WHERE tenant_id = $1 AND id = $2 AND version = $3 AND lease_token = $4 AND next_run_at > now() AND send_before > now()
RETURNING {COLUMNS}, now() AS now
"""  # noqa: S608  # put together from a constant


# The commit that precedes a send by another road. What the old one was, and why it is left, is kept.
SWITCH_ROAD = f"""
WITH switched AS (
    UPDATE payments p
    SET provider = $5, account_id = $6, account_fingerprint = $7, provider_reference = $8, attempt = p.attempt + 1,
        unsent = false, version = p.version + 1, next_run_at = now() + $9::interval, sent_until = now() + $9::interval
    FROM payments old
    WHERE p.tenant_id = $1 AND p.id = $2 AND p.version = $3 AND p.lease_token = $4 AND p.next_run_at > now()
      AND p.send_before > now() AND NOT p.sent_before AND p.accepted_at IS NULL
      AND old.tenant_id = p.tenant_id AND old.id = p.id
    RETURNING {COLUMNS}, now() AS now, old.attempt AS old_attempt, old.provider AS old_provider,
        old.account_id AS old_account_id, old.account_fingerprint AS old_fingerprint,
        old.provider_reference AS old_reference
), left_behind AS (
    INSERT INTO attempts (
        tenant_id, payment_id, attempt, provider, account_id, account_fingerprint, provider_reference, reason)
    SELECT $1, $2, old_attempt, old_provider, old_account_id, old_fingerprint, old_reference, $10 FROM switched
), noted AS (
    INSERT INTO events (tenant_id, id, mode, type, subject_id, actor, data, request_id)
    SELECT $1, $11, mode, $12, id::text, $13, $14::jsonb, $15 FROM switched
)
SELECT {COLUMNS}, now FROM switched p
"""  # noqa: S608  # the same


@dataclass(frozen=True, slots=True)
class Read:
    """A payment and the database's time at which it was read."""

    payment: Payment
    now: datetime


async def begin_attempt(tx: Tx, payment: Payment, lease: timedelta) -> Read | None:
    """Raise `attempt` and renew the lease. None: somebody else came first, or the lease ended."""
    row = await tx.fetchrow(BEGIN_ATTEMPT, payment.tenant_id, payment.id, payment.version, payment.lease_token, lease)
    return Read(payment_from(row), row["now"]) if row else None


async def switch_road(
    tx: Tx, before: Payment, after: Payment, reason: str, event: EventDraft, author: Author, lease: timedelta
) -> Read | None:
    """Write the road of `after` in place of that of `before`. None: somebody else came first, or the lease ended."""
    row = await tx.fetchrow(
        SWITCH_ROAD,
        before.tenant_id,
        before.id,
        before.version,
        before.lease_token,
        after.provider,
        after.account_id,
        after.account_fingerprint,
        after.provider_reference,
        lease,
        reason,
        new_id(),
        event.type,
        author.actor,
        json.dumps(event.data),
        author.request_id,
    )
    return Read(payment_from(row), row["now"]) if row else None


GET = f"""
SELECT {COLUMNS}, clock_timestamp() AS now FROM payments p WHERE tenant_id = $1 AND id = $2
"""  # noqa: S608  # the same


async def get(tx: Tx, tenant_id: TenantId, payment_id: PaymentId) -> Read | None:
    """One payment, of any mode."""
    row = await tx.fetchrow(GET, tenant_id, payment_id)
    return Read(payment_from(row), row["now"]) if row else None


async def get_by_reference(tx: Tx, tenant_id: TenantId, mode: Mode, reference: str) -> PaymentId | None:
    """The payment that holds a merchant's reference now."""
    found = await tx.fetchval(
        "SELECT id FROM payments WHERE tenant_id = $1 AND mode = $2 AND reference = $3 AND status <> 'FAILED'",
        tenant_id,
        mode,
        reference,
    )
    return PaymentId(str(found)) if found else None


@dataclass(frozen=True, slots=True)
class Filter:
    """What a list shows. All given conditions must hold; times are a half-open span of creation."""

    status: Status | None = None
    provider: str | None = None
    reference: str | None = None
    created_from: datetime | None = None
    created_before: datetime | None = None


LIST = f"""
SELECT {COLUMNS} FROM payments p
WHERE tenant_id = $1 AND mode = $2
  AND ($3::uuid IS NULL OR id < $3)
  AND ($4::text IS NULL OR status = $4)
  AND ($5::text IS NULL OR provider = $5)
  AND ($6::text IS NULL OR reference = $6)
  AND ($7::timestamptz IS NULL OR created_at >= $7)
  AND ($8::timestamptz IS NULL OR created_at < $8)
ORDER BY id DESC LIMIT $9
"""  # noqa: S608  # the same


async def list_page(
    tx: Tx, tenant_id: TenantId, mode: Mode, wanted: Filter, before_id: PaymentId | None, limit: int
) -> list[Payment]:
    """Newest first: ids are UUIDv7, so their order is that of creation."""
    rows = await tx.fetch(
        LIST,
        tenant_id,
        mode,
        before_id,
        wanted.status,
        wanted.provider,
        wanted.reference,
        wanted.created_from,
        wanted.created_before,
        limit,
    )
    return [payment_from(row) for row in rows]


async def untold_reviews(tx: Tx, limit: int) -> list[tuple[TenantId, PaymentId]]:
    """Payments in review of which the operator was not told yet. Needs a worker's transaction."""
    rows = await tx.fetch("SELECT tenant_id, payment_id FROM untold_reviews($1)", limit)
    return [(TenantId(str(row["tenant_id"])), PaymentId(str(row["payment_id"]))) for row in rows]


async def note_review_told(tx: Tx, payment: Payment) -> None:
    """The operator was told of this review."""
    await tx.execute(
        "UPDATE payments SET review_told_at = now() WHERE tenant_id = $1 AND id = $2 AND review = $3",
        payment.tenant_id,
        payment.id,
        payment.review,
    )


# --- across tenants: these need an operator's transaction ---


FIND = f"""
SELECT t.slug, {COLUMNS} FROM payments p JOIN tenants t ON t.id = p.tenant_id WHERE p.id = $1
"""  # noqa: S608  # the same

LIST_REVIEWS = f"""
SELECT t.slug, {COLUMNS} FROM payments p JOIN tenants t ON t.id = p.tenant_id
WHERE p.review IS NOT NULL AND ($1::uuid IS NULL OR p.tenant_id = $1)
ORDER BY p.id LIMIT $2
"""  # noqa: S608  # the same


async def find(tx: Tx, payment_id: PaymentId) -> tuple[str, Payment] | None:
    """A payment by its id alone, with its tenant's slug."""
    row = await tx.fetchrow(FIND, payment_id)
    return (row["slug"], payment_from(row)) if row else None


async def list_reviews(tx: Tx, tenant_id: TenantId | None, limit: int) -> list[tuple[str, Payment]]:
    """Payments that wait for a person, oldest first, with their tenants' slugs."""
    rows = await tx.fetch(LIST_REVIEWS, tenant_id, limit)
    return [(row["slug"], payment_from(row)) for row in rows]


LIST_MISMATCHED = f"""
SELECT t.slug, {COLUMNS}, clock_timestamp() AS now FROM payments p JOIN tenants t ON t.id = p.tenant_id
WHERE p.review IS NOT NULL AND p.received_minor IS NOT NULL AND p.status IN ('PENDING', 'TIMEOUT')
ORDER BY p.id LIMIT $1
"""  # noqa: S608  # the same


async def list_mismatched(tx: Tx, limit: int) -> list[tuple[str, Payment, datetime]]:
    """Open payments of which other money came than was asked for, oldest first; each with the database's time."""
    rows = await tx.fetch(LIST_MISMATCHED, limit)
    return [(row["slug"], payment_from(row), row["now"]) for row in rows]


@dataclass(frozen=True, slots=True)
class Earlier:
    """A road that was left because nothing was sent on it, and why."""

    attempt: int
    provider: str
    account_id: AccountId | None
    provider_reference: ProviderReference
    reason: str
    created_at: datetime


async def earlier_roads(tx: Tx, tenant_id: TenantId, payment_id: PaymentId) -> list[Earlier]:
    """The roads of a payment before the present one, oldest first."""
    rows = await tx.fetch(
        "SELECT attempt, provider, account_id, provider_reference, reason, created_at FROM attempts"
        " WHERE tenant_id = $1 AND payment_id = $2 ORDER BY attempt",
        tenant_id,
        payment_id,
    )
    return [
        Earlier(
            attempt=row["attempt"],
            provider=row["provider"],
            account_id=_account_id(row),
            provider_reference=ProviderReference(str(row["provider_reference"])),
            reason=row["reason"],
            created_at=row["created_at"],
        )
        for row in rows
    ]


async def claim(tx: Tx, limit: int, lease_s: float) -> list[Claim]:
    """Take due payments of any tenant that are not final. Needs a worker's transaction."""
    rows = await tx.fetch("SELECT tenant_id, payment_id, lease_token FROM claim_payments($1, $2)", limit, lease_s)
    return _claims(rows)


async def claim_final(tx: Tx, limit: int, lease_s: float) -> list[Claim]:
    """Take final payments of any tenant about which a question is due. Needs a worker's transaction."""
    rows = await tx.fetch("SELECT tenant_id, payment_id, lease_token FROM claim_final_payments($1, $2)", limit, lease_s)
    return _claims(rows)


def _claims(rows: Sequence[Record]) -> list[Claim]:
    return [Claim(TenantId(str(t)), PaymentId(str(p)), LeaseToken(str(token))) for t, p, token in rows]


@dataclass(frozen=True, slots=True)
class Match:
    """Whose payment a callback speaks of, and the account that it used. `earlier`: by a road that was left unsent."""

    tenant_id: TenantId
    payment_id: PaymentId
    account_id: AccountId | None
    earlier: bool


async def match_callback(tx: Tx, provider: str, reference: ProviderReference) -> Match | None:
    """The payment with this reference at this provider. Needs a gate transaction."""
    row = await tx.fetchrow(
        "SELECT tenant_id, payment_id, account_id, earlier FROM match_callback($1, $2)", provider, reference
    )
    if row is None:
        return None
    return Match(TenantId(str(row["tenant_id"])), PaymentId(str(row["payment_id"])), _account_id(row), row["earlier"])


# The question that a hint asks for is due at once, and five seconds after the last such question at the earliest. About
# a final payment it is a minute, and twice as long after each that was asked: strangers may hint as well. A hint that
# comes while somebody asks is kept (see WRITE), and one question answers all hints before it.
HINT = """
UPDATE payments p
SET hinted = true, hinted_at = due,
    next_run_at = CASE WHEN p.lease_token IS NULL THEN least(p.next_run_at, due) ELSE p.next_run_at END
FROM (
    SELECT tenant_id, id, greatest(now(), hinted_at + CASE
        WHEN status IN ('PENDING', 'TIMEOUT') THEN interval '5 seconds'
        ELSE least(interval '1 minute' * (1 << least(checks, 11)), interval '1 day') END) AS due
    FROM payments WHERE tenant_id = $1 AND id = $2 AND NOT hinted FOR UPDATE
) hint
WHERE p.tenant_id = hint.tenant_id AND p.id = hint.id
"""


async def hint(tx: Tx, tenant_id: TenantId, payment_id: PaymentId) -> None:
    """Somebody unknown says that something happened: look soon."""
    await tx.execute(HINT, tenant_id, payment_id)


async def release(tx: Tx, claim: Claim) -> None:
    """Give back a lease of which no use was made."""
    await tx.execute(
        "UPDATE payments SET lease_token = NULL, next_run_at = now()"
        " WHERE tenant_id = $1 AND id = $2 AND lease_token = $3",
        claim.tenant_id,
        claim.payment_id,
        claim.lease_token,
    )


def payment_from(row: Record) -> Payment:
    """A row of `payments` as the value that the domain decides upon."""
    return Payment(
        id=PaymentId(str(row["id"])),
        tenant_id=TenantId(str(row["tenant_id"])),
        mode=row["mode"],
        kind=row["kind"],
        status=Status(row["status"]),
        money=Money(row["amount_minor"], row["currency"]),
        payer=Msisdn(row["payer"]),
        network=row["network"],
        provider=row["provider"],
        account_id=_account_id(row),
        account_fingerprint=row["account_fingerprint"],
        provider_reference=ProviderReference(str(row["provider_reference"])),
        send_before=row["send_before"],
        expires_at=row["expires_at"],
        sent_until=row["sent_until"],
        created_at=row["created_at"],
        reference=row["reference"],
        description=row["description"],
        metadata=json.loads(row["metadata"]) if row["metadata"] else None,
        callback_url=row["callback_url"],
        provider_transaction_id=row["provider_transaction_id"],
        provider_receipt=row["provider_receipt"],
        received=Money(row["received_minor"], row["received_currency"]) if row["received_minor"] else None,
        failure_code=row["failure_code"],
        failure_provider_code=row["failure_provider_code"],
        review=Review(row["review"]) if row["review"] else None,
        version=row["version"],
        attempt=row["attempt"],
        unsent=row["unsent"],
        sent_before=row["sent_before"],
        checks=row["checks"],
        not_founds=row["not_founds"],
        first_not_found_at=row["first_not_found_at"],
        doubts=row["doubts"],
        first_doubt_at=row["first_doubt_at"],
        told_paid=row["told_paid"],
        accepted_at=row["accepted_at"],
        completed_at=row["completed_at"],
        next_run_at=row["next_run_at"],
        lease_token=LeaseToken(str(row["lease_token"])) if row["lease_token"] else None,
    )


def _account_id(row: Record) -> AccountId | None:
    return AccountId(str(row["account_id"])) if row["account_id"] else None
