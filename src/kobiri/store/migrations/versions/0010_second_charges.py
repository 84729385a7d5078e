"""Second charges: several arrivals under one unknown reference, and payments whose id a statement has shown."""

from kobiri.store.migrations import run_sql

revision = "0010"
down_revision = "0009"

# What is booked already, the arrivals of a reference tell, and not a key: two transactions may have one amount.
UP = """
DROP INDEX arrivals_unasked;
CREATE INDEX arrivals_unasked ON arrivals (tenant_id, provider_reference) WHERE provider_reference IS NOT NULL;
ALTER TABLE payments ADD COLUMN id_in_statement boolean NOT NULL DEFAULT false;
"""

# A reference with two arrivals of one amount has no place in the schema before: then this fails, and loses none.
DOWN = """
ALTER TABLE payments DROP COLUMN id_in_statement;
DROP INDEX arrivals_unasked;
CREATE UNIQUE INDEX arrivals_unasked ON arrivals (tenant_id, provider, provider_reference, amount_minor, currency);
"""


def upgrade() -> None:
    run_sql(UP)


def downgrade() -> None:
    run_sql(DOWN)
