"""Quantized weights at stage 3: each is cut before the next is read, on ranks that read the same."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook
from transformers import AutoModelForCausalLM

from distft.common.errors import DistftError
from distft.engine.engine import Engine
from distft.models.families.causal import load_causal
from distft.models.families.scalar import load_scalar
from distft.models.quantization import as_bitsandbytes
from tests.unit.engine.group import Group
from tests.unit.engine.rank_side import Setup


def load(rank: int, world: int, setup: Setup) -> dict[str, Any]:
    """What lies whole on a rank while it loads, at most, and whether all is what a plain load quantizes."""
    model, given = setup.model(), list[Any]()
    whole = []

    def look(_: nn.Module, __: str, parameter: Any) -> None:
        if parameter is not None and not parameter.is_meta:
            given.append(parameter)
            whole.append(sum(one.numel() for one in given))

    with Engine.sharded_loading(model.engine, model.dtype, quantized=True):
        handle = register_module_parameter_registration_hook(look)  # behind the one that cuts
        causal: Any = load_causal(setup.folder, model, dropout=False)
        handle.remove()
        scalar, fresh = load_scalar(setup.folder, model, dropout=False, new_head=True)
    assert model.quantization is not None
    quantization = as_bitsandbytes(model.quantization, torch.bfloat16)
    plain = AutoModelForCausalLM.from_pretrained(setup.folder, dtype=torch.bfloat16, quantization_config=quantization)  # type: ignore[no-untyped-call]
    wanted = {f"model.{name}": parameter.detach() for name, parameter in plain.named_parameters()}
    engine = Engine(causal, model.engine, setup.dtype, None, model.rate_ratio)
    found = dict(engine.full_tensors())
    return {
        "given": len(given),
        "whole": max(whole),
        "shards": all(hasattr(parameter, "ds_id") for parameter in scalar.parameters()) and fresh,
        "names": set(found) == set(wanted),
        "equal": [name for name, tensor in engine.full_tensors() if not torch.equal(tensor, wanted[name])],
        "packed": sum(tensor.dtype in (torch.uint8, torch.int8) for tensor in wanted.values()),
    }


def refused(rank: int, world: int, setups: list[Setup]) -> str:
    """What a rank is told that loads its own of the folders."""
    model = setups[rank].model()
    with (
        pytest.raises(DistftError) as told,
        Engine.sharded_loading(model.engine, model.dtype, quantized=True),
    ):
        load_causal(setups[rank].folder, model, dropout=False)
    return str(told.value)


@pytest.mark.parametrize("quantized", ["nf4", "int8"])
def test_no_rank_holds_more_than_its_shards(groups: dict[int, Group], folder: str, quantized: Any) -> None:
    for found in groups[2].call(load, Setup(folder, 3, "bfloat16", quantized=quantized)):
        assert found["given"] > 10
        assert found["whole"] == 0
        assert found["shards"]
        assert found["names"]
        assert found["equal"] == []
        assert found["packed"] >= 7


def test_ranks_that_read_other_weights_or_none_end_together(folder: str, tmp_path: Path) -> None:
    """In processes that load nothing else: DeepSpeed numbers parameters as they come, and one rank has had fewer."""
    other = Path(shutil.copytree(folder, tmp_path / "other"))
    weights = load_file(other / "model.safetensors")
    name = next(name for name in weights if "mlp" in name)
    weights[name] = weights[name] * 1.5
    save_file(weights, other / "model.safetensors", metadata={"format": "pt"})
    setups = [Setup(path, 3, "bfloat16", quantized="nf4") for path in (folder, str(other))]
    with Group(2) as ranks:
        for told in ranks.call(refused, setups):
            assert told.startswith("rank 1 has read other weights than rank 0")
        (other / "model.safetensors").unlink()
        mine, theirs = ranks.call(refused, setups)
    assert mine == theirs
    assert str(other) in mine
