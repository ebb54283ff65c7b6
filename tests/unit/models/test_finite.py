"""Weights that are no numbers are refused, in files and in memory, by name."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from distft.common.errors import UserError
from distft.config.models import Model
from distft.models import finite
from distft.models.families.causal import load_causal
from distft.models.families.scalar import load_scalar
from distft.models.finite import require_finite, require_finite_files

NORM, DOWN = "model.layers.0.input_layernorm.weight", "model.layers.1.mlp.down_proj.weight"


@pytest.fixture
def broken(model_folder: Callable[..., str], tmp_path: Path) -> Callable[..., Path]:
    """A model of which the named weights hold a value that is none."""

    def folder(dtype: torch.dtype = torch.float32, **values: float) -> Path:
        path = Path(shutil.copytree(model_folder("llama"), tmp_path / "model"))
        weights = {name: tensor.to(dtype) for name, tensor in load_file(path / "model.safetensors").items()}
        for name, value in values.items():
            weights[name].view(-1)[-1] = value
        save_file(weights, path / "model.safetensors", {"format": "pt"})
        return path

    return folder


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_one_value_is_enough(broken: Callable[..., Path], dtype: torch.dtype, value: float) -> None:
    folder = broken(dtype, **{DOWN: value})
    model = Model(path=str(folder), dtype="float32")
    for look in (
        lambda: require_finite_files(folder),
        lambda: load_causal(str(folder), model, dropout=False),
        lambda: load_scalar(str(folder), model, dropout=False, new_head=True),
    ):
        with pytest.raises(UserError, match=f"{DOWN} holds NaN or infinity") as caught:
            look()
        assert caught.value.where == str(folder)


def test_of_several_the_first_is_named_and_the_rest_counted(broken: Callable[..., Path]) -> None:
    with pytest.raises(UserError, match=f"{NORM} and 1 more of 20 tensors hold NaN"):
        require_finite_files(broken(**{NORM: float("nan"), DOWN: float("nan")}))


def test_what_is_right_passes_and_what_is_not_loaded_is_not_looked_at(model_folder: Callable[..., str]) -> None:
    require_finite_files(Path(model_folder("gpt2")))
    layer = nn.Linear(2, 2)
    with torch.no_grad():
        layer.bias.fill_(float("nan"))
    require_finite(layer, "here", but=["bias"])
    with pytest.raises(UserError, match="here: its weights are not numbers: bias holds NaN"):
        require_finite(layer, "here")


def test_files_are_read_through_up_to_a_size(broken: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    folder = broken(**{NORM: float("nan")})
    size = (folder / "model.safetensors").stat().st_size
    opened: list[Path] = []
    opening = finite.safe_open
    monkeypatch.setattr(finite, "safe_open", lambda path, **words: opened.append(path) or opening(path, **words))
    monkeypatch.setattr(finite, "READ_THROUGH", size - 1)
    require_finite_files(folder)
    assert opened == [], "a larger one is left to the load"
    monkeypatch.setattr(finite, "READ_THROUGH", size)
    with pytest.raises(UserError, match=f"{NORM} holds NaN or infinity"):
        require_finite_files(folder)
    assert opened == [folder / "model.safetensors"]
