"""Texts that are corrupted: drawn by what is visited, and learned as transformers learns them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForMaskedLM, AutoModelForSeq2SeqLM

from distft.algorithms.losses.sft import Sft
from distft.batches import Batch
from distft.common.errors import UserError
from distft.config.load import load_recipe
from distft.config.models import Model
from distft.launch.starts import model_starts
from distft.models.families.family import family_at, find_family
from distft.workers.collate import MicroBatch, collate
from distft.workers.data_worker import DataWorker

SIZES = ("hidden_size=16", "num_layers=1", "num_heads=2", "vocab_size=330")


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., DataWorker]:
    def worker(name: str, *overrides: str) -> DataWorker:
        sizes = [f"models.policy.init.{size}" for size in SIZES]
        limits = [f"data.{part}.0.limit=20" for part in ("train", "eval", "test")]
        recipe = load_recipe(name, [f"output_dir={tmp_path}", *sizes, *limits, *overrides])
        made = DataWorker(recipe=recipe, starts=model_starts(recipe, tmp_path))
        made.setup()
        return made

    return worker


def rows(batch: Batch) -> list[tuple[list[int], list[int], list[int]]]:
    read, answers, learned = (batch.ragged(name) for name in ("prompt_ids", "response_ids", "response_mask"))
    return [(read[row].tolist(), answers[row].tolist(), learned[row].tolist()) for row in range(len(batch))]


NAMES = ("span-tiny", "mlm-tiny")


@pytest.mark.parametrize("name", NAMES)
def test_a_visit_is_drawn_by_itself_and_by_the_seed(make: Callable[..., DataWorker], name: str) -> None:
    """However the visits are divided into steps; again in the next epoch; held-out texts always alike."""
    worker = make(name, "data.shuffle=false")
    whole = rows(worker.batch("train", 0, 8)[1])
    assert whole == [row for start in (0, 3) for row in rows(worker.batch("train", start, 3 if not start else 5)[1])]
    epoch = worker.data.lists["train"].num_units
    again = rows(worker.batch("train", epoch, 8)[1])
    assert sum(one[0] != other[0] for one, other in zip(whole, again, strict=True)) == 8
    assert rows(worker.batch("eval", 0, 4)[1]) == rows(worker.batch("eval", 0, 4)[1])
    assert rows(make(name, "data.shuffle=false", "seed=2").batch("train", 0, 8)[1])[0][0] != whole[0][0]


def test_spans_are_learned_as_transformers_learns_them(make: Callable[..., DataWorker], tmp_path: Path) -> None:
    """The loss of a batch, all rows padded beside each other, and theirs of each row alone."""
    batch = make("span-tiny").batch("train", 0, 8)[1]
    loss, micro = loss_of(batch, tmp_path)
    plain: Any = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "init" / "policy", dtype=torch.float32).eval()
    with torch.no_grad():
        sums = [
            float(plain(input_ids=torch.tensor([read]), labels=torch.tensor([answer])).loss) * len(answer)
            for read, answer, _ in rows(batch)
        ]
    assert loss == pytest.approx(sum(sums) / len(micro.targets), rel=1e-5)


def test_masks_are_learned_as_transformers_learns_them(make: Callable[..., DataWorker], tmp_path: Path) -> None:
    described, batch = make("mlm-tiny").batch("train", 0, 8)
    assert described.lengths == tuple(len(read) for read, _, _ in rows(batch))
    loss, micro = loss_of(batch, tmp_path)
    plain: Any = AutoModelForMaskedLM.from_pretrained(tmp_path / "init" / "policy", dtype=torch.float32).eval()
    sums = []
    for read, whole, learned in rows(batch):
        labels = torch.where(torch.tensor([learned]) == 1, torch.tensor([whole]), -100)
        with torch.no_grad():
            sums.append(float(plain(input_ids=torch.tensor([read]), labels=labels).loss) * sum(learned))
    assert loss == pytest.approx(sum(sums) / len(micro.targets), rel=1e-5)


def loss_of(batch: Batch, run: Path) -> tuple[float, MicroBatch]:
    """Of all rows, padded beside each other."""
    folder = str(run / "init" / "policy")
    model = Model(path=folder, dtype="float32")
    family = find_family(family_at("causal", folder, model))
    module = family.load(folder, model, dropout=False).module.eval()
    micro = collate(family, batch, range(len(batch)), (), 0, torch.device("cpu"))
    with torch.no_grad():
        outputs = family.outputs(module, micro, Sft.outputs, "tokens", 1.0)
    return float(Sft()(outputs, micro.loss, {"tokens": float(len(micro.targets))}).loss), micro


def test_a_decoder_has_no_masks_to_restore(make: Callable[..., DataWorker]) -> None:
    with pytest.raises(UserError, match="no token that masks others.*\n.*BERT, RoBERTa"):
        make("mlm-tiny", "models.policy.init.architecture=llama")


def test_a_decoder_has_no_spans_to_restore(make: Callable[..., DataWorker]) -> None:
    with pytest.raises(UserError, match="no token <extra_id_0>.*\n.*algorithm.kind=pretrain"):
        make("span-tiny", "models.policy.init.architecture=llama")


@pytest.mark.parametrize(
    ("name", "longest", "said"),
    [("mlm-tiny", 2, "leave no two.*\n.*data.max_length=4"), ("span-tiny", 3000, "150 spans .* 32 sentinels")],
)
def test_a_length_that_cannot_be_had_is_said_before_the_rows_are_read(
    make: Callable[..., DataWorker], name: str, longest: int, said: str
) -> None:
    with pytest.raises(UserError, match=said):
        make(name, f"data.max_length={longest}", f"train.max_tokens_per_rank={2 * longest}")
