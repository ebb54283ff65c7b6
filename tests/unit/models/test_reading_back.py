"""Before a run: would what it exports be read again?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import MixtralConfig, MixtralForCausalLM

from distft.common.errors import UserError
from distft.config.models import Model
from distft.models import reading_back
from distft.models.families.causal import empty_causal
from distft.models.families.scalar import empty_scalar
from distft.models.reading_back import check_saved, require_readable, saved_shapes
from tests.harness.work import calls
from tests.unit.models import tiny
from tests.unit.models.families import FAMILIES, families, write_family


@pytest.mark.parametrize("name", families())
def test_the_families_pass(tmp_path: Path, name: str) -> None:
    folder = write_family(tmp_path, name)
    (tmp_path / "model.safetensors").unlink()
    check_saved(empty_causal(folder, Model(path=folder)), folder)


HEADLESS = ("cohere", "granite", "mamba", "mamba2", "bert")  # transformers has no head on one position for these


@pytest.mark.parametrize(
    "name", families("mixtral", "gpt_neox", of=[name for name in FAMILIES if name not in HEADLESS])
)
def test_reward_models_pass(tmp_path: Path, name: str) -> None:
    folder = write_family(tmp_path, name)
    check_saved(empty_scalar(folder, Model(path=folder)), folder)


def a_mixture(num_layers: int = 2, num_experts: int = 4) -> Any:
    sizes = tiny.SIZES | {"num_hidden_layers": num_layers, "num_local_experts": num_experts}
    with torch.device("meta"):
        return MixtralForCausalLM(MixtralConfig(vocab_size=tiny.VOCABULARY, **sizes))


def test_a_file_that_lacks_a_tensor_or_holds_another_is_named() -> None:
    model = a_mixture()
    saved = saved_shapes(model)
    expert = "model.layers.0.block_sparse_moe.experts.0.w1.weight"
    assert expert in saved  # experts lie apart in the file; in the module they are one tensor
    with pytest.raises(ValueError, match=r"the file would not give .* lacks model\.norm\.weight"):
        require_readable(
            model, {name: shape for name, shape in saved.items() if name != "model.norm.weight"}, "the file"
        )
    with pytest.raises(ValueError, match=r"changes the size of model\.norm\.weight"):
        require_readable(model, saved | {"model.norm.weight": (3,)}, "the file")
    with pytest.raises(ValueError, match="has too much: model.stray"):
        require_readable(model, saved | {"model.stray": (3,)}, "the file")


def test_what_transformers_cannot_read_again_is_the_users_message(monkeypatch: pytest.MonkeyPatch) -> None:
    """A version of transformers that forgets the experts' own way of being saved."""
    model = a_mixture()
    monkeypatch.setattr(reading_back, "revert_weight_conversion", lambda _model, tensors: {
        name.replace("experts.gate_up_proj", "experts.lost"): tensor for name, tensor in tensors.items()
    })  # fmt: skip
    with pytest.raises(UserError, match=r"MixtralForCausalLM cannot be exported: .*gate_up_proj") as caught:
        check_saved(model, "some/model")
    assert caught.value.where == "some/model"
    assert "another version of transformers" in caught.value.hint


def test_the_work_grows_with_the_tensors() -> None:
    """512 expert tensors and 1,536: the largest mixtures have 45,000, seen through in seconds."""
    few, many = (a_mixture(num_layers=layers, num_experts=32) for layers in (4, 12))
    check_saved(few, "some/model")  # what transformers imports and learns once
    assert calls(lambda: check_saved(many, "some/model")) < 4 * calls(lambda: check_saved(few, "some/model"))
