"""Until when a send may leave, so that what is not found afterwards proves something."""

from kobiri.store.migrations import run_sql

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    run_sql("ALTER TABLE payments ADD COLUMN sent_until timestamptz;")


def downgrade() -> None:
    run_sql("ALTER TABLE payments DROP COLUMN sent_until;")
