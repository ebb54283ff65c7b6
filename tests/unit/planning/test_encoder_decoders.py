"""What an encoder-decoder cannot do is said by the plan, with what it can."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from distft.common.errors import UserError
from distft.config.data import ANSWER_SCORE
from distft.config.load import load_recipe
from distft.config.recipe import Recipe
from distft.planning.encoder_decoders import require_possible


def folder(path: Path, model_type: str = "t5") -> str:
    path.mkdir(exist_ok=True)
    (path / "config.json").write_text(
        json.dumps({"model_type": model_type, "is_encoder_decoder": model_type not in ("llama", "bert")})
    )
    return str(path)


def with_policy(name: str, path: str, *more: str) -> Recipe:
    return load_recipe(name, [f"models.policy.path={path}", "models.policy.init=null", *more])


WORKS = {"sft-tiny", "dpo-tiny", "orpo-tiny", "kto-tiny", "grpo-tiny", "ppo-tiny"}


def refused(recipe: Recipe) -> bool:
    try:
        require_possible(recipe)
    except UserError:
        return True
    return False


def test_what_works_passes_and_nothing_else(tmp_path: Path) -> None:
    path = folder(tmp_path / "t5")
    told = {name: refused(with_policy(name, path)) for name in (*WORKS, "pretrain-tiny")}
    assert {name for name, no in told.items() if not no} == WORKS


def test_it_scores_answers_where_it_was_trained_to(tmp_path: Path) -> None:
    t5 = folder(tmp_path / "t5")
    require_possible(load_recipe("reward-tiny", [f"models.reward.path={t5}", "models.reward.init=null"]))
    rewarded = [f"models.reward.path={t5}", "models.reward.init=null"]
    require_possible(load_recipe("ppo-tiny", rewarded))
    classifier = {"model_type": "t5", "is_encoder_decoder": True, "architectures": ["T5ForSequenceClassification"]}
    for labels, passes in (({}, False), ({"0": ANSWER_SCORE}, True)):
        (tmp_path / "t5" / "config.json").write_text(json.dumps(classifier | {"id2label": labels}))
        recipe = load_recipe("ppo-tiny", rewarded)
        if passes:
            require_possible(recipe)
            continue
        with pytest.raises(UserError, match=r"this t5 is a classifier as transformers has it.*\n.*`reward` recipe"):
            require_possible(recipe)


def test_what_restores_a_corrupted_text_is_a_model_that_can(tmp_path: Path) -> None:
    t5, llama, bert = (folder(tmp_path / name, name) for name in ("t5", "llama", "bert"))
    for name, right in (("span-tiny", t5), ("mlm-tiny", bert)):
        require_possible(with_policy(name, right))
        for wrong in {t5, llama, bert} - {right}:
            with pytest.raises(
                UserError, match=r"is learned by an encoder.* is none\n.*with a decoder pretrain, .* span, .* mlm"
            ):
                require_possible(with_policy(name, wrong))


def test_what_does_not_is_refused_with_what_does(tmp_path: Path) -> None:
    t5, llama = folder(tmp_path / "t5"), folder(tmp_path / "llama", "llama")
    pegasus = folder(tmp_path / "pegasus", "pegasus")
    with pytest.raises(UserError, match=r"no scalar head for pegasus.*\n.*bart, mt5, t5, umt5 have one; .*grpo"):
        require_possible(with_policy("ppo-tiny", pegasus))
    for name in ("classification-tiny", "process-reward-tiny"):
        with pytest.raises(UserError, match=r"t5 is an encoder-decoder: it scores whole.*\n.*take an encoder"):
            require_possible(load_recipe(name, [f"models.reward.path={t5}", "models.reward.init=null"]))
    with pytest.raises(UserError, match=r"mbart is an encoder-decoder that has not been compared"):
        require_possible(with_policy("sft-tiny", folder(tmp_path / "mbart", "mbart")))
    with pytest.raises(UserError, match=r"t5 is an encoder-decoder: its encoder alone.*\n.*or a decoder"):
        require_possible(with_policy("contrastive-tiny", t5))
    with pytest.raises(UserError, match=r"vLLM has no t5"):
        require_possible(with_policy("grpo-tiny", t5, "rollout.engine=vllm"))
    for policy, value in ((t5, llama), (llama, t5)):
        with pytest.raises(UserError, match=r"read the policy's tokens otherwise.*\n.*models\.value=null"):
            require_possible(with_policy("ppo-tiny", policy, f"models.value.path={value}"))
    with pytest.raises(UserError, match=r"encoder-decoder: whose embeddings the noise would be on"):
        require_possible(with_policy("sft-tiny", t5, "algorithm.neftune_alpha=5"))
    four_bits = ("models.policy.quantization.method=nf4", "models.policy.peft.method=lora")
    with pytest.raises(UserError, match=r"are not quantized"):
        require_possible(with_policy("sft-tiny", t5, *four_bits))


def test_over_the_policys_base_it_has_not_been_tried(tmp_path: Path) -> None:
    """Said with the plan, not by the ranks once they have loaded the policy."""
    path = folder(tmp_path / "t5")
    shared = with_policy("ppo-tiny", path, "models.policy.peft.method=lora", "placement.value={share: policy}")
    with pytest.raises(UserError, match=r"placement.value.share: t5 is an encoder-decoder.*\n.*value.with=policy"):
        require_possible(shared)
    apart = "placement.value={with: policy}"
    require_possible(with_policy("ppo-tiny", path, "models.policy.peft.method=lora", apart))
