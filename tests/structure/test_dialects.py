"""Where sources disagree both sides are played: what a simulator can be told is in a dialect, or here is why not."""

import asyncio
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import msgspec
import pytest

from kobiri.providers import registry
from kobiri.providers.base import ProviderSpec
from kobiri.simulator.books import Books
from kobiri.simulator.dialects import Dialect
from kobiri.simulator.faults import Faults
from kobiri.simulator.journal import Journal
from kobiri.simulator.stage import SimulatorSettings, Stage
from tests.conftest import simulator_of

# What no dialect plays: provider, option, side. Each with its reason.
UNPLAYED = {
    ("airtel", "open_credentials", False): "credentials, and no words: REFUSING has it",
    ("airtel", "payout_versions", "v1"): "we pay out by the later ones; it is for other clients",
    ("airtel", "text_amounts", "accepted"): "we write no amount as a text; it is for other clients",
    ("airtel", "balance_as", "grouped"): "we ask for no balance; it is for other clients",
    ("mtn", "open_credentials", False): "credentials, and no words: REFUSING has it",
    ("mtn", "check_callback_host", False): "about API users that the simulator made; it is for other clients",
    ("mtn", "test_numbers", "observed"): "what two numbers of the sandbox do, in words that every dialect has",
    ("pawapay", "availability", "DELAYED"): "how pawaPay is at the moment, not how it speaks",
    ("pawapay", "availability", "CLOSED"): "how pawaPay is at the moment, not how it speaks",
    ("pawapay", "not_allowed", "200"): "nothing can be paid then; the recorded exchanges have it",
    ("pawapay", "not_allowed", "403"): "nothing can be paid then; the recorded exchanges have it",
    ("pawapay", "callback_signatures", "off"): "the fault `unsigned`, which every dialect meets",
    ("zamtel", "open_credentials", False): "credentials, and no words",
}
STRANGEST = "strangest"
SPECS = [pytest.param(entry.spec, id=entry.spec.id) for entry in registry.PROVIDERS]
each_provider = pytest.mark.parametrize("spec", SPECS)


def options_of(provider: str) -> type[msgspec.Struct]:
    """The shape of a simulator's options."""
    stage = Stage(provider, SimulatorSettings(), Books(limit=1), Faults(), Journal(limit=1), asyncio.Event())
    registry.simulators()[provider](stage)
    assert stage.current_options is not None
    shape: type[msgspec.Struct] = type(stage.current_options.now)
    return shape


def sides(shape: Any) -> Iterator[object]:
    """What an option may be, where that is one of a few words: anything in it, too."""
    if shape is bool:
        yield from (True, False)
    elif get_origin(shape) is Literal:
        yield from get_args(shape)
    elif get_origin(shape) is Annotated:
        yield from sides(get_args(shape)[0])
    elif get_origin(shape) in (dict, Mapping):
        yield from sides(get_args(shape)[1])
    else:
        for inner in get_args(shape):
            yield from sides(inner)


def plays(told: object, side: object) -> bool:
    if isinstance(told, dict):
        return side in told.values()
    return told == (side,) if isinstance(told, tuple) else told is side or told == side


def unplayed(spec: ProviderSpec, dialects: Mapping[str, Dialect]) -> set[tuple[str, str, object]]:
    """Sides that no dialect plays. One of several things at a time is played where it is the only one."""
    shape = options_of(spec.id)
    spoken = [msgspec.convert(dict(dialect.options), shape) for dialect in dialects.values()]
    return {
        (spec.id, name, side)
        for name, annotation in get_type_hints(shape, include_extras=True).items()
        for side in sides(annotation)
        if not any(plays(getattr(one, name), side) for one in spoken)
    }


@each_provider
async def test_every_side_of_every_option_is_played(spec: ProviderSpec) -> None:
    here = {side for side in UNPLAYED if side[0] == spec.id}
    assert unplayed(spec, simulator_of(spec).DIALECTS) == here


@each_provider
async def test_an_option_that_nobody_plays_is_found(spec: ProviderSpec) -> None:
    dialects = simulator_of(spec).DIALECTS
    here = {side for side in UNPLAYED if side[0] == spec.id}
    assert unplayed(spec, {"usual": dialects["usual"]}) > here


@each_provider
def test_every_choice_of_an_account_is_played(spec: ProviderSpec) -> None:
    played = [*simulator_of(spec).DIALECTS.values(), Dialect(values=simulator_of(spec).ACCOUNT_VALUES)]
    for field in spec.fields:
        known = {one.values.get(field.name, field.default) for one in played}
        known |= {simulator_of(spec).SIGNED_VALUES.get(field.name)}
        assert set(field.choices) <= known, field.name


@each_provider
def test_dialects_have_names_and_accounts(spec: ProviderSpec) -> None:
    dialects = simulator_of(spec).DIALECTS
    assert dialects["usual"] == Dialect()
    assert sum(dialect == Dialect() for dialect in dialects.values()) == 1
    for name, dialect in dialects.items():
        assert name == name.strip()
        assert dialect.unread <= set(spec.operations)
        assert set(dialect.values) <= {field.name for field in spec.fields}
        assert dialect == Dialect() or dialect.options or dialect.values
    strangest = [dialect for name, dialect in dialects.items() if name.startswith(STRANGEST)]
    assert strangest
    assert all(dialect.values == strangest[0].values for dialect in strangest)  # one may follow another
    assert all(not dialect.unread for dialect in strangest)
