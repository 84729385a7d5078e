"""${message}."""

from kobiri.store.migrations import run_sql

revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}

UP = """
"""

DOWN = """
"""


def upgrade() -> None:
    run_sql(UP)


def downgrade() -> None:
    run_sql(DOWN)
