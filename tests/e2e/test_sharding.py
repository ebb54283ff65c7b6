"""Every rank of every role holds its Nth part and no more, asked of the workers at the end of a PPO run."""

from __future__ import annotations

import math

import pytest
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from tests.harness.jobs import Outcome
from tests.harness.matrix import Layouts

pytest_plugins = ["tests.harness.fixtures"]
pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

ADAM_MOMENTS = 2


def shapes(layouts: Layouts, role: str) -> list[int]:
    """The sizes of the role's parameters."""
    kind = AutoModelForCausalLM if role in ("policy", "reference") else AutoModelForSequenceClassification
    path = layouts.starts.policy if role == "reference" else getattr(layouts.starts, role)
    sizes = [parameter.numel() for parameter in kind.from_pretrained(path).parameters()]
    assert sum(sizes) == sum(tensor.numel() for tensor in load_file(path / "model.safetensors").values())
    return sizes


def check(layouts: Layouts, outcome: Outcome, num_ranks: int) -> None:
    for role in ("policy", "reference", "reward", "value"):
        sizes = shapes(layouts, role)
        part = sum(math.ceil(size / num_ranks) for size in sizes)  # the last rank's shard of a tensor is padded
        assert sum(sizes) / num_ranks <= part < sum(sizes) / num_ranks + len(sizes)
        trained = role in ("policy", "value")
        reports = outcome.held[role]
        assert len(reports) == num_ranks
        for rank, report in enumerate(reports):
            assert report["parameters"] == part, (role, rank)
            assert report["gradients"] == (part if trained else 0), (role, rank)
            assert report["optimizer"] == (ADAM_MOMENTS * part if trained else 0), (role, rank)


def test_one_rank_holds_everything(layouts: Layouts) -> None:
    check(layouts, layouts.alone()["ppo"], 1)


def test_four_ranks_hold_a_quarter_each(layouts: Layouts) -> None:
    check(layouts, layouts.torchrun(4)["ppo"], 4)


@pytest.mark.ray
def test_two_ray_actors_hold_half_each(layouts: Layouts) -> None:
    check(layouts, layouts.ray(2, "ppo"), 2)
