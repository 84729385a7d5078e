"""Since when a provider is open by an operator's word: what the processes held against it before is forgotten then."""

from kobiri.store.migrations import dropped, owned_by_claimer, run_sql

revision = "0006"
down_revision = "0005"

FUNCTION = """
CREATE FUNCTION opened_providers() RETURNS TABLE (provider text, changed_at timestamptz)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
    SELECT s.provider, s.changed_at FROM provider_switches s WHERE s.is_open
$$;
REVOKE ALL ON FUNCTION opened_providers() FROM PUBLIC;
"""


def upgrade() -> None:
    run_sql(FUNCTION)
    run_sql(owned_by_claimer({"opened_providers()": "kobiri_api"}))


def downgrade() -> None:
    run_sql(dropped("opened_providers()"))
