"""The number that a wallet's SMS and a provider's statement show, where it is not the id that the API tells."""

from kobiri.store.migrations import dropped, owned_by_claimer, run_sql

revision = "0012"
down_revision = "0011"

TABLES = """
ALTER TABLE payments ADD COLUMN provider_receipt text;
CREATE UNIQUE INDEX payments_receipt ON payments (provider, account_fingerprint, provider_receipt)
    WHERE provider_receipt IS NOT NULL;
"""

# Both numbers of a payment and both ids of an arrival are of one space. The lock makes two that come at once see each
# other; of two equal ones in one place its index knows. Only what is new is looked for: payments that shared an id
# before there was this rule may change otherwise.
FUNCTIONS = """
CREATE FUNCTION hold_settled_transaction() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE
    held text;
BEGIN
    FOREACH held IN ARRAY ARRAY(
        SELECT DISTINCT id FROM unnest(ARRAY[
            CASE WHEN NEW.provider_transaction_id IS DISTINCT FROM OLD.provider_transaction_id
                THEN NEW.provider_transaction_id END,
            CASE WHEN NEW.provider_receipt IS DISTINCT FROM OLD.provider_receipt THEN NEW.provider_receipt END
        ]) AS id WHERE id IS NOT NULL ORDER BY id
    ) LOOP
        PERFORM pg_advisory_xact_lock(hashtextextended(
            concat_ws(' ', 'kobiri', NEW.provider, NEW.account_fingerprint, held), 0));
        PERFORM 1 FROM arrivals a
        WHERE a.provider = NEW.provider AND a.account_fingerprint = NEW.account_fingerprint
          AND held IN (a.transaction_id, a.other_id) AND a.payment_id IS DISTINCT FROM NEW.id
        UNION ALL
        SELECT 1 FROM payments p
        WHERE p.provider = NEW.provider AND p.account_fingerprint = NEW.account_fingerprint
          AND p.provider_receipt = held AND held = NEW.provider_transaction_id AND p.id <> NEW.id
        UNION ALL
        SELECT 1 FROM payments p
        WHERE p.provider = NEW.provider AND p.account_fingerprint = NEW.account_fingerprint
          AND p.provider_transaction_id = held AND held = NEW.provider_receipt AND NOT p.shares_transaction_id
          AND p.id <> NEW.id;
        IF FOUND THEN
            RAISE EXCEPTION 'the number belongs to another payment, or to money in suspense'
                USING ERRCODE = 'unique_violation', CONSTRAINT = 'payments_transaction';
        END IF;
    END LOOP;
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
        SELECT 1 FROM payments p
        WHERE p.provider = NEW.provider AND p.account_fingerprint = NEW.account_fingerprint
          AND p.provider_receipt = held AND p.id IS DISTINCT FROM NEW.payment_id
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

DROPPED = "DROP TRIGGER hold_transaction ON payments; DROP TRIGGER hold_transaction ON arrivals;"
ON_PAYMENTS = """
CREATE TRIGGER hold_transaction BEFORE UPDATE OF provider_transaction_id, provider_receipt ON payments FOR EACH ROW
    WHEN ((NEW.provider_transaction_id IS NOT NULL
            AND NEW.provider_transaction_id IS DISTINCT FROM OLD.provider_transaction_id)
        OR (NEW.provider_receipt IS NOT NULL AND NEW.provider_receipt IS DISTINCT FROM OLD.provider_receipt))
    EXECUTE FUNCTION hold_settled_transaction();
"""
OLD_ON_PAYMENTS = """
CREATE TRIGGER hold_transaction BEFORE UPDATE OF provider_transaction_id ON payments FOR EACH ROW
    WHEN (NEW.provider_transaction_id IS NOT NULL
        AND NEW.provider_transaction_id IS DISTINCT FROM OLD.provider_transaction_id)
    EXECUTE FUNCTION hold_settled_transaction();
"""
ON_ARRIVALS = """
CREATE TRIGGER hold_transaction BEFORE INSERT OR UPDATE OF transaction_id, other_id ON arrivals FOR EACH ROW
    EXECUTE FUNCTION hold_arrived_transaction();
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
    run_sql("ALTER TABLE payments DROP COLUMN provider_receipt;")
    run_sql(OLD_FUNCTIONS + CLOSED + OLD_ON_PAYMENTS + ON_ARRIVALS)
    run_sql(owned_by_claimer(DEFINER_FUNCTIONS))
