"""kobiri serve, worker, simulator: the processes of a deployment."""

import asyncio
import os

from kobiri import app, telemetry
from kobiri.cli.output import Json, emit, plain_errors
from kobiri.config import Settings, load


def serve(json: Json = False) -> None:
    """Serve the API on HOST and PORT with API_PROCESSES processes, until Ctrl-C or SIGTERM.

    Example: PORT=8080 API_PROCESSES=4 kobiri serve
    """
    with plain_errors(json):
        settings = _start()
        app.check(settings)
        _announce(json, {"api": f"http://{settings.host}:{settings.port}", "processes": settings.api_processes})
        app.serve(settings)


def worker(json: Json = False) -> None:
    """Resume due payments, seal events, purge what is old, until Ctrl-C or SIGTERM. Run as many as you like.

    Example: WORKER_CONCURRENCY=100 kobiri worker
    """
    with plain_errors(json):
        settings = _start()
        app.check(settings)
        _announce(json, {"worker": os.getpid()})
        asyncio.run(app.run_worker(settings))


def simulator(json: Json = False) -> None:
    """Run the operators' simulators on SIMULATOR_PORT, until Ctrl-C or SIGTERM. They move no money.

    Example: SIMULATOR_PORT=9001 kobiri simulator
    """
    with plain_errors(json):
        settings = _start()
        _announce(json, {"simulator": f"http://{settings.host}:{settings.simulator_port}"})
        app.run_simulator(settings, quiet=json)


def _start() -> Settings:
    settings = load()
    telemetry.configure(settings.log_level, settings.log_format)
    if os.environ.get("KOBIRI_SUPERVISED"):
        app.die_with_parent()
    return settings


def _announce(json: bool, document: dict[str, object]) -> None:
    if json:
        emit(json, document, lambda _console: None)
