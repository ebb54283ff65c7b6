"""The loop of given rows, over groups that only write down what they are asked; see `test_rl`."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from distft.batches import Difference
from distft.config.load import load_recipe
from distft.config.roles import roles
from distft.controller.invariants import InvariantViolated
from distft.controller.progress import Progress
from distft.controller.session import Session
from distft.controller.supervised import train_supervised
from distft.tracking.timing import Throughput
from distft.tracking.tracker import Tracker
from distft.workers.verbs import ModelVerbs
from tests.harness.fake_groups import Said, fake_data, fake_model

LN_2 = 0.6931471805599453


class Unsaved(Session):
    def save(self) -> None:
        pass


def run(said: Said, recipe_name: str, folder: Path, *more: str) -> None:
    keys = [
        "evaluation.every=0",
        "train.steps=3",
        "train.epochs=null",
        "train.global_batch_size=4",
        "optimizer.warmup_steps=0",
        *more,
    ]
    recipe = load_recipe(recipe_name, keys)
    tracker, nowhere = Tracker(folder, attempt=1, resume_step=None), SimpleNamespace(folder=folder / "checkpoints")
    groups = {role: fake_model(role, said) for role in roles(recipe)}
    train_supervised(
        Unsaved(recipe, groups, fake_data(said), {"train": 100}, tracker, nowhere,  # type: ignore[arg-type]
                Progress(total_steps=3), Throughput(num_gpus=1))
    )  # fmt: skip


def test_the_references_pass_over_the_next_pairs_goes_on_beside_the_update(tmp_path: Path) -> None:
    said = Said(loss=LN_2)
    run(said, "dpo-tiny", tmp_path)
    assert said.at_once == [
        ("data.batch",),
        ("reference.forward",),
        ("policy.forward",),
        ("data.logprob_difference",),
        ("policy.evaluate",),
        ("data.batch",),
        ("policy.update", "reference.forward"),
        ("data.batch",),
        ("policy.update", "reference.forward"),
        ("policy.update",),
    ]
    for call in said.asked(ModelVerbs.update):
        assert [source.parts[0].ref for source in call.data] == ["data.batch", "reference.forward"]
    assert [call.args[2:] for call in said.asked(ModelVerbs.update)] == [(0, 3), (1, 3), (2, 3)]


def test_a_reference_that_follows_reads_the_next_pairs_when_it_has(tmp_path: Path) -> None:
    said = Said(loss=LN_2)
    run(said, "dpo-tiny", tmp_path, "algorithm.sync_every=2", "algorithm.sync_alpha=0.5")
    assert said.at_once[5:] == [
        ("data.batch",),
        ("policy.update", "reference.forward"),
        ("data.batch",),
        ("policy.update",),
        ("policy.write_weights",),
        ("reference.take_weights",),
        ("reference.forward",),
        ("policy.update",),
    ]
    [taken] = said.asked(ModelVerbs.take_weights)
    assert taken.args == (str(tmp_path / ".passing"), 0.5)
    for call in said.asked(ModelVerbs.update):
        assert [source.parts[0].ref for source in call.data] == ["data.batch", "reference.forward"]


def test_the_baseline_is_measured_before_each_update_by_the_weights_of_then(tmp_path: Path) -> None:
    said = Said(loss=0.5)
    run(said, "kto-tiny", tmp_path)
    baseline = [("data.mismatched",), ("policy.forward", "reference.forward"), ("data.kl_baseline",)]
    update = ("policy.update", "reference.forward")
    assert said.at_once == [
        ("data.batch",),
        ("reference.forward",),
        *baseline,
        ("policy.forward",),
        ("data.logprob_difference",),
        ("policy.evaluate",),
        ("data.batch",),
        update,
        *baseline,
        ("data.batch",),
        update,
        *baseline,
        ("policy.update",),
    ]
    for call in said.asked(ModelVerbs.update):
        brought = [source.parts[0].ref for source in call.data]
        assert brought == ["data.batch", "reference.forward", "data.kl_baseline"]


def test_the_teacher_reads_the_next_rows_beside_the_update(tmp_path: Path) -> None:
    """And what it must be equal to is nothing: no invariants."""
    said = Said(loss=0.5)
    run(said, "distill-tiny", tmp_path)
    update = ("policy.update", "teacher.distributions")
    assert said.at_once == [
        ("data.batch",),
        ("teacher.distributions",),
        ("data.batch",),
        update,
        ("data.batch",),
        update,
        ("policy.update",),
    ]
    for call in said.asked(ModelVerbs.update):
        assert [source.parts[0].ref for source in call.data] == ["data.batch", "teacher.distributions"]
    assert [call.args[0] for call in said.asked(ModelVerbs.distributions)] == [32] * 3


def test_without_a_reference_there_is_nothing_beside_it(tmp_path: Path) -> None:
    said = Said()
    run(said, "sft-tiny", tmp_path)
    step = [("data.batch",), ("policy.update",)]
    assert said.at_once == [("data.batch",), *step, *step, ("policy.update",)]


@pytest.mark.parametrize("wrong", [{"loss": 0.7}, {"reference_difference": Difference(9.0, 9.0, 9.0)}])
def test_before_the_first_update_the_policy_is_the_reference(tmp_path: Path, wrong: dict[str, Any]) -> None:
    said = Said(**{"loss": LN_2, **wrong})
    with pytest.raises(InvariantViolated):
        run(said, "dpo-tiny", tmp_path)
    assert not said.asked(ModelVerbs.update)
