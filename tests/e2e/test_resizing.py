"""A run goes on from a checkpoint on other ranks and another ZeRO stage as if it had always been there: the same
tokens, the same next step, and ten steps later no further apart than layouts may be.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.e2e.conftest import SFT, Start, computed, events, exit_record
from tests.harness.compare import at_most, largest_metric_difference, largest_weight_difference
from tests.harness.jobs import Outcome, TrainJob
from tests.harness.layouts import run_ray
from tests.harness.matrix import Layouts
from tests.harness.recipes import RATE, VALUE_RATE, adapted, ppo_recipe, write_recipe

pytest_plugins = ["tests.harness.fixtures"]
pytestmark = [pytest.mark.e2e, pytest.mark.ray, pytest.mark.timeout(3600)]

STEPS = 16
METRICS = 1e-5
RATES = {"policy": RATE, "value": VALUE_RATE}


def test_the_same_command_goes_on_where_there_is_one_rank_left(sft: Path, start: Start) -> None:
    """The two ranks of the checkpoint at ZeRO stage 3, one now, which shards nothing."""
    verb = start(*SFT, "placement.policy.ranks=1", f"checkpoint.resume={sft / 'checkpoints' / 'step_00000004'}")
    assert verb.end() == 0, verb.output
    (resumed,) = events(verb.folder, "resume")
    how = "2 ranks at ZeRO stage 3 -> 1 rank at ZeRO stage 0"
    assert resumed["changed"] == {"policy": how}
    assert f"policy goes on in another layout: {how}" in verb.output
    steps, wanted = ([line for line in computed(folder) if line["step"] > 4 and line["split"] == "train"]
                     for folder in (verb.folder, sft))  # fmt: skip
    assert largest_metric_difference(steps, wanted, ["loss", "grad_norm"]) <= at_most(METRICS)
    assert exit_record(verb.folder)["class"] == "done"


@dataclass(frozen=True)
class Way:
    """A run on so many ranks of policy, value, reference and reward model, from a checkpoint of another or anew."""

    ranks: tuple[int, int, int, int]
    stage: int = 3
    origin: str = ""
    step: int = 0


UNDISTURBED = "undisturbed"
WAYS = {
    UNDISTURBED: Way((2, 2, 2, 2)),
    "2 to 1": Way((1, 1, 1, 1), 3, UNDISTURBED, 2),
    "2 to 4": Way((4, 2, 1, 1), 3, UNDISTURBED, 2),
    "4 to 2, its value 2 to 4, ZeRO-3 to 2": Way((2, 4, 1, 1), 2, "2 to 4", 4),
    "ZeRO-3 to 2": Way((2, 2, 2, 2), 2, UNDISTURBED, 2),
    "ZeRO-2 to 0": Way((2, 2, 2, 2), 0, "ZeRO-3 to 2", 4),
}


def went(layouts: Layouts, name: str, *, lora: bool) -> Outcome:
    """The run of that name, which is made once."""
    way, folder = WAYS[name], layouts.folder / f"{'lora' if lora else 'full'}-{name}"
    if not (folder / "run" / "rollouts.json").is_file():
        made = ppo_recipe(layouts.starts, samples_per_prompt=4)
        made = adapted(made) if lora else made
        for role in ("policy", "value"):
            made["models"][role]["engine"]["zero_stage"] = way.stage
        roles = ("policy", "value", "reference", "reward")
        made["placement"] = {role: {"ranks": ranks} for role, ranks in zip(roles, way.ranks, strict=True)}
        made["train"]["steps"] = STEPS
        made["checkpoint"] = {"every": 2, "keep": 8}
        if way.origin:
            origin = went(layouts, way.origin, lora=lora).folder
            made["checkpoint"]["resume"] = str(origin / "checkpoints" / f"step_{way.step:08d}")
        recipe = write_recipe(made, folder / "recipe.yaml", folder / "run")
        run_ray([TrainJob("ppo", recipe, str(folder / "run"))], folder)
    return Outcome(folder / "run")


@pytest.mark.slow
@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize("name", list(WAYS)[1:])
def test_ppo_goes_on_as_if_it_had_always_been_there(layouts: Layouts, name: str, lora: bool) -> None:
    undisturbed, got, step = went(layouts, UNDISTURBED, lora=lora), went(layouts, name, lora=lora), WAYS[name].step
    (resumed,) = events(got.folder, "resume")
    assert resumed["changed"]
    wanted = undisturbed.metrics[step:]
    first = largest_metric_difference(got.metrics[:1], wanted[:1])
    last = largest_metric_difference(got.metrics, wanted)
    apart = {role: largest_weight_difference(got.weights(role), undisturbed.weights(role), rate)
             for role, rate in RATES.items()}  # fmt: skip
    print(f"{name}, {'LoRA' if lora else 'full'}: next step {first}, {len(wanted)} steps {last}, weights {apart}")
    assert got.rollouts == undisturbed.rollouts[step:]
    assert first <= at_most(METRICS)
    assert last <= at_most(METRICS)
    for role, difference in apart.items():
        assert difference <= at_most(1.0), role
