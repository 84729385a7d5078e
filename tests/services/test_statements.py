"""Reconciliation against a real database: what a statement settles, shows, and leaves alone."""

import asyncio
import uuid
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any

import asyncpg
import pytest

from kobiri.domain import statement
from kobiri.domain.errors import Busy, Conflict, DatabaseUnavailable, NotFound
from kobiri.domain.ids import AccountId, ProviderReference, TenantId, new_id
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
STRANGERS = "0b7a0f5e-3c1d-7a54-9a55-6a1de0f5b001"  # a UUID, and of no version that our references have


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


async def proposed(database: TestDatabase) -> list[str]:
    return [str(row["payment_id"]) for row in await database.fetch("SELECT payment_id FROM proposals ORDER BY id")]


def verdicts(found: Reconciliation) -> dict[Verdict, int]:
    return {verdict: number for verdict, number in found.counts.items() if number}


def entry(found: Reconciliation, line: int | None = 2) -> Entry:
    [one] = [one for one in found.entries if one.line == line]
    return one


async def history(database: TestDatabase, payment: Payment) -> list[str]:
    rows = await database.fetch("SELECT type FROM events WHERE subject_id = $1 ORDER BY id", payment.id)
    return [row["type"] for row in rows]


async def booked(database: TestDatabase) -> dict[str, int]:
    rows = await database.fetch("SELECT account, sum(amount_minor)::bigint AS minor FROM ledger_entries GROUP BY 1")
    found = {row["account"]: row["minor"] for row in rows}
    assert sum(found.values()) == 0
    return found


async def snapshot(database: TestDatabase) -> list[Any]:
    """All that an import could change."""
    tables = ("payments", "events", "ledger_entries", "arrivals", "proposals")
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
    strangers = [replace(lines[0], at=first.created_at), replace(lines[1], at=late)]
    strangers = [replace(one, our_reference="another", their_id=f"another {one.number}") for one in strangers]
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


SEVERAL: list[list[dict[str, Any]]] = [
    [{}, {"their_id": None}],
    [{"status": "failed"}, {}],
    [{}, {"status": "failed"}],
    [{"money": Money(999, "ZMW")}, {"money": Money(998, "ZMW")}],
]


@pytest.mark.parametrize("overs", SEVERAL, ids=str)
async def test_several_lines_of_one_payment_settle_nothing(
    db: Database, made: Maker, overs: list[dict[str, Any]]
) -> None:
    payment = await made(Status.TIMEOUT)
    lines = [line_of(payment, number, **over) for number, over in enumerate(overs, start=2)]
    assert verdicts(await reconcile(db, lines)) == {Verdict.SEVERAL_LINES: 2}
    assert (await get(db, payment)).payment == payment


@pytest.mark.parametrize("status", [Status.TIMEOUT, Status.SUCCESSFUL])
@pytest.mark.parametrize("first", ["T2", "T3"])
async def test_who_paid_twice_has_money_in_suspense(
    db: Database, database: TestDatabase, made: Maker, status: Status, first: str
) -> None:
    payment = await made(status, first if status is Status.SUCCESSFUL else None)
    lines = [line_of(payment, 2), line_of(payment, 3, at=payment.created_at)]
    dry = verdicts(await reconcile(db, lines, dry_run=True))
    found = await reconcile(db, lines)
    assert verdicts(found) == dry
    assert verdicts(found)[Verdict.PAID_TWICE] == 1
    after = (await get(db, payment)).payment
    # Where nobody knows which was first, the earlier one settles.
    own = first if status is Status.SUCCESSFUL else "T3"
    assert (after.status, after.provider_transaction_id, after.review) == (
        Status.SUCCESSFUL, own, Review.CONTRADICTED
    )  # fmt: skip
    assert after.received == payment.money
    assert await booked(database) == {"merchant_available": -1_000, "provider:mtn": 2_000, "suspense": -1_000}
    before = await snapshot(database)
    assert (await reconcile(db, lines)).changed == 0
    assert await snapshot(database) == before


async def test_who_paid_twice_in_two_statements_has_money_in_suspense_too(
    db: Database, database: TestDatabase, made: Maker
) -> None:
    payment, by_api = await made(Status.TIMEOUT), await made(Status.SUCCESSFUL, "of another kind")
    await reconcile(db, [line_of(payment, 2)])
    shown = await made(Status.SUCCESSFUL, "T5")
    await reconcile(db, [line_of(shown, 5)])  # its id is of the kind that the API has
    lines = [line_of(payment, 3), line_of(by_api, 4), line_of(shown, 6)]
    found = await reconcile(db, lines, sha256="1" * 64)
    assert {entry.line: entry.verdict for entry in found.entries} == {
        3: Verdict.PAID_TWICE, 4: Verdict.AGREED, 6: Verdict.PAID_TWICE,
    }  # fmt: skip
    assert (await booked(database))["suspense"] == -2_000
    assert (await reconcile(db, lines, sha256="1" * 64)).changed == 0


async def test_two_transactions_under_one_unknown_reference_are_two_arrivals(
    db: Database, database: TestDatabase, made: Maker
) -> None:
    here, lost = await made(Status.SUCCESSFUL), make_payment(TenantId(new_id()))
    lines = [line_of(here, 2), line_of(lost, 3), line_of(lost, 4), line_of(lost, 5, their_id=None)]
    assert (await reconcile(db, lines)).changed == 2
    assert (await booked(database))["suspense"] == -2_000
    assert (await reconcile(db, lines, sha256="1" * 64)).changed == 0


async def test_one_id_at_two_accounts_is_two_lines_to_accept(db: Database, database: TestDatabase, made: Maker) -> None:
    for account in ("here", "there"):
        known, lost = [await made(one, account_fingerprint=account) for one in (Status.SUCCESSFUL, Status.TIMEOUT)]
        lines = [line_of(known, 2, their_id=f"in {account}"), by_facts(lost, 3, their_id="77")]
        assert verdicts(await reconcile(db, lines))[Verdict.PROPOSED] == 1
    await database.fetch("UPDATE proposals SET accepted = true, decided_at = now()")
    assert await database.value("SELECT count(*) FROM proposals WHERE accepted") == 2


@pytest.mark.parametrize("known", [None, "A1"])
async def test_a_line_takes_the_place_of_one_arrival_alone(
    db: Database, database: TestDatabase, made: Maker, known: str | None
) -> None:
    """The API told of one late success; the statement shows that the payer was charged twice."""
    payment = await made(Status.FAILED)
    said = Succeeded(known, payment.money, payment.payer.digits)
    await outcomes.apply(db, payment, said, Source.CHECK, payment.created_at, AUTHOR)
    lines = [line_of(payment, 2), line_of(payment, 3)]
    assert (await reconcile(db, lines)).changed == 1
    assert (await booked(database))["suspense"] == -2_000
    rows = await database.fetch("SELECT transaction_id, other_id FROM arrivals ORDER BY id")
    assert [tuple(row) for row in rows] == [(known, "T2"), ("T3", None)]
    before = await snapshot(database)
    assert (await reconcile(db, lines)).changed == 0
    for again in (said, replace(said, provider_transaction_id=None)):
        await outcomes.apply(db, (await get(db, payment)).payment, again, Source.CHECK, payment.created_at, AUTHOR)
    assert await snapshot(database) == before
    # Both ids are taken: neither settles another payment.
    other = await made(Status.TIMEOUT)
    assert entry(await reconcile(db, [line_of(other, 2)], sha256="1" * 64)).verdict is Verdict.DIFFERENT


async def test_several_successes_of_a_failed_payment_are_all_booked(
    db: Database, database: TestDatabase, made: Maker
) -> None:
    payment = await made(Status.FAILED)
    lines = [line_of(payment, 2), line_of(payment, 3, money=Money(900, "ZMW"))]
    assert verdicts(await reconcile(db, lines)) == {Verdict.CONTRADICTING: 2}
    assert (await booked(database))["suspense"] == -1_900
    assert (await reconcile(db, lines)).changed == 0


# --- reversals ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [Status.PENDING, Status.TIMEOUT, Status.SUCCESSFUL, Status.FAILED])
@pytest.mark.parametrize("order", [(2, 3), (3, 2)])
@pytest.mark.parametrize("by_id", [False, True])
async def test_what_was_reversed_settles_nothing_and_is_given_to_a_person(
    db: Database, database: TestDatabase, made: Maker, status: Status, order: tuple[int, int], by_id: bool
) -> None:
    payment = await made(status, "T2")
    over: dict[str, Any] = {"our_reference": None} if by_id and status is Status.SUCCESSFUL else {}
    lines = [
        line_of(payment, order[0], their_id="T2"),
        line_of(payment, order[1], their_id="T2", direction="out", reverses=True, **over),
    ]
    found = await reconcile(db, lines)
    assert verdicts(found) == {Verdict.REVERSED: 2}
    after = (await get(db, payment)).payment
    reviews = {Status.SUCCESSFUL: Review.CONTRADICTED, Status.FAILED: None}
    assert (after.status, after.review) == (status, reviews.get(status, Review.MISMATCHED))
    assert await database.value("SELECT count(*) FROM ledger_entries WHERE account = 'suspense'") == 0
    assert (await reconcile(db, lines)).changed == 0


def reversal(payment: Payment, number: int, **over: Any) -> StatementLine:
    return line_of(payment, number, **({"direction": "out", "reverses": True} | over))


THREE = Money(300, "ZMW")
TAKEN_BACK: list[tuple[list[dict[str, Any]], int, bool]] = [  # lines of a failed payment, what stays, who must look
    ([{"their_id": "A"}, {"their_id": "B"}, {"their_id": "B", "reverses": True}], 1_000, True),
    ([{"their_id": "A"}, {"their_id": "A", "reverses": True, "money": THREE}], 1_000, True),  # a part
    ([{"their_id": "A"}, {"their_id": "R", "reverses": True}], 0, False),  # its id is its own
    ([{"their_id": "A"}, {"their_id": "B"}, {"their_id": "R", "reverses": True}], 2_000, True),  # of which?
    ([{"their_id": "A"}, {"their_id": "A", "reverses": True, "status": "failed"}], 1_000, True),  # not taken back
    ([{"their_id": "A"}, {"status": "failed"}], 1_000, True),
    ([{"their_id": None}, {"their_id": None, "at": None}], 1_000, True),
]


@pytest.mark.parametrize(("overs", "stays", "looks"), TAKEN_BACK, ids=str)
async def test_a_reversal_takes_back_its_own_charge_alone(
    db: Database, database: TestDatabase, made: Maker, overs: list[dict[str, Any]], stays: int, *, looks: bool
) -> None:
    payment = await made(Status.FAILED)
    lines = [line_of(payment, number, **over) for number, over in enumerate(overs, start=2)]
    await reconcile(db, lines)
    assert (await booked(database)).get("suspense", 0) == -stays
    after = (await get(db, payment)).payment
    assert (after.status, after.review is not None) == (Status.FAILED, looks)
    assert (await reconcile(db, lines)).changed == 0


async def test_what_a_reversal_leaves_settles_an_open_payment_unless_nobody_can_tell(
    db: Database, database: TestDatabase, made: Maker
) -> None:
    clear, unclear = await made(Status.TIMEOUT), await made(Status.TIMEOUT)
    lines = [
        line_of(clear, 2, their_id="A"), line_of(clear, 3, their_id="B"), reversal(clear, 4, their_id="B"),
        line_of(unclear, 5, their_id="C"), reversal(unclear, 6, their_id="C", money=THREE),
    ]  # fmt: skip
    await reconcile(db, lines)
    after = (await get(db, clear)).payment
    assert (after.status, after.provider_transaction_id, after.review) == ("SUCCESSFUL", "A", Review.CONTRADICTED)
    after = (await get(db, unclear)).payment
    assert (after.status, after.review) == (Status.TIMEOUT, Review.MISMATCHED)
    assert (await booked(database)).get("suspense") is None
    assert (await reconcile(db, lines)).changed == 0


async def test_late_money_that_goes_back_is_told_once(db: Database, database: TestDatabase, made: Maker) -> None:
    payment = await made(Status.FAILED)
    await reconcile(db, [line_of(payment, 2)])
    await outcomes.seen(db, (await get(db, payment)).payment, "noted", AUTHOR)
    went = [reversal(payment, 2)]
    await reconcile(db, went, sha256="1" * 64)
    after = (await get(db, payment)).payment
    assert (after.review, (await history(database, payment))[-1]) == (Review.CONTRADICTED, "payment.contradicted")
    await outcomes.seen(db, after, "noted", AUTHOR)
    assert (await reconcile(db, went, sha256="2" * 64)).changed == 0


async def test_a_reversal_of_other_money_is_told_of_an_open_payment(
    db: Database, database: TestDatabase, made: Maker
) -> None:
    payment = await made(Status.TIMEOUT)
    await reconcile(db, [line_of(payment, 2, money=THREE)])
    before = len(await history(database, payment))
    for _ in range(2):
        await reconcile(db, [reversal(payment, 2, money=THREE)], sha256="1" * 64)
        assert len(await history(database, payment)) == before + 1


async def test_what_a_person_has_seen_is_no_news_in_the_same_file(db: Database, made: Maker) -> None:
    paid, refused = await made(Status.SUCCESSFUL, "T2"), await made(Status.SUCCESSFUL)
    lines = [line_of(paid, 2), reversal(paid, 3, their_id="T2"), failed(refused, 4)]
    await reconcile(db, lines)
    for one in (paid, refused):
        await outcomes.seen(db, (await get(db, one)).payment, "settled with MTN", AUTHOR)
    assert (await reconcile(db, lines)).changed == 0


async def test_a_reversal_of_another_systems_payment_is_nothing_of_ours(db: Database, made: Maker) -> None:
    payment = await made(Status.TIMEOUT)
    found = await reconcile(db, [by_facts(payment, direction="out", reverses=True)])
    assert entry(found).verdict is Verdict.FAILED_UNKNOWN


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


async def paid_with_receipt(db: Database, made: Maker, their_id: str, receipt: str, **over: Any) -> Payment:
    """A payment of which the first answer told both numbers."""
    sent = await made(Status.PENDING, **over)
    said = Succeeded(their_id, receipt=receipt)
    return await outcomes.apply(db, sent, said, Source.SEND, sent.created_at, AUTHOR)


async def test_a_line_may_show_either_number_of_a_payment(db: Database, made: Maker) -> None:
    payment = await paid_with_receipt(db, made, "D1", "R1")
    other = await paid_with_receipt(db, made, "D2", "R2", payer=payment.payer)
    for their_id, bearer in (("D1", payment), ("R1", payment), ("R2", other)):
        found = await reconcile(db, [by_facts(other, 2, their_id=their_id)])
        assert (entry(found).verdict, entry(found).payment_id, entry(found).detail) == (
            Verdict.AGREED, bearer.id, None
        )  # fmt: skip
    assert (await reconcile(db, [by_facts(other, 2, their_id="R3")])).counts[Verdict.MISSING_OURS] == 1
    # Two numbers of one payment are one transaction: nothing came twice.
    named = [line_of(payment, n, their_id=i) for n, i in ((2, "D1"), (3, "R1"))]
    for line in named:
        assert verdicts(await reconcile(db, [line])) == {Verdict.AGREED: 1}
    both = await reconcile(db, named)
    assert (verdicts(both), both.changed) == ({Verdict.SEVERAL_LINES: 2}, 0)
    same = await paid_with_receipt(db, made, "E1", "E1")
    assert entry(await reconcile(db, [by_facts(same, 2, their_id="E1")])).payment_id == same.id, "it fits once"


@pytest.mark.parametrize("over", [{"account_fingerprint": "elsewhere"}, {"mode": "live"}, {"provider": "airtel"}])
async def test_a_receipt_belongs_to_an_account_and_a_mode(db: Database, made: Maker, over: dict[str, Any]) -> None:
    here = await made(Status.SUCCESSFUL)
    await paid_with_receipt(db, made, "D3", "R3", **over)
    found = await reconcile(db, [line_of(here, 2), by_facts(here, 3, their_id="R3", at=None)])
    assert entry(found, 3).verdict is Verdict.MISSING_OURS


async def test_after_a_statement_showed_the_receipt_another_number_is_another_payment(
    db: Database, made: Maker
) -> None:
    payment = await paid_with_receipt(db, made, "D1", "R1")
    by_reference = {"our_reference": payment.provider_reference}
    unseen = await reconcile(db, [by_facts(payment, 2, their_id="R9", **by_reference)], dry_run=True)
    assert entry(unseen).detail == "they show another receipt than the provider told"
    assert verdicts(await reconcile(db, [by_facts(payment, 2, their_id="R1")])) == {Verdict.AGREED: 1}
    twice = await reconcile(db, [by_facts(payment, 2, their_id="R9", **by_reference)], sha256="1" * 64)
    assert verdicts(twice) == {Verdict.PAID_TWICE: 1}
    again = await reconcile(db, [by_facts(payment, 2, their_id="D1", **by_reference)], sha256="2" * 64)
    assert verdicts(again) == {Verdict.AGREED: 1}


async def test_a_line_with_the_receipt_settles_an_open_payment_and_takes_no_other_place(
    db: Database, made: Maker
) -> None:
    sent = await made(Status.PENDING)
    payment = await outcomes.apply(db, sent, Accepted(receipt="R1"), Source.SEND, sent.created_at, AUTHOR)
    assert (payment.status, payment.provider_receipt) == (Status.PENDING, "R1")
    found = await reconcile(db, [by_facts(payment, 2, their_id="R1")])
    assert verdicts(found) == {Verdict.SETTLED: 1}
    after = (await get(db, payment)).payment
    assert (after.status, after.provider_transaction_id, after.provider_receipt) == (Status.SUCCESSFUL, None, "R1")
    later = await outcomes.apply(db, after, Succeeded("D1"), Source.CHECK, after.created_at, AUTHOR)
    assert later.review is None


@pytest.mark.parametrize(
    ("status", "review"), [(Status.PENDING, Review.MISMATCHED), (Status.SUCCESSFUL, Review.CONTRADICTED)]
)
async def test_a_line_with_another_receipt_than_the_provider_told_settles_nothing(
    db: Database, database: TestDatabase, made: Maker, status: Status, review: Review
) -> None:
    sent = await made(Status.PENDING)
    said = Accepted(receipt="R1") if status is Status.PENDING else Succeeded("D1", receipt="R1")
    payment = await outcomes.apply(db, sent, said, Source.SEND, sent.created_at, AUTHOR)
    line = line_of(payment, their_id="R9")
    assert verdicts(await reconcile(db, [line])) == {Verdict.DIFFERENT: 1}
    after = (await get(db, payment)).payment
    assert (after.status, after.review, after.provider_receipt) == (status, review, "R1")
    assert (await reconcile(db, [line])).changed == 0
    assert await database.value("SELECT count(*) FROM arrivals") == 0


@pytest.mark.parametrize(
    "said",
    [Succeeded("R1"), Succeeded("D2", receipt="R1"), Succeeded("D2", receipt="D1"), Succeeded("D2", receipt="A")],
)
async def test_a_number_of_anothers_in_either_place_settles_nothing(
    db: Database, database: TestDatabase, made: Maker, said: Succeeded
) -> None:
    bearer, late = await paid_with_receipt(db, made, "D1", "R1"), await made(Status.FAILED)
    await outcomes.apply(db, late, Succeeded("A"), Source.CHECK, late.created_at, AUTHOR)
    meant = await made(Status.TIMEOUT)
    after = await outcomes.apply(db, meant, said, Source.CHECK, meant.created_at, AUTHOR)
    assert (after.status, after.review) == (Status.TIMEOUT, Review.MISMATCHED)
    assert (after.provider_transaction_id, after.provider_receipt) == (None, None)
    assert (await get(db, bearer)).payment == bearer
    # Nor is money booked under it.
    lost = await made(Status.FAILED)
    after = await outcomes.apply(db, lost, said, Source.CHECK, lost.created_at, AUTHOR)
    assert after.review is Review.CONTRADICTED
    assert await database.value("SELECT count(*) FROM arrivals") == 1


async def test_an_answer_in_progress_that_names_anothers_receipt_is_believed_without_it(
    db: Database, made: Maker
) -> None:
    await paid_with_receipt(db, made, "D1", "R1")
    sent = await made(Status.TIMEOUT)
    after = await outcomes.apply(db, sent, Accepted(receipt="R1"), Source.CHECK, sent.created_at, AUTHOR)
    assert after.accepted_at is not None
    assert (after.status, after.review, after.provider_receipt) == (Status.TIMEOUT, None, None)


async def test_late_money_with_a_receipt_is_the_statements_line(
    db: Database, database: TestDatabase, made: Maker
) -> None:
    payment = await made(Status.FAILED)
    said = Succeeded("D1", receipt="R1")
    await outcomes.apply(db, payment, said, Source.CHECK, payment.created_at, AUTHOR)
    [row] = await database.fetch("SELECT transaction_id, other_id FROM arrivals")
    assert tuple(row) == ("D1", "R1")
    for their_id in ("D1", "R1"):
        found = await reconcile(db, [by_facts(payment, their_id=their_id, at=None, msisdn=None)])
        assert entry(found).detail == "its money waits in suspense"


async def test_a_second_receipt_under_one_id_is_other_money(db: Database, database: TestDatabase, made: Maker) -> None:
    payment = await made(Status.FAILED)
    for receipt in ("R1", "R2", "R1", "R2"):
        said = Succeeded("D1", receipt=receipt)
        payment = await outcomes.apply(db, payment, said, Source.CHECK, payment.created_at, AUTHOR)
    rows = await database.fetch("SELECT transaction_id, other_id FROM arrivals ORDER BY other_id")
    assert [tuple(row) for row in rows] == [("D1", "R1"), (None, "R2")]
    found = await reconcile(db, [by_facts(payment, n, their_id=i) for n, i in ((2, "R1"), (3, "R2"))])
    assert {one.detail for one in found.entries} == {"its money waits in suspense"}


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
@pytest.mark.parametrize("status", [Status.PENDING, Status.TIMEOUT, Status.FAILED])
async def test_number_amount_and_time_propose_and_never_settle(
    db: Database, database: TestDatabase, made: Maker, offset: timedelta, status: Status
) -> None:
    payment = await made(status)
    lines = [by_facts(payment, at=payment.created_at + offset)]
    assert verdicts(await reconcile(db, lines, dry_run=True)) == {Verdict.PROPOSED: 1}
    assert await proposed(database) == []
    found = await reconcile(db, lines)
    assert (verdicts(found), found.changed) == ({Verdict.PROPOSED: 1}, 1)
    assert (await get(db, payment)).payment == payment
    assert await proposed(database) == [payment.id]
    again = await reconcile(db, lines, sha256="1" * 64)
    assert (verdicts(again), again.changed) == ({Verdict.PROPOSED: 1}, 0)


async def test_a_line_that_may_be_a_settled_payments_proposes_no_other(
    db: Database, database: TestDatabase, made: Maker
) -> None:
    """Two payments, one payer, one amount, one line: one was paid under another kind of id, K20 is not to be had."""
    paid = await made(Status.SUCCESSFUL, "of another kind")
    open_ = await made(Status.TIMEOUT, payer=paid.payer)
    assert entry(await reconcile(db, [by_facts(open_)])).verdict is Verdict.AMBIGUOUS
    assert (await get(db, open_)).payment == open_
    assert await proposed(database) == []


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
    assert verdicts(found) == {Verdict.SETTLED: 1, Verdict.PROPOSED: 1}
    assert entry(found, 3).payment_id == second.id


async def test_a_payment_with_another_transaction_id_does_not_fit(db: Database, made: Maker) -> None:
    payment = await made(Status.SUCCESSFUL, "T-ours")
    counted = verdicts(await reconcile(db, [by_facts(payment, their_id="T-theirs")]))
    assert counted[Verdict.MISSING_OURS] == 1
    assert verdicts(await reconcile(db, [by_facts(payment, their_id=None)]))[Verdict.AGREED] == 1
    sent = await made(Status.PENDING)
    known = await outcomes.apply(db, sent, Accepted(receipt="R-ours"), Source.SEND, sent.created_at, AUTHOR)
    counted = verdicts(await reconcile(db, [by_facts(known, their_id="R-theirs")]))
    assert counted[Verdict.MISSING_OURS] == 1


async def test_a_payment_that_was_never_sent_does_not_fit(db: Database, tenant_id: TenantId, made: Maker) -> None:
    sent = await made(Status.TIMEOUT)
    waiting = await insert(db, make_payment(tenant_id, attempt=0, payer=sent.payer))
    found = await reconcile(db, [by_facts(sent)])
    assert entry(found).payment_id == sent.id
    assert (await get(db, waiting)).payment == waiting


async def test_facts_fit_only_payments_of_the_accounts_that_are_known(db: Database, made: Maker) -> None:
    here = await made(Status.SUCCESSFUL)
    others = [await made(Status.TIMEOUT, **over) for over in ({"account_fingerprint": "elsewhere"}, {"mode": "live"})]
    found = await reconcile(db, [line_of(here, 2), *(by_facts(one, n) for n, one in enumerate(others, start=3))])
    assert {entry(found, number).verdict for number in (3, 4)} == {Verdict.MISSING_OURS}


@pytest.mark.parametrize("over", [{"account_fingerprint": "elsewhere"}, {"mode": "live"}], ids=str)
async def test_a_transaction_id_belongs_to_an_account_and_a_mode(
    db: Database, made: Maker, over: dict[str, Any]
) -> None:
    here, there = await made(Status.SUCCESSFUL), await made(Status.SUCCESSFUL, "T3", **over)
    found = await reconcile(db, [line_of(here, 2), failed(there, 3, our_reference=None)])
    assert entry(found, 3).verdict is Verdict.FAILED_UNKNOWN
    # Nothing tells of which account the statement is, and the ids are of two.
    more = await made(Status.SUCCESSFUL, "T4")
    lines = [by_facts(there, 3), by_facts(more, 4)]
    assert verdicts(await reconcile(db, lines))[Verdict.AMBIGUOUS] == 2
    # All are of one: then it is that.
    assert entry(await reconcile(db, lines[:1]), 3).payment_id == there.id


async def test_a_line_that_failed_settles_nothing_against_a_genuine_callback_that_says_paid(
    db: Database, made: Maker
) -> None:
    meant = await made(Status.TIMEOUT)
    await outcomes.take_hint(db, meant, Succeeded(), meant.created_at, AUTHOR)
    found = await reconcile(db, [failed(meant)])
    assert (entry(found).verdict, entry(found).detail) == (
        Verdict.DIFFERENT,
        "their callback said that it was paid",
    )
    after = (await get(db, meant)).payment
    assert (after.status, after.review) == (Status.TIMEOUT, Review.CONTRADICTED)
    assert (await reconcile(db, [failed(meant)])).changed == 0


async def test_an_id_that_another_payment_has_settles_nothing(db: Database, made: Maker) -> None:
    bearer, meant = await made(Status.SUCCESSFUL, "T2"), await made(Status.TIMEOUT)
    found = await reconcile(db, [line_of(meant, 2)])
    assert (entry(found).verdict, entry(found).payment_id) == (Verdict.DIFFERENT, meant.id)
    assert entry(found).detail == "their transaction id belongs to another payment"
    after = (await get(db, meant)).payment
    assert (after.status, after.review) == (Status.TIMEOUT, Review.MISMATCHED)
    assert (await get(db, bearer)).payment == bearer
    assert (await reconcile(db, [line_of(meant, 2)])).changed == 0


async def test_another_word_is_told_once_whatever_review_stands(
    db: Database, database: TestDatabase, made: Maker
) -> None:
    """Paid twice; then the provider says FAILED, then another amount. Each is told once, also after a person saw it."""
    payment = await made(Status.SUCCESSFUL, "T2")
    await reconcile(db, [line_of(payment, 2), line_of(payment, 3)])
    words: list[Any] = [Declined(FailureCode.PROVIDER_ERROR), Succeeded("T2", Money(900, "ZMW"), payment.payer.digits)]
    for _ in range(2):
        for word in words:
            read = (await get(db, payment)).payment
            await outcomes.apply(db, read, word, Source.CHECK, payment.created_at, AUTHOR)
        told = await database.fetch(
            "SELECT data->>'provider_says' FROM events WHERE type = 'payment.contradicted' ORDER BY id"
        )
        assert [row[0] for row in told] == ["paid twice", "failed", "the provider says 9.00 ZMW"]
        read = (await get(db, payment)).payment
        if read.review is not None:
            await outcomes.seen(db, read, "looked at it", AUTHOR)
    assert (await get(db, payment)).payment.review is None


async def test_money_that_came_is_not_forgotten_for_a_word_of_anothers_transaction(db: Database, made: Maker) -> None:
    payment, other = await made(Status.TIMEOUT), await made(Status.SUCCESSFUL, "X")
    for word in (Succeeded("Y", Money(900, "ZMW")), Succeeded("X", other.money)):
        read = (await get(db, payment)).payment
        after = await outcomes.apply(db, read, word, Source.CHECK, payment.created_at, AUTHOR)
    assert (after.review, after.received) == (Review.MISMATCHED, Money(900, "ZMW"))


# --- money of nobody here -------------------------------------------------------------------------------------------


async def test_money_under_a_reference_of_ours_of_no_payment_waits_in_suspense_once(
    db: Database, database: TestDatabase, made: Maker
) -> None:
    here, lost = await made(Status.SUCCESSFUL), make_payment(TenantId(new_id()))
    lines = [line_of(here, 2), line_of(lost, 3)]
    assert verdicts(await reconcile(db, lines, dry_run=True))[Verdict.UNASKED] == 1
    assert "suspense" not in await booked(database)
    found = await reconcile(db, lines)
    assert (verdicts(found)[Verdict.UNASKED], found.changed) == (1, 1)
    rows = await database.fetch("SELECT tenant_id::text, why, account_fingerprint, transaction_id FROM arrivals")
    assert [tuple(row) for row in rows] == [(PLATFORM, "unasked", here.account_fingerprint, "T3")]
    before = await snapshot(database)
    for again in (lines, [replace(line, their_id=None) for line in lines]):
        assert (await reconcile(db, again)).changed == 0
    assert await snapshot(database) == before
    assert (await booked(database))["suspense"] == -1_000


async def test_unasked_money_is_in_the_books_of_whose_account_it_came_to(
    db: Database, database: TestDatabase, made: Maker
) -> None:
    """A merchant's own account: neither the platform nor another merchant has what comes there."""
    there = {"account_id": AccountId(new_id()), "account_fingerprint": "the merchant's own", "mode": "live"}
    own, lost = await made(Status.SUCCESSFUL, **there), make_payment(TenantId(new_id()))
    lines = [line_of(own, 2), line_of(lost, 3)]
    for changed in (1, 0):
        assert (await reconcile(db, lines)).changed == changed
    [row] = await database.fetch("SELECT tenant_id::text, account_fingerprint, mode FROM arrivals")
    assert tuple(row) == (own.tenant_id, "the merchant's own", "live")


@pytest.mark.parametrize(
    "other", [{"account_id": AccountId(new_id())}, {"account_fingerprint": "elsewhere"}], ids=["owners", "accounts"]
)
async def test_unasked_money_at_an_account_that_may_be_anothers_is_told_and_not_booked(
    db: Database, database: TestDatabase, made: Maker, other: dict[str, Any]
) -> None:
    one, another = await made(Status.SUCCESSFUL), await made(Status.SUCCESSFUL, **other)
    lines = [line_of(one, 2), line_of(another, 3), line_of(make_payment(TenantId(new_id())), 4)]
    for dry_run in (True, False):
        found = await reconcile(db, lines, dry_run=dry_run)
        assert (entry(found, 4).verdict, found.changed) == (Verdict.MISSING_OURS, 0)
        assert "nothing tells whose account this is" in (entry(found, 4).detail or "")
    # An account's owner may have no line in the file.
    found = await reconcile(db, [lines[0], lines[2]], sha256="1" * 64)
    assert entry(found, 4).verdict is (Verdict.MISSING_OURS if "account_id" in other else Verdict.UNASKED)
    assert await database.value("SELECT count(*) FROM arrivals") == ("account_id" not in other)


async def test_what_is_no_reference_of_ours_or_no_money_that_came_is_not_booked(
    db: Database, database: TestDatabase, made: Maker
) -> None:
    here, elsewhere = await made(Status.SUCCESSFUL), await made(Status.TIMEOUT, provider="airtel")
    lost = make_payment(TenantId(new_id()))
    lines = [
        line_of(here, 2),
        line_of(elsewhere, 3),  # a statement of the wrong provider must not fill the suspense account
        line_of(lost, 4, direction="out"),
        line_of(lost, 5, status="failed"),
        line_of(lost, 6, our_reference=STRANGERS),
        line_of(lost, 7, their_id="T2"),
    ]
    await hear_id(db, here, "T2")
    found = await reconcile(db, lines)
    assert verdicts(found)[Verdict.MISSING_OURS] == 3
    assert "suspense" not in await booked(database)


async def hear_id(db: Database, payment: Payment, their_id: str) -> None:
    async with db.tenant_transaction(payment.tenant_id) as tx:
        await tx.execute("UPDATE payments SET provider_transaction_id = $2 WHERE id = $1", payment.id, their_id)


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
    assert {total for _, _, total in stages} == {8, 16}
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
    assert (again.counts[Verdict.SETTLED], again.counts[Verdict.AGREED]) == (0, 3)


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
    assert '"settled": 2' in row["text"]
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
        found = await reconcile(db, lines)
    assert (found.changed, found.counts[Verdict.NOT_APPLIED]) == (3, 2), "the lines behind have their turn"
    told = [one for one in found.entries if one.verdict is Verdict.NOT_APPLIED]
    assert [(one.line, one.detail) for one in told] == [
        (4, "contradicting: Too much is going on at once"), (5, "different: Too much is going on at once")
    ]  # fmt: skip
    rest = await reconcile(db, lines)
    assert (rest.changed, rest.counts[Verdict.NOT_APPLIED]) == (2, 0)


@pytest.mark.parametrize("error", [ValueError("a bug"), asyncpg.DataError("a row"), Conflict("no")], ids=repr)
async def test_whatever_happens_to_one_line_the_next_has_its_turn(
    db: Database, made: Maker, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    there = [await made(Status.TIMEOUT) for _ in range(9)]
    apply = outcomes.apply

    async def fails_for_some(db: Database, payment: Payment, *more: Any) -> Payment:
        if payment.id in {one.id for one in there[1:7]}:
            raise error
        return await apply(db, payment, *more)

    monkeypatch.setattr(outcomes, "apply", fails_for_some)
    found = await reconcile(db, [line_of(payment, number) for number, payment in enumerate(there, start=2)])
    assert verdicts(found) == {Verdict.SETTLED: 3, Verdict.NOT_APPLIED: 6}


async def test_a_database_that_is_gone_is_not_asked_for_every_line(
    db: Database, made: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    there, calls = [await made(Status.TIMEOUT) for _ in range(9)], 0

    async def gone(*_: Any) -> Payment:
        nonlocal calls
        calls += 1
        raise DatabaseUnavailable

    monkeypatch.setattr(outcomes, "apply", gone)
    found = await reconcile(db, [line_of(payment, number) for number, payment in enumerate(there, start=2)])
    assert (verdicts(found), calls) == ({Verdict.NOT_APPLIED: 9}, 3)
    assert (found.entries[-1].detail or "").startswith("settled: not tried")


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
    assert len(await proposed(database)) == 1
    counts = await database.fetch(
        "SELECT type, count(*) FROM events WHERE data->>'source' = 'statement' GROUP BY type ORDER BY type"
    )
    assert {row["type"]: row["count"] for row in counts} == {
        "payment.contradicted": 1, "payment.failed": 1, "payment.mismatched": 1, "payment.succeeded": 1
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
    # The money stands in the books of the road on which it came.
    assert await booked(database) == {"merchant_available": -1_000, "provider:mtn": 2_000, "suspense": -1_000}
    assert await database.value("SELECT account_fingerprint FROM arrivals") == left.account_fingerprint
    again = await reconcile(db, lines)
    assert (verdicts(again)[Verdict.EARLIER_ROAD], again.changed) == (1, 0)
    assert Verdict.EARLIER_ROAD not in verdicts(await reconcile(db, [failed(left)]))
