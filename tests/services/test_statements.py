"""Reconciliation against a real database: what a statement settles, shows, and leaves alone."""

import asyncio
import uuid
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any

import pytest

from kobiri.domain import statement
from kobiri.domain.errors import Busy, NotFound
from kobiri.domain.ids import ProviderReference, TenantId, new_id
from kobiri.domain.money import Money
from kobiri.domain.msisdn import Msisdn
from kobiri.domain.outcome import Accepted, Declined, FailureCode, Source, Succeeded, Unknown
from kobiri.domain.payment import Payment, Review, Status, rerouted
from kobiri.domain.statement import LAYOUTS, Statement, StatementLine, Verdict
from kobiri.services import outcomes, statements
from kobiri.services.statements import Entry, Reconciliation
from kobiri.store import payments
from kobiri.store import statements as store
from kobiri.store.db import PLATFORM, Database
from kobiri.store.payments import Author
from tests.api.steps import make_due
from tests.conftest import TestDatabase
from tests.store.builders import AUTHOR, get, insert, make_payment, make_tenant

OPERATOR = Author("operator:test")
NUMBERS = count(260_960_000_001)
STRANGERS = "0b7a0f5e-3c1d-4a54-9a55-6a1de0f5b001"  # a reference in the shape of ours


@pytest.fixture
async def tenant_id(db: Database) -> TenantId:
    return await make_tenant(db, "shop")


@pytest.fixture
def made(db: Database, tenant_id: TenantId) -> "Maker":
    return Maker(db, tenant_id)


class Maker:
    """Payments of one tenant, each with a payer of its own unless told otherwise."""

    def __init__(self, db: Database, tenant_id: TenantId) -> None:
        self._db, self._tenant_id = db, tenant_id

    async def __call__(self, status: Status, their_id: str | None = None, **over: Any) -> Payment:
        fields = {"payer": Msisdn(str(next(NUMBERS)))} | over
        payment = await insert(self._db, make_payment(fields.pop("tenant_id", self._tenant_id), **fields))
        match status:
            case Status.SUCCESSFUL:
                return await self._tell(payment, Succeeded(their_id), Source.CHECK)
            case Status.FAILED:
                return await self._tell(payment, Declined(FailureCode.PAYER_DECLINED), Source.CHECK)
            case Status.TIMEOUT:
                return await self._tell(payment, Unknown("no answer"), Source.SEND)
            case _:
                return await self._tell(payment, Accepted(), Source.SEND)

    async def _tell(self, payment: Payment, outcome: Any, source: Source) -> Payment:
        return await outcomes.apply(self._db, payment, outcome, source, payment.created_at, AUTHOR)


def line_of(payment: Payment, number: int = 2, **over: Any) -> StatementLine:
    """A successful line of a payment: by reference, with everything that agrees."""
    known = StatementLine(
        number=number,
        our_reference=payment.provider_reference,
        their_id=f"T{number}",
        money=payment.money,
        msisdn=payment.payer.digits,
        at=payment.created_at + timedelta(minutes=1),
        status="successful",
        direction="in",
        word="successful",
    )
    return replace(known, **over)


def by_facts(payment: Payment, number: int = 2, **over: Any) -> StatementLine:
    return line_of(payment, number, **({"our_reference": None} | over))


def failed(payment: Payment, number: int = 2, **over: Any) -> StatementLine:
    return line_of(payment, number, **({"status": "failed", "word": "tf"} | over))


async def reconcile(db: Database, lines: Sequence[StatementLine], **over: Any) -> Reconciliation:
    found = Statement(tuple(lines), {}, {}, (), over.pop("sha256", "0" * 64))
    return await statements.reconcile(db, found, over.pop("provider", "mtn"), OPERATOR, **over)


def verdicts(found: Reconciliation) -> dict[Verdict, int]:
    return {verdict: number for verdict, number in found.counts.items() if number}


def entry(found: Reconciliation, line: int | None = 2) -> Entry:
    [one] = [one for one in found.entries if one.line == line]
    return one


async def history(database: TestDatabase, payment: Payment) -> list[str]:
    rows = await database.fetch("SELECT type FROM events WHERE subject_id = $1 ORDER BY id", payment.id)
    return [row["type"] for row in rows]


async def snapshot(database: TestDatabase) -> list[Any]:
    """All that an import could change."""
    tables = ("payments", "events", "ledger_entries")
    return [await database.fetch(f"SELECT * FROM {table} ORDER BY 1, 2, 3") for table in tables]


# --- what a statement settles ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [Status.PENDING, Status.TIMEOUT])
async def test_a_successful_line_settles_an_open_payment(
    db: Database, database: TestDatabase, made: Maker, status: Status
) -> None:
    payment = await made(status)
    found = await reconcile(db, [line_of(payment)])
    assert verdicts(found) == {Verdict.SETTLED: 1}
    assert found.changed == 1
    after = (await get(db, payment)).payment
    assert (after.status, after.provider_transaction_id, after.lease_token) == (Status.SUCCESSFUL, "T2", None)
    assert (await history(database, payment))[-1] == "payment.succeeded"
    assert await database.value("SELECT sum(amount_minor) FROM ledger_entries WHERE amount_minor > 0") == 1_000
    assert entry(found).status == Status.SUCCESSFUL


async def test_a_failed_line_settles_an_open_payment_with_their_word(
    db: Database, database: TestDatabase, made: Maker
) -> None:
    payment = await made(Status.TIMEOUT)
    assert verdicts(await reconcile(db, [failed(payment)])) == {Verdict.SETTLED: 1}
    after = (await get(db, payment)).payment
    assert (after.status, after.failure_code, after.failure_provider_code) == ("FAILED", "provider_rejected", "tf")
    data = await database.value("SELECT data->>'source' FROM events WHERE type = 'payment.failed'")
    assert data == "statement"


async def test_payments_of_all_tenants_are_settled_behind_their_walls(db: Database, made: Maker) -> None:
    there = [await made(Status.TIMEOUT, tenant_id=await make_tenant(db)) for _ in range(3)]
    found = await reconcile(db, [line_of(payment, number) for number, payment in enumerate(there, start=2)])
    assert verdicts(found) == {Verdict.SETTLED: 3}
    assert [(await get(db, payment)).payment.status for payment in there] == [Status.SUCCESSFUL] * 3
    assert len({one.tenant for one in found.entries}) == 3


async def test_absence_settles_nothing(db: Database, database: TestDatabase, made: Maker) -> None:
    first, silent, paid, last = [
        await made(status) for status in (Status.SUCCESSFUL, Status.TIMEOUT, Status.SUCCESSFUL, Status.SUCCESSFUL)
    ]
    pending, refused = await made(Status.PENDING), await made(Status.FAILED)
    before = (await snapshot(database))[0]
    lines = [line_of(first, 2, at=first.created_at), line_of(last, 3, at=refused.created_at)]
    found = await reconcile(db, lines)
    assert verdicts(found) == {Verdict.AGREED: 2, Verdict.MISSING_THEIRS: 1, Verdict.TIMEOUT_MISSING_THEIRS: 1}
    missing = {one.verdict: one.payment_id for one in found.entries if one.line is None}
    assert missing == {Verdict.MISSING_THEIRS: paid.id, Verdict.TIMEOUT_MISSING_THEIRS: silent.id}
    assert (await snapshot(database))[0] == before
    assert (await get(db, pending)).payment.status is Status.PENDING


async def test_only_payments_of_the_period_provider_and_account_can_be_missing(
    db: Database, database: TestDatabase, made: Maker
) -> None:
    first, last = await made(Status.SUCCESSFUL), await made(Status.SUCCESSFUL)
    other_provider, other_account = [
        await made(Status.SUCCESSFUL, **over) for over in ({"provider": "airtel"}, {"account_fingerprint": "elsewhere"})
    ]
    early = await made(Status.SUCCESSFUL)
    await database.fetch("UPDATE payments SET created_at = created_at - interval '2 days' WHERE id = $1", early.id)
    late = other_account.created_at + timedelta(seconds=1)
    lines = [line_of(first, 2, at=first.created_at), line_of(last, 3, at=late)]
    assert verdicts(await reconcile(db, lines)) == {Verdict.AGREED: 2}
    assert other_provider.status is Status.SUCCESSFUL
    lines = [replace(one, at=None) for one in lines]
    found = await reconcile(db, lines, sha256="1" * 64)
    assert found.period is None
    # A statement that matches nothing does not tell its account: then all count.
    strangers = [line_of(make_payment(TenantId(new_id())), 2, at=first.created_at), replace(lines[1], at=late)]
    strangers[1] = replace(strangers[1], our_reference="another", their_id="another")
    assert verdicts(await reconcile(db, strangers)) == {Verdict.MISSING_OURS: 2, Verdict.MISSING_THEIRS: 3}


# --- what contradicts -----------------------------------------------------------------------------------------------


async def test_money_that_arrived_for_a_failed_payment_is_booked_to_suspense_once(
    db: Database, database: TestDatabase, made: Maker
) -> None:
    payment = await made(Status.FAILED)
    found = await reconcile(db, [line_of(payment)])
    assert (verdicts(found), found.changed) == ({Verdict.CONTRADICTING: 1}, 1)
    assert entry(found).detail == "they say successful, we say FAILED"
    after = (await get(db, payment)).payment
    assert (after.status, after.review) == (Status.FAILED, Review.CONTRADICTED)
    assert (await history(database, payment))[-1] == "payment.contradicted"
    before = await snapshot(database)
    again = await reconcile(db, [line_of(payment)])
    assert (verdicts(again), again.changed) == ({Verdict.CONTRADICTING: 1}, 0)
    assert await snapshot(database) == before
    assert await database.value("SELECT amount_minor FROM ledger_entries WHERE account = 'suspense'") == -1_000


async def test_a_failed_line_against_a_successful_payment_changes_no_status(db: Database, made: Maker) -> None:
    payment = await made(Status.SUCCESSFUL)
    assert verdicts(await reconcile(db, [failed(payment)])) == {Verdict.CONTRADICTING: 1}
    after = (await get(db, payment)).payment
    assert (after.status, after.review) == (Status.SUCCESSFUL, Review.CONTRADICTED)


DIFFERENT = [{"money": Money(999, "ZMW")}, {"money": Money(1_000, "USD")}, {"msisdn": "260979999999"}]


@pytest.mark.parametrize("over", DIFFERENT, ids=["amount", "currency", "number"])
@pytest.mark.parametrize(
    ("status", "review"),
    [
        (Status.PENDING, Review.MISMATCHED),
        (Status.TIMEOUT, Review.MISMATCHED),
        (Status.SUCCESSFUL, Review.CONTRADICTED),
    ],
)
async def test_a_line_that_differs_settles_nothing_and_asks_for_a_person_once(
    db: Database, database: TestDatabase, made: Maker, status: Status, review: Review, over: dict[str, Any]
) -> None:
    payment = await made(status)
    found = await reconcile(db, [line_of(payment, **over)])
    assert (verdicts(found), found.changed) == ({Verdict.DIFFERENT: 1}, 1)
    assert entry(found).detail
    after = (await get(db, payment)).payment
    assert (after.status, after.review) == (status, review)
    before = await snapshot(database)
    again = await reconcile(db, [line_of(payment, **over)])
    assert (verdicts(again), again.changed) == ({Verdict.DIFFERENT: 1}, 0)
    assert await snapshot(database) == before


async def test_a_failed_line_of_another_amount_fails_nothing(db: Database, database: TestDatabase, made: Maker) -> None:
    payment = await made(Status.TIMEOUT)
    found = await reconcile(db, [failed(payment, money=Money(999, "ZMW"))])
    assert (verdicts(found), found.changed) == ({Verdict.DIFFERENT: 1}, 0)
    assert (await get(db, payment)).payment == payment


async def test_another_transaction_id_is_told(db: Database, made: Maker) -> None:
    payment = await made(Status.SUCCESSFUL, "T-ours")
    found = await reconcile(db, [line_of(payment)])
    assert verdicts(found) == {Verdict.AGREED: 1}
    assert entry(found).detail == "their transaction id is not the one that we know"


@pytest.mark.parametrize("words", [("successful", "successful"), ("failed", "successful"), ("successful", "failed")])
async def test_several_lines_of_one_payment_settle_nothing(db: Database, made: Maker, words: tuple[str, str]) -> None:
    payment = await made(Status.TIMEOUT)
    lines = [line_of(payment, number, status=word) for number, word in enumerate(words, start=2)]
    assert verdicts(await reconcile(db, lines)) == {Verdict.SEVERAL_LINES: 2}
    assert (await get(db, payment)).payment == payment


# --- which line speaks of which payment -----------------------------------------------------------------------------


async def test_our_reference_comes_first(db: Database, made: Maker) -> None:
    meant, bearer = await made(Status.TIMEOUT), await made(Status.SUCCESSFUL, "T2")
    found = await reconcile(db, [line_of(meant)])
    assert entry(found).payment_id == meant.id
    assert (await get(db, bearer)).payment == bearer


@pytest.mark.parametrize("shape", [str.upper, lambda text: text.replace("-", "")], ids=["upper case", "no hyphens"])
async def test_our_reference_in_other_shapes(db: Database, made: Maker, shape: Any) -> None:
    payment = await made(Status.TIMEOUT)
    found = await reconcile(db, [line_of(payment, our_reference=shape(payment.provider_reference))])
    assert verdicts(found) == {Verdict.SETTLED: 1}


@pytest.mark.parametrize("reference", [None, "order 7", STRANGERS])
async def test_their_transaction_id_comes_second(db: Database, made: Maker, reference: str | None) -> None:
    bearer, similar = await made(Status.SUCCESSFUL, "T2"), await made(Status.TIMEOUT)
    found = await reconcile(db, [line_of(similar, our_reference=reference, msisdn=bearer.payer.digits)])
    assert entry(found).payment_id == bearer.id
    assert entry(found).verdict is Verdict.AGREED


async def test_a_transaction_id_of_two_payments_is_nobodys(db: Database, database: TestDatabase, made: Maker) -> None:
    first = await made(Status.SUCCESSFUL, "T2")
    await made(Status.SUCCESSFUL)
    # As an older version left them: from now on the database refuses it.
    await database.fetch(
        "UPDATE payments SET provider_transaction_id = 'T2', shares_transaction_id = true WHERE id <> $1", first.id
    )
    lonely = await made(Status.TIMEOUT)
    assert verdicts(await reconcile(db, [by_facts(lonely)])) == {Verdict.AMBIGUOUS: 1}, (
        "what the id leaves open is not decided by weaker marks"
    )


@pytest.mark.parametrize("offset", [timedelta(minutes=-15), timedelta(0), timedelta(hours=24)])
async def test_number_amount_and_time_come_third(db: Database, made: Maker, offset: timedelta) -> None:
    payment = await made(Status.TIMEOUT)
    found = await reconcile(db, [by_facts(payment, at=payment.created_at + offset)])
    assert verdicts(found) == {Verdict.SETTLED: 1}
    assert (await get(db, payment)).payment.status is Status.SUCCESSFUL


NO_FIT: list[dict[str, Any]] = [
    {"at": timedelta(minutes=-15, seconds=-1)},
    {"at": timedelta(hours=24, seconds=1)},
    {"at": None},
    {"msisdn": None},
    {"msisdn": "260979999999"},
    {"money": Money(1_001, "ZMW")},
    {"money": Money(1_000, "USD")},
    {"direction": "out"},
    {"our_reference": STRANGERS},
    {"our_reference": "somebody else's"},
]


@pytest.mark.parametrize("over", NO_FIT, ids=str)
async def test_what_does_not_fit_is_missing_here(db: Database, made: Maker, over: dict[str, Any]) -> None:
    payment = await made(Status.TIMEOUT)
    if isinstance(over.get("at"), timedelta):
        over = {"at": payment.created_at + over["at"]}
    counted = verdicts(await reconcile(db, [by_facts(payment, **over)]))
    assert counted.pop(Verdict.MISSING_OURS) == 1
    assert set(counted) <= {Verdict.TIMEOUT_MISSING_THEIRS}
    assert (await get(db, payment)).payment == payment


async def test_a_failed_line_without_a_mark_of_ours_fails_nothing(db: Database, made: Maker) -> None:
    payment = await made(Status.TIMEOUT)
    counted = verdicts(await reconcile(db, [failed(payment, our_reference=None)]))
    assert counted[Verdict.FAILED_UNKNOWN] == 1
    assert (await get(db, payment)).payment == payment


async def test_facts_that_fit_two_payments_or_two_lines_decide_nothing(
    db: Database, database: TestDatabase, made: Maker
) -> None:
    twin = await made(Status.TIMEOUT)
    await made(Status.TIMEOUT, payer=twin.payer)
    wanted = await made(Status.TIMEOUT)
    before = (await snapshot(database))[0]
    found = await reconcile(db, [by_facts(twin, 2), by_facts(wanted, 3), by_facts(wanted, 4)])
    assert {one.line: one.verdict for one in found.entries if one.line} == dict.fromkeys((2, 3, 4), Verdict.AMBIGUOUS)
    assert (await snapshot(database))[0] == before


async def test_a_failed_payment_makes_facts_ambiguous_too(db: Database, made: Maker) -> None:
    first = await made(Status.FAILED)
    second = await made(Status.TIMEOUT, payer=first.payer)
    found = await reconcile(db, [by_facts(second)])
    assert entry(found).verdict is Verdict.AMBIGUOUS


async def test_what_a_stronger_mark_has_taken_fits_no_more(db: Database, made: Maker) -> None:
    first = await made(Status.TIMEOUT)
    second = await made(Status.TIMEOUT, payer=first.payer)
    found = await reconcile(db, [line_of(first, 2), by_facts(second, 3)])
    assert verdicts(found) == {Verdict.SETTLED: 2}
    assert entry(found, 3).payment_id == second.id


async def test_a_payment_with_another_transaction_id_does_not_fit(db: Database, made: Maker) -> None:
    payment = await made(Status.SUCCESSFUL, "T-ours")
    counted = verdicts(await reconcile(db, [by_facts(payment, their_id="T-theirs")]))
    assert counted[Verdict.MISSING_OURS] == 1
    assert verdicts(await reconcile(db, [by_facts(payment, their_id=None)]))[Verdict.AGREED] == 1


async def test_a_payment_that_was_never_sent_does_not_fit(db: Database, tenant_id: TenantId, made: Maker) -> None:
    sent = await made(Status.TIMEOUT)
    waiting = await insert(db, make_payment(tenant_id, attempt=0, payer=sent.payer))
    found = await reconcile(db, [by_facts(sent)])
    assert entry(found).payment_id == sent.id
    assert (await get(db, waiting)).payment == waiting


async def test_facts_fit_only_payments_of_the_accounts_that_are_known(db: Database, made: Maker) -> None:
    here, there = await made(Status.SUCCESSFUL), await made(Status.TIMEOUT, account_fingerprint="elsewhere")
    found = await reconcile(db, [line_of(here, 2), by_facts(there, 3)])
    assert entry(found, 3).verdict is Verdict.MISSING_OURS


async def test_money_that_went_out_is_no_collection(db: Database, made: Maker) -> None:
    payment = await made(Status.SUCCESSFUL, "T2")
    found = await reconcile(db, [line_of(payment, direction="out", status="failed")])
    assert entry(found).verdict is Verdict.FAILED_UNKNOWN
    assert (await get(db, payment)).payment == payment


async def test_another_providers_payment_is_never_found(db: Database, made: Maker) -> None:
    await made(Status.SUCCESSFUL)
    payment = await made(Status.TIMEOUT, provider="airtel")
    assert verdicts(await reconcile(db, [line_of(payment)]))[Verdict.MISSING_OURS] == 1
    with pytest.raises(NotFound, match="There is no payment of a provider 'mtm'"):
        await reconcile(db, [line_of(payment)], provider="mtm")


async def test_batches_do_not_change_what_is_found(db: Database, made: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statements, "BATCH", 2)
    there = [await made(Status.TIMEOUT) for _ in range(3)] + [await made(Status.SUCCESSFUL, f"S{n}") for n in range(3)]
    wanted = await made(Status.TIMEOUT)
    lines = [line_of(payment, number) for number, payment in enumerate(there[:3], start=2)]
    lines += [by_facts(payment, n + 5, their_id=f"S{n}") for n, payment in enumerate(there[3:])]
    lines += [by_facts(wanted, 8), by_facts(wanted, 9)]
    stages: list[tuple[str, int, int]] = []
    found = await reconcile(db, lines, progress=lambda *stage: stages.append(stage))
    counted = verdicts(found)
    assert (counted[Verdict.SETTLED], counted[Verdict.AGREED], counted[Verdict.AMBIGUOUS]) == (3, 3, 2)
    assert {total for _, _, total in stages} == {8}
    assert stages[-1] == ("Settling", 8, 8)
    assert [one.line for one in found.entries][:8] == list(range(2, 10))


# --- whole, once, audited -------------------------------------------------------------------------------------------


async def everything(made: Maker) -> list[StatementLine]:
    """A statement with one line for each verdict that changes something, and some that do not."""
    lines = [
        line_of(await made(Status.TIMEOUT), 2),
        failed(await made(Status.PENDING), 3),
        line_of(await made(Status.FAILED), 4),
        line_of(await made(Status.TIMEOUT), 5, money=Money(1, "ZMW")),
        line_of(await made(Status.SUCCESSFUL, "T6"), 6),
        by_facts(await made(Status.TIMEOUT), 7),
    ]
    await made(Status.SUCCESSFUL)
    await made(Status.TIMEOUT)
    at = datetime.now(UTC)
    return [*lines, replace(lines[0], number=8, our_reference="x", their_id="x", at=at)]


async def test_importing_twice_changes_nothing_and_says_so(db: Database, database: TestDatabase, made: Maker) -> None:
    lines = await everything(made)
    first = await reconcile(db, lines)
    assert (first.changed, first.imported_before) == (5, None)
    before = await snapshot(database)
    again = await reconcile(db, lines)
    assert again.changed == 0
    assert again.imported_before is not None
    assert await snapshot(database) == before
    assert (again.counts[Verdict.SETTLED], again.counts[Verdict.AGREED]) == (0, 4)


async def test_a_dry_run_tells_the_same_and_writes_nothing(db: Database, database: TestDatabase, made: Maker) -> None:
    lines = await everything(made)
    before = await snapshot(database)
    tried = await reconcile(db, lines, dry_run=True)
    assert await snapshot(database) == before
    assert tried.changed == 0
    assert tried.counts == (await reconcile(db, lines)).counts


async def test_an_import_is_audited_without_personal_data(db: Database, database: TestDatabase, made: Maker) -> None:
    lines = await everything(made)
    await reconcile(db, lines, sha256="ab" * 32)
    rows = await database.fetch("SELECT *, data::text AS text FROM events WHERE type = 'statement.imported'")
    [row] = rows
    assert (str(row["tenant_id"]), row["subject_id"], row["actor"]) == (PLATFORM, "ab" * 32, "operator:test")
    assert '"settled": 3' in row["text"]
    assert not any(line.msisdn in row["text"] for line in lines if line.msisdn)


async def test_an_interrupted_import_is_finished_by_the_next(
    db: Database, database: TestDatabase, made: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = await everything(made)
    apply, calls = outcomes.apply, count(1)

    async def interrupted(*arguments: Any) -> Payment:
        if next(calls) > 2:
            raise Busy
        return await apply(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(outcomes, "apply", interrupted)
        with pytest.raises(Busy):
            await reconcile(db, lines)
    assert await database.value("SELECT count(*) FROM events WHERE type = 'statement.imported'") == 0
    rest = await reconcile(db, lines)
    assert (rest.changed, rest.imported_before) == (3, None)


async def test_a_payment_that_moved_since_it_was_matched_is_judged_again(
    db: Database, made: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    payment = await made(Status.TIMEOUT)
    missing = store.missing

    async def meanwhile(*arguments: Any) -> Any:
        await outcomes.apply(
            db, payment, Declined(FailureCode.PAYER_DECLINED), Source.CHECK, payment.created_at, AUTHOR
        )
        return await missing(*arguments)

    monkeypatch.setattr(store, "missing", meanwhile)
    found = await reconcile(db, [line_of(payment)])
    assert verdicts(found) == {Verdict.CONTRADICTING: 1}
    assert (await get(db, payment)).payment.status is Status.FAILED


async def test_two_imports_at_once_settle_once(db: Database, database: TestDatabase, made: Maker) -> None:
    lines = await everything(made)
    found = await asyncio.gather(*(reconcile(db, lines) for _ in range(3)))
    assert all(one.counts[Verdict.MISSING_OURS] == 1 for one in found)
    counts = await database.fetch(
        "SELECT type, count(*) FROM events WHERE data->>'source' = 'statement' GROUP BY type ORDER BY type"
    )
    assert {row["type"]: row["count"] for row in counts} == {
        "payment.contradicted": 1, "payment.failed": 1, "payment.mismatched": 1, "payment.succeeded": 2
    }  # fmt: skip
    assert await database.value("SELECT sum(amount_minor)::bigint FROM ledger_entries") == 0


async def test_a_lease_that_somebody_holds_is_not_cut_short(db: Database, database: TestDatabase, made: Maker) -> None:
    payment = await made(Status.TIMEOUT)
    await make_due(database)
    async with db.worker_transaction() as tx:
        [claim] = await payments.claim(tx, 10, 30.0)
    held = (await get(db, payment)).payment
    await reconcile(db, [line_of(payment, money=Money(1, "ZMW"))])
    after = (await get(db, payment)).payment
    assert after.review is Review.MISMATCHED
    assert (after.lease_token, after.next_run_at) == (claim.lease_token, held.next_run_at)


async def test_a_file_as_it_is_read_goes_all_the_way(db: Database, made: Maker) -> None:
    payment = await made(Status.TIMEOUT)
    text = (
        "reference;transaction id;time;status;amount;currency;msisdn\n"
        f"{payment.provider_reference};77;{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ};success;10;ZMW;{payment.payer.digits}\n"
    )
    read = statement.read([text.encode()], LAYOUTS["generic"])
    found = await statements.reconcile(db, read, "mtn", OPERATOR)
    assert verdicts(found) == {Verdict.SETTLED: 1}
    assert (await get(db, payment)).payment.provider_transaction_id == "77"


# --- roads that were left -------------------------------------------------------------------------------------------


async def test_a_road_on_which_nothing_was_sent_speaks_all_the_same(
    db: Database, database: TestDatabase, made: Maker, tenant_id: TenantId
) -> None:
    """The payer may have paid twice: a person must look, and nothing is settled by it."""
    await made(Status.SUCCESSFUL)  # so that there is an MTN to speak of
    left = await insert(db, make_payment(tenant_id, payer=Msisdn(str(next(NUMBERS)))))
    taken = replace(left, provider="pawapay", provider_reference=ProviderReference(str(uuid.uuid4())))
    event = rerouted(left, taken, "no connection", ())
    async with db.tenant_transaction(tenant_id) as tx:
        assert await payments.switch_road(tx, left, taken, "no connection", event, AUTHOR, timedelta(minutes=1))
    lines = [line_of(left)]

    dry = await reconcile(db, lines, dry_run=True)
    assert verdicts(dry)[Verdict.EARLIER_ROAD] == 1
    assert (await get(db, left)).payment.review is None
    found = await reconcile(db, lines)
    assert verdicts(found)[Verdict.EARLIER_ROAD] == 1
    after = (await get(db, left)).payment
    assert (after.status, after.review, after.provider) == (Status.PENDING, Review.MISMATCHED, "pawapay")
    assert (await history(database, left))[-1] == "payment.mismatched"
    again = await reconcile(db, lines)
    assert (verdicts(again)[Verdict.EARLIER_ROAD], again.changed) == (1, 0)
    assert Verdict.EARLIER_ROAD not in verdicts(await reconcile(db, [failed(left)]))
