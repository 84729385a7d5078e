"""python -m tests.chaos: faults, kills, restarts and lost connections, all drawn from one seed; then the invariants.

With --lies nobody is killed, and operators say what is not so. With --strange each speaks its strangest dialect.
"""

import argparse
import asyncio
import json
import random
import shutil
import signal
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from tests.chaos.report import show
from tests.chaos.run import Report, run

EXAMPLES = """examples:
  python -m tests.chaos                                 60 seconds by a drawn seed
  python -m tests.chaos --seed 4711 --seconds 600       that very plan, for ten minutes
  python -m tests.chaos --lies --seed 4711              the operators lie
  python -m tests.chaos --strange                       the operators speak strangely
"""


def main() -> int:
    """Exit code: 0 when all invariants hold, 1 when one is broken."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.chaos",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--seed", type=int, help="the plan's seed (default: drawn, and printed)")
    parser.add_argument("--seconds", type=float, default=60, help="how long it goes on (default 60)")
    parser.add_argument("--lies", action="store_true", help="the operators lie, and the processes are left alone")
    parser.add_argument("--strange", action="store_true", help="each operator speaks its strangest dialect")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the report there too")
    chosen = parser.parse_args()
    if chosen.seconds <= 0:
        parser.error("--seconds must be above zero")
    seed = random.SystemRandom().randrange(1_000_000_000) if chosen.seed is None else chosen.seed
    modes = (", with lies" if chosen.lies else "") + (", in the strangest dialects" if chosen.strange else "")
    print(f"Seed {seed}, {chosen.seconds:g} seconds{modes}.", flush=True)
    folder = Path(tempfile.mkdtemp(prefix="kobiri-chaos-"))
    folder.chmod(0o711)  # root's PostgreSQL is another user, who must be able to walk through
    intact = False
    try:
        report = _run(seed, chosen.seconds, folder, lying=chosen.lies, strange=chosen.strange)
        intact = not report.broken
    finally:
        if intact:
            shutil.rmtree(folder, ignore_errors=True)
        else:
            print(f"The logs of all processes are in {folder}.", file=sys.stderr)
    if chosen.json is not None:
        chosen.json.write_text(json.dumps(report.document(), indent=2, default=str) + "\n")
    show(report)
    return 0 if intact else 1


def _run(seed: int, seconds: float, folder: Path, *, lying: bool, strange: bool) -> Report:
    with Progress(console=Console(stderr=True), transient=True) as progress:
        bar = progress.add_task("", total=1)

        async def work() -> Report:
            # Who is told to stop takes along what it started, PostgreSQL too.
            task = asyncio.current_task()
            assert task is not None
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
            return await run(
                seed,
                seconds,
                folder,
                lambda what, share: progress.update(bar, description=what, completed=share),
                lying=lying,
                strange=strange,
            )

        return asyncio.run(work())


if __name__ == "__main__":
    sys.exit(main())
