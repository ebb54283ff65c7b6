"""The methods that sample for themselves: what they are made of, and what does not go together."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from distft.common.errors import UserError
from distft.config.load import load_recipe
from distft.config.roles import roles, trained_roles

WITH_REFERENCE = ("grpo", "rloo", "reinforce_pp", "online_dpo")
WITHOUT = ("dapo", "gspo", "cispo")
ALONE = "raft"  # its loss knows no policy but the present one


@pytest.fixture
def recipe(tmp_path: Path) -> str:
    """GRPO with a rule for a reward: two roles."""
    made = {
        "name": "rules", "output_dir": "runs/rules", "algorithm": {"kind": "grpo"},
        "models": {
            "policy": {"init": {"architecture": "llama", "hidden_size": 32, "num_layers": 1, "num_heads": 2,
                                "vocab_size": 400, "max_positions": 128}},
            "reward": {"functions": ["rules:right"]},
        },
        "data": {"train": [{"path": "builtin:dialogues"}], "max_length": 64, "max_prompt_length": 40},
        "train": {"steps": 2, "global_batch_size": 4},
        "rollout": {"max_new_tokens": 12, "samples_per_prompt": 4},
    }  # fmt: skip
    path = tmp_path / "rules.yaml"
    path.write_text(yaml.safe_dump({"format": 1, **made}))
    return str(path)


@pytest.mark.parametrize("kind", [*WITH_REFERENCE, *WITHOUT, ALONE])
def test_there_is_no_value_model(recipe: str, kind: str) -> None:
    loaded = load_recipe(recipe, [f"algorithm.kind={kind}"])
    assert roles(loaded) == (("policy",) if kind not in WITH_REFERENCE else ("policy", "reference"))
    assert trained_roles(loaded) == ("policy",)
    with pytest.raises(UserError, match=f"models.value.*{kind} has no value model"):
        load_recipe(recipe, [f"algorithm.kind={kind}", "models.value={path: somewhere}"])


@pytest.mark.parametrize("kind", ["grpo", "rloo", "online_dpo", *WITHOUT, ALONE])
def test_an_answer_has_others_to_be_compared_with(recipe: str, kind: str) -> None:
    with pytest.raises(UserError, match="rollout.samples_per_prompt.*\n.*at least 2"):
        load_recipe(recipe, [f"algorithm.kind={kind}", "rollout.samples_per_prompt=1"])


def test_the_constant_of_dr_grpo_is_asked_for_and_the_remedy_works(recipe: str) -> None:
    with pytest.raises(UserError, match="algorithm.constant_length.*is missing.*\n.*12") as caught:
        load_recipe(recipe, ["algorithm.average=constant"])
    assert "12" in caught.value.hint
    loaded = load_recipe(recipe, ["algorithm.average=constant", "algorithm.constant_length=12"])
    assert loaded.algorithm.loss_of("policy")[1]["constant_length"] == 12
    with pytest.raises(UserError, match="no effect with average: sequences"):
        load_recipe(recipe, ["algorithm.constant_length=12"])


def test_reinforce_pp_needs_several_answers_for_its_baseline_only(recipe: str) -> None:
    alone = ["algorithm.kind=reinforce_pp", "rollout.samples_per_prompt=1"]
    assert load_recipe(recipe, alone).algorithm.loss_of("policy")[1]["kl_coef"] == 0, "the KL is in the reward"
    with pytest.raises(UserError, match="rollout.samples_per_prompt.*\n.*baseline: none"):
        load_recipe(recipe, [*alone, "algorithm.baseline=group"])
    several = load_recipe(recipe, ["algorithm.kind=reinforce_pp", "algorithm.baseline=group"])
    assert several.algorithm.loss_of("policy")[1]["kl_coef"] == 0.01, "the KL is in the loss"


def test_batches_that_are_filled_up_are_counted_in_steps(recipe: str) -> None:
    by_epochs = ["algorithm.kind=dapo", "train.steps=null", "train.epochs=1"]
    with pytest.raises(UserError, match="train.epochs.*max_refills 9.*\n.*train.steps"):
        load_recipe(recipe, by_epochs)
    assert load_recipe(recipe, [*by_epochs, "algorithm.max_refills=0"]).algorithm.refills() == 0
    assert load_recipe(recipe, ["algorithm.kind=dapo"]).algorithm.refills() == 9


def test_what_is_left_out_is_said_before_it_is_refilled(recipe: str) -> None:
    assert load_recipe(recipe, []).algorithm.refills() is None
    with pytest.raises(UserError, match="max_refills.*no effect.*\n.*group_filter: equal_scores"):
        load_recipe(recipe, ["algorithm.max_refills=3"])
    remedied = ["algorithm.max_refills=3", "algorithm.group_filter=equal_scores"]
    assert load_recipe(recipe, remedied).algorithm.refills() == 3
    # DAPO's own number of refills is no mistake of who turns its filter off, whichever way the rows are counted.
    unfiltered = ["algorithm.kind=dapo", "algorithm.group_filter=none", "train.steps=null", "train.epochs=1"]
    assert load_recipe(recipe, unfiltered).algorithm.refills() is None


@pytest.mark.parametrize(
    ("word", "key"),
    [
        ("clip", "clip_"),
        ("cliprange", "here that is algorithm.clip_low$"),
        ("epsilon", "here that is algorithm.clip_low$"),
        ("max_refill", "max_refills"),
        ("num_generations", "here that is rollout.samples_per_prompt$"),
    ],
)
def test_other_words_for_their_keys(recipe: str, word: str, key: str) -> None:
    with pytest.raises(UserError, match=f"algorithm.{word} .*unknown key") as caught:
        load_recipe(recipe, [f"algorithm.{word}=4"])
    assert re.search(key, caught.value.hint)


def test_the_papers_numbers_are_the_defaults(recipe: str) -> None:
    found = {kind: load_recipe(recipe, [f"algorithm.kind={kind}"]).algorithm.loss_of("policy")[1] for kind in WITHOUT}
    assert (found["dapo"]["clip_low"], found["dapo"]["clip_high"], found["dapo"]["average"]) == (0.2, 0.28, "tokens")
    assert (found["gspo"]["clip_low"], found["gspo"]["clip_high"], found["gspo"]["ratio"]) == (3e-4, 4e-4, "sequences")
    assert (found["cispo"]["surrogate"], found["cispo"]["average"]) == ("weighted", "tokens")


@pytest.mark.parametrize(
    ("overrides", "said", "remedy"),
    [
        (["algorithm.overlong_after=8"], "overlong_buffer.*is missing", ["algorithm.overlong_buffer=4"]),
        (
            ["algorithm.overlong_after=9", "algorithm.overlong_buffer=4"],
            "more than a response may have: 12",
            ["algorithm.overlong_after=8"],
        ),
    ],
)
def test_long_answers(recipe: str, overrides: list[str], said: str, remedy: list[str]) -> None:
    with pytest.raises(UserError, match=said):
        load_recipe(recipe, overrides)
    load_recipe(recipe, [*overrides, *remedy])


@pytest.mark.parametrize(
    ("override", "said"),
    [("algorithm.minibatches=17", "cannot be made of 16 samples"), ("algorithm.target_kl=0.1", "one optimizer step")],
)
def test_what_all_of_them_refuse(recipe: str, override: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        load_recipe(recipe, [override])


def test_the_pairs_of_an_iteration_are_what_its_steps_are_made_of(recipe: str) -> None:
    online = "algorithm.kind=online_dpo"
    with pytest.raises(UserError, match="algorithm.minibatches.*5 of them cannot be made of 4 pairs"):
        load_recipe(recipe, [online, "algorithm.minibatches=5"])
    with pytest.raises(UserError, match="max_tokens_per_rank.*does not hold a pair of 2 x 52"):
        load_recipe(recipe, [online, "train.max_tokens_per_rank=103"])
    with pytest.raises(UserError, match="algorithm.target_kl .*unknown key"):
        load_recipe(recipe, [online, "algorithm.target_kl=0.1"])
    with pytest.raises(UserError, match="algorithm.sync_alpha.*the reference stays"):
        load_recipe(recipe, [online, "algorithm.sync_alpha=0.5"])
    loaded = load_recipe(recipe, [online, "algorithm.minibatches=4", "train.max_tokens_per_rank=104"]).algorithm
    assert loaded.loss_of("policy") == (
        "distft.algorithms.losses.dpo:Dpo",
        {"beta": 0.1, "loss": "sigmoid", "label_smoothing": 0.0, "discopop_tau": 0.05, "rpo_alpha": 0.0},
    )


def test_some_answers_are_rejected(recipe: str) -> None:
    with pytest.raises(UserError, match="algorithm.keep.*4 of 4 answers.*nothing is rejected.*\n.*at most 3"):
        load_recipe(recipe, ["algorithm.kind=raft", "algorithm.keep=4"])
    with pytest.raises(UserError, match="algorithm.minibatches.*9 of them cannot be made of 8 samples"):
        load_recipe(recipe, ["algorithm.kind=raft", "algorithm.keep=2", "algorithm.minibatches=9"])
    all_good_ones = load_recipe(recipe, ["algorithm.kind=raft", "algorithm.keep=9", "algorithm.min_score=0.5"])
    assert all_good_ones.algorithm.loss_of("policy") == ("distft.algorithms.losses.sft:Sft", {})
    assert all_good_ones.algorithm.learned_samples(10, 4) == 40


AHEAD = ("rollout.engine=vllm", "rollout.overlap=1")


@pytest.mark.parametrize("kind", ["grpo", "dapo", "gspo", "cispo", "reinforce_pp"])
def test_older_samples_are_corrected_and_the_remedy_works(recipe: str, kind: str) -> None:
    with pytest.raises(UserError, match="algorithm.importance_cap.*is null") as caught:
        load_recipe(recipe, [f"algorithm.kind={kind}", *AHEAD])
    assert caught.value.hint == "algorithm.importance_cap: 2.0"
    loaded = load_recipe(recipe, [f"algorithm.kind={kind}", *AHEAD, "algorithm.importance_cap=2.0"])
    assert loaded.rollout.overlap == 1


def test_a_method_without_that_correction_does_not_sample_ahead(recipe: str) -> None:
    with pytest.raises(UserError, match="rollout.overlap.*rloo has no correction"):
        load_recipe(recipe, ["algorithm.kind=rloo", *AHEAD])


def test_ranks_that_learn_cannot_sample_meanwhile(recipe: str) -> None:
    with pytest.raises(UserError, match="rollout.overlap.*hf generates on the policy's ranks"):
        load_recipe(recipe, ["rollout.engine=hf", "rollout.overlap=1", "algorithm.importance_cap=2.0"])
    with pytest.raises(UserError, match="rollout.overlap.*sft does not sample"):
        load_recipe("sft-tiny", ["rollout.overlap=1"])
