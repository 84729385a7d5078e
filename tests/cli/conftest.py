"""The commands, called in this process with an environment of their own."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import structlog
from typer.testing import CliRunner, Result

from kobiri.cli import app
from tests.conftest import PEPPER, TestDatabase


@dataclass
class Cli:
    """`kobiri` with this environment."""

    environment: dict[str, str | None] = field(default_factory=dict)

    def run(self, *arguments: str) -> Result:
        return CliRunner().invoke(app, arguments, env=self.environment)

    def text(self, *arguments: str) -> str:
        """What a command that succeeds prints."""
        result = self.run(*arguments)
        assert result.exit_code == 0, result.output
        assert result.stderr == ""
        return result.stdout

    def json(self, *arguments: str, exit_code: int = 0) -> Any:  # any JSON
        """The one document that a command prints under --json."""
        result = self.run(*arguments, "--json")
        assert result.exit_code == exit_code, result.output
        assert result.stderr == ""
        return json.loads(result.stdout)

    def refusal(self, *arguments: str) -> tuple[str, str]:
        """The one sentence on stderr, and the code and sentence under --json, which must agree."""
        result = self.run(*arguments)
        assert result.stdout == ""
        assert len(result.stderr.splitlines()) == 1, result.stderr
        sentence = result.stderr.rstrip("\n")
        error = self.json(*arguments, exit_code=result.exit_code)["error"]
        assert result.exit_code == (2 if error["code"] == "configuration" else 1), result.output
        assert set(error) == {"code", "detail"}
        assert error["detail"] == sentence
        assert "Traceback" not in sentence
        return error["code"], sentence


@pytest.fixture(autouse=True)
def _log_setup() -> Iterator[None]:
    """A command sets the log up for its own process."""
    before = structlog.get_config()
    yield
    structlog.configure(**before)


@pytest.fixture
def make_cli(tmp_path: Path) -> Callable[..., Cli]:
    """`kobiri` with these variables."""

    def make(**variables: str | None) -> Cli:
        defaults: dict[str, str | None] = {"KOBIRI_HOME": str(tmp_path), "API_KEY_PEPPER": PEPPER, "COLUMNS": "80"}
        return Cli(defaults | variables)

    return make


@pytest.fixture
def cli(make_cli: Callable[..., Cli], database: TestDatabase) -> Cli:
    """`kobiri` on this test's database."""
    return make_cli(DATABASE_URL=database.dsn, DATABASE_MIGRATION_URL=database.owner_dsn)
