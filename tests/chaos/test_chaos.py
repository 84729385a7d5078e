"""Short runs of the real thing, each with a seed of its own."""

import random
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos.report import lines
from tests.chaos.run import run


@pytest.fixture
def folder() -> Iterator[Path]:
    """Not pytest's own: as root, PostgreSQL is another user, who must be able to walk through."""
    made = Path(tempfile.mkdtemp(prefix="kobiri-chaos-"))
    made.chmod(0o711)
    yield made
    shutil.rmtree(made, ignore_errors=True)


def _seed() -> int:
    seed = random.SystemRandom().randrange(1_000_000_000)
    print(f"seed {seed}")  # pytest shows it when the test fails
    return seed


async def _survives(seconds: float, folder: Path, *, strange: bool = False) -> None:
    seed = _seed()
    report = await run(seed, seconds, folder, strange=strange)
    print("\n".join(lines(report)))
    assert not report.broken, f"seed {seed}: {report.broken[0]}"
    assert report.made >= 10, "on a busy machine too"
    assert report.hurt["cut commits"]
    assert report.hurt["restarts of PostgreSQL"]
    assert any(name.startswith("kills") for name in report.hurt)


async def _survives_lies(seconds: float, folder: Path, *, strange: bool = False) -> None:
    seed = _seed()
    report = await run(seed, seconds, folder, lying=True, strange=strange)
    print("\n".join(lines(report)))
    assert not report.broken, f"seed {seed}: {report.broken[0]}"
    assert report.made >= 10, "on a busy machine too"
    assert sum(report.faults.values()) >= seconds / 2


@pytest.mark.timeout(420)
async def test_20_s_of_chaos_break_no_invariant(folder: Path) -> None:
    await _survives(20, folder)


@pytest.mark.timeout(420)
async def test_15_s_of_chaos_in_the_strangest_dialects_break_no_invariant(folder: Path) -> None:
    await _survives(15, folder, strange=True)


@pytest.mark.full("takes minutes")
@pytest.mark.timeout(600)
async def test_60_s_of_chaos_break_no_invariant(folder: Path) -> None:
    await _survives(60, folder)


@pytest.mark.full("takes minutes")
@pytest.mark.timeout(600)
@pytest.mark.parametrize("_turn", range(3))
async def test_60_s_of_lies_break_no_invariant(folder: Path, _turn: int) -> None:
    await _survives_lies(60, folder)


@pytest.mark.full("takes minutes")
@pytest.mark.timeout(600)
async def test_60_s_of_lies_in_the_strangest_dialects_break_no_invariant(folder: Path) -> None:
    await _survives_lies(60, folder, strange=True)
