"""The database keeps every sentence of the data design, and whoever breaks one is told which."""

import asyncio
import uuid

import asyncpg
import pytest

from kobiri.store.migrations import run as migrations
from tests.conftest import LOGIN, Cluster, TestDatabase
from tests.structure.catalogue import violations

pytestmark = pytest.mark.usefixtures("alone_with_roles")

WALL = "(SELECT nullif(current_setting('app.tenant_id', true), '')::uuid)"


def table(name: str, columns: str = "", *, key: str = "tenant_id, id") -> str:
    """A faultless tenant table, for the cases below to spoil in one point."""
    return f"""
    CREATE TABLE {name} (tenant_id uuid NOT NULL, id uuid NOT NULL {columns}, PRIMARY KEY ({key}));
    ALTER TABLE {name} ENABLE ROW LEVEL SECURITY;
    ALTER TABLE {name} FORCE ROW LEVEL SECURITY;
    CREATE POLICY own_tenant ON {name} TO kobiri_api USING (tenant_id = {WALL}) WITH CHECK (tenant_id = {WALL});
    CREATE POLICY all_tenants ON {name} TO kobiri_operator, kobiri_claimer USING (true) WITH CHECK (true);
    GRANT SELECT, INSERT, UPDATE ON {name} TO kobiri_api;
    """


def function(body: str = "SELECT 1", options: str = "SET search_path = pg_catalog, public, pg_temp") -> str:
    """A faultless helper function."""
    return (
        f"CREATE FUNCTION helper() RETURNS integer LANGUAGE sql {options} AS $$ {body} $$;"
        "REVOKE ALL ON FUNCTION helper() FROM PUBLIC;"
    )


FAULTLESS = [
    table("refunds", ", amount_minor bigint NOT NULL, currency char(3) NOT NULL, made_at timestamptz"),
    "CREATE INDEX payments_by_status ON payments (tenant_id, status)",
    "CREATE VIEW totals WITH (security_invoker = true) AS SELECT tenant_id, count(*) FROM payments GROUP BY 1",
    function(),
]

BROKEN = {
    "a table with no wall at all": (
        "CREATE TABLE refunds (tenant_id uuid NOT NULL, id uuid NOT NULL, PRIMARY KEY (tenant_id, id))",
        [
            "refunds: row security is not enabled",
            "refunds: row security is not forced",
            "refunds: 0 policies for kobiri_api where one is needed",
            "refunds: no policy for kobiri_operator",
            "refunds: no policy for kobiri_claimer",
        ],
    ),
    "row security not enabled": (
        "ALTER TABLE payments DISABLE ROW LEVEL SECURITY",
        ["payments: row security is not enabled"],
    ),
    "row security not forced": (
        "ALTER TABLE payments NO FORCE ROW LEVEL SECURITY",
        ["payments: row security is not forced"],
    ),
    "a table of no tenant": (
        table("rates").replace("tenant_id uuid NOT NULL,", "owner uuid NOT NULL,").replace("tenant_id", "owner"),
        ["rates: no tenant_id", "rates: index rates_pkey starts with owner", "rates: policy own_tenant: USING"],
    ),
    "a tenant that may be NULL": (
        "ALTER TABLE callbacks DROP CONSTRAINT callbacks_pkey, ALTER tenant_id DROP NOT NULL",
        ["callbacks: tenant_id must be uuid NOT NULL", "callbacks: no primary key"],
    ),
    "a wall without WITH CHECK": (
        "ALTER POLICY own_tenant ON events WITH CHECK (true)",
        ["events: policy own_tenant: WITH CHECK is not the tenant's wall"],
    ),
    "a wall that is open while no tenant is set": (
        f"ALTER POLICY own_tenant ON events USING (tenant_id = {WALL} OR {WALL} IS NULL)",
        ["events: policy own_tenant: USING is not the tenant's wall"],
    ),
    "a second policy that opens the wall": (
        "CREATE POLICY also ON payments TO kobiri_api USING (true)",
        ["payments: 2 policies for kobiri_api", "payments: policy also: USING is not the tenant's wall but true"],
    ),
    "a policy for everybody": (
        "CREATE POLICY anybody ON payments FOR SELECT USING (true)",
        ["payments: policy anybody: is for public", "payments: policy anybody must be permissive"],
    ),
    "a worker that sees rows": (
        "CREATE POLICY work ON payments TO kobiri_worker USING (true); GRANT SELECT ON payments TO kobiri_worker",
        ["payments: policy work: is for kobiri_worker", "payments: kobiri_worker has SELECT on it"],
    ),
    "a primary key without the tenant in front": (
        table("refunds", key="id, tenant_id"),
        ["refunds: index refunds_pkey starts with id"],
    ),
    "uniqueness across tenants": (
        "CREATE UNIQUE INDEX payments_unique_reference ON payments (reference)",
        ["payments: index payments_unique_reference starts with reference"],
    ),
    "an index across tenants": (
        "CREATE INDEX payments_by_payer ON payments (payer, tenant_id)",
        ["payments: index payments_by_payer starts with payer"],
    ),
    "an index on an expression": (
        "CREATE INDEX payments_lower ON payments (lower(reference))",
        ["payments: index payments_lower starts with an expression"],
    ),
    "a foreign key that can lead to another tenant": (
        table("refunds", ", parent_id uuid")
        + "ALTER TABLE tenants ADD CONSTRAINT pair UNIQUE (id);"
        + "ALTER TABLE refunds ADD CONSTRAINT parent FOREIGN KEY (parent_id) REFERENCES tenants (id)",
        ["refunds: foreign key parent starts with parent_id -> tenants.id"],
    ),
    "a foreign key with the tenant behind": (
        table("refunds", ", payment_id uuid")
        + "CREATE UNIQUE INDEX turned ON payments (id, tenant_id);"
        + "ALTER TABLE refunds ADD CONSTRAINT parent"
        + " FOREIGN KEY (payment_id, tenant_id) REFERENCES payments (id, tenant_id)",
        ["refunds: foreign key parent starts with payment_id -> payments.id", "payments: index turned starts with id"],
    ),
    "a named exception that is gone": (
        "DROP INDEX payments_due",
        ["payments_due: an exception that nothing needs"],
    ),
    "money as numeric": (
        table("refunds", ", amount numeric(12, 2), currency char(3) NOT NULL"),
        ["refunds.amount: money is bigint", "refunds.amount: numeric(12,2) is no type for money"],
    ),
    "money as integer": (
        table("refunds", ", fee_minor integer, currency char(3) NOT NULL"),
        ["refunds.fee_minor: money is bigint and named *_minor, this is integer"],
    ),
    "money without a currency": (
        table("refunds", ", amount_minor bigint"),
        ["refunds: money without a currency"],
    ),
    "a currency as text": (
        table("refunds", ", amount_minor bigint, currency text NOT NULL"),
        ["refunds.currency: must be char(3) NOT NULL, not text"],
    ),
    "a time without a zone": (
        table("refunds", ", made_at timestamp"),
        ["refunds.made_at: times are timestamptz, this is timestamp without time zone"],
    ),
    "a time as a number": (
        table("refunds", ", made_at bigint"),
        ["refunds.made_at: times are timestamptz, this is bigint"],
    ),
    "a day": (table("refunds", ", due date"), ["refunds.due: times are timestamptz, this is date"]),
    "a name in capitals": (
        table('"Refunds"'),
        ["relation Refunds: not snake_case", "relation Refunds_pkey: not snake_case"],
    ),
    "another schema": ("CREATE SCHEMA reports", ["schema reports: everything lives in the schema public"]),
    "a role that may log in": ("ALTER ROLE kobiri_worker LOGIN", ["role kobiri_worker: has rolcanlogin"]),
    "a role past the walls": ("ALTER ROLE kobiri_claimer BYPASSRLS", ["role kobiri_claimer: has rolbypassrls"]),
    "a superuser": ("ALTER ROLE kobiri_operator SUPERUSER", ["role kobiri_operator: has rolsuper"]),
    "a role that owns a table": (
        "ALTER TABLE callbacks OWNER TO kobiri_api",
        ["role kobiri_api: owns table callbacks"],
    ),
    "a claimer that owns more than its functions": (
        "ALTER FUNCTION sealed_field(text) OWNER TO kobiri_claimer",
        ["role kobiri_claimer: owns sealed_field(text)"],
    ),
    "a role within a role": (
        "GRANT kobiri_operator TO kobiri_api",
        ["role kobiri_api: is a member of kobiri_operator"],
    ),
    "a login that inherits": (f"ALTER ROLE {LOGIN} INHERIT", [f"login {LOGIN}: has rolinherit"]),
    "a login past the walls": (f"ALTER ROLE {LOGIN} BYPASSRLS", [f"login {LOGIN}: has rolbypassrls"]),
    "a login that may become the claimer": (
        f"GRANT kobiri_claimer TO {LOGIN}",
        [f"login {LOGIN}: may become kobiri_claimer"],
    ),
    "a login that cannot become the worker": (
        f"REVOKE kobiri_worker FROM {LOGIN}",
        [f"login {LOGIN}: may not become kobiri_worker"],
    ),
    "a login that gives roles away": (
        f"GRANT kobiri_api TO {LOGIN} WITH ADMIN OPTION",
        [f"login {LOGIN}: may give kobiri_api away"],
    ),
    "a login that owns": (
        f"CREATE SEQUENCE mine; ALTER SEQUENCE mine OWNER TO {LOGIN}",
        [f"login {LOGIN}: owns sequence mine"],
    ),
    "a login with a right of its own": (
        f"GRANT SELECT ON payments TO {LOGIN}",
        [f"login {LOGIN}: has a right of its own on table payments", f"payments: {LOGIN} has SELECT on it"],
    ),
    "everybody's table": ("GRANT SELECT ON events TO PUBLIC", ["events: public has SELECT on it"]),
    "TRUNCATE": ("GRANT TRUNCATE ON payments TO kobiri_api", ["payments: kobiri_api may TRUNCATE it"]),
    "DELETE": ("GRANT DELETE ON payments TO kobiri_api", ["payments: kobiri_api may DELETE from it"]),
    "DELETE by the operator": (
        "GRANT DELETE ON payments TO kobiri_operator",
        ["payments: kobiri_operator may DELETE from it"],
    ),
    "one column of the audit log": (
        "GRANT UPDATE (data) ON events TO kobiri_api",
        ["events.data: kobiri_api may UPDATE what is append-only"],
    ),
    "a role that creates": (
        "GRANT CREATE ON SCHEMA public TO kobiri_claimer",
        ["schema public: kobiri_claimer may CREATE in it"],
    ),
    "grants by default": (
        "ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT SELECT ON TABLES TO kobiri_api",
        ["what is granted is written at each table"],
    ),
    "the ledger's guard gone": (
        "DROP TRIGGER append_only ON ledger_entries",
        ["ledger_entries: no trigger refuses UPDATE, DELETE and TRUNCATE"],
    ),
    "the log's guard asleep": (
        "ALTER TABLE events DISABLE TRIGGER append_only",
        ["events: no trigger refuses", "events: trigger append_only is switched off"],
    ),
    "a guard that lets TRUNCATE through": (
        """
        DROP TRIGGER append_only ON events;
        CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON events
            FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
        """,
        ["events: no trigger refuses"],
    ),
    "an unnamed definer function": (
        function(options="SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp"),
        ["function helper(): sees across tenants and is not on the list", "function helper(): SECURITY DEFINER, and"],
    ),
    "an overloaded definer function": (
        """
        CREATE FUNCTION seal_events(a integer, b integer) RETURNS integer LANGUAGE sql SECURITY DEFINER
            SET search_path = pg_catalog, public, pg_temp AS 'SELECT 1';
        REVOKE ALL ON FUNCTION seal_events(integer, integer) FROM PUBLIC;
        """,
        ["function seal_events(integer,integer): sees across tenants and is not on the list"],
    ),
    "a definer function without its rights": (
        "ALTER FUNCTION seal_events(integer) SECURITY INVOKER",
        ["function seal_events(integer): on the list, and not there"],
    ),
    "a definer function of the superuser": (
        "ALTER FUNCTION seal_events(integer) OWNER TO CURRENT_USER",
        ["function seal_events(integer): SECURITY DEFINER, and owned by "],
    ),
    "a definer function for the wrong role": (
        "GRANT EXECUTE ON FUNCTION claim_payments(integer, double precision) TO kobiri_api",
        ["function claim_payments(integer,double precision): may be called by"],
    ),
    "a definer function for everybody": (
        "GRANT EXECUTE ON FUNCTION match_callback(text, uuid) TO PUBLIC",
        ["function match_callback(text,uuid): not revoked from PUBLIC"],
    ),
    "a new function, callable by everybody": (
        function().split("REVOKE", maxsplit=1)[0],
        ["function helper(): not revoked from PUBLIC"],
    ),
    "a function with a movable search_path": (function(options=""), ["function helper(): no fixed search_path"]),
    "a search_path with the temporary schema in front": (
        "ALTER FUNCTION seal_events(integer) SET search_path = pg_temp, public",
        ["function seal_events(integer): no fixed search_path"],
    ),
    "NOTIFY": (function("SELECT pg_notify('due', '') IS NULL; SELECT 1"), ["function helper(): NOTIFY takes a lock"]),
    "a view that shows all": (
        "CREATE VIEW totals AS SELECT tenant_id, count(*) FROM payments GROUP BY 1",
        ["view totals: without security_invoker it shows every tenant's rows"],
    ),
    "a materialised view": (
        "CREATE MATERIALIZED VIEW totals AS SELECT tenant_id, count(*) FROM payments GROUP BY 1",
        ["totals: a materialised view or foreign table has no row security"],
    ),
    "a rule": (
        "CREATE RULE quiet AS ON DELETE TO payments DO INSTEAD NOTHING",
        ["payments: rule quiet; rules rewrite what row security checks"],
    ),
}


async def found_after(database: TestDatabase, sql: str) -> list[str]:
    """The breaches once `sql` has run; nothing of it stays."""
    connection = await asyncpg.connect(database.owner_dsn)
    try:
        transaction = connection.transaction()
        await transaction.start()
        await connection.execute(sql)
        found = await violations(connection, LOGIN)
        await transaction.rollback()
        return found
    finally:
        await connection.close()


async def test_the_migrated_database_keeps_every_rule(database: TestDatabase) -> None:
    assert await found_after(database, "SELECT 1") == []


async def test_the_embedded_databases_login_keeps_them_too(cluster: Cluster, database: TestDatabase) -> None:
    login = f"kobiri_embedded_{uuid.uuid4().hex[:8]}"
    await asyncio.to_thread(migrations.migrate, database.owner_dsn, login, create_login=True)
    connection = await asyncpg.connect(database.owner_dsn)
    try:
        assert await violations(connection, login) == []
    finally:
        await connection.execute(f"DROP ROLE {login}")
        await connection.close()


async def test_what_breaks_no_rule_is_let_through(database: TestDatabase) -> None:
    assert await found_after(database, ";".join(FAULTLESS)) == []


async def test_what_breaks_a_rule_is_named(database: TestDatabase) -> None:
    for case, (sql, expected) in BROKEN.items():
        found = await found_after(database, sql)
        missed = [text for text in expected if not any(text in line for line in found)]
        assert not missed, f"{case}: not found {missed} among {found}"


@pytest.mark.parametrize("case", ["uniqueness across tenants", "a view that shows all", "TRUNCATE"])
async def test_a_breach_is_the_only_thing_found(database: TestDatabase, case: str) -> None:
    sql, expected = BROKEN[case]
    assert len(await found_after(database, sql)) == len(expected)
