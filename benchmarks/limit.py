"""The physical limit: pgbench replays the very statements of T1 and T2, through the same roles and walls."""

import re
import subprocess
from pathlib import Path

from kobiri import embedded
from kobiri.store.db import begin
from kobiri.store.payments import INSERT_ONCE, WRITE

LEASE = "'8c5f5a5e-0000-4000-8000-000000000001'::uuid"

# What stands for each parameter of T1. Ids are made in the database: pgbench cannot.
T1 = {
    1: "'{tenant}'::uuid", 2: "'test'", 3: "gen_random_uuid()::text", 4: "'POST'", 5: "'/api/v1/payments'",
    6: "sha256(random()::text::bytea)", 7: "{new_id}", 8: "'1 day'::interval", 9: "'collection'", 10: "1000::bigint",
    11: "'ZMW'", 12: "'260961234567'", 13: "'mtn'", 14: "'mtn'", 15: "'0123456789abcdef'", 16: "gen_random_uuid()",
    17: "NULL::text", 18: "'Two school books'", 19: "NULL", 20: "NULL::text", 21: "1::smallint",
    22: "'60 s'::interval", 23: "'900 s'::interval", 24: "'15 s'::interval", 25: LEASE,
    26: "{new_id}", 27: "'payment.created'", 28: "'api_key:benchmark123'",
    29: """'{{"amount":"10.00","currency":"ZMW","network":"mtn","provider":"mtn","provider_reference":"x"}}'""",
    30: "'01935a1e-0000-7000-8000-000000000000'", 31: "NULL::uuid",
}  # fmt: skip

T2 = {
    1: "'{tenant}'::uuid", 2: "$1", 3: "1", 4: "'PENDING'", 5: "NULL::text", 6: "NULL::text",
    7: "NULL::text", 8: "NULL::text", 9: LEASE, 10: "false", 11: "0", 12: "0::smallint",
    13: "NULL::timestamptz", 14: "now()", 15: "NULL::timestamptz", 16: "now() + interval '30 s'", 17: "NULL::uuid",
    18: "false", 19: "'api_key:benchmark123'", 20: "'01935a1e-0000-7000-8000-000000000000'",
    21: "ARRAY[{new_id}]", 22: "'{{payment.accepted}}'",
    23: """ARRAY['{{"source":"send","provider_reference":"x"}}']""", 24: "NULL::text", 25: "'{{}}'", 26: "'{{}}'",
    27: "'{{}}'", 28: "'test'", 29: "$2", 30: "201::smallint", 31: "convert_to(repeat('x', 700), 'UTF8')",
    32: "NULL::bigint", 33: "NULL::text", 34: "NULL::uuid", 35: "0", 36: "NULL::timestamptz", 37: "NULL::text",
    38: "false",
}  # fmt: skip


def run(dsn: str, tenant: str, clients: int, seconds: int, folder: Path) -> float:
    """Payments a second that the database alone could store."""
    version = int(_psql(dsn, "SHOW server_version_num"))
    new_id = "uuidv7()" if version >= 180000 else "gen_random_uuid()"
    first = (
        _filled(INSERT_ONCE, T1, tenant, new_id)
        .replace("RETURNING payment_id )", "RETURNING payment_id, key )")
        .replace("SELECT created_at FROM paid", "SELECT id, key FROM paid JOIN claimed ON payment_id = id")
    )
    # The simple protocol sends the opening of a transaction in one piece, as the application does; what the
    # application prepares by the protocol is prepared here by hand, once a connection.
    opening = begin(f"SET LOCAL ROLE kobiri_api; SET LOCAL app.tenant_id = '{tenant}'").replace("; ", " \\; ") + ";\n"
    script = folder / "payment.sql"
    script.write_text(
        "\\if :unprepared\n"
        f"PREPARE t1 AS {first};\nPREPARE t2 (uuid, text) AS {_filled(WRITE, T2, tenant, new_id)};\n"
        "\\set unprepared 0\n\\endif\n"
        f"{opening}EXECUTE t1 \\gset\nCOMMIT;\n{opening}EXECUTE t2 (':id', ':key');\nCOMMIT;\n"
    )
    command = [
        str(embedded.bin_path("pgbench")), "-n", "-M", "simple", "-D", "unprepared=1", "-c", str(clients), "-j", "2",
        "-T", str(seconds), "-f", str(script), dsn,
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 60, check=False)
    match = re.search(r"tps = ([\d.]+) \(without", done.stdout)
    if match is None or "aborted" in done.stderr:
        raise RuntimeError(f"pgbench: {done.stdout[-500:]} {done.stderr[-500:]}")
    return float(match[1])


def settle(dsn: str) -> None:
    """Make all payments final, as their callbacks would: nobody answers here, and the worker would ask for each."""
    _psql(
        dsn,
        "UPDATE payments SET status = 'SUCCESSFUL', completed_at = now(), next_run_at = NULL, lease_token = NULL,"
        " version = version + 1 WHERE next_run_at IS NOT NULL",
    )


def _filled(statement: str, values: dict[int, str], tenant: str, new_id: str) -> str:
    def value(match: re.Match[str]) -> str:
        return "(" + values[int(match[1])].format(tenant=tenant, new_id=new_id) + ")"

    filled = re.sub(r"\$(\d+)", value, statement)
    return " ".join(filled.split())


def _psql(dsn: str, sql: str) -> str:
    command = [str(embedded.bin_path("psql")), "-X", "-A", "-t", "-d", dsn, "-c", sql]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
