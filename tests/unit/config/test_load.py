"""Reading recipes: names, paths, overrides, run: paths, and the resolved recipe."""

from __future__ import annotations

import copy
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pydantic import ValidationError

from distft.common.errors import UserError
from distft.config.algorithms.ppo import Ppo
from distft.config.load import check_recipe, load_recipe, resolve_path, resolved_yaml, shipped_recipes
from distft.config.overrides import Override, apply_overrides
from distft.config.roles import model_of, optimizer_of, roles, trained_roles
from distft.config.rules import violations
from distft.config.yaml_file import KeyPath, Tree, parse_yaml
from tests.unit.config.examples import PPO, TEXTS


def test_tiny_recipes_are_shipped() -> None:
    names = [name for name, _ in shipped_recipes()]
    assert {"sft-tiny", "reward-tiny", "dpo-tiny", "ppo-tiny", "hh-sft", "hh-reward", "hh-dpo", "hh-ppo"} <= set(names)
    assert all(len(line) > 20 and not line.startswith("#") for _, line in shipped_recipes())


def test_no_shipped_recipe_names_a_folder_outside_the_working_directory() -> None:
    for name, _ in shipped_recipes():
        data = load_recipe(name).data
        for source in (*data.train, *data.eval, *data.test):
            assert not source.path.startswith(("..", "/", "~")), f"{name}: {source.path}"


@pytest.mark.parametrize("name", [name for name, _ in shipped_recipes()])
def test_shipped_recipe_is_right_and_its_resolved_form_means_the_same(name: str, tmp_path: Path) -> None:
    recipe = load_recipe(name, [])
    assert recipe.name == name
    assert recipe.output_dir == f"runs/{name}"
    if name.startswith("hh-"):  # the others leave it to the plan
        assert all(recipe.placement.of(role).ranks == 2 for role in roles(recipe))
    written = tmp_path / "recipe.yaml"
    written.write_text(resolved_yaml(recipe), encoding="utf-8")
    again = load_recipe(str(written), [])
    assert resolved_yaml(again) == resolved_yaml(recipe)
    assert [model_of(again, role) for role in roles(again)] == [model_of(recipe, role) for role in roles(recipe)]
    assert [optimizer_of(again, role) for role in trained_roles(again)] == [
        optimizer_of(recipe, role) for role in trained_roles(recipe)
    ]


@pytest.mark.parametrize("kind", list(TEXTS))
def test_resolved_recipe_says_every_default(recipes: Callable[[str], str], kind: str) -> None:
    text = resolved_yaml(load_recipe(recipes(kind), []))
    assert "learning_rate: 1.0e-06" in text
    assert "max_restarts: 3" in text
    assert "zero_stage: 3" in text
    assert "with: null" in text
    assert f"overlong: {'error' if kind == 'ppo' else 'truncate'}" in text


def test_inherited_settings_survive_the_resolved_form(write: Callable[[str], str]) -> None:
    text = PPO.replace("    path: some/policy\n", "    path: some/policy\n    engine: {zero_stage: 2}\n")
    overrides = ["models.value.optimizer.learning_rate=1e-3", "models.reference.attention=eager", "optimizer.eps=1e-5",
                 "models.reward.trust_remote_code=true"]  # fmt: skip
    recipe = load_recipe(write(text), overrides)
    again = load_recipe(write(resolved_yaml(recipe)), [])
    assert model_of(again, "value").engine.zero_stage == 2
    assert model_of(again, "reference").engine.zero_stage == 0
    assert model_of(again, "reference").attention == "eager"
    assert model_of(again, "reference").dtype == "float32"
    assert optimizer_of(again, "value").eps == 1e-5
    assert [model_of(again, role) for role in roles(again)] == [model_of(recipe, role) for role in roles(recipe)]


@pytest.mark.parametrize("method", ["nf4", "fp4", "int8"])
def test_a_quantized_run_reads_its_own_recipe_again(tmp_path: Path, method: str) -> None:
    quantized = ["models.policy.peft.method=lora", f"models.policy.quantization.method={method}"]
    recipe = load_recipe("sft-tiny", quantized)
    (tmp_path / "recipe.yaml").write_text(resolved_yaml(recipe))
    assert load_recipe(str(tmp_path / "recipe.yaml"), []) == recipe


def test_numbers_read_as_people_write_them(recipes: Callable[[str], str]) -> None:
    overrides = ["optimizer.learning_rate=1e-6", "models.policy.engine.reduce_bucket_size=5_000_000", "algorithm.lam=1"]
    recipe = load_recipe(recipes("ppo"), overrides)
    assert recipe.optimizer.learning_rate == 1e-6
    assert model_of(recipe, "policy").engine.reduce_bucket_size == 5_000_000
    assert isinstance(recipe.algorithm, Ppo)
    assert recipe.algorithm.lam == 1.0


def test_the_format_may_be_left_out(write: Callable[[str], str]) -> None:
    assert load_recipe(write(PPO.replace("format: 1\n", ""))).format == 1


def test_home_is_written_out_everywhere(recipes: Callable[[str], str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A shell leaves ``~`` after the = of an override as it is."""
    monkeypatch.setenv("HOME", "/home/me")
    paths = {
        "output_dir": "~/a", "checkpoint.resume": "~/b", "models.policy.path": "~/c", "models.reward.path": "run:~/d",
        "data.train.0.path": "~/e.jsonl", "data.eval.0.path": "builtin:dialogues",
    }  # fmt: skip
    recipe = load_recipe(recipes("ppo"), [f"{key}={path}" for key, path in paths.items()])
    assert (recipe.output_dir, recipe.checkpoint.resume) == ("/home/me/a", "/home/me/b")
    assert (model_of(recipe, "policy").path, model_of(recipe, "reward").path) == ("/home/me/c", "run:/home/me/d")
    assert (recipe.data.train[0].path, recipe.data.eval[0].path) == ("/home/me/e.jsonl", "builtin:dialogues")
    with pytest.raises(UserError, match="no home folder is known for ~nobody-of-that-name"):
        load_recipe(recipes("ppo"), ["output_dir=~nobody-of-that-name/run"])


@pytest.mark.parametrize("word", ["no", "off", "1:30", "2026-11-22", "v1", "0x1f"])
def test_words_stay_words(recipes: Callable[[str], str], word: str) -> None:
    recipe = load_recipe(recipes("ppo"), [f"tracking.wandb.group={word}"])
    assert recipe.tracking.wandb.group == word


def test_an_override_of_path_takes_init_away_and_back(recipes: Callable[[str], str]) -> None:
    by_path = load_recipe(recipes("sft"), ["models.policy.path=some/model"])
    assert (model_of(by_path, "policy").path, model_of(by_path, "policy").init) == ("some/model", None)
    init = "{hidden_size: 32, num_layers: 1, num_heads: 2, vocab_size: 300}"
    by_init = load_recipe(recipes("ppo"), [f"models.policy.init={init}"])
    assert model_of(by_init, "policy").path is None


def test_an_override_of_epochs_takes_steps_away(recipes: Callable[[str], str]) -> None:
    train = load_recipe(recipes("sft"), ["train.epochs=2"]).train
    assert (train.steps, train.epochs) == (None, 2)


def test_clearing_one_of_a_pair_leaves_the_other(recipes: Callable[[str], str]) -> None:
    assert load_recipe(recipes("sft"), ["train.epochs=null"]).train.steps == 10


def test_list_items_are_overridden_and_added(recipes: Callable[[str], str]) -> None:
    overrides = ["data.train.0.path=other.jsonl", "data.train.1.path=more.jsonl", "data.eval.0.path=held.jsonl"]
    data = load_recipe(recipes("ppo"), overrides).data
    assert [source.path for source in data.train] == ["other.jsonl", "more.jsonl"]
    assert [source.path for source in data.eval] == ["held.jsonl"]


def test_a_later_override_wins(recipes: Callable[[str], str]) -> None:
    assert load_recipe(recipes("ppo"), ["seed=2", "seed=3"]).seed == 3


def test_an_anchor_is_copied_not_shared() -> None:
    recipe = load_recipe("ppo-tiny", ["models.policy.init.num_layers=1"])
    policy, reward = model_of(recipe, "policy").init, model_of(recipe, "reward").init
    assert policy is not None
    assert reward is not None
    assert policy.num_layers == 1
    assert reward.num_layers != 1


def test_prompts_over_the_limit_are_an_error_unless_said_otherwise(recipes: Callable[[str], str]) -> None:
    assert load_recipe(recipes("ppo"), []).data.overlong == "error"
    assert load_recipe(recipes("ppo"), ["data.overlong=truncate"]).data.overlong == "truncate"
    assert load_recipe(recipes("sft"), []).data.overlong == "truncate"


def test_a_recipe_cannot_be_changed(recipes: Callable[[str], str]) -> None:
    recipe = load_recipe(recipes("ppo"), [])
    with pytest.raises(ValidationError):
        recipe.seed = 2


def test_secrets_are_hidden_in_the_resolved_recipe(
    recipes: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "tok-abcdef-123456")
    overrides = ["data.train.0.path=https://me:pass@host/data.jsonl", "tracking.wandb.group=tok-abcdef-123456"]
    text = resolved_yaml(load_recipe(recipes("ppo"), overrides))
    assert "pass@" not in text
    assert "tok-abcdef-123456" not in text
    assert "max_tokens_per_rank: 4096" in text


MISSING = [
    ("ppo-tin", ["no shipped recipe", "did you mean ppo-tiny?"]),
    ("zzz", ["no shipped recipe", "shipped recipes: ", " dpo-tiny,"]),
    ("ppo-tiny.yaml", ["no such file", "by their name: ppo-tiny"]),
    ("no/such/recipe.yaml", ["no such file", "shipped recipes:"]),
]


@pytest.mark.parametrize(("name", "parts"), MISSING)
def test_missing_recipe(name: str, parts: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as caught:
        load_recipe(name, [])
    assert caught.value.exit_status == 2
    for part in [name, *parts]:
        assert part in str(caught.value)


def test_misspelt_file_and_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.yaml").write_text(PPO)
    with pytest.raises(UserError, match=r"did you mean .*mine\.yaml"):
        load_recipe(str(tmp_path / "mien.yaml"), [])
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"mine: no shipped recipe has this name\n  did you mean mine\.yaml\? shipped"):
        load_recipe("mine", [])
    (tmp_path / "rows.jsonl").write_text("{}")
    with pytest.raises(UserError, match=r"rows\.jsonl: holds data, not a recipe\n.*data\.train\.0\.path=rows\.jsonl"):
        load_recipe("rows.jsonl", [])
    (tmp_path / "recipe.yaml").write_text(PPO)
    with pytest.raises(UserError, match=r"(?s)is a folder.*did you mean .*recipe\.yaml"):
        load_recipe(str(tmp_path), [])


def test_a_binary_file_is_no_recipe(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_bytes(b"\xff\xfe\x00a")
    with pytest.raises(UserError, match="not a text file in UTF-8"):
        load_recipe(str(tmp_path / "x.yaml"), [])


def test_run_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert resolve_path("some/model") == "some/model"
    with pytest.raises(UserError, match=r"(?s)does not exist.*make it with: distft train hh-sft$"):
        resolve_path("run:runs/hh-sft")
    with pytest.raises(UserError, match="distft train RECIPE output_dir=elsewhere/a"):
        resolve_path("run:elsewhere/a")
    run = tmp_path / "runs" / "hh-sft"
    run.mkdir(parents=True)
    (run / "recipe.yaml").write_text(PPO)
    with pytest.raises(UserError, match=r"(?s)has not finished.*distft train runs/hh-sft/recipe.yaml"):
        resolve_path("run:runs/hh-sft")
    (run / "final").mkdir()
    (run / "final" / "config.json").write_text("{}")
    assert resolve_path("run:runs/hh-sft") == "runs/hh-sft/final"


def _keys(node: object, path: KeyPath = ()) -> Iterator[KeyPath]:
    if path:
        yield path
    if isinstance(node, dict | list):
        items = node.items() if isinstance(node, dict) else enumerate(node)
        for key, inner in items:
            yield from _keys(inner, (*path, key))


def _refusal(tree: Tree) -> UserError | None:
    try:
        assert violations(check_recipe(tree)) == []
    except UserError as error:
        return error
    return None


def test_nothing_put_anywhere_gets_past_or_crashes(recipes: Callable[[str], str]) -> None:
    """Any value at any key gives a checked recipe or a message that names the key or the rule's key."""
    whole = parse_yaml(resolved_yaml(load_recipe(recipes("ppo"), ["models.value.optimizer.eps=1e-6"])), "whole")
    keys = list(_keys(whole.data))
    assert len(keys) > 100
    for key in keys:
        values: tuple[object, ...] = (None, "x", "", -1.5, 10**9, True, [], [{}], {}, {"x": 1})
        for value in values:
            tree = Tree(copy.deepcopy(whole.data), {}, "whole")
            apply_overrides(tree, [Override(key, value, "put", "put")])
            error = _refusal(tree)
            assert error is None or (error.where and error.what)


def test_nothing_heavy_is_imported() -> None:
    code = "import sys, distft.config.load; print(sorted({m.split('.')[0] for m in sys.modules}))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    for heavy in ("torch", "transformers", "ray", "deepspeed", "datasets", "numpy"):
        assert f"'{heavy}'" not in loaded
