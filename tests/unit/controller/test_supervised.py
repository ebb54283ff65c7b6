"""The loop of given rows, over groups that only write down what they are asked; see `test_rl`."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from distft.batches import Difference
from distft.config.load import load_recipe
from distft.config.roles import roles
from distft.controller.invariants import InvariantViolated
from distft.controller.own_answers import is_on_policy
from distft.controller.progress import Progress
from distft.controller.session import Session
from distft.controller.supervised import train_supervised
from distft.tracking.timing import Throughput
from distft.tracking.tracker import Tracker
from distft.workers.verbs import DataVerbs, GeneratorVerbs, ModelVerbs
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


def own_steps(folder: Path) -> list[float]:
    """Of each step whether the policy is said to have answered itself."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line["rollout/on_policy"] for line in lines if line["split"] == "train"]


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


def test_answers_of_its_own_wait_for_the_policy_as_the_step_before_left_it(tmp_path: Path) -> None:
    said = Said()
    run(said, "distill-tiny", tmp_path, "algorithm.on_policy=1.0")
    sampled = [("data.own_prompts",), ("policy.sync_weights",), ("policy.generate",), ("teacher.distributions",)]
    assert said.at_once == [*sampled, ("policy.update",)] * 3
    assert [call.args for call in said.asked(DataVerbs.own_prompts)] == [(0, 4), (4, 4), (8, 4)]
    assert [call.args[0] for call in said.asked(GeneratorVerbs.sync_weights)] == [0, 1, 2]
    assert [call.args[2] for call in said.asked(GeneratorVerbs.generate)] == [1, 2, 3], "draws are the step's"
    updates = said.asked(ModelVerbs.update)
    refs = ["data.own_prompts", "policy.generate", "teacher.distributions"]
    assert [source.parts[0].ref for source in updates[0].data] == refs
    assert own_steps(tmp_path) == [1, 1, 1]


def test_which_steps_are_the_policys_own_follows_from_the_seed(tmp_path: Path) -> None:
    """And they are as many as was asked for, near enough: of 400 steps 100, give or take four deviations."""

    def steps(seed: int, share: float) -> list[int]:
        recipe = load_recipe("distill-tiny", [f"seed={seed}", f"algorithm.on_policy={share}"])
        return [step for step in range(400) if is_on_policy(SimpleNamespace(recipe=recipe), step)]  # type: ignore[arg-type]

    assert steps(1, 0.25) == steps(1, 0.25) != steps(2, 0.25)
    assert abs(len(steps(1, 0.25)) - 100) < 35
    assert set(steps(1, 0.25)) < set(steps(1, 0.5)), "a higher share adds steps"
    assert (steps(1, 0.0), steps(1, 1.0)) == ([], list(range(400)))


def test_where_no_prompt_leaves_room_the_rows_own_answers_are_learned(tmp_path: Path) -> None:
    said = Said(no_room=True)
    run(said, "distill-tiny", tmp_path, "algorithm.on_policy=1.0")
    assert not said.asked(GeneratorVerbs.generate)
    assert len(said.asked(DataVerbs.batch)) == 3
    assert own_steps(tmp_path) == [0, 0, 0]


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
