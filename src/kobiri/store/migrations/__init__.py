"""Alembic migrations with plain SQL inside. SQLAlchemy and Alembic are imported in this folder alone."""

from alembic import op
from sqlalchemy.util import await_only


def run_sql(sql: str) -> None:
    """Run one or more statements inside the migration's transaction.

    SQLAlchemy would prepare the text, and PostgreSQL prepares one statement at a time: so it goes to the driver.
    """
    connection = op.get_bind()
    connection.exec_driver_sql("SELECT 1")  # SQLAlchemy opens the transaction with its first own statement
    driver = connection.connection.driver_connection
    assert driver is not None
    await_only(driver.execute(sql))


# The tenant of the transaction, or NULL (then no row is visible): after a commit the setting is '' and not NULL.
# Wrapped in a sub-select so that it is evaluated once per statement and not once per row.
THIS_TENANT = "(SELECT nullif(current_setting('app.tenant_id', true), '')::uuid)"


def walls(table: str) -> str:
    """Row-level security of one tenant table."""
    return f"""
    ALTER TABLE {table} ENABLE ROW LEVEL SECURITY;
    ALTER TABLE {table} FORCE ROW LEVEL SECURITY;
    CREATE POLICY own_tenant ON {table} TO kobiri_api
        USING (tenant_id = {THIS_TENANT}) WITH CHECK (tenant_id = {THIS_TENANT});
    CREATE POLICY all_tenants ON {table} TO kobiri_operator, kobiri_claimer USING (true) WITH CHECK (true);
    """


def dropped(*functions: str) -> str:
    """Definer functions are their owner's: he is lent for the time it takes."""
    lines = ["GRANT kobiri_claimer TO CURRENT_USER;"]
    lines += [f"DROP FUNCTION {function};" for function in functions]
    return "\n".join([*lines, "REVOKE kobiri_claimer FROM CURRENT_USER;"])


def owned_by_claimer(functions: dict[str, str]) -> str:
    """Hand definer functions to their owner, who may create nothing afterwards, and grant each to its caller."""
    lines = ["GRANT kobiri_claimer TO CURRENT_USER;", "GRANT CREATE ON SCHEMA public TO kobiri_claimer;"]
    for function, caller in functions.items():
        lines += [
            f"GRANT EXECUTE ON FUNCTION {function} TO {caller};",
            f"ALTER FUNCTION {function} OWNER TO kobiri_claimer;",
        ]
    lines += ["REVOKE CREATE ON SCHEMA public FROM kobiri_claimer;", "REVOKE kobiri_claimer FROM CURRENT_USER;"]
    return "\n".join(lines)
