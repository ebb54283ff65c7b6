"""What a W&B run is told of the engines that there are."""

from __future__ import annotations

from distft.config.cluster import load_cluster
from distft.config.load import load_recipe
from distft.launch.wandb_config import more_config
from distft.planning.plan import make_plan
from tests.unit.launch.examples import LAPTOP


def engines(*overrides: str) -> dict[str, dict[str, object]]:
    recipe = load_recipe("dpo-tiny", list(overrides))
    told = more_config(recipe, make_plan(recipe, load_cluster("local"), machine=LAPTOP))
    assert told["plan"]["recipe"] == "dpo-tiny"
    found: dict[str, dict[str, object]] = told["deepspeed"]
    return found


def test_every_group_with_an_engine_and_how_it_clips() -> None:
    found = engines("optimizer.max_grad_norm=0.5")
    assert found.keys() == {"policy", "reference"}
    assert found["policy"]["gradient_clipping"] == 0.5
    assert (
        engines("models.policy.engine.zero_stage=0", "optimizer.max_grad_norm=0.5")["policy"]["gradient_clipping"]
        == 0.0
    )


def test_a_frozen_model_that_is_whole_and_a_role_in_anothers_group_have_none() -> None:
    assert engines("models.reference.engine.zero_stage=0").keys() == {"policy"}
    assert engines("models.policy.peft.method=lora", "placement.reference={share: policy}").keys() == {"policy"}
