"""What goes together with an environment, and what is refused by name."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from distft.common.errors import UserError
from distft.config.load import load_recipe, recipe_file, said_in_full
from distft.config.roles import longest_sequence, model_of, roles

NAME = "distft.rollout.calculator:Calculator"
PPO = ["models.reward=null", f"rollout.environment={{name: '{NAME}', max_turn_tokens: 8}}"]


def test_a_server_is_an_environment() -> None:
    recipe = load_recipe(
        "tools-tiny", ["rollout.environment.name=null", "rollout.environment.http={url: 'http://host/'}"]
    )
    assert roles(recipe) == ("policy", "reference")
    assert said_in_full(recipe) == []


def test_an_environment_is_in_the_place_of_a_reward_model() -> None:
    assert roles(load_recipe("tools-tiny")) == ("policy", "reference")
    ppo = load_recipe("ppo-tiny", PPO)
    assert roles(ppo) == ("policy", "reference", "value")
    assert model_of(ppo, "value").init == model_of(ppo, "policy").init
    assert longest_sequence(load_recipe("tools-tiny")) == 8 + 40, "all turns and observations are one response"


@pytest.mark.parametrize(
    ("override", "message"),
    [("rollout.environment.max_turn_tokens=41", "max_turn_tokens.*41 is more than.*40"),
     ("rollout.min_new_tokens=13", "min_new_tokens.*13 is more than a turn"),
     ("rollout.overlap=1", "rollout.overlap.*turns wait"),
     ("models.reward={functions: ['rules:right']}", "models.reward.*is given beside"),
     ("models.rewards={kind: {path: somewhere}}", "models.rewards.*is given beside"),
     ("evaluation.metrics=[exact_match]", "evaluation.metrics.*there are turns"),
     ("rollout.environment.role=system", "rollout.environment.role"),
     ("rollout.environment.name=Calculator", "rollout.environment.name"),
     ("rollout.environment.step_deadline_s=0", "rollout.environment.step_deadline_s"),
     ("rollout.environment.step_deadline_s=600", "step_deadline_s.*600 s is not before.*recovery.deadline_floor_s"),
     ("rollout.environment.name=null", "rollout.environment .*says neither name nor http"),
     ("rollout.environment.http={url: 'http://host/'}", "rollout.environment .*says name and http"),
     ("rollout.environment.http={url: 'http://me:word@host/'}", "rollout.environment.http.url.*holds a secret")],
)  # fmt: skip
def test_what_does_not_go_together(override: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_recipe("tools-tiny", [override])


@pytest.mark.parametrize("recipe", ["sft-tiny", "dpo-tiny", "reward-tiny"])
def test_a_method_that_samples_nothing_has_none(recipe: str) -> None:
    with pytest.raises(UserError, match=r"rollout.environment.*has no effect: .* samples no turns"):
        load_recipe(recipe, PPO[1:])


def test_a_file_beside_the_recipe_is_found_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree = yaml.safe_load(recipe_file("tools-tiny").read_text())
    tree["rollout"]["environment"]["name"] = "./mine.py:Mine"
    (tmp_path / "tools.yaml").write_text(yaml.safe_dump(tree))
    (tmp_path / "mine.py").write_text("class Mine: ...")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    recipe = load_recipe("../tools.yaml")
    assert recipe.rollout.environment is not None
    assert Path(recipe.rollout.environment.name.removesuffix(":Mine")).resolve() == tmp_path / "mine.py"
    assert said_in_full(recipe) == [f"rollout.environment.name={recipe.rollout.environment.name}"]
    assert said_in_full(load_recipe("tools-tiny")) == []
