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
    assert "1 payment changed." in said
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


def test_nothing_is_half_imported(cli: Cli, file: Path, database: TestDatabase, there: list[Payment]) -> None:
    with file.open("a") as more:
        more.write(row(there[0], transaction_id="last", amount="=1+1") + "\n")
    said = cli.refusal("statements", "import", str(file), "--provider", "mtn", "--layout", "generic")
    assert said == ("unprocessable", "line 5: the amount '=1+1' cannot be read; write it as 1000.50.")
    assert status(database) == {"0": "SUCCESSFUL", "1": "TIMEOUT"}
    assert asyncio.run(database.value("SELECT count(*) FROM events WHERE type = 'statement.imported'")) == 0


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
        (b'amount,currency,status,reference\n"' * 100, "line 2: "),
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
