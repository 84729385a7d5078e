"""The checker behind test_catalogue.py: reads PostgreSQL's catalogue, returns every breach of the data design.

Exceptions are named here, each with its reason. An exception that is no longer needed is a breach too.
"""

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import TypeAlias

import asyncpg

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

ROLES = {"kobiri_api", "kobiri_worker", "kobiri_operator", "kobiri_claimer"}
LOGIN_MAY_BECOME = {"kobiri_api", "kobiri_worker", "kobiri_operator"}
SEES_ALL = {"kobiri_operator", "kobiri_claimer"}

NOT_TENANTS_DATA = {
    "alembic_version": "the number of the newest migration, and nothing else",
}

APPEND_ONLY = {"events", "event_seals", "ledger_entries"}

NOT_TENANT_LEADING = {
    "tenants_pkey": "the tenant itself: its id is the tenant id of all other tables",
    "tenants_slug": "a slug names one tenant of the whole installation",
    "api_keys_key_id": "API key id: a caller is looked up by it before the tenant is known",
    "payments_provider_reference": "provider reference: a callback is matched by it before the tenant is known",
    "attempts_provider_reference": "the same, for the roads of a payment that were left",
    "provider_accounts_callback_token": "an account's callback is matched by its path before the tenant is known",
    "payments_transaction": "a transaction id is one payment's, whosever: tenants share the platform's accounts",
    "payments_receipt": "the same, for the number that people see",
    "arrivals_transaction": "the same, for money in suspense",
    "arrivals_other_id": "the same, for the id by which another source knows that money",
    "proposals_accepted": "a statement's line settles one payment, whosever",
    "payments_due": "due work: a tenant-leading claim over 300,000 waiting rows took 12 ms, this one 0.08",
    "payments_final_due": "the same, for the questions about what is final",
    "attempts_due": "the same, for the questions about roads that were left",
    "idempotency_keys_expiry": "key expiry: the purge goes through all tenants",
    "alembic_version_pkc": "not a tenant's data",
}

# What must see across tenants, and the one role that may call it.
DEFINER_FUNCTIONS = {
    "authenticate_key(text)": "kobiri_api",
    "note_key_use(text[])": "kobiri_api",
    "match_callback(text,uuid)": "kobiri_api",
    "closed_providers()": "kobiri_api",
    "opened_providers()": "kobiri_api",
    "match_account(bytea)": "kobiri_api",
    "untold_reviews(integer)": "kobiri_worker",
    "hold_settled_transaction()": "kobiri_api",
    "hold_arrived_transaction()": "kobiri_api",
    "claim_payments(integer,double precision)": "kobiri_worker",
    "claim_final_payments(integer,double precision)": "kobiri_worker",
    "claim_attempts(integer,double precision)": "kobiri_worker",
    "seal_events(integer)": "kobiri_worker",
    "purge_idempotency_keys(integer)": "kobiri_worker",
    "purge_callbacks(interval,integer)": "kobiri_worker",
}
OWNER_OF_DEFINERS = "kobiri_claimer"
SEARCH_PATH = "search_path=pg_catalog, public, pg_temp"

READS_AND_WRITES = {"SELECT", "INSERT", "UPDATE", "DELETE"}

OURS = "nspname NOT IN ('pg_catalog', 'information_schema') AND nspname NOT LIKE 'pg\\_%'"


async def violations(connection: Connection, login: str) -> list[str]:
    """Everything that is wrong with the database of this superuser's connection and with the application's login."""
    async with _undone(connection):
        return sorted(
            [
                *await _names(connection),
                *await _kinds(connection),
                *await _walls(connection),
                *await _keys(connection),
                *await _columns(connection),
                *await _append_only(connection),
                *await _roles(connection),
                *await _login(connection, login),
                *await _grants(connection),
                *await _functions(connection),
            ]
        )


@asynccontextmanager
async def _undone(connection: Connection) -> AsyncIterator[None]:
    transaction = connection.transaction()
    await transaction.start()
    try:
        yield
    finally:
        await transaction.rollback()


async def _names(connection: Connection) -> list[str]:
    rows = await connection.fetch(
        f"""
        SELECT 'schema ' || nspname AS what, nspname AS name FROM pg_namespace WHERE {OURS} AND nspname <> 'public'
        UNION ALL
        SELECT 'relation ' || relname, relname FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace WHERE {OURS}
        UNION ALL
        SELECT 'column ' || relname || '.' || attname, attname FROM pg_attribute
        JOIN pg_class c ON c.oid = attrelid JOIN pg_namespace n ON n.oid = relnamespace
        WHERE {OURS} AND attnum > 0 AND NOT attisdropped AND relkind IN ('r', 'p', 'v')
        UNION ALL
        SELECT 'function ' || proname, proname FROM pg_proc p JOIN pg_namespace n ON n.oid = pronamespace WHERE {OURS}
        """
    )
    named = [f"{what}: not snake_case" for what, name in rows if not _is_snake_case(name)]
    elsewhere = [f"{what}: everything lives in the schema public" for what, _ in rows if what.startswith("schema ")]
    return named + elsewhere


def _is_snake_case(name: str) -> bool:
    return name == name.lower() and name.isascii() and name.replace("_", "a").isalnum() and not name[0].isdigit()


async def _kinds(connection: Connection) -> list[str]:
    """Views read as their owner unless told otherwise; materialised views and foreign tables know no row security."""
    found = []
    for name, kind, options in await connection.fetch(
        f"""
        SELECT relname, relkind::text, coalesce(reloptions, '{{}}') FROM pg_class c
        JOIN pg_namespace n ON n.oid = relnamespace WHERE {OURS} AND relkind IN ('v', 'm', 'f')
        """
    ):
        if kind == "v" and not {"security_invoker=true", "security_invoker=on"} & set(options):
            found.append(f"view {name}: without security_invoker it shows every tenant's rows")
        if kind in "mf":
            found.append(f"{name}: a materialised view or foreign table has no row security")
    rules = await connection.fetch("SELECT tablename, rulename FROM pg_rules WHERE schemaname = 'public'")
    return found + [f"{table}: rule {rule}; rules rewrite what row security checks" for table, rule in rules]


def _tenant_column(table: str) -> str:
    return "id" if table == "tenants" else "tenant_id"


async def _tables(connection: Connection) -> list[tuple[str, bool, bool]]:
    rows = await connection.fetch(
        f"""
        SELECT relname, relrowsecurity, relforcerowsecurity FROM pg_class c
        JOIN pg_namespace n ON n.oid = relnamespace WHERE {OURS} AND relkind IN ('r', 'p') ORDER BY relname
        """
    )
    return [tuple(row) for row in rows]


async def _walls(connection: Connection) -> list[str]:
    found = []
    tables = await _tables(connection)
    for name, enabled, forced in tables:
        if name in NOT_TENANTS_DATA:
            continue
        if not enabled:
            found.append(f"{name}: row security is not enabled")
        if not forced:
            found.append(f"{name}: row security is not forced")
        column = await connection.fetchrow(
            "SELECT format_type(atttypid, atttypmod), attnotnull FROM pg_attribute"
            " WHERE attrelid = quote_ident($1)::regclass AND attname = $2 AND NOT attisdropped",
            name,
            _tenant_column(name),
        )
        if column is None:
            found.append(f"{name}: no tenant_id")
        elif tuple(column) != ("uuid", True):
            found.append(f"{name}: tenant_id must be uuid NOT NULL, not {column[0]}")
        found += await _policies(connection, name)
    gone = set(NOT_TENANTS_DATA) - {name for name, _, _ in tables}
    return found + [f"{name}: named as no tenant's data, and not there" for name in sorted(gone)]


async def _policies(connection: Connection, table: str) -> list[str]:
    """One policy for the API, that of its tenant; one that sees all, for those two roles that must."""
    wall = await _wall_text(connection, _tenant_column(table))
    own, all_seeing, found = 0, set(), []
    for name, permissive, command, using, check, roles in await connection.fetch(
        """
        SELECT polname, polpermissive, polcmd::text, pg_get_expr(polqual, polrelid),
               pg_get_expr(polwithcheck, polrelid),
               ARRAY(SELECT CASE WHEN r = 0 THEN 'public' ELSE r::regrole::text END FROM unnest(polroles) r)
        FROM pg_policy WHERE polrelid = quote_ident($1)::regclass
        """,
        table,
    ):
        where = f"{table}: policy {name}"
        if not permissive or command != "*":
            found.append(f"{where} must be permissive and for all commands")
        if set(roles) == {"kobiri_api"}:
            own += 1
            if using != wall:
                found.append(f"{where}: USING is not the tenant's wall but {using}")
            if check != wall:
                found.append(f"{where}: WITH CHECK is not the tenant's wall but {check}")
        elif set(roles) <= SEES_ALL:
            all_seeing |= set(roles)
            if (using, check) != ("true", "true"):
                found.append(f"{where}: must see and write all rows")
        else:
            found.append(f"{where}: is for {', '.join(sorted(roles))}")
    if own != 1:
        found.append(f"{table}: {own} policies for kobiri_api where one is needed")
    return found + [f"{table}: no policy for {role}" for role in sorted(SEES_ALL - all_seeing)]


async def _wall_text(connection: Connection, column: str) -> str:
    """The wall as this version of PostgreSQL writes it."""
    name = f"wall_of_{column}"
    await connection.execute(
        f"CREATE TEMP TABLE IF NOT EXISTS {name} ({column} uuid) ON COMMIT DROP;"
        f"DROP POLICY IF EXISTS wall ON {name};"
        f"CREATE POLICY wall ON {name} USING"
        f" ({column} = (SELECT nullif(current_setting('app.tenant_id', true), '')::uuid))"
    )
    text: str = await connection.fetchval(
        "SELECT pg_get_expr(polqual, polrelid) FROM pg_policy WHERE polrelid = $1::text::regclass", f"pg_temp.{name}"
    )
    return text


async def _keys(connection: Connection) -> list[str]:
    """Primary, unique and foreign keys and all other indexes start with the tenant."""
    found, used = [], set()
    for table, index, first in await connection.fetch(
        f"""
        SELECT t.relname, i.relname, a.attname FROM pg_index x
        JOIN pg_class i ON i.oid = x.indexrelid JOIN pg_class t ON t.oid = x.indrelid
        JOIN pg_namespace n ON n.oid = t.relnamespace
        LEFT JOIN pg_attribute a ON a.attrelid = t.oid AND a.attnum = x.indkey[0]
        WHERE {OURS} AND t.relkind IN ('r', 'p')
        """
    ):
        if index in NOT_TENANT_LEADING:
            used.add(index)
        elif first != "tenant_id":
            found.append(f"{table}: index {index} starts with {first or 'an expression'}, not with tenant_id")
    for table, name, column, other, other_column in await connection.fetch(
        """
        SELECT t.relname, c.conname, a.attname, o.relname, b.attname FROM pg_constraint c
        JOIN pg_class t ON t.oid = c.conrelid JOIN pg_class o ON o.oid = c.confrelid
        JOIN pg_attribute a ON a.attrelid = t.oid AND a.attnum = c.conkey[1]
        JOIN pg_attribute b ON b.attrelid = o.oid AND b.attnum = c.confkey[1]
        WHERE c.contype = 'f'
        """
    ):
        if (column, other_column) != ("tenant_id", _tenant_column(other)):
            found.append(f"{table}: foreign key {name} starts with {column} -> {other}.{other_column}")
    keyless = await connection.fetch(
        f"""
        SELECT relname FROM pg_class t JOIN pg_namespace n ON n.oid = relnamespace
        WHERE {OURS} AND relkind IN ('r', 'p')
          AND NOT EXISTS (SELECT FROM pg_constraint c WHERE c.conrelid = t.oid AND c.contype = 'p')
        """
    )
    found += [f"{table}: no primary key" for (table,) in keyless]
    return found + [f"{index}: an exception that nothing needs" for index in sorted(set(NOT_TENANT_LEADING) - used)]


INEXACT = {"numeric", "money", "real", "double precision"}
MONEY_WORDS = {"amount", "price", "fee", "balance", "total", "refunded", "minor", "credit", "debit"}
TIMES = ("_at", "_before", "_until", "_since")
OTHER_TIMES = ("timestamp without time zone", "date", "time without time zone", "time with time zone")


async def _columns(connection: Connection) -> list[str]:
    """Money is bigint with a currency beside it, times are timestamptz."""
    found, with_money, with_currency = [], set(), set()
    for table, column, type_, not_null in await connection.fetch(
        f"""
        SELECT relname, attname, format_type(atttypid, atttypmod), attnotnull FROM pg_attribute
        JOIN pg_class c ON c.oid = attrelid JOIN pg_namespace n ON n.oid = relnamespace
        WHERE {OURS} AND relkind IN ('r', 'p') AND attnum > 0 AND NOT attisdropped
        """
    ):
        where = f"{table}.{column}"
        plain = type_.removesuffix("[]")
        if MONEY_WORDS & set(column.split("_")):
            with_money.add(table)
            if type_ != "bigint" or not column.endswith("_minor"):
                found.append(f"{where}: money is bigint and named *_minor, this is {type_}")
        if plain.split("(")[0] in INEXACT:
            found.append(f"{where}: {type_} is no type for money, and nothing else here is a fraction")
        if column == "currency":
            with_currency.add(table)
            if (type_, not_null) != ("character(3)", True):
                found.append(f"{where}: must be char(3) NOT NULL, not {type_}")
        if plain.startswith(OTHER_TIMES) or (
            column.endswith(TIMES) and type_ not in ("timestamp with time zone", "boolean")
        ):
            found.append(f"{where}: times are timestamptz, this is {type_}")
    return found + [f"{table}: money without a currency" for table in sorted(with_money - with_currency)]


async def _append_only(connection: Connection) -> list[str]:
    found = []
    for table in sorted(APPEND_ONLY):
        guarded: bool = await connection.fetchval(
            """
            SELECT EXISTS (
                SELECT FROM pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid
                WHERE t.tgrelid = to_regclass($1) AND t.tgenabled IN ('O', 'A') AND p.proname = 'refuse_change'
                  AND t.tgtype & 2 = 2 AND t.tgtype & 56 = 56 AND t.tgqual IS NULL
            )
            """,
            table,
        )
        if not guarded:
            found.append(f"{table}: no trigger refuses UPDATE, DELETE and TRUNCATE")
    asleep = await connection.fetch(
        "SELECT tgrelid::regclass::text, tgname FROM pg_trigger WHERE tgenabled = 'D' AND NOT tgisinternal"
    )
    return found + [f"{table}: trigger {name} is switched off" for table, name in asleep]


ROLE_POWERS = "rolcanlogin, rolsuper, rolbypassrls, rolcreaterole, rolcreatedb, rolreplication"


async def _roles(connection: Connection) -> list[str]:
    found = []
    for role in sorted(ROLES):
        powers = await connection.fetchrow(f"SELECT {ROLE_POWERS} FROM pg_roles WHERE rolname = $1", role)
        if powers is None:
            found.append(f"role {role}: is not there")
            continue
        found += [f"role {role}: has {power}" for power, has in powers.items() if has]
        member_of = await connection.fetch(
            "SELECT roleid::regrole::text FROM pg_auth_members WHERE member = $1::text::regrole", role
        )
        found += [f"role {role}: is a member of {name}" for (name,) in member_of]
        definers = set(DEFINER_FUNCTIONS) if role == OWNER_OF_DEFINERS else set()
        found += [f"role {role}: owns {what}" for what in await _owned(connection, role) if what not in definers]
    return found


async def _owned(connection: Connection, role: str) -> list[str]:
    rows = await connection.fetch(
        """
        SELECT CASE WHEN classid = 'pg_proc'::regclass THEN objid::regprocedure::text
                    ELSE pg_describe_object(classid, objid, objsubid) END
        FROM pg_shdepend WHERE deptype = 'o' AND refclassid = 'pg_authid'::regclass
          AND refobjid = $1::text::regrole
          AND dbid IN (0, (SELECT oid FROM pg_database WHERE datname = current_database()))
        """,
        role,
    )
    return [row[0] for row in rows]


async def _login(connection: Connection, login: str) -> list[str]:
    where = f"login {login}"
    powers = await connection.fetchrow(f"SELECT {ROLE_POWERS}, rolinherit FROM pg_roles WHERE rolname = $1", login)
    if powers is None:
        return [f"{where}: is not there"]
    found = [f"{where}: has {power}" for power, has in powers.items() if has and power != "rolcanlogin"]
    found += [f"{where}: owns {what}" for what in await _owned(connection, login)]
    found += [
        f"{where}: has a right of its own on {row[0]}"
        for row in await connection.fetch(
            """
            SELECT pg_describe_object(classid, objid, objsubid) FROM pg_shdepend
            WHERE deptype IN ('a', 'r') AND refclassid = 'pg_authid'::regclass AND refobjid = $1::text::regrole
              AND classid <> 'pg_auth_members'::regclass
              AND dbid IN (0, (SELECT oid FROM pg_database WHERE datname = current_database()))
            """,
            login,
        )
    ]
    memberships = await connection.fetch(
        # PostgreSQL 15 has no inherit_option: there the role's own NOINHERIT decides.
        "SELECT roleid::regrole::text, admin_option, coalesce((to_jsonb(m) ->> 'inherit_option')::boolean, false)"
        " FROM pg_auth_members m WHERE member = $1::text::regrole",
        login,
    )
    roles = {role for role, _, _ in memberships}
    found += [f"{where}: may become {role}" for role in sorted(roles - LOGIN_MAY_BECOME)]
    found += [f"{where}: may not become {role}" for role in sorted(LOGIN_MAY_BECOME - roles)]
    found += [f"{where}: may give {role} away" for role, admin, _ in memberships if admin]
    return found + [f"{where}: inherits {role}" for role, _, inherits in memberships if inherits]


async def _grants(connection: Connection) -> list[str]:
    found = []
    for table, column, owner, grantee, privilege in await connection.fetch(
        f"""
        SELECT relname, NULL::name, relowner::regrole::text,
               CASE WHEN a.grantee = 0 THEN 'public' ELSE a.grantee::regrole::text END, a.privilege_type
        FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace, aclexplode(relacl) a
        WHERE {OURS} AND relkind IN ('r', 'p', 'v', 'm', 'f', 'S')
        UNION ALL
        SELECT relname, attname, relowner::regrole::text,
               CASE WHEN a.grantee = 0 THEN 'public' ELSE a.grantee::regrole::text END, a.privilege_type
        FROM pg_attribute JOIN pg_class c ON c.oid = attrelid JOIN pg_namespace n ON n.oid = relnamespace,
             aclexplode(attacl) a
        WHERE {OURS} AND NOT attisdropped
        """
    ):
        if grantee == owner:
            continue
        where = f"{table}{f'.{column}' if column else ''}: {grantee}"
        if grantee not in ROLES or grantee == "kobiri_worker":
            found.append(f"{where} has {privilege} on it")
        elif privilege not in READS_AND_WRITES:
            found.append(f"{where} may {privilege} it")
        elif privilege == "DELETE" and grantee != OWNER_OF_DEFINERS:
            found.append(f"{where} may DELETE from it")
        elif privilege in ("UPDATE", "DELETE") and table in APPEND_ONLY:
            found.append(f"{where} may {privilege} what is append-only")
    for role in sorted(ROLES):
        creates = await connection.fetchval("SELECT has_schema_privilege($1, 'public', 'CREATE')", role)
        found += [f"schema public: {role} may CREATE in it"] * creates
    defaults = await connection.fetch(
        "SELECT pg_describe_object('pg_default_acl'::regclass, oid, 0) FROM pg_default_acl"
    )
    return found + [f"{row[0]}: what is granted is written at each table" for row in defaults]


async def _functions(connection: Connection) -> list[str]:
    found, definers = [], set()
    for name, definer, owner, config, source, callers in await connection.fetch(
        f"""
        SELECT p.oid::regprocedure::text, prosecdef, proowner::regrole::text, coalesce(proconfig, '{{}}'),
               coalesce(pg_get_function_sqlbody(p.oid), prosrc),
               ARRAY(SELECT CASE WHEN a.grantee = 0 THEN 'public' ELSE a.grantee::regrole::text END
                     FROM aclexplode(coalesce(proacl, acldefault('f', proowner))) a)
        FROM pg_proc p JOIN pg_namespace n ON n.oid = pronamespace
        WHERE {OURS} AND prokind IN ('f', 'p') AND NOT EXISTS (
            SELECT FROM pg_depend d WHERE d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e')
        """
    ):
        where = f"function {name}"
        if "public" in callers:
            found.append(f"{where}: not revoked from PUBLIC")
        if SEARCH_PATH not in config:
            found.append(f"{where}: no fixed search_path")
        if "notify" in source.lower():
            found.append(f"{where}: NOTIFY takes a lock of the whole cluster at commit")
        if not definer:
            continue
        definers.add(name)
        if name not in DEFINER_FUNCTIONS:
            found.append(f"{where}: sees across tenants and is not on the list")
        elif set(callers) - {OWNER_OF_DEFINERS, "public"} != {DEFINER_FUNCTIONS[name]}:
            found.append(f"{where}: may be called by {', '.join(sorted(callers))}")
        if owner != OWNER_OF_DEFINERS:
            found.append(f"{where}: SECURITY DEFINER, and owned by {owner}")
    return found + [f"function {name}: on the list, and not there" for name in _missing(definers)]


def _missing(definers: Iterable[str]) -> list[str]:
    return sorted(set(DEFINER_FUNCTIONS) - set(definers))
