"""What ``distft bisect`` prints, its exit status, and what it refuses."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from distft.cli import main
from distft.config.load import load_recipe
from distft.launch.run_folder import write_recipe
from distft.tracking.flight import FLIGHT, ColumnTrace
from distft.tracking.tracker import Tracker
from tests.unit.report.test_bisect import inputs, samples, two_ranks


@pytest.fixture
def runs(tmp_path: Path) -> tuple[Path, Path]:
    """Two runs of one recipe, of which the second read a wrong mask on rank 1 in its third step."""
    folders = tmp_path / "ppo-one", tmp_path / "ppo-two"
    wrong = two_ranks(samples=samples(12, 99), inputs=inputs(response_mask=ColumnTrace(1)), loss=0.4)
    for folder in folders:
        folder.mkdir()
        write_recipe(load_recipe("sft-tiny", [f"output_dir={folder}"]), folder)
        with Tracker(folder, attempt=1, resume_step=None) as tracker:
            tracker.event("start", recipe="sft-tiny", cluster="local")
            for step in (1, 2, 3):
                tracker.flight(step, "policy", wrong if step == 3 and folder == folders[1] else two_ranks())
    return folders


def said(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    status = main(["bisect", *map(str, words)])
    told = capsys.readouterr()
    return status, told.out, told.err


def test_what_differs_is_said_and_is_the_exit_status(
    runs: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    status, out, err = said(capsys, *runs)
    assert (status, err) == (1, "")
    assert out.splitlines() == [
        "bit-equal until step 2",
        "step 3: policy, rank 1: inputs: response_mask, sample 3",
        "  all that is recorded before it is equal: look at what makes this column",
        "  differs, too: policy's loss: loss",
        f"  once more: distft replay {runs[1]} 3",
    ]
    status, out, _ = said(capsys, *runs, "--json")
    told = json.loads(out)
    assert status == 1
    assert (told["equal_until"], told["differences"][0]["tensor"]) == (2, "response_mask")


def test_equal_runs_and_those_that_go_on(runs: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    one, other = runs
    lines = (one / FLIGHT).read_text().splitlines(keepends=True)
    (other / FLIGHT).write_text("".join(lines[:4]))
    status, out, _ = said(capsys, one, other)
    assert status == 0
    assert out.splitlines() == [
        "steps recorded in both: 2; 1 only in the first, 0 only in the second",
        "bit-equal until step 2, the last that both have recorded",
    ]


def test_a_tolerance_is_said(runs: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copy(runs[0] / FLIGHT, runs[1] / FLIGHT)
    status, out, _ = said(capsys, *runs, "--tolerance", "1e-3")
    assert status == 0
    assert out.splitlines() == [
        "policy: tokens, masks and labels are compared bit for bit, all else to a share of 0.001",
        "equal within that until step 3, the last that both have recorded",
    ]


def test_what_cannot_be_compared_is_refused_with_what_helps(
    runs: tuple[Path, Path], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    one, other = runs

    def refused(*words: object) -> str:
        status, out, err = said(capsys, *words)
        assert (status, out) == (2, "")
        return err

    assert f"did you mean {other}?" in refused(one, tmp_path / "ppo-tow")
    assert f"no run lies in this folder\n  did you mean {one}?" in refused(other, tmp_path)
    assert "does not differ from itself" in refused(one, one)
    assert "--tolerance -1.0: is no share" in refused(one, other, "--tolerance=-1")
    write_recipe(load_recipe("sft-tiny", [f"output_dir={other}", "train.steps=7", "seed=2"]), other)
    told = refused(one, other)
    assert "two recipes: seed: 1 in the first, 2 in the second" in told
    assert f"distft compare {one} {other}" in told
    (other / "recipe.yaml").write_text((one / "recipe.yaml").read_text())
    lines = (other / FLIGHT).read_text().replace('"step": ', '"step": 1')
    (other / FLIGHT).write_text(lines)
    assert "no step is recorded in both: 1 to 3 and 11 to 13" in refused(one, other)
    (other / FLIGHT).write_text("{\n")
    assert "no step is whole in flight.jsonl" in refused(one, other)
    (other / FLIGHT).unlink()
    assert "with tracking.flight_recorder=true" in refused(one, other)
