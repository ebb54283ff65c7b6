"""This machine measured for real, in tiny sizes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from distft.calibration.calibrate import calibrate, told
from distft.calibration.measure import Measured, Scale
from distft.common.errors import EnvironmentFallsShort
from distft.config.cluster import load_cluster
from distft.planning.rates import read_rates

TINY = Scale(hidden=64, layers=1, tokens=64, length=32, elements=2**14, generated=2, repeats=2)


def test_this_machine_is_measured_and_the_plan_finds_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    cluster = load_cluster("local")
    rates, file = calibrate(cluster, TINY)
    assert read_rates(cluster, "") == rates
    assert json.loads(file.read_text())["cluster"] == "local"
    assert rates.measured
    positive = {name: value for name, value in rates.as_json().items() if name not in ("measured", "spread")}
    assert all(isinstance(value, float) and value > 0 for value in positive.values())
    # Units: no core does more a second than this; how much less depends on what else it is busy with.
    assert 1e3 < rates.arithmetic_float32 < 1e13
    assert 1e3 < min(rates.memory, rates.host_link, rates.host_memory, rates.link) < 1e13
    assert 1e-6 < rates.launch < 60
    assert len(told(rates)) == 8


def test_a_rate_is_the_median_and_its_spread_lies_between_the_quarters() -> None:
    assert Measured.of(12.0, [2.0, 3.0, 4.0, 9.0, 1.0]) == Measured(4.0, pytest.approx((6.5 - 1.5) / 3))


@pytest.mark.parametrize(
    ("cluster", "what", "hint"),
    [
        ("one-gpu", "says gpus: 1, this machine has 0", "--cluster local"),
        ("slurm-h100", "not one of its nodes", "srun"),
    ],
)
def test_only_a_node_of_the_cluster_is_measured(
    monkeypatch: pytest.MonkeyPatch, cluster: str, what: str, hint: str
) -> None:
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    with pytest.raises(EnvironmentFallsShort, match=what) as caught:
        calibrate(load_cluster(cluster), TINY)
    assert hint in caught.value.hint
