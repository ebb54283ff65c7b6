"""Ranks that share the rows of a micro-batch compute what one rank computes of whole rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from distft.common.errors import UserError
from distft.config.adapters.lora import Lora
from distft.models.sequence_parallel import FAMILIES, require_shareable
from tests.unit.engine.group import Group
from tests.unit.models.families import FAMILIES as MODELS
from tests.unit.models.families import write_family
from tests.unit.workers.family_side import LONGEST, live
from tests.unit.workers.test_families import CLOSE, largest, merged

slow = pytest.mark.slow
# Of every family that may be shared one at least, with keys for fewer heads than there are ranks, and with ropes that
# would change with the rows' length.
NAMES = ("llama", "llama_llama3", "llama_dynamic", "mistral", "qwen2", "qwen3", "phi3_longrope", "olmo2")
LIVES = [pytest.param(name, {}, id=name, marks=() if name in ("llama", "qwen3") else slow) for name in NAMES]
MORE = [
    pytest.param("llama", {"adapter": Lora(r=4)}, id="adapters", marks=slow),
    pytest.param("llama", {"checkpointing": True}, id="checkpointing"),
]


def written(folder: Path, name: str) -> str:
    """A tiny model of the family, without a window of attention."""
    start = write_family(folder, name)
    file = Path(start) / "config.json"
    config = json.loads(file.read_text()) | ({"sliding_window": None} if name == "mistral" else {})
    file.write_text(json.dumps(config))
    return start


@pytest.mark.parametrize(("name", "how"), [*LIVES, *MORE])
def test_a_life_on_two_ranks_that_share_rows(
    groups: dict[int, Group], tmp_path: Path, name: str, how: dict[str, Any]
) -> None:
    folder = written(tmp_path / "start", name)
    start: Any = AutoModelForCausalLM.from_pretrained(folder).eval()
    whole = groups[1].call(live, folder, str(tmp_path / "whole"), **how)
    shared = groups[2].call(live, folder, str(tmp_path / "shared"), shared_by=2, **how)
    assert largest(start, merged(shared, "before")) < CLOSE
    assert not shared[1]["before"], "the first of the ranks answers for all"
    halves = [-(-width // 2) for width in whole[0]["widths"]]
    assert [rank["widths"] for rank in shared] == [halves, halves], "each computes a half of every row"
    assert merged(shared, "responses") == merged(whole, "responses"), "each generates by itself, from whole rows"
    assert shared[0]["update"] == pytest.approx(whole[0]["update"], rel=1e-5)
    for sample, values in merged(whole, "after").items():
        assert merged(shared, "after")[sample] == pytest.approx(values, abs=CLOSE)
    if "adapter" not in how:
        exported: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "shared", dtype=torch.float32).eval()
        assert largest(exported, merged(shared, "after")) < CLOSE


def test_every_family_that_may_be_shared_has_a_case() -> None:
    assert {MODELS[name][0] for name in NAMES} == set(FAMILIES)


@pytest.mark.parametrize(
    ("name", "size", "what"),
    [
        ("mistral", 2, "rows of 30 tokens reach beyond the model's window of 8"),
        ("gemma2", 2, "rows of gemma2 have not been compared when they are shared"),
        ("bert", 2, "rows of bert have not been compared"),
        ("llama", 4, "4 ranks cannot share 2 heads evenly\\n.*one of: 1, 2"),
    ],
)
def test_what_cannot_be_shared_is_refused_by_name(tmp_path: Path, name: str, size: int, what: str) -> None:
    config = AutoConfig.from_pretrained(write_family(tmp_path, name))
    with pytest.raises(UserError, match=what):
        require_shareable(config, size, LONGEST, "models.policy")
