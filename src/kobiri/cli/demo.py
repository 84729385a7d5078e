"""kobiri demo: the whole product on one machine."""

import sys

import typer

from kobiri.cli.output import Json, emit, plain_errors


def demo(json: Json = False) -> None:
    """Run everything here: database, simulators, API, worker, a demo tenant and one payment; Ctrl-C stops it all.

    Ports come from PORT and SIMULATOR_PORT, data goes to KOBIRI_HOME (.kobiri); demo.json there says how to reach it.
    Nothing outside this machine is called: with an account, a database or an address elsewhere it does not start.

    Example: PORT=8080 SIMULATOR_PORT=8081 KOBIRI_HOME=/tmp/kobiri kobiri demo
    """
    from kobiri import demo as stack

    def say(line: str) -> None:
        if not json:
            typer.echo(line)

    with plain_errors(json):
        stack.run(say, sys.stderr if json else sys.stdout, lambda document: emit(json, document, lambda _console: None))
