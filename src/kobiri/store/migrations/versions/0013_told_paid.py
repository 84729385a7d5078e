"""Whether a genuine callback said that a payment was paid, without the facts that would settle it."""

from kobiri.store.migrations import run_sql

revision = "0013"
down_revision = "0012"


def upgrade() -> None:
    run_sql("ALTER TABLE payments ADD COLUMN told_paid boolean NOT NULL DEFAULT false;")


def downgrade() -> None:
    run_sql("ALTER TABLE payments DROP COLUMN told_paid;")
