"""The plan of a seed is always the same, and fits into its time."""

import random
from dataclasses import replace
from itertools import islice

import msgspec
import pytest

from kobiri.simulator.faults import decode
from tests.chaos import lies, plan
from tests.chaos.clients import orders
from tests.chaos.plan import Kill, Pause, ProviderFault, Restart, Traits

PROVIDERS = (Traits("mtn", ("mtn",), askable=True), Traits("zamtel", ("zamtel",), askable=False))


def test_one_seed_is_one_plan_whatever_else_rolls_dice() -> None:
    first = plan.make(7, 60, PROVIDERS)
    random.seed(1)
    random.random()

    assert plan.make(7, 60, PROVIDERS) == first
    assert plan.make(8, 60, PROVIDERS) != first
    one, again = (list(islice(orders(first.client_seeds[0], first.prefixes), 50)) for _ in range(2))
    assert one == again
    assert len({order.key for order in one}) == 50


def test_a_run_has_some_of_everything_and_ends_in_time() -> None:
    for seed in range(50):
        made = plan.make(seed, 20, PROVIDERS)
        assert {Kill, Pause, ProviderFault, Restart} <= {type(step) for step in made.steps}
        assert [step.at_s for step in made.steps] == sorted(step.at_s for step in made.steps)
        assert all(step.at_s + getattr(step, "lasts_s", 0) <= 20 for step in made.steps)


def test_over_many_seeds_every_fault_is_drawn_for_every_provider() -> None:
    faults = [
        step.fault
        for seed in range(50)
        for step in plan.make(seed, 60, PROVIDERS).steps
        if isinstance(step, ProviderFault)
    ]
    for provider in ("mtn", "zamtel"):
        assert {fault["kind"] for fault in faults if fault["provider"] == provider} == set(plan.FAULT_WEIGHTS)
    # A payer who never answers would leave a payment open for ever where the provider can be asked.
    assert {fault["provider"] for fault in faults if fault.get("decision") == "ignore"} == {"zamtel"}


def test_payers_are_of_the_networks_that_are_served() -> None:
    made = plan.make(1, 60, PROVIDERS[:1])
    assert set(made.prefixes) == {"26056", "26076", "26096"}


@pytest.mark.parametrize("traits", plan.traits(), ids=lambda traits: traits.provider)
def test_every_provider_of_the_registry_takes_part(traits: Traits) -> None:
    made = plan.make(1, 600, plan.traits())
    assert any(isinstance(step, ProviderFault) and step.fault["provider"] == traits.provider for step in made.steps)


def test_lies_are_drawn_by_the_seed_and_nobody_is_killed() -> None:
    first = plan.make(7, 60, plan.traits(), lying=True)
    assert plan.make(7, 60, plan.traits(), lying=True) == first
    assert {type(step) for step in first.steps} == {ProviderFault}
    assert all(step.at_s + step.lasts_s <= 60 for step in first.steps if isinstance(step, ProviderFault))


def test_over_many_seeds_every_lie_is_drawn_and_no_provider_is_always_well() -> None:
    made = [plan.make(seed, 60, plan.traits(), lying=True) for seed in range(50)]
    known = {each.provider for each in plan.traits()}
    unwell = [each.unwell or frozenset() for each in made]
    assert frozenset[str]().union(*unwell) == known
    assert all(0 < len(each) < len(known) for each in unwell)
    told = [[step.fault for step in each.steps if isinstance(step, ProviderFault)] for each in made]
    singled_out = {fault["kind"] for faults in told for fault in faults if "times" in fault}
    assert singled_out == {name.partition(" ")[0] for name in lies.ABOUT_A_PAYMENT}
    for each, faults in zip(made, told, strict=True):
        assert {fault["provider"] for fault in faults if "times" not in fault} <= (each.unwell or frozenset())


def test_every_lie_is_one_that_simulators_tell() -> None:
    dice = random.Random(1)
    for provider in plan.traits():
        for _ in range(500):
            decode(msgspec.json.encode(lies.about_a_payment(dice, provider.provider)))
            decode(msgspec.json.encode(lies.to_everybody(dice, provider.provider)))


def test_what_lies_in_a_queue_is_carried_out_before_the_end_of_a_long_run() -> None:
    for seconds, longest_s in ((60, lies.SHORT_QUEUE_S), (600, plan.LONG_QUEUE_S)):
        made = [step for seed in range(20) for step in plan.make(seed, seconds, plan.traits(), lying=True).steps]
        queued = [step for step in made if isinstance(step, ProviderFault) and step.fault["kind"] == "queued"]
        assert longest_s * 0.9 < max(step.fault["ms"] for step in queued) / 1_000 <= longest_s
        if seconds >= plan.LONG_RUN_S:
            assert all(step.at_s + step.fault["ms"] / 1_000 <= seconds for step in queued)


def test_in_the_strangest_dialects_all_else_is_as_planned() -> None:
    for lying in (False, True):
        usual = plan.make(7, 60, plan.traits(), lying=lying)
        strange = plan.make(7, 60, plan.traits(), lying=lying, strange=True)
        assert plan.make(7, 60, plan.traits(), lying=lying, strange=True) == strange
        assert replace(strange, spoken=()) == usual
        assert [provider for provider, _ in strange.spoken] == [each.provider for each in plan.traits()]


def test_what_takes_minutes_to_understand_is_said_in_long_runs_only() -> None:
    doubtful = {(each.provider, name) for each in plan.traits() for name in each.doubtful}
    all_of_them = {(each.provider, name) for each in plan.traits() for name in each.strangest}
    assert doubtful < all_of_them
    for seconds, wanted in ((60.0, all_of_them - doubtful), (plan.LONG_RUN_S, all_of_them)):
        made = [plan.make(seed, seconds, plan.traits(), strange=True) for seed in range(50)]
        assert {spoken for each in made for spoken in each.spoken} == wanted
