"""Log-probs on the disk, found by the tokens: what is whole comes back, what is torn is asked for again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from distft.batches import Batch, Ragged
from distft.workers.kept_logprobs import KeptLogprobs
from tests.harness.damage import flip

ROWS = Batch(
    {
        "prompt_ids": Ragged.of([[1, 2], [1], [], [1, 2]], np.int32),
        "response_ids": Ragged.of([[3], [2, 3], [1, 2, 3], [3]], np.int32),
        "ref_logprobs": Ragged.of([[-0.5], [-1.0, -2.0], [0.0, -3.0, -4.0], [-0.5]], np.float32),
    }
)


def values(kept: KeptLogprobs, rows: list[int]) -> list[list[float]]:
    found = kept.column(ROWS.take(rows))
    return [found[row].tolist() for row in range(len(rows))]


def test_a_sequence_is_its_tokens_and_where_its_response_begins(tmp_path: Path) -> None:
    """All four rows have the tokens 1 2 3; the last is the first again."""
    kept = KeptLogprobs(tmp_path / "kept")
    assert kept.missing(ROWS) == [0, 1, 2]
    kept.add(ROWS.take([1]), "ref_logprobs")
    assert kept.missing(ROWS) == [0, 2]
    with pytest.raises(KeyError):
        kept.column(ROWS)
    kept.add(ROWS, "ref_logprobs")
    kept.add(ROWS, "ref_logprobs")
    assert (tmp_path / "kept" / "values.f32").stat().st_size == 4 * 6
    for there in (kept, KeptLogprobs(tmp_path / "kept")):
        assert there.missing(ROWS) == []
        assert values(there, [2, 0, 3, 1]) == [[0.0, -3.0, -4.0], [-0.5], [-0.5], [-1.0, -2.0]]


def flipped(folder: Path) -> None:
    flip(folder / "values.f32", 9)  # of the second addition


def shorter(folder: Path) -> None:
    (folder / "values.f32").write_bytes((folder / "values.f32").read_bytes()[:-1])


def torn(folder: Path) -> None:
    (folder / "index.jsonl").write_bytes((folder / "index.jsonl").read_bytes()[:-3])


def no_line(folder: Path) -> None:
    with (folder / "values.f32").open("ab") as file:
        file.write(b"seven b")


@pytest.mark.parametrize(("damage", "missing"), [(flipped, [1, 2]), (shorter, [1, 2]), (torn, [1, 2]), (no_line, [2])])
def test_what_is_not_whole_is_missing_and_written_again(
    tmp_path: Path, damage: Callable[[Path], None], missing: list[int]
) -> None:
    kept = KeptLogprobs(tmp_path)
    kept.add(ROWS.take([0]), "ref_logprobs")
    kept.add(ROWS.take([1]), "ref_logprobs")
    damage(tmp_path)
    kept = KeptLogprobs(tmp_path)
    assert kept.missing(ROWS) == missing
    kept.add(ROWS, "ref_logprobs")
    assert values(KeptLogprobs(tmp_path), [0, 1, 2]) == [[-0.5], [-1.0, -2.0], [0.0, -3.0, -4.0]]
