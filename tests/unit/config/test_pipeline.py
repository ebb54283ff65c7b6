"""Pipelines: stages, what they take from each other, and what is said of wrong ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from distft.common.errors import UserError
from distft.config.load import load_recipe, shipped_pipelines
from distft.config.pipeline import Pipeline, is_pipeline, load_pipeline
from distft.config.roles import model_of

TWO = """
name: two
output_dir: runs/two
common: {seed: 7, tracking: {wandb: {tags: [a]}}}
stages:
  sft: {recipe: sft-tiny, train: {steps: 30}}
  dpo: {recipe: dpo-tiny, models: {policy: {path: "stage:sft"}}, seed: 8}
"""


def written(folder: Path, text: str = TWO, *overrides: str) -> Pipeline:
    path = folder / "two.yaml"
    path.write_text(text)
    return load_pipeline(str(path), overrides)


def refused(folder: Path, text: str = TWO, *overrides: str) -> str:
    with pytest.raises(UserError) as caught:
        written(folder, text, *overrides)
    return str(caught.value)


def test_a_stage_is_the_command_that_runs_it_alone(tmp_path: Path) -> None:
    sft, dpo = written(tmp_path).stages
    assert dpo.words == [
        "dpo-tiny", "output_dir=runs/two/dpo", "name=two-dpo", "tracking.wandb.group=two", "seed=8",
        'tracking.wandb.tags=["a"]', "models.policy.path=run:runs/two/sft",
    ]  # fmt: skip
    for stage in (sft, dpo):
        assert load_recipe(stage.source, stage.overrides) == stage.recipe
    assert (sft.recipe.train.steps, sft.recipe.seed, dpo.recipe.seed) == (30, 7, 8)
    assert (sft.needs, dpo.needs) == ((), ("sft",))
    assert dpo.recipe.models.policy is not None
    assert dpo.recipe.models.policy.path == "run:runs/two/sft"


def test_the_command_line_reaches_every_key(tmp_path: Path) -> None:
    sft, dpo = written(tmp_path, TWO, "output_dir=/x", "common.seed=3", "stages.sft.train.steps=50").stages
    assert (sft.recipe.seed, sft.recipe.train.steps, sft.recipe.output_dir) == (3, 50, "/x/sft")
    assert (dpo.recipe.seed, dpo.recipe.output_dir) == (8, "/x/dpo"), "a stage's own key stands"
    assert dpo.words[-1] == "models.policy.path=run:/x/sft"


def test_a_folder_in_the_home_is_where_its_stages_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    at_home = written(tmp_path, TWO.replace("runs/two", "~/two"))
    assert at_home.output_dir == str(tmp_path / "two")
    for pipeline in (at_home, written(tmp_path, TWO, "output_dir=~/two")):
        assert [pipeline.folder(stage) for stage in pipeline.trained] == [tmp_path / "two/sft", tmp_path / "two/dpo"]
        assert [stage.recipe.output_dir for stage in pipeline.trained] == [
            str(pipeline.folder(stage)) for stage in pipeline.trained
        ]


def test_a_stage_has_the_sizes_of_what_it_will_start_from(tmp_path: Path) -> None:
    wider = "stages.sft.models.policy.init.hidden_size=64"
    third = TWO + '  more: {recipe: dpo-tiny, models: {policy: {path: "stage:dpo"}}}\n'
    for stage in written(tmp_path, third, wider).stages:
        policy = stage.shaped.models.policy
        assert policy is not None
        assert policy.path is None
        assert policy.init is not None
        assert policy.init.hidden_size == 64, stage.name


def test_init_null_beside_a_result_says_nothing_of_its_start(tmp_path: Path) -> None:
    sft, dpo = written(tmp_path, TWO.replace('"stage:sft"', '"stage:sft", init: null')).trained
    assert sft.shaped.models.policy is not None
    assert dpo.shaped.models.policy is not None
    assert dpo.shaped.models.policy.init == sft.shaped.models.policy.init


NEW_TOKENS = """
name: words
output_dir: runs/words
stages:
  more: {recipe: sft-tiny, models: {policy: {path: a/model, init: null, extend_vocabulary: [one, two]}}}
  lora: {recipe: dpo-tiny, models: {policy: {path: "stage:more", peft: {r: 4}}}}
  further: {recipe: sft-tiny, models: {policy: {path: "stage:lora", init: null, extend_vocabulary: words.txt}}}
  taught: {recipe: distill-tiny, models: {teacher: {path: "stage:further", init: null}}}
"""


def test_new_tokens_of_a_result_are_those_of_what_starts_from_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With adapters and frozen, too, where no recipe may ask for new ones; a stage's own come beside them."""
    monkeypatch.chdir(tmp_path)
    Path("words.txt").write_text("two\nthree\n")
    more, lora, further, taught = written(tmp_path, NEW_TOKENS).trained
    told = [stage.shaped.models.policy for stage in (more, lora, further)] + [taught.shaped.models.teacher]
    assert [(model.path, model.extend_vocabulary) for model in told if model is not None] == [
        ("a/model", ("one", "two")),
        ("a/model", ("one", "two")),
        ("a/model", ("one", "two", "three")),
        ("a/model", ("one", "two", "three")),
    ]
    assert model_of(lora.shaped, "reference").extend_vocabulary == ("one", "two"), "it begins as the policy does"
    assert further.recipe.models.policy is not None
    assert further.recipe.models.policy.extend_vocabulary == "words.txt", "the run itself adds no others"


def test_what_an_earlier_stage_made_from_nothing_can_have_new_tokens(tmp_path: Path) -> None:
    extended = TWO.replace('"stage:sft"', '"stage:sft", extend_vocabulary: [one]')
    dpo = written(tmp_path, extended).trained[1].shaped.models.policy
    assert dpo is not None
    assert dpo.init is not None
    assert dpo.extend_vocabulary == ("one",)


def test_a_recipe_lies_beside_its_pipeline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = load_recipe("sft-tiny", ["train.steps=11", "optimizer.warmup_steps=0"])
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "own.yaml").write_text(own.model_dump_json())
    monkeypatch.chdir(tmp_path)
    found = written(tmp_path / "files", TWO.replace("recipe: sft-tiny, train: {steps: 30}", "recipe: own.yaml"))
    assert found.stages[0].recipe.train.steps == 11


@pytest.mark.parametrize(("text", "overrides", "said"), [
    (TWO.replace("stage:sft", "stage:stf"), (), "two.yaml:7: no stage before this one is called stf\n"
     "  did you mean stage:sft? before it: sft"),
    (TWO.replace("steps: 30", "stops: 30"), (), "two.yaml:6): unknown key stops\n  did you mean steps?"),
    (TWO.replace("dpo-tiny", "dpo-tyni"), (), "two.yaml:7: dpo-tyni: no shipped recipe has this name\n"
     "  did you mean dpo-tiny?"),
    (TWO.replace("dpo-tiny", "quickstart"), (), "quickstart is a pipeline itself"),
    (TWO.replace("recipe: sft-tiny, ", ""), (), "stages.sft: {recipe: a shipped name or a file}"),
    (TWO.replace("{recipe: sft-tiny,", "{recipe: sft-tiny, output_dir: x,"), (), "a stage has its output_dir from"),
    (TWO, ("common.output_dir=runs/x",), "a stage has its output_dir from the pipeline"),
    (TWO, ("common.name=x",), "a stage has its name from the pipeline"),
    (TWO, ("common.recipe=sft-tiny",), "each stage has a recipe of its own"),
    (TWO, ("name=2024",), "must be a text"),
    (TWO, ("stages.stf.train.steps=30",), "the stage stf has no recipe\n"
     "  stages.stf: {recipe: a shipped name or a file}, or {eval: [models]}; other stages: sft, dpo"),
    (TWO.replace("seed: 8", 'data: {train: [{path: "stage:sft"}]}'), (), "stage:NAME can be a model's path only"),
    (TWO.replace("  sft:", "  s/t:"), (), "'s/t' is no name of a stage"),
    (TWO.replace("seed: 8", 'data: {train: [{path: x}], cache_dir: "stage:sft"}'), (),
     "stage:NAME can be a model's path only"),
    (TWO.replace("output_dir: runs/two\n", ""), (), "output_dir: runs/my-pipeline"),
    (TWO.replace("common: {seed: 7,", "common: [{seed: 7,").replace("[a]}}}", "[a]}}}]"), (), "mapping of keys"),
    (TWO.partition("  sft:")[0], (), "must be a mapping of stages"),
    (TWO, ("train.steps=50",), "for every stage: common.train; for one: stages.NAME.train"),
    (TWO, ("comon.seed=5",), "did you mean common?"),
    (TWO, ("format=2",), "format: 1"),
    (TWO, ("stages.sft.train.steps=none",), "override stages.sft.train.steps=none"),
])  # fmt: skip
def test_what_is_wrong_is_said_where_it_stands(
    text: str, overrides: tuple[str, ...], said: str, tmp_path: Path
) -> None:
    assert said in refused(tmp_path, text, *overrides)


def test_several_wrong_keys_are_one_message(tmp_path: Path) -> None:
    told = refused(tmp_path, TWO.replace("name: two", "nmae: two"))
    assert "2 things are wrong" in told
    assert "did you mean name?" in told


def test_what_takes_one_recipe_says_which_there_are() -> None:
    with pytest.raises(UserError, match=r"(?s)is a pipeline; .*sft-tiny, reward-tiny, ppo-tiny, dpo-tiny"):
        load_recipe("quickstart")


@pytest.mark.parametrize("name", [name for name, _ in shipped_pipelines()])
def test_shipped_ones_are_right_and_their_stages_in_order(name: str) -> None:
    assert is_pipeline(name)
    seen: set[str] = set()
    for stage in load_pipeline(name).stages:
        assert seen.issuperset(stage.needs)
        seen.add(stage.name)
    assert len(seen) > 1
