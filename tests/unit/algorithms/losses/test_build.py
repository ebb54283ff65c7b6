from __future__ import annotations

import pytest

from distft.algorithms.losses.build import build_loss
from distft.algorithms.losses.dpo import Dpo
from distft.common.addresses import found_at
from tests.harness.loss_cases import LOSSES


def test_builds_with_parameters() -> None:
    assert build_loss(found_at(LOSSES["dpo"]), {"beta": 0.3, "loss": "ipo"}) == Dpo(beta=0.3, loss="ipo")


@pytest.mark.parametrize(
    ("name", "params", "message"),
    [
        ("dpo", {"bta": 1}, "did you mean 'beta'"),
        ("sft", {"zzz": 1}, "no parameter 'zzz'; known: none"),
        ("dpo", {"loss": "nope"}, "unknown dpo loss"),
        ("dpo", {"beta": 0.0}, "beta"),
        ("dpo", {"label_smoothing": 0.5}, r"\[0, 0.5\)"),
        ("dpo", {"loss": "hinge", "label_smoothing": 0.1}, "no meaning for hinge"),
        ("dpo", {"loss": "exo_pair"}, "exo_pair needs label_smoothing"),
        ("dpo", {"rpo_alpha": -1.0}, "rpo_alpha"),
        ("reward", {"center_coef": -0.1}, "center_coef"),
        ("ppo_policy", {"clip": 0.0}, "clip"),
        ("ppo_policy", {"dual_clip": 1.0}, "dual_clip"),
        ("ppo_value", {"value_clip": 0.0}, "value_clip"),
    ],
)
def test_wrong_requests_are_named(name: str, params: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_loss(found_at(LOSSES[name]), params)


def test_what_is_no_loss_is_refused() -> None:
    with pytest.raises(ValueError, match="is no loss"):
        build_loss(dict, {})
