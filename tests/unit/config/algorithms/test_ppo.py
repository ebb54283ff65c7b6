"""What of PPO's keys goes together."""

from __future__ import annotations

import pytest

from distft.common.errors import UserError
from distft.config.load import load_recipe
from distft.planning.batch_arithmetic import batch_arithmetic

TEXTS = "data.ptx=[{path: builtin:stories}]"


@pytest.mark.parametrize(
    ("overrides", "said", "remedy"),
    [
        (["algorithm.ptx_coef=1.0"], "algorithm.ptx_coef.*data.ptx is empty", [TEXTS]),
        ([TEXTS], "data.ptx.*algorithm.ptx_coef is 0", ["algorithm.ptx_coef=1.0"]),
        (["algorithm.ptx_batch=4"], "algorithm.ptx_batch.*no effect", ["algorithm.ptx_coef=1.0", TEXTS]),
        (
            [TEXTS, "algorithm.ptx_coef=1.0", "rollout.temperature=0.7"],
            "algorithm.ptx_coef.*rollout.temperature 0.7",
            ["rollout.temperature=1.0"],
        ),
        (
            ["algorithm.ptx_coef=1.0", "data.ptx=[{path: builtin:dialogues, format: prompt}]"],
            "data.ptx.0.format.*cannot learn from prompt rows",
            ["data.ptx.0.format=auto"],
        ),
    ],
)
def test_texts_and_their_weight(overrides: list[str], said: str, remedy: list[str]) -> None:
    with pytest.raises(UserError, match=said):
        load_recipe("ppo-tiny", overrides)
    load_recipe("ppo-tiny", [*overrides, *remedy])


def test_other_methods_have_no_part_for_texts() -> None:
    with pytest.raises(UserError, match="data.ptx.*sft has no part for other texts.*\n.*algorithm.kind: ppo"):
        load_recipe("sft-tiny", [TEXTS])


def test_the_policys_loss_has_the_texts_part_and_the_plan_their_rows() -> None:
    plain, mixed = (load_recipe("ppo-tiny", words) for words in ([], [TEXTS, "algorithm.ptx_coef=2.0"]))
    address, parameters = mixed.algorithm.loss_of("policy")
    assert address == "distft.algorithms.losses.ppo_ptx:PpoPtx"
    assert parameters == {**plain.algorithm.loss_of("policy")[1], "ptx_coef": 2.0}
    assert mixed.algorithm.loss_of("value") == plain.algorithm.loss_of("value")
    rows = [batch_arithmetic(recipe, 2).sequences_per_rank for recipe in (plain, mixed)]
    assert rows == [8, 16], "16 texts beside the 16 samples of a minibatch, on two ranks"
