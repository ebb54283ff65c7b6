"""Tasks of array jobs: which there are, and what each one's overrides are."""

from __future__ import annotations

import pytest

from distft.common.errors import UserError
from distft.launch.slurm.array_tasks import array_of, combinations, of_first, of_task, tasks


@pytest.mark.parametrize(("array", "numbers"), [
    ("0-3", [0, 1, 2, 3]), ("7", [7]), ("1,5,9", [1, 5, 9]), ("0-9:4%2", [0, 4, 8]), ("1-3,8%1", [1, 2, 3, 8]),
])  # fmt: skip
def test_tasks_of_an_array(array: str, numbers: list[int]) -> None:
    assert tasks(array) == numbers


@pytest.mark.parametrize("array", ["", "a", "1-", "0-3; reboot", "3-0", "1%%2", "-1"])
def test_what_is_no_array_is_refused(array: str) -> None:
    with pytest.raises(UserError):
        tasks(array)


def test_overrides_are_checked_as_the_first_task_has_them() -> None:
    words = ["seed={task}", "output_dir=runs/x-{task}"]
    assert of_first(words, [], "4-9") == ["seed=4", "output_dir=runs/x-4"]
    assert of_first(["seed=1"], [], None) == ["seed=1"]


def test_a_tasks_number_without_an_array_is_an_error() -> None:
    with pytest.raises(UserError, match="only a job of an array has a {task}\n  --array 0-3 makes") as refused:
        of_first(["output_dir=runs/x-{task}"], [], None)
    assert refused.value.where == "output_dir=runs/x-{task}"


# ---- sweeps


def test_a_sweep_has_a_task_for_every_combination() -> None:
    sweep = ["seed=1,2", "optimizer.learning_rate=1e-6, 2e-6,3e-6"]
    assert array_of(sweep, None) == "0-5"
    assert combinations(sweep)[:4] == [
        ("seed=1", "optimizer.learning_rate=1e-6"), ("seed=1", "optimizer.learning_rate=2e-6"),
        ("seed=1", "optimizer.learning_rate=3e-6"), ("seed=2", "optimizer.learning_rate=1e-6"),
    ]  # fmt: skip
    assert of_task(["output_dir=r-{task}"], sweep, 4) == ["output_dir=r-4", "seed=2", "optimizer.learning_rate=2e-6"]
    assert of_first(["train.steps=9"], sweep, None)[1:] == ["seed=1", "optimizer.learning_rate=1e-6"]


def test_some_tasks_of_a_sweep_and_not_too_many() -> None:
    assert array_of(["seed=1,2,3"], "1") == "1"
    assert array_of(["seed=1,2,3"], "0-2%1") == "0-2%1"
    with pytest.raises(UserError, match="the sweep has the tasks 0-2"):
        array_of(["seed=1,2,3"], "0-3")
    with pytest.raises(UserError, match="there is no task 3"):
        of_task([], ["seed=1,2,3"], 3)


def test_commas_within_a_value_part_nothing() -> None:
    values = combinations(["models.policy.peft.target_modules=[q_proj,v_proj],[q_proj]", 'name="a,b",c'])
    assert values[0] == ("models.policy.peft.target_modules=[q_proj,v_proj]", 'name="a,b"')
    assert len(values) == 4


@pytest.mark.parametrize(("sweep", "overrides", "said"), [
    (["seed"], [], "is no sweep"), (["seed="], [], "is no sweep"), (["seed=1,,2"], [], "is no sweep"),
    (["=1,2"], [], "is no sweep"), (["seed=1", "seed=2"], [], "swept twice"),
    (["seed=1,2"], ["seed=3"], "is swept, and given besides"), (["output_dir=a,b"], [], "a run folder of its own"),
])  # fmt: skip
def test_what_is_no_sweep_is_one_message(sweep: list[str], overrides: list[str], said: str) -> None:
    with pytest.raises(UserError, match=said):
        of_first(overrides, sweep, None)
