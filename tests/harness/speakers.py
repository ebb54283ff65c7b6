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
from distft.evaluation.verdicts import CRITERION, comparison
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


def write_judge(folder: Path, said: str) -> str:
    """A model that has learned to answer every comparison of two answers with ``said``."""
    wide = INIT.model_copy(update={"hidden_size": 32, "max_positions": 2048})
    create_model(wide, tokenizer(), folder, seed=0)
    model: Any = AutoModelForCausalLM.from_pretrained(folder)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    answers = ["Yes.", "No, never at all.", "My ladder is dirty.", "1 2 3"]
    for step in range(60):
        first, second = answers[step % 4], answers[(step + step // 4 + 1) % 4]
        turns = [{"role": "user", "content": comparison(CRITERION, f"Question {step}?", first, second)}]
        asked = tokenizer().apply_chat_template(turns, add_generation_prompt=True, return_dict=False)
        whole = tokenizer().apply_chat_template([*turns, {"role": "assistant", "content": said}], return_dict=False)
        labels = torch.tensor([[-100] * len(asked) + whole[len(asked) :]])
        loss = model(input_ids=torch.tensor([whole]), labels=labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(folder)
    return str(folder)
