"""The stack of real processes."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.conftest import Simulator, TestDatabase
from tests.e2e.stack import Stack, running


@pytest.fixture
async def stack(tmp_path: Path, database: TestDatabase, simulator: Simulator) -> AsyncIterator[Stack]:
    """A gateway of this test's own; the test starts its processes."""
    async with running(tmp_path, database, simulator) as made:
        yield made
