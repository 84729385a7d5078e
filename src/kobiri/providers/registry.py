"""The providers: one line each. Everything else about a provider stands in its folder."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from types import ModuleType
from typing import Any

from pydantic import SecretStr

from kobiri.config import NOT_IN_A_DEMO, ConfigurationError, Settings
from kobiri.domain.address import on_this_machine
from kobiri.providers.airtel import adapter as airtel
from kobiri.providers.base import Account, Build, ProviderSpec, refused_mode
from kobiri.providers.mtn import adapter as mtn
from kobiri.providers.pawapay import adapter as pawapay
from kobiri.providers.zamtel import adapter as zamtel


@dataclass(frozen=True, slots=True)
class Registration:
    """A provider: what it declares, and how an account of it is made."""

    spec: ProviderSpec
    build: Build


# The first of several roads is taken: direct ones stand before those over others.
PROVIDERS = (
    Registration(mtn.SPEC, mtn.MtnProvider),
    Registration(airtel.SPEC, airtel.AirtelProvider),
    Registration(zamtel.SPEC, zamtel.ZamtelProvider),
    Registration(pawapay.SPEC, pawapay.PawapayProvider),
)
BY_ID = {entry.spec.id: entry for entry in PROVIDERS}


def simulators() -> dict[str, Callable[[Any], Any]]:
    """The builder of each provider's simulator. Imported here and now: the API does not load simulators."""
    return {entry.spec.id: _simulator(entry.spec).build for entry in PROVIDERS}


def simulated_values() -> dict[str, Mapping[str, str]]:
    """Account values that each provider's simulator takes, as it stands without any options."""
    return {entry.spec.id: _simulator(entry.spec).ACCOUNT_VALUES for entry in PROVIDERS}


def platform_account(settings: Settings, spec: ProviderSpec) -> Account | None:
    """The account of the environment, or None when something that it needs is not there.

    Raises ConfigurationError: a value has not its form, or it would serve keys of a mode that its address cannot.
    """
    values = {field.name: _text(getattr(settings, f"{spec.id}_{field.name}", None)) for field in spec.fields}
    for field in spec.fields:
        if (value := values[field.name]) is not None and (wrong := field.wrong(value)) is not None:
            raise ConfigurationError(f"{spec.id.upper()}_{field.name.upper()}: {wrong}")
    secrets = (getattr(settings, f"{spec.id}_webhook_secret{end}", None) for end in ("", "_previous"))
    path = f"{settings.public_base_url}/api/v1/webhooks/{spec.id}" if settings.public_base_url else None
    base_url = getattr(settings, f"{spec.id}_base_url", None) or spec.base_url
    mode = getattr(settings, f"{spec.id}_mode", None) or spec.known_mode(base_url) or "live"
    made = account(
        settings,
        spec,
        base_url=base_url,
        mode=mode,
        values={name: value for name, value in values.items() if value is not None},
        callback_url=path,
        webhook_secrets=tuple(secret.get_secret_value().encode() for secret in secrets if secret),
    )
    if made is not None and (contradiction := refused_mode(spec, base_url, mode)) is not None:
        raise ConfigurationError(f"{spec.id.upper()}_MODE: {contradiction}")
    if made is not None and settings.kobiri_demo and not on_this_machine(base_url):
        raise ConfigurationError(f"{spec.id.upper()}_BASE_URL: {NOT_IN_A_DEMO}")
    return made


def switched_off(settings: Settings) -> list[str]:
    """The providers that MTN_ENABLED=false and the like keep from getting new payments."""
    return [entry.spec.id for entry in PROVIDERS if not getattr(settings, f"{entry.spec.id}_enabled", True)]


def longest_answer_s(settings: Settings) -> float:
    """The longest time that any provider gets for an answer to a question, in seconds."""
    asked = [one.spec for one in PROVIDERS if any(o.status_query != "none" for o in one.spec.operations.values())]
    return max(_deadline_s(settings, spec) for spec in asked)


def account(
    settings: Settings,
    spec: ProviderSpec,
    *,
    base_url: str,
    mode: str,
    values: Mapping[str, str],
    callback_url: str | None,
    webhook_secrets: tuple[bytes, ...],
) -> Account | None:
    """An account with all that its owner need not say, or None when something that it needs is not there.

    `mode`: live, test or both. Test keys are served nowhere where real money is known to move: an account that says so
    all the same serves none, and what it has begun is followed. Time limits are the installation's.
    """
    complete = {field.name: values.get(field.name, field.default) for field in spec.fields}
    if any(complete[field.name] is None and not field.optional for field in spec.fields):
        return None
    known = {name: value for name, value in complete.items() if value is not None}
    modes = {"live", "test"} if mode == "both" else {mode}
    return Account(
        base_url=base_url,
        modes=frozenset(modes - {"test"} if spec.known_mode(base_url) == "live" else modes),
        values=known,
        callback_url=callback_url,
        webhook_secrets=webhook_secrets,
        answer_within_s=_answer_within_s(settings, spec),
        deadline_s=_deadline_s(settings, spec),
        max_connections=settings.provider_max_connections,
    )


def _answer_within_s(settings: Settings, spec: ProviderSpec) -> float:
    within_s: float = getattr(settings, f"{spec.id}_timeout_seconds", None) or spec.answer_within_s
    return within_s


def _deadline_s(settings: Settings, spec: ProviderSpec) -> float:
    """What the provider gets for an answer: never less than the client waits."""
    within_s: float = getattr(settings, f"{spec.id}_deadline_seconds", None) or spec.deadline_s or 0.0
    return max(within_s, _answer_within_s(settings, spec))


def _text(value: object) -> str | None:
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    return None if value is None else str(value)


def _simulator(spec: ProviderSpec) -> ModuleType:
    return import_module(f"kobiri.providers.{spec.id}.simulator")
