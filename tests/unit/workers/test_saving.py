"""A share of a checkpoint that a thread writes while its rank trains: the very files, and what stops it is said."""

from __future__ import annotations

from pathlib import Path

import pytest

from distft.checkpoint.manifest import FileRecord, NotWritten
from tests.unit.engine import rank_side
from tests.unit.engine.group import Group
from tests.unit.engine.rank_side import Setup
from tests.unit.models import tiny


def test_it_writes_what_a_rank_that_waits_does(groups: dict[int, Group], tmp_path: Path) -> None:
    folder = tiny.write_model(tmp_path / "model", "llama")
    (told,) = groups[1].call(rank_side.save_both_ways, Setup(folder, 0), str(tmp_path))
    files = [record.path for record in told["waited"] if isinstance(record, FileRecord)]
    assert sorted(files) == ["policy/rng_0.pt", "policy/states_0.safetensors"]
    assert list(told["behind"].files) == told["waited"], "of the same bytes"
    for name in files:
        assert (tmp_path / "behind" / name).read_bytes() == (tmp_path / "waited" / name).read_bytes()
    assert told["behind"].seconds > 0
    (full,) = told["full"].files
    assert isinstance(full, NotWritten)
    assert full.cause.startswith("policy rank 0: [Errno 28] No space left on device")

    (none,) = told["none"].files
    assert none.cause.startswith("policy rank 0: no host memory for the copy (")
    assert none.cause.endswith("); checkpoint.asynchronous=false needs none")
    assert not (tmp_path / "none").exists()

    assert told["ended"] == [False, True]
    assert told["second"] == "the checkpoint before is still being written"
    assert not (tmp_path / "second").exists()
    assert told["later"].files == told["behind"].files


@pytest.mark.parametrize(("stage", "dtype", "value", "refused"), [
    (0, "float32", float("nan"), True), (3, "bfloat16", float("-inf"), True), (2, "float32", 1e6, False),
    pytest.param(2, "float16", 1e6, True, marks=pytest.mark.slow),
    pytest.param(0, "float16", 1e4, False, marks=pytest.mark.slow),
])  # fmt: skip
def test_weights_that_are_no_numbers_are_never_saved(
    groups: dict[int, Group], tmp_path: Path, stage: int, dtype: str, value: float, refused: bool
) -> None:
    """In the precision that the model computes in: the float32 weights behind float16's may be larger than it has."""
    folder = tiny.write_model(tmp_path / "model", "llama")
    if dtype == "float16":
        groups[2].call(rank_side.allow_float16)
    told = groups[2].call(rank_side.save_what_is_no_number, Setup(folder, stage, dtype), str(tmp_path), value)
    for rank, ways in enumerate(told):
        for files in ways:
            if not refused:
                assert all(isinstance(one, FileRecord) for one in files)
                continue
            (said,) = files
            assert isinstance(said, NotWritten)
            assert said.cause.startswith(f"policy rank {rank}: its weights are no numbers: ")
            assert said.cause.endswith(" holds NaN or infinity")
    assert (tmp_path / "behind").exists() is not refused
