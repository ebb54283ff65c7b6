"""A model from nothing."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from distft.config.models import Init
from distft.models.start import create_model
from distft.models.stops import stop_tokens
from tests.unit.models import tiny


def test_sizes_seed_and_tokens(tmp_path: Path) -> None:
    init = Init(hidden_size=16, num_layers=2, num_heads=2, num_kv_heads=1, vocab_size=300, tie_embeddings=False)
    torch.manual_seed(9)
    before = torch.get_rng_state()
    for name, seed in (("one", 1), ("same", 1), ("other", 2)):
        create_model(init, tiny.tokenizer(), tmp_path / name, seed=seed)
    assert torch.equal(torch.get_rng_state(), before)
    one, same, other = (AutoModelForCausalLM.from_pretrained(tmp_path / name) for name in ("one", "same", "other"))
    assert one.dtype == torch.float32
    assert one.config.intermediate_size == 64
    assert (one.config.num_key_value_heads, one.config.vocab_size) == (1, 300)
    assert (one.config.pad_token_id, one.config.eos_token_id) == (tiny.PAD, tiny.EOS)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), same.parameters(), strict=True))
    assert not torch.equal(one.lm_head.weight, other.lm_head.weight)
    assert not torch.equal(one.lm_head.weight, one.model.embed_tokens.weight)
    assert AutoTokenizer.from_pretrained(tmp_path / "one")("w5").input_ids == [5]


def test_stop_tokens_are_the_tokenizers_and_the_models(tmp_path: Path) -> None:
    init = Init(hidden_size=8, num_layers=1, num_heads=1, vocab_size=300)
    create_model(init, tiny.tokenizer(), tmp_path, seed=0)
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert stop_tokens(tiny.tokenizer(), model) == (tiny.EOS,)
    model.generation_config.eos_token_id = [9, tiny.EOS, 4]
    assert stop_tokens(tiny.tokenizer(), model) == (tiny.EOS, 4, 9)
    model.generation_config.eos_token_id = 7
    assert stop_tokens(tiny.tokenizer(), model) == (tiny.EOS, 7)
