"""Arrivals (money in suspense, with its evidence), proposals of statements, one payment for each transaction id."""

from kobiri.store.migrations import dropped, owned_by_claimer, run_sql, walls

revision = "0005"
down_revision = "0004"

PAYMENTS = """
ALTER TABLE payments
    ADD COLUMN received_minor bigint CHECK (received_minor > 0),
    ADD COLUMN received_currency char(3),
    ADD COLUMN shares_transaction_id boolean NOT NULL DEFAULT false,
    ADD CONSTRAINT payments_received CHECK ((received_minor IS NULL) = (received_currency IS NULL));
"""

TABLES = """
CREATE TABLE arrivals (
    tenant_id uuid NOT NULL,
    id uuid NOT NULL,
    payment_id uuid,
    provider text NOT NULL,
    account_fingerprint text NOT NULL,
    provider_reference uuid,
    transaction_id text,
    amount_minor bigint NOT NULL CHECK (amount_minor > 0),
    currency char(3) NOT NULL,
    why text NOT NULL CHECK (why IN ('late', 'mismatched', 'twice', 'earlier_road', 'unasked')),
    source text NOT NULL,
    told_in text,
    created_at timestamptz NOT NULL DEFAULT now(),
    cleared_at timestamptz,
    PRIMARY KEY (tenant_id, id),
    FOREIGN KEY (tenant_id, payment_id) REFERENCES payments (tenant_id, id),
    CHECK ((payment_id IS NULL) = (why = 'unasked')),
    CHECK ((payment_id IS NULL) = (provider_reference IS NOT NULL))
);
CREATE INDEX arrivals_payment ON arrivals (tenant_id, payment_id);
CREATE INDEX arrivals_waiting ON arrivals (tenant_id, id) WHERE cleared_at IS NULL;
CREATE UNIQUE INDEX arrivals_unasked ON arrivals (tenant_id, provider, provider_reference, amount_minor, currency);
CREATE UNIQUE INDEX arrivals_transaction ON arrivals (provider, account_fingerprint, transaction_id);

-- Lines of statements that fit one payment by number, amount and time. `line_digest` knows the line again.
CREATE TABLE proposals (
    tenant_id uuid NOT NULL,
    id uuid NOT NULL,
    payment_id uuid NOT NULL,
    provider text NOT NULL,
    line_digest bytea NOT NULL CHECK (octet_length(line_digest) = 32),
    transaction_id text,
    amount_minor bigint NOT NULL CHECK (amount_minor > 0),
    currency char(3) NOT NULL,
    moved_at timestamptz NOT NULL,
    told_in text NOT NULL,
    accepted boolean,
    created_at timestamptz NOT NULL DEFAULT now(),
    decided_at timestamptz,
    PRIMARY KEY (tenant_id, id),
    CONSTRAINT proposals_line UNIQUE (tenant_id, payment_id, line_digest),
    FOREIGN KEY (tenant_id, payment_id) REFERENCES payments (tenant_id, id),
    CHECK ((accepted IS NULL) = (decided_at IS NULL))
);
CREATE INDEX proposals_waiting ON proposals (tenant_id, id) WHERE accepted IS NULL;
CREATE UNIQUE INDEX proposals_accepted ON proposals (line_digest) WHERE accepted;
"""

# A movement is a payment's or an arrival's: of each it is booked once.
LEDGER = """
ALTER TABLE ledger_entries DROP CONSTRAINT ledger_entries_pkey;
ALTER TABLE ledger_entries
    ALTER COLUMN payment_id DROP NOT NULL,
    ADD COLUMN arrival_id uuid,
    ADD COLUMN movement_id uuid NOT NULL GENERATED ALWAYS AS (coalesce(arrival_id, payment_id)) STORED;
ALTER TABLE ledger_entries
    ADD PRIMARY KEY (tenant_id, movement_id, reason, account),
    ADD CONSTRAINT ledger_entries_arrival FOREIGN KEY (tenant_id, arrival_id) REFERENCES arrivals (tenant_id, id)
        DEFERRABLE INITIALLY DEFERRED;
CREATE INDEX ledger_entries_payment ON ledger_entries (tenant_id, payment_id);

CREATE OR REPLACE FUNCTION check_balance() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, public, pg_temp AS $$
BEGIN
    PERFORM 1 FROM ledger_entries
    WHERE tenant_id = NEW.tenant_id AND movement_id = NEW.movement_id AND reason = NEW.reason
    GROUP BY currency HAVING sum(amount_minor) <> 0;
    IF FOUND THEN
        RAISE EXCEPTION 'movement % of % does not sum to zero', NEW.reason, NEW.movement_id
            USING ERRCODE = 'check_violation', CONSTRAINT = 'ledger_balance';
    END IF;
    RETURN NULL;
END $$;
"""

# What older versions wrote. An owner sees no row of a walled table, so the walls are opened for this transaction,
# which holds the tables' locks anyway.
OLD_ROWS = """
ALTER TABLE payments NO FORCE ROW LEVEL SECURITY;
ALTER TABLE ledger_entries NO FORCE ROW LEVEL SECURITY;
INSERT INTO arrivals (tenant_id, id, payment_id, provider, account_fingerprint, amount_minor, currency, why, source,
    told_in, created_at, cleared_at)
SELECT p.tenant_id, gen_random_uuid(), p.id, p.provider, p.account_fingerprint, -l.amount_minor, l.currency,
    CASE p.failure_code WHEN 'resolved_by_operator' THEN 'mismatched' ELSE 'late' END, 'check', 'the payment''s events',
    l.created_at, (
        SELECT min(c.created_at) FROM ledger_entries c
        WHERE c.tenant_id = l.tenant_id AND c.payment_id = l.payment_id AND c.account = 'suspense'
          AND c.reason IN ('given_to_merchant', 'returned'))
FROM ledger_entries l JOIN payments p ON p.tenant_id = l.tenant_id AND p.id = l.payment_id
WHERE l.account = 'suspense' AND l.reason = 'arrived_unexpectedly';
UPDATE payments p SET received_minor = a.amount_minor, received_currency = a.currency
FROM arrivals a WHERE a.tenant_id = p.tenant_id AND a.payment_id = p.id;

-- Payments that share a transaction id stay as they are, for a person to look at; no other may take it.
UPDATE payments p SET shares_transaction_id = true
FROM (
    SELECT tenant_id, id, row_number() OVER (
        PARTITION BY provider, account_fingerprint, provider_transaction_id ORDER BY created_at, id) AS place
    FROM payments WHERE provider_transaction_id IS NOT NULL
) d
WHERE d.place > 1 AND p.tenant_id = d.tenant_id AND p.id = d.id;
ALTER TABLE payments FORCE ROW LEVEL SECURITY;
ALTER TABLE ledger_entries FORCE ROW LEVEL SECURITY;

CREATE UNIQUE INDEX payments_transaction ON payments (provider, account_fingerprint, provider_transaction_id)
    WHERE provider_transaction_id IS NOT NULL AND NOT shares_transaction_id;
"""

# Payments and arrivals hold transaction ids of one space. The lock makes two that come at once see each other.
TRIGGERS = """
CREATE FUNCTION hold_settled_transaction() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended(
        concat_ws(' ', 'kobiri', NEW.provider, NEW.account_fingerprint, NEW.provider_transaction_id), 0));
    PERFORM 1 FROM arrivals a
    WHERE a.provider = NEW.provider AND a.account_fingerprint = NEW.account_fingerprint
      AND a.transaction_id = NEW.provider_transaction_id AND a.payment_id IS DISTINCT FROM NEW.id;
    IF FOUND THEN
        RAISE EXCEPTION 'the transaction id belongs to money in suspense'
            USING ERRCODE = 'unique_violation', CONSTRAINT = 'payments_transaction';
    END IF;
    RETURN NEW;
END $$;

CREATE FUNCTION hold_arrived_transaction() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended(
        concat_ws(' ', 'kobiri', NEW.provider, NEW.account_fingerprint, NEW.transaction_id), 0));
    PERFORM 1 FROM payments p
    WHERE p.provider = NEW.provider AND p.account_fingerprint = NEW.account_fingerprint
      AND p.provider_transaction_id = NEW.transaction_id AND p.id IS DISTINCT FROM NEW.payment_id;
    IF FOUND THEN
        RAISE EXCEPTION 'the transaction id belongs to a payment'
            USING ERRCODE = 'unique_violation', CONSTRAINT = 'arrivals_transaction';
    END IF;
    RETURN NEW;
END $$;

CREATE TRIGGER hold_transaction BEFORE UPDATE OF provider_transaction_id ON payments FOR EACH ROW
    WHEN (NEW.provider_transaction_id IS NOT NULL
        AND NEW.provider_transaction_id IS DISTINCT FROM OLD.provider_transaction_id)
    EXECUTE FUNCTION hold_settled_transaction();
CREATE TRIGGER hold_transaction BEFORE INSERT ON arrivals FOR EACH ROW
    WHEN (NEW.transaction_id IS NOT NULL) EXECUTE FUNCTION hold_arrived_transaction();
"""

# A process of the version before, which may still run while this schema is there, books money without its arrival.
OLD_PROCESSES = """
CREATE FUNCTION add_arrival() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, public, pg_temp AS $$
BEGIN
    INSERT INTO arrivals (tenant_id, id, payment_id, provider, account_fingerprint, amount_minor, currency, why, source,
        told_in)
    SELECT p.tenant_id, gen_random_uuid(), p.id, p.provider, p.account_fingerprint, -NEW.amount_minor, NEW.currency,
        CASE p.failure_code WHEN 'resolved_by_operator' THEN 'mismatched' ELSE 'late' END, 'check',
        'the payment''s events'
    FROM payments p WHERE p.tenant_id = NEW.tenant_id AND p.id = NEW.payment_id;
    UPDATE payments SET received_minor = -NEW.amount_minor, received_currency = NEW.currency
    WHERE tenant_id = NEW.tenant_id AND id = NEW.payment_id;
    RETURN NULL;
END $$;
CREATE TRIGGER add_arrival AFTER INSERT ON ledger_entries FOR EACH ROW
    WHEN (NEW.arrival_id IS NULL AND NEW.account = 'suspense' AND NEW.reason = 'arrived_unexpectedly')
    EXECUTE FUNCTION add_arrival();
"""

DEFINER_FUNCTIONS = {"hold_settled_transaction()": "kobiri_api", "hold_arrived_transaction()": "kobiri_api"}

GRANTS = """
REVOKE ALL ON FUNCTION hold_settled_transaction(), hold_arrived_transaction(), add_arrival() FROM PUBLIC;
GRANT SELECT, INSERT, UPDATE ON arrivals, proposals TO kobiri_api;
GRANT SELECT ON arrivals, proposals TO kobiri_operator;
GRANT SELECT ON arrivals TO kobiri_claimer;
"""

# A payment with several arrivals has no place in the schema before: then this fails, and loses no booking.
OLD_LEDGER = """
DROP INDEX ledger_entries_payment;
ALTER TABLE ledger_entries DROP CONSTRAINT ledger_entries_pkey;
ALTER TABLE ledger_entries
    DROP COLUMN movement_id,
    DROP COLUMN arrival_id,
    ADD PRIMARY KEY (tenant_id, payment_id, reason, account);
CREATE OR REPLACE FUNCTION check_balance() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, public, pg_temp AS $$
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
"""


def upgrade() -> None:
    run_sql(PAYMENTS)
    run_sql(TABLES)
    run_sql(LEDGER)
    run_sql(OLD_ROWS)
    run_sql(TRIGGERS)
    run_sql(OLD_PROCESSES)
    run_sql(GRANTS)
    for table in ("arrivals", "proposals"):
        run_sql(walls(table))
    run_sql(owned_by_claimer(DEFINER_FUNCTIONS))


def downgrade() -> None:
    run_sql("DROP TRIGGER hold_transaction ON payments; DROP TRIGGER hold_transaction ON arrivals;")
    run_sql("DROP TRIGGER add_arrival ON ledger_entries; DROP FUNCTION add_arrival();")
    run_sql(dropped(*DEFINER_FUNCTIONS))
    run_sql(OLD_LEDGER)
    run_sql("DROP TABLE proposals; DROP TABLE arrivals; DROP INDEX payments_transaction;")
    run_sql(
        "ALTER TABLE payments DROP CONSTRAINT payments_received, DROP COLUMN received_minor,"
        " DROP COLUMN received_currency, DROP COLUMN shares_transaction_id;"
    )
