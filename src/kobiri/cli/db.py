"""kobiri db: migrations."""

from typing import Annotated

import typer
from rich.console import Console

from kobiri.cli.output import Json, emit, plain_errors, table
from kobiri.config import load

app = typer.Typer(help="Migrations: migrate, revert, status, new.", no_args_is_help=True)


@app.command()
def migrate(json: Json = False) -> None:
    """Apply all migrations that are not applied yet. Safe to run from several machines at once.

    Example: DATABASE_MIGRATION_URL=postgresql://owner@db/kobiri kobiri db migrate
    """
    from kobiri import migrate as migrations

    with plain_errors(json):
        done = migrations.migrate(load())
        emit(json, {"revision": done}, lambda console: console.print(f"The database is at migration {done}."))


@app.command()
def revert(json: Json = False) -> None:
    """Take back the last migration. Data of the tables that it made is lost.

    Example: kobiri db revert
    """
    from kobiri import migrate as migrations

    with plain_errors(json):
        now = migrations.revert(load())
        emit(json, {"revision": now}, lambda console: console.print(f"The database is at migration {now or 'none'}."))


@app.command()
def status(json: Json = False) -> None:
    """Show all migrations and which are applied; exit code 1 when some are not.

    Example: kobiri db status --json
    """
    from kobiri import migrate as migrations

    with plain_errors(json):
        found = migrations.status(load())
    pending = [item.revision for item in found if not item.applied]
    rows = [(item.revision, "applied" if item.applied else "pending", item.title) for item in found]

    def human(console: Console) -> None:
        table(console, ("REVISION", "STATE", "TITLE"), rows)

    emit(json, {"migrations": found, "pending": pending}, human)
    if pending:
        raise typer.Exit(1)


@app.command()
def new(name: Annotated[str, typer.Argument(help='What it does, such as "add refunds".')], json: Json = False) -> None:
    """Write an empty migration for a contributor to fill in.

    Example: kobiri db new "add refunds"
    """
    from kobiri import migrate as migrations

    with plain_errors(json):
        path = migrations.new(name)
        emit(json, {"path": str(path)}, lambda console: console.print(f"Wrote {path}"))
