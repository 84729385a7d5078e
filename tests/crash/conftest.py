"""The stack of real processes, with a proxy before its database."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.conftest import Simulator, TestDatabase
from tests.crash.pg_proxy import PgProxy, proxied
from tests.e2e.stack import Stack, running


@pytest.fixture
async def stack(tmp_path: Path, database: TestDatabase, simulator: Simulator) -> AsyncIterator[Stack]:
    """A gateway of this test's own; the test starts its processes."""
    async with running(tmp_path, database, simulator) as made:
        yield made


@pytest.fixture
async def proxy(database: TestDatabase) -> AsyncIterator[PgProxy]:
    """The way to the database that can be held or cut. Whoever shall take it gets its `dsn` as DATABASE_URL."""
    async with proxied(database.dsn) as made:
        yield made
