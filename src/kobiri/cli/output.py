"""What every command shares: --json, plain tables, and errors in one sentence."""

import asyncio
import dataclasses
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from types import MappingProxyType
from typing import Annotated, Any, TypeAlias, TypeVar

import msgspec
import structlog
import typer
from rich.console import Console
from rich.table import Table

from kobiri.config import ConfigurationError, Settings, load
from kobiri.domain.errors import KobiriError
from kobiri.embedded import EmbeddedError
from kobiri.store.db import DRIVER_ERRORS, DatabaseRefused, refusal

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")]

T = TypeVar("T")

Beside: TypeAlias = Callable[[], Mapping[str, object]]

ACTOR = "operator:cli"
PIPE_WIDTH = 1_000
UNLISTED = "A code that no table lists"  # and no log of a command tells it


def run(json: bool, work: Callable[[Settings], Coroutine[Any, Any, T]], beside: Beside = dict) -> T:
    """Run an async piece of work with the settings; expected errors become one sentence (see `plain_errors`)."""
    with plain_errors(json, beside):
        structlog.configure(logger_factory=structlog.ReturnLoggerFactory())  # a command's output is its own
        return asyncio.run(work(load()))
    raise AssertionError


@contextmanager
def plain_errors(json: bool, beside: Beside = dict) -> Iterator[None]:
    """Turn expected errors into one sentence (or one JSON document) and exit code 1; 2 where a setting is wrong.

    `beside`: what else stands in the JSON document then.
    """
    try:
        yield
    except KobiriError as error:
        _fail(json, error.code, error.detail, beside=beside())
    except ConfigurationError as error:
        _fail(json, "configuration", str(error), 2, beside())
    except EmbeddedError as error:
        _fail(json, "embedded_database", str(error), beside=beside())
    except DatabaseRefused as error:
        _fail(json, "database_refused", str(error), beside=beside())
    except DRIVER_ERRORS as error:
        _fail(json, "database_refused", refusal(error), beside=beside())
    except OSError as error:
        if error.filename is None:
            raise
        _fail(json, "file", f"{error.filename}: {error.strerror}.", beside=beside())


def emit(json: bool, document: object, human: Callable[[Console], None]) -> None:
    """Print the document as JSON, or let `human` print it for people."""
    if json:
        typer.echo(msgspec.json.format(msgspec.json.encode(_plain(document)), indent=2).decode())
    else:
        human(Console(soft_wrap=True, markup=False))  # what operators and files say may look like markup


def table(console: Console, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print rows under headings."""
    if not rows:
        console.print("None yet.")
        return
    shown = Table(*columns, box=None, pad_edge=False, header_style="bold")
    for row in rows:
        shown.add_row(*(_printable(_cell(value)) for value in row))
    # In a pipe nothing is folded: an id or a hash must stay in one piece.
    (console if console.is_terminal else Console(width=PIPE_WIDTH, markup=False)).print(shown)


def fail(json: bool, code: str, detail: str) -> None:
    """End with one sentence and exit code 1."""
    _fail(json, code, detail)


def _fail(
    json: bool, code: str, detail: str, exit_code: int = 1, beside: Mapping[str, object] = MappingProxyType({})
) -> None:
    if json:
        typer.echo(msgspec.json.encode({"error": {"code": code, "detail": detail}, **beside}))
    else:
        typer.echo(detail, err=True)
    raise typer.Exit(exit_code)


def _cell(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M:%S}"
    if isinstance(value, tuple | list):
        return ", ".join(map(str, value)) or "-"
    return str(value)


def _printable(text: str) -> str:
    """What strangers posted must not move the terminal's cursor."""
    return "".join(character if character.isprintable() else "·" for character in text)


def _plain(value: object) -> object:
    return dataclasses.asdict(value) if dataclasses.is_dataclass(value) and not isinstance(value, type) else value
