"""The forward pass of an encoder-decoder computes what transformers computes, fused with the head and not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForSeq2SeqLM

from distft.common.errors import UserError
from distft.config.models import Model
from distft.models.encoder_decoder import find_state_scale
from distft.models.families.family import family_at, find_family
from distft.models.reading_back import check_saved
from distft.models.selected import Reading
from tests.unit.models import tiny
from tests.unit.models.encoder_decoders import ENCODER_DECODERS, has_own_head, write_encoder_decoder

PROMPTS, ANSWERS = tiny.rows((5, 9, 1), seed=1), tiny.rows((4, 1, 7), seed=2)


@pytest.mark.parametrize("name", ENCODER_DECODERS)
def test_it_computes_what_transformers_computes(tmp_path: Path, name: str) -> None:
    """Of each row alone; padded beside the others, straight from the states and by way of logits."""
    path = write_encoder_decoder(tmp_path, name)
    model = Model(path=path, dtype="float32")
    family = find_family(family_at("causal", path, model))
    check_saved(family.empty(path, model), path)
    module = family.load(path, model, dropout=False).module.eval()
    plain: Any = AutoModelForSeq2SeqLM.from_pretrained(path, dtype=torch.float32).eval()
    assert has_own_head(module.model) == has_own_head(plain) == ENCODER_DECODERS[name][1]
    arranged = family.arrange([one.numpy() for one in PROMPTS], [one.numpy() for one in ANSWERS], tiny.PAD, None)
    tensors = {key: torch.from_numpy(array) for key, array in arranged.arrays.items()}
    select = torch.cat([torch.arange(len(one)) + int(at) for one, at in zip(ANSWERS, arranged.first, strict=True)])
    targets, wanted = torch.cat(ANSWERS), []
    for prompt, answer in zip(PROMPTS, ANSWERS, strict=True):
        with torch.no_grad():
            logits = plain(input_ids=prompt[None], labels=answer[None]).logits[0]
        wanted.append(logits.log_softmax(-1).gather(1, answer[:, None])[:, 0])
    with torch.no_grad():
        fused = module(**tensors, select=select, reading=Reading(targets))["logprobs"]
        whole = module(**tensors, select=select).log_softmax(-1).gather(1, targets[:, None])[:, 0]
    assert module.logit_map is not None
    torch.testing.assert_close(fused, torch.cat(wanted), rtol=0, atol=1e-5)
    torch.testing.assert_close(whole, torch.cat(wanted), rtol=0, atol=1e-5)
    assert arranged.last.tolist() == [3, 7, 20]


def test_states_are_scaled_where_t5_is_tied(tmp_path: Path) -> None:
    found = {}
    for name in ("t5", "flan-t5", "bart", "marian"):
        model: Any = AutoModelForSeq2SeqLM.from_pretrained(write_encoder_decoder(tmp_path / name, name))
        found[name] = find_state_scale(model)
    assert found == {"t5": 16**-0.5, "flan-t5": 1.0, "bart": 1.0, "marian": 1.0}
    model.final_logits_bias += torch.from_numpy(np.arange(tiny.VOCABULARY, dtype=np.float32))
    assert find_state_scale(model) is None  # logits are more than products then


def test_it_must_say_how_an_answer_begins(tmp_path: Path) -> None:
    path = write_encoder_decoder(tmp_path, "t5", decoder_start_token_id=None)
    family = find_family("seq2seq")
    with pytest.raises(UserError, match="with which token an answer begins"):
        family.load(path, Model(path=path, dtype="float32"), dropout=False)


def test_an_untried_family_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "mbart", "is_encoder_decoder": true}')
    with pytest.raises(UserError, match="mbart is an encoder-decoder that has not been compared.*\n.*bart is"):
        find_family("seq2seq").load(str(tmp_path), Model(path=str(tmp_path)), dropout=False)
