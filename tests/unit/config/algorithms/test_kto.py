"""What KTO asks of a recipe, and what it says of its rows."""

from __future__ import annotations

import re

import pytest

from distft.common.errors import UserError
from distft.config.algorithms.kto import Kto
from distft.config.load import load_recipe


def test_an_answer_needs_another_to_be_measured_against() -> None:
    with pytest.raises(UserError, match=r"train.global_batch_size.*1 leaves no other answer"):
        load_recipe("kto-tiny", ["train.global_batch_size=1"])
    load_recipe("kto-tiny", ["train.global_batch_size=2"])


@pytest.mark.parametrize(("good", "bad"), [(100, 100), (100, 90), (90, 100), (75, 100), (1000, 7), (7, 1000)])
@pytest.mark.parametrize("weights", [{}, {"desirable_weight": 2.5}, {"undesirable_weight": 0.4}])
def test_the_weights_it_recommends_are_right(good: int, bad: int, weights: dict[str, float]) -> None:
    """Within [1, 4/3] it says nothing; else what it says, pasted, silences it, and no weight becomes smaller."""
    method = Kto(kind="kto", **weights)
    said = list(method.on_labels(good, bad))
    ratio = method.desirable_weight * good / (method.undesirable_weight * bad)
    assert bool(said) is not (1 <= ratio <= 4 / 3)
    for text in said:
        assert text.startswith(f"{good} good answers and {bad} bad ones")
        found = re.search(r"algorithm\.(\w+)=(\S+)$", text)
        assert found is not None
        cured = Kto(kind="kto", **{**weights, found[1]: float(found[2])})
        assert list(cured.on_labels(good, bad)) == []
        assert getattr(cured, found[1]) > getattr(method, found[1])


def test_answers_of_one_sort_are_said_to_be_so() -> None:
    assert list(Kto(kind="kto").on_labels(0, 9)) == [
        "all 9 answers are labelled bad: nothing tells the two apart"
    ]  # fmt: skip
    assert list(Kto(kind="kto").on_labels(9, 0)) == ["all 9 answers are labelled good: nothing tells the two apart"]


def test_the_loss_of_a_policy_that_is_its_reference() -> None:
    first = Kto(kind="kto", desirable_weight=3.0, undesirable_weight=3.0).first_loss()
    assert first is not None
    assert first.value == 1.5
    assert Kto(kind="kto", desirable_weight=3.0).first_loss() is None
