"""Provider accounts of the tenants, their credentials sealed."""

from kobiri.store.migrations import dropped, owned_by_claimer, run_sql, walls

revision = "0003"
down_revision = "0002"

TABLE = """
CREATE TABLE provider_accounts (
    tenant_id uuid NOT NULL REFERENCES tenants (id),
    id uuid NOT NULL,
    provider text NOT NULL,
    mode text NOT NULL CHECK (mode IN ('live', 'test')),
    name text NOT NULL CHECK (char_length(name) BETWEEN 1 AND 100),
    base_url text NOT NULL CHECK (char_length(base_url) <= 2048),
    currency char(3) NOT NULL,
    min_minor bigint CHECK (min_minor > 0),
    max_minor bigint CHECK (max_minor > 0),
    priority integer NOT NULL CHECK (priority BETWEEN 0 AND 10000),
    enabled boolean NOT NULL DEFAULT true,
    disabled_reason text CHECK (char_length(disabled_reason) BETWEEN 1 AND 500),
    version integer NOT NULL DEFAULT 1,
    master_key_id text NOT NULL,
    wrapped_key bytea NOT NULL,
    sealed bytea NOT NULL CHECK (octet_length(sealed) <= 65536),
    callback_token_hash bytea NOT NULL CHECK (octet_length(callback_token_hash) = 32),
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, id),
    CONSTRAINT provider_accounts_name UNIQUE (tenant_id, mode, name),
    CHECK (enabled = (disabled_reason IS NULL)),
    CHECK (min_minor <= max_minor)
);
CREATE UNIQUE INDEX provider_accounts_callback_token ON provider_accounts (callback_token_hash);

CREATE FUNCTION match_account(p_token_hash bytea)
RETURNS TABLE (tenant_id uuid, account_id uuid, provider text)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
    SELECT a.tenant_id, a.id, a.provider FROM provider_accounts a WHERE a.callback_token_hash = p_token_hash
$$;

GRANT SELECT ON provider_accounts TO kobiri_api, kobiri_claimer;
GRANT SELECT, INSERT, UPDATE ON provider_accounts TO kobiri_operator;
REVOKE ALL ON FUNCTION match_account(bytea) FROM PUBLIC;
"""

DEFINER_FUNCTIONS = {"match_account(bytea)": "kobiri_api"}


def upgrade() -> None:
    run_sql(TABLE)
    run_sql(walls("provider_accounts"))
    run_sql(owned_by_claimer(DEFINER_FUNCTIONS))


def downgrade() -> None:
    run_sql(dropped(*DEFINER_FUNCTIONS))
    run_sql("DROP TABLE provider_accounts;")
