"""Money in suspense is known by the ids of the API and of statements, and has a mode."""

from kobiri.store.migrations import dropped, owned_by_claimer, run_sql

revision = "0008"
down_revision = "0007"

# `other_id`: what the same money is called where ids are of another kind than the source's. `mode`: of money of no
# payment; its account tells. What older versions wrote is taken for real money.
TABLES = """
ALTER TABLE arrivals ADD COLUMN other_id text, ADD COLUMN mode text CHECK (mode IN ('live', 'test'));
ALTER TABLE arrivals NO FORCE ROW LEVEL SECURITY;
UPDATE arrivals SET mode = 'live' WHERE payment_id IS NULL;
ALTER TABLE arrivals FORCE ROW LEVEL SECURITY;
ALTER TABLE arrivals ADD CONSTRAINT arrivals_mode CHECK ((payment_id IS NULL) = (mode IS NOT NULL));
CREATE UNIQUE INDEX arrivals_other_id ON arrivals (provider, account_fingerprint, other_id);
"""

# Payments and arrivals hold transaction ids of one space. The lock makes two that come at once see each other.
FUNCTIONS = """
CREATE FUNCTION hold_settled_transaction() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended(
        concat_ws(' ', 'kobiri', NEW.provider, NEW.account_fingerprint, NEW.provider_transaction_id), 0));
    PERFORM 1 FROM arrivals a
    WHERE a.provider = NEW.provider AND a.account_fingerprint = NEW.account_fingerprint
      AND NEW.provider_transaction_id IN (a.transaction_id, a.other_id) AND a.payment_id IS DISTINCT FROM NEW.id;
    IF FOUND THEN
        RAISE EXCEPTION 'the transaction id belongs to money in suspense'
            USING ERRCODE = 'unique_violation', CONSTRAINT = 'payments_transaction';
    END IF;
    RETURN NEW;
END $$;

CREATE FUNCTION hold_arrived_transaction() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE
    held text;
BEGIN
    FOREACH held IN ARRAY ARRAY(
        SELECT DISTINCT id FROM unnest(ARRAY[NEW.transaction_id, NEW.other_id]) AS id WHERE id IS NOT NULL ORDER BY id
    ) LOOP
        PERFORM pg_advisory_xact_lock(hashtextextended(
            concat_ws(' ', 'kobiri', NEW.provider, NEW.account_fingerprint, held), 0));
        PERFORM 1 FROM payments p
        WHERE p.provider = NEW.provider AND p.account_fingerprint = NEW.account_fingerprint
          AND p.provider_transaction_id = held AND p.id IS DISTINCT FROM NEW.payment_id
        UNION ALL
        SELECT 1 FROM arrivals a
        WHERE a.provider = NEW.provider AND a.account_fingerprint = NEW.account_fingerprint
          AND held IN (a.transaction_id, a.other_id) AND a.id <> NEW.id
          AND (a.payment_id IS DISTINCT FROM NEW.payment_id OR NEW.payment_id IS NULL);
        IF FOUND THEN
            RAISE EXCEPTION 'the transaction id belongs to a payment, or to other money in suspense'
                USING ERRCODE = 'unique_violation', CONSTRAINT = 'arrivals_transaction';
        END IF;
    END LOOP;
    RETURN NEW;
END $$;
"""

OLD_FUNCTIONS = """
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
"""

DROPPED = "DROP TRIGGER hold_transaction ON payments; DROP TRIGGER hold_transaction ON arrivals;"
ON_PAYMENTS = """
CREATE TRIGGER hold_transaction BEFORE UPDATE OF provider_transaction_id ON payments FOR EACH ROW
    WHEN (NEW.provider_transaction_id IS NOT NULL
        AND NEW.provider_transaction_id IS DISTINCT FROM OLD.provider_transaction_id)
    EXECUTE FUNCTION hold_settled_transaction();
"""
ON_ARRIVALS = """
CREATE TRIGGER hold_transaction BEFORE INSERT OR UPDATE OF transaction_id, other_id ON arrivals FOR EACH ROW
    EXECUTE FUNCTION hold_arrived_transaction();
"""
OLD_ON_ARRIVALS = """
CREATE TRIGGER hold_transaction BEFORE INSERT ON arrivals FOR EACH ROW
    WHEN (NEW.transaction_id IS NOT NULL) EXECUTE FUNCTION hold_arrived_transaction();
"""
CLOSED = "REVOKE ALL ON FUNCTION hold_settled_transaction(), hold_arrived_transaction() FROM PUBLIC;"
DEFINER_FUNCTIONS = {"hold_settled_transaction()": "kobiri_api", "hold_arrived_transaction()": "kobiri_api"}


def upgrade() -> None:
    run_sql(DROPPED)
    run_sql(dropped(*DEFINER_FUNCTIONS))
    run_sql(TABLES)
    run_sql(FUNCTIONS + CLOSED + ON_PAYMENTS + ON_ARRIVALS)
    run_sql(owned_by_claimer(DEFINER_FUNCTIONS))


def downgrade() -> None:
    run_sql(DROPPED)
    run_sql(dropped(*DEFINER_FUNCTIONS))
    run_sql("ALTER TABLE arrivals DROP COLUMN other_id, DROP COLUMN mode;")
    run_sql(OLD_FUNCTIONS + CLOSED + ON_PAYMENTS + OLD_ON_ARRIVALS)
    run_sql(owned_by_claimer(DEFINER_FUNCTIONS))
