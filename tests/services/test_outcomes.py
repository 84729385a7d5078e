"""The one door through which a payment changes, when two come at once."""

from datetime import timedelta

import pytest

from kobiri.domain.outcome import Accepted, Declined, FailureCode, NotSent, Outcome, Source, Unknown
from kobiri.domain.payment import Payment, transition
from kobiri.services import outcomes
from kobiri.store import payments
from kobiri.store.db import Database
from kobiri.store.payments import Claim
from tests.conftest import TestDatabase
from tests.store.builders import AUTHOR, get, insert, make_payment, make_tenant


async def overtaken(db: Database, database: TestDatabase) -> tuple[Payment, Claim]:
    """A payment as somebody holds it whose lease has ended since; it was written once, and is another's by now."""
    mine = await insert(db, make_payment(await make_tenant(db)))
    change = transition(mine, Accepted(), Source.CALLBACK, mine.created_at, 0.5, attempt=mine.attempt)
    assert change is not None
    async with db.tenant_transaction(mine.tenant_id) as tx:
        assert await payments.write(tx, mine, change, AUTHOR)
    await database.fetch("UPDATE payments SET next_run_at = now() - interval '1 second'")
    async with db.worker_transaction() as tx:
        [claim] = await payments.claim(tx, 1, 60)
    return mine, claim


@pytest.mark.parametrize(
    ("outcome", "source"),
    [
        (Accepted(), Source.SEND),
        (Unknown("lost"), Source.SEND),
        (NotSent("held up"), Source.SEND),
        (Accepted(), Source.CHECK),
        (Unknown("lost"), Source.CHECK),
    ],
    ids=str,
)
async def test_who_lost_the_race_does_not_end_the_lease_of_who_came_after(
    db: Database, database: TestDatabase, outcome: Outcome, source: Source
) -> None:
    """With its lease gone the payment would be due at once, and two would call the provider at the same time."""
    mine, claim = await overtaken(db, database)
    held = await get(db, mine)

    await outcomes.apply(db, mine, outcome, source, held.now, AUTHOR)

    after = (await get(db, mine)).payment
    assert (after.lease_token, after.next_run_at) == (claim.lease_token, held.payment.next_run_at)


@pytest.mark.parametrize("outcome", [NotSent("held up"), Declined(FailureCode.PAYER_DECLINED)], ids=str)
async def test_what_the_attempt_before_met_is_no_word_about_the_present_one(
    db: Database, database: TestDatabase, outcome: Outcome
) -> None:
    """Whoever takes it for one sends a second time while the first send is open, or fails a payment that is paid."""
    mine = await insert(db, make_payment(await make_tenant(db)))
    await database.fetch("UPDATE payments SET version = 2, unsent = true, lease_token = NULL, next_run_at = now()")
    async with db.worker_transaction() as tx:
        [claim] = await payments.claim(tx, 1, 60)
    now = await get(db, mine)
    async with db.tenant_transaction(mine.tenant_id) as tx:
        begun = await payments.begin_attempt(tx, now.payment, timedelta(seconds=30))
    assert begun is not None
    assert (begun.payment.attempt, begun.payment.sent_before) == (mine.attempt + 1, False)

    await outcomes.apply(db, mine, outcome, Source.SEND, now.now, AUTHOR)

    after = (await get(db, mine)).payment
    assert (after.is_final, after.unsent, after.lease_token) == (False, False, claim.lease_token)
    assert after.next_run_at == begun.payment.next_run_at
