"""Foundation: tenants, keys, payments, events, ledger, and the walls between tenants."""

from kobiri.store.migrations import THIS_TENANT, dropped, owned_by_claimer, run_sql, walls

revision = "0001"
down_revision = None

TENANT_TABLES = (
    "api_keys",
    "payments",
    "idempotency_keys",
    "events",
    "unsealed_events",
    "event_seals",
    "callbacks",
    "ledger_entries",
)

ROLES = """
-- Roles belong to the whole cluster: another database of it may have made them.
DO $$
DECLARE
    role text;
BEGIN
    FOREACH role IN ARRAY ARRAY['kobiri_api', 'kobiri_worker', 'kobiri_operator', 'kobiri_claimer'] LOOP
        BEGIN
            EXECUTE format('CREATE ROLE %I NOLOGIN', role);
        EXCEPTION WHEN duplicate_object OR unique_violation THEN
            NULL;
        END;
    END LOOP;
END $$;
"""

TABLES = """
CREATE TABLE tenants (
    id uuid PRIMARY KEY,
    slug text NOT NULL,
    name text NOT NULL CHECK (char_length(name) BETWEEN 1 AND 200),
    status text NOT NULL DEFAULT 'active' CHECK (status IN ('active', 'suspended')),
    throttle_limit integer CHECK (throttle_limit > 0),
    created_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT tenants_slug UNIQUE (slug),
    CHECK (slug ~ '^[a-z0-9]+(-[a-z0-9]+)*$' AND char_length(slug) BETWEEN 2 AND 48)
);

-- Hot tables have no foreign key to tenants: it would lock the one tenant row in every insert, and tenants are never
-- deleted. The wall checks each inserted tenant_id instead.

CREATE TABLE api_keys (
    tenant_id uuid NOT NULL REFERENCES tenants (id),
    key_id text NOT NULL CHECK (key_id ~ '^[0-9A-Za-z]{12}$'),
    name text NOT NULL CHECK (char_length(name) BETWEEN 1 AND 200),
    mode text NOT NULL CHECK (mode IN ('live', 'test')),
    secret_hmac bytea NOT NULL CHECK (octet_length(secret_hmac) = 32),
    last4 text NOT NULL,
    scopes text[] NOT NULL,
    allowed_addresses cidr[] NOT NULL DEFAULT '{}',
    throttle_limit integer CHECK (throttle_limit > 0),
    expires_at timestamptz,
    revoked_at timestamptz,
    last_used_at timestamptz,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, key_id)
);
CREATE UNIQUE INDEX api_keys_key_id ON api_keys (key_id);

CREATE TABLE payments (
    tenant_id uuid NOT NULL,
    id uuid NOT NULL,
    mode text NOT NULL CHECK (mode IN ('live', 'test')),
    kind text NOT NULL CHECK (kind IN ('collection')),
    status text NOT NULL CHECK (status IN ('PENDING', 'TIMEOUT', 'SUCCESSFUL', 'FAILED', 'REVERSED')),
    amount_minor bigint NOT NULL CHECK (amount_minor > 0),
    currency char(3) NOT NULL,
    payer text NOT NULL,
    network text NOT NULL,
    provider text NOT NULL,
    account_fingerprint text NOT NULL,
    provider_reference uuid NOT NULL,
    provider_transaction_id text,
    reference text,
    description text,
    metadata jsonb,
    callback_url text,
    failure_code text,
    failure_provider_code text,
    review text CHECK (review IN ('unresolved', 'mismatched', 'contradicted')),
    version integer NOT NULL DEFAULT 1,
    attempt smallint NOT NULL,
    unsent boolean NOT NULL DEFAULT false,
    sent_before boolean NOT NULL DEFAULT false,
    checks integer NOT NULL DEFAULT 0,
    not_founds smallint NOT NULL DEFAULT 0,
    first_not_found_at timestamptz,
    accepted_at timestamptz,
    completed_at timestamptz,
    send_before timestamptz NOT NULL,
    expires_at timestamptz NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    next_run_at timestamptz,
    hinted_at timestamptz,
    lease_token uuid,
    PRIMARY KEY (tenant_id, id),
    CHECK ((status IN ('SUCCESSFUL', 'FAILED', 'REVERSED')) = (next_run_at IS NULL)),
    CHECK ((status = 'FAILED') = (failure_code IS NOT NULL))
);
CREATE UNIQUE INDEX payments_reference ON payments (tenant_id, mode, reference)
    WHERE reference IS NOT NULL AND status <> 'FAILED';
CREATE UNIQUE INDEX payments_provider_reference ON payments (provider_reference);
CREATE INDEX payments_due ON payments (next_run_at) WHERE next_run_at IS NOT NULL;

CREATE TABLE idempotency_keys (
    tenant_id uuid NOT NULL,
    mode text NOT NULL,
    key text NOT NULL CHECK (char_length(key) BETWEEN 1 AND 255),
    id uuid NOT NULL DEFAULT gen_random_uuid(),
    method text NOT NULL,
    path text NOT NULL,
    fingerprint bytea NOT NULL,
    payment_id uuid NOT NULL,
    status_code smallint,
    response_body bytea,
    created_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, mode, key),
    FOREIGN KEY (tenant_id, payment_id) REFERENCES payments (tenant_id, id),
    CHECK ((status_code IS NULL) = (response_body IS NULL))
);
CREATE INDEX idempotency_keys_expiry ON idempotency_keys (expires_at);

CREATE TABLE events (
    tenant_id uuid NOT NULL,
    id uuid NOT NULL,
    mode text,
    type text NOT NULL,
    subject_id text NOT NULL,
    actor text NOT NULL,
    data jsonb NOT NULL,
    request_id text,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (tenant_id, id)
);
CREATE INDEX events_subject ON events (tenant_id, subject_id);

-- A queue: an event's row here commits with the event itself, so that one which took its id early and committed late
-- is sealed when it comes. No watermark to overtake it, nothing that a dump and restore could break.
CREATE TABLE unsealed_events (
    tenant_id uuid NOT NULL,
    event_id uuid NOT NULL,
    PRIMARY KEY (tenant_id, event_id)
) WITH (autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_cost_delay = 0);

-- One row seals a batch: event_ids[i] has the sequence number first_seq + i - 1 and the chain's hash hashes[i].
CREATE TABLE event_seals (
    tenant_id uuid NOT NULL,
    first_seq bigint NOT NULL CHECK (first_seq > 0),
    last_seq bigint NOT NULL,
    event_ids uuid[] NOT NULL,
    hashes bytea[] NOT NULL,
    sealed_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (tenant_id, first_seq),
    CHECK (last_seq - first_seq + 1 = cardinality(event_ids) AND cardinality(event_ids) = cardinality(hashes)),
    CHECK (cardinality(event_ids) BETWEEN 1 AND 1000)
);

-- Callbacks of no payment stand under the platform's own tenant.
CREATE TABLE callbacks (
    tenant_id uuid NOT NULL,
    id uuid NOT NULL,
    provider text NOT NULL,
    verdict text NOT NULL CHECK (verdict IN ('applied', 'hint', 'unmatched', 'refused')),
    payment_id uuid,
    digest bytea NOT NULL,
    headers jsonb NOT NULL,
    body bytea NOT NULL CHECK (octet_length(body) <= 65536),
    times bigint NOT NULL DEFAULT 1,
    received_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    last_received_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (tenant_id, id),
    CONSTRAINT callbacks_digest UNIQUE (tenant_id, provider, verdict, digest),
    FOREIGN KEY (tenant_id, payment_id) REFERENCES payments (tenant_id, id)
);
CREATE INDEX callbacks_payment ON callbacks (tenant_id, payment_id);

CREATE TABLE ledger_entries (
    tenant_id uuid NOT NULL,
    payment_id uuid NOT NULL,
    reason text NOT NULL,
    account text NOT NULL,
    amount_minor bigint NOT NULL CHECK (amount_minor <> 0),
    currency char(3) NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, payment_id, reason, account),
    FOREIGN KEY (tenant_id, payment_id) REFERENCES payments (tenant_id, id)
);

-- The platform itself is a tenant row.
INSERT INTO tenants (id, slug, name) VALUES ('00000000-0000-7000-8000-000000000000', 'platform', 'The platform');
"""

TRIGGERS = """
CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, public, pg_temp AS $$
BEGIN
    RAISE EXCEPTION '% is append-only', TG_TABLE_NAME USING ERRCODE = 'insufficient_privilege';
END $$;

CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON events
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON event_seals
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON ledger_entries
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

CREATE FUNCTION await_seal() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, public, pg_temp AS $$
BEGIN
    INSERT INTO unsealed_events (tenant_id, event_id) VALUES (NEW.tenant_id, NEW.id);
    RETURN NULL;
END $$;
CREATE TRIGGER await_seal AFTER INSERT ON events FOR EACH ROW EXECUTE FUNCTION await_seal();

CREATE FUNCTION check_balance() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, public, pg_temp AS $$
BEGIN
    PERFORM 1 FROM ledger_entries
    WHERE tenant_id = NEW.tenant_id AND payment_id = NEW.payment_id AND reason = NEW.reason
    GROUP BY currency HAVING sum(amount_minor) <> 0;
    IF FOUND THEN
        RAISE EXCEPTION 'movement % of payment % does not sum to zero', NEW.reason, NEW.payment_id
            USING ERRCODE = 'check_violation', CONSTRAINT = 'ledger_balance';
    END IF;
    RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER ledger_balance AFTER INSERT ON ledger_entries
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION check_balance();
"""

# What must see across tenants. Each is narrow, and the catalogue test holds this list complete.
FUNCTIONS = """
CREATE FUNCTION authenticate_key(p_key_id text)
RETURNS TABLE (
    tenant_id uuid, slug text, tenant_status text, tenant_throttle_limit integer, mode text, secret_hmac bytea,
    scopes text[], allowed_addresses cidr[], throttle_limit integer, expires_at timestamptz, revoked_at timestamptz
)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
    SELECT k.tenant_id, t.slug, t.status, t.throttle_limit, k.mode, k.secret_hmac, k.scopes, k.allowed_addresses,
           k.throttle_limit, k.expires_at, k.revoked_at
    FROM api_keys k JOIN tenants t ON t.id = k.tenant_id
    WHERE k.key_id = p_key_id
$$;

CREATE FUNCTION note_key_use(p_key_ids text[]) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
    UPDATE api_keys SET last_used_at = now() WHERE key_id = ANY (p_key_ids)
$$;

CREATE FUNCTION match_callback(p_provider text, p_provider_reference uuid)
RETURNS TABLE (tenant_id uuid, payment_id uuid)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
    SELECT p.tenant_id, p.id FROM payments p
    WHERE p.provider_reference = p_provider_reference AND p.provider = p_provider
$$;

-- A claim sets a token and moves next_run_at to the lease's end: a lease that ended is simply due again.
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

-- Each field as its length in bytes and its text, so that no two events share a form; NULL is a lone dash.
CREATE FUNCTION sealed_field(p_text text) RETURNS text
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, public, pg_temp AS $$
    SELECT coalesce(octet_length(p_text) || ':' || p_text, '-')
$$;

CREATE FUNCTION event_hash(p_previous bytea, p_seq bigint, p_event events) RETURNS bytea
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, public, pg_temp AS $$
    SELECT sha256(p_previous || convert_to(
        sealed_field(p_seq::text) || sealed_field(p_event.tenant_id::text) || sealed_field(p_event.id::text)
        || sealed_field(p_event.mode) || sealed_field(p_event.type) || sealed_field(p_event.subject_id)
        || sealed_field(p_event.actor) || sealed_field(p_event.data::text) || sealed_field(p_event.request_id)
        || sealed_field((extract(epoch FROM p_event.created_at) * 1000000)::bigint::text), 'UTF8'))
$$;

-- Seals events tenant by tenant until p_limit are done, and of each p_limit at most; returns how many. A tenant that
-- another worker seals at this moment is passed over.
CREATE FUNCTION seal_events(p_limit integer) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE
    v_tenant uuid;
    v_id uuid;
    v_event events;
    v_seq bigint;
    v_first bigint;
    v_hash bytea;
    v_ids uuid[];
    v_hashes bytea[];
    v_sealed integer := 0;
BEGIN
    FOR v_tenant IN SELECT DISTINCT u.tenant_id FROM unsealed_events u LOOP
        CONTINUE WHEN NOT pg_try_advisory_xact_lock(hashtextextended('kobiri.seal.' || v_tenant, 0));
        SELECT s.last_seq, s.hashes[cardinality(s.hashes)] INTO v_seq, v_hash
        FROM event_seals s WHERE s.tenant_id = v_tenant ORDER BY s.first_seq DESC LIMIT 1;
        v_first := coalesce(v_seq, 0) + 1;
        v_seq := v_first - 1;
        v_hash := coalesce(v_hash, ''::bytea);
        v_ids := '{}';
        v_hashes := '{}';
        -- One look-up by the primary key each: a join would be planned for the empty queue that statistics show.
        FOR v_id IN
            SELECT u.event_id FROM unsealed_events u WHERE u.tenant_id = v_tenant ORDER BY u.event_id LIMIT p_limit
        LOOP
            SELECT e.* INTO v_event FROM events e WHERE e.tenant_id = v_tenant AND e.id = v_id;
            CONTINUE WHEN NOT FOUND;  -- somebody deleted it: its row stays here as the proof
            v_seq := v_seq + 1;
            v_hash := event_hash(v_hash, v_seq, v_event);
            v_ids := v_ids || v_event.id;
            v_hashes := v_hashes || v_hash;
        END LOOP;
        CONTINUE WHEN v_seq < v_first;
        INSERT INTO event_seals (tenant_id, first_seq, last_seq, event_ids, hashes)
        VALUES (v_tenant, v_first, v_seq, v_ids, v_hashes);
        DELETE FROM unsealed_events u WHERE u.tenant_id = v_tenant AND u.event_id = ANY (v_ids);
        v_sealed := v_sealed + cardinality(v_ids);
        EXIT WHEN v_sealed >= p_limit;  -- the backlogs of many tenants at once would outlast the statement's time
    END LOOP;
    RETURN v_sealed;
END $$;

-- A key goes when its life is over and its payment is final. Returns how many rows went.
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

CREATE FUNCTION purge_callbacks(p_older_than interval, p_limit integer) RETURNS integer
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
    WITH gone AS (
        DELETE FROM callbacks c USING (
            SELECT o.tenant_id, o.id FROM callbacks o WHERE o.last_received_at < now() - p_older_than LIMIT p_limit
        ) old
        WHERE c.tenant_id = old.tenant_id AND c.id = old.id
        RETURNING 1
    )
    SELECT count(*)::integer FROM gone
$$;
"""

DEFINER_FUNCTIONS = {
    "authenticate_key(text)": "kobiri_api",
    "note_key_use(text[])": "kobiri_api",
    "match_callback(text, uuid)": "kobiri_api",
    "claim_payments(integer, double precision)": "kobiri_worker",
    "seal_events(integer)": "kobiri_worker",
    "purge_idempotency_keys(integer)": "kobiri_worker",
    "purge_callbacks(interval, integer)": "kobiri_worker",
}

GRANTS = """
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA public FROM PUBLIC;
GRANT USAGE ON SCHEMA public TO kobiri_api, kobiri_worker, kobiri_operator, kobiri_claimer;

GRANT SELECT ON tenants TO kobiri_api;
GRANT SELECT ON api_keys TO kobiri_api;
GRANT SELECT, INSERT, UPDATE ON payments, idempotency_keys, callbacks TO kobiri_api;
GRANT SELECT, INSERT ON events, ledger_entries TO kobiri_api;
GRANT INSERT ON unsealed_events TO kobiri_api;
GRANT SELECT ON event_seals TO kobiri_api;

GRANT SELECT ON ALL TABLES IN SCHEMA public TO kobiri_operator;
GRANT INSERT, UPDATE ON tenants, api_keys TO kobiri_operator;
GRANT INSERT ON events, unsealed_events TO kobiri_operator;

GRANT SELECT ON tenants, api_keys, payments, idempotency_keys, callbacks, events, unsealed_events, event_seals
    TO kobiri_claimer;
GRANT UPDATE (last_used_at) ON api_keys TO kobiri_claimer;
GRANT UPDATE (lease_token, next_run_at) ON payments TO kobiri_claimer;
GRANT DELETE ON idempotency_keys, callbacks, unsealed_events TO kobiri_claimer;
GRANT INSERT ON event_seals TO kobiri_claimer;
GRANT EXECUTE ON FUNCTION sealed_field(text), event_hash(bytea, bigint, events) TO kobiri_claimer;
GRANT EXECUTE ON FUNCTION await_seal(), check_balance(), refuse_change() TO kobiri_api, kobiri_operator;
"""


TENANTS_WALL = f"""
ALTER TABLE tenants ENABLE ROW LEVEL SECURITY;
ALTER TABLE tenants FORCE ROW LEVEL SECURITY;
CREATE POLICY own_tenant ON tenants TO kobiri_api USING (id = {THIS_TENANT}) WITH CHECK (id = {THIS_TENANT});
CREATE POLICY all_tenants ON tenants TO kobiri_operator, kobiri_claimer USING (true) WITH CHECK (true);
"""


def upgrade() -> None:
    run_sql(ROLES)
    run_sql(TABLES)
    run_sql(TRIGGERS)
    run_sql(FUNCTIONS)
    run_sql(GRANTS)
    run_sql(TENANTS_WALL)
    for table in TENANT_TABLES:
        run_sql(walls(table))
    run_sql(owned_by_claimer(DEFINER_FUNCTIONS))


def downgrade() -> None:
    """Everything goes but the roles: other databases of the cluster may use them."""
    functions = [*DEFINER_FUNCTIONS, "event_hash(bytea, bigint, events)", "sealed_field(text)"]
    run_sql(dropped(*functions))
    for table in ("ledger_entries", "callbacks", "event_seals", "unsealed_events", "events", "idempotency_keys"):
        run_sql(f"DROP TABLE {table};")
    run_sql("DROP TABLE payments; DROP TABLE api_keys; DROP TABLE tenants;")
    run_sql("DROP FUNCTION refuse_change(), await_seal(), check_balance();")
