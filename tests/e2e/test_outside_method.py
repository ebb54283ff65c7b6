"""A method that is no part of distft, in a file beside its recipe: trained, killed, resumed bit for bit."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml

from distft.config.load import recipe_file
from tests.e2e.conftest import SMALL, TINY, Start
from tests.e2e.test_resume import assert_same, disturb, run

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(900)]
WRITTEN = Path(__file__).parents[1] / "harness" / "outside_method.py"


def test_a_method_from_a_file_trains_and_resumes_bit_for_bit(tmp_path: Path, start: Start) -> None:
    shutil.copy(WRITTEN, tmp_path / "mine.py")
    recipe = yaml.safe_load(recipe_file("dpo-tiny").read_text())
    recipe["algorithm"] = {"kind": "./mine.py:Unlikelihood", "weight": 0.25}
    recipe["placement"] = {"policy": {"ranks": 2}}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(recipe))
    words = ("train", str(tmp_path / "mine.yaml"), *TINY, *SMALL)
    undisturbed = run(start, *words, folder="undisturbed")
    assert_same(disturb(start, words, "UnlikelihoodLoss"), undisturbed)
    table = json.loads((undisturbed / "before_after.json").read_text())["metrics"]
    assert table["loss"]["after"] < table["loss"]["before"]
    assert json.loads((undisturbed / "plan.json").read_text())["algorithm"] == "Unlikelihood"
