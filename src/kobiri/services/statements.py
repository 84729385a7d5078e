"""Reconciliation: a provider's statement settles what is open and shows where their books and ours differ."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from kobiri.domain import statement as statements
from kobiri.domain.errors import NotFound
from kobiri.domain.ids import PaymentId, ProviderReference, TenantId
from kobiri.domain.outcome import Source, Succeeded
from kobiri.domain.payment import Payment, Review
from kobiri.domain.statement import Counterpart, Statement, StatementLine, Verdict
from kobiri.services import outcomes
from kobiri.store import events, payments, tenants
from kobiri.store import statements as store
from kobiri.store.db import PLATFORM, Database
from kobiri.store.payments import Author
from kobiri.store.statements import Account, Match

BATCH = 20_000

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class Entry:
    """One line with its payment, or one of them alone. `status` is the payment's, as it stands afterwards."""

    verdict: Verdict
    line: int | None = None
    their_id: str | None = None
    our_reference: str | None = None
    theirs: str | None = None
    tenant: str | None = None
    payment_id: PaymentId | None = None
    ours: str | None = None
    status: str | None = None
    detail: str | None = None


@dataclass(frozen=True, slots=True)
class Reconciliation:
    """What an import found, and what it changed. `period` None: no line bears a time, so nothing can be missing."""

    provider: str
    sha256: str
    dry_run: bool
    imported_before: datetime | None
    period: tuple[datetime, datetime] | None
    lines: int
    undecided: Mapping[str, int]
    others: Mapping[str, int]
    unread: Sequence[str]
    counts: Mapping[Verdict, int]
    changed: int
    entries: Sequence[Entry]


@dataclass(frozen=True, slots=True)
class _Pair:
    """A line and what is known of its payment; `ours` None: `verdict` says why."""

    line: StatementLine
    ours: Counterpart | None
    verdict: Verdict


async def reconcile(
    db: Database,
    statement: Statement,
    provider: str,
    author: Author,
    *,
    dry_run: bool = False,
    progress: Progress = lambda _stage, _done, _total: None,
) -> Reconciliation:
    """Compare a statement with our payments and settle what it settles. Safe to repeat, also after an interruption.

    That a payment is not in the statement settles nothing. Raises NotFound (no payment of this provider), Busy,
    DatabaseUnavailable.
    """
    async with db.operator_transaction() as tx:
        if not await store.knows_provider(tx, provider):
            raise NotFound(f"There is no payment of a provider {provider[:40]!r}.")
        imported_before = await store.imported_at(tx, provider, statement.sha256)
        slugs = {tenant.id: tenant.slug for tenant in await tenants.list_tenants(tx)}
    pairs = await _compare(db, statement.lines, provider, progress)
    absent = await _absent(db, statement, provider, [pair.ours for pair in pairs if pair.ours])
    entries, changed = [], 0
    for done, pair in enumerate(pairs, start=1):
        entry, written = await _settle(db, provider, pair, author, slugs, dry_run=dry_run)
        entries.append(entry)
        changed += written
        if done % 1_000 == 0 or done == len(pairs):
            progress("Settling", done, len(pairs))
    entries += [_absentee(ours, slugs) for ours in absent]
    counts = Counter(entry.verdict for entry in entries)
    found = Reconciliation(
        provider=provider,
        sha256=statement.sha256,
        dry_run=dry_run,
        imported_before=imported_before,
        period=statement.period,
        lines=len(statement.lines),
        undecided=statement.undecided,
        others=statement.others,
        unread=statement.unread,
        counts={verdict: counts[verdict] for verdict in Verdict},
        changed=changed,
        entries=entries,
    )
    if not dry_run and (imported_before is None or changed):
        await _note(db, found, author)
    return found


# --- which line speaks of which payment -----------------------------------------------------------------------------


async def _compare(db: Database, lines: Sequence[StatementLine], provider: str, progress: Progress) -> list[_Pair]:
    """Each line with its payment: by our reference, else by their id, else by number, amount and time."""
    matches: dict[int, Match] = {}
    for match_batch in (store.match_references, store.match_their_ids):
        left = [line for line in lines if line.number not in matches]
        for done, batch in _batches(left):
            async with db.operator_transaction() as tx:
                matches |= {match.line: match for match in await match_batch(tx, provider, batch)}
            progress("Matching", len(lines) - len(left) + done, len(lines))
    known = [match.ours for match in matches.values() if match.ours]
    left = [line for line in lines if line.number not in matches and _may_fit_by_facts(line)]
    async with db.operator_transaction() as tx:
        fits = await store.match_facts(
            tx, provider, left, {ours.payment_id for ours in known}, {ours.account for ours in known} or None
        )
    matches |= {match.line: match for match in fits}
    progress("Matching", len(lines), len(lines))
    speakers = Counter(match.ours.payment_id for match in matches.values() if match.ours)
    earlier = await _earlier(db, provider, [line for line in lines if line.number not in matches])
    return [earlier.get(line.number) or _pair(line, matches.get(line.number), speakers) for line in lines]


async def _earlier(db: Database, provider: str, lines: Sequence[StatementLine]) -> dict[int, _Pair]:
    """Lines that were paid by a road on which nothing was sent, as far as we saw, by their numbers."""
    paid = {line.number: line for line in lines if line.status == "successful"}
    found: dict[int, _Pair] = {}
    for _, batch in _batches(list(paid.values())):
        async with db.operator_transaction() as tx:
            for match in await store.match_earlier_references(tx, provider, batch):
                found[match.line] = _Pair(paid[match.line], match.ours, Verdict.EARLIER_ROAD)
    return found


def _may_fit_by_facts(line: StatementLine) -> bool:
    """A line with a reference that is not ours belongs to somebody else; one that failed may be another attempt."""
    return line.our_reference is None and line.status == "successful"


def _pair(line: StatementLine, match: Match | None, speakers: Mapping[PaymentId, int]) -> _Pair:
    if match is None:
        return _Pair(line, None, Verdict.MISSING_OURS if line.status == "successful" else Verdict.FAILED_UNKNOWN)
    if match.ours is None:
        return _Pair(line, None, Verdict.AMBIGUOUS)
    if speakers[match.ours.payment_id] > 1:
        return _Pair(line, match.ours, Verdict.SEVERAL_LINES)
    return _Pair(line, match.ours, statements.judge(line, match.ours))


def _batches(lines: Sequence[StatementLine]) -> Iterator[tuple[int, Sequence[StatementLine]]]:
    """Lines in parts, each with how many there are up to its end."""
    for start in range(0, len(lines), BATCH):
        batch = lines[start : start + BATCH]
        yield start + len(batch), batch


async def _absent(
    db: Database, statement: Statement, provider: str, matched: Sequence[Counterpart]
) -> list[Counterpart]:
    """Our payments of the statement's period that it does not name, of the accounts of which it speaks."""
    if statement.period is None:
        return []
    accounts = {Account(ours.account, ours.kind) for ours in matched}
    async with db.operator_transaction() as tx:
        return await store.missing(
            tx, provider, statement.period, {ours.payment_id for ours in matched}, accounts or None
        )


# --- what follows from it -------------------------------------------------------------------------------------------

CHANGING = frozenset({Verdict.SETTLED, Verdict.CONTRADICTING, Verdict.DIFFERENT, Verdict.EARLIER_ROAD})


async def _settle(
    db: Database, provider: str, pair: _Pair, author: Author, slugs: Mapping[TenantId, str], *, dry_run: bool
) -> tuple[Entry, bool]:
    """Bring the line's word to its payment, where it has one to bring; what became of it, and whether it changed."""
    line, ours, verdict = pair.line, pair.ours, pair.verdict
    detail, written = _detail(line, ours, verdict), False
    if ours is not None and verdict in CHANGING and not dry_run:
        async with db.tenant_transaction(ours.tenant_id) as tx:
            read = await payments.get(tx, ours.tenant_id, ours.payment_id)
        assert read is not None, "payments are never deleted"
        # It may have moved since it was matched. A lease that stands there is somebody else's.
        before = replace(read.payment, lease_token=None)
        if verdict is Verdict.EARLIER_ROAD:
            said = Succeeded(line.their_id, line.money, line.msisdn)
            suspected = await outcomes.suspect(
                db, before, _reference(line), provider, ours.account, said, Source.STATEMENT, author
            )
            return _entry(line, _counterpart(suspected), verdict, slugs, detail), suspected.version != before.version
        ours = _counterpart(before)
        verdict = statements.judge(line, ours)
        detail = _detail(line, ours, verdict)
        if verdict in CHANGING and _has_word(line, ours, verdict):
            after = await outcomes.apply(db, before, statements.word_of(line), Source.STATEMENT, read.now, author)
            written = after.version != before.version
            ours = _counterpart(after)
    return _entry(line, ours, verdict, slugs, detail), written


def _reference(line: StatementLine) -> ProviderReference:
    reference = store.reference_of(line)
    assert reference is not None, "it was matched by it"
    return ProviderReference(reference)


def _has_word(line: StatementLine, ours: Counterpart, verdict: Verdict) -> bool:
    """Whether the state machine has something to say. A difference that a person looks at already has been said."""
    if verdict is not Verdict.DIFFERENT:
        return True
    return line.status == "successful" and ours.review is not Review.MISMATCHED


def _detail(line: StatementLine, ours: Counterpart | None, verdict: Verdict) -> str | None:
    if ours is None:
        return None
    if verdict is Verdict.EARLIER_ROAD:
        return "perhaps the payer paid twice"
    if verdict is Verdict.CONTRADICTING:
        return f"they say {line.status}, we say {ours.status}"
    different = statements.difference(line, ours)
    if different is None and line.their_id and ours.their_id and line.their_id != ours.their_id:
        return "their transaction id is not the one that we know"
    return different


def _entry(
    line: StatementLine, ours: Counterpart | None, verdict: Verdict, slugs: Mapping[TenantId, str], detail: str | None
) -> Entry:
    return Entry(
        verdict=verdict,
        line=line.number,
        their_id=line.their_id,
        our_reference=line.our_reference,
        theirs=f"{line.money} {line.money.currency}",
        tenant=slugs.get(ours.tenant_id, ours.tenant_id) if ours else None,
        payment_id=ours.payment_id if ours else None,
        ours=f"{ours.money} {ours.money.currency}" if ours else None,
        status=ours.status if ours else None,
        detail=detail,
    )


def _absentee(ours: Counterpart, slugs: Mapping[TenantId, str]) -> Entry:
    return Entry(
        verdict=Verdict.MISSING_THEIRS if ours.status == "SUCCESSFUL" else Verdict.TIMEOUT_MISSING_THEIRS,
        their_id=ours.their_id,
        tenant=slugs.get(ours.tenant_id, ours.tenant_id),
        payment_id=ours.payment_id,
        ours=f"{ours.money} {ours.money.currency}",
        status=ours.status,
    )


def _counterpart(payment: Payment) -> Counterpart:
    return Counterpart(
        tenant_id=payment.tenant_id,
        payment_id=payment.id,
        kind=payment.kind,
        status=payment.status,
        money=payment.money,
        payer=payment.payer.digits,
        their_id=payment.provider_transaction_id,
        account=payment.account_fingerprint,
        review=payment.review,
    )


async def _note(db: Database, found: Reconciliation, author: Author) -> None:
    """The import in the platform's own audit log: counts, no personal data."""
    facts: dict[str, object] = {
        "provider": found.provider,
        "sha256": found.sha256,
        "lines": found.lines,
        "undecided": sum(found.undecided.values()),
        "others": sum(found.others.values()),
        "changed": found.changed,
        "counts": {verdict.value: count for verdict, count in found.counts.items() if count},
    }
    async with db.operator_transaction() as tx:
        await events.insert(tx, PLATFORM, "statement.imported", found.sha256, author.actor, facts)
