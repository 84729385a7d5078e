"""The secrets that Kobiri makes and keeps beside its embedded database."""

import os
import stat
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from kobiri import app
from kobiri.config import ConfigurationError, Settings


def settings_of(home: Path) -> Settings:
    return Settings(kobiri_home=home)


def secrets_of(home: Path) -> tuple[bytes, str]:
    pepper, keys = app.pepper(settings_of(home)), app.master_keys(settings_of(home))
    assert keys is not None
    return pepper, str(keys.by_id)


def test_they_are_made_once_and_are_their_owners_alone(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with ThreadPoolExecutor(8) as pool:
        found = set(pool.map(secrets_of, [home] * 16))
    assert found == {secrets_of(home)}
    assert {path.name for path in home.iterdir()} == {"secrets", "master-keys"}
    assert {path.stat().st_mode & 0o777 for path in home.iterdir()} == {0o600}
    assert len(app.pepper(settings_of(home))) == 64


def test_what_has_a_name_is_on_the_disk_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A power cut leaves the whole secret or none: the file is written out before it gets its name."""
    done: list[str] = []

    def noted(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            found = os.stat(arguments[0])  # noqa: PTH116  # a name or a descriptor
            done.append(f"{name} {'folder' if stat.S_ISDIR(found.st_mode) else found.st_size}")
            return function(*arguments)

        return call

    monkeypatch.setattr(os, "fsync", noted("fsync", os.fsync))
    monkeypatch.setattr(os, "link", noted("link", os.link))
    app.pepper(settings_of(tmp_path))
    assert done == ["fsync 65", "link 65", "fsync folder"]


def test_what_a_process_that_died_left_is_in_nobodys_way(tmp_path: Path) -> None:
    """In a container the next process often has the same number."""
    for name in (f"secrets.{os.getpid()}", f"master-keys.{os.getpid()}"):
        (tmp_path / name).touch()
    assert secrets_of(tmp_path)


@pytest.mark.parametrize("name", ["secrets", "master-keys"])
def test_one_that_is_cut_short_is_refused(tmp_path: Path, name: str) -> None:
    """An empty pepper would be one that everybody knows."""
    secrets_of(tmp_path)
    path = tmp_path / name
    whole = path.read_text()
    shortest = 32 if name == "secrets" else len(whole) - 1
    for length in range(shortest):
        path.write_text(whole[:length])
        with pytest.raises(ConfigurationError) as refused:
            secrets_of(tmp_path)
        assert str(path) in str(refused.value), length
        assert "backup" in str(refused.value), length
        assert whole[:8] not in str(refused.value).replace("first", ""), length
        assert path.read_text() == whole[:length], "it is not made anew behind an operator's back"
    path.write_text(whole)
    assert secrets_of(tmp_path)
