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

from kobiri.app import database, operating
from kobiri.cli.output import ACTOR, Json, emit, fail, plain_errors, run, table
from kobiri.config import Settings
from kobiri.domain import statement as statements
from kobiri.domain.payment import Payment
from kobiri.domain.statement import LAYOUTS, Statement, Verdict, formula_safe
from kobiri.services import proposals
from kobiri.services.statements import Entry, Reconciliation, reconcile
from kobiri.store.payments import Author
from kobiri.store.proposals import Proposal

app = typer.Typer(help="Statements of the providers: import, proposals, accept, reject.", no_args_is_help=True)

CHUNK_BYTES = 64 * 1024
SHOWN_ENTRIES = 20

# What each verdict means, in the order in which a person should look.
MEANINGS: Mapping[Verdict, str] = {
    Verdict.SETTLED: "settled: was open, the statement tells the outcome",
    Verdict.PROPOSED: "proposed: fits an open payment by number, amount and time; your word decides",
    Verdict.AGREED: "agreed already",
    Verdict.CONTRADICTING: "contradicting: they and we say the opposite",
    Verdict.DIFFERENT: "different amount, currency or number",
    Verdict.PAID_TWICE: "paid once more: the second money waits in suspense",
    Verdict.REVERSED: "reversed there: nothing is settled by it",
    Verdict.UNASKED: "under a reference of ours of no payment here: waits in suspense",
    Verdict.SEVERAL_LINES: "several lines speak of one payment",
    Verdict.EARLIER_ROAD: "paid by a road on which we sent nothing, as far as we saw",
    Verdict.AMBIGUOUS: "fits several payments, so none",
    Verdict.MISSING_OURS: "successful there, no payment here",
    Verdict.FAILED_UNKNOWN: "failed or reversed there, no payment here",
    Verdict.UNREADABLE: "could be read in two ways, or in none",
    Verdict.NOT_APPLIED: "not written: import the same file again",
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

    Our references and the provider's transaction ids settle; number, amount and time only propose. A line that cannot
    be read or applied is told, and stops no other. A payment that is not in the file stays as it is. Importing a file
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
    if found.counts[Verdict.NOT_APPLIED]:
        raise typer.Exit(1)


@app.command("proposals")
def proposals_(
    limit: Annotated[int, typer.Option(min=1, max=10_000)] = 100,
    json: Json = False,
) -> None:
    """Show the lines of statements that fit a payment by number, amount and time, and wait for your word.

    Example: kobiri statements proposals --json
    """

    async def work(settings: Settings) -> list[Proposal]:
        async with database(settings) as db:
            return await proposals.waiting(db, limit)

    found = run(json, work)
    columns = ("PROPOSAL", "TENANT", "PAYMENT", "PROVIDER", "AMOUNT", "THEIR ID", "MOVED AT", "TOLD IN")
    rows = [
        (one.id, one.tenant, one.draft.payment_id, one.draft.provider, _money(one), one.draft.transaction_id,
         one.draft.moved_at, one.draft.told_in)
        for one in found
    ]  # fmt: skip
    emit(json, {"proposals": [_facts(one) for one in found]}, lambda console: table(console, columns, rows))


@app.command()
def accept(
    proposal_id: Annotated[str, typer.Argument(help="The proposal's id.")],
    reason: Annotated[str, typer.Option(help="It stands in the merchant's audit log.")],
    json: Json = False,
) -> None:
    """Settle a payment with the line that fits it. Its provider is asked first, and is never overruled.

    Example: kobiri statements accept 019b76da-8c3c-7f20-8000-0a1b2c3d4e5f --reason "MTN confirmed it by telephone"
    """

    async def work(settings: Settings) -> Payment:
        async with operating(settings) as gateway:
            return await proposals.accept(gateway, proposal_id, reason, ACTOR)

    payment = run(json, work)
    document = {"payment_id": payment.id, "status": payment.status, "review": payment.review}
    emit(json, document, lambda console: console.print(f"{payment.id} is {payment.status}."))


@app.command()
def reject(
    proposal_id: Annotated[str, typer.Argument(help="The proposal's id.")],
    reason: Annotated[str, typer.Option(help="It stands in the merchant's audit log.")],
    json: Json = False,
) -> None:
    """Say that a line is not of the payment that it fits. The payment stays as it is.

    Example: kobiri statements reject 019b76da-8c3c-7f20-8000-0a1b2c3d4e5f --reason "the payer paid at the counter"
    """

    async def work(settings: Settings) -> Proposal:
        async with database(settings) as db:
            return await proposals.reject(db, proposal_id, reason, ACTOR)

    proposal = run(json, work)
    document = {"proposal_id": proposal.id, "payment_id": proposal.draft.payment_id}
    emit(json, document, lambda console: console.print(f"Rejected. {proposal.draft.payment_id} stays as it is."))


def _money(proposal: Proposal) -> str:
    return f"{proposal.draft.money} {proposal.draft.money.currency}"


def _facts(proposal: Proposal) -> dict[str, object]:
    draft = proposal.draft
    return {
        "id": proposal.id,
        "tenant": proposal.tenant,
        "payment_id": draft.payment_id,
        "provider": draft.provider,
        "amount": str(draft.money),
        "currency": draft.money.currency,
        "transaction_id": draft.transaction_id,
        "moved_at": draft.moved_at,
        "told_in": draft.told_in,
        "created_at": proposal.created_at,
    }


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
    console = Console(stderr=True, markup=False)
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
        "idle": found.idle,
        "repeated": found.repeated,
        "unread": found.unread,
        "counts": found.counts,
        "changed": found.changed,
        "entries": [entry for entry in found.entries if entry.verdict is not Verdict.AGREED],
    }


def _tell(console: Console, found: Reconciliation, report: str | None) -> None:
    if found.imported_before:
        console.print(f"This file was imported before, at {found.imported_before:%Y-%m-%d %H:%M:%S %Z}.")
    table(console, ("LINES", "VERDICT"), [(found.counts[verdict], meaning) for verdict, meaning in MEANINGS.items()])
    left_out = (
        (found.undecided, "without a final status"),
        (found.others, "of another type"),
        (found.idle, "of no amount"),
    )
    for count, why in left_out:
        if count:
            words = ", ".join(f"{word} ({number})" for word, number in count.items())
            console.print(f"Left out, {why}: {words}", highlight=False)
    if found.repeated:
        console.print(f"Left out, for the same line stands in the file already: {found.repeated}")
    if found.unread:
        console.print(f"Columns that were not read: {', '.join(found.unread)}", highlight=False)
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
        console.print(f"Every line stands in {report}", highlight=False)
    console.print(_summary(found))


def _summary(found: Reconciliation) -> str:
    if found.dry_run:
        return "Nothing was written: this was a dry run."
    if not found.changed and not found.counts[Verdict.NOT_APPLIED]:
        return "Nothing changed."
    changed = f"{found.changed} {'line' if found.changed == 1 else 'lines'} changed something."
    missed = found.counts[Verdict.NOT_APPLIED]
    return f"{changed} {missed} could not be written: import the same file again." if missed else changed
