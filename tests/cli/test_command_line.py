"""What all commands share: help with an example, --json, and bad settings told in one sentence."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from kobiri import __version__
from kobiri.cli import app, output
from kobiri.providers.registry import BY_ID
from tests.cli.conftest import Cli

MakeCli = Callable[..., Cli]
Command = Any  # Typer brings its own copy of click


def commands(group: Command, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Command]]:
    """Every command that does something, with the words that call it."""
    inner = getattr(group, "commands", None)
    if inner is None:
        yield path, group
        return
    for name, command in inner.items():
        yield from commands(command, (*path, name))


ALL = dict(commands(typer.main.get_command(app)))


def test_the_commands_are_all_there() -> None:
    wanted = {
        *("demo", "serve", "worker", "simulator", "db migrate", "db revert", "db status", "db new"),
        *("tenants create", "tenants list", "tenants suspend", "tenants resume"),
        *("keys create", "keys list", "keys revoke", "events verify"),
    }
    assert wanted <= {" ".join(path) for path in ALL}


@pytest.mark.parametrize("path", ALL, ids=" ".join)
def test_help_says_what_it_does_with_an_example_and_json(path: tuple[str, ...], make_cli: MakeCli) -> None:
    text = make_cli().text(*path, "--help")
    assert "--json" in text
    example = text.partition("Example:")[2].partition("\n\n")[0]
    assert f"kobiri {' '.join(path)}" in " ".join(example.replace("│", " ").split())


@pytest.mark.parametrize("group", ["", "db", "tenants", "keys", "events"])
def test_a_group_lists_its_commands(group: str, make_cli: MakeCli) -> None:
    text = make_cli().text(*group.split(), "--help")
    for path, command in ALL.items():
        if path[:-1] == tuple(group.split()):
            assert path[-1] in text
            assert str(command.help).split()[0] in text


def test_the_version(make_cli: MakeCli) -> None:
    assert make_cli().text("version").strip() == __version__
    assert make_cli().json("version") == {"version": __version__}


BAD_SETTINGS: list[tuple[str, str, str]] = [
    ("PORT", "abc", "integer"),
    ("PORT", "0", "greater"),
    ("PORT", "65536", "less"),
    ("THROTTLE_LIMIT", "-1", "greater"),
    ("THROTTLE_TTL", "soon", "integer"),
    ("API_KEY_PEPPER", "too short", "32 characters"),
    ("API_PROCESSES", "0", "greater"),
    ("DATABASE_PORT", "five", "integer"),
    ("DATABASE_URL", "mysql://app:hunter2@db/kobiri", "postgresql://"),
    ("DATABASE_URL", "postgresql://app:hunter2@db:fivethousand/kobiri", "postgresql://"),
    ("DATABASE_URL", "app:hunter2@db/kobiri", "postgresql://"),
    ("DATABASE_MIGRATION_URL", "https://app:hunter2@db/kobiri", "postgresql://"),
    ("PUBLIC_BASE_URL", "pay.example.com", "https://"),
    ("PUBLIC_BASE_URL", "ftp://pay.example.com", "https://"),
    ("MTN_BASE_URL", "https://x.test/?a=b", "without a query"),
    ("MTN_CURRENCY", "zmw", "pattern"),
    ("PAWAPAY_API_TOKEN", "hunter2\n", "line break"),
    ("MTN_COLLECTION_API_KEY", "hunter2 ", "a space"),
    ("MTN_MODE", "sandbox", "'live'"),
    ("MTN_TIMEOUT_SECONDS", "0", "greater"),
    ("MTN_TIMEOUT_SECONDS", "nan", "MTN_TIMEOUT_SECONDS"),
    ("MTN_TIMEOUT_SECONDS", "inf", "MTN_TIMEOUT_SECONDS"),
    ("MTN_TIMEOUT_SECONDS", "8000", "600"),
    *((f"{provider.upper()}_DEADLINE_SECONDS", "30000", "600") for provider in BY_ID),
    ("SHUTDOWN_GRACE_SECONDS", "15000", "600"),
    ("LOG_LEVEL", "loud", "'debug'"),
    ("LOG_FORMAT", "xml", "'json'"),
    ("TRUSTED_PROXIES", "10.0.0.1/8", "host bits"),
    ("TRUSTED_PROXIES", "somewhere", "TRUSTED_PROXIES"),
    ("IDEMPOTENCY_TTL_SECONDS", "3600", "86400"),
    ("IDEMPOTENCY_REQUIRED", "perhaps", "boolean"),
]


@pytest.mark.parametrize(("name", "value", "words"), BAD_SETTINGS)
def test_a_bad_setting_is_one_sentence_that_names_it(make_cli: MakeCli, name: str, value: str, words: str) -> None:
    code, sentence = make_cli(**{name: value}).refusal("tenants", "list")
    assert code == "configuration"
    assert sentence.startswith(f"{name}: ")
    assert words in sentence
    assert "hunter2" not in sentence


def test_two_names_of_one_key_must_not_differ(make_cli: MakeCli) -> None:
    cli = make_cli(MTN_COLLECTION_SUBSCRIPTION_KEY="one-secret", MTN_COLLECTION_PRIMARY_KEY="other-secret")
    code, sentence = cli.refusal("tenants", "list")
    assert code == "configuration"
    assert "MTN_COLLECTION_SUBSCRIPTION_KEY and MTN_COLLECTION_PRIMARY_KEY" in sentence
    assert "secret" not in sentence


def test_without_any_database(make_cli: MakeCli) -> None:
    for command in (("tenants", "list"), ("db", "status"), ("db", "migrate"), ("serve",), ("worker",)):
        code, sentence = make_cli().refusal(*command)
        assert code == "configuration"
        assert "DATABASE_URL" in sentence


def test_a_configured_database_needs_a_configured_pepper(cli: Cli) -> None:
    cli.environment["API_KEY_PEPPER"] = ""
    cli.text("tenants", "create", "shop")
    for command in (("keys", "create", "shop"), ("serve",), ("worker",)):
        code, sentence = cli.refusal(*command)
        assert code == "configuration"
        assert "API_KEY_PEPPER" in sentence


@pytest.mark.parametrize("command", ["serve", "worker", "simulator", "demo"])
def test_a_process_does_not_start_with_a_bad_setting(make_cli: MakeCli, command: str) -> None:
    assert make_cli(SIMULATOR_PORT="abc").refusal(command)[1].startswith("SIMULATOR_PORT: ")
    assert (
        make_cli(PAWAPAY_API_TOKEN="hunter2\n").refusal(command)[1].startswith("PAWAPAY_API_TOKEN: holds a line break")
    )


@pytest.mark.parametrize("command", ["serve", "worker"])
def test_a_process_does_not_start_without_its_database(make_cli: MakeCli, command: str) -> None:
    cli = make_cli(DATABASE_URL="postgresql://app@127.0.0.1:1/kobiri", LOG_LEVEL="error")
    assert cli.refusal(command) == ("database_unavailable", "The database cannot be reached")


def test_as_a_real_process() -> None:
    """Without the test runner's own catching of errors."""
    environment = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "PYTHONPATH")}
    for flags in ((), ("--json",)):
        done = subprocess.run(
            [sys.executable, "-m", "kobiri", "tenants", "list", *flags],
            capture_output=True,
            check=False,
            env=environment | {"PORT": "abc"},
            text=True,
        )
        assert done.returncode == 2
        assert "Traceback" not in done.stdout + done.stderr
        if flags:
            assert json.loads(done.stdout)["error"]["detail"].startswith("PORT: ")
        else:
            assert done.stderr.startswith("PORT: ")


@pytest.mark.parametrize("name", ["secrets", "master-keys"])
def test_no_process_starts_with_a_secret_that_was_cut_short(make_cli: MakeCli, tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    for command in ("serve", "worker"):
        code, sentence = make_cli(API_KEY_PEPPER=None).refusal(command)
        assert code == "configuration"
        assert str(tmp_path / name) in sentence


def test_what_looks_like_markup_is_printed_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    said = "they said [/b] and [red]no[/red]"
    output.emit(False, {}, lambda console: console.print(said))
    output.emit(False, {}, lambda console: output.table(console, ["word"], [[said]]))
    assert capsys.readouterr().out.count(said) == 2
