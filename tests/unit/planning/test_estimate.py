"""The time of a step: hand-worked numbers, phases, turns, and what must hold whatever the recipe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from math import isfinite
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distft.config.recipe import Recipe
from distft.planning.estimate import Estimate, Moves, estimated, why_unknown
from distft.planning.footprint import GroupMemory, Roles, SizeBook
from distft.planning.hardware import hardware_of
from distft.planning.placement_plan import Arrangement
from distft.planning.rates import PCIE
from distft.planning.residency import turns_of
from distft.planning.role_time import Place, Timing
from tests.unit.launch.examples import cpu_cluster, gpu_cluster, llama

H100 = hardware_of(gpu_cluster(1024), None)


def step(run: Recipe, sets: Mapping[str, str], ranks: Mapping[str, int], waiting: int = 0) -> Estimate:
    """The estimate with role -> device set; every group has ``waiting`` bytes to move."""
    own = {role: role for role in sets}
    places = {root: Place(count, -(-count // 8)) for root, count in ranks.items()}
    arrangement = Arrangement(own, dict(sets), dict(ranks))
    timing = Timing(Roles(run, SizeBook()), H100)
    groups = dict.fromkeys(sets, GroupMemory(0, 0, waiting, 0, False, {}))
    turns = turns_of(groups, arrangement, replace(H100, gpu_memory=-1))  # too little for two at once
    moves = Moves(groups, turns, PCIE)
    return estimated(timing, run.algorithm.traits.phases, arrangement, places, moves, 1000)


def test_phases_of_ppo_take_as_long_as_their_longest_role() -> None:
    run = llama("ppo")
    four = {role: role for role in ("policy", "reference", "reward", "value")}
    found = step(run, four, dict.fromkeys(four, 8))
    assert [phase.name for phase in found.phases] == ["generation", "experience", "update", "weight sync"]
    experience = found.phases[1]
    assert len(experience.roles) == 4
    assert experience.seconds == max(time.seconds for time in experience.roles)
    assert found.seconds == pytest.approx(sum(phase.seconds for phase in found.phases))
    assert found.tokens_per_second == pytest.approx(1000 / found.seconds)
    assert found.bottleneck.startswith("generation by policy, bound by launches (")


def test_roles_that_take_turns_follow_each_other_and_move_their_states() -> None:
    """DPO on shared devices: reference and policy in a row, and 2 x 2 x 10 GB over PCIe in between."""
    run = llama("dpo")
    apart = step(run, {"policy": "policy", "reference": "reference"}, {"policy": 8, "reference": 8})
    turns = step(run, {"policy": "policy", "reference": "policy"}, {"policy": 8}, waiting=10**10)
    parts = [time.seconds for time in apart.phases[0].roles]
    assert apart.seconds == max(parts)
    moved = [time.seconds for time in turns.phases[0].roles if time.work == "take over"]
    # Whoever was last goes on first, so there is one change a step.
    assert moved == [pytest.approx(2 * 10**10 / 25e9)]
    assert turns.seconds == pytest.approx(sum(parts) + sum(moved))


@pytest.mark.parametrize(
    ("cluster", "known", "why"),
    [
        (cpu_cluster(), True, "of CPU clusters none is made"),
        (gpu_cluster(2, bandwidth_gbps=None), True, "the cluster file does not say network.bandwidth_gbps"),
        (gpu_cluster(1, bandwidth_gbps=None), True, ""),
        (gpu_cluster(2), False, "the sizes of a model are not known"),
        (gpu_cluster(2), True, ""),
    ],
)
def test_no_estimate_rather_than_a_guess(cluster: Any, known: bool, why: str) -> None:
    assert why_unknown(hardware_of(cluster, None), sizes_known=known) == why


@settings(max_examples=60)
@given(
    kind=st.sampled_from(["sft", "reward", "dpo", "ppo"]),
    ranks=st.sampled_from([1, 2, 4, 8, 64, 1024, 8192]),
    batch=st.integers(1, 4096),
    stage=st.integers(0, 3),
    checkpointing=st.booleans(),
)
def test_estimates_are_positive_finite_and_grow_with_the_batch(
    kind: str, ranks: int, batch: int, stage: int, checkpointing: bool
) -> None:
    def seconds(size: int) -> float:
        run = llama(kind, {"train.global_batch_size": size}, engine={"zero_stage": stage},
                    gradient_checkpointing=checkpointing)  # fmt: skip
        roles = {"sft": ("policy",), "reward": ("reward",), "dpo": ("policy", "reference")}.get(
            kind, ("policy", "reference", "reward", "value")
        )
        found = step(run, {role: role for role in roles}, dict.fromkeys(roles, ranks))
        assert all(isfinite(time.seconds) and time.seconds >= 0 for phase in found.phases for time in phase.roles)
        assert all(value >= 0 for phase in found.phases for time in phase.roles for value in time.parts.values())
        return found.seconds

    assert 0 < seconds(batch) <= seconds(2 * batch) * (1 + 1e-9)
