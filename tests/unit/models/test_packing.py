"""Samples of a packed row are read as those that have rows of their own; what cannot is refused for a reason."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_flash_attention_utils import _is_packed_sequence, prepare_fa_kwargs_from_position_ids
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from distft.batches import Batch, Ragged
from distft.common.errors import UserError
from distft.config.models import Model
from distft.models.families.causal import Causal
from distft.models.families.table import PACKABLE as TYPES
from distft.models.packing import REASONS, keep_apart, require_packable
from distft.models.rope import settle_rope
from distft.workers.collate import collate
from tests.unit.models import tiny
from tests.unit.models.families import FAMILIES as EVERY
from tests.unit.models.families import families, write_family, write_own_code

LENGTHS = ((5, 4), (9, 12), (0, 1), (12, 8), (1, 1))  # prompt, response; beyond the windows of 8
LONGEST = 21
PACKABLE = [name for name in EVERY if EVERY[name][0] in TYPES]
# A mixture's experts multiply as many rows as there are tokens for them, which rounds otherwise.
DENSE = [name for name in PACKABLE if not name.endswith(("moe", "mixtral", "deepseek_v3"))]
DOCUMENTS = (5, 21, 1, 9, 12)
SHOWN = ("llama_dynamic", "qwen2_window", "gemma2", "gpt2", "mixtral")


def _batch() -> Batch:
    rows = [row.numpy() for row in tiny.rows(tuple(sum(pair) for pair in LENGTHS), seed=4)]
    prompts = [row[:prompt] for row, (prompt, _) in zip(rows, LENGTHS, strict=True)]
    responses = [row[prompt:] for row, (prompt, _) in zip(rows, LENGTHS, strict=True)]
    masks = [np.ones(len(row), np.uint8) for row in responses]
    masks[2][0] = 0
    columns = {"prompt_ids": Ragged.of(prompts, np.int32), "response_ids": Ragged.of(responses, np.int32)}
    return Batch({**columns, "response_mask": Ragged.of(masks, np.uint8)})


def _read(module: Any, *, packed: bool) -> tuple[Tensor, dict[str, Tensor]]:
    """Log-probs and entropies of every token, and the gradients of their sum by squares."""
    family = Causal(packed=packed)
    micro = collate(family, _batch(), range(len(LENGTHS)), (), tiny.PAD, torch.device("cpu"))
    module.zero_grad()
    found = family.outputs(module, micro, ("logprobs", "entropy"), "tokens", 0.9)
    values = torch.stack([found["logprobs"], found["entropy"]])
    values.square().sum().backward()
    gradients = {name: one.grad.clone() for name, one in module.named_parameters() if one.grad is not None}
    return values.detach(), gradients


def _module(folder: str, attention: str) -> Any:
    model = Model.model_validate({"path": folder, "dtype": "float32", "attention": attention})
    module = Causal().load(folder, model, dropout=False).module
    settle_rope(module.model, LONGEST)
    return module.train()


def assert_packed_is_padded(module: Any, told_as: str = "") -> None:
    values, gradients = _read(module, packed=False)
    keep_apart(module.model)
    if told_as:
        module.model.set_attn_implementation(told_as)
    found, their = _read(module, packed=True)
    torch.testing.assert_close(found, values, rtol=1e-5, atol=1e-5)
    assert their.keys() == gradients.keys()
    for name, wanted in gradients.items():
        assert (their[name] - wanted).norm() <= 1e-5 * max(float(wanted.norm()), 1e-2), name


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", families(*SHOWN, of=PACKABLE))
def test_log_probs_and_gradients_are_those_of_rows_of_their_own(tmp_path: Path, name: str, attention: str) -> None:
    assert_packed_is_padded(_module(write_family(tmp_path, name), attention))


def _of_one(module: Any, ids: Tensor, positions: Tensor, tokens: range) -> list[Tensor]:
    """Logits of one document's tokens, and what all parameters would learn of them."""
    module.zero_grad()
    logits = module(ids, torch.tensor(tokens), position_ids=positions)
    logits.square().sum().backward()
    return [logits.detach(), *(one.grad.clone() for one in module.parameters() if one.grad is not None)]


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", families("llama_dynamic", "qwen2_window", of=DENSE))
def test_no_document_sees_another(tmp_path: Path, name: str, attention: str) -> None:
    """Whatever the others say, bit for bit; in a row that is one document it is not so."""
    module = _module(write_family(tmp_path, name), attention)
    keep_apart(module.model)
    ids, others = (torch.cat(tiny.rows(DOCUMENTS, seed))[None] for seed in (4, 5))
    positions = torch.cat([torch.arange(length) for length in DOCUMENTS])[None]
    assert (ids != others).float().mean() > 0.8
    start = 0
    for length in DOCUMENTS:
        own = range(start, start + length)
        changed = others.clone()
        changed[:, start : start + length] = ids[:, start : start + length]
        for one, other in zip(*(_of_one(module, row, positions, own) for row in (ids, changed)), strict=True):
            assert torch.equal(one, other)
        if start:
            whole = torch.arange(ids.shape[1])[None]
            one, other = (_of_one(module, row, whole, own)[0] for row in (ids, changed))
            assert not torch.equal(one, other)
        start += length


@pytest.fixture
def told_alike() -> Iterator[str]:
    """Attention that is told what flash attention is, and parts a row where transformers would have that part it."""
    own = ALL_ATTENTION_FUNCTIONS["distft_packed"]

    def parting(module: Any, query: Tensor, *others: Any, position_ids: Tensor, **more: Any) -> Any:
        assert _is_packed_sequence(position_ids, len(query))
        (bounds, of_keys), _ = prepare_fa_kwargs_from_position_ids(position_ids)
        assert bounds.tolist() == of_keys.tolist() == [0, *accumulate(map(sum, LENGTHS))]
        return own(module, query, *others, position_ids=position_ids, **more)

    ALL_ATTENTION_FUNCTIONS.register("told_alike", parting)
    ALL_MASK_ATTENTION_FUNCTIONS.register("told_alike", ALL_MASK_ATTENTION_FUNCTIONS["flash_attention_2"])
    yield "told_alike"
    del ALL_ATTENTION_FUNCTIONS._global_mapping["told_alike"]
    del ALL_MASK_ATTENTION_FUNCTIONS._global_mapping["told_alike"]


@pytest.mark.parametrize("name", families(*SHOWN, of=PACKABLE))
def test_flash_attention_is_told_where_samples_begin(tmp_path: Path, name: str, told_alike: str) -> None:
    more = {"attn_logit_softcapping": None} if name == "gemma2" else {}  # sdpa, too, leaves it out
    assert_packed_is_padded(_module(write_family(tmp_path, name, **more), "sdpa"), told_alike)


def test_what_backward_needs_of_parts_is_what_the_plan_counts(tmp_path: Path) -> None:
    """A float of each head's width more a token and layer; GPT-2 has no rotations, which a padded row shares."""
    held = []
    for packed in (False, True):
        module = _module(write_family(tmp_path, "gpt2"), "sdpa")
        keep_apart(module.model)
        storages: dict[int, Tensor] = {}
        with torch.autograd.graph.saved_tensors_hooks(
            lambda tensor, kept=storages: kept.setdefault(tensor.untyped_storage().data_ptr(), tensor),
            lambda tensor: tensor,
        ):
            row = torch.arange(8).repeat(4)
            ids, positions = (row[None], row[None]) if packed else (row.view(4, 8), None)
            module.model.transformer(input_ids=ids, position_ids=positions, use_cache=False)
        floats = (tensor.untyped_storage() for tensor in storages.values() if tensor.is_floating_point())
        held.append(sum(storage.nbytes() for storage in floats))
    config = module.model.config
    assert held[1] - held[0] == config.n_layer * 4 * 8 * 4 * config.n_embd


def test_every_family_that_is_packed_is_compared() -> None:
    assert {EVERY[name][0] for name in PACKABLE} == set(TYPES)


REFUSED = [name for name in EVERY if EVERY[name][0] not in (*TYPES, "gpt_bigcode", "gpt_neo", "gptj")]


@pytest.mark.parametrize("name", families("opt", "mamba", of=REFUSED))
def test_what_is_refused_would_read_across(tmp_path: Path, name: str) -> None:
    kind = EVERY[name][0]
    module = _module(write_family(tmp_path, name), "auto")
    with pytest.raises(UserError) as caught:
        require_packable(module.model.config, "causal", "models.policy", trusted=False)
    assert REASONS[kind] in str(caught.value)
    assert "models.policy.engine.packed=false" in caught.value.hint
    ids = torch.cat(tiny.rows((8, 8)))[None]
    positions = torch.arange(8).repeat(2)[None]
    with torch.no_grad():
        whole = module.model(input_ids=ids, use_cache=False, position_ids=positions).logits[0, 8:]
        alone = module.model(input_ids=ids[:, 8:], use_cache=False).logits[0]
    assert (whole - alone).abs().max() > 1e-3


def test_a_model_with_code_of_its_own_is_refused_and_would_not_be_read_as_if_it_were_one_sample(tmp_path: Path) -> None:
    """A Llama whose attention keeps its positions to itself: its type says nothing of that."""
    path = write_own_code(tmp_path)
    model = Model.model_validate({"path": path, "dtype": "float32", "trust_remote_code": True})
    module = Causal().load(path, model, dropout=False).module.model
    with pytest.raises(UserError, match="llama with code of its own") as caught:
        require_packable(module.config, "causal", "models.policy", trusted=True)
    assert "models.policy.trust_remote_code=false" in caught.value.hint
    require_packable(module.config, "causal", "models.policy", trusted=False)
    keep_apart(module)
    ids, positions = torch.cat(tiny.rows((8, 8)))[None], torch.arange(8).repeat(2)[None]
    with pytest.raises(UserError, match="is not told where the samples of a packed row end"):
        module(input_ids=ids, position_ids=positions, use_cache=False)
    one = module(input_ids=ids[:, 8:], position_ids=positions[:, 8:], use_cache=False).logits
    torch.testing.assert_close(one, module(input_ids=ids[:, 8:], use_cache=False).logits)


@pytest.mark.parametrize(("kind", "family", "why"), [
    ("t5", "seq2seq", "t5 has an encoder"),
    ("bert", "masked_lm", "bert has an encoder"),
    ("llama", "text_embedding", "llama is pooled"),
    ("new_one", "causal", "have not been compared"),
    ("gptj", "scalar", "attention is not told"),
])  # fmt: skip
def test_others_are_refused(kind: str, family: Any, why: str) -> None:
    config = type("Config", (), {"model_type": kind})
    with pytest.raises(UserError, match=why):
        require_packable(config, family, "models.policy", trusted=False)


@pytest.mark.parametrize("family", ["causal", "scalar"])
def test_decoders_that_were_compared_are_taken(family: Any) -> None:
    refused = []
    for kind in (*TYPES, "opt"):
        try:
            require_packable(type("Config", (), {"model_type": kind}), family, "models.value", trusted=True)
        except UserError:
            refused.append(kind)
    assert refused == ["opt"]
