"""Questions about what is over: final payments, and roads that were left."""

from kobiri.store.migrations import dropped, owned_by_claimer, run_sql

revision = "0007"
down_revision = "0006"

TABLES = """
-- `hinted`: a hint came that no question was asked for yet; `hinted_at`: when that question is due. `known`: the
-- provider of a road that was left said that it has the reference.
ALTER TABLE payments ADD COLUMN hinted boolean NOT NULL DEFAULT false;
ALTER TABLE payments DROP CONSTRAINT payments_check;
ALTER TABLE payments ADD CONSTRAINT payments_open_is_due
    CHECK (status IN ('SUCCESSFUL', 'FAILED', 'REVERSED') OR next_run_at IS NOT NULL);

ALTER TABLE attempts
    ADD COLUMN hinted boolean NOT NULL DEFAULT false, ADD COLUMN asked_at timestamptz,
    ADD COLUMN checks integer NOT NULL DEFAULT 0, ADD COLUMN known boolean NOT NULL DEFAULT false,
    ADD COLUMN next_run_at timestamptz;
CREATE INDEX attempts_due ON attempts (next_run_at) WHERE next_run_at IS NOT NULL;
"""

FUNCTIONS = """
-- A claim sets a token and moves next_run_at to the lease's end: a lease that ended is simply due again. The question
-- that begins answers all hints before it.
CREATE FUNCTION claim_payments(p_limit integer, p_lease_s double precision)
RETURNS TABLE (tenant_id uuid, payment_id uuid, lease_token uuid)
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
    UPDATE payments p
    SET lease_token = gen_random_uuid(), next_run_at = now() + make_interval(secs => p_lease_s), hinted = false
    FROM (
        SELECT d.tenant_id, d.id FROM payments d
        WHERE d.next_run_at <= now()
        ORDER BY d.next_run_at LIMIT p_limit
        FOR UPDATE SKIP LOCKED
    ) due
    WHERE p.tenant_id = due.tenant_id AND p.id = due.id
    RETURNING p.tenant_id, p.id, p.lease_token
$$;

CREATE FUNCTION claim_attempts(p_limit integer, p_lease_s double precision)
RETURNS TABLE (
    tenant_id uuid, payment_id uuid, attempt smallint, provider text, account_id uuid, account_fingerprint text,
    provider_reference uuid, checks integer, known boolean
)
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
    WITH due AS MATERIALIZED (
        SELECT d.tenant_id, d.payment_id, d.attempt FROM attempts d
        WHERE d.next_run_at <= now()
        ORDER BY d.next_run_at LIMIT p_limit
        FOR UPDATE SKIP LOCKED
    )
    UPDATE attempts a
    SET hinted = false, asked_at = now(), next_run_at = now() + make_interval(secs => p_lease_s)
    FROM due
    WHERE a.tenant_id = due.tenant_id AND a.payment_id = due.payment_id AND a.attempt = due.attempt
    RETURNING a.tenant_id, a.payment_id, a.attempt, a.provider, a.account_id, a.account_fingerprint,
        a.provider_reference, a.checks, a.known
$$;

-- A key goes when its life is over and its payment is final. Returns how many rows went.
CREATE FUNCTION purge_idempotency_keys(p_limit integer) RETURNS integer
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
    WITH gone AS (
        DELETE FROM idempotency_keys k USING (
            SELECT i.tenant_id, i.mode, i.key FROM idempotency_keys i
            JOIN payments p ON p.tenant_id = i.tenant_id AND p.id = i.payment_id
            WHERE i.expires_at < now() AND p.status IN ('SUCCESSFUL', 'FAILED', 'REVERSED')
            ORDER BY i.expires_at LIMIT p_limit
        ) old
        WHERE k.tenant_id = old.tenant_id AND k.mode = old.mode AND k.key = old.key
        RETURNING 1
    )
    SELECT count(*)::integer FROM gone
$$;
"""

REPLACED = {
    "claim_payments(integer, double precision)": "kobiri_worker",
    "purge_idempotency_keys(integer)": "kobiri_worker",
}
NEW = {"claim_attempts(integer, double precision)": "kobiri_worker"}

GRANTS = """
GRANT UPDATE ON attempts TO kobiri_api;
GRANT UPDATE (hinted) ON payments TO kobiri_claimer;
GRANT UPDATE (hinted, asked_at, next_run_at) ON attempts TO kobiri_claimer;
REVOKE ALL ON FUNCTION claim_payments(integer, double precision), claim_attempts(integer, double precision),
    purge_idempotency_keys(integer) FROM PUBLIC;
"""

OLD_FUNCTIONS = """
CREATE FUNCTION claim_payments(p_limit integer, p_lease_s double precision)
RETURNS TABLE (tenant_id uuid, payment_id uuid, lease_token uuid)
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
    UPDATE payments p
    SET lease_token = gen_random_uuid(), next_run_at = now() + make_interval(secs => p_lease_s)
    FROM (
        SELECT d.tenant_id, d.id FROM payments d
        WHERE d.next_run_at <= now()
        ORDER BY d.next_run_at LIMIT p_limit
        FOR UPDATE SKIP LOCKED
    ) due
    WHERE p.tenant_id = due.tenant_id AND p.id = due.id
    RETURNING p.tenant_id, p.id, p.lease_token
$$;

CREATE FUNCTION purge_idempotency_keys(p_limit integer) RETURNS integer
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
    WITH gone AS (
        DELETE FROM idempotency_keys k USING (
            SELECT i.tenant_id, i.mode, i.key FROM idempotency_keys i
            JOIN payments p ON p.tenant_id = i.tenant_id AND p.id = i.payment_id
            WHERE i.expires_at < now() AND p.next_run_at IS NULL
            ORDER BY i.expires_at LIMIT p_limit
        ) old
        WHERE k.tenant_id = old.tenant_id AND k.mode = old.mode AND k.key = old.key
        RETURNING 1
    )
    SELECT count(*)::integer FROM gone
$$;
REVOKE ALL ON FUNCTION claim_payments(integer, double precision), purge_idempotency_keys(integer) FROM PUBLIC;
"""

OLD_TABLES = """
DROP INDEX attempts_due;
ALTER TABLE attempts DROP COLUMN hinted, DROP COLUMN asked_at, DROP COLUMN checks, DROP COLUMN known,
    DROP COLUMN next_run_at;
-- The table's wall stands before its owner, too.
ALTER TABLE payments NO FORCE ROW LEVEL SECURITY;
UPDATE payments SET next_run_at = NULL, lease_token = NULL
    WHERE status IN ('SUCCESSFUL', 'FAILED', 'REVERSED') AND next_run_at IS NOT NULL;
ALTER TABLE payments FORCE ROW LEVEL SECURITY;
ALTER TABLE payments DROP CONSTRAINT payments_open_is_due;
ALTER TABLE payments ADD CONSTRAINT payments_check
    CHECK ((status IN ('SUCCESSFUL', 'FAILED', 'REVERSED')) = (next_run_at IS NULL));
ALTER TABLE payments DROP COLUMN hinted;
REVOKE UPDATE ON attempts FROM kobiri_api;
"""


def upgrade() -> None:
    run_sql(dropped(*REPLACED))
    run_sql(TABLES)
    run_sql(FUNCTIONS)
    run_sql(GRANTS)
    run_sql(owned_by_claimer({**REPLACED, **NEW}))


def downgrade() -> None:
    run_sql(dropped(*REPLACED, *NEW))
    run_sql(OLD_TABLES)
    run_sql(OLD_FUNCTIONS)
    run_sql(owned_by_claimer(REPLACED))
