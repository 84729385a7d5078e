"""Where sources disagree, both sides are played: whatever a simulator can be told is in a dialect, or here is why not."""

import types
from collections.abc import Iterator
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import msgspec
import pytest

from kobiri.config import Settings
from kobiri.providers import registry
from kobiri.providers.base import ProviderSpec
from kobiri.simulator.app import SimulatorSettings, build
from kobiri.simulator.dialects import Dialect
from kobiri.simulator.stage import Stage

# What no dialect plays: by provider, option and side. Each with the reason.
NO_DISPUTE = {
    ("airtel", "open_credentials", False): "credentials, not words: REFUSING has it",
    ("airtel", "success_beside_refund", None): "",
    ("airtel", "text_amounts", "accepted"): "amounts are never written as texts here; for other clients",
    ("airtel", "balance_as", "grouped"): "nothing asks for a balance; for other clients",
    ("airtel", "failure_code", "1000"): "",
    ("mtn", "open_credentials", False): "credentials, not words: REFUSING has it",
    ("mtn", "check_callback_host", False): "of API users that are made at the simulator alone; for other clients",
    ("mtn", "test_numbers", "observed"): "what two numbers of the sandbox do, in words that are played all the same",
    ("pawapay", "availability", "DELAYED"): "how it is at the moment, not how it speaks",
    ("pawapay", "availability", "CLOSED"): "how it is at the moment, not how it speaks",
    ("pawapay", "not_allowed", "200"): "nothing can be paid then: tests/providers/test_pawapay_adapter.py",
    ("pawapay", "not_allowed", "403"): "nothing can be paid then: tests/providers/test_pawapay_adapter.py",
    ("pawapay", "callback_signatures", "off"): "the fault `unsigned` of every dialect",
    ("zamtel", "open_credentials", False): "credentials, not words",
}
NO_DISPUTE_OF_ACCOUNTS: dict[tuple[str, str, str], str] = {}
PROVIDERS = [pytest.param(entry.spec, id=entry.spec.id) for entry in registry.PROVIDERS]
