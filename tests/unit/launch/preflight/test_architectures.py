"""Families that a run cannot train are refused from config.json alone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from transformers import CONFIG_MAPPING

from distft.common.errors import UserError
from distft.config.adapters.ia3 import Ia3
from distft.config.adapters.lora import Lora
from distft.config.find_method import traits_of
from distft.config.models import Model
from distft.launch.preflight.architectures import check_adapters, check_architecture, check_positions
from distft.models.families.table import ENCODERS
from tests.unit.launch.examples import recipe
from tests.unit.models.families import FAMILIES

FOLDER = Path("some/folder")
LENGTHS = {"data.max_length": 64, "data.max_prompt_length": 32}
OWN_CODE = {"model_type": "foo", "auto_map": {"AutoModelForCausalLM": "modeling_foo.FooForCausalLM"}}


@pytest.mark.parametrize(
    ("config", "role", "said"),
    [
        (
            {"model_type": "mbart", "is_encoder_decoder": True},
            "policy",
            r"mbart is an encoder-decoder that has not been compared.*\n.*take a decoder",
        ),
        ({"model_type": "bert"}, "policy", r"is an encoder \(bert\): its tokens see what follows.*\n.*take a decoder"),
        ({"model_type": "roberta", "is_decoder": False}, "reference", r"is an encoder \(roberta\)"),
        ({"model_type": "deberta-v2"}, "value", r"is an encoder .*nor say of a half one what it is worth"),
        (
            {"model_type": "electra"},
            "reward",
            r"of type electra, which is not among .*\n.*take one of type bert",
        ),
        (
            {"model_type": "qwen9"},
            "policy",
            r"causal language model of type qwen9 .*\n.*nearest that it knows is qwen",
        ),
        ({}, "policy", r"no model_type"),
        ({"model_type": "vit"}, "policy", "no causal language model of type vit"),
        ({"model_type": "mamba"}, "reward", "no scalar head for mamba"),
        (OWN_CODE, "policy", r"code of its own \(modeling_foo.*\n.*models\.policy\.trust_remote_code=true"),
    ],
)
def test_refused(config: dict[str, Any], role: str, said: str) -> None:
    with pytest.raises(UserError, match=said) as caught:
        check_architecture(config, FOLDER, role, Model(path=str(FOLDER)))
    assert caught.value.where == f"models.{role}.path"


def test_trusted_code_and_all_families_pass() -> None:
    check_architecture(OWN_CODE, FOLDER, "policy", Model(path="x", trust_remote_code=True))
    for kind, sizes in FAMILIES.values():
        config = CONFIG_MAPPING[kind](**sizes).to_dict()
        check_architecture(config, FOLDER, "policy", Model(path="x"))


def test_an_encoder_may_be_a_reward_model() -> None:
    for kind in ENCODERS:
        check_architecture({"model_type": kind}, FOLDER, "reward", Model(path="x"))
        with pytest.raises(UserError, match="scores whole texts, not single steps"):
            check_architecture(
                {"model_type": kind}, FOLDER, "reward", Model(path="x"), traits=traits_of("process_reward")
            )


def test_what_embeds_is_an_encoder_that_was_tried_or_a_decoder() -> None:
    traits = traits_of("contrastive")
    for kind in (*ENCODERS, "llama", "mamba"):
        check_architecture({"model_type": kind}, FOLDER, "policy", Model(path="x"), traits=traits)
    with pytest.raises(UserError, match=r"of type electra, which is not among .*\n.*or a decoder"):
        check_architecture({"model_type": "electra"}, FOLDER, "policy", Model(path="x"), traits=traits)
    t5 = {"model_type": "t5", "is_encoder_decoder": True}
    with pytest.raises(UserError, match="t5 is an encoder-decoder: its encoder alone is not taken"):
        check_architecture(t5, FOLDER, "policy", Model(path="x"), traits=traits)


def test_torch_is_not_needed() -> None:
    """A login node may be slow to import it, or not have it."""
    program = (
        "import sys; from pathlib import Path\n"
        "from distft.config.models import Model\n"
        "from distft.launch.preflight.architectures import check_architecture\n"
        "check_architecture({'model_type': 'llama'}, Path('x'), 'policy', Model(path='x'))\n"
        "print('torch' in sys.modules, 'transformers' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "False False\n"


@pytest.mark.parametrize("targets", ["all-linear", ("in_proj", "out_proj")])
def test_adapters_that_a_kernel_would_pass_by(targets: Any) -> None:
    with pytest.raises(UserError, match="mamba2 reads the weights of conv1d and out_proj past an adapter") as caught:
        check_adapters({"model_type": "mamba2"}, "policy", Model(path="x", peft=Lora(target_modules=targets)))
    assert "models.policy.peft.target_modules=[in_proj]" in caught.value.hint
    check_adapters({"model_type": "mamba2"}, "policy", Model(path="x", peft=Lora(target_modules=("in_proj",))))
    check_adapters({"model_type": "llama"}, "policy", Model(path="x", peft=Lora()))


def test_an_adapter_of_some_layers_knows_them_before_anything_is_loaded() -> None:
    with pytest.raises(UserError, match="which layers of bert ia3 belongs to is not known") as caught:
        check_adapters({"model_type": "bert"}, "policy", Model(path="x", peft=Ia3(method="ia3")))
    assert caught.value.where == "models.policy.peft.target_modules"
    assert "models.policy.peft={method: lora}" in caught.value.hint
    named = Ia3(method="ia3", target_modules=("key", "value"))
    check_adapters({"model_type": "bert"}, "policy", Model(path="x", peft=named))
    check_adapters({"model_type": "llama"}, "policy", Model(path="x", peft=Ia3(method="ia3")))


def test_sequences_longer_than_the_learned_positions_are_refused_with_a_remedy_that_fits() -> None:
    short = {"model_type": "gpt2", "n_positions": 16}
    asked = recipe("sft", LENGTHS)
    with pytest.raises(UserError, match=r"learned 16 positions, .* 64 tokens \(data\.max_length 64\)") as caught:
        list(check_positions(short, "policy", asked))
    assert caught.value.where == "models.policy.path"
    assert "data.max_length=16 data.max_prompt_length=8" in caught.value.hint
    assert (
        list(
            check_positions(
                short, "policy", recipe("sft", LENGTHS | {"data.max_length": 16, "data.max_prompt_length": 8})
            )
        )
        == []
    )

    asked = recipe("ppo", {"data.max_prompt_length": 20, "rollout.max_new_tokens": 12})
    with pytest.raises(UserError, match="has learned 16 positions") as caught:
        list(check_positions(short, "reward", asked))
    assert caught.value.where == "models.reward.path"
    assert "data.max_prompt_length=8 rollout.max_new_tokens=8" in caught.value.hint


def test_a_rope_that_changes_is_named() -> None:
    config = {"model_type": "llama", "max_position_embeddings": 32, "rope_scaling": {"type": "dynamic", "factor": 2.0}}
    (warning,) = check_positions(config, "policy", recipe("sft", LENGTHS))
    assert "its rope (dynamic) changes beyond 32 tokens" in warning
    assert (
        list(check_positions(config, "policy", recipe("sft", {"data.max_length": 32, "data.max_prompt_length": 16})))
        == []
    )
