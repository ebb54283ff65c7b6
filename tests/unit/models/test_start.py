"""A model from nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoTokenizer

from distft.config.models import Init, Model
from distft.data.tokenizer_training import train_tokenizer
from distft.models.families.family import find_family
from distft.models.start import create_model
from distft.models.stops import stop_tokens
from distft.models.tokenizer import load_tokenizer
from tests.unit.models import tiny
from tests.unit.models.encoder_decoders import has_own_head


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


def test_a_t5_with_a_head_of_its_own_and_one_without(tmp_path: Path) -> None:
    for name, tied in (("own", False), ("tied", True)):
        init = Init(architecture="t5", hidden_size=16, num_layers=1, num_heads=2, vocab_size=300, tie_embeddings=tied)
        create_model(init, train_tokenizer((), 300, reader="t5"), tmp_path / name, seed=1)
    own, tied_one = (find_family("seq2seq").load(str(tmp_path / name), Model(path="x"), dropout=True).module.model
                     for name in ("own", "tied"))  # fmt: skip
    assert has_own_head(own)
    assert not has_own_head(tied_one)
    assert own.lm_head.weight.float().std().item() == pytest.approx(1 / 4, rel=0.05)
    tokenizer = load_tokenizer(str(tmp_path / "own"))
    assert tokenizer("a").input_ids[-1] == own.config.eos_token_id == tokenizer.eos_token_id
    assert own.config.decoder_start_token_id == tokenizer.pad_token_id


def test_a_bert_reads_texts_and_pairs_between_its_tokens(tmp_path: Path) -> None:
    init = Init(architecture="bert", hidden_size=16, num_layers=1, num_heads=2, vocab_size=300, max_positions=32)
    create_model(init, train_tokenizer((), 300, reader="bert"), tmp_path, seed=1)
    model, tokenizer = AutoModelForMaskedLM.from_pretrained(tmp_path), load_tokenizer(str(tmp_path))
    assert (model.config.max_position_embeddings, model.config.pad_token_id) == (32, 0)
    read = tokenizer("a", "b")
    assert tokenizer.decode(read.input_ids) == "<|first|>a<|separator|>b<|separator|>"
    assert read.token_type_ids == [0, 0, 0, 1, 1]
    assert tokenizer.mask_token_id == 3
    assert tokenizer.eos_token is None


def test_stop_tokens_are_the_tokenizers_and_the_models(tmp_path: Path) -> None:
    init = Init(hidden_size=8, num_layers=1, num_heads=1, vocab_size=300)
    create_model(init, tiny.tokenizer(), tmp_path, seed=0)
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert stop_tokens(tiny.tokenizer(), model) == (tiny.EOS,)
    model.generation_config.eos_token_id = [9, tiny.EOS, 4]
    assert stop_tokens(tiny.tokenizer(), model) == (tiny.EOS, 4, 9)
    model.generation_config.eos_token_id = 7
    assert stop_tokens(tiny.tokenizer(), model) == (tiny.EOS, 7)
