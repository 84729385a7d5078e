"""Rules about the code itself. Each exception stands here with its reason."""

import ast
import importlib
import inspect
import pkgutil
import re
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from benchmarks.limit import T1, T2
from litestar import Litestar

import kobiri
from kobiri import store
from kobiri.api import problems, routes
from kobiri.config import Settings
from kobiri.domain.api_key import SCOPES
from kobiri.domain.errors import KobiriError
from kobiri.providers import registry
from kobiri.store.payments import INSERT_ONCE, WRITE

ROOT = Path(__file__).parents[2]
SOURCES = ROOT / "src" / "kobiri"


def sources() -> Iterator[tuple[str, Path]]:
    for path in sorted(SOURCES.rglob("*.py")):
        yield path.relative_to(SOURCES).as_posix(), path


# --- direction of imports -------------------------------------------------------------------------------------------


def lint_imports(folder: Path) -> subprocess.CompletedProcess[str]:
    program = "import sys; from importlinter.cli import lint_imports_command as run; sys.exit(run())"
    return subprocess.run(
        [sys.executable, "-c", program, "--no-cache", "--config", str(ROOT / "pyproject.toml")],
        capture_output=True,
        check=False,
        cwd=folder,
        env={"PYTHONPATH": str(folder), "PATH": ""},
        text=True,
    )


def test_imports_point_down() -> None:
    done = lint_imports(ROOT / "src")
    assert done.returncode == 0, done.stdout + done.stderr


def test_an_import_that_points_up_is_found(tmp_path: Path) -> None:
    shutil.copytree(SOURCES, tmp_path / "kobiri", ignore=shutil.ignore_patterns("__pycache__"))
    for path, line in (("domain/money.py", "import kobiri.net"), ("services/audit.py", "import asyncpg")):
        with (tmp_path / "kobiri" / path).open("a") as file:
            file.write(f"\n{line}\n")
    done = lint_imports(tmp_path)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "kobiri.domain.money -> kobiri.net" in done.stdout
    assert "kobiri.services.audit -> asyncpg" in done.stdout


# --- routes ---------------------------------------------------------------------------------------------------------

PUBLIC = {
    ("POST", "/api/v1/webhooks/{provider:str}"): "providers have no key of ours; what they say is checked or asked for",
    ("PUT", "/api/v1/webhooks/{provider:str}"): "the same",
    ("POST", "/api/v1/webhooks/{provider:str}/{token:str}"): "the same, for a merchant's own account",
    ("PUT", "/api/v1/webhooks/{provider:str}/{token:str}"): "the same",
    ("GET", "/health/live"): "orchestrators have no key",
    ("GET", "/health/ready"): "the same",
    ("GET", "/docs"): "the reference is no secret",
    ("GET", "/docs/openapi.json"): "the same",
    ("GET", "/docs/errors"): "the same",
}


@asynccontextmanager
async def no_parts(_app: Litestar) -> AsyncIterator[None]:
    yield


def test_every_route_asks_for_a_scope_or_is_named_public() -> None:
    public = set()
    for route in routes.build(no_parts).routes:
        for handler in getattr(route, "route_handlers", ()):
            for method in handler.http_methods - {"OPTIONS"}:  # answered by the framework with the methods' names
                where = (str(method), route.path)
                if handler.opt.get("public"):
                    public.add(where)
                    assert "scope" not in handler.opt, where
                else:
                    assert handler.opt.get("scope") in SCOPES, where
    assert public == set(PUBLIC)


def test_every_scope_opens_something() -> None:
    handlers = [handler for route in routes.API.routes for handler in getattr(route, "route_handlers", ())]
    assert {handler.opt.get("scope") for handler in handlers} - {None} == set(SCOPES)


# --- errors ---------------------------------------------------------------------------------------------------------


def everything_imported() -> None:
    for module in pkgutil.walk_packages(kobiri.__path__, "kobiri."):
        if not module.name.startswith(("kobiri.__main__", "kobiri.store.migrations")):
            importlib.import_module(module.name)


def errors(base: type[KobiriError] = KobiriError) -> Iterator[type[KobiriError]]:
    for error in base.__subclasses__():
        if error.__module__.startswith("kobiri."):
            yield error
            yield from errors(error)


def test_every_error_has_a_status() -> None:
    everything_imported()
    found = set(errors())
    assert len(found) > 20
    for error in found:
        assert 400 <= problems.status_of(error) <= 504, error
        assert error.code != KobiriError.code, error
        assert error.title != KobiriError.title, error


def test_a_code_means_one_thing() -> None:
    everything_imported()
    by_code: dict[str, set[int]] = {}
    for error in set(errors()):
        by_code.setdefault(error.code, set()).add(problems.status_of(error))
    assert {code: statuses for code, statuses in by_code.items() if len(statuses) > 1} == {}


# --- names ----------------------------------------------------------------------------------------------------------

PROVIDERS = tuple(entry.spec.id for entry in registry.PROVIDERS)

MAY_NAME_A_PROVIDER = {
    "providers/": "where they live",
    "config.py": "the settings are named after them",
    "cli/": "it names their settings",
    "domain/msisdn.py": "networks: whose wallet a number is",
    "domain/statement.py": "layouts: whose columns they are",
    "api/schemas.py": "networks: what a caller may say whose wallet it is",
    "api/reference/": "examples",
}


def names_in_code(text: str) -> set[str]:
    """Identifiers and strings; docstrings and comments may tell about anything."""
    tree = ast.parse(text)
    docstrings = {
        id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            found.add(node.value)
        found |= {
            str(value) for field in ("id", "attr", "arg", "name", "module") if (value := getattr(node, field, None))
        }
    return found


def test_a_provider_is_named_in_its_own_folder_alone() -> None:
    pattern = re.compile("|".join(PROVIDERS), re.IGNORECASE)
    used, wrong = set(), []
    for name, path in sources():
        hits = [text for text in names_in_code(path.read_text()) if pattern.search(text)]
        excused = next((prefix for prefix in MAY_NAME_A_PROVIDER if name.startswith(prefix)), None)
        if hits and excused:
            used.add(excused)
        elif hits:
            wrong.append(f"{name}: {hits[0][:60]!r}")
    assert wrong == []
    assert set(MAY_NAME_A_PROVIDER) - used <= {"cli/"}, "an exception that nothing needs"


def test_every_file_is_named_after_what_it_is_about() -> None:
    empty_words = {"util", "utils", "helper", "helpers", "common", "manager", "managers", "misc", "base_utils"}
    assert [
        name for name, path in sources() if set(path.relative_to(SOURCES).with_suffix("").parts) & empty_words
    ] == []


# --- SQL and tenants ------------------------------------------------------------------------------------------------

SQL = re.compile(r"\b(SELECT\s.+\sFROM|INSERT\s+INTO|UPDATE\s+\w+\s+SET|DELETE\s+FROM)\b", re.DOTALL)


def test_sql_is_the_stores() -> None:
    wrong = []
    for name, path in sources():
        if not name.startswith("store/") and name != "embedded.py":  # which makes the database itself
            wrong += [f"{name}: {text[:60]}" for text in names_in_code(path.read_text()) if SQL.search(text)]
    assert wrong == []


EVERYTHING = re.compile(r"(\bSELECT\s+|\bRETURNING\s+|,\s*|\w\.)\*(?!\s+FROM unnest)")


def test_no_statement_of_the_store_returns_whatever_columns_there_are() -> None:
    """A column that a migration adds would make PostgreSQL refuse what running processes have prepared."""
    wrong = []
    for name, path in sources():
        if name.startswith("store/") and "/migrations/" not in name:
            wrong += [f"{name}: {text[:60]}" for text in names_in_code(path.read_text()) if EVERYTHING.search(text)]
    assert wrong == []


CARRIES_A_TENANT = {"tenant_id", "payment", "before", "claim", "road"}

SEES_ALL_TENANTS = {
    "accounts.insert": "operator",
    "arrivals.find": "operator",
    "arrivals.waiting": "operator",
    "payments.list_mismatched": "operator",
    "arrivals.holder": "operator: a transaction id is one payment's, whosever",
    "accounts.match": "gate: whose account a callback's path names, is the question",
    "accounts.replace": "operator",
    "accounts.rewrap": "operator",
    "accounts.set_enabled": "operator",
    "accounts.wrapped_otherwise": "operator: a new master key is for all",
    "callbacks.purge": "worker",
    "attempts.claim": "worker",
    "events.seal": "worker",
    "idempotency.purge": "worker",
    "payments.claim": "worker",
    "payments.claim_final": "worker",
    "switches.closed": "gate: what is switched off is switched off for all",
    "switches.opened": "gate: an operator's word is for all",
    "switches.list_all": "operator: the platform's own rows",
    "switches.turn": "operator: the platform's own rows",
    "payments.find": "operator",
    "payments.untold_reviews": "worker",
    "payments.match_callback": "gate: whose payment it is, is the question",
    "statements.imported_at": "operator: a statement is the platform's",
    "statements.knows_provider": "operator",
    "statements.match_earlier_references": "operator",
    "statements.match_facts": "operator",
    "statements.match_references": "operator",
    "statements.match_their_ids": "operator",
    "statements.known_references": "operator",
    "statements.account_owners": "operator",
    "statements.match_arrivals": "operator",
    "statements.missing": "operator",
    "statements.settled_by_statement": "operator",
    "proposals.find": "operator",
    "proposals.waiting": "operator",
    "tenants.find_key": "gate: whose key it is, is the question",
    "tenants.note_key_use": "gate",
    "tenants.create_tenant": "operator",
    "tenants.get_tenant": "operator",
    "tenants.list_tenants": "operator",
    "tenants.revoke_key": "operator",
}


def test_every_function_of_the_store_takes_a_tenant_or_is_named() -> None:
    found = set()
    for module in pkgutil.iter_modules(store.__path__):
        if module.name in ("db", "migrations"):
            continue
        loaded: Any = importlib.import_module(f"kobiri.store.{module.name}")
        for name, function in inspect.getmembers(loaded, inspect.isfunction):
            taken = inspect.signature(function).parameters
            if function.__module__ == loaded.__name__ and "tx" in taken and not name.startswith("_"):
                assert next(iter(taken)) == "tx", f"{module.name}.{name}"
                if not CARRIES_A_TENANT & set(taken):
                    found.add(f"{module.name}.{name}")
    assert found == set(SEES_ALL_TENANTS)


# --- settings -------------------------------------------------------------------------------------------------------


@pytest.fixture
def example() -> Path:
    return ROOT / ".env.example"


def test_the_example_names_every_setting_and_no_other(example: Path) -> None:
    named = re.findall(r"^#? ?([A-Z][A-Z0-9_]+)=", example.read_text(), re.MULTILINE)
    wanted = {name.upper() for name in Settings.model_fields}
    assert wanted - set(named) == set(), "not in .env.example"
    assert set(named) - wanted == set(), "in .env.example, and no setting"
    assert len(named) == len(set(named)), "named twice"


def test_the_example_shows_the_true_defaults(example: Path) -> None:
    assert Settings(_env_file=str(example)) == Settings()  # type: ignore[call-arg]  # pydantic's plug-in would know it


# --- the benchmark's own copies -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("sql", "given"), [(INSERT_ONCE, T1), (WRITE, T2)], ids=["T1", "T2"])
def test_the_benchmark_gives_every_parameter_of_what_it_replays(sql: str, given: dict[int, str]) -> None:
    assert {int(number) for number in re.findall(r"\$([0-9]+)", sql)} == set(given)
