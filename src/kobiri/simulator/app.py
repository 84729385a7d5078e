"""The simulator as one application: each provider under its own prefix, the control API under /_sim."""

import asyncio
import logging
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any

import msgspec
from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from kobiri.domain.address import host_of, is_loopback
from kobiri.simulator.books import Books
from kobiri.simulator.faults import ErrorAnswer, Fault, FaultError, Faults, decode, readable
from kobiri.simulator.journal import Journal
from kobiri.simulator.stage import RECEIVED, CallbackOrder, OrderError, SimulatorSettings, Stage

__all__ = ["Build", "SimulatorSettings", "Stage", "build", "serve"]

log = logging.getLogger("kobiri.simulator")

Build = Callable[[Stage], web.Application]

NOT_THERE = "Callbacks go to http or https addresses of this machine, and of the hosts in SIMULATOR_HOSTS."
MAX_DIGITS = 9
MAX_MOVEMENTS_SHOWN = 100_000
SHUTDOWN_TIMEOUT_S = 1.0


def build(providers: Mapping[str, Build], *, settings: SimulatorSettings | None = None) -> web.Application:
    """Mount each provider's simulator under `/<name>`. Must be called with an event loop running."""
    settings = settings or SimulatorSettings()
    if unknown := set(settings.providers) - set(providers):
        raise ValueError(f"settings for providers that are not mounted: {', '.join(sorted(unknown))}")
    closing = asyncio.Event()
    books = Books(limit=settings.max_movements)
    faults = Faults()
    journal = Journal(limit=settings.max_requests)
    stages = {
        name: Stage(provider=name, settings=settings, books=books, faults=faults, journal=journal, closing=closing)
        for name in providers
    }

    app = web.Application(
        client_max_size=settings.max_body_bytes,
        middlewares=[_never_a_traceback, _guarding(settings.hosts), _journalling(journal, frozenset(providers))],
    )
    for name, build_provider in providers.items():
        app.add_subapp(f"/{name}", build_provider(stages[name]))
    app.add_routes(_Control(stages, books, faults, journal).routes())

    async def lifespan(_: web.Application) -> AsyncIterator[None]:
        yield
        for stage in stages.values():
            await stage.close()

    async def close(_: web.Application) -> None:
        closing.set()

    app.cleanup_ctx.append(lifespan)
    app.on_shutdown.append(close)
    return app


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


async def serve(
    host: str,
    port: int,
    providers: Mapping[str, Build],
    *,
    settings: SimulatorSettings | None = None,
    announce: Callable[[str], None] = _say,
) -> None:
    """Serve until SIGTERM or SIGINT. `announce` gets one line once requests are accepted."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    runner = web.AppRunner(build(providers, settings=settings), access_log=None, shutdown_timeout=SHUTDOWN_TIMEOUT_S)
    try:
        await runner.setup()
        await web.TCPSite(runner, host, port).start()
        announce(f"Simulator ready on {_url(runner)} ({', '.join(providers)})")
        await stop.wait()
    finally:
        await runner.cleanup()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)


def _url(runner: web.AppRunner) -> str:
    host, port = runner.addresses[0][:2]
    return f"http://[{host}]:{port}" if ":" in str(host) else f"http://{host}:{port}"


@web.middleware
async def _never_a_traceback(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except web.HTTPException as answer:
        return _problem(answer.status, answer.reason)
    except Exception:
        log.exception("the simulator failed at %s %s", request.method, request.path)
        return _problem(500, "The simulator itself failed; its log says more.")


def _guarding(hosts: AbstractSet[str]) -> Middleware:
    """The control API has no password: no web page may use it by a browser on this machine.

    Its address is not enough, for a page may point its own name here. JSON, a page of elsewhere cannot send unasked.
    """

    @web.middleware
    async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.path.split("/", 2)[1] != "_sim":
            return await handler(request)
        host = host_of(f"http://{request.host}")
        if host is None or not (is_loopback(host) or host in hosts):
            return _problem(403, "The control API is called by a name of this machine, or one of SIMULATOR_HOSTS.")
        if request.headers.get("Origin", f"http://{request.host}") != f"http://{request.host}":
            return _problem(403, "No page of another origin may call the control API.")
        if request.method in ("POST", "PUT", "PATCH") and request.content_type != "application/json":
            return _problem(415, "Send JSON, and the header Content-Type: application/json.")
        return await handler(request)

    return guard


def _journalling(journal: Journal, providers: frozenset[str]) -> Middleware:
    @web.middleware
    async def write_down(request: web.Request, handler: Handler) -> web.StreamResponse:
        provider = request.path.split("/", 2)[1]
        if provider not in providers:
            return await handler(request)
        began = time.monotonic()
        too_large: web.HTTPException | None = None
        body = b""
        try:
            body = await request.read()
        except web.HTTPRequestEntityTooLarge as error:
            too_large = error
        received = journal.receive(
            provider=provider,
            method=request.method,
            path=request.path,
            query=bool(request.query_string),
            headers=request.headers.items(),
            body=body,
        )
        request[RECEIVED] = received
        response = _problem(413, "Content Too Large") if too_large is not None else await handler(request)
        if received.answered is None:
            received.answered = response.status
        received.took_ms = round((time.monotonic() - began) * 1000, 1)
        return response

    return write_down


@dataclass(frozen=True, slots=True)
class _Control:
    stages: Mapping[str, Stage]
    books: Books
    faults: Faults
    journal: Journal

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/_sim/health", self.health),
            web.get("/_sim/books", self.show_books),
            web.delete("/_sim/books", self.clear_books),
            web.get("/_sim/requests", self.show_requests),
            web.delete("/_sim/requests", self.clear_requests),
            web.post("/_sim/faults", self.add_fault),
            web.get("/_sim/faults", self.show_faults),
            web.get("/_sim/faults/hits", self.show_hits),
            web.delete("/_sim/faults", self.clear_faults),
            web.delete("/_sim/faults/{id}", self.remove_fault),
            web.post("/_sim/callbacks", self.send_callback),
            web.get("/_sim/callbacks", self.show_callbacks),
            web.get("/_sim/settings", self.show_settings),
            web.patch("/_sim/settings/{provider}", self.change_settings),
            web.delete("/_sim/payments", self.forget_payments),
        ]

    async def health(self, _: web.Request) -> web.Response:
        return _json({"status": "ok", "providers": list(self.stages)})

    async def show_books(self, request: web.Request) -> web.Response:
        filters = _filters(request, "reference", "provider", "min_charged", "limit")
        try:
            least = _whole_number(filters, "min_charged", 1)
            limit = _whole_number(filters, "limit", MAX_MOVEMENTS_SHOWN)
        except ValueError as error:
            return _problem(400, str(error))
        found = list(
            self.books.find(provider=filters.get("provider"), reference=filters.get("reference"), min_charged=least)
        )
        shown = found[-limit:]
        totals = self.books.totals(found)
        return _json({"movements": shown, "totals": totals, "truncated": len(shown) < len(found)})

    async def clear_books(self, _: web.Request) -> web.Response:
        self.books.clear()
        return web.Response(status=204)

    async def show_requests(self, request: web.Request) -> web.Response:
        filters = _filters(request, "reference", "path", "provider")
        return _json({"requests": self.journal.requests(**filters)})

    async def clear_requests(self, _: web.Request) -> web.Response:
        self.journal.clear()
        return web.Response(status=204)

    async def add_fault(self, request: web.Request) -> web.Response:
        try:
            fault = decode(await request.read())
            self._check_names(fault)
            return _json(self.faults.add(fault), status=201)
        except FaultError as error:
            return _problem(400, str(error))

    def _check_names(self, fault: Fault) -> None:
        if fault.provider != "any" and fault.provider not in self.stages:
            here = ", ".join(("any", *self.stages))
            raise FaultError(f"Unknown `provider` {fault.provider!r}; here: {here}.")
        if isinstance(fault, ErrorAnswer) and fault.shape is not None:
            self._check_shape(fault.provider, fault.shape)

    def _check_shape(self, provider: str, shape: str) -> None:
        for name, stage in self.stages.items():
            known = stage.actor.error_shapes if stage.actor is not None else frozenset()
            if provider in ("any", name) and shape not in known:
                raise FaultError(f"Unknown `shape` {shape!r}; {name} has {', '.join(sorted(known))}.")

    async def show_faults(self, _: web.Request) -> web.Response:
        return _json({"faults": list(self.faults.listed())})

    async def show_hits(self, request: web.Request) -> web.Response:
        filters = _filters(request, "reference", "provider")
        return _json({"hits": self.faults.hits(**filters)})

    async def clear_faults(self, _: web.Request) -> web.Response:
        self.faults.clear()
        return web.Response(status=204)

    async def remove_fault(self, request: web.Request) -> web.Response:
        if not self.faults.remove(request.match_info["id"]):
            return _problem(404, "There is no such fault.")
        return web.Response(status=204)

    async def send_callback(self, request: web.Request) -> web.Response:
        try:
            order = msgspec.json.decode(await request.read(), type=CallbackOrder)
        except (msgspec.DecodeError, RecursionError) as error:
            why = readable(error) if isinstance(error, msgspec.DecodeError) else "nested too deeply"
            return _problem(400, f"The callback was not understood: {why}.")
        if order.provider is not None and order.provider not in self.stages:
            return _problem(400, f"Unknown `provider`; here: {', '.join(self.stages)}.")
        for name, stage in self.stages.items():
            if stage.actor is None or order.provider not in (None, name):
                continue
            try:
                outgoing = stage.actor.callback(order)
            except OrderError as error:
                return _problem(400, str(error))
            if outgoing is not None and not stage.may_call(outgoing.url):
                return _problem(400, NOT_THERE)
            if outgoing is not None:
                return _json(await stage.deliver(outgoing, order.reference, "by hand"))
        return _problem(404, "No provider knows this `reference`; with a `provider` and a `url` it may be invented.")

    async def show_callbacks(self, request: web.Request) -> web.Response:
        filters = _filters(request, "reference", "provider")
        return _json({"callbacks": self.journal.deliveries(**filters)})

    async def show_settings(self, _: web.Request) -> web.Response:
        return _json({"providers": {name: _shown_options(stage) for name, stage in self.stages.items()}})

    async def change_settings(self, request: web.Request) -> web.Response:
        stage = self.stages.get(request.match_info["provider"])
        if stage is None or stage.current_options is None:
            return _problem(404, f"There is no such provider; here: {', '.join(self.stages)}.")
        try:
            patch = msgspec.json.decode(await request.read(), type=dict[str, Any])
            urls = [value for name, value in patch.items() if name.endswith("callback_url") and isinstance(value, str)]
            if not all(map(stage.may_call, urls)):
                return _problem(400, NOT_THERE)
            stage.current_options.change(patch)
        except RecursionError:
            return _problem(400, "The settings were not understood: nested too deeply.")
        except msgspec.DecodeError as error:
            return _problem(400, f"The settings were not understood: {readable(error)}.")
        return _json(_shown_options(stage))

    async def forget_payments(self, _: web.Request) -> web.Response:
        for stage in self.stages.values():
            if stage.actor is not None:
                stage.actor.restart()
        return web.Response(status=204)


def _shown_options(stage: Stage) -> dict[str, Any]:
    if stage.current_options is None:
        return {}
    shown: dict[str, Any] = msgspec.to_builtins(stage.current_options.now)
    hidden = ("client_secret", "pin", "callback_key", "webhook_secret", "api_key", "api_tokens", "subscription_keys")
    return {name: "[hidden]" if name in hidden and value else value for name, value in shown.items()}


def _filters(request: web.Request, *known: str) -> dict[str, str]:
    if set(request.query) - set(known):
        raise web.HTTPBadRequest(reason=f"Unknown filter; known here: {', '.join(known)}") from None
    return {name: request.query[name] for name in known if name in request.query}


def _whole_number(filters: Mapping[str, str], name: str, default: int) -> int:
    text = filters.get(name, str(default))
    if not (text.isascii() and text.isdigit() and len(text) <= MAX_DIGITS and int(text) > 0):
        raise ValueError(f"`{name}` must be a whole number above zero.")
    return int(text)


def _json(content: object, *, status: int = 200) -> web.Response:
    return web.Response(body=msgspec.json.encode(content), status=status, content_type="application/json")


def _problem(status: int, detail: str) -> web.Response:
    return _json({"status": status, "detail": detail}, status=status)
