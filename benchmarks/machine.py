"""Processes of a benchmark: started, measured through /proc, and stopped."""

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class Part:
    """A part of the system whose CPU time is counted: a process and all its descendants."""

    name: str
    pid: int

    def cpu_s(self) -> float:
        """Seconds of CPU, user and system, of all its processes that live now and of those that it has waited for."""
        return sum(_cpu_s(pid) for pid in descendants(self.pid))

    def memory_mb(self) -> dict[int, float]:
        """Resident memory of each process."""
        found = {}
        for pid in descendants(self.pid):
            try:
                found[pid] = int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE_BYTES / 1e6
            except (FileNotFoundError, ProcessLookupError):
                continue
        return found


def descendants(pid: int) -> list[int]:
    """A process and everything below it."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except (FileNotFoundError, ProcessLookupError):
                continue
            children.setdefault(parent, []).append(int(entry.name))
    found, queue = [], [pid]
    while queue:
        current = queue.pop()
        found.append(current)
        queue += children.get(current, [])
    return found


def _cpu_s(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    return sum(int(fields[index]) for index in (11, 12, 13, 14)) / TICKS_A_SECOND


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def process(command: Sequence[str], environment: Mapping[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that is stopped at the end, gently first."""
    with log.open("ab") as output:
        started = subprocess.Popen(
            list(command), env=dict(environment), stdin=subprocess.DEVNULL, stdout=output, stderr=output
        )
    try:
        yield started
    finally:
        started.send_signal(signal.SIGTERM)
        try:
            started.wait(20)
        except subprocess.TimeoutExpired:
            started.kill()
            started.wait()


def kobiri(verb: str) -> list[str]:
    """The command line of a process of ours."""
    return [sys.executable, "-m", "kobiri", verb]


def installed(name: str) -> str | None:
    """Where a program is, if it is there."""
    return shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin")
