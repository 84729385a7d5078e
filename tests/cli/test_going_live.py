"""The pages for a first day at an operator: each of their commands is run, against the simulators."""

import asyncio
import re
import shlex
from pathlib import Path

import pytest

from kobiri.config import Settings
from kobiri.providers import registry
from kobiri.services import recording
from tests.cli.conftest import Cli
from tests.cli.test_record import TalkativeOperators
from tests.cli.test_record import operators as operators  # noqa: PLC0414  # a fixture
from tests.cli.test_record import shop as shop  # noqa: PLC0414
from tests.conftest import TestDatabase

PAGES = Path(__file__).parents[2] / "docs" / "providers"
AN_ID = "019b76da-8c3c-7f20-8000-0a1b2c3d4e5f"


def page(provider: str) -> str:
    return (PAGES / f"going-live-{provider}.md").read_text()


@pytest.mark.parametrize("provider", registry.BY_ID)
def test_each_command_of_a_page_runs(
    shop: Cli,
    operators: TalkativeOperators,
    database: TestDatabase,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    provider: str,
) -> None:
    monkeypatch.setattr(recording, "ASK_EVERY_S", 1.0)
    shop.text("tenants", "create", "kitwe-books")
    out = tmp_path / "recorded"
    out.mkdir()
    lines = [line for block in re.findall(r"```sh\n(.*?)```", page(provider), re.DOTALL) for line in block.splitlines()]
    commands = [shlex.split(line)[1:] for line in lines if line.startswith("kobiri ")]
    assert sum("--collect" in words for words in commands) == 5
    for words in commands:
        known = asyncio.run(database.fetch("SELECT id::text FROM payments ORDER BY id LIMIT 1"))
        given = [known[0]["id"] if word == AN_ID else str(out) if word == "recorded" else word for word in words]
        given += ["--yes"] if "--collect" in given else []
        done = shop.run(*given)
        # The simulator's payers approve all: there is nothing for a person to settle.
        expected = 1 if "resolve" in given else 0
        assert done.exit_code == expected, f"{' '.join(given)}: {done.output}"
    assert len(list(out.iterdir())) >= 3


@pytest.mark.parametrize("provider", registry.BY_ID)
def test_a_page_names_every_field_and_only_variables_that_there_are(provider: str) -> None:
    text = page(provider)
    fields = [field.name for field in registry.BY_ID[provider].spec.fields]
    older = {"public_key"}  # keys of their own came in its place
    fixed = {"country"}  # there is one
    told = set(re.findall(r"`([a-z_]+)`", text))
    assert {name for name in fields if name not in told | older | fixed} == set()
    variables = set(re.findall(r"\b([A-Z]+(?:_[A-Z]+)+)(?=[`=])", text)) & {
        name for name in re.findall(r"[A-Z_]+", text) if name.startswith((provider.upper(), "PAYMENT_MAX", "PUBLIC_"))
    }
    assert {name.lower() for name in variables} <= set(Settings.model_fields)
    assert {f"{provider}_{name}" for name in told & set(fields)} <= {name.lower() for name in variables}
