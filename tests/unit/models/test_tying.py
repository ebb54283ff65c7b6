"""A head of T5's kin that is its own stays so, whatever transformers says of the family."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForSeq2SeqLM

from distft.common.errors import UserError
from distft.models.tying import has_own_head, say_untied, seq2seq_class
from tests.unit.models import encoder_decoders
from tests.unit.models.encoder_decoders import write_encoder_decoder


@pytest.mark.parametrize(("name", "own"), [("t5", False), ("flan-t5", True), ("mt5", True), ("bart", False)])
def test_the_files_say_whose_the_head_is(tmp_path: Path, name: str, *, own: bool) -> None:
    path = write_encoder_decoder(tmp_path, name)
    assert has_own_head(tmp_path) is own
    kind = seq2seq_class(path, AutoConfig.from_pretrained(path), fetch=True)
    made: Any = (kind._from_config if own else kind.from_config)(AutoConfig.from_pretrained(path))
    made.tie_weights()  # as PEFT, resizing and saving do
    assert encoder_decoders.has_own_head(made) is own
    if own:
        assert made.encoder.embed_tokens.weight is made.shared.weight


def test_a_head_equal_to_the_embedding_is_tied(tmp_path: Path) -> None:
    """As transformers has it: files of a tied model may hold both names."""
    path = write_encoder_decoder(tmp_path, "flan-t5")
    model: Any = AutoModelForSeq2SeqLM.from_pretrained(path)
    with torch.no_grad():
        model.lm_head.weight.copy_(model.shared.weight)
    model.save_pretrained(path)
    assert not has_own_head(tmp_path)


def test_an_export_says_it(tmp_path: Path) -> None:
    for name, said in (("flan-t5", False), ("t5", True)):
        path = write_encoder_decoder(tmp_path / name, name)
        kind = seq2seq_class(path, AutoConfig.from_pretrained(path), fetch=True)
        model = kind.from_pretrained(path)
        model.save_pretrained(path)
        say_untied(model, Path(path))
        assert json.loads((tmp_path / name / "config.json").read_text())["tie_word_embeddings"] is said


def test_weights_that_cannot_be_looked_into_are_refused(tmp_path: Path) -> None:
    path = write_encoder_decoder(tmp_path, "t5")
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / "pytorch_model.bin").touch()
    with pytest.raises(UserError, match="whether the head is tied"):
        seq2seq_class(path, AutoConfig.from_pretrained(path), fetch=True)
