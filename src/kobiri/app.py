"""The composition root: settings become pool, accounts and gateway, these the API or the worker. Nothing else wires."""

import asyncio
import base64
import ctypes
import functools
import gc
import hashlib
import hmac
import os
import secrets
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Container
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import TypeAlias

import structlog
from litestar import Litestar

from kobiri import embedded, net, telemetry
from kobiri.api import routes
from kobiri.api.cursors import Cursors
from kobiri.api.schemas import render_payment
from kobiri.api.state import ApiState
from kobiri.api.throttle import Throttle
from kobiri.config import ConfigurationError, Settings, load
from kobiri.domain import webhook
from kobiri.domain.envelope import MasterKeys
from kobiri.domain.errors import NotFound
from kobiri.domain.ids import AccountId
from kobiri.providers import registry
from kobiri.providers.base import Provider, ProviderSpec
from kobiri.services.access import Access
from kobiri.services.accounts import Make, TenantAccount
from kobiri.services.accounts import load as load_accounts
from kobiri.services.gateway import Gateway
from kobiri.services.reviews import Operator
from kobiri.services.roads import Road
from kobiri.services.routing import OwnRoads, Roads
from kobiri.store.db import Database
from kobiri.worker import loop, tasks

log = structlog.get_logger(__name__)

NOTE_KEY_USE_S = 60
OPERATOR_CONNECTIONS = 2
SECRETS_FILE = "secrets"
PEPPER_LENGTH = 32
MASTER_KEYS_FILE = "master-keys"
DRAIN = signal.SIGUSR1

Around: TypeAlias = Callable[[Provider], Provider]


def _as_it_is(provider: Provider) -> Provider:
    return provider


def dsn(settings: Settings) -> str:
    """The database of the application's login. Raises ConfigurationError when the embedded one does not run."""
    if settings.configured_dsn is not None:
        return settings.configured_dsn
    running = embedded.running_dsn(settings.kobiri_home)
    if running is None:
        raise ConfigurationError(
            f"No database: set DATABASE_URL, or start the embedded one with: kobiri demo "
            f"(KOBIRI_HOME is {settings.kobiri_home})."
        )
    return as_login(running, settings.database_user)


def migration_dsn(settings: Settings) -> str:
    """The database of the login that owns the schema."""
    if settings.database_migration_url is not None:
        return settings.database_migration_url.get_secret_value()
    if settings.configured_dsn is not None:
        return settings.configured_dsn
    running = embedded.running_dsn(settings.kobiri_home)
    if running is None:
        raise ConfigurationError("No database: set DATABASE_URL, or start the embedded one with: kobiri demo.")
    return running


def as_login(superuser_dsn: str, login: str) -> str:
    """The embedded database's address for another login."""
    return superuser_dsn.replace("postgresql://postgres@", f"postgresql://{login}@", 1)


def pepper(settings: Settings) -> bytes:
    """The secret under which API keys are stored.

    With the embedded database it is made once and kept under KOBIRI_HOME; otherwise it must be configured.
    """
    if settings.api_key_pepper is not None:
        return settings.api_key_pepper.get_secret_value().encode()
    if not settings.uses_embedded_database:
        raise ConfigurationError("API_KEY_PEPPER is not set; make one with: openssl rand -hex 32")
    path = settings.kobiri_home / SECRETS_FILE
    text = _kept_secret(path, secrets.token_hex(32))
    if len(text) < PEPPER_LENGTH:
        raise ConfigurationError(
            f"{path} is cut short, perhaps by a power cut: put it back from your backup. Without it no API key is"
            " valid; to begin anew remove it and make new keys."
        )
    return text.encode()


def master_keys(settings: Settings) -> MasterKeys | None:
    """KOBIRI_MASTER_KEYS, or those that are kept beside the embedded database. None: nothing can be sealed."""
    if settings.kobiri_master_keys is not None:
        return MasterKeys.parse(settings.kobiri_master_keys.get_secret_value())
    if not settings.uses_embedded_database:
        return None
    path = settings.kobiri_home / MASTER_KEYS_FILE
    text = _kept_secret(path, f"first:{base64.b64encode(secrets.token_bytes(32)).decode()}")
    try:
        return MasterKeys.parse(text)
    except ValueError as error:
        raise ConfigurationError(
            f"{path} is cut short or damaged ({error}): put it back from your backup. Without it no merchant's provider"
            " account opens; to begin anew remove it and set these accounts again."
        ) from None


def account_maker(settings: Settings, around: Around = _as_it_is) -> Make:
    """How a merchant's account becomes a provider; None where something that it needs is not there."""

    def make(account: TenantAccount) -> Provider | None:
        entry = registry.BY_ID.get(account.provider)
        if entry is None:
            return None
        made = registry.account(
            settings,
            entry.spec,
            base_url=account.base_url,
            mode=account.mode,
            values=account.values,
            callback_url=callback_url(settings, account),
            webhook_secrets=tuple(secret.encode() for secret in account.webhook_secrets),
        )
        return around(entry.build(made)) if made is not None else None

    return make


def callback_url(settings: Settings, account: TenantAccount) -> str | None:
    """Where the provider posts about an account's payments; the last part is a secret."""
    base = settings.public_base_url
    return f"{base}/api/v1/webhooks/{account.provider}/{account.callback_token}" if base else None


def provider_specs() -> dict[str, ProviderSpec]:
    """What each provider declares."""
    return {provider: entry.spec for provider, entry in registry.BY_ID.items()}


def platform_roads(settings: Settings, around: Around = _as_it_is) -> list[Road]:
    """The platform's own provider accounts, as far as the environment names them, in the registry's order.

    Raises ConfigurationError.
    """
    made = ((entry, registry.platform_account(settings, entry.spec)) for entry in registry.PROVIDERS)
    return [
        Road(around(entry.build(account)), largest_minor=settings.payment_max_amounts)
        for entry, account in made
        if account is not None
    ]


def platform_provider(settings: Settings, provider: str) -> Provider:
    """The platform's account at a provider. Make it inside a running loop; close it.

    Raises NotFound (there is no such provider), ConfigurationError (the environment lacks what it needs).
    """
    entry = registry.BY_ID.get(provider)
    if entry is None:
        raise NotFound(f"There is no provider {provider!r}; there are {', '.join(registry.BY_ID)}.")
    account = registry.platform_account(settings, entry.spec)
    if account is None:
        needed = [field.name for field in entry.spec.fields if field.default is None and not field.optional]
        names = ", ".join(f"{provider}_{name}".upper() for name in needed)
        raise ConfigurationError(f"The platform has no account at {entry.spec.name}: set {names}.")
    return entry.build(account)


@asynccontextmanager
async def database(settings: Settings) -> AsyncIterator[Database]:
    """A small pool for one command."""
    db = await Database.open(dsn(settings), pool_size=2)
    try:
        yield db
    finally:
        await db.close()


async def gateway(
    settings: Settings, around: Around = _as_it_is, only: tuple[str, AccountId | None] | None = None
) -> Gateway:
    """The dependencies of the services in one process. Must run inside the event loop that will use them.

    `around` puts something around each provider; `only`: see `Roads`.
    """
    if settings.kobiri_demo:
        net.stay_on_this_machine()
    db = await Database.open(
        dsn(settings),
        pool_size=settings.database_pool_size,
        statement_cache_size=settings.database_statement_cache_size,
    )
    keys = master_keys(settings)
    own = OwnRoads(
        lambda tenant_id: load_accounts(db, keys, tenant_id),
        account_maker(settings, around),
        largest_minor=settings.payment_max_amounts,
    )
    return Gateway(
        db=db,
        roads=Roads(
            db,
            platform_roads(settings, around),
            registry.switched_off(settings),
            own,
            longest_question_s=registry.longest_answer_s(settings),
            only=only,
        ),
        render=render_payment,
        send_within=timedelta(seconds=settings.payment_send_within_seconds),
        expires_after=settings.expires_after,
        key_life=timedelta(seconds=settings.idempotency_ttl_seconds),
    )


async def close(parts: Gateway) -> None:
    """End what `gateway` began."""
    await parts.roads.close()
    await parts.db.close()


@asynccontextmanager
async def operating(
    settings: Settings, around: Around = _as_it_is, only: tuple[str, AccountId | None] | None = None
) -> AsyncIterator[Gateway]:
    """The gateway for one command; the rest is as in `gateway`."""
    parts = await gateway(settings, around, only)
    try:
        yield parts
    finally:
        await close(parts)


def provider_ids() -> tuple[str, ...]:
    """The providers that there are."""
    return tuple(registry.BY_ID)


def simulated_environment(simulator_url: str, but: Container[str] = ()) -> dict[str, str]:
    """Settings of accounts at the providers' simulators, `but` some, by the variables' names.

    They serve live and test keys.
    """
    variables: dict[str, str] = {}
    for provider, values in registry.simulated_values().items():
        if provider in but:
            continue
        own = {"base_url": f"{simulator_url}/{provider}", "mode": "both", **values}
        variables |= {f"{provider}_{name}".upper(): value for name, value in own.items()}
    return variables


def create_api() -> Litestar:
    """One API process, as Granian loads it."""
    settings = load()
    telemetry.configure(settings.log_level, settings.log_format)
    die_with_parent()
    return build_api(settings, drains_on_signal=True)


def build_api(settings: Settings, *, drains_on_signal: bool = False) -> Litestar:
    """The API as an ASGI application; its parts are made when its lifespan begins."""
    return routes.build(lambda app: _api_lifespan(app, settings, drains_on_signal=drains_on_signal))


@asynccontextmanager
async def _api_lifespan(app: Litestar, settings: Settings, *, drains_on_signal: bool) -> AsyncIterator[None]:
    parts = await gateway(settings)
    key = pepper(settings)
    state = ApiState(
        gateway=parts,
        access=Access(parts.db, key),
        throttle=Throttle(settings.throttle_limit, settings.throttle_ttl),
        cursors=Cursors(hmac.digest(key, b"cursors", hashlib.sha256)),
        newest_migration=_newest_migration(),
        idempotency_required=settings.idempotency_required,
        callback_url_configured=settings.public_base_url is not None,
        trusted_proxies=settings.trusted_proxies,
    )
    app.state.api = state
    running_loop = asyncio.get_running_loop()

    def drain() -> None:
        # The server stops taking requests by itself; what waits for a provider for too long ends as unknown.
        state.draining = True
        running_loop.call_later(settings.shutdown_grace_seconds, parts.calls.cut)

    if drains_on_signal:
        running_loop.add_signal_handler(DRAIN, drain)
    noting = asyncio.create_task(_note_key_use(state.access))
    log.info("api.started")
    try:
        gc.collect()
        gc.freeze()  # a full collection walks what lives for ever too, and stops every request meanwhile
        yield
    finally:
        noting.cancel()
        await parts.calls.drain(settings.shutdown_grace_seconds)
        await state.access.note_use()
        await close(parts)
        log.info("api.stopped")


def serve(settings: Settings) -> None:
    """Serve the API with API_PROCESSES processes, until SIGTERM or SIGINT."""
    from granian.constants import Interfaces
    from granian.http import HTTP1Settings
    from granian.server import MPServer

    class Server(MPServer):
        def signal_handler_interrupt(self, *args: object, **kwargs: object) -> None:
            for worker in self.wrks:  # before the SIGTERM that follows, so that they know since when
                if worker.inner.pid:
                    with suppress(ProcessLookupError):  # one that was killed must not keep the others from stopping
                        os.kill(worker.inner.pid, DRAIN)
            super().signal_handler_interrupt(*args, **kwargs)  # type: ignore[no-untyped-call]

    Server(
        "kobiri.app:create_api",
        factory=True,
        interface=Interfaces.ASGI,
        address=settings.host,
        port=settings.port,
        workers=settings.api_processes,
        websockets=False,
        backlog=2048,
        backpressure=settings.api_max_requests,
        http1_settings=HTTP1Settings(header_read_timeout=10_000, max_buffer_size=128 * 1024),
        log_enabled=False,
        respawn_failed_workers=True,
        workers_kill_timeout=int(settings.shutdown_grace_seconds) + 3,
    ).serve()


async def _note_key_use(access: Access) -> None:
    while True:
        await asyncio.sleep(NOTE_KEY_USE_S)
        await access.note_use()


def die_with_parent() -> None:
    """Linux: when the parent is killed this process ends too, so that no orphan keeps a port."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


def _newest_migration() -> str:
    """Read from the files' names: the API process need not load the migration tool."""
    folder = Path(__file__).parent / "store" / "migrations" / "versions"
    return max(path.name[:4] for path in folder.glob("[0-9]*.py"))


def _kept_secret(path: Path, new: str) -> str:
    """The text of a secret's file, which is made with `new` where there is none."""
    if not path.exists():
        _write_secret(path, new)
    return path.read_text().strip()


def _write_secret(path: Path, text: str) -> None:
    """Whole, or not at all: also when the power fails in the middle of this, or just after it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(text + "\n")
            file.flush()
            os.fsync(descriptor)
        with suppress(FileExistsError):
            os.link(temporary, path)  # whoever is first wins: two processes must not make two peppers
    finally:
        Path(temporary).unlink()
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def check(settings: Settings) -> None:
    """Find bad settings, or a database that cannot be used, before any process starts.

    Raises ConfigurationError, DatabaseUnavailable, DatabaseRefused and the driver's errors.
    """
    pepper(settings)
    master_keys(settings)
    for entry in registry.PROVIDERS:
        registry.platform_account(settings, entry.spec)

    async def look() -> None:
        async with database(settings) as db:
            await db.check_login()

    asyncio.run(look())


def run_simulator(settings: Settings, *, quiet: bool = False) -> None:
    """The operators' simulators, until SIGTERM or SIGINT."""
    from kobiri.simulator import app as simulator

    announce = (lambda _line: None) if quiet else functools.partial(print, flush=True)
    options = simulator.SimulatorSettings(hosts=settings.simulator_hosts)
    providers = registry.simulators()
    asyncio.run(simulator.serve(settings.host, settings.simulator_port, providers, settings=options, announce=announce))


async def run_worker(settings: Settings) -> None:
    """One worker process, until SIGTERM or SIGINT."""
    parts = await gateway(settings)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    retention = timedelta(days=settings.callback_retention_days)
    operator = _operator(settings)
    try:
        await loop.run(
            parts,
            tasks.periodic(parts, retention, operator),
            stop,
            concurrency=settings.worker_concurrency,
            grace_s=settings.shutdown_grace_seconds,
        )
    finally:
        if operator is not None:
            await operator.session.close()
        await close(parts)


def _operator(settings: Settings) -> Operator | None:
    url, secret = settings.operator_webhook_url, settings.operator_webhook_secret
    if url is None or secret is None:
        return None
    key = webhook.read_secret(secret.get_secret_value())
    return Operator(url.get_secret_value(), key, net.provider_session(OPERATOR_CONNECTIONS))
