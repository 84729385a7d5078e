"""Several roads to one wallet: accounts, earlier attempts, switches, and the queue of what a person must look at."""

from kobiri.store.migrations import dropped, owned_by_claimer, run_sql, walls

revision = "0002"
down_revision = "0001"

TABLES = """
ALTER TABLE payments ADD COLUMN account_id uuid, ADD COLUMN review_told_at timestamptz;
CREATE INDEX payments_review ON payments (tenant_id, id) WHERE review IS NOT NULL;

-- Roads on which nothing was sent. Callbacks and statements match them too.
CREATE TABLE attempts (
    tenant_id uuid NOT NULL,
    payment_id uuid NOT NULL,
    attempt smallint NOT NULL,
    provider text NOT NULL,
    account_id uuid,
    account_fingerprint text NOT NULL,
    provider_reference uuid NOT NULL,
    reason text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, payment_id, attempt),
    FOREIGN KEY (tenant_id, payment_id) REFERENCES payments (tenant_id, id)
);
CREATE UNIQUE INDEX attempts_provider_reference ON attempts (provider_reference);

-- What an operator switched off, for the whole installation: rows of the platform's own tenant.
CREATE TABLE provider_switches (
    tenant_id uuid NOT NULL,
    provider text NOT NULL,
    is_open boolean NOT NULL,
    reason text NOT NULL CHECK (char_length(reason) BETWEEN 1 AND 500),
    changed_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, provider)
);
"""

FUNCTIONS = """
CREATE FUNCTION match_callback(p_provider text, p_provider_reference uuid)
RETURNS TABLE (tenant_id uuid, payment_id uuid, account_id uuid, earlier boolean)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
    SELECT p.tenant_id, p.id, p.account_id, false FROM payments p
    WHERE p.provider_reference = p_provider_reference AND p.provider = p_provider
    UNION ALL
    SELECT a.tenant_id, a.payment_id, a.account_id, true FROM attempts a
    WHERE a.provider_reference = p_provider_reference AND a.provider = p_provider
$$;

CREATE FUNCTION closed_providers() RETURNS TABLE (provider text, reason text)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
    SELECT s.provider, s.reason FROM provider_switches s WHERE NOT s.is_open
$$;

CREATE FUNCTION untold_reviews(p_limit integer)
RETURNS TABLE (tenant_id uuid, payment_id uuid)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
    SELECT p.tenant_id, p.id FROM payments p
    WHERE p.review IS NOT NULL AND p.review_told_at IS NULL ORDER BY p.tenant_id, p.id LIMIT p_limit
$$;
"""

DEFINER_FUNCTIONS = {
    "match_callback(text, uuid)": "kobiri_api",
    "closed_providers()": "kobiri_api",
    "untold_reviews(integer)": "kobiri_worker",
}

GRANTS = """
GRANT SELECT, INSERT ON attempts TO kobiri_api;
GRANT SELECT ON attempts, provider_switches TO kobiri_operator, kobiri_claimer;
GRANT INSERT, UPDATE ON provider_switches TO kobiri_operator;
REVOKE ALL ON FUNCTION match_callback(text, uuid), closed_providers(), untold_reviews(integer) FROM PUBLIC;
"""

OLD_MATCH = """
CREATE FUNCTION match_callback(p_provider text, p_provider_reference uuid)
RETURNS TABLE (tenant_id uuid, payment_id uuid)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
    SELECT p.tenant_id, p.id FROM payments p
    WHERE p.provider_reference = p_provider_reference AND p.provider = p_provider
$$;
REVOKE ALL ON FUNCTION match_callback(text, uuid) FROM PUBLIC;
"""


def upgrade() -> None:
    run_sql(TABLES)
    run_sql(dropped("match_callback(text, uuid)"))
    run_sql(FUNCTIONS)
    run_sql(GRANTS)
    for table in ("attempts", "provider_switches"):
        run_sql(walls(table))
    run_sql(owned_by_claimer(DEFINER_FUNCTIONS))


def downgrade() -> None:
    run_sql(dropped(*DEFINER_FUNCTIONS))
    run_sql(OLD_MATCH)
    run_sql(owned_by_claimer({"match_callback(text, uuid)": "kobiri_api"}))
    run_sql("DROP TABLE attempts; DROP TABLE provider_switches; DROP INDEX payments_review;")
    run_sql("ALTER TABLE payments DROP COLUMN account_id, DROP COLUMN review_told_at;")
