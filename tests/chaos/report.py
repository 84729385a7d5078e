"""The report of a run, for people."""

import json
from collections.abc import Mapping

from tests.chaos.run import Report


def show(report: Report) -> None:
    """Print it."""
    print("\n".join(lines(report)))


def lines(report: Report) -> list[str]:
    found = [f"Payments: {report.made}"]
    found += [f"  {provider:<10} {_counts(counts)}" for provider, counts in sorted(report.payments.items())]
    found += [f"Dialects: {', '.join(f'{provider} {name}' for provider, name in report.spoken.items()) or 'usual'}"]
    found += [f"Faults at the providers: {_counts(report.faults)}"]
    found += [f"Processes and database: {_counts(report.hurt)}"]
    found += [f"Clients: {_counts(report.clients)}"]
    found += [f"At rest after {report.rested_s:.0f} s." if report.rested_s is not None else "Not at rest in time."]
    if not report.broken:
        return [*found, f"All {len(report.invariants)} invariants hold."]
    found += [f"BROKEN: {each.invariant}\n  {each.payment_id or ''} {each.detail[:2_000]}" for each in report.broken]
    for payment_id, history in report.histories.items():
        found += [f"--- payment {payment_id}"]
        found += [f"{name}: {json.dumps(each, default=str)}" for name, several in history.items() for each in several]
    modes = (" LIES=1" if report.lying else "") + (" STRANGE=1" if report.spoken else "")
    again = f"make chaos SEED={report.seed} SECONDS={report.seconds:g}{modes}"
    return [*found, f"Broken with seed {report.seed}; again: {again}"]


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items()) or "none"
