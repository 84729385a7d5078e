"""kobiri payments: the queue, the evidence, a person's word; kobiri providers: the switches."""

import asyncio
import json

import pytest

from kobiri.cli.payments import _overruled
from kobiri.domain.ids import TenantId, new_id
from kobiri.domain.outcome import Succeeded
from kobiri.store.db import Database
from tests.cli.conftest import Cli
from tests.conftest import TestDatabase
from tests.store.builders import insert, make_payment, make_tenant

PARK = """
UPDATE payments SET status = 'TIMEOUT', review = 'unresolved', lease_token = NULL,
    send_before = now() - interval '1 hour', sent_until = NULL
"""
HOSTILE = b'[red]{"status":"SUCCESSFUL"}\x1b[2J'
POST = """
INSERT INTO callbacks (tenant_id, id, provider, verdict, payment_id, digest, headers, body)
SELECT tenant_id, gen_random_uuid(), 'mtn', 'hint', id, sha256($1), '{}', $1 FROM payments
"""


@pytest.fixture
def payment_id(database: TestDatabase) -> str:
    """A payment in review, whose provider account is nowhere any more, and a hostile callback about it."""

    async def make() -> str:
        db = await Database.open(database.dsn, pool_size=1)
        payment = await insert(db, make_payment(await make_tenant(db, "books")))
        await db.close()
        await database.fetch(PARK)
        await database.fetch(POST, HOSTILE)
        return payment.id

    return asyncio.run(make())


def test_the_queue_names_each_case_and_its_merchant(cli: Cli, payment_id: str) -> None:
    (case,) = cli.json("payments", "list")["payments"]
    assert (case["id"], case["tenant"], case["review"], case["status"]) == (
        payment_id, "books", "unresolved", "TIMEOUT",
    )  # fmt: skip
    assert "260961234567" not in json.dumps(case)
    text = cli.text("payments", "list", "--tenant", "books")
    assert payment_id in text
    assert "unresolved" in text
    assert cli.refusal("payments", "list", "--tenant", "pens")[0] == "not_found"


def test_the_evidence_shows_all_and_what_strangers_posted_moves_no_cursor(cli: Cli, payment_id: str) -> None:
    document = cli.json("payments", "show", payment_id)
    assert [event["type"] for event in document["history"]] == ["payment.created"]
    assert document["callbacks"][0]["verdict"] == "hint"
    text = cli.text("payments", "show", payment_id)
    assert "payment.created" in text
    assert '[red]{"status":"SUCCESSFUL"}' in text
    assert "\x1b" not in text


def test_a_person_settles_it_with_a_reason(cli: Cli, payment_id: str) -> None:
    assert cli.json("payments", "check", payment_id)["provider_says"] == "Unknown"
    arguments = ("payments", "resolve", payment_id, "--as", "failed", "--reason")
    assert cli.refusal(*arguments, " ")[0] == "unprocessable"
    done = cli.json(*arguments, "not in the statement of 30 June")
    assert (done["status"], done["failure_code"], done["review"]) == ("FAILED", "resolved_by_operator", None)
    code, sentence = cli.refusal(*arguments, "again")
    assert code == "conflict"
    assert "already" in sentence
    assert cli.text("payments", "list") == "None yet.\n"


def test_a_person_tells_what_arrived_and_hears_that_nobody_was_asked(
    cli: Cli, database: TestDatabase, payment_id: str
) -> None:
    arguments = ("payments", "resolve", payment_id, "--as", "failed", "--reason", "statement, line 17", "--arrived")
    for amount in ("ten", "-1", "=1", "10.00", "1e3"):
        assert cli.refusal(*arguments, amount)[0] in ("invalid_amount", "unprocessable")
    said = cli.text(*arguments, "9.00", "--transaction-id", "MP-9")
    assert "mtn could not be asked (its provider account is gone): your word decided." in said
    assert "9.00 ZMW arrived and waits in suspense: kobiri ledger suspense" in said
    payment = cli.json("payments", "show", payment_id)["payment"]
    assert (payment["failure_code"], payment["received_amount"]) == ("amount_mismatch", "9.00")
    [entry] = cli.json("ledger", "suspense")["suspense"]
    assert (entry["why"], entry["transaction_id"], entry["evidence"]) == (
        "mismatched",
        "MP-9",
        "person: a person's word",
    )


@pytest.mark.parametrize(
    ("given", "named", "overruled"),
    [(None, "D1", None), ("D1", "D1", None), ("R1", "D1", None), ("X", "D1", "X"), ("X", None, None)],
)
def test_who_names_the_receipt_is_not_told_of_another_id(
    given: str | None, named: str | None, overruled: str | None
) -> None:
    payment = make_payment(TenantId(new_id()), provider_receipt="R1")
    assert _overruled(payment, Succeeded(named), given) == overruled


@pytest.mark.parametrize("text", ["", "x", "'; DROP TABLE payments", "019b76da-8c3c-7f20-8000-0a1b2c3d4e5"])
def test_what_is_no_id_is_told_in_one_sentence(cli: Cli, text: str) -> None:
    assert cli.refusal("payments", "show", text)[0] == "bad_id"


def test_an_id_of_nothing_is_told_in_one_sentence(cli: Cli) -> None:
    for verb in (("show",), ("check",), ("resolve", "--as", "failed", "--reason", "x")):
        assert cli.refusal("payments", verb[0], new_id(), *verb[1:])[0] == "not_found"


def test_a_provider_is_closed_and_opened_with_a_reason(cli: Cli, database: TestDatabase) -> None:
    before = {row["provider"]: row for row in cli.json("providers", "list")["providers"]}
    assert before["mtn"] == {"provider": "mtn", "open": True, "reason": None, "changed_at": None}
    cli.text("providers", "close", "mtn", "--reason", "maintenance until 06:00")
    after = {row["provider"]: row for row in cli.json("providers", "list")["providers"]}
    assert (after["mtn"]["open"], after["mtn"]["reason"]) == (False, "maintenance until 06:00")
    assert after["zamtel"]["open"] is True
    assert "closed" in cli.text("providers", "list")
    cli.text("providers", "open", "mtn", "--reason", "it is over")
    assert "closed" not in cli.text("providers", "list")
    events = asyncio.run(database.fetch("SELECT type, subject_id, data FROM events WHERE type LIKE 'provider.%'"))
    assert sorted(event["type"] for event in events) == ["provider.closed", "provider.opened"]
    assert cli.refusal("providers", "close", "nobody", "--reason", "x")[0] == "not_found"
    assert cli.refusal("providers", "close", "mtn", "--reason", "")[0] == "unprocessable"
