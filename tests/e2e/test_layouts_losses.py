"""For every loss, through the worker's own update at ZeRO-3: gradients, metrics and updated weights of any layout.

Compared with plain torch, one unit at a time. Rows are padded; packed ones are in tests/unit/workers/test_packed_rows.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.harness.compare import at_most, largest_metric_difference, largest_norm_difference, largest_weight_difference
from tests.harness.layouts import run_spmd
from tests.harness.loss_cases import FEW_CASES, MORE_CASES, Case
from tests.harness.loss_layouts import RATE, Measured, Results, case_name
from tests.harness.matrix import Layouts, read_results

pytest_plugins = ["tests.harness.fixtures"]
pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

MORE = [pytest.param(case, marks=pytest.mark.slow, id=case_name(*case)) for case in MORE_CASES]
CASES = [*(pytest.param(case, id=case_name(*case)) for case in FEW_CASES), *MORE]
RANKS = [1, pytest.param(2, marks=pytest.mark.slow), 4]
SPLITS = ["whole", "cut"]


@pytest.fixture(scope="module")
def more(layouts: Layouts, tmp_path_factory: pytest.TempPathFactory) -> dict[int, Results]:
    """The cases of the slow tests by number of ranks."""
    folder = tmp_path_factory.mktemp("losses")
    results = {}
    for num_ranks in (1, 2, 4):
        path = folder / f"{num_ranks}.pt"
        run_spmd([layouts.losses_job(path, MORE_CASES, plain=num_ranks == 1)], num_ranks, folder / str(num_ranks))
        results[num_ranks] = read_results(path)
    return results


def found(request: pytest.FixtureRequest, case: Case, num_ranks: int, split: str) -> Measured:
    name = f"{case_name(*case)} {split}"
    if case in FEW_CASES:
        layouts: Layouts = request.getfixturevalue("layouts")
        return layouts.losses(num_ranks)[name]
    more: dict[int, Results] = request.getfixturevalue("more")
    return more[num_ranks][name]


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("num_ranks", RANKS)
@pytest.mark.parametrize("case", CASES)
def test_gradients_metrics_and_weights(request: pytest.FixtureRequest, case: Case, num_ranks: int, split: str) -> None:
    got, plain = found(request, case, num_ranks, split), found(request, case, 1, "plain")
    assert min(norm for norm in plain.norms.values()) > 1e-6  # every tensor has a gradient to be wrong about
    assert largest_norm_difference(got.norms, plain.norms) <= at_most(1e-5)
    assert largest_metric_difference([got.metrics], [plain.metrics]) <= at_most(1e-5)
    assert largest_weight_difference(got.weights, plain.weights, RATE) <= at_most(1.0)


@pytest.mark.parametrize("num_ranks", RANKS)
def test_the_cut_batch_is_cut(request: pytest.FixtureRequest, num_ranks: int) -> None:
    """Else the comparison above would be of a thing with itself."""
    for case in FEW_CASES:
        assert found(request, case, num_ranks, "whole").num_micro_batches == 1
        assert found(request, case, num_ranks, "cut").num_micro_batches > 1


@pytest.mark.slow
def test_ranks_that_share_rows(layouts: Layouts, tmp_path: Path) -> None:
    """Two by two, of every loss that rows may be shared for."""
    cases = [case for case in [*FEW_CASES, *MORE_CASES] if case[0] not in ("distill", "contrastive")]
    run_spmd([layouts.losses_job(tmp_path / "plain.pt", cases, plain=True)], 1, tmp_path / "plain")
    run_spmd([layouts.losses_job(tmp_path / "4.pt", cases, plain=False, shared_by=2)], 4, tmp_path / "4")
    plain, results = read_results(tmp_path / "plain.pt"), read_results(tmp_path / "4.pt")
    for case in cases:
        assert results[f"{case_name(*case)} cut"].num_micro_batches > 1
        for split in SPLITS:
            expected, got = plain[f"{case_name(*case)} plain"], results[f"{case_name(*case)} {split}"]
            assert largest_norm_difference(got.norms, expected.norms) <= at_most(1e-5), case
            assert largest_metric_difference([got.metrics], [expected.metrics]) <= at_most(1e-5), case
            assert largest_weight_difference(got.weights, expected.weights, RATE) <= at_most(1.0), case


@pytest.mark.slow
def test_every_ppo_and_dpo_loss_is_a_case() -> None:
    from distft.algorithms.losses.dpo import PAIR_LOSSES
    from tests.harness.loss_cases import LOSSES

    cases = [*FEW_CASES, *MORE_CASES]
    assert {name for name, _ in cases} == set(LOSSES)
    assert {parameters["loss"] for name, parameters in cases if name == "dpo"} == set(PAIR_LOSSES)
