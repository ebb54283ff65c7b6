"""What the reference said is found by model and tokens: asked once, and again where either is another."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from distft.batches import Batch, Ragged
from distft.common.errors import UserError
from distft.config.load import load_recipe
from distft.launch.starts import model_starts
from distft.workers.data_worker import DataWorker
from tests.harness.damage import flip

INIT = "{hidden_size: 16, num_layers: 1, num_heads: 2, vocab_size: 300, max_positions: 256}"
UNTIL = 12  # visits of training


def worker(folder: Path, *overrides: str) -> DataWorker:
    recipe = load_recipe(
        "dpo-tiny",
        [f"output_dir={folder}", f"models.policy.init={INIT}", "algorithm.reference=cached", "data.train.0.limit=10",
         "data.eval.0.limit=4", "data.max_length=250", "data.test=[]", "evaluation.max_samples=3", *overrides],
    )  # fmt: skip
    made = DataWorker(recipe=recipe, starts=model_starts(recipe, folder))
    made.setup()
    return made


def read_all(worker: DataWorker) -> list[int]:
    """Units of each block that had to be read; what is said of a token is its number, below 0."""
    blocks = []
    while True:
        found, batch = worker.unread(UNTIL, 4)
        if found.done == found.num_units:
            return blocks
        if len(batch):
            blocks.append(len(set(batch.dense("unit").tolist())))
            assert found.rows.lengths
            said = batch.ragged("response_ids")
            worker.keep_reference(
                batch=batch.with_columns(ref_logprobs=Ragged(-said.values.astype(np.float32), said.offsets))
            )


def assert_attached(batch: Batch) -> None:
    assert np.array_equal(batch.ragged("ref_logprobs").values, -batch.ragged("response_ids").values)
    assert np.array_equal(batch.ragged("ref_logprobs").offsets, batch.ragged("response_ids").offsets)


def test_rows_are_read_once(tmp_path: Path) -> None:
    first = worker(tmp_path)
    _, before = first.batch("train", 0, 2)
    assert "ref_logprobs" not in before, "a rehearsal asks for rows, too"
    assert read_all(first) == [4, 4, 2, 3], "ten pairs of train, and those of the four that an evaluation takes"
    for split, start, count in (("train", 7, 5), ("eval", 0, 3)):
        _, batch = first.batch(split, start, count)
        assert_attached(batch)
    again = worker(tmp_path)
    assert read_all(again) == []
    assert_attached(again.batch("train", 3, 4)[1])
    shorter = worker(tmp_path, "data.max_length=110")
    assert 0 < sum(read_all(shorter)) <= 13
    assert_attached(shorter.batch("train", 0, 10)[1])
    [folder] = (tmp_path / "reference").iterdir()
    (tmp_path / "reference" / ".DS_Store").touch()
    flip(tmp_path / "init" / "policy" / "model.safetensors", -1)
    assert read_all(worker(tmp_path)) == [4, 4, 2, 3]
    [other] = (tmp_path / "reference").glob("[!.]*")
    assert other != folder


def test_only_what_training_visits_is_read(tmp_path: Path) -> None:
    made = worker(tmp_path, "evaluation.every=0", "data.eval=[]", "rollout.max_new_tokens=1")
    assert made.unread(3, 4)[0].num_units == 3


def test_weights_that_cannot_be_told_apart_are_refused(tmp_path: Path) -> None:
    made = worker(tmp_path)
    (tmp_path / "init" / "policy" / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"no safetensors weights here.*\n.*algorithm.reference=group"):
        made.unread(UNTIL, 4)
