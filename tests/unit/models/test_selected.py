"""The narrow forward gives what the model itself gives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForSequenceClassification

from distft.algorithms import linear_logprobs
from distft.algorithms.divergences import Compared
from distft.config.models import Model
from distft.models.families.causal import load_causal
from distft.models.families.scalar import load_scalar
from distft.models.selected import Reading, SelectedLogits, SelectedScalars
from tests.unit.models import tiny

LENGTHS = (9, 5, 7)


def padded(lengths: tuple[int, ...], rubbish: int = tiny.PAD) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows padded on the right, and flat indices of all their tokens."""
    width = max(lengths)
    ids = torch.full((len(lengths), width), rubbish)
    for index, row in enumerate(tiny.rows(lengths)):
        ids[index, : len(row)] = row
    select = torch.cat([index * width + torch.arange(length) for index, length in enumerate(lengths)])
    return ids, select


@pytest.mark.parametrize("architecture", list(tiny.ARCHITECTURES))
def test_logits_are_the_plain_models(model_folder: Callable[..., str], architecture: str) -> None:
    folder = model_folder(architecture)
    ours = load_causal(folder, Model(path=folder, dtype="float32"), dropout=False).eval()
    plain = AutoModelForCausalLM.from_pretrained(folder).eval()
    ids, select = padded(LENGTHS)
    with torch.no_grad():
        found = ours(input_ids=ids, select=select)
        wanted = torch.cat([plain(input_ids=row[None]).logits[0] for row in tiny.rows(LENGTHS)])
    assert found.shape == (sum(LENGTHS), tiny.VOCABULARY)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
    assert wanted.std() > 0.1  # the weights have opinions, or nothing was compared
    if architecture == "gemma2":
        assert found.abs().max() <= 1.0  # soft-capped after the narrowed head


@pytest.mark.parametrize("architecture", list(tiny.ARCHITECTURES))
def test_what_is_padded_does_not_matter(model_folder: Callable[..., str], architecture: str) -> None:
    folder = model_folder(architecture)
    ours = load_causal(folder, Model(path=folder, dtype="float32"), dropout=False).eval()
    with torch.no_grad():
        with_pad = ours(*padded(LENGTHS, tiny.PAD))
        with_rubbish = ours(*padded(LENGTHS, 77))
    assert torch.equal(with_pad, with_rubbish)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("architecture", list(tiny.ARCHITECTURES))
def test_packed_rows_do_not_see_each_other(model_folder: Callable[..., str], architecture: str, attention: str) -> None:
    folder = model_folder(architecture)
    model = Model.model_validate({"path": folder, "dtype": "float32", "attention": attention})
    ours = load_causal(folder, model, dropout=False).eval()
    packed = torch.cat(tiny.rows(LENGTHS))[None]
    positions = torch.cat([torch.arange(length) for length in LENGTHS])[None]
    with torch.no_grad():
        separate = ours(*padded(LENGTHS))
        together = ours(input_ids=packed, select=torch.arange(sum(LENGTHS)), position_ids=positions)
    torch.testing.assert_close(together, separate, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("chunk", [500, 2**22], ids=["in chunks", "at once"])
@pytest.mark.parametrize(
    ("architecture", "tied"), [("llama", True), ("llama", False), ("gemma2", True), ("gpt2", True)]
)
def test_kernels_on_and_off_give_the_same_log_probs_and_gradients(
    model_folder: Callable[..., str], monkeypatch: pytest.MonkeyPatch, architecture: str, tied: bool, chunk: int
) -> None:
    monkeypatch.setattr(linear_logprobs, "_CHUNK_ELEMENTS_CPU", chunk)
    folder = model_folder(architecture, tied=tied)
    ids, select = padded(LENGTHS)
    reading = Reading(torch.randint(3, tiny.VOCABULARY, select.shape), ("logprobs", "entropy", "logits_mean"), 0.7)
    found: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {}
    for kernels in ("none", "auto"):
        model = Model.model_validate({"path": folder, "dtype": "float32", "kernels": kernels})
        ours = load_causal(folder, model, dropout=False)
        assert (ours.logit_map is None) == (kernels == "none")
        outputs = ours(input_ids=ids, select=select, reading=reading)
        (outputs["logprobs"].sum() - 0.5 * outputs["entropy"].sum()).backward()
        found[kernels] = outputs, {name: parameter.grad for name, parameter in ours.model.named_parameters()}
    for plain, fused in zip(found["none"], found["auto"], strict=True):
        assert plain.keys() == fused.keys()
        for name, wanted in plain.items():
            torch.testing.assert_close(fused[name], wanted, rtol=1e-5, atol=1e-5, msg=name)


@pytest.mark.parametrize("architecture", list(tiny.ARCHITECTURES))
def test_scalars_are_the_plain_models_at_each_rows_end(model_folder: Callable[..., str], architecture: str) -> None:
    folder = model_folder(architecture)
    ours, fresh = load_scalar(folder, Model(path=folder, dtype="float32"), dropout=False, new_head=True)
    ours.eval()
    assert fresh
    ids, select = padded(LENGTHS)
    ends = torch.tensor([index * max(LENGTHS) + length - 1 for index, length in enumerate(LENGTHS)])
    with torch.no_grad():
        everywhere = ours(input_ids=ids, select=select)
        found = ours(input_ids=ids, select=ends)
        wanted = torch.cat([ours.model(input_ids=row[None]).logits[0] for row in tiny.rows(LENGTHS)])
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(everywhere[torch.cumsum(torch.tensor(LENGTHS), 0) - 1], found)


def test_gradients_reach_every_weight_and_are_the_plain_models(model_folder: Callable[..., str]) -> None:
    folder = model_folder("llama", tied=False)
    ours = load_causal(folder, Model(path=folder, dtype="float32"), dropout=False)
    plain = AutoModelForCausalLM.from_pretrained(folder, attention_dropout=0.0)
    ids, _ = padded((6, 6))
    ours(input_ids=ids, select=torch.tensor([1, 8])).square().sum().backward()
    plain(input_ids=ids).logits.reshape(-1, tiny.VOCABULARY)[[1, 8]].square().sum().backward()
    for (name, found), wanted in zip(ours.model.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(found.grad, wanted.grad, rtol=1e-4, atol=1e-5, msg=name)


def test_the_whole_head_is_back_after_a_failed_forward(model_folder: Callable[..., str]) -> None:
    folder = model_folder()
    ours = load_causal(folder, Model(path=folder, dtype="float32"), dropout=False).eval()
    with pytest.raises(IndexError), torch.no_grad():
        ours(input_ids=torch.full((1, 4), tiny.VOCABULARY), select=torch.tensor([0]))
    with torch.no_grad():
        assert ours.model(input_ids=torch.tensor([[3, 4, 5]])).logits.shape == (1, 3, tiny.VOCABULARY)


def test_a_model_without_a_language_head_is_refused() -> None:
    from transformers import LlamaConfig, LlamaModel

    with pytest.raises(ValueError, match="no output embeddings"):
        SelectedLogits(LlamaModel(LlamaConfig(**tiny.SIZES, vocab_size=tiny.VOCABULARY)))


def test_a_classifiers_label_is_one_output_of_its_head() -> None:
    config = LlamaConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, vocab_size=50, num_labels=3
    )
    torch.manual_seed(0)
    model = LlamaForSequenceClassification(config).eval()
    input_ids, select = torch.tensor([[3, 4, 5], [6, 7, 8]]), torch.tensor([2, 5])
    hidden = model.model(input_ids=input_ids).last_hidden_state[:, -1]
    logits = model.score(hidden)
    torch.testing.assert_close(SelectedScalars(model, 1)(input_ids, select), logits[:, 1])
    chance = SelectedScalars(model, 2, probability=True)(input_ids, select)
    torch.testing.assert_close(chance, logits.softmax(-1)[:, 2])


def test_the_head_computes_in_float32_over_a_bfloat16_backbone(model_folder: Callable[..., str]) -> None:
    folder = model_folder("llama")
    ours, _ = load_scalar(folder, Model(path=folder, dtype="bfloat16"), dropout=False, new_head=True)
    ids, select = padded(LENGTHS)
    scores = ours(input_ids=ids, select=select)
    hidden = ours.model.model(input_ids=ids).last_hidden_state.reshape(-1, 16)[select]
    weight = ours.model.score.weight
    assert hidden.dtype == weight.dtype == torch.bfloat16
    assert torch.equal(scores, (hidden.float() @ weight.float().T)[:, 0])
    assert not torch.equal(scores, scores.bfloat16().float())  # more digits than bfloat16 has
    scores.sum().backward()
    assert weight.grad is not None
    torch.testing.assert_close(weight.grad[0], hidden.float().sum(0).bfloat16())


@pytest.mark.parametrize("architecture", ["llama", "gemma2"])
def test_a_measure_is_answered_by_the_fused_head_and_by_plain_logits(
    model_folder: Callable[..., str], architecture: str
) -> None:
    """Beside what else is asked; with the same gradients, soft cap and all."""
    folder = model_folder(architecture)
    ids, select = padded(LENGTHS)
    teacher = torch.randn(len(select), tiny.VOCABULARY, generator=torch.Generator().manual_seed(3)).log_softmax(-1)
    measure = Compared(teacher, None, "js", 0.4, 1.5, tiny.VOCABULARY)
    reading = Reading(torch.randint(3, tiny.VOCABULARY, select.shape), ("entropy",), 0.7, measure)
    found: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {}
    for kernels in ("none", "auto"):
        model = Model.model_validate({"path": folder, "dtype": "float32", "kernels": kernels})
        ours = load_causal(folder, model, dropout=False)
        assert (ours.logit_map is None) == (kernels == "none")
        outputs = ours(input_ids=ids, select=select, reading=reading)
        assert outputs.keys() == {"entropy", *measure.names}
        (outputs["divergence"].sum() - 0.5 * outputs["entropy"].sum()).backward()
        found[kernels] = outputs, {name: parameter.grad for name, parameter in ours.model.named_parameters()}
    for plain, fused in zip(found["none"], found["auto"], strict=True):
        for name, wanted in plain.items():
            torch.testing.assert_close(fused[name], wanted, rtol=1e-5, atol=1e-5, msg=name)
