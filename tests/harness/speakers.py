"""Models of a few thousand weights that answer in words of the embedded dialogues."""

from __future__ import annotations

from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from distft.config.models import Init
from distft.data.builtin import dialogues
from distft.data.tokenizer_training import train_tokenizer
from distft.models.start import create_model

INIT = Init(hidden_size=16, num_layers=2, num_heads=2, vocab_size=400, max_positions=256)


@cache
def tokenizer() -> Any:
    """A tokenizer with the default chat template."""
    turns = (row["messages"] for row in islice(dialogues("train"), 100))
    return train_tokenizer((turn["content"] for said in turns for turn in said), INIT.vocab_size, "default")


def write_speaker(folder: Path, *, seed: int = 0, template: bool = True) -> str:
    """A model folder, float32, with weights large enough to have opinions."""
    create_model(INIT, tokenizer(), folder, seed=seed)
    model = AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() >= 2:
                parameter.mul_(8.0)
    model.save_pretrained(folder)
    if not template:
        (folder / "chat_template.jinja").unlink()
    return str(folder)
