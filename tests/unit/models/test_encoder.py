"""Encoders as reward models and classifiers: what transformers computes, from rows as a pipeline would read them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

from distft.batches import Batch, Ragged
from distft.common.errors import UserError
from distft.config.data import RIGHT_STEP
from distft.config.models import Quantization, RewardModel
from distft.data.encode_apart import encoder_for
from distft.data.encode_pairs import PairEncoder
from distft.data.formats import ClassifiedExample, Message
from distft.models.families.encoder import Encoder
from distft.models.families.family import family_at
from distft.models.families.head import settle_outputs
from distft.models.quantization import dequantized
from distft.models.tokenizer import load_tokenizer
from distft.planning.positions import position_limit
from distft.workers.collate import collate
from tests.unit.models.encoders import ENCODERS, POSITIONS, words, write_encoder

PAIRS = [(words(5, 6, 7), words(8, 9)), (words(*range(10, 40)), words(41)), (words(50), words(*range(60, 80))),
         ("", words(11, 12, 13))]  # fmt: skip


def batch_of(encoder: Any, pairs: list[tuple[str, str]]) -> Batch:
    encoded = [encoder.answer(*pair, "rows") for pair in pairs]
    numbers = np.arange(len(pairs))
    return Batch({
        "sample": numbers, "unit": numbers,
        "prompt_ids": Ragged.of([one.prompt_ids for one in encoded], np.int32),
        "response_ids": Ragged.of([one.response_ids for one in encoded], np.int32),
    })  # fmt: skip


def ours(family: Encoder, module: Any, batch: Batch, wanted: str, pad: int) -> torch.Tensor:
    micro = collate(family, batch, list(range(len(batch))), (), pad, torch.device("cpu"))
    with torch.no_grad():
        return family.outputs(module.eval(), micro, (wanted,), "last", 1.0)[wanted]


def theirs(folder: str, pairs: list[tuple[str, str]]) -> torch.Tensor:
    """A pair at a time, as its tokenizer and its model have it."""
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForSequenceClassification.from_pretrained(folder)
    found = []
    for first, second in pairs:
        inputs = tokenizer(*([first, second] if first else [second]), return_tensors="pt")
        if model.config.model_type != "bert":  # others know one kind of token
            inputs.pop("token_type_ids", None)
        with torch.no_grad():
            found.append(model.eval()(**inputs).logits[0])
    return torch.stack(found)


@pytest.mark.parametrize("kind", ENCODERS)
def test_scores_are_transformers_own_whatever_is_beside_a_row(tmp_path: Path, kind: str) -> None:
    folder = write_encoder(tmp_path, kind, num_labels=3)
    labels = ("LABEL_0", "LABEL_1", "LABEL_2")
    model = RewardModel(path=folder, dtype="float32", label="LABEL_1")
    assert family_at("scalar", folder, model) == "encoder"
    tokenizer = load_tokenizer(folder)
    batch = batch_of(encoder_for(tokenizer), PAIRS)
    wanted = theirs(folder, PAIRS)
    loaded = Encoder(labels).load(folder, RewardModel(path=folder, dtype="float32"), dropout=False)
    assert not loaded.new_head
    logits = ours(Encoder(labels), loaded.module, batch, "logits", tokenizer.pad_token_id)
    torch.testing.assert_close(logits, wanted, rtol=0, atol=1e-5)
    assert (wanted[0] - wanted[1]).abs().max() > 1e-3  # they are not all the same
    module = Encoder().load(folder, model, dropout=False).module
    values = ours(Encoder(), module, batch, "values", tokenizer.pad_token_id)
    torch.testing.assert_close(values, wanted[:, 1], rtol=0, atol=1e-5)
    chance = Encoder().load(folder, model.model_copy(update={"score": "probability"}), dropout=False).module
    found = ours(Encoder(), chance, batch, "values", tokenizer.pad_token_id)
    torch.testing.assert_close(found, wanted.softmax(dim=-1)[:, 1], rtol=0, atol=1e-5)


def test_the_second_text_of_a_pair_is_told_apart(tmp_path: Path) -> None:
    folder = write_encoder(tmp_path, "bert", num_labels=1)
    tokenizer = load_tokenizer(folder)
    batch = batch_of(encoder_for(tokenizer), PAIRS)
    arrays = Encoder().arrange(
        [batch.ragged("prompt_ids")[row] for row in range(4)], [batch.ragged("response_ids")[row] for row in range(4)],
        0, None,
    ).arrays  # fmt: skip
    for row, (first, second) in enumerate(PAIRS):
        wanted = AutoTokenizer.from_pretrained(folder)(*([first, second] if first else [second]))
        length = len(wanted["input_ids"])
        for name in ("input_ids", "token_type_ids", "attention_mask"):
            assert arrays[name][row, :length].tolist() == wanted[name]
            assert not arrays[name][row, length:].any()


@pytest.mark.parametrize("kind", ENCODERS)
def test_a_model_of_masked_tokens_gets_a_new_head_and_nothing_else(tmp_path: Path, kind: str) -> None:
    folder = write_encoder(tmp_path, kind)
    model = RewardModel(path=folder, dtype="float32")
    loaded = Encoder().load(folder, model, dropout=False, new_head=True)
    named = dict(loaded.module.model.named_parameters())
    backbone = loaded.module.model.base_model_prefix
    assert any("classifier" in name for name in loaded.new_head)
    assert all(not name.startswith(f"{backbone}.") or ".pooler." in name for name in loaded.new_head)
    assert all(named[name] is parameter for name, parameter in loaded.new_head.items())
    with pytest.raises(UserError, match=r"(?s)has no scalar head .*train one with a `reward` recipe"):
        Encoder().load(folder, model, dropout=False)
    with pytest.raises(ValueError, match="scores whole texts"):
        Encoder().outputs(loaded.module, None, ("values",), "tokens", 1.0)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ENCODERS)
def test_a_base_in_four_bits_has_a_whole_head(tmp_path: Path, kind: str) -> None:
    """Whose weights the folder may lack: they begin like those of any head, and can be trained."""
    folder = write_encoder(tmp_path, kind)
    model = RewardModel(path=folder, dtype="float32", quantization=Quantization())
    loaded = Encoder().load(folder, model, dropout=False, new_head=True)
    assert all(parameter.is_floating_point() for parameter in loaded.new_head.values())
    packed = {name for name, one in loaded.module.model.named_parameters() if not one.is_floating_point()}
    backbone = loaded.module.model.base_model_prefix
    assert packed
    assert all(name.startswith(f"{backbone}.") and ".pooler." not in name for name in packed)
    tokenizer = load_tokenizer(folder)
    batch = batch_of(encoder_for(tokenizer), PAIRS)
    values = ours(Encoder(), loaded.module, batch, "values", tokenizer.pad_token_id)
    whole = Encoder().load(folder, model.model_copy(update={"quantization": None}), dropout=False, new_head=True)
    with torch.no_grad():
        for part, other in zip(loaded.module.model.modules(), whole.module.model.modules(), strict=True):
            if getattr(part, "weight", None) is not None:
                other.weight.copy_(dequantized(part, part.weight).reshape(other.weight.shape))
    torch.testing.assert_close(
        ours(Encoder(), whole.module, batch, "values", tokenizer.pad_token_id), values, rtol=0, atol=1e-4
    )


def test_a_judge_of_steps_begins_as_no_finished_classifier(tmp_path: Path) -> None:
    """Its method has no key for other labels."""
    folder = write_encoder(tmp_path, "bert", num_labels=1)
    config = AutoConfig.from_pretrained(folder)
    with pytest.raises(UserError, match=r"wanted are right_step\n  take the model it was trained from"):
        settle_outputs(folder, config, RewardModel(path=folder), (RIGHT_STEP,))


def test_a_classifier_is_trained_further_by_its_own_labels_only(tmp_path: Path) -> None:
    folder = write_encoder(tmp_path, "bert", num_labels=2)
    model = RewardModel(path=folder, dtype="float32")
    with pytest.raises(UserError, match=r"(?s)of LABEL_0, LABEL_1; wanted are a, b.*labels=\[LABEL_0, LABEL_1\]"):
        Encoder(("a", "b")).load(folder, model, dropout=False, new_head=True)
    assert not Encoder(("LABEL_0", "LABEL_1")).load(folder, model, dropout=False, new_head=True).new_head


@pytest.mark.parametrize("kind", ENCODERS)
def test_what_is_too_long_keeps_its_special_tokens(tmp_path: Path, kind: str) -> None:
    encoder = encoder_for(load_tokenizer(write_encoder(tmp_path, kind, num_labels=1)))
    assert isinstance(encoder, PairEncoder)
    whole = encoder.answer(words(*range(10, 30)), words(*range(40, 50)), "rows")
    for limit in range(10, len(whole) + 1):
        cut = encoder.within(whole, limit)
        assert len(cut) == limit
        ids = cut.prompt_ids + cut.response_ids
        assert (ids[0], ids[-1]) == (whole.prompt_ids[0], whole.response_ids[-1])
        between = 2 if kind == "roberta" else 1
        assert cut.prompt_ids[-between - 1 :] == whole.prompt_ids[-between - 1 :]  # the end of the prompt
        assert cut.response_ids[: len(cut.response_ids) - 1] == whole.response_ids[: len(cut.response_ids) - 1]
    alone = encoder.classified(ClassifiedExample(words(*range(10, 30)), "a"))
    assert encoder.within(alone, 7).response_ids == [*alone.response_ids[:6], alone.response_ids[-1]]


def test_turns_without_a_template_are_their_words(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(write_encoder(tmp_path, "bert", num_labels=1))
    encoder = encoder_for(tokenizer)
    turns = (Message("user", words(5, 6)), Message("assistant", words(7)), Message("user", words(8)))
    plain = encoder.answer(words(5, 6, 7, 8), words(9), "rows")
    assert encoder.answer(turns, (Message("assistant", words(9)),), "rows") == plain
    assert encoder.cut_answer(turns, words(9), "rows") == plain
    with pytest.raises(UserError, match="an encoder writes nothing"):
        encoder.supervised(ClassifiedExample("x", "y"), None)


def test_robertas_positions_begin_behind_its_padding(tmp_path: Path) -> None:
    """The last position that there is works, one more does not; the limit says so before."""
    folder = write_encoder(tmp_path, "roberta", num_labels=1)
    module = Encoder().load(folder, RewardModel(path=folder, dtype="float32"), dropout=False).module
    limit = position_limit(module.model.config.to_dict())
    assert limit == POSITIONS - 2
    encoder = encoder_for(load_tokenizer(folder))
    for length in (limit, limit + 1):
        batch = batch_of(encoder, [("", words(*[7] * (length - 2)))])
        assert batch.ragged("response_ids").lengths.tolist() == [length]
        if length == limit:
            assert ours(Encoder(), module, batch, "values", 1).isfinite().all()
        else:
            with pytest.raises((IndexError, RuntimeError)):
                ours(Encoder(), module, batch, "values", 1)
