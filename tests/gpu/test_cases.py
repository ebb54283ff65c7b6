"""The measurements are alive: their recipes are read and planned for an H100 here. Slow: all run in toy sizes."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
import yaml

from distft.config.cluster import load_cluster
from distft.config.load import load_recipe
from distft.planning import liger
from distft.planning.machine import Machine
from distft.planning.plan import Plan, make_plan
from tests.gpu.cases import GPU, PARTS, Case, cases
from tests.gpu.recipes import config_of, recipe_of, write_cluster
from tests.gpu.table import table

H100 = Machine(16, 128.0, gpus=1, gpu_memory_gib=79.6, gpu_type="NVIDIA H100 80GB HBM3")
OURS = [case for case in cases(GPU) if case.program == "distft"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The models' sizes."""
    made = tmp_path_factory.mktemp("gpu")
    for name, hidden in (("model", GPU.hidden), ("small", GPU.small), ("reward", GPU.small)):
        config_of(GPU, hidden).save_pretrained(made / name)
    return made


def planned(case: Case, folder: Path, tmp_path: Path) -> Plan:
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump(recipe_of(case, GPU, folder, tmp_path / "run")))
    write_cluster(tmp_path / "cluster.yaml", cap_gib=case.cap_gib, cpu=False)
    cluster = load_cluster(str(tmp_path / "cluster.yaml"))
    return make_plan(load_recipe(str(file), list(case.options)), cluster, machine=H100)


@pytest.mark.parametrize("case", OURS, ids=[case.label for case in OURS])
def test_every_case_fits_the_card_and_the_capped_ones_must_move(
    case: Case, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(liger, "liger_is_installed", lambda: True)  # as where they are run
    plan = planned(case, folder, tmp_path)
    assert plan.fits is True
    assert plan.num_devices == 1
    assert plan.estimate is not None
    moved = any(turn.asleep or turn.resting for turn in plan.turns.values())
    assert moved == (case.cap_gib is not None)


def test_a_part_that_is_none_is_told_before_a_machine_is_used(tmp_path: Path) -> None:
    run = [Path(__file__).with_name("run"), "--out", tmp_path / "out", "--cpu", "tiny", "--only", "sft,spf"]
    done = subprocess.run(run, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2
    assert "--only spf: no such part or label; parts: sft, dpo" in done.stderr
    assert not (tmp_path / "out").exists()


def test_without_a_gpu_it_says_what_runs_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    run = [Path(__file__).with_name("run"), "--out", tmp_path / "out"]
    done = subprocess.run(run, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, "--cpu tiny runs the same commands" in done.stderr) == (3, True)


def test_there_are_ten_settings_of_the_plan_and_every_part_has_its_cases() -> None:
    labels = [case.label for case in cases(GPU)]
    assert len(set(labels)) == len(labels)
    assert {case.part for case in cases(GPU)} == set(PARTS)
    assert len([label for label in labels if label.startswith("plan ") and "no kernels" not in label]) == 10


def test_a_table_says_what_was_not_measured() -> None:
    line = {
        "part": "plan", "label": "plan full", "card": "NVIDIA H100", "date": "2026-11-27", "s_step": 0.5,
        "plan_gib": 35.0, "peak_gib": 33.5,
    }  # fmt: skip
    made = table([line, {**line, "part": "sft", "label": "sft distft", "peak_gib": None}], {"hidden": 64})
    assert "| plan full | 35 | 33.5 | 1.04 | unmeasured | 0.5 |" in made
    assert "| sft distft | 0.5 | unmeasured | unmeasured | unmeasured | unmeasured |" in made


@pytest.mark.slow
@pytest.mark.e2e
@pytest.mark.timeout(3600)
def test_all_of_it_runs_in_toy_sizes_on_a_cpu(root: Path, tmp_path: Path) -> None:
    command = [root / "tests" / "gpu" / "run", "--out", tmp_path, "--cpu", "tiny"]
    done = subprocess.run(command, env={**os.environ, "CUDA_VISIBLE_DEVICES": ""}, text=True, capture_output=True)
    lines = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    assert {line["label"]: line.get("output", "") for line in lines if line["status"]} == {}
    assert done.returncode == 0
    assert {line["part"] for line in lines} == set(PARTS)
    assert all(line["tokens_s"] > 0 for line in lines)
