"""A copy is the file of the moment at which it was taken, however many pieces of memory it lies in."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from distft.engine import host_copy
from distft.engine.host_copy import HostCopy
from distft.engine.shards import Shard, make_shard
from distft.planning.memory import HOST_CHUNK


def shard(first: float, numel: int) -> Shard:
    pieces = [("weight/0/a", torch.arange(first, first + numel)), ("exp_avg/0/a", torch.ones(numel).bfloat16())]
    buffers = {"scale": torch.tensor(3.0), "mask": torch.eye(3).bool().T, "none": torch.empty(0)}
    return make_shard(pieces, buffers, {"step": first})


def test_it_stays_as_it_was_until_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_copy, "CHUNK", 100)
    room = HostCopy()
    for number, numel in enumerate((90, 120, 30)):  # into more room, and into less than there is
        now = shard(float(number), numel)
        now.write(tmp_path / "now")
        copy = room.take(now)
        for tensor in now.tensors:
            tensor.zero_()
        copy.write(tmp_path / "later")
        assert (tmp_path / "later").read_bytes() == (tmp_path / "now").read_bytes()
        assert all(len(piece) <= 100 for piece in copy.tensors)


def test_the_plan_counts_the_pieces_of_memory_that_are_taken() -> None:
    assert HOST_CHUNK == host_copy.CHUNK
