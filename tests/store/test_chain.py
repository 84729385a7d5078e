"""The chain over the audit log: it skips nothing, and whoever changes something is found out."""

import asyncio
import json
import os
import re
import subprocess
import uuid
from contextlib import AsyncExitStack
from typing import Any

import asyncpg
import pytest

from kobiri import embedded
from kobiri.domain.errors import NotFound
from kobiri.domain.ids import TenantId, new_id
from kobiri.services.housekeeping import Verdict, seal_events, verify_events
from kobiri.store import events
from kobiri.store.db import Database, Tx
from kobiri.store.events import Event
from tests.conftest import LOGIN, Cluster, TestDatabase
from tests.store.builders import make_tenant

SLUG = "shop"


async def note(tx: Tx, tenant_id: TenantId, subject: str, **data: object) -> None:
    await events.insert(tx, tenant_id, "noted", subject, "test", data)


async def note_many(db: Database, tenant_id: TenantId, *subjects: str) -> None:
    async with db.tenant_transaction(tenant_id) as tx:
        for subject in subjects:
            await note(tx, tenant_id, subject)


async def verify(db: Database, head: str | None = None) -> Verdict:
    [verdict] = await verify_events(db, SLUG, head)
    return verdict


async def pages(db: Database, tenant_id: TenantId, size: int = 1000) -> list[Event]:
    """The whole chain as the tenant reads it."""
    found: list[Event] = []
    async with db.tenant_transaction(tenant_id) as tx:
        while page := await events.list_page(
            tx, tenant_id, "test", found[-1].sequence or 0 if found else 0, None, None, size
        ):
            found += page
    return found


@pytest.fixture
async def tenant_id(db: Database) -> TenantId:
    """A tenant whose chain has six links in two seals: its creation, a, b, c; then d, e."""
    made = await make_tenant(db, SLUG)
    await note_many(db, made, "a", "b", "c")
    assert await seal_events(db) == 4
    await note_many(db, made, "d", "e")
    assert await seal_events(db) == 2
    return made


async def tamper(database: TestDatabase, sql: str) -> None:
    """As somebody with all rights, past the guards."""
    tables = ("events", "event_seals")
    off = ";".join(f"ALTER TABLE {table} DISABLE TRIGGER ALL" for table in tables)
    on = ";".join(f"ALTER TABLE {table} ENABLE TRIGGER ALL" for table in tables)
    connection = await asyncpg.connect(database.owner_dsn)
    try:
        await connection.execute(f"BEGIN; {off}; {sql}; {on}; COMMIT")
    finally:
        await connection.close()


async def test_what_nobody_touched_is_intact(db: Database, tenant_id: TenantId) -> None:
    verdict = await verify(db)
    assert (verdict.broken, verdict.links) == (None, 6)
    assert (await verify(db, verdict.head)).broken is None
    found = await pages(db, tenant_id)
    assert [event.sequence for event in found] == [1, 2, 3, 4, 5, 6]
    assert [event.subject_id for event in found] == [tenant_id, "a", "b", "c", "d", "e"]
    assert await pages(db, tenant_id, size=1) == found


async def test_an_event_that_is_not_sealed_yet_is_no_breach(db: Database, tenant_id: TenantId) -> None:
    await note_many(db, tenant_id, "f")
    verdict = await verify(db)
    assert (verdict.broken, verdict.links) == (None, 6)
    assert len(await pages(db, tenant_id)) == 6


async def test_each_tenant_has_a_chain_of_its_own(db: Database, database: TestDatabase, tenant_id: TenantId) -> None:
    other = await make_tenant(db, "other")
    assert await seal_events(db) == 1
    await tamper(database, f"UPDATE events SET actor = 'x' WHERE tenant_id = '{other}'")

    broken = {verdict.tenant: verdict.broken for verdict in await verify_events(db)}
    assert broken[SLUG] is None
    assert broken["other"] is not None
    assert broken["other"].startswith("link 1: ")


async def test_a_tenant_that_is_not_there_has_no_verdict(db: Database) -> None:
    with pytest.raises(NotFound):
        await verify_events(db, "nobody")


@pytest.mark.parametrize(
    "edit",
    [
        "type = 'other'",
        "subject_id = 'other'",
        "actor = 'other'",
        """data = '{"amount": "1.00"}'""",
        "request_id = 'other'",
        "request_id = ''",  # it was NULL
        "mode = 'live'",
        "created_at = created_at + interval '1 microsecond'",
        "id = gen_random_uuid()",
        "tenant_id = '00000000-0000-7000-8000-000000000000'",
    ],
)
async def test_an_edited_event_breaks_its_link(
    db: Database, database: TestDatabase, tenant_id: TenantId, edit: str
) -> None:
    await tamper(database, f"UPDATE events SET {edit} WHERE subject_id = 'b'")
    broken = (await verify(db)).broken
    assert broken is not None
    assert broken.startswith("link 3: event ")


async def test_moving_text_from_one_field_to_the_next_breaks_the_link(
    db: Database, database: TestDatabase, tenant_id: TenantId
) -> None:
    """Fields are sealed with their lengths: 'noted' + 'b' is not 'note' + 'db'."""
    await tamper(database, "UPDATE events SET type = 'note', subject_id = 'db' WHERE subject_id = 'b'")
    assert "link 3: " in str((await verify(db)).broken)


async def test_a_deleted_event_is_missed(db: Database, database: TestDatabase, tenant_id: TenantId) -> None:
    gone = (await pages(db, tenant_id))[3]
    await tamper(database, "DELETE FROM events WHERE subject_id = 'c'")
    assert (await verify(db)).broken == f"link 4: event {gone.id} is gone"


async def test_an_event_deleted_before_its_seal_is_missed_and_holds_nobody_up(
    db: Database, database: TestDatabase, tenant_id: TenantId
) -> None:
    await note_many(db, tenant_id, "f", "g")
    gone = await database.value("SELECT id FROM events WHERE subject_id = 'f'")
    await tamper(database, "DELETE FROM events WHERE subject_id = 'f'")

    assert await seal_events(db) == 1
    assert (await verify(db)).broken == f"event {gone} was deleted before it was sealed"
    assert [event.subject_id for event in await pages(db, tenant_id)][-1] == "g"


async def test_an_event_put_in_behind_the_chains_back(
    db: Database, database: TestDatabase, tenant_id: TenantId
) -> None:
    stray = new_id()
    await tamper(
        database,
        "INSERT INTO events (tenant_id, id, type, subject_id, actor, data)"
        f" VALUES ('{tenant_id}', '{stray}', 'noted', 'x', 'x', '{{}}')",
    )
    assert (await verify(db)).broken == f"event {stray} was put in behind the chain's back"


@pytest.mark.parametrize(
    ("damage", "first_broken"),
    [
        ("event_ids = event_ids[1:1] || event_ids[3] || event_ids[2] || event_ids[4:]", 2),
        ("hashes = hashes[1:2] || sha256('x') || hashes[4:]", 3),
        ("hashes = hashes[1:1] || hashes[3] || hashes[2] || hashes[4:]", 2),
        ("event_ids = event_ids[1:2] || event_ids[2] || event_ids[4:]", 3),
        ("event_ids = event_ids[1:3], hashes = hashes[1:3], last_seq = 3", 4),
    ],
)
async def test_a_seal_that_was_changed(
    db: Database, database: TestDatabase, tenant_id: TenantId, damage: str, first_broken: int
) -> None:
    """Reordered, rehashed, repeated, cut."""
    await tamper(database, f"UPDATE event_seals SET {damage} WHERE first_seq = 1")
    assert str((await verify(db)).broken).startswith(f"link {first_broken}")


async def test_events_moved_between_seals(db: Database, database: TestDatabase, tenant_id: TenantId) -> None:
    await tamper(
        database,
        "UPDATE event_seals SET first_seq = first_seq + 100, last_seq = last_seq + 100;"
        "UPDATE event_seals SET first_seq = 1, last_seq = 2 WHERE first_seq = 105;"
        "UPDATE event_seals SET first_seq = 3, last_seq = 6 WHERE first_seq = 101",
    )
    assert str((await verify(db)).broken).startswith("link 1: ")


async def test_a_seal_that_was_taken_out(db: Database, database: TestDatabase, tenant_id: TenantId) -> None:
    await tamper(database, "DELETE FROM event_seals WHERE first_seq = 1")
    assert (await verify(db)).broken == "link 1 is missing: after 0 comes 5"


async def test_a_tail_cut_off_in_the_chain_alone_leaves_strays(
    db: Database, database: TestDatabase, tenant_id: TenantId
) -> None:
    await tamper(database, "DELETE FROM event_seals WHERE first_seq = 5")
    assert "behind the chain's back" in str((await verify(db)).broken)


async def test_a_tail_cut_off_cleanly_is_betrayed_by_a_kept_head(
    db: Database, database: TestDatabase, tenant_id: TenantId
) -> None:
    head = (await verify(db)).head
    await tamper(
        database,
        "DELETE FROM event_seals WHERE first_seq = 5; DELETE FROM events WHERE subject_id IN ('d', 'e')",
    )
    assert (await verify(db)).broken is None  # nothing in the database can tell
    assert "the head that was kept elsewhere" in str((await verify(db, head)).broken)


async def test_a_chain_rewritten_from_an_edit_on_is_betrayed_by_a_kept_head(
    db: Database, database: TestDatabase, tenant_id: TenantId
) -> None:
    head = (await verify(db)).head
    await tamper(
        database,
        """
        UPDATE events SET actor = 'nobody' WHERE subject_id = 'b';
        DELETE FROM event_seals;
        INSERT INTO unsealed_events SELECT tenant_id, id FROM events;
        SELECT seal_events(1000)
        """,
    )
    verdict = await verify(db)
    assert (verdict.broken, verdict.links) == (None, 6)  # nothing in the database can tell
    assert "the head that was kept elsewhere" in str((await verify(db, head)).broken)


async def test_a_head_kept_long_ago_holds_when_the_chain_has_grown(db: Database, tenant_id: TenantId) -> None:
    head = (await verify(db)).head
    await note_many(db, tenant_id, "f", "g")
    await seal_events(db)
    verdict = await verify(db, head)
    assert (verdict.broken, verdict.links) == (None, 8)
    assert verdict.head != head


# --- nothing is skipped ---------------------------------------------------------------------------------------------


async def test_what_took_its_id_early_and_committed_late_is_not_skipped(db: Database, tenant_id: TenantId) -> None:
    subjects = [f"order-{number}" for number in range(6)]
    async with AsyncExitStack() as stack:
        # Six transactions take their ids in one order …
        opened: list[tuple[AsyncExitStack, str]] = []
        for subject in subjects:
            own = await stack.enter_async_context(AsyncExitStack())
            tx = await own.enter_async_context(db.tenant_transaction(tenant_id))
            await note(tx, tenant_id, subject)
            opened.append((own, subject))
        # … and commit in another, with the sealer at work in between.
        for position in (5, 2, 4, 0, 3, 1):
            await opened[position][0].aclose()
            assert await seal_events(db) == 1
            assert [event.subject_id for event in await pages(db, tenant_id)][-1] == opened[position][1]

    found = await pages(db, tenant_id)
    assert sorted(event.subject_id for event in found if event.subject_id in subjects) == subjects
    assert [event.sequence for event in found] == list(range(1, 13))
    assert (await verify(db)).broken is None


async def test_a_transaction_that_was_rolled_back_leaves_no_gap(db: Database, tenant_id: TenantId) -> None:
    async def change_ones_mind() -> None:
        async with db.tenant_transaction(tenant_id) as tx:
            await note(tx, tenant_id, "never")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await change_ones_mind()
    await note_many(db, tenant_id, "f")
    await seal_events(db)
    assert [(event.sequence, event.subject_id) for event in await pages(db, tenant_id)][-1] == (7, "f")


async def test_writers_and_sealers_at_once(db: Database, tenant_id: TenantId) -> None:
    other = await make_tenant(db, "other")
    written = asyncio.Event()

    async def write(who: TenantId, name: str) -> None:
        for number in range(15):
            await note_many(db, who, f"{name}-{number}", f"{name}-{number}-too")

    async def seal() -> None:
        while not written.is_set():
            await seal_events(db)

    sealers = [asyncio.create_task(seal()) for _ in range(2)]
    await asyncio.gather(*(write(who, name) for who, name in ((tenant_id, "x"), (tenant_id, "y"), (other, "z"))))
    written.set()
    await asyncio.gather(*sealers)
    await seal_events(db)

    for who, count in ((tenant_id, 6 + 60), (other, 1 + 30)):
        found = await pages(db, who, size=7)
        assert [event.sequence for event in found] == list(range(1, count + 1))
        assert len({event.id for event in found}) == count
    assert [verdict.broken for verdict in await verify_events(db)] == [None, None]


async def test_a_tenant_that_another_worker_seals_now_is_passed_over(db: Database, tenant_id: TenantId) -> None:
    await note_many(db, tenant_id, "f")
    async with db.worker_transaction() as first:
        assert await events.seal(first) == 1
        other = await make_tenant(db, "other")
        await note_many(db, tenant_id, "g")
        assert await seal_events(db) == 1  # the other one's, and without waiting
        assert len(await pages(db, other)) == 1
    assert await seal_events(db) == 1
    assert [event.subject_id for event in await pages(db, tenant_id)][-2:] == ["f", "g"]


async def test_a_worker_that_dies_while_sealing_has_sealed_nothing(db: Database, tenant_id: TenantId) -> None:
    await note_many(db, tenant_id, "f")

    async def die() -> None:
        async with db.worker_transaction() as tx:
            assert await events.seal(tx) == 1
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await die()
    assert len(await pages(db, tenant_id)) == 6
    assert await seal_events(db) == 1


async def test_more_events_than_one_seal_holds(db: Database, database: TestDatabase, tenant_id: TenantId) -> None:
    await database.fetch(
        "INSERT INTO events (tenant_id, id, mode, type, subject_id, actor, data)"
        " SELECT $1, gen_random_uuid(), 'test', 'noted', n::text, 'test', '{}' FROM generate_series(1, 2100) n",
        tenant_id,
    )
    sealed = []
    while count := await seal_events(db):
        sealed.append(count)
    assert sealed == [1000, 1000, 100]
    found = await pages(db, tenant_id, size=300)
    assert [event.sequence for event in found] == list(range(1, 2107))
    verdict = await verify(db)
    assert (verdict.broken, verdict.links) == (None, 2106)


async def test_the_backlogs_of_many_tenants_are_sealed_in_steps(
    db: Database, database: TestDatabase, tenant_id: TenantId
) -> None:
    """All in one statement would outlast its time limit, again and again."""
    tenants = [tenant_id, await make_tenant(db, "second"), await make_tenant(db, "third")]
    await database.fetch(
        "INSERT INTO events (tenant_id, id, mode, type, subject_id, actor, data)"
        " SELECT t, gen_random_uuid(), 'test', 'noted', n::text, 'test', '{}'"
        " FROM unnest($1::uuid[]) t, generate_series(1, 800) n",
        tenants,
    )
    sealed = []
    while count := await seal_events(db):
        sealed.append(count)
    assert sum(sealed) == 3 * 800 + 2
    assert max(sealed) < 2 * events.MAX_BATCH
    assert len(sealed) == 2
    assert [verdict.broken for verdict in await verify_events(db)] == [None] * 3


@pytest.mark.parametrize(
    ("statement", "arguments"),
    [(events.LIST, "'{}', 'test', 500, NULL, NULL, 300, 1000"), (events.CHAIN, "'{}'")],
    ids=["page", "chain"],
)
async def test_a_long_chain_is_read_by_look_ups_before_there_are_statistics(
    database: TestDatabase, tenant_id: TenantId, statement: str, arguments: str
) -> None:
    """Planned for the few rows that an empty table promises, a join would compare all events with all."""
    await database.fetch("ALTER TABLE events SET (autovacuum_enabled = false)")
    await database.fetch("ALTER TABLE event_seals SET (autovacuum_enabled = false)")
    await database.fetch(
        "INSERT INTO events (tenant_id, id, mode, type, subject_id, actor, data)"
        " SELECT $1, gen_random_uuid(), 'test', 'noted', n::text, 'test', '{}' FROM generate_series(1, 1500) n",
        tenant_id,
    )
    while await database.value("SELECT seal_events(1000)"):
        pass
    for number, value in reversed(list(enumerate(arguments.format(tenant_id).split(", "), start=1))):
        statement = statement.replace(f"${number}", value)
    plan = await database.value(f"EXPLAIN (ANALYZE, FORMAT JSON) {statement}")
    compared_in_vain = sum(map(int, re.findall(r'"Rows Removed by (?:Join )?Filter": (\d+)', plan)))
    assert compared_in_vain < 2000, plan


# --- the hash -------------------------------------------------------------------------------------------------------


async def test_the_verifiers_hash_is_the_databases(db: Database, database: TestDatabase, tenant_id: TenantId) -> None:
    data: list[dict[str, Any]] = [
        {"text": 'Mwanjiwa, ø, 漢字, 🪙, \u2028, \\, "', "null": None, "deep": [{"b": 1, "a": [True, 1.50, 1e-7]}]},
        {"2": 1, "10": 2, "": ""},
        {},
    ]
    for number, each in enumerate(data):
        await database.fetch(
            "INSERT INTO events (tenant_id, id, mode, type, subject_id, actor, data, request_id, created_at)"
            " VALUES ($1, $2, $3, 'noted', $4, '', $5::jsonb, $6, $7::text::timestamptz)",
            tenant_id,
            new_id(),
            ("live", "test", None)[number],
            "",
            json.dumps(each),
            ("", None, "7:x-")[number],
            ("1969-12-31 23:59:59.999999Z", "2026-02-29 00:00:00Z".replace("29", "28"), "9999-12-31 23:59:59.000001Z")[
                number
            ],
        )
    assert await seal_events(db) == 3

    async with db.operator_transaction() as tx:
        links = [link async for link in events.chain(tx, tenant_id)]
    stored = await database.fetch(
        """
        SELECT event_hash(lag(u.hash, 1, ''::bytea) OVER (ORDER BY s.first_seq, u.n), s.first_seq + u.n - 1, e) AS hash
        FROM event_seals s CROSS JOIN LATERAL unnest(s.event_ids, s.hashes) WITH ORDINALITY AS u (id, hash, n)
        JOIN events e ON e.id = u.id AND e.tenant_id = s.tenant_id ORDER BY s.first_seq, u.n
        """
    )
    assert len(links) == 9
    previous = b""
    for link, row in zip(links, stored, strict=True):
        assert link.hash_after(previous) == link.stored_hash == row["hash"]
        previous = link.stored_hash


# --- dump and restore -----------------------------------------------------------------------------------------------


async def test_the_chain_goes_on_after_dump_and_restore(
    cluster: Cluster, database: TestDatabase, db: Database, tenant_id: TenantId
) -> None:
    await note_many(db, tenant_id, "waits for its seal")
    head = (await verify(db)).head
    name = f"kobiri_restored_{uuid.uuid4().hex[:12]}"
    restored = TestDatabase(cluster.address(name), cluster.address(name, LOGIN))
    await cluster.execute(f"CREATE DATABASE {name}")
    try:
        await asyncio.to_thread(copy_database, database.owner_dsn, restored.owner_dsn)
        other = await Database.open(restored.dsn, pool_size=2)
        try:
            assert (await verify(other, head)).broken is None
            await note_many(other, tenant_id, "after")
            assert await seal_events(other) == 2
            verdict = await verify(other, head)
            assert (verdict.broken, verdict.links) == (None, 8)
            await tamper(restored, "UPDATE events SET actor = 'x' WHERE subject_id = 'after'")
            assert str((await verify(other)).broken).startswith("link 8: ")
        finally:
            await other.close()
    finally:
        await cluster.execute(f"DROP DATABASE {name} WITH (FORCE)")


def copy_database(source: str, target: str) -> None:
    """By PostgreSQL's own tools, as an operator would."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    dump = subprocess.run(
        [embedded.bin_path("pg_dump"), "--no-password", "-d", source], capture_output=True, env=environment, check=False
    )
    if b"version mismatch" in dump.stderr:
        pytest.skip(f"pg_dump of the embedded PostgreSQL refuses this server: {dump.stderr.decode().strip()}")
    assert dump.returncode == 0, dump.stderr.decode()
    restore = subprocess.run(
        [embedded.bin_path("psql"), "-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", target],
        input=dump.stdout.replace(b"SET transaction_timeout = 0;\n", b""),  # PostgreSQL 15 and 16 do not know it
        capture_output=True,
        env=environment,
        check=False,
    )
    assert restore.returncode == 0, restore.stderr.decode()
