"""kobiri ledger: as an operator runs it."""

import asyncio

import pytest

from kobiri.domain.ids import new_id
from kobiri.domain.money import Money
from kobiri.domain.outcome import Declined, FailureCode, Source, Succeeded
from kobiri.domain.payment import Payment
from kobiri.services import outcomes
from kobiri.store.db import Database
from tests.cli.conftest import Cli
from tests.conftest import TestDatabase
from tests.store.builders import AUTHOR, insert, make_payment, make_tenant


@pytest.fixture
def late(database: TestDatabase) -> Payment:
    """A payment that was told as failed, and whose money came."""

    async def fill() -> Payment:
        db = await Database.open(database.dsn, pool_size=1)
        try:
            payment = await insert(db, make_payment(await make_tenant(db, "shop")))
            said = (Declined(FailureCode.PAYER_DECLINED), Succeeded("=1+1", Money(900, "ZMW")))
            for word in said:
                payment = await outcomes.apply(db, payment, word, Source.CHECK, payment.created_at, AUTHOR)
            return payment
        finally:
            await db.close()

    return asyncio.run(fill())


def test_suspense_is_listed_and_cleared(cli: Cli, database: TestDatabase, late: Payment) -> None:
    [found] = cli.json("ledger", "suspense")["suspense"]
    expected = {
        "booked": True, "why": "late", "tenant": "shop", "mode": "test", "payment_id": late.id, "status": "FAILED",
        "provider": "mtn", "amount": "9.00", "currency": "ZMW", "transaction_id": "=1+1", "evidence": "check",
    }  # fmt: skip
    assert {name: found[name] for name in expected} == expected
    assert found["next_step"].endswith(f"kobiri ledger clear {found['id']}")
    said = cli.text("ledger", "suspense")
    assert late.id in said
    assert "MODE" in said
    assert "9.00 ZMW" in said
    assert cli.refusal("ledger", "clear", found["id"], "--as", "returned", "--reason", "")[0] == "unprocessable"
    assert cli.refusal("ledger", "clear", new_id(), "--as", "returned", "--reason", "x")[0] == "not_found"
    said = cli.text("ledger", "clear", found["id"], "--as", "returned", "--reason", "paid back")
    assert said == "9.00 ZMW: cleared as returned.\n"
    assert cli.json("ledger", "suspense") == {"suspense": []}
    assert cli.refusal("ledger", "clear", found["id"], "--as", "merchant", "--reason", "x") == (
        "conflict", "It was cleared already."
    )  # fmt: skip
    assert asyncio.run(database.value("SELECT sum(amount_minor)::bigint FROM ledger_entries")) == 0
