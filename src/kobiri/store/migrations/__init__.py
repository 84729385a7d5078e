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
