"""A policy that learns with the experts it was sampled with: alike on one rank and on two, padded and packed, with
checkpointing, from gathered weights and from shards."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.unit.engine.group import Group
from tests.unit.models.families import families, write_family
from tests.unit.workers.router_replay_side import live
from tests.unit.workers.test_families import merged

OF = ("mixtral", "qwen2_moe", "qwen3_moe", "deepseek_v3", "gpt_oss")
LAYOUTS: list[Any] = [
    pytest.param(1, {"checkpointing": True}, id="checkpointing"),
    pytest.param(1, {"packed": True}, id="packed"),
    pytest.param(2, {}, id="two ranks"),
    pytest.param(2, {"weights": "sharded"}, id="two ranks, from shards"),
    pytest.param(2, {"packed": True, "checkpointing": True}, id="two ranks, packed", marks=pytest.mark.slow),
]


@pytest.fixture(scope="module")
def mixture(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_family(tmp_path_factory.mktemp("mixtral"), "mixtral")


@pytest.fixture(scope="module")
def alone(groups: dict[int, Group], mixture: str) -> dict[str, Any]:
    [found] = groups[1].call(live, mixture)
    return dict(found)


@pytest.mark.parametrize("name", families("mixtral", "deepseek_v3", of=OF))
def test_what_is_replayed_is_what_was_sampled(groups: dict[int, Group], tmp_path: Path, name: str) -> None:
    [found] = groups[1].call(live, write_family(tmp_path, name))
    for sample, values in found["before"].items():
        assert values == pytest.approx(found["sampled"][sample], abs=1e-5)
    first, second = found["steps"]
    assert first["routing/changed"] == 0
    assert 0 < second["routing/changed"] <= 1, "after a step the router would choose others"
    assert second["loss"] < first["loss"]


@pytest.mark.parametrize(("num_ranks", "how"), LAYOUTS)
def test_any_layout_is_one_rank(
    groups: dict[int, Group], mixture: str, alone: dict[str, Any], num_ranks: int, how: dict[str, Any]
) -> None:
    found = groups[num_ranks].call(live, mixture, **how)
    assert merged(found, "experts") == alone["experts"]
    for rank in found:
        for step, wanted in zip(rank["steps"], alone["steps"], strict=True):
            assert step == pytest.approx(wanted, rel=1e-5)
    for column in ("before", "after"):
        for sample, values in merged(found, column).items():
            assert values == pytest.approx(alone[column][sample], abs=2e-4), column


def test_without_it_a_router_that_has_moved_trains_other_experts(
    groups: dict[int, Group], mixture: str, alone: dict[str, Any]
) -> None:
    [free] = groups[1].call(live, mixture, replayed=False)
    assert free["steps"][0]["loss"] == pytest.approx(alone["steps"][0]["loss"], rel=1e-5)
    assert [step["routing/changed"] for step in free["steps"]] == [0, 0], "nothing is replayed"
    assert free["steps"][1]["loss"] != pytest.approx(alone["steps"][1]["loss"], rel=1e-4)


def test_adapters_learn_so_too(groups: dict[int, Group], mixture: str) -> None:
    [one] = groups[1].call(live, mixture, adapted=True)
    two = groups[2].call(live, mixture, adapted=True)
    assert merged(two, "experts") == one["experts"]
    assert two[0]["steps"][1] == pytest.approx(one["steps"][1], rel=1e-4)
