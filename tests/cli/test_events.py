"""kobiri events verify: proof, or the first broken link."""

import asyncio

import pytest

from kobiri.services import housekeeping
from kobiri.store.db import Database
from tests.cli.conftest import Cli
from tests.conftest import TestDatabase


@pytest.fixture
def sealed(cli: Cli, database: TestDatabase) -> Cli:
    """`kobiri` with two tenants whose events are sealed."""

    async def seal() -> None:
        db = await Database.open(database.dsn, pool_size=1)
        await housekeeping.seal_events(db)
        await db.close()

    for slug in ("books", "pens"):
        cli.text("tenants", "create", slug)
    cli.text("keys", "create", "books")
    asyncio.run(seal())
    return cli


def tamper(database: TestDatabase) -> None:
    sql = (
        "ALTER TABLE events DISABLE TRIGGER append_only",
        "UPDATE events SET actor = 'x' WHERE type = 'api_key.created'",
    )
    for statement in sql:
        asyncio.run(database.fetch(statement))


def test_an_intact_log(sealed: Cli) -> None:
    said = sealed.text("events", "verify")
    assert said.count("intact") == 2
    document = sealed.json("events", "verify")
    assert document["intact"] is True
    assert {(chain["tenant"], chain["links"]) for chain in document["chains"]} == {("books", 2), ("pens", 1)}
    [chain] = sealed.json("events", "verify", "--tenant", "books")["chains"]
    assert chain["head"] in said
    assert sealed.json("events", "verify", "--tenant", "books", "--head", chain["head"])["intact"] is True


def test_a_broken_link_is_named(sealed: Cli, database: TestDatabase) -> None:
    tamper(database)
    result = sealed.run("events", "verify")
    assert result.exit_code == 1
    assert "link 2: event " in result.stdout
    document = sealed.json("events", "verify", exit_code=1)
    assert document["intact"] is False
    assert {chain["tenant"]: bool(chain["broken"]) for chain in document["chains"]} == {"books": True, "pens": False}
    assert sealed.json("events", "verify", "--tenant", "pens")["intact"] is True


def test_a_head_that_is_not_in_the_chain(sealed: Cli) -> None:
    document = sealed.json("events", "verify", "--tenant", "books", "--head", "0" * 64, exit_code=1)
    assert "kept elsewhere" in document["chains"][0]["broken"]


@pytest.mark.parametrize("arguments", [("--tenant", "books", "--head", "xyz"), ("--head", "0" * 64)])
def test_a_head_that_makes_no_sense(sealed: Cli, arguments: tuple[str, ...]) -> None:
    code, sentence = sealed.refusal("events", "verify", *arguments)
    assert code == "bad_head"
    assert "--head" in sentence
