"""A row's log-probs do not depend on the rows beside it, whatever the rope."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from distft.config.models import Model
from distft.models.families.causal import load_causal
from distft.models.rope import settle_rope
from tests.unit.models import tiny
from tests.unit.models.families import write_family

LONGEST = 40
NESTED = {
    "full_attention": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 4.0},
    "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
}


@pytest.mark.parametrize("name", ["llama_dynamic", "phi3_longrope", "gemma3"])
def test_a_row_is_the_same_alone_and_beside_a_longer_one(tmp_path: Path, name: str) -> None:
    nested = {"rope_parameters": NESTED, "max_position_embeddings": 16}
    folder = write_family(tmp_path, name, **(nested if name == "gemma3" else {}))
    ours = load_causal(folder, Model(path=folder, dtype="float32"), dropout=False).eval()
    plain = AutoModelForCausalLM.from_pretrained(folder).eval()
    short, long = tiny.rows((9, LONGEST))
    beside = torch.stack([torch.cat([short, torch.full((LONGEST - 9,), tiny.PAD)]), long])

    def read(rows: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return ours(input_ids=rows, select=torch.arange(9))

    assert (read(short[None]) - read(beside)).abs().max() > 1e-4  # as transformers computes it
    settle_rope(ours.model, LONGEST)
    for _ in range(2):
        torch.testing.assert_close(read(short[None]), read(beside), rtol=1e-5, atol=1e-5)
        with torch.no_grad():
            wanted = plain(input_ids=beside).logits[0, :9]
        torch.testing.assert_close(read(short[None]), wanted, rtol=1e-5, atol=1e-5)


def test_within_the_original_length_nothing_changes(tmp_path: Path) -> None:
    folder = write_family(tmp_path, "phi3_longrope")
    settled, plain = (AutoModelForCausalLM.from_pretrained(folder).eval() for _ in range(2))
    settle_rope(settled, 16)
    ids = torch.arange(3, 19)[None]
    with torch.no_grad():
        assert torch.equal(settled(input_ids=ids).logits, plain(input_ids=ids).logits)
