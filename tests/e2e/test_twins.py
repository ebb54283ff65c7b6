"""Shipped tiny recipes as they are: what they are held out on gets better. The other methods' are in the tests of
preferences, groups, rankings, contrasts, teachers, and of the quickstart."""

from __future__ import annotations

import json

import pytest

from tests.e2e.conftest import Start

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.mark.parametrize(
    ("recipe", "loss_at_most", "better"),
    [
        ("classification-tiny", 0.5, "accuracy"), ("mlm-tiny", 0.85, ""), ("span-tiny", 0.5, ""),
        ("pretrain-tiny", 0.5, ""), ("bert-reward-tiny", 0.5, "accuracy"), ("process-reward-tiny", 0.85, "accuracy"),
    ],
)  # fmt: skip
def test_what_is_held_out_gets_better(start: Start, recipe: str, loss_at_most: float, better: str) -> None:
    """``loss_at_most`` of what it was before; the share of mistakes at most two thirds."""
    verb = start("train", recipe)
    assert verb.end(600) == 0, verb.output
    table = json.loads((verb.folder / "before_after.json").read_text())["metrics"]
    plan = json.loads((verb.folder / "plan.json").read_text())
    assert [len(group["ranks"]) for group in plan["groups"].values()] == [2]
    loss = table["loss"]
    assert loss["after"] <= loss_at_most * loss["before"]
    if better:
        assert 1 - table[better]["after"] <= 2 / 3 * (1 - table[better]["before"])
