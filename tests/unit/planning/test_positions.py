"""What config.json says of a family's positions, beside what its model does."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

from distft.planning.positions import changing_rope, position_limit
from tests.unit.models import tiny
from tests.unit.models.families import FAMILIES, POSITIONS

ENDING = ("gpt2", "gpt_neo", "gptj", "gpt_bigcode", "opt", "mpt", "bert")
OTHERS: dict[str, dict[str, Any]] = {
    "biogpt": {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2},
    "codegen": {"n_embd": 16, "n_layer": 1, "n_head": 4, "n_positions": POSITIONS, "rotary_dim": 4},
    "openai-gpt": {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": POSITIONS},
    "roberta": {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
                "is_decoder": True},
}  # fmt: skip


def reads(config: Any, length: int) -> bool:
    """Whether a model of this architecture takes a row of so many tokens."""
    model = AutoModelForCausalLM.from_config(config).eval()
    try:
        with torch.no_grad():
            model(input_ids=torch.full((1, length), 5))
    except (IndexError, RuntimeError):
        return False
    return True


@pytest.mark.parametrize("name", [*ENDING, *OTHERS])
def test_the_limit_is_the_longest_row_that_the_model_takes(name: str) -> None:
    kind, sizes = FAMILIES[name] if name in FAMILIES else (name, OTHERS[name])
    config = CONFIG_MAPPING[kind](**sizes, vocab_size=tiny.VOCABULARY, pad_token_id=tiny.PAD)
    if "max_position_embeddings" in config.to_dict():
        config.max_position_embeddings = POSITIONS
    limit = position_limit(config.to_dict())
    assert limit is not None
    assert reads(config, limit)
    assert not reads(config, limit + 1)
    assert position_limit({"model_type": kind}) == position_limit(CONFIG_MAPPING[kind]().to_dict())


@pytest.mark.parametrize(
    "name", ["llama", "gemma3", *(pytest.param(one, marks=pytest.mark.slow) for one in FAMILIES if one not in ENDING)]
)
def test_other_families_go_on(name: str) -> None:
    kind, sizes = FAMILIES[name]
    config = CONFIG_MAPPING[kind](**sizes, vocab_size=tiny.VOCABULARY, pad_token_id=tiny.PAD)
    assert position_limit(config.to_dict()) is None
    assert reads(config, POSITIONS + 9)


@pytest.mark.parametrize(
    ("config", "original"),
    [
        ({"max_position_embeddings": 32, "rope_scaling": {"type": "dynamic", "factor": 2.0}}, ("dynamic", 32)),
        ({"max_position_embeddings": 32, "rope_parameters": {"rope_type": "dynamic"}}, ("dynamic", 32)),
        ({"max_position_embeddings": 999, "original_max_position_embeddings": 32,
          "rope_scaling": {"type": "su"}}, ("su", 32)),
        ({"max_position_embeddings": 999, "rope_parameters": {
            "full_attention": {"rope_type": "longrope", "original_max_position_embeddings": 32},
            "sliding_attention": {"rope_type": "default"}}}, ("longrope", 32)),
        ({"max_position_embeddings": 32, "rope_parameters": {"rope_type": "yarn"}}, None),
        ({"max_position_embeddings": 32, "rope_scaling": None}, None),
        ({"n_positions": 32}, None),
    ],
)  # fmt: skip
def test_ropes_that_change_beyond_their_original_length(config: Any, original: Any) -> None:
    assert changing_rope(config, 33) == original
    assert changing_rope(config, 32) is None
