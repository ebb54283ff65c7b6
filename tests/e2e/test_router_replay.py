"""A mixture of experts learns by GRPO and dynamic sampling with the experts it was sampled with, and a run that was
killed in the middle goes on as the same run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import MixtralConfig, MixtralForCausalLM

from distft.data.builtin import dialogues
from tests.e2e.conftest import Start, computed, grouped
from tests.e2e.test_resume import assert_same, disturb, run
from tests.harness import rules
from tests.harness.recipes import GROUP_METHODS
from tests.reference.tiny_models import train_tokenizer

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture
def mixture(tmp_path: Path) -> Path:
    """Four experts of two layers, two for each token, whose routers tell tokens apart."""
    tokenizer = train_tokenizer((json.dumps(row) for row in dialogues("train")), 800)
    torch.manual_seed(1)
    model = MixtralForCausalLM(
        MixtralConfig(
            vocab_size=len(tokenizer), hidden_size=32, intermediate_size=32, num_hidden_layers=2, head_dim=8,
            num_attention_heads=4, num_key_value_heads=2, num_local_experts=4, num_experts_per_tok=2,
            max_position_embeddings=256, initializer_range=0.2, eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id, bos_token_id=None,
        )
    )  # fmt: skip
    model.save_pretrained(tmp_path / "mixture")
    tokenizer.save_pretrained(tmp_path / "mixture")
    return tmp_path / "mixture"


def words(mixture: Path, **algorithm: Any) -> tuple[str, ...]:
    policy = f"models.policy={{path: {mixture}, dtype: float32, engine: {{persistence_threshold: 0}}}}"
    return (*grouped("nowhere", **algorithm), policy, "rollout.router_replay=true", "data.overlong=drop",
            "optimizer.learning_rate=1e-2")  # fmt: skip


def test_killed_in_the_middle_of_a_step(mixture: Path, tmp_path: Path, start: Start) -> None:
    shutil.copy(rules.__file__, tmp_path)
    asked = words(mixture, **GROUP_METHODS["dapo"])
    undisturbed = run(start, *asked, folder="undisturbed")
    assert_same(disturb(start, asked, "ClippedPolicy", updates=4), undisturbed)
    lines = [line for line in computed(undisturbed) if line["split"] == "train"]
    assert all(line["rollout/trainer_logprob_difference_max"] < 1e-5 for line in lines)
    shares = [line["routing/changed"] for line in lines]
    print(f"routing/changed by iteration: {', '.join(f'{share:.3f}' for share in shares)}")
    assert all(0 < share < 1 for share in shares), "of four optimizer steps the later ones would choose others"
    assert any(line["rollout/refills"] for line in lines)
