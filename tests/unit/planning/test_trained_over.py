"""Over which weights was a LoRA trained?"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from distft.common.errors import UserError
from distft.config.adapters.lora import Lora
from distft.planning.lora_folder import LoraFolder
from distft.planning.trained_over import trained_over

LAYERS = ("model.layers.0.self_attn.q_proj", "model.layers.1.self_attn.q_proj", "model.layers.0.mlp.up_proj")


def weights(dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    """Half of the numbers are as small as float16 can hardly hold."""
    drawn, sizes = torch.Generator().manual_seed(0), torch.tensor([0.02, 1e-6]).repeat(32)
    return {f"{name}.weight": (sizes * torch.randn(96, 64, generator=drawn)).to(dtype) for name in LAYERS}


def folder(path: Path, tensors: dict[str, torch.Tensor]) -> Path:
    path.mkdir()
    save_file(tensors, path / "model.safetensors")
    return path


def finished(path: Path, base: dict[str, torch.Tensor], *, turned: bool = False) -> LoraFolder:
    """A reward model that was trained over ``base``, and its adapter."""
    drawn = torch.Generator().manual_seed(1)
    lora, learned, merged = Lora(r=4, alpha=8.0), {}, {}
    for name, weight in base.items():
        sizes = (4, 64), (96, 4)
        a, b = (
            (each * torch.randn(size, generator=drawn)).to(weight.dtype)
            for each, size in zip((0.05, 1e-4), sizes, strict=True)
        )
        stem = f"base_model.model.{name.removesuffix('.weight')}"
        learned |= {f"{stem}.lora_A.weight": a, f"{stem}.lora_B.weight": b}
        merged[name] = (weight.float() + lora.scale * (b.float() @ a.float())).to(weight.dtype)
    if turned:
        merged = {name: weight.T.contiguous() for name, weight in merged.items()}
    folder(path, merged)
    (path / "adapter").mkdir()
    save_file(learned, path / "adapter" / "adapter_model.safetensors")
    return LoraFolder(path / "adapter", lora, "")


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_its_own_base_is_known_by_its_weights(tmp_path: Path, dtype: torch.dtype, turned: bool) -> None:
    """As linear layers have them and as GPT-2 does; whole, and where each number was rounded."""
    base = weights(dtype)
    found = finished(tmp_path / "final", base, turned=turned)
    start = {name: weight.T.contiguous() if turned else weight for name, weight in base.items()}
    assert trained_over(found, tmp_path / "final", folder(tmp_path / "start", start), "") is True
    shorter = {name.removeprefix("model."): weight for name, weight in start.items()}
    assert trained_over(found, tmp_path / "final", folder(tmp_path / "shorter", shorter), "") is True


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_that_were_trained_on_since_are_others(tmp_path: Path, dtype: torch.dtype) -> None:
    """In one kind of layer alone, by a hundredth of what they are."""
    base = weights(dtype)
    found = finished(tmp_path / "final", base)
    drawn = torch.Generator().manual_seed(2)
    since = dict(base)
    since[f"{LAYERS[2]}.weight"] = (base[f"{LAYERS[2]}.weight"] + 2e-4 * torch.randn(96, 64, generator=drawn)).to(dtype)
    assert trained_over(found, tmp_path / "final", folder(tmp_path / "since", since), "") is False
    assert trained_over(found, tmp_path / "final", folder(tmp_path / "wide", weights_of(128)), "") is False


def weights_of(width: int) -> dict[str, torch.Tensor]:
    return {f"{name}.weight": torch.zeros(96, width) for name in LAYERS}


def test_what_has_other_names_cannot_be_told(tmp_path: Path) -> None:
    found = finished(tmp_path / "final", weights())
    other = folder(tmp_path / "other", {"something.weight": torch.zeros(96, 64)})
    assert trained_over(found, tmp_path / "final", other, "") is None


def test_a_torn_adapter_is_said(tmp_path: Path) -> None:
    found = finished(tmp_path / "final", weights())
    (found.folder / "adapter_model.safetensors").write_bytes(b"torn")
    with pytest.raises(UserError, match="cannot be read") as told:
        trained_over(found, tmp_path / "final", tmp_path / "final", "models.reward.path")
    assert told.value.where == "models.reward.path"
