"""What is open is claimed apart from what is final: no question about the latter stands in its way."""

from kobiri.store.migrations import dropped, owned_by_claimer, run_sql

revision = "0009"
down_revision = "0008"

# Row by row: joined in one statement, a plan that takes the table for empty (analyzed before it was filled) reads it
# all.
CLAIM = """
CREATE FUNCTION {name}(p_limit integer, p_lease_s double precision)
RETURNS TABLE (tenant_id uuid, payment_id uuid, lease_token uuid)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
#variable_conflict use_column
DECLARE
    due record;
BEGIN
    FOR due IN
        SELECT d.tenant_id, d.id FROM payments d
        WHERE d.next_run_at <= now() {which}
        ORDER BY d.next_run_at LIMIT p_limit
        FOR UPDATE SKIP LOCKED
    LOOP
        RETURN QUERY UPDATE payments p
        SET lease_token = gen_random_uuid(), next_run_at = now() + make_interval(secs => p_lease_s), hinted = false
        WHERE p.tenant_id = due.tenant_id AND p.id = due.id
        RETURNING p.tenant_id, p.id, p.lease_token;
    END LOOP;
END $$;
REVOKE ALL ON FUNCTION {name}(integer, double precision) FROM PUBLIC;
"""

INDEXES = """
DROP INDEX payments_due;
CREATE INDEX payments_due ON payments (next_run_at) WHERE status IN ('PENDING', 'TIMEOUT');
CREATE INDEX payments_final_due ON payments (next_run_at)
    WHERE status NOT IN ('PENDING', 'TIMEOUT') AND next_run_at IS NOT NULL;
"""

OLD_INDEXES = """
DROP INDEX payments_due;
DROP INDEX payments_final_due;
CREATE INDEX payments_due ON payments (next_run_at) WHERE next_run_at IS NOT NULL;
"""

REPLACED = {"claim_payments(integer, double precision)": "kobiri_worker"}
NEW = {"claim_final_payments(integer, double precision)": "kobiri_worker"}


def upgrade() -> None:
    run_sql(dropped(*REPLACED))
    run_sql(INDEXES)
    run_sql(CLAIM.format(name="claim_payments", which="AND d.status IN ('PENDING', 'TIMEOUT')"))
    run_sql(CLAIM.format(name="claim_final_payments", which="AND d.status NOT IN ('PENDING', 'TIMEOUT')"))
    run_sql(owned_by_claimer({**REPLACED, **NEW}))


def downgrade() -> None:
    run_sql(dropped(*REPLACED, *NEW))
    run_sql(OLD_INDEXES)
    run_sql(CLAIM.format(name="claim_payments", which=""))
    run_sql(owned_by_claimer(REPLACED))
