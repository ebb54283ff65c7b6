"""What is looked at before the first stage starts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from distft.common.errors import EnvironmentFallsShort, UserError
from distft.config.load import resolved_yaml
from distft.config.pipeline import Pipeline, Stage, load_pipeline
from distft.launch.pipeline import ready
from distft.planning.footprint import Roles, SizeBook
from distft.planning.machine import Machine
from distft.tracking.exit import Ending, write_exit


@pytest.fixture
def quickstart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Pipeline:
    monkeypatch.chdir(tmp_path)
    return load_pipeline("quickstart")


def finish(pipeline: Pipeline, *names: str) -> None:
    for stage in pipeline.stages:
        if stage.name in names:
            end_well(stage, pipeline.folder(stage))


def end_well(stage: Stage, folder: Path) -> None:
    """As far as it is looked at: the recipe, the result's configuration and tokenizer, how it ended."""
    (folder / "final").mkdir(parents=True)
    (folder / "recipe.yaml").write_text(resolved_yaml(stage.recipe))
    (folder / "final" / "config.json").write_text(json.dumps({"model_type": "llama"}))
    write_exit(folder, Ending.of(None), 1)


def test_all_stages_are_planned_by_the_sizes_of_what_is_to_be_trained(quickstart: Pipeline) -> None:
    found = ready(quickstart, "local")
    assert [*found.plans] == ["sft", "reward", "ppo", "dpo"]
    assert {*found.plans["ppo"].groups} >= {"policy", "reference", "reward", "value"}
    assert [stage.name for stage in found.left] == ["sft", "reward", "ppo", "dpo"]
    for stage in quickstart.stages:
        assert found.recipe(stage) is (stage.recipe if stage.name == "sft" else stage.shaped)
    assert list(Path.cwd().iterdir()) == [], "nothing is left behind"


def test_stages_behind_new_tokens_are_planned_with_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Adapters over such a result, too, and a pair of models of which both have them."""
    monkeypatch.chdir(tmp_path)
    Path("words.yaml").write_text("""
name: words
output_dir: runs/words
stages:
  sft: {recipe: sft-tiny}
  more: {recipe: sft-tiny, models: {policy: {path: "stage:sft", extend_vocabulary: [one, two, three]}}}
  dpo: {recipe: dpo-tiny, models: {policy: {path: "stage:more", peft: {r: 4}}, reference: {path: "stage:more"}}}
""")
    pipeline = load_pipeline("words.yaml")
    assert [*ready(pipeline, "local").plans] == ["sft", "more", "dpo"]
    sft, more, dpo = (Roles(stage.shaped, SizeBook()) for stage in pipeline.trained)
    vocab = sft.sizes("policy").vocab
    assert [more.sizes("policy").vocab, dpo.sizes("policy").vocab, dpo.sizes("reference").vocab] == [vocab + 3] * 3


def test_each_stage_on_a_cluster_of_its_own(quickstart: Pipeline) -> None:
    found = ready(quickstart, "slurm-cpu", clusters={"ppo": "slurm-h100"}, to_start=False)
    assert {name: plan.cluster for name, plan in found.plans.items()} == {
        "sft": "slurm-cpu", "reward": "slurm-cpu", "ppo": "slurm-h100", "dpo": "slurm-cpu",
    }  # fmt: skip


def test_a_stage_that_does_not_fit_is_said_before_the_first_starts(
    quickstart: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("distft.launch.prepare.this_machine", lambda: Machine(cpus=2, memory_gib=4.0))
    with pytest.raises(UserError, match="quickstart-ppo on local: does not fit"):
        ready(quickstart, "local")


def test_what_is_missing_for_a_later_stage_is_said_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"nowhere\.jsonl: there is no such file"):
        ready(load_pipeline("quickstart", ["stages.dpo.data.train=[{path: nowhere.jsonl}]"]), "local")


def test_a_finished_result_of_a_model_that_is_trained_anew_is_refused(quickstart: Pipeline) -> None:
    finish(quickstart, "dpo")
    with pytest.raises(UserError, match=r"(?s)stage dpo is finished, but started from stage sft.*move .*dpo away"):
        ready(quickstart, "local")


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    pipeline = load_pipeline("quickstart", [f"output_dir={tmp_path / 'file'}"])
    with pytest.raises(UserError, match=r"(?s)--output.*give another: --output FOLDER") as caught:
        ready(pipeline, "local", option="--output ")
    assert not isinstance(caught.value, EnvironmentFallsShort)
