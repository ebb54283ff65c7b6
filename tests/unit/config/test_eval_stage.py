"""Eval stages of pipelines: their keys are the options of ``distft eval``, and what is said of wrong ones."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from distft.common.errors import UserError
from distft.config.eval_stage import EvalKeys
from distft.config.pipeline import EvalStage, load_pipeline
from distft.launch.kept_evaluation import asked_of
from distft.verbs import eval as verb
from distft.verbs.eval import _shots
from distft.verbs.speaking import SAMPLING

THREE = """
name: three
output_dir: runs/three
common: {seed: 7}
stages:
  sft: {recipe: sft-tiny}
  scorer: {recipe: reward-tiny, models: {reward: {path: "stage:sft"}}}
  judged:
    eval: ["stage:sft", org/model]
    data: [a.jsonl, "~/b.jsonl"]
    reward: stage:scorer
    shots: [0, 2]
    no_answers: false
    samples_per_prompt: 4
    temperature: 0.7
"""


def judged(folder: Path, *overrides: str, text: str = THREE) -> EvalStage:
    (folder / "three.yaml").write_text(text)
    stage = load_pipeline(str(folder / "three.yaml"), overrides).stages[2]
    assert isinstance(stage, EvalStage)
    return stage


def test_it_is_a_command_line_of_the_verb(tmp_path: Path) -> None:
    stage = judged(tmp_path)
    assert stage.keys.words() == [
        "run:runs/three/sft", "org/model", "temperature=0.7", "samples_per_prompt=4", "--data=a.jsonl",
        f"--data={Path.home()}/b.jsonl", "--reward=run:runs/three/scorer", "--shots=0,2",
    ]  # fmt: skip
    assert stage.needs == ("sft", "scorer")
    assert [(key, one.name) for key, one in stage.results] == [("eval", "sft"), ("reward", "scorer")]
    assert stage.title == "three-judged"
    swapped = judged(tmp_path, "stages.judged.eval=[org/model, 'stage:sft']")
    assert swapped.keys.eval == ("org/model", "run:runs/three/sft")
    assert [(key, one.name) for key, one in swapped.results] == [("eval", "sft"), ("reward", "scorer")]


def test_shots_are_asked_for_in_order_and_once(tmp_path: Path) -> None:
    """As the verb asks for them: else the stage would never be found done."""
    keys = judged(tmp_path, "stages.judged.shots=[4, 0, 1, 4]").keys
    options = {"shots": list(_shots(argparse.Namespace(shots="4,0,1,4")))}
    assert asked_of([], [], options)["shots"] == keys.asked()["shots"] == [0, 1, 4]
    assert "--shots=0,1,4" in keys.words()


def test_every_option_of_the_verb_is_a_key_and_no_other() -> None:
    parser = argparse.ArgumentParser()
    verb.add_arguments(parser)
    options = {action.dest for action in parser._actions} - {"help", "words", "output", "json"}
    assert options | {"eval", *SAMPLING.split()} == set(EvalKeys.model_fields)
    assert all(field.description for field in EvalKeys.model_fields.values())


@pytest.mark.parametrize(("override", "said"), [
    ("limt=3", "unknown key limt\n  did you mean limit?"),
    ("limit=1", "must be at least 2, not 1"),
    ("eval=stage:sft", "write [stage:sft]"),
    ("eval=[]", "must not be empty"),
    ("rows=pear", "did you mean pairs?"),
    ("batch_size=8", "unknown key batch_size\n  keys of it: eval, data, split"),
    ("reward=stage:scorr", "no stage before this one is called scorr\n  did you mean stage:scorer?"),
    ("reward=stage:judged", "no stage before this one is called judged\n  before it: sft, scorer"),
    ("data=['stage:sft']", "stage:NAME is a model, and data is none\n  eval, reference, reward, toxicity, judge name"),
    ("eval=[sft-tiny, 'stage:sft']", "sft-tiny is a recipe, and no model\n  name its run: run:<output_dir>"),
    ("reward=quickstart", "quickstart is a recipe, and no model\n  name its run: run:<output_dir>"),
    ("judge=own.yml", "own.yml is a recipe, and no model\n  name its run: run:<output_dir>"),
    ("recipe=sft-tiny", "the stage judged has a recipe and eval\n  a stage trains by recipe, or judges by eval"),
    ("output_dir=x", "a stage has its output_dir from the pipeline"),
    ("criterion=short", "nobody judges by it\n  judge: MODEL or URL"),
    ("toxic_label=rude", "is of a classifier, and none is named\n  toxicity: MODEL"),
    ("no_answers=true", "stages.judged.shots: is about answers, and none are wanted\n    leave no_answers out"),
    ("shots=[-1]", "must not be below 0\n  for example [0, 1, 4]"),
])  # fmt: skip
def test_mistakes_get_one_message(override: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        judged(tmp_path, f"stages.judged.{override}")
    told = str(caught.value).replace(" (three.yaml", "").replace(f" ({tmp_path}/three.yaml:12)", "")
    assert said in told
    assert caught.value.exit_status == 2


def test_a_judge_needs_two_models(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="name a second one in eval"):
        judged(tmp_path, "stages.judged.eval=['stage:sft']", "stages.judged.judge=org/judge")


@pytest.mark.parametrize(("key", "said"), [
    ("reward=org/model", "scores answers, and none are wanted"),
    ("correct=number", "says which answers are right, and none are wanted"),
    ("shots=[0]", "is about answers, and none are wanted"),
    ("toxicity=org/model", "reads answers, and none are wanted"),
])  # fmt: skip
def test_where_no_answers_are_wanted_nothing_is_asked_about_them(key: str, said: str, tmp_path: Path) -> None:
    bare = THREE.replace("    reward: stage:scorer\n    shots: [0, 2]\n", "")
    with pytest.raises(UserError) as caught:
        judged(tmp_path, "stages.judged.no_answers=true", f"stages.judged.{key}", text=bare)
    assert caught.value.where.startswith(f"stages.judged.{key.partition('=')[0]} ")
    assert (caught.value.what, caught.value.hint) == (said, "leave no_answers out")


def test_exemplars_that_nobody_asks_for(tmp_path: Path) -> None:
    rows = "stages.judged.shots_from=[more.jsonl]"
    with pytest.raises(UserError) as caught:
        judged(tmp_path, rows, "stages.judged.shots=[]")
    assert caught.value.where.startswith("stages.judged.shots_from ")
    assert caught.value.what == "is where exemplars come from, and nobody asks for any"
    assert caught.value.hint == "shots: [0,1,4]"
    assert judged(tmp_path, rows, "stages.judged.shots=[0,1,4]").keys.shots == (0, 1, 4)


def test_no_stage_starts_from_one_that_makes_nothing(tmp_path: Path) -> None:
    more = THREE + '  dpo: {recipe: dpo-tiny, models: {policy: {path: "stage:judged"}}}\n'
    with pytest.raises(UserError, match=r"(?s)the stage judged makes no model: it judges some.*before it: sft, scorer"):
        judged(tmp_path, text=more)
