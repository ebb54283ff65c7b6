"""What goes together with responses that are cut, and what is refused by name; the remedy that is named works."""

from __future__ import annotations

import pytest

from distft.common.errors import UserError
from distft.config.load import load_recipe

TAILS = "rollout.cut_tails={every: 4}"


@pytest.mark.parametrize("recipe", ["grpo-tiny", "ppo-tiny"])
def test_methods_that_sample_may_cut(recipe: str) -> None:
    tails = load_recipe(recipe, [TAILS]).rollout.cut_tails
    assert tails is not None
    assert (tails.finished, tails.mask) == (0.9, True)
    assert load_recipe(recipe).rollout.cut_tails is None


@pytest.mark.parametrize(
    ("recipe", "overrides", "message", "remedy"),
    [("grpo-tiny", ["rollout.cut_tails.every=5"], "every.*5 is no less than.*5",
      ["rollout.cut_tails.every=4"]),
     ("tools-tiny", [TAILS], "rollout.cut_tails.*beside rollout.environment", ["rollout.cut_tails=null"]),
     ("sft-tiny", [TAILS], "rollout.cut_tails.*has no effect", ["rollout.cut_tails=null"]),
     ("online-dpo-tiny", [TAILS], "rollout.cut_tails.mask.*learns from pairs", ["rollout.cut_tails.mask=false"]),
     ("grpo-tiny", [TAILS, "rollout.engine=vllm", "rollout.overlap=1", "algorithm.importance_cap=2.0"],
      "rollout.cut_tails.*sampled ahead", ["rollout.overlap=0"]),
     ("grpo-tiny", ["rollout.cut_tails.finished=1"], "finished", ["rollout.cut_tails.finished=0.99", TAILS])],
)  # fmt: skip
def test_what_does_not_go_together(recipe: str, overrides: list[str], message: str, remedy: list[str]) -> None:
    with pytest.raises(UserError, match=f"(?s){message}"):
        load_recipe(recipe, overrides)
    load_recipe(recipe, [*overrides, *remedy])
