"""The providers: one line each. Everything else about a provider stands in its folder."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from kobiri.config import Settings
from kobiri.providers.base import Provider, ProviderSpec
from kobiri.providers.mtn import adapter as mtn
from kobiri.providers.mtn.platform import platform_account as mtn_account


@dataclass(frozen=True, slots=True)
class Registration:
    """A provider: what it declares, and how its account is made from the settings (None: not configured)."""

    spec: ProviderSpec
    platform_account: Callable[[Settings], Provider | None]


PROVIDERS = (Registration(mtn.SPEC, mtn_account),)


def simulators() -> dict[str, Callable[[Any], Any]]:
    """The builder of each provider's simulator. Imported here and now: the API does not load simulators."""
    return {entry.spec.id: import_module(f"kobiri.providers.{entry.spec.id}.simulator").build for entry in PROVIDERS}
