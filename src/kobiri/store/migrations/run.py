"""The verbs of `kobiri db`: migrate, revert, status, new."""

import re
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.environment import EnvironmentContext
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.script.revision import RevisionError
from alembic.util import CommandError
from sqlalchemy.exc import DBAPIError

from kobiri.store.db import DRIVER_ERRORS, DatabaseRefused, refusal

FOLDER = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class Migration:
    revision: str
    title: str
    applied: bool


def migrate(dsn: str, app_login: str, *, create_login: bool = False) -> None:
    """Apply all migrations and let `app_login` take the application's roles; made here when wanted and absent.

    Raises DatabaseRefused, as all of this file.
    """
    with _told_plainly():
        command.upgrade(_config(dsn, app_login=app_login, create_login=create_login), "head")


def revert(dsn: str) -> None:
    """Take back the last migration."""
    if not any(item.applied for item in status(dsn)):
        raise DatabaseRefused("There is no migration to take back.")
    with _told_plainly():
        command.downgrade(_config(dsn), "-1")


def status(dsn: str) -> list[Migration]:
    """All migrations, oldest first."""
    config = _config(dsn)
    script = ScriptDirectory.from_config(config)
    applied: set[str] = set()

    def read(_heads: object, context: MigrationContext) -> list[object]:
        for head in context.get_current_heads():
            applied.update(step.revision for step in script.iterate_revisions(head, "base"))
        return []

    with _told_plainly(), EnvironmentContext(config, script, fn=read):
        script.run_env()
    revisions = reversed(list(script.walk_revisions()))
    return [Migration(item.revision, (item.doc or "").rstrip("."), item.revision in applied) for item in revisions]


def new(name: str) -> Path:
    """Write an empty migration that follows the last one; returns its file."""
    slug = re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")
    if not slug:
        raise DatabaseRefused("A migration's name needs letters or digits.")
    number = f"{int(head()) + 1:04d}"
    script = command.revision(_config(""), message=name, rev_id=number)
    assert script is not None
    assert not isinstance(script, list)
    path = Path(script.path)
    return path.rename(path.with_name(f"{number}_{slug}.py"))


def head() -> str:
    """The newest revision that this version of Kobiri knows."""
    revision = ScriptDirectory.from_config(_config("")).get_current_head()
    assert revision is not None
    return revision


@contextmanager
def _told_plainly() -> Iterator[None]:
    """SQLAlchemy wraps the driver's errors, Alembic raises its own: both become one sentence."""
    try:
        yield
    except DBAPIError as error:
        cause = error.orig.__cause__ if error.orig else None
        raise DatabaseRefused(refusal(cause if isinstance(cause, Exception) else error)) from error
    except (CommandError, RevisionError) as error:
        raise DatabaseRefused(f"The migrations and the database do not fit: {error}.") from error
    except (*DRIVER_ERRORS, OSError) as error:
        raise DatabaseRefused(refusal(error)) from error


def _config(dsn: str, *, app_login: str | None = None, create_login: bool = False) -> Config:
    config = Config(cmd_opts=Namespace(quiet=True))  # what a command prints is the command's own
    config.set_main_option("script_location", str(FOLDER).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes.update(dsn=dsn, app_login=app_login, create_login=create_login)
    return config
