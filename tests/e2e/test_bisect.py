"""What ``distft bisect`` finds in the flight recorders of real runs: nothing where nothing happened, on other ranks
too, and the step, rank, column and sample where something did."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml

from distft.cli import main
from distft.config.load import recipe_file
from distft.report.bisect import FLOAT32, Bisected, bisect
from distft.tracking.flight import read_flight
from tests.e2e.conftest import SMALL, TINY, Start, root_on_path
from tests.e2e.test_resume import disturb, run
from tests.harness.matrix import Layouts

pytest_plugins = ["tests.harness.fixtures"]
pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]
WRITTEN = Path(__file__).parents[1] / "harness" / "faulty_method.py"


def parted(one: Path, other: Path) -> Bisected:
    return bisect(read_flight(one), read_flight(other))


def test_a_wrong_mask_on_one_of_four_ranks_at_step_7_is_named(layouts: Layouts) -> None:
    ran = layouts.torchrun(4)
    found = parted(ran["sft"].folder, ran["sft-wrong-mask"].folder)
    assert (found.steps, found.equal_until, dict(found.layouts)) == (tuple(range(1, 9)), 6, {})
    first = found.found[0]
    assert (first.step, first.role, first.what.stage, first.what.tensor) == (7, "policy", "inputs", "response_mask")
    assert first.what.ranks == (1,)
    (sample,) = first.what.samples
    of_rank = read_flight(ran["sft"].folder)[7]["policy"][1].updates[0].micro_batches
    assert of_rank is not None
    assert sample in {one for micro in of_rank for one in micro}
    assert {one.what.stage for one in found.found} == {"inputs", "outputs", "loss", "gradients", "weights"}
    assert {rank for one in found.found if one.what.stage == "outputs" for rank in one.what.ranks} == {1}


@pytest.mark.parametrize("other", ["ppo", "ppo-shared"])
def test_one_rank_and_four_read_the_same_and_compute_it_to_rounding(layouts: Layouts, other: str) -> None:
    """PPO: sampled tokens bit for bit, scores, values and advantages to rounding; two ranks to a row, too."""
    found = parted(layouts.alone()["ppo"].folder, layouts.torchrun(4)[other].folder)
    assert (found.equal_until, found.found) == (2, ())
    assert dict(found.tolerances) == {"policy": FLOAT32, "value": FLOAT32}
    shared = ", 2 to a row" if other == "ppo-shared" else ""
    told = f"1 rank at ZeRO stage 0 in the first run, 4 ranks at ZeRO stage 3{shared} in the second"
    assert dict(found.layouts) == {"policy": told, "value": told}


@pytest.mark.slow
def test_runs_through_ray(start: Start, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two ranks, a method from outside in whose file the fault is, asked of by the environment: two runs of it without
    are equal, so is one that is killed and goes on, and one with it is not from step 7 on."""
    shutil.copy(WRITTEN, tmp_path / "faulty.py")
    recipe = yaml.safe_load(recipe_file("sft-tiny").read_text())
    recipe |= {"algorithm": {"kind": "./faulty.py:Faulty"}, "placement": {"policy": {"ranks": 2}}}
    (tmp_path / "faulty.yaml").write_text(yaml.safe_dump(recipe))
    words = ("train", str(tmp_path / "faulty.yaml"), *TINY, *SMALL, "train.steps=8", "evaluation.metrics=[]")
    clean = run(start, *words, folder="clean")
    assert main(["bisect", str(clean), str(disturb(start, words, "FaultyLoss"))]) == 0
    assert "bit-equal until step 8, the last that both have recorded" in capsys.readouterr().out
    verb = start(*words, folder="faulty", DISTFT_TEST_FAULT="7", **root_on_path())
    assert verb.end() == 0, verb.output
    assert main(["bisect", str(clean), str(verb.folder), "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert told["equal_until"] == 6
    first = told["differences"][0]
    assert (first["step"], first["role"], first["ranks"], first["tensor"]) == (7, "policy", [1], "response_mask")
    assert len(first["samples"]) == 1
