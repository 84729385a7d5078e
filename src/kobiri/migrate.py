"""Migrations of the configured database; apart from `app` because the API need not load the migration tool."""

from pathlib import Path
from urllib.parse import unquote, urlsplit

from kobiri import app
from kobiri.config import Settings
from kobiri.store.migrations import run
from kobiri.store.migrations.run import Migration


def migrate(settings: Settings) -> str:
    """Apply what is not applied and let the application's login take its roles; the revision then reached."""
    run.migrate(app.migration_dsn(settings), app_login(settings), create_login=settings.uses_embedded_database)
    return run.head()


def revert(settings: Settings) -> str | None:
    """Take back the last migration; the revision then reached."""
    dsn = app.migration_dsn(settings)
    run.revert(dsn)
    applied = [item.revision for item in run.status(dsn) if item.applied]
    return applied[-1] if applied else None


def status(settings: Settings) -> list[Migration]:
    """All migrations, oldest first."""
    return run.status(app.migration_dsn(settings))


def new(name: str) -> Path:
    """Write an empty migration."""
    return run.new(name)


def app_login(settings: Settings) -> str:
    """Under which name the application logs in."""
    if settings.database_url is not None:
        return unquote(urlsplit(settings.database_url.get_secret_value()).username or settings.database_user)
    return settings.database_user
