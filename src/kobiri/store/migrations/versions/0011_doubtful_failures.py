"""Failures of which the provider is not sure: how many there were, one after the other, and since when."""

from kobiri.store.migrations import run_sql

revision = "0011"
down_revision = "0010"

UP = """
ALTER TABLE payments ADD COLUMN doubts smallint NOT NULL DEFAULT 0, ADD COLUMN first_doubt_at timestamptz;
"""

DOWN = """
ALTER TABLE payments DROP COLUMN doubts, DROP COLUMN first_doubt_at;
"""


def upgrade() -> None:
    run_sql(UP)


def downgrade() -> None:
    run_sql(DOWN)
