"""Rates that are measured take the place of those that are assumed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from distft.config.cluster import load_cluster
from distft.planning.drawing import draw
from distft.planning.hardware import hardware_of
from distft.planning.plan import make_plan
from distft.planning.rates import Rates, by_data_sheet, rates_file, read_rates
from tests.unit.launch.examples import gpu_cluster, llama

SHEET = by_data_sheet(989e12, 3350e9, 450e9)
MEASURED = replace(SHEET, arithmetic=SHEET.arithmetic / 2, measured="2026-11-27", spread=0.034)


def test_without_a_measurement_shares_of_the_data_sheet_are_assumed_and_said_to_be_rough() -> None:
    assert hardware_of(gpu_cluster(1), None).rates == SHEET
    plan = make_plan(llama("sft"), gpu_cluster(1))
    assert plan.estimate is not None
    assert "rough, within 2x" in " ".join(draw(plan).split())


def test_measured_rates_make_the_estimate_and_say_their_spread() -> None:
    usual, slower = (make_plan(llama("sft"), gpu_cluster(1), rates=rates) for rates in (None, MEASURED))
    assert usual.estimate is not None
    assert slower.estimate is not None
    before, after = (plan.estimate.phases[0].roles[0].parts["arithmetic"] for plan in (usual, slower))
    assert after == pytest.approx(2 * before)
    assert slower.estimate.seconds > usual.estimate.seconds
    assert "by rates measured on 2026-11-27, which varied by 3%" in " ".join(draw(slower).split())
    assert type(slower).model_validate_json(slower.model_dump_json()) == slower


def test_what_was_not_measured_is_by_the_data_sheet() -> None:
    alone = replace(MEASURED, link=0.0)
    assert alone.or_else(SHEET) == MEASURED


def test_a_card_that_nobody_knows_has_an_estimate_once_it_is_measured() -> None:
    cluster = gpu_cluster(1)
    unknown = replace(hardware_of(cluster, None), flops=0.0, memory_bandwidth=0.0, link=0.0)
    assert unknown.rates.arithmetic == 0
    assert replace(unknown, measured=MEASURED).rates == MEASURED


def test_rates_are_found_by_what_the_cluster_file_says_of_a_node(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    local, other = load_cluster("local"), load_cluster("slurm-h100")
    files = {
        rates_file(local, ""),
        rates_file(local, "NVIDIA L4"),
        rates_file(other, ""),
        rates_file(other, "NVIDIA L4"),
    }
    assert len(files) == 3, "a file that names its GPU needs none to be found"
    assert read_rates(local, "") is None
    target = rates_file(local, "")
    target.parent.mkdir(parents=True)
    for torn in ("{", "[]", '{"arithmetic": "much"}'):
        target.write_text(torn)
        assert read_rates(local, "") is None


def test_rates_have_no_unit_left_out() -> None:
    assert set(MEASURED.as_json()) == set(Rates.__dataclass_fields__)
