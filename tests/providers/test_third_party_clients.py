"""Other people's client libraries against the simulators: what docs/simulators/clients.md says of each call is so."""

import asyncio
import fcntl
import json
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pytest

from tests.conftest import Simulator

ROOT: Final = Path(__file__).parents[2]
PAGE: Final = ROOT / "docs" / "simulators" / "clients.md"
REQUIREMENTS: Final = ROOT / "requirements" / "third-party.txt"
DRIVERS: Final = Path(__file__).with_name("third_party_clients.py")
WITHIN_S: Final = 60.0


@dataclass
class Library:
    """What the page says of one: every call, by its verdict."""

    version: str
    works: set[str] = field(default_factory=set)
    fails: set[str] = field(default_factory=set)
    left_out: set[str] = field(default_factory=set)


def _read(page: str) -> dict[str, Library]:
    libraries: dict[str, Library] = {}
    section = page.partition("## What came of each call")[2].partition("\n## ")[0]
    for line in section.splitlines():
        if heading := re.fullmatch(r"### (\S+) (\S+)", line):
            library = libraries[heading[1]] = Library(heading[2])
        elif row := re.fullmatch(r"\| (`.*`) \| (works|fails: |left out: ).*\|", line):
            verdict: set[str] = getattr(library, row[2].strip(": ").replace(" ", "_"))
            verdict.update(re.findall(r"`([^`]+)`", row[1]))
    return libraries


LIBRARIES: Final[Mapping[str, Library]] = _read(PAGE.read_text())


def test_the_page_names_the_versions_that_are_installed() -> None:
    installed = dict(re.findall(r"^([a-z0-9-]+)==(\S+)", REQUIREMENTS.read_text(), re.MULTILINE))
    assert {name: library.version for name, library in LIBRARIES.items()} == {
        name: installed[name] for name in LIBRARIES
    }
    assert all(library.works for library in LIBRARIES.values())
    assert set(re.findall(r'^    "([a-z-]+)": [a-z_]+,$', DRIVERS.read_text(), re.MULTILINE)) == set(LIBRARIES)


@pytest.fixture(scope="session")
def their_python(run_folder: Path) -> Path:
    """The Python of an environment with all of them, made once a run: they want what ours does not have."""
    home, made = run_folder / "third-party", run_folder / "third-party.made"
    with (run_folder / "third-party.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.exists():
            subprocess.run([sys.executable, "-m", "venv", "--without-pip", home], check=True)
            pip = [sys.executable, "-m", "pip", "--python", str(home / "bin" / "python"), "install", "--quiet"]
            only = ["--disable-pip-version-check", "--no-compile", "--only-binary=:all:", "--require-hashes"]
            subprocess.run([*pip, *only, "--requirement", str(REQUIREMENTS)], check=True)
            made.touch()
    return home / "bin" / "python"


@pytest.mark.full("installs other people's libraries")
@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", LIBRARIES)
async def test_every_call_does_what_the_page_says(
    their_python: Path, simulator: Simulator, tmp_path: Path, name: str
) -> None:
    await simulator.client.patch("/_sim/settings/airtel", json={"prompt_ms": 50})
    report = await _driven(their_python, name, simulator.url, tmp_path)

    library = LIBRARIES[name]
    good = {call for call, wrong in report["told"].items() if not wrong}
    bad = {call: wrong for call, wrong in report["told"].items() if wrong}
    assert good == library.works, bad
    assert set(bad) == library.fails, bad
    asked = {call.partition(" (")[0] for call in report["told"]}
    assert asked <= set(report["offered"])
    assert set(report["offered"]) - asked == library.left_out

    due = sorted(tuple(movement) for movement in report["moved"])
    assert await _booked(simulator, due) == due


async def _driven(python: Path, name: str, url: str, folder: Path) -> Any:
    """What a driver reports. It runs in a folder of its own, for some libraries write files."""
    told = folder / "report.json"
    process = await asyncio.create_subprocess_exec(
        python,
        "-I",
        DRIVERS,
        name,
        url,
        told,
        cwd=folder,
        env={"NO_PROXY": "*"},
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
    )
    try:
        _, complaint = await asyncio.wait_for(process.communicate(), WITHIN_S)
    finally:
        if process.returncode is None:
            process.kill()
    assert process.returncode == 0, complaint.decode()[-2_000:]
    return json.loads(told.read_text())


async def _booked(simulator: Simulator, due: list[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """What has moved, each movement once, as soon as all that is due has."""
    ends = asyncio.get_running_loop().time() + WITHIN_S
    while True:
        movements = await simulator.movements()
        if len(movements) >= len(due) or asyncio.get_running_loop().time() > ends:
            break
        await asyncio.sleep(0.02)
    assert [one["reference"] for one in movements if one["charged"] != 1] == []
    return sorted((one["kind"], one["reference"], one["amount"]) for one in movements)
