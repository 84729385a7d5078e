"""kobiri statements: what the providers say happened."""

import csv
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import astuple, fields
from io import RawIOBase
from pathlib import Path
from typing import Annotated, BinaryIO

import typer
from rich.console import Console
from rich.progress import Progress, TaskID

from kobiri.app import database
from kobiri.cli.output import ACTOR, Json, emit, fail, plain_errors, run, table
from kobiri.config import Settings
from kobiri.domain import statement as statements
from kobiri.domain.statement import LAYOUTS, Statement, Verdict, formula_safe
from kobiri.services.statements import Entry, Reconciliation, reconcile
from kobiri.store.payments import Author

app = typer.Typer(help="Statements of the providers: import.", no_args_is_help=True)

CHUNK_BYTES = 64 * 1024
SHOWN_ENTRIES = 20

# What each verdict means, in the order in which a person should look.
MEANINGS: Mapping[Verdict, str] = {
    Verdict.SETTLED: "settled: was open, the statement tells the outcome",
    Verdict.AGREED: "agreed already",
    Verdict.CONTRADICTING: "contradicting: they and we say the opposite",
    Verdict.DIFFERENT: "different amount, currency or number",
    Verdict.SEVERAL_LINES: "several lines speak of one payment",
    Verdict.EARLIER_ROAD: "paid by a road on which we sent nothing, as far as we saw",
    Verdict.AMBIGUOUS: "fits several payments, so none",
    Verdict.MISSING_OURS: "successful there, no payment here",
    Verdict.FAILED_UNKNOWN: "failed there, no payment here",
    Verdict.MISSING_THEIRS: "SUCCESSFUL here, not in the statement",
    Verdict.TIMEOUT_MISSING_THEIRS: "TIMEOUT here, not in the statement: still open",
}
QUIET = frozenset({Verdict.AGREED, Verdict.FAILED_UNKNOWN})


@app.callback()
def _group() -> None:
    """Statements of the providers."""


@app.command("import")
def import_(
    file: Annotated[str, typer.Argument(help="A CSV file, or - for standard input.")],
    provider: Annotated[str, typer.Option(help="Whose statement it is, such as mtn.")],
    layout: Annotated[
        str | None, typer.Option(help=f"{', '.join(LAYOUTS)}; the provider's own when left out, else generic.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Compare and report; write nothing.")] = False,
    report: Annotated[str | None, typer.Option(help="Write every line with its verdict to this new CSV file.")] = None,
    json: Json = False,
) -> None:
    """Compare a provider's statement with the payments, and settle those whose outcome was unknown.

    Nothing is written unless the whole file can be read. A payment that is not in it stays as it is. Importing a file
    twice changes nothing the second time.

    Example: kobiri statements import mtn-november.csv --provider mtn --report november-report.csv
    """
    chosen = layout or (provider if provider in LAYOUTS else "generic")
    if chosen not in LAYOUTS:
        fail(json, "bad_layout", f"--layout: {chosen[:40]!r} is none of {', '.join(LAYOUTS)}.")
    with plain_errors(json), _progress(json) as progress:
        if report is not None and Path(report).exists():
            fail(json, "file", f"{report}: it exists already; a report overwrites nothing.")
        statement = _read(file, chosen, progress)

        async def work(settings: Settings) -> Reconciliation:
            async with database(settings) as db:
                return await reconcile(db, statement, provider, Author(ACTOR), dry_run=dry_run, progress=progress.show)

        found = run(json, work)
        if report is not None:
            _write_report(Path(report), found)
    emit(json, _document(found), lambda console: _tell(console, found, report))


class _Bars:
    """One bar for each stage of the work."""

    def __init__(self, bars: Progress) -> None:
        self._bars = bars
        self._tasks: dict[str, TaskID] = {}

    def show(self, stage: str, done: int, total: int) -> None:
        """So much of a stage is done; `total` 0: nobody knows how much there is."""
        if stage not in self._tasks:
            self._tasks[stage] = self._bars.add_task(stage)
        self._bars.update(self._tasks[stage], completed=done, total=total or None)


@contextmanager
def _progress(json: bool) -> Iterator[_Bars]:
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=json or not console.is_terminal) as bars:
        yield _Bars(bars)


def _read(file: str, layout: str, progress: _Bars) -> Statement:
    if file == "-":
        return statements.read(_chunks(sys.stdin.buffer, 0, progress), LAYOUTS[layout])
    path = Path(file)
    with path.open("rb", buffering=0) as opened:
        return statements.read(_chunks(opened, path.stat().st_size, progress), LAYOUTS[layout])


def _chunks(file: BinaryIO | RawIOBase, size: int, progress: _Bars) -> Iterator[bytes]:
    """The file in small parts: what is no statement is refused long before its end."""
    done = 0
    while chunk := file.read(CHUNK_BYTES):
        yield chunk
        done += len(chunk)
        progress.show("Reading", done, size)


def _write_report(path: Path, found: Reconciliation) -> None:
    with path.open("x", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(field.name for field in fields(Entry))
        for entry in found.entries:
            writer.writerow("" if cell is None else formula_safe(str(cell)) for cell in astuple(entry))


def _document(found: Reconciliation) -> dict[str, object]:
    """All but the lines that agree: a person or a program looks at the others."""
    return {
        "provider": found.provider,
        "sha256": found.sha256,
        "dry_run": found.dry_run,
        "imported_before": found.imported_before,
        "period": found.period,
        "lines": found.lines,
        "undecided": found.undecided,
        "others": found.others,
        "unread": found.unread,
        "counts": found.counts,
        "changed": found.changed,
        "entries": [entry for entry in found.entries if entry.verdict is not Verdict.AGREED],
    }


def _tell(console: Console, found: Reconciliation, report: str | None) -> None:
    if found.imported_before:
        console.print(f"This file was imported before, at {found.imported_before:%Y-%m-%d %H:%M:%S %Z}.")
    table(console, ("LINES", "VERDICT"), [(found.counts[verdict], meaning) for verdict, meaning in MEANINGS.items()])
    for count, why in ((found.undecided, "without a final status"), (found.others, "of another type")):
        if count:
            words = ", ".join(f"{word} ({number})" for word, number in count.items())
            console.print(f"Left out, {why}: {words}", markup=False, highlight=False)
    if found.unread:
        console.print(f"Columns that were not read: {', '.join(found.unread)}", markup=False, highlight=False)
    if found.period is None:
        console.print("No line bears a time, so nothing can be said about payments that are missing there.")
    interesting = [entry for entry in found.entries if entry.verdict not in QUIET]
    if interesting:
        console.print()
        rows = [
            (one.line, one.verdict, one.payment_id, one.status, one.theirs, one.ours, one.detail)
            for one in interesting[:SHOWN_ENTRIES]
        ]
        table(console, ("LINE", "VERDICT", "PAYMENT", "STATUS", "THEIRS", "OURS", "WHY"), rows)
    if len(interesting) > SHOWN_ENTRIES:
        console.print(f"… and {len(interesting) - SHOWN_ENTRIES} more; --report FILE writes all.")
    if report is not None:
        console.print(f"Every line stands in {report}", markup=False, highlight=False)
    console.print(_summary(found))


def _summary(found: Reconciliation) -> str:
    if found.dry_run:
        return "Nothing was written: this was a dry run."
    if not found.changed:
        return "Nothing changed."
    return f"{found.changed} {'payment' if found.changed == 1 else 'payments'} changed."
