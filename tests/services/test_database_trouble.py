"""PostgreSQL refuses what is no fault of ours: a full disk, a demoted primary, an error of its own."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest
import structlog
from structlog.testing import capture_logs

from kobiri import app as kobiri_app
from kobiri.domain.errors import DatabaseUnavailable
from kobiri.services import housekeeping
from tests.api.steps import PAYMENTS, callback, eventually, gateway, post_callback, problem, read, stored, until, work
from tests.conftest import Api, ApiFactory, Simulator

SQLSTATES = ("53100", "53200", "25006", "XX000", "58030", "57P01")
ZAMTEL_PAYER = "260951234567"


@asynccontextmanager
async def refusing(api: Api, table: str, what: str, sqlstate: str) -> AsyncIterator[None]:
    """The database answers like this to a kind of statement, as a full disk would: on some and not on others."""
    await api.database.fetch(
        "CREATE OR REPLACE FUNCTION raise_it() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN RAISE EXCEPTION 'trouble' USING ERRCODE = TG_ARGV[0]; END $$"
    )
    await api.database.fetch(
        f"CREATE TRIGGER trouble BEFORE {what} ON {table} FOR EACH STATEMENT EXECUTE FUNCTION raise_it('{sqlstate}')"
    )
    yield
    await api.database.fetch(f"DROP TRIGGER trouble ON {table}")


@pytest.fixture(autouse=True)
def no_defects() -> Iterator[None]:
    """What was logged as a defect: none of this is one."""
    with capture_logs() as lines:
        yield
    assert not [line for line in lines if line["log_level"] in ("error", "critical")]


async def test_what_cannot_be_stored_is_answered_503_and_charges_nobody(api: Api, simulator: Simulator) -> None:
    assert (await api.pay()).status_code == 201
    before = await stored(api.database), len(await simulator.requests())
    for sqlstate in SQLSTATES:
        async with refusing(api, "payments", "INSERT", sqlstate):
            answer = await api.pay(sqlstate)
            assert problem(answer, 503, "database_unavailable")["retryable"], sqlstate
            assert answer.headers["retry-after"] == "1", sqlstate
            assert (await api.client.get(PAYMENTS)).status_code == 200
    assert (await stored(api.database), len(await simulator.requests())) == before
    for sqlstate in SQLSTATES:
        assert (await api.pay(sqlstate)).status_code == 201


@pytest.mark.parametrize("sqlstate", SQLSTATES)
async def test_an_outcome_that_cannot_be_stored_is_asked_for_again(
    api: Api, simulator: Simulator, sqlstate: str
) -> None:
    async with refusing(api, "payments", "UPDATE", sqlstate):
        answer = await api.pay("k")
        problem(answer, 503, "database_unavailable")
        assert await stored(api.database) == (1, 1)
    payment_id = str(await api.database.value("SELECT id FROM payments"))
    await api.database.fetch("UPDATE payments SET next_run_at = now()")  # its lease ends
    done = await until(api, payment_id, "SUCCESSFUL")
    assert sum(m["charged"] for m in await simulator.movements(done["provider_reference"])) == 1
    assert (await api.pay("k")).status_code == 201


@pytest.mark.parametrize("sqlstate", SQLSTATES)
async def test_a_word_that_is_said_once_outlasts_it(make_api: ApiFactory, simulator: Simulator, sqlstate: str) -> None:
    """Zamtel cannot be asked: what it answers while nothing can be written is written when it can."""
    zamtel: dict[str, Any] = {
        name.lower(): value
        for name, value in kobiri_app.simulated_environment(simulator.url).items()
        if name.startswith("ZAMTEL_")
    }
    api = await make_api(**zamtel, zamtel_timeout_seconds=1, zamtel_deadline_seconds=4)
    await simulator.client.patch("/_sim/settings/zamtel", json={"prompt_ms": 100})
    async with refusing(api, "payments", "UPDATE", sqlstate):
        answer = await api.pay(payer=ZAMTEL_PAYER)
        assert (answer.status_code, answer.json()["status"]) == (202, "PENDING")
        assert gateway(api).calls.running == 1, "the word is held on to"

    async def settled() -> bool:
        return bool((await read(api, answer.json()["id"]))["status"] == "SUCCESSFUL")

    await eventually(settled)


async def test_a_callback_that_cannot_be_kept_is_to_be_posted_again(make_api: ApiFactory) -> None:
    api = await make_api(mtn_webhook_secret="a secret that MTN's callbacks are signed with")
    payment = (await api.pay()).json()
    for sqlstate in SQLSTATES:
        async with refusing(api, "callbacks", "INSERT", sqlstate):
            answer = await post_callback(api, callback(payment))
            problem(answer, 503, "database_unavailable")
            assert answer.headers["retry-after"] == "1"
    assert (await post_callback(api, callback(payment))).status_code == 200


async def test_the_worker_takes_up_what_it_could_not_claim(api: Api) -> None:
    payment = (await api.pay(headers={"prefer": "respond-async"})).json()
    async with refusing(api, "payments", "UPDATE", "53100"):
        with pytest.raises(DatabaseUnavailable):
            await work(api)
    assert (await until(api, payment["id"], "SUCCESSFUL"))["id"] == payment["id"]


async def test_that_a_key_was_used_is_noted_later(api: Api) -> None:
    """Neither a locked row nor a full disk ends the duty."""
    access = api.app.state.api.access
    await api.pay()
    async with refusing(api, "api_keys", "UPDATE", "53100"):
        await access.note_use()
    holder = await asyncpg.connect(api.database.owner_dsn)
    await holder.execute("BEGIN; UPDATE api_keys SET name = name")
    await access.note_use()
    await holder.close()
    assert await api.database.value("SELECT last_used_at FROM api_keys") is None
    await access.note_use()
    assert await api.database.value("SELECT last_used_at FROM api_keys")


async def test_a_defect_does_not_end_that_duty_either(api: Api) -> None:
    access = api.app.state.api.access
    await api.pay()
    async with refusing(api, "api_keys", "UPDATE", "22000"):
        with capture_logs() as lines:
            await access.note_use()
    assert [line["event"] for line in lines] == ["access.note_use_crashed"]
    await access.note_use()
    assert await api.database.value("SELECT last_used_at FROM api_keys")


async def test_columns_that_a_migration_adds_disturb_nobody(api: Api) -> None:
    """Statements that were prepared before go on: not one request of a running process fails."""
    first = (await api.pay("first")).json()
    done = await until(api, first["id"], "SUCCESSFUL")
    paths = (PAYMENTS, f"{PAYMENTS}/{first['id']}", "/api/v1/events", "/api/v1/transactions", "/api/v1/providers")

    async def all_work(key: str) -> None:
        for path in paths:
            assert (await api.client.get(path)).status_code == 200, path
        assert (await api.pay("first")).content == (await api.pay("first")).content
        made = (await api.pay(key, headers={"prefer": "respond-async"})).json()
        await until(api, made["id"], "SUCCESSFUL")
        await housekeeping.seal_events(gateway(api).db)

    for n in range(5):  # a plan is kept from the fifth time on
        await all_work(f"before-{n}")
    tables = await api.database.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
    for (table,) in tables:
        await api.database.fetch(f"ALTER TABLE {table} ADD COLUMN added_later text")
    for n in range(10):
        await all_work(f"after-{n}")
    assert (await read(api, first["id"])) == done


async def test_a_defects_traceback_tells_nothing_of_a_payment(api: Api) -> None:
    """The API's 500 and the worker's: by code, without the description, the metadata, the reference."""
    canary = "canary-school-fees-77120"
    words: dict[str, Any] = {"description": canary, "reference": canary, "metadata": {"note": canary}}
    waiting = (await api.pay(headers={"prefer": "respond-async"}, **words)).json()
    raising = "CREATE FUNCTION quote_it() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
    raising += " RAISE EXCEPTION 'Failing row %', NEW USING ERRCODE = '22023', DETAIL = NEW.description; END $$"
    await api.database.fetch(raising)
    await api.database.fetch(
        "CREATE TRIGGER t BEFORE INSERT OR UPDATE ON payments FOR EACH ROW WHEN (NEW.description IS NOT NULL)"
        " EXECUTE FUNCTION quote_it()"
    )
    with capture_logs([structlog.processors.format_exc_info]) as lines:
        assert (await api.pay(**words | {"reference": "other"})).status_code == 500
        with pytest.raises(asyncpg.DataError) as raised:
            await work(api)
        structlog.get_logger("kobiri").error("worker.crashed", exc_info=raised.value)
    told = [line for line in lines if line["log_level"] == "error"]
    assert [line["event"] for line in told] == ["request.crashed", "worker.crashed"]
    assert all("22023" in line["exception"] for line in told), told
    assert canary not in str(lines)
    assert waiting["id"]
