"""Reconciliation: a provider's statement settles what is open and shows where their books and ours differ."""

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime

import structlog

from kobiri.domain import statement as statements
from kobiri.domain.errors import KobiriError, NotFound, Unavailable
from kobiri.domain.ids import PaymentId, ProviderReference, TenantId, made_by_us, new_id
from kobiri.domain.ledger import Arrival, Why
from kobiri.domain.outcome import Source
from kobiri.domain.payment import Change, Payment, Status, paid_twice, reversed_there
from kobiri.domain.statement import Counterpart, Statement, StatementLine, Unreadable, Verdict
from kobiri.services import outcomes, suspense
from kobiri.store import arrivals, events, payments, proposals, tenants
from kobiri.store import statements as store
from kobiri.store.arrivals import TransactionTaken
from kobiri.store.db import PLATFORM, Database
from kobiri.store.payments import Author
from kobiri.store.statements import Account, Match

log = structlog.get_logger(__name__)

BATCH = 20_000
FAILURES_IN_A_ROW = 3  # so many lines that the database did not take, and the rest is not tried

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
    """What an import found, and by how many lines it changed something.

    `period` None: no line bears a time, so nothing can be missing.
    """

    provider: str
    sha256: str
    dry_run: bool
    imported_before: datetime | None
    period: tuple[datetime, datetime] | None
    lines: int
    undecided: Mapping[str, int]
    others: Mapping[str, int]
    idle: Mapping[str, int]
    repeated: int
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
    detail: str | None = None


@dataclass(frozen=True, slots=True)
class _Group:
    """What is left of one payment's lines when each reversal has taken its own; `unclear`: another reversal stands."""

    left: Sequence[StatementLine]
    numbers: Collection[int]
    unclear: bool


@dataclass(frozen=True, slots=True)
class _Import:
    """What every line of one import needs."""

    db: Database
    provider: str
    sha256: str
    author: Author
    slugs: Mapping[TenantId, str]
    account: Account | None  # the only one of which the statement speaks; None: it is not known
    owner: TenantId | None  # whose that account is, as far as this statement needs to know

    def told_in(self, line: StatementLine) -> str:
        return f"statement {self.sha256[:12]} line {line.number}"


@dataclass
class _Fate:
    """What became of the lines so far."""

    entries: list[Entry] = field(default_factory=list)
    changed: int = 0
    failures: int = 0  # in a row


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

    That a payment is not in the statement settles nothing. A line that cannot be applied is told as NOT_APPLIED and
    stops no other. Raises NotFound (no payment of this provider), Busy, DatabaseUnavailable: before the first line.
    """
    async with db.operator_transaction() as tx:
        if not await store.knows_provider(tx, provider):
            raise NotFound(f"There is no payment of a provider {provider[:40]!r}.")
        imported_before = await store.imported_at(tx, provider, statement.sha256)
        slugs = {tenant.id: tenant.slug for tenant in await tenants.list_tenants(tx)}
    pairs, accounts = await _compare(db, statement.lines, provider, progress)
    matched = [pair.ours for pair in pairs if pair.ours and pair.verdict is not Verdict.EARLIER_ROAD]
    absent = await _absent(db, statement, provider, matched)
    account = next(iter(accounts)) if len(accounts) == 1 else None
    owner = await _owner(db, provider, account) if account and _bring_unasked(pairs) else None
    if owner is None:
        pairs = [_without_owner(pair) for pair in pairs]
    running = _Import(db, provider, statement.sha256, author, slugs, account, owner)
    fate = _Fate()
    # What came besides, or went back, is told of a payment that its own line has settled.
    for done, pair in enumerate(sorted(pairs, key=lambda pair: pair.verdict in AFTERWARDS), start=1):
        await _meet(running, pair, fate, dry_run=dry_run)
        if done % 1_000 == 0 or done == len(pairs):
            progress("Settling", done, len(pairs))
    entries = fate.entries + [_unreadable(row) for row in statement.unreadable]
    entries.sort(key=lambda entry: entry.line or 0)
    entries += [_absentee(ours, slugs) for ours in absent]
    counts = Counter(entry.verdict for entry in entries)
    found = Reconciliation(
        provider=provider,
        sha256=statement.sha256,
        dry_run=dry_run,
        imported_before=imported_before,
        period=statement.period,
        lines=len(statement.lines) + len(statement.unreadable),
        undecided=statement.undecided,
        others=statement.others,
        idle=statement.idle,
        repeated=statement.repeated,
        unread=statement.unread,
        counts={verdict: counts[verdict] for verdict in Verdict},
        changed=fate.changed,
        entries=entries,
    )
    if not dry_run:
        await _remember_ids(db, pairs)
    if not dry_run and (imported_before is None or fate.changed):
        with suppress(Unavailable):  # what was done is done, and is told
            await _note(db, found, author)
    return found


# --- which line speaks of which payment -----------------------------------------------------------------------------


async def _compare(
    db: Database, lines: Sequence[StatementLine], provider: str, progress: Progress
) -> tuple[list[_Pair], set[Account]]:
    """Each line with its payment: by our reference, else by their id; facts only propose. And the statement's accounts.

    A transaction id belongs to an account: so the references tell first of which accounts the statement is.
    """
    matches: dict[int, Match] = {}
    for done, batch in _batches(lines):
        async with db.operator_transaction() as tx:
            matches |= {match.line: match for match in await store.match_references(tx, provider, batch)}
        progress("Matching", done, 2 * len(lines))
    accounts = _accounts(matches.values())
    left = [line for line in lines if line.number not in matches]
    by_id: dict[int, Match] = {}
    for done, batch in _batches(left):
        async with db.operator_transaction() as tx:
            by_id |= {m.line: m for m in await store.match_their_ids(tx, provider, batch, accounts or None)}
        progress("Matching", 2 * len(lines) - len(left) + done, 2 * len(lines))
    if not accounts:
        accounts = _accounts(by_id.values())
        if len(accounts) > 1:  # ids of several accounts, and nothing tells of which the statement is
            by_id, accounts = {number: Match(number, None) for number in by_id}, set()
    matches |= by_id
    left = [line for line in lines if line.number not in matches]
    others = await _in_suspense(db, provider, left, accounts) | await _earlier(db, provider, left)
    left = [line for line in left if line.number not in others]
    others |= await _fitting(db, provider, left, matches.values(), accounts)
    settled = await _settled_by_statement(db, matches.values(), lines)
    known = await _known_elsewhere(db, [line for line in lines if line.number not in matches])
    lines_of = defaultdict[PaymentId, list[StatementLine]](list)
    for line in lines:
        match = matches.get(line.number)
        if match is not None and match.ours is not None:
            lines_of[match.ours.payment_id].append(line)
    groups = {payment_id: _group(group) for payment_id, group in lines_of.items()}

    def pair(line: StatementLine) -> _Pair:
        match = matches.get(line.number)
        if match is not None and match.ours is not None:
            return _pair(line, match.ours, groups[match.ours.payment_id], settled)
        if match is not None:
            return _Pair(line, None, Verdict.AMBIGUOUS)
        return others.get(line.number) or _unmatched(line, known)

    return [pair(line) for line in lines], accounts


def _accounts(matches: Collection[Match]) -> set[Account]:
    return {Account(match.ours.account, match.ours.mode) for match in matches if match.ours}


async def _earlier(db: Database, provider: str, lines: Sequence[StatementLine]) -> dict[int, _Pair]:
    """Lines that were paid by a road on which nothing was sent, as far as we saw, by their numbers."""
    paid = {line.number: line for line in lines if line.status == "successful" and not line.reverses}
    found: dict[int, _Pair] = {}
    for _, batch in _batches(list(paid.values())):
        async with db.operator_transaction() as tx:
            for match in await store.match_earlier_references(tx, provider, batch):
                found[match.line] = _Pair(paid[match.line], match.ours, Verdict.EARLIER_ROAD)
    return found


async def _in_suspense(
    db: Database, provider: str, lines: Sequence[StatementLine], accounts: set[Account]
) -> dict[int, _Pair]:
    """Lines whose transaction id is that of money in suspense, by their numbers."""
    paid = {line.number: line for line in lines if line.status == "successful" and not line.reverses}
    async with db.operator_transaction() as tx:
        found = await store.match_arrivals(tx, provider, list(paid.values()), accounts or None)
    return {
        match.line: _Pair(paid[match.line], match.ours, Verdict.AGREED, "its money waits in suspense")
        for match in found
        if match.ours
    }


async def _fitting(
    db: Database, provider: str, lines: Sequence[StatementLine], matches: Collection[Match], accounts: set[Account]
) -> dict[int, _Pair]:
    """Lines that fit a payment by number, amount and time, by their numbers. `matches` are taken."""
    left = {line.number: line for line in lines if _may_fit_by_facts(line)}
    taken = {match.ours.payment_id for match in matches if match.ours}
    async with db.operator_transaction() as tx:
        found = await store.match_facts(tx, provider, list(left.values()), taken, accounts or None)
    return {match.line: _fit(left[match.line], match.ours) for match in found}


def _may_fit_by_facts(line: StatementLine) -> bool:
    """A line with a reference that is not ours belongs to somebody else; one that failed may be another attempt."""
    return line.our_reference is None and line.status == "successful" and not line.reverses


def _fit(line: StatementLine, ours: Counterpart | None) -> _Pair:
    """Facts settle nothing: they propose."""
    if ours is None:
        return _Pair(line, None, Verdict.AMBIGUOUS)
    if ours.status in (Status.SUCCESSFUL, Status.REVERSED):
        return _Pair(line, ours, Verdict.AGREED, "by number, amount and time alone")
    return _Pair(line, ours, Verdict.PROPOSED)


async def _settled_by_statement(
    db: Database, matches: Collection[Match], lines: Sequence[StatementLine]
) -> set[PaymentId]:
    """Of the payments whose line has another id than we know: those whose id a statement has told."""
    ids = {line.number: line.their_id for line in lines}
    odd = [match.ours for match in matches if match.ours and match.ours.bears_another(ids[match.line])]
    if not odd:
        return set()
    async with db.operator_transaction() as tx:
        return await store.settled_by_statement(tx, odd)


async def _known_elsewhere(db: Database, lines: Sequence[StatementLine]) -> set[str]:
    """The references among these that are ours all the same: of another provider, or of money that goes out."""
    references = [reference for line in lines if (reference := _own_reference(line))]
    if not references:
        return set()
    async with db.operator_transaction() as tx:
        return await store.known_references(tx, references)


def _own_reference(line: StatementLine) -> ProviderReference | None:
    """The line's reference where we may have made it: a UUID of the version that our references have."""
    return made_by_us(statements.reference_of(line.our_reference or "") or "")


def _group(lines: Sequence[StatementLine]) -> _Group:
    gone = statements.taken_back(lines)
    left = [line for line in lines if line.number not in gone and not line.reverses]
    unclear = any(line.reverses and line.number not in gone for line in lines)
    return _Group(left, {line.number for line in left}, unclear=unclear)


def _pair(line: StatementLine, ours: Counterpart, of_payment: _Group, settled: Collection[PaymentId]) -> _Pair:
    """A line and its payment. `settled`: the payments whose id a statement has told."""
    is_open = ours.status in (Status.PENDING, Status.TIMEOUT)
    if line.number not in of_payment.numbers or (of_payment.unclear and is_open):
        return _Pair(line, ours, Verdict.REVERSED, "a reversal stands in the statement")
    group = of_payment.left
    if len(group) == 1 or ours.status is Status.FAILED:  # whatever came for a failed one is judged by itself
        if ours.bears_another(line.their_id) and ours.payment_id in settled and line.status == "successful":
            return _Pair(line, ours, Verdict.PAID_TWICE)
        return _Pair(line, ours, statements.judge(line, ours))
    own = statements.own_line(group, ours)
    if own is None:
        return _Pair(line, ours, Verdict.SEVERAL_LINES)
    if own is line:
        return _Pair(line, ours, statements.judge(line, ours))
    return _Pair(line, ours, Verdict.PAID_TWICE)


def _unmatched(line: StatementLine, known: Collection[str]) -> _Pair:
    if line.status == "failed" or line.reverses:
        return _Pair(line, None, Verdict.FAILED_UNKNOWN)
    reference = _own_reference(line)
    if reference in known:
        return _Pair(line, None, Verdict.MISSING_OURS, "its reference is of another provider, or another direction")
    if reference is None or line.direction == "out":
        return _Pair(line, None, Verdict.MISSING_OURS)
    return _Pair(line, None, Verdict.UNASKED)


def _bring_unasked(pairs: Sequence[_Pair]) -> bool:
    return any(pair.verdict is Verdict.UNASKED for pair in pairs)


def _without_owner(pair: _Pair) -> _Pair:
    """Money at an account that may be anybody's stands in nobody's books."""
    if pair.verdict is not Verdict.UNASKED:
        return pair
    detail = "under a reference of ours, and nothing tells whose account this is: it is not booked"
    return replace(pair, verdict=Verdict.MISSING_OURS, detail=detail)


async def _owner(db: Database, provider: str, account: Account) -> TenantId | None:
    """Whose an account is, by the payments there: the platform's, or a merchant's own. None: several may say so."""
    async with db.operator_transaction() as tx:
        owners = await store.account_owners(tx, provider, account)
    return owners.pop() if len(owners) == 1 else None


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
    async with db.operator_transaction() as tx:
        seen = {ours.payment_id for ours in matched}
        return await store.missing(tx, provider, statement.period, seen, matched)


# --- what follows from it -------------------------------------------------------------------------------------------

APPLIED = frozenset({Verdict.SETTLED, Verdict.CONTRADICTING, Verdict.DIFFERENT})
CHANGING = APPLIED | {
    Verdict.PROPOSED, Verdict.PAID_TWICE, Verdict.REVERSED, Verdict.EARLIER_ROAD, Verdict.UNASKED
}  # fmt: skip


AFTERWARDS = frozenset({Verdict.PAID_TWICE, Verdict.REVERSED})

WHY: Mapping[Verdict, str] = {
    Verdict.EARLIER_ROAD: "perhaps the payer paid twice",
    Verdict.PAID_TWICE: "another transaction than the one that settled it",
    Verdict.PROPOSED: "by number, amount and time: accept or reject it (kobiri statements proposals)",
}


async def _meet(running: _Import, pair: _Pair, fate: _Fate, *, dry_run: bool) -> None:
    """Bring a line's word to where it belongs. Whatever happens to it, the next one has its turn."""
    verdict = pair.verdict
    if dry_run or verdict not in CHANGING:
        fate.entries.append(_entry(pair.line, pair.ours, verdict, running.slugs, _detail(pair, verdict)))
        return
    if fate.failures >= FAILURES_IN_A_ROW:
        fate.entries.append(_not_applied(running, pair, "not tried, for those before it could not be written"))
        return
    try:
        entry, written = await _settle(running, pair)
    except KobiriError as error:
        fate.failures += isinstance(error, Unavailable)
        fate.entries.append(_not_applied(running, pair, error.detail))
    except Exception as error:
        log.exception("statement.line_failed", line=pair.line.number)
        fate.entries.append(_not_applied(running, pair, f"{type(error).__name__}: the log knows more"))
    else:
        fate.failures = 0
        fate.entries.append(entry)
        fate.changed += written


async def _settle(running: _Import, pair: _Pair) -> tuple[Entry, bool]:
    """Bring a line's word to its payment; what became of it, and whether that changed anything."""
    line, verdict, db = pair.line, pair.verdict, running.db
    told_in = running.told_in(line)
    if pair.ours is None:
        return await _book_unasked(running, pair)
    async with db.tenant_transaction(pair.ours.tenant_id) as tx:
        read = await payments.get(tx, pair.ours.tenant_id, pair.ours.payment_id)
    assert read is not None, "payments are never deleted"
    # It may have moved since it was matched. A lease that stands there is somebody else's.
    before = replace(read.payment, lease_token=None)
    success = statements.success_of(line, told_in)
    match verdict:
        case Verdict.PROPOSED:
            return await _propose(running, pair)
        case Verdict.EARLIER_ROAD:
            after = await outcomes.suspect(
                db, before, _reference(line), running.provider, pair.ours.account, success, Source.STATEMENT,
                running.author,
            )  # fmt: skip
        case Verdict.PAID_TWICE:
            after = await outcomes.note(
                db, before, lambda payment: paid_twice(payment, success, Source.STATEMENT), running.author
            )
        case Verdict.REVERSED:
            after = await _reverse(running, line, before)
        case _:
            verdict = statements.judge(line, _counterpart(before))
            pair = replace(pair, ours=_counterpart(before))
            after = before
            if verdict in APPLIED and not (verdict is Verdict.DIFFERENT and line.status == "failed"):
                word = statements.word_of(line, told_in)
                after = await outcomes.apply(db, before, word, Source.STATEMENT, read.now, running.author)
            if verdict is Verdict.SETTLED and not after.is_final:
                verdict = Verdict.DIFFERENT
                why = "their transaction id belongs to another payment"
                if line.status == "failed":
                    why = "their callback said that it was paid"
                pair = replace(pair, detail=why)
    ours = _counterpart(after)
    entry = _entry(line, ours, verdict, running.slugs, _detail(pair, verdict))
    return entry, after.version != before.version


async def _reverse(running: _Import, line: StatementLine, payment: Payment) -> Payment:
    """Tell of a reversal; the line whose money it took back says the same."""
    async with running.db.tenant_transaction(payment.tenant_id) as tx:
        arrived = bool(await arrivals.of_payment(tx, payment.tenant_id, payment.id))

    def decide(payment: Payment) -> Change | None:
        return reversed_there(payment, line.their_id, running.told_in(line), Source.STATEMENT, arrived=arrived)

    return await outcomes.note(running.db, payment, decide, running.author)


async def _propose(running: _Import, pair: _Pair) -> tuple[Entry, bool]:
    line, ours = pair.line, pair.ours
    assert ours is not None, "facts have found it"
    assert line.at is not None, "by its time"
    draft = proposals.Draft(
        ours.payment_id,
        running.provider,
        statements.line_digest(running.provider, ours.account, line),
        line.their_id,
        line.money,
        line.at,
        running.told_in(line),
    )
    async with running.db.tenant_transaction(ours.tenant_id) as tx:
        added = await proposals.add(tx, ours.tenant_id, new_id(), draft)
    return _entry(line, ours, pair.verdict, running.slugs, _detail(pair, pair.verdict)), added


async def _book_unasked(running: _Import, pair: _Pair) -> tuple[Entry, bool]:
    """Money under a reference of ours of which there is no payment: the account's owner has it in suspense."""
    line, verdict, detail = pair.line, pair.verdict, pair.detail
    assert running.account is not None, "nothing is booked where the account is not known"
    assert running.owner is not None, "nor where its owner is not"
    try:
        booked = await suspense.book_unasked(
            running.db,
            running.owner,
            running.account.mode,
            _reference(line),
            Arrival(
                running.provider,
                running.account.fingerprint,
                line.money,
                Why.UNASKED,
                Source.STATEMENT,
                line.their_id,
                running.told_in(line),
            ),
            running.author,
        )
    except TransactionTaken:
        booked, verdict, detail = False, Verdict.MISSING_OURS, "their transaction id belongs to a payment here"
    return _entry(line, None, verdict, running.slugs, detail), booked


async def _remember_ids(db: Database, pairs: Sequence[_Pair]) -> None:
    """Of the payments whose own id the statement shows: another id in a later file is another transaction."""
    shown = defaultdict[TenantId, list[tuple[PaymentId, str]]](list)
    for pair in pairs:
        if pair.ours is not None and pair.line.their_id is not None:
            shown[pair.ours.tenant_id].append((pair.ours.payment_id, pair.line.their_id))
    for tenant_id, ids in shown.items():
        with suppress(Unavailable):  # the next import of the file tries again
            async with db.tenant_transaction(tenant_id) as tx:
                await store.remember_ids(tx, tenant_id, ids)


def _reference(line: StatementLine) -> ProviderReference:
    reference = statements.reference_of(line.our_reference or "")
    assert reference is not None, "it was matched by it"
    return ProviderReference(reference)


def _detail(pair: _Pair, verdict: Verdict) -> str | None:
    line, ours = pair.line, pair.ours
    if pair.detail is not None or ours is None:
        return pair.detail
    if verdict in WHY:
        return WHY[verdict]
    if verdict is Verdict.CONTRADICTING:
        return f"they say {line.status}, we say {ours.status}"
    different = statements.difference(line, ours)
    if different is None and ours.bears_another(line.their_id):
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


def _not_applied(running: _Import, pair: _Pair, why: str) -> Entry:
    return _entry(pair.line, pair.ours, Verdict.NOT_APPLIED, running.slugs, f"{pair.verdict}: {why}")


def _unreadable(row: Unreadable) -> Entry:
    return Entry(Verdict.UNREADABLE, line=row.number, detail=row.reason)


def _absentee(ours: Counterpart, slugs: Mapping[TenantId, str]) -> Entry:
    return Entry(
        verdict=Verdict.MISSING_THEIRS if ours.status == "SUCCESSFUL" else Verdict.TIMEOUT_MISSING_THEIRS,
        their_id=ours.receipt or ours.their_id,
        tenant=slugs.get(ours.tenant_id, ours.tenant_id),
        payment_id=ours.payment_id,
        ours=f"{ours.money} {ours.money.currency}",
        status=ours.status,
    )


def _counterpart(payment: Payment) -> Counterpart:
    return Counterpart(
        tenant_id=payment.tenant_id,
        payment_id=payment.id,
        mode=payment.mode,
        kind=payment.kind,
        status=payment.status,
        money=payment.money,
        payer=payment.payer.digits,
        their_id=payment.provider_transaction_id,
        receipt=payment.provider_receipt,
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
        "idle": sum(found.idle.values()),
        "repeated": found.repeated,
        "changed": found.changed,
        "counts": {verdict.value: count for verdict, count in found.counts.items() if count},
    }
    async with db.operator_transaction() as tx:
        await events.insert(tx, PLATFORM, "statement.imported", found.sha256, author.actor, facts)
