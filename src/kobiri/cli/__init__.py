"""The command line: one file per noun; each command calls one function."""

import typer

from kobiri import __version__
from kobiri.cli import (
    accounts,
    db,
    demo,
    events,
    keys,
    ledger,
    payments,
    processes,
    providers,
    record,
    statements,
    tenants,
)
from kobiri.cli.output import Json, emit

app = typer.Typer(
    name="kobiri",
    help="A self-hosted payment gateway for mobile money.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
app.command()(demo.demo)
app.command()(processes.serve)
app.command()(processes.worker)
app.command()(processes.simulator)
app.add_typer(db.app, name="db")
app.add_typer(tenants.app, name="tenants")
app.add_typer(keys.app, name="keys")
accounts.app.command()(record.record)
app.add_typer(accounts.app, name="accounts")
app.add_typer(providers.app, name="providers")
app.add_typer(payments.app, name="payments")
app.add_typer(ledger.app, name="ledger")
app.add_typer(events.app, name="events")
app.add_typer(statements.app, name="statements")


@app.command()
def version(json: Json = False) -> None:
    """Print the version.

    Example: kobiri version --json
    """
    emit(json, {"version": __version__}, lambda console: console.print(__version__, highlight=False))


def main() -> None:
    app()
