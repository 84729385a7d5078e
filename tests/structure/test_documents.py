"""The documents tell the truth: links lead somewhere, named commands and verbs exist, examples run."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest
from typer.main import get_command

from kobiri.cli import app
from kobiri.providers.registry import BY_ID

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted(
    path
    for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("src/**/*.md")]
    if ".venv" not in path.parts
)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s#]+)(?:#[^)]*)?\)")
CODE = re.compile(r"`([^`\n]+)`|^ *((?:make|kobiri|[A-Z_]+=\S* )[^\n]*)$", re.MULTILINE)
FENCED = re.compile(r"^ *```.*?^ *```", re.MULTILINE | re.DOTALL)
TABLE = re.compile(r"(?:^ *\|[^\n]*\n?){2,}", re.MULTILINE)
BAR = re.compile(r"(?<!\\)\|")
SECTIONS = ("## Context", "## Decision", "## Consequences", "## Alternatives")


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(path: Path) -> None:
    for target in LINK.findall(path.read_text()):
        if "://" not in target and not target.startswith("mailto:"):
            assert (path.parent / target).exists(), f"{path.name} links to {target}"


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_named_commands_exist(path: Path) -> None:
    verbs = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for words in _commands(path.read_text()):
        if words[0] == "make" and len(words) > 1 and words[1].isalpha():
            assert words[1] in verbs, f"{path.name}: make {words[1]}"
        if words[0] == "kobiri" and len(words) > 1 and words[1].isalpha():
            _assert_command(words[1:], path.name)


def test_decisions_have_one_form() -> None:
    decisions = sorted((ROOT / "docs" / "decisions").glob("*.md"))
    assert [path.name[:4] for path in decisions] == [f"{number:04d}" for number in range(1, len(decisions) + 1)]
    for path in decisions:
        text = path.read_text()
        positions = [text.find(section) for section in SECTIONS]
        assert positions == sorted(positions), path.name
        assert -1 not in positions, path.name


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_all_rows_of_a_table_have_as_many_cells(path: Path) -> None:
    """A bar parts cells in a code span too; only a backslash in front keeps it in its cell."""
    for table in TABLE.findall(FENCED.sub("", path.read_text())):
        rows = [row.strip() for row in table.splitlines()]
        assert re.fullmatch(r"\|( *:?-+:? *\|)+", rows[1]), f"{path.name}: no head over {rows[0]}"
        bars = len(BAR.findall(rows[0]))
        assert not [row for row in rows if len(BAR.findall(row)) != bars or not row.endswith("|")], path.name


@pytest.mark.parametrize("provider", BY_ID)
def test_what_an_operator_says_of_its_time_goes_into_its_deadline(provider: str) -> None:
    """Not into the client's wait: each request of each shop would hang as long."""
    page = (ROOT / "docs" / "providers" / f"going-live-{provider}.md").read_text()
    rows = [row for row in page.splitlines() if f"`{provider.upper()}_TIMEOUT_SECONDS`" in row]
    assert rows
    assert all(f"| `{provider.upper()}_DEADLINE_SECONDS`" in row for row in rows)


def test_shell_examples_are_shell() -> None:
    for path in DOCUMENTS:
        for block in re.findall(r"```sh\n(.*?)```", path.read_text(), re.DOTALL):
            done = subprocess.run(["sh", "-n"], input=block, text=True, capture_output=True, check=False)
            assert done.returncode == 0, f"{path.name}: {done.stderr}"


def _commands(text: str) -> list[list[str]]:
    found = []
    for quoted, line in CODE.findall(text):
        try:
            words = shlex.split(quoted or line, comments=True)
        except ValueError:
            continue
        while words and re.match(r"[A-Z_]+=", words[0]):
            words = words[1:]
        if words:
            found.append(words)
    return found


def _assert_command(words: list[str], document: str) -> None:
    """Every word up to the first option or argument must be a command; `a|b` names several. It has all its options."""
    command = get_command(app)
    for index, word in enumerate(words):
        known = getattr(command, "commands", None)
        if known is None:
            options = {name for option in command.params for name in option.opts} | {"--help"}
            unknown = {word for word in words[index:] if re.match(r"--[a-z]", word)} - options
            assert not unknown, f"{document}: kobiri {' '.join(words)} has no {unknown}"
            return
        if not re.fullmatch(r"[a-z|-]+", word) or word.startswith("-"):
            return
        for name in word.split("|"):
            assert name in known, f"{document}: kobiri {' '.join(words)}"
        command = known[word.split("|")[0]]
