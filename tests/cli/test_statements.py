"""kobiri statements import: as an operator runs it."""

import asyncio
import csv
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from itertools import zip_longest
from pathlib import Path
from time import monotonic
from typing import Any

import pytest
from typer.testing import CliRunner

from kobiri.cli import app
from kobiri.domain.msisdn import Msisdn
from kobiri.domain.outcome import Source, Succeeded, Unknown
from kobiri.domain.payment import Payment
from kobiri.services import outcomes
from kobiri.store.db import Database
from tests.cli.conftest import Cli
from tests.conftest import TestDatabase
from tests.store.builders import AUTHOR, get, insert, make_payment, make_tenant

HEADER = "reference,transaction_id,time,status,amount,currency,msisdn"


@pytest.fixture
def there(database: TestDatabase) -> list[Payment]:
    """Two payments of MTN: one settled, one that nobody knows the outcome of."""

    async def fill() -> list[Payment]:
        db = await Database.open(database.dsn, pool_size=1)
        try:
            tenant_id = await make_tenant(db, "shop")
            made = [await insert(db, make_payment(tenant_id, payer=Msisdn(f"26096123456{n}"))) for n in range(2)]
            said: Sequence[tuple[Any, Source]] = ((Succeeded("S0"), Source.CHECK), (Unknown("x"), Source.SEND))
            return [
                await outcomes.apply(db, payment, outcome, source, payment.created_at, AUTHOR)
                for payment, (outcome, source) in zip(made, said, strict=True)
            ]
        finally:
            await db.close()

    return asyncio.run(fill())


def row(payment: Payment, **over: str) -> str:
    cells = {
        "reference": payment.provider_reference,
        "transaction_id": payment.provider_transaction_id or "S1",
        "time": payment.created_at.isoformat(),
        "status": "successful",
        "amount": str(payment.money),
        "currency": payment.money.currency,
        "msisdn": payment.payer.digits,
    } | over
    return ",".join(cells[name] for name in HEADER.split(","))


@pytest.fixture
def file(there: list[Payment], tmp_path: Path) -> Path:
    path = tmp_path / "statement.csv"
    stranger = row(there[0], reference="other", transaction_id="other", msisdn="")
    path.write_text("\n".join([HEADER, *(row(payment) for payment in there), stranger, ""]))
    return path


def imported(cli: Cli, file: Path, *more: str) -> Any:
    return cli.json("statements", "import", str(file), "--provider", "mtn", "--layout", "generic", *more)


def status(database: TestDatabase) -> dict[str, str]:
    rows = asyncio.run(database.fetch("SELECT payer, status FROM payments"))
    return {row["payer"][-1]: row["status"] for row in rows}


def test_an_import_settles_and_tells(cli: Cli, file: Path, database: TestDatabase, there: list[Payment]) -> None:
    said = cli.text("statements", "import", str(file), "--provider", "mtn", "--layout", "generic")
    assert "1 line changed something." in said
    assert there[1].id in said
    assert "successful there, no payment here" in said
    assert status(database) == {"0": "SUCCESSFUL", "1": "SUCCESSFUL"}
    again = cli.text("statements", "import", str(file), "--provider", "mtn", "--layout", "generic")
    assert "This file was imported before" in again
    assert again.endswith("Nothing changed.\n")


def test_the_document(cli: Cli, file: Path, there: list[Payment]) -> None:
    document = imported(cli, file, "--dry-run")
    assert (document["dry_run"], document["changed"], document["lines"]) == (True, 0, 3)
    assert {name: count for name, count in document["counts"].items() if count} == {
        "agreed": 1, "settled": 1, "missing_ours": 1
    }  # fmt: skip
    assert [one["verdict"] for one in document["entries"]] == ["settled", "missing_ours"]
    assert document["entries"][0]["payment_id"] == there[1].id
    assert document["entries"][0]["tenant"] == "shop"
    assert imported(cli, file)["changed"] == 1
    assert imported(cli, file)["imported_before"]


def test_a_dry_run_writes_nothing(cli: Cli, file: Path, database: TestDatabase) -> None:
    said = cli.text("statements", "import", str(file), "--provider", "mtn", "--layout", "generic", "--dry-run")
    assert said.endswith("Nothing was written: this was a dry run.\n")
    assert status(database) == {"0": "SUCCESSFUL", "1": "TIMEOUT"}


def test_the_report_holds_every_line_and_no_formula_or_number(cli: Cli, file: Path, tmp_path: Path) -> None:
    with file.open("a") as more:
        more.write("a'=1,x-=2,,failed,5,ZMW,0961234567\n")
    report = tmp_path / "report.csv"
    imported(cli, file, "--report", str(report))
    with report.open(newline="") as opened:
        rows = list(csv.DictReader(opened))
    assert [(one["line"], one["verdict"]) for one in rows] == [
        ("2", "agreed"), ("3", "settled"), ("4", "missing_ours"), ("5", "failed_unknown")
    ]  # fmt: skip
    assert rows[3]["our_reference"] == "a'=1"
    assert not any(cell.startswith(("=", "+", "-", "@")) for one in rows for cell in one.values())
    assert "26096123456" not in report.read_text()
    refused = cli.refusal("statements", "import", str(file), "--provider", "mtn", "--report", str(report))
    assert refused == ("file", f"{report}: it exists already; a report overwrites nothing.")


def test_what_a_provider_once_told_us_is_no_formula_either(
    cli: Cli, tmp_path: Path, database: TestDatabase, there: list[Payment]
) -> None:
    asyncio.run(database.fetch("UPDATE payments SET provider_transaction_id = '=1+1' WHERE status = 'SUCCESSFUL'"))
    path, report = tmp_path / "others.csv", tmp_path / "report.csv"
    moments = [there[0].created_at + timedelta(minutes=minutes) for minutes in (-1, 1)]
    strangers = [
        row(there[0], reference="x", transaction_id=f"x{number}", time=at.isoformat(), msisdn="")
        for number, at in enumerate(moments)
    ]
    path.write_text("\n".join([HEADER, *strangers]))
    counts = imported(cli, path, "--report", str(report))["counts"]
    assert (counts["missing_theirs"], counts["timeout_missing_theirs"]) == (1, 1)
    assert ",'=1+1," in report.read_text()


def test_it_reads_standard_input(cli: Cli, file: Path, database: TestDatabase) -> None:
    arguments = ["statements", "import", "-", "--provider", "mtn", "--layout", "generic"]
    result = CliRunner().invoke(app, arguments, input=file.read_bytes(), env=cli.environment)
    assert result.exit_code == 0, result.output
    assert status(database) == {"0": "SUCCESSFUL", "1": "SUCCESSFUL"}


REFUSED: list[tuple[bytes, str, str]] = [
    (b"", "unprocessable", "The file is empty."),
    (b"\xff\xfe", "unprocessable", "line 1: this is not UTF-8; save the file as CSV UTF-8."),
    (b"a,b\n", "unprocessable", "line 1: there is no column for the amount"),
    (b"\0" * 100_000, "unprocessable", "line 1: it is longer than 16384 bytes; this is not a statement."),
]


@pytest.mark.parametrize(("data", "code", "sentence"), REFUSED, ids=["empty", "UTF-16", "columns", "noise"])
def test_a_bad_file_is_one_sentence(cli: Cli, tmp_path: Path, data: bytes, code: str, sentence: str) -> None:
    path = tmp_path / "bad.csv"
    path.write_bytes(data)
    said = cli.refusal("statements", "import", str(path), "--provider", "mtn")
    assert said[0] == code
    assert said[1].startswith(sentence)


def test_a_line_that_cannot_be_read_is_told_and_stops_no_other(
    cli: Cli, file: Path, database: TestDatabase, there: list[Payment]
) -> None:
    text = file.read_text().splitlines()
    file.write_text("\n".join([text[0], row(there[0], transaction_id="last", amount="=1+1"), *text[1:]]) + "\n")
    said = cli.text("statements", "import", str(file), "--provider", "mtn", "--layout", "generic")
    assert "the amount '=1+1' cannot be read; write it as 1000.50." in said
    assert status(database) == {"0": "SUCCESSFUL", "1": "SUCCESSFUL"}
    assert imported(cli, file)["counts"]["unreadable"] == 1


# --- a thousand lines -----------------------------------------------------------------------------------------------

THOUSAND = """
INSERT INTO payments (tenant_id, id, mode, kind, status, amount_minor, currency, payer, network, provider,
    account_fingerprint, provider_reference, attempt, send_before, expires_at, next_run_at, completed_at, failure_code)
SELECT p.tenant_id, gen_random_uuid(), p.mode, p.kind, s.status, 1000, 'ZMW', '2609700' || lpad(n::text, 5, '0'),
    p.network, p.provider, p.account_fingerprint, gen_random_uuid(), 1, p.send_before, p.expires_at,
    CASE WHEN s.status = 'TIMEOUT' THEN now() + interval '1 hour' END, CASE WHEN s.status <> 'TIMEOUT' THEN now() END,
    CASE WHEN s.status = 'FAILED' THEN 'payer_declined' END
FROM payments p, generate_series(1, 938) AS n, LATERAL (
    SELECT CASE WHEN n <= 900 THEN 'TIMEOUT' WHEN n <= 928 THEN 'SUCCESSFUL' ELSE 'FAILED' END AS status) s
WHERE p.id = $1
"""


def test_a_thousand_lines_with_all_that_may_be_wrong_with_them(
    cli: Cli, tmp_path: Path, database: TestDatabase, there: list[Payment]
) -> None:
    asyncio.run(database.fetch(THOUSAND, there[0].id))
    payments = asyncio.run(database.fetch("SELECT * FROM payments WHERE payer LIKE '2609700%' ORDER BY payer"))
    lines = [
        row(there[0], reference=str(one["provider_reference"]), transaction_id=f"P{number}", msisdn=one["payer"])
        for number, one in enumerate(payments)
    ]
    lines += [row(payment, transaction_id=payment.provider_transaction_id or "P-open") for payment in there]
    others = [
        row(there[0], reference=f"till {number}", transaction_id=f"X{number}", msisdn="5505") for number in range(50)
    ]
    bad = [row(there[0], reference="x", transaction_id=f"B{n}", amount=f'"{n + 1},000"') for n in range(10)]
    # A contradiction that is booked before: of the last payment, as the provider's own callback told it.
    first = tmp_path / "first.csv"
    first.write_text("\n".join([HEADER, lines[937]]))
    assert imported(cli, first)["counts"]["contradicting"] == 1
    file, report = tmp_path / "thousand.csv", tmp_path / "report.csv"
    mixed = [line for group in zip_longest(lines, others, bad) for line in group if line]
    assert len(mixed) == 1_000
    file.write_text("\n".join([HEADER, *mixed]))

    found = imported(cli, file, "--report", str(report))

    assert {verdict: number for verdict, number in found["counts"].items() if number} == {
        "settled": 901, "agreed": 29, "contradicting": 10, "missing_ours": 50, "unreadable": 10
    }  # fmt: skip
    assert found["changed"] == 910, "the contradiction that was booked before is a fact, and no error"
    with report.open(newline="") as opened:
        told = [(int(one["line"]), one["verdict"]) for one in csv.DictReader(opened)]
    assert [number for number, _ in told] == list(range(2, 1_002)), "each line's fate is told"
    ledger = "SELECT account, sum(amount_minor)::bigint AS minor FROM ledger_entries GROUP BY account ORDER BY account"
    booked = {one["account"]: one["minor"] for one in asyncio.run(database.fetch(ledger))}
    assert (booked["suspense"], sum(booked.values())) == (-10_000, 0)

    before = asyncio.run(everything(database))
    again = imported(cli, file)
    assert (again["changed"], again["counts"]["agreed"], again["counts"]["contradicting"]) == (0, 930, 10)
    assert asyncio.run(everything(database)) == before


async def everything(database: TestDatabase) -> list[Any]:
    tables = ("payments", "events", "ledger_entries", "arrivals", "proposals")
    return [await database.fetch(f"SELECT * FROM {table} ORDER BY 1, 2, 3") for table in tables]


# --- proposals ------------------------------------------------------------------------------------------------------


@pytest.fixture
def proposal(cli: Cli, there: list[Payment], tmp_path: Path) -> str:
    """A line that fits the open payment by number, amount and time."""
    path = tmp_path / "facts.csv"
    path.write_text("\n".join([HEADER, row(there[1], reference="", transaction_id="F1")]))
    assert imported(cli, path)["counts"]["proposed"] == 1
    [found] = cli.json("statements", "proposals")["proposals"]
    assert (found["payment_id"], found["transaction_id"], found["tenant"]) == (there[1].id, "F1", "shop")
    assert found["told_in"].endswith(" line 2")
    return str(found["id"])


def rest(database: TestDatabase) -> None:
    """No request can be on its way any more."""
    asyncio.run(database.fetch("UPDATE payments SET send_before = now() - interval '1 hour', sent_until = NULL"))


def test_a_proposal_settles_nothing_until_a_person_accepts_it(
    cli: Cli, database: TestDatabase, there: list[Payment], proposal: str
) -> None:
    assert status(database)["1"] == "TIMEOUT"
    rest(database)
    assert cli.refusal("statements", "accept", proposal, "--reason", " ")[0] == "unprocessable"
    said = cli.text("statements", "accept", proposal, "--reason", "MTN confirmed it")
    assert said == f"{there[1].id} is SUCCESSFUL.\n"
    settled = asyncio.run(database.fetch("SELECT * FROM payments WHERE id = $1", there[1].id))[0]
    assert settled["provider_transaction_id"] == "F1"
    assert cli.json("statements", "proposals")["proposals"] == []
    for word in ("accept", "reject"):
        refused = cli.refusal("statements", word, proposal, "--reason", "again")
        assert refused == ("conflict", "It was accepted already.")


def test_a_rejected_proposal_leaves_its_payment_as_it_is(
    cli: Cli, database: TestDatabase, there: list[Payment], proposal: str
) -> None:
    assert "stays as it is" in cli.text("statements", "reject", proposal, "--reason", "paid at the counter")
    assert status(database)["1"] == "TIMEOUT"
    assert cli.refusal("statements", "accept", proposal, "--reason", "x") == ("conflict", "It was rejected already.")
    facts = asyncio.run(database.value("SELECT data FROM events WHERE type = 'proposal.rejected'"))
    assert "paid at the counter" in facts


def test_what_cannot_be_accepted_waits_on(
    cli: Cli, database: TestDatabase, there: list[Payment], proposal: str
) -> None:
    rest(database)
    taken = "UPDATE payments SET provider_transaction_id = 'F1' WHERE id = $1"
    asyncio.run(database.fetch(taken, there[0].id))
    assert f"that of payment {there[0].id}" in cli.refusal("statements", "accept", proposal, "--reason", "x")[1]
    assert [one["id"] for one in cli.json("statements", "proposals")["proposals"]] == [proposal]
    for id_ in ("nonsense", there[0].id):
        assert cli.refusal("statements", "accept", id_, "--reason", "x")[0] == "not_found"


@pytest.mark.parametrize(
    ("arguments", "code", "word"),
    [
        (("absent.csv", "--provider", "mtn"), "file", "absent.csv: No such file or directory."),
        (("/", "--provider", "mtn"), "file", "/: Is a directory."),
        (("FILE", "--provider", "mtm", "--layout", "generic"), "not_found", "'mtm'"),
        (("FILE", "--provider", "mtn", "--layout", "excel"), "bad_layout", "mtn, airtel, generic"),
    ],
)
def test_a_bad_command_is_one_sentence(cli: Cli, file: Path, arguments: tuple[str, ...], code: str, word: str) -> None:
    said = cli.refusal("statements", "import", *(str(file) if one == "FILE" else one for one in arguments))
    assert said[0] == code
    assert word in said[1]


def test_the_providers_own_layout_is_the_default(cli: Cli, tmp_path: Path, database: TestDatabase, there: Any) -> None:
    path = tmp_path / "mtn.csv"
    path.write_text(
        "Id,External Id,Date,Status,From,Amount,Currency\n"
        f"77,{there[1].provider_reference},2026-11-24 13:00:00,FAILED,FRI:{there[1].payer}/MSISDN,10.00,ZMW\n"
    )
    document = cli.json("statements", "import", str(path), "--provider", "mtn")
    assert document["counts"]["settled"] == 1
    assert status(database) == {"0": "SUCCESSFUL", "1": "FAILED"}


@contextmanager
def endless(write: int, data: bytes) -> Iterator[None]:
    """Somebody who writes into a pipe for as long as there is a reader."""

    def pour() -> None:
        try:
            while True:
                os.write(write, data)
        except BrokenPipeError:
            os.close(write)

    thread = threading.Thread(target=pour)
    thread.start()
    yield
    thread.join(10)
    assert not thread.is_alive()


LIMITED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_AS, (600_000_000, 600_000_000))
from kobiri.cli import main
main()
"""


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"\0" * 4_096, "line 1: it is longer than 16384 bytes; this is not a statement."),
        (b"\n" * 4_096, "The file has more than 1000000 lines; split it."),
        (b'amount,currency,status,reference\n"' * 100, "More than 1000 lines cannot be read. The first is line 2: "),
    ],
    ids=["noise", "blank lines", "quotes"],
)
def test_a_pipe_without_end_is_refused_soon_and_in_little_memory(data: bytes, sentence: str, cli: Cli) -> None:
    read, write = os.pipe()
    began = monotonic()
    command = [sys.executable, "-c", LIMITED, "statements", "import", "/dev/stdin", "--provider", "mtn"]
    environment = os.environ | {name: value for name, value in cli.environment.items() if value is not None}
    with endless(write, data):
        done = subprocess.run(command, stdin=read, capture_output=True, text=True, check=False, env=environment)
        os.close(read)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(sentence)
    assert len(done.stderr.splitlines()) == 1
    assert monotonic() - began < 30


def test_the_settled_payment_has_their_transaction_id(
    cli: Cli, file: Path, database: TestDatabase, there: list[Payment]
) -> None:
    imported(cli, file)

    async def read() -> str | None:
        db = await Database.open(database.dsn, pool_size=1)
        try:
            return (await get(db, there[1])).payment.provider_transaction_id
        finally:
            await db.close()

    assert asyncio.run(read()) == "S1"
