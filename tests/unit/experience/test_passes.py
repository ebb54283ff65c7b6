"""Schedules that name samples, and what the controller knows of them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from distft.clients.model_group import ModelGroup
from distft.clients.samples import Samples
from distft.experience.passes import Work, planned
from distft.groups.handles import DataRef, Part
from tests.harness.fake_groups import Fake, Said


def ranks(number: int, micro_batch_cost: int | None = None) -> ModelGroup:
    """Only the number of ranks and the cost of a micro-batch are asked of a group here."""
    return ModelGroup(Fake("policy", Said(), number, micro_batch_cost))


SAMPLES = Samples((DataRef((Part("ref", tuple(range(6))),)),), (5, 9, 3, 7, 7, 2), (0, 0, 1, 1, 2, 2))


def test_a_plan_over_chosen_samples_names_them() -> None:
    plan = planned(SAMPLES, ranks(2), 40, chosen=[2, 3, 4, 5])
    named = sorted(sample for rank in plan.micro_batches for micro in rank for sample in micro)
    assert named == [2, 3, 4, 5]
    for rank in plan.micro_batches:
        for micro in rank:
            assert micro in ((), (2, 3), (4, 5))  # units whole and in order


def test_all_samples_where_none_are_chosen() -> None:
    plan = planned(SAMPLES, ranks(4), 40)
    assert sorted(s for rank in plan.micro_batches for micro in rank for s in micro) == list(range(6))
    assert len({len(rank) for rank in plan.micro_batches}) == 1
    assert plan.num_tokens == SAMPLES.num_tokens == 33


def test_ranks_that_share_rows_have_micro_batches_as_many_times_as_long() -> None:
    """9 + 5 tokens, padded to 18, are two ranks' of 9 each."""
    group = ModelGroup(Fake("policy", Said(), num_ranks=4), shared_by=2)
    plan = planned(SAMPLES, group, 9)
    assert len(plan.micro_batches) == 2
    assert max(max(costs) for costs in plan.costs) == 18


def test_virtual_tokens_count() -> None:
    """Three before each of six rows of 33 tokens: two of 9 that would have been 18 are 24."""
    group = ModelGroup(Fake("policy", Said(), num_ranks=1), num_virtual_tokens=3)
    plan = planned(SAMPLES, group, 24)
    assert plan.num_tokens == 51
    assert plan.costs == ((24, 20, 20),)


def test_a_packed_groups_micro_batches_are_as_long_as_their_samples_together() -> None:
    """Padded, the units of 14, 10 and 9 tokens cost 18, 14 and 14."""
    group = ModelGroup(Fake("policy", Said(), num_ranks=1), packed=True)
    apart = replace(SAMPLES, answers=(1,) * 6)  # what another model of the run reads apart
    for samples in (SAMPLES, apart):
        plan = planned(samples, group, 24)
        assert plan.costs == ((19, 14),)
        assert plan.micro_batches == (((2, 3, 4, 5), (0, 1)),)
        assert plan.padding_fraction == 0.0


def test_work_averages_over_its_schedules() -> None:
    work = Work()
    assert work.metrics() == {"perf/padding_fraction": 0.0, "perf/imbalance": 0.0}
    plans = [planned(SAMPLES, ranks(1), 40), planned(SAMPLES, ranks(2), 40)]
    work.schedules.extend(plans)
    expected = sum(plan.padding_fraction for plan in plans) / 2
    assert work.metrics()["perf/padding_fraction"] == pytest.approx(expected)


def test_more_columns_are_the_same_samples() -> None:
    more = SAMPLES.with_data(DataRef((Part("other", (0,)),)))
    assert (more.lengths, more.units) == (SAMPLES.lengths, SAMPLES.units)
    assert len(more.data) == 2


def test_the_cost_of_a_micro_batch_is_the_groups() -> None:
    """Three pairs padded to 9 are 54 tokens in one micro-batch, 18 + 14 + 14 in three."""
    assert planned(SAMPLES, ranks(1), 100).num_micro_batches == 1
    assert planned(SAMPLES, ranks(1, 10), 100).costs == ((54,),)
    assert planned(SAMPLES, ranks(1, 1), 100).num_micro_batches > 1
