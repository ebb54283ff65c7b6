"""What a classifier asks of a recipe, and where its labels come from."""

from __future__ import annotations

import pytest

from distft.common.errors import UserError
from distft.config.load import load_recipe
from distft.launch.prepare import with_labels

LABELS = ("clean", "gift", "loss", "purchase", "repair", "shipment")


def test_labels_that_nobody_names_are_those_of_the_data() -> None:
    recipe = load_recipe("classification-tiny", ["data.train.0.limit=200"])
    assert recipe.algorithm.head_labels() == ()
    named = with_labels(recipe)
    assert named.algorithm.head_labels() == LABELS
    assert named.algorithm.loss_of("reward")[1] == {"labels": LABELS, "class_weights": {}}
    backwards = load_recipe("classification-tiny", [f"algorithm.labels=[{', '.join(reversed(LABELS))}]"])
    assert with_labels(backwards) is backwards
    assert backwards.algorithm.head_labels() == tuple(reversed(LABELS))


def test_other_methods_have_none() -> None:
    recipe = load_recipe("reward-tiny", [])
    assert with_labels(recipe) is recipe
    assert recipe.algorithm.head_labels() == ()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["algorithm.labels=[a, a]"], "names a label twice"),
        (["algorithm.labels=[a, b]", "algorithm.class_weights={c: 2.0}"], r"(?s)c is no label.*one of: a, b"),
        (["algorithm.class_weights={gift: 0.0}"], "gift: 0.0 is no weight"),
    ],
)
def test_what_does_not_go_together(words: list[str], said: str) -> None:
    with pytest.raises(UserError, match=said):
        load_recipe("classification-tiny", words)


def test_a_weight_of_a_label_that_the_data_lack_is_told_before_anything_starts() -> None:
    recipe = load_recipe("classification-tiny", ["algorithm.class_weights={gifts: 2.0}"])
    with pytest.raises(UserError, match=r"(?s)gifts is no label.*one of: clean, gift"):
        with_labels(recipe)
