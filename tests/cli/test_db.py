"""kobiri db: migrate, revert, status, new; and a PostgreSQL that refuses, in one sentence."""

import asyncio
import shutil
import socket
import threading
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import pytest

from kobiri.store.db import Database
from kobiri.store.migrations import run as migrations
from tests.cli.conftest import Cli
from tests.conftest import LOGIN, PASSWORD, Cluster, TestDatabase

MakeCli = Callable[..., Cli]

# Each reaches the database in another way: the application's pool, the migrations, the look at them.
COMMANDS = [("tenants", "list"), ("db", "migrate"), ("db", "revert"), ("db", "status"), ("events", "verify")]


@pytest.fixture
async def empty(cluster: Cluster) -> AsyncIterator[TestDatabase]:
    """A database without migrations."""
    name = f"kobiri_empty_{uuid.uuid4().hex[:12]}"
    await cluster.execute(f"CREATE DATABASE {name}")
    yield TestDatabase(cluster.address(name), cluster.address(name, LOGIN))
    await cluster.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.mark.usefixtures("alone_with_roles")
def test_up_down_and_up_again(make_cli: MakeCli, empty: TestDatabase) -> None:
    cli = make_cli(DATABASE_URL=empty.dsn, DATABASE_MIGRATION_URL=empty.owner_dsn)
    head = migrations.head()
    pending = cli.json("db", "status", exit_code=1)
    assert [item["applied"] for item in pending["migrations"]] == [False] * len(pending["pending"])

    assert cli.json("db", "migrate") == {"revision": head}
    assert head in cli.text("db", "migrate")  # nothing left to do is no error
    assert cli.json("db", "status")["pending"] == []
    assert "applied" in cli.text("db", "status")
    cli.text("tenants", "create", "shop")

    for _ in pending["pending"]:
        cli.text("db", "revert")
    assert cli.run("db", "status").exit_code == 1
    code, sentence = cli.refusal("db", "revert")
    assert (code, sentence) == ("database_refused", "There is no migration to take back.")
    assert cli.json("db", "migrate") == {"revision": head}
    assert cli.json("tenants", "list") == {"tenants": []}


@pytest.fixture
async def inheriting(cluster: Cluster) -> AsyncIterator[str]:
    """A login with PostgreSQL's default, by which it has the rights of the roles that it may take."""
    name = f"kobiri_inherits_{uuid.uuid4().hex[:8]}"
    await cluster.execute(f"CREATE ROLE {name} LOGIN INHERIT PASSWORD '{PASSWORD}'")
    yield name
    await cluster.execute(f"DROP ROLE {name}")


@pytest.mark.usefixtures("alone_with_roles")
async def test_a_login_that_inherits_gets_the_roles_without_their_rights_or_none(
    make_cli: MakeCli, cluster: Cluster, database: TestDatabase, inheriting: str
) -> None:
    dsn = cluster.address(urlsplit(database.dsn).path[1:], inheriting)
    cli = make_cli(DATABASE_URL=dsn, DATABASE_MIGRATION_URL=database.owner_dsn)
    if await database.value("SELECT current_setting('server_version_num')::integer") < 160_000:
        code, sentence = await asyncio.to_thread(cli.refusal, "db", "migrate")
        assert code == "database_refused"
        assert f"ALTER ROLE {inheriting} NOINHERIT" in sentence
        assert await database.value("SELECT NOT pg_has_role($1::text::name, 'kobiri_operator', 'MEMBER')", inheriting)
        await cluster.execute(f"ALTER ROLE {inheriting} NOINHERIT")
    await asyncio.to_thread(cli.text, "db", "migrate")

    connection = await asyncpg.connect(dsn)
    for table in ("payments", "tenants", "api_keys", "provider_accounts"):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.fetch(f"SELECT * FROM {table}")
    await connection.execute("SET ROLE kobiri_operator")
    assert len(await connection.fetch("SELECT FROM tenants")) == 1
    await connection.close()
    assert await asyncio.to_thread(cli.json, "tenants", "list") == {"tenants": []}


@pytest.mark.usefixtures("alone_with_roles")
@pytest.mark.parametrize("sort", ["inherits", "superuser"])
async def test_no_process_starts_with_a_login_that_sees_every_tenant(
    make_cli: MakeCli, cluster: Cluster, database: TestDatabase, inheriting: str, sort: str
) -> None:
    """As older versions of Kobiri, or a hand, granted it."""
    dsn = database.owner_dsn
    if sort == "inherits":
        await cluster.execute(f"GRANT kobiri_api, kobiri_worker, kobiri_operator TO {inheriting}")
        dsn = cluster.address(urlsplit(database.dsn).path[1:], inheriting)
    cli = make_cli(DATABASE_URL=dsn, DATABASE_MIGRATION_URL=database.owner_dsn)
    for command in ("serve", "worker"):
        code, sentence = await asyncio.to_thread(cli.refusal, command)
        assert code == "database_refused"
        assert "sees every tenant without taking a role" in sentence
    db = await Database.open(dsn, pool_size=1)
    assert "rights of its own" in str(await db.is_ready(migrations.head()))
    await db.close()
    if sort == "superuser":
        assert (await asyncio.to_thread(cli.refusal, "db", "migrate"))[0] == "database_refused"


def test_a_new_migration_follows_the_last_one(
    make_cli: MakeCli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "migrations"
    shutil.copytree(migrations.FOLDER, folder, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(migrations, "FOLDER", folder)
    before, number = set(folder.rglob("*.py")), f"{int(migrations.head()) + 1:04d}"

    path = make_cli().json("db", "new", "Add refunds, at last!")["path"]

    assert set(folder.rglob("*.py")) - before == {Path(path)}
    assert Path(path).name == f"{number}_add_refunds_at_last.py"
    assert migrations.head() == number
    text = Path(path).read_text()
    assert "def upgrade() -> None:" in text
    assert "def downgrade() -> None:" in text
    assert "run_sql" in text
    compile(text, path, "exec")
    assert "letters or digits" in make_cli().refusal("db", "new", "…")[1]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_server_that_is_down(make_cli: MakeCli, command: tuple[str, ...]) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))  # taken, and nobody listens
        cli = make_cli(DATABASE_URL=f"postgresql://app@127.0.0.1:{probe.getsockname()[1]}/kobiri")
        code, _ = cli.refusal(*command)
    assert code in ("database_unavailable", "database_refused")


@pytest.mark.parametrize("command", COMMANDS)
def test_a_wrong_password(make_cli: MakeCli, gatekeeper: int, command: tuple[str, ...]) -> None:
    cli = make_cli(DATABASE_URL=f"postgresql://app:hunter2-secret@127.0.0.1:{gatekeeper}/kobiri")
    code, sentence = cli.refusal(*command)
    assert code == "database_refused"
    assert 'password authentication failed for user "app"' in sentence
    assert "hunter2" not in sentence


@pytest.mark.parametrize("command", COMMANDS)
def test_a_database_that_is_not_there(make_cli: MakeCli, cluster: Cluster, command: tuple[str, ...]) -> None:
    code, sentence = make_cli(DATABASE_URL=cluster.address("no_such_database")).refusal(*command)
    assert code == "database_refused"
    assert '"no_such_database" does not exist' in sentence


@pytest.mark.parametrize("command", [("tenants", "list"), ("events", "verify")])
def test_a_database_without_migrations(make_cli: MakeCli, empty: TestDatabase, command: tuple[str, ...]) -> None:
    code, sentence = make_cli(DATABASE_URL=empty.dsn).refusal(*command)
    assert code == "database_refused"
    assert "kobiri db migrate" in sentence


@pytest.fixture
async def stranger(database: TestDatabase) -> AsyncIterator[str]:
    """A login without any right on the test's database."""
    name = f"kobiri_stranger_{uuid.uuid4().hex[:8]}"
    await database.fetch(f"CREATE ROLE {name} LOGIN PASSWORD 'only-for-tests'")
    yield database.dsn.replace(LOGIN, name)
    await database.fetch(f"DROP ROLE {name}")


@pytest.mark.parametrize("command", COMMANDS)
def test_a_login_without_rights(make_cli: MakeCli, stranger: str, command: tuple[str, ...]) -> None:
    code, sentence = make_cli(DATABASE_URL=stranger).refusal(*command)
    assert code == "database_refused"
    assert "permission denied" in sentence


def test_a_database_of_a_newer_kobiri(cli: Cli, database: TestDatabase) -> None:
    asyncio.run(database.fetch("UPDATE alembic_version SET version_num = '9999'"))
    for command in ("migrate", "revert", "status"):
        code, sentence = cli.refusal("db", command)
        assert code == "database_refused"
        assert "9999" in sentence


@pytest.fixture
def gatekeeper() -> Iterator[int]:
    """The port of a server that speaks just enough of PostgreSQL's protocol to refuse a password."""
    fields = b"SFATAL\0C28P01\0M" + b'password authentication failed for user "app"' + b"\0\0"
    refusal = b"E" + (len(fields) + 4).to_bytes(4, "big") + fields
    server = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            with connection:
                if connection.recv(1024)[4:8] == (80877103).to_bytes(4, "big"):  # a wish for TLS
                    connection.sendall(b"N")
                    connection.recv(1024)
                connection.sendall(refusal)

    thread = threading.Thread(target=serve)
    thread.start()
    yield server.getsockname()[1]
    server.shutdown(socket.SHUT_RDWR)
    server.close()
    thread.join()
