"""What is kept in a shard comes back as it was."""

from __future__ import annotations

from pathlib import Path

import pytest
import safetensors.torch
import torch

from distft.engine.shards import Shards, make_shard, shard_file


def kept_by_safetensors(dtype: torch.dtype) -> bool:
    """Whether safetensors' own writer keeps tensors of that type."""
    try:
        safetensors.torch.load(safetensors.torch.save({"a": torch.empty(2, dtype=dtype)}))
    except (KeyError, ValueError, RuntimeError, safetensors.SafetensorError):
        return False
    return True


@pytest.mark.filterwarnings("ignore::UserWarning")  # of types that torch itself is giving up
def test_buffers_of_every_type_that_safetensors_keeps(tmp_path: Path) -> None:
    dtypes = {one for one in vars(torch).values() if isinstance(one, torch.dtype)}
    kept = sorted(filter(kept_by_safetensors, dtypes), key=str)
    assert {torch.float32, torch.int8, torch.int16, torch.float8_e4m3fn} <= set(kept)
    raw = torch.tensor([[0, 1, 2, 3, 4, 5, 6, 7], [8, 9, 10, 11, 12, 13, 14, 15]], dtype=torch.uint8)
    buffers = {str(one): (raw % 2).bool() if one == torch.bool else raw.view(one) for one in kept}
    make_shard([("weight/0/a", torch.ones(3))], buffers, {"step": 1}).write(shard_file(tmp_path, 0))
    found = Shards(tmp_path).buffers()
    assert {name: (one.dtype, one.shape) for name, one in found.items()} == {
        name: (one.dtype, one.shape) for name, one in buffers.items()
    }
    for name, one in buffers.items():
        assert torch.equal(found[name].view(torch.uint8), one.view(torch.uint8)), name
