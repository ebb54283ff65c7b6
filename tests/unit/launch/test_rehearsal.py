"""A dry run finds what a start would find: rows, templates, architectures, weights by name, the checkpoint."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants
from safetensors.torch import load_file, save_file

from distft.checkpoint.coordinator import Coordinator
from distft.checkpoint.lease import acquire
from distft.checkpoint.manifest import record_files
from distft.checkpoint.role_layout import RoleLayout
from distft.cli import main
from distft.common.addresses import found_at
from distft.common.errors import EnvironmentFallsShort, UserError
from distft.config.load import load_recipe
from distft.config.recipe import Recipe
from distft.data.store import BESIDE
from distft.launch.prepare import prepare
from distft.launch.rehearsal import rehearse
from distft.launch.run import run
from distft.launch.run_folder import fingerprint, write_recipe
from distft.launch.starts import role_spec
from distft.launch.xray import examine
from distft.models.families.causal import load_causal
from distft.workers import rehearsal
from distft.workers.spec import Start
from tests.harness.judge import completion, judging
from tests.reference.tiny_models import save_llama, train_tokenizer

ROWS = [{"prompt": f"What is {number}?", "completion": f" It is {number}."} for number in range(8)]
TALK = [{"messages": [{"role": "user", "content": "Hi."}, {"role": "assistant", "content": "Hello."}]}]
RECIPE = """
name: my-sft
output_dir: out
algorithm: {kind: sft}
models: {policy: {path: model, dtype: float32}}
data: {train: [{path: rows.jsonl}], max_length: 64}
train: {steps: 2, global_batch_size: 2, max_tokens_per_rank: 128}
tracking: {wandb: {mode: disabled}}
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tokenizer = train_tokenizer([text for row in ROWS for text in row.values()], 300)
    return save_llama(tmp_path_factory.mktemp("tiny") / "model", tokenizer, num_layers=1)


@pytest.fixture
def here(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory: a right recipe with its model and rows."""
    monkeypatch.chdir(tmp_path)
    for name in ("RAY_ADDRESS", "SLURM_JOB_ID"):
        monkeypatch.delenv(name, raising=False)
    shutil.copytree(model, tmp_path / "model")
    write(tmp_path / "rows.jsonl", ROWS)
    (tmp_path / "sft.yaml").write_text(RECIPE)
    return tmp_path


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def refused(*overrides: str) -> UserError:
    with pytest.raises(UserError) as caught:
        rehearse(prepare(load_recipe("sft.yaml", overrides), "local"))
    return caught.value


def test_what_is_right_is_ready_and_nothing_is_left(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scratch = here / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    before = sorted(here.rglob("*"))
    init = "{hidden_size: 16, num_layers: 1, num_heads: 2, vocab_size: 300, max_positions: 64}"
    more = ["models.policy.extend_vocabulary=[What is, It is]"]
    for overrides in ([], [f"models.policy.init={init}"], ["models.policy.peft.method=lora"], more):
        assert rehearse(prepare(load_recipe("sft.yaml", overrides), "local")) == ()
    assert sorted(here.rglob("*")) == before


def test_a_conversation_without_a_chat_template(here: Path) -> None:
    (here / "model" / "chat_template.jinja").unlink()
    write(here / "rows.jsonl", TALK)
    error = refused()
    assert (error.where, error.exit_status) == ("rows.jsonl:1", 2)
    assert "has no chat template" in error.what


def test_no_held_out_row_is_left(here: Path) -> None:
    error = refused("data.holdout=0.01")
    assert error.where in ("data.eval", "data.test")
    assert error.what == "no row of data.train is held out for it"


def config(**changes: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return change


def weights(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def changed(folder: Path) -> None:
        tensors = load_file(folder / "model.safetensors")
        change(tensors)
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})

    return changed


NORM = "model.layers.0.input_layernorm.weight"
CUSTOM = {"auto_map": {"AutoConfig": "mine.Mine", "AutoModelForCausalLM": "mine.MineLM"}, "model_type": "mine"}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model_type": "mbart", "is_encoder_decoder": True}, "is an encoder-decoder"),
        ({"model_type": "brand_new"}, "no causal language model of type brand_new"),
        (CUSTOM, "models.policy.trust_remote_code=true"),
        ({"model_type": "gpt2", "n_positions": 4}, "has learned 4 positions"),
    ],
    ids=["encoder-decoder", "unknown architecture", "custom code", "too few positions"],
)
def test_families_that_cannot_be_trained(changes: dict[str, Any], said: str, here: Path) -> None:
    config(**changes)(here / "model")
    error = refused()
    assert error.exit_status == 2
    assert said in str(error)


@pytest.mark.parametrize(
    ("breaks", "said"),
    [
        (weights(lambda tensors: tensors.pop(NORM)), f"weights are missing: {NORM}"),
        (weights(lambda tensors: tensors.update({NORM: tensors[NORM][:3].clone()})), "do not have the sizes"),
        (weights(lambda tensors: tensors[NORM].fill_(float("nan"))), f"{NORM} holds NaN"),
    ],
    ids=["a missing tensor", "a tensor of another size", "no numbers"],
)
def test_weights_that_would_not_load(breaks: Callable[[Path], None], said: str, here: Path) -> None:
    """With the very message that a worker's load raises, found on the meta device."""
    breaks(here / "model")
    error = refused()
    policy = load_recipe("sft.yaml").models.policy
    assert said in error.what
    assert policy is not None
    with pytest.raises(UserError) as caught:
        load_causal("model", policy, dropout=True)
    assert str(caught.value) == str(error)


def test_what_reward_functions_print_is_not_the_verbs_answer(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "chatty_rewards.py").write_text("print('loading')\ndef one(prompts, completions):\n    return [1.0]\n")
    monkeypatch.syspath_prepend(str(here))
    kind = ["algorithm={kind: ppo}", "models.reward={functions: ['chatty_rewards:one']}", "rollout.max_new_tokens=8"]
    lengths = ["data.max_prompt_length=16", "data.max_length=24", "train.max_tokens_per_rank=64"]
    assert main(["train", "sft.yaml", *kind, *lengths, "--dry-run", "--json"]) == 0
    told = capsys.readouterr()
    assert json.loads(told.out)["state"] == "ready to start"
    assert "loading" in told.err


ENVIRONMENT = """
class Mine:
    heard = []
    def __init__(self, wrong=""):
        self.wrong = wrong
    def reset(self, row):
        self.heard.append(row["prompt"])
        if self.wrong == "reset":
            raise KeyError("colour")
    def step(self, text):
        self.heard.append(text)
        return ("again", float("nan") if self.wrong == "step" else 0.5, False)
"""


def test_an_environment_is_reset_and_asked_once_and_looking_at_the_rows_asks_nobody(here: Path) -> None:
    (here / "my_env.py").write_text(ENVIRONMENT)
    kind = ["algorithm={kind: grpo}", "rollout.max_new_tokens=8", "rollout.samples_per_prompt=2"]
    kind += ["data.max_prompt_length=16", "data.max_length=24", "train.max_tokens_per_rank=64"]
    kind += ["rollout.environment={name: './my_env.py:Mine', max_turns: 1, max_turn_tokens: 8}"]
    assert rehearse(prepare(load_recipe("sft.yaml", kind), "local")) == ()
    mine = found_at("./my_env.py:Mine")
    assert mine.heard == ["What is 0?", "I do not know."]
    examine(load_recipe("sft.yaml", kind))
    assert len(mine.heard) == 2
    for wrong, said in (("reset", "reset: raised KeyError: 'colour'"), ("step", "turn 1: its reward is nan")):
        error = refused(*kind, f"rollout.environment.arguments={{wrong: {wrong}}}")
        assert error.exit_status == 2
        assert f"my_env.py:Mine, rows.jsonl:1, tried out, {said}" in str(error)


def test_a_judge_is_asked_about_one_row_and_looking_at_the_rows_asks_nobody(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with judging() as judge:
        judge.answer = lambda _: completion("Both are fine.")
        named = f"{{name: helpful, url: '{judge.url}', model: big, token_env: JUDGES_WORD}}"
        kind = ["algorithm={kind: grpo}", f"models.reward={{judges: [{named}]}}", "rollout.max_new_tokens=8"]
        kind += ["data.max_prompt_length=16", "data.max_length=24", "train.max_tokens_per_rank=64"]
        kind += ["rollout.samples_per_prompt=2"]
        assert "JUDGES_WORD is not set" in refused(*kind).what
        monkeypatch.setenv("JUDGES_WORD", "canary")
        recipe = load_recipe("sft.yaml", kind)
        (warning,) = rehearse(prepare(recipe, "local"))
        assert "asked about one row for ratings, it ended with 'Both are fine.'; a judge must follow" in warning
        (asked,) = judge.requests
        assert "What is 0?" in asked["messages"][0]["content"]
        assert "I do not know." in asked["messages"][0]["content"], "the rows have no answer to be judged"
        examine(recipe)
        assert len(judge.requests) == 1
        judge.answer = lambda _: (404, b"no model big", {})
        error = refused(*kind)
        assert (error.exit_status, error.what) == (2, "status 404: no model big")
    with pytest.raises(EnvironmentFallsShort, match="models.reward.judges.0 .*Connection refused"):
        rehearse(prepare(load_recipe("sft.yaml", [*kind, "models.reward.judges.0.timeout=0.2"]), "local"))


def test_what_the_data_worker_warns_of_is_said(here: Path) -> None:
    with (here / "rows.jsonl").open("a") as file:
        file.write('{"prompt": 3}\n')
    drop = ["data.on_bad_row=drop", "data.max_dropped=1"]
    (warning,) = rehearse(prepare(load_recipe("sft.yaml", drop), "local"))
    assert "1 bad row" in warning
    assert "rows.jsonl:9" in warning


def test_rows_that_are_not_those_of_the_checkpoint(here: Path) -> None:
    """Refused as the start of a run refuses them, before it starts or writes anything."""
    recipe = load_recipe("sft.yaml", ["placement.policy.ranks=1"])
    run_dir = here / "out"
    run_dir.mkdir()
    write_recipe(recipe, run_dir)
    with acquire(run_dir) as lease:
        coordinator = Coordinator(run_dir, 2, lease, fingerprint=fingerprint(recipe))
        staging = coordinator.begin(1)
        (staging / "policy").mkdir()
        (staging / "policy" / "rank_0.pt").write_bytes(b"weights")
        state = {"step": 1, "data": {"data.train.0": "another hash"}}
        coordinator.commit(1, record_files(staging, ["policy/rank_0.pt"]), state, {"policy": RoleLayout(1, 0)})
    error = refused("placement.policy.ranks=1")
    assert "rows.jsonl is not what it was when the checkpoint of step 1 was written" in error.what
    assert "checkpoint.changed_data=accept" in error.hint
    with pytest.raises(UserError) as caught:
        run(prepare(recipe, "local"), quiet=True)
    assert str(caught.value) == str(error)
    assert not (run_dir / "plan.json").exists()
    accepted = load_recipe("sft.yaml", ["placement.policy.ranks=2", "checkpoint.changed_data=accept"])
    layout = "policy goes on in another layout: 1 rank at ZeRO stage 0 -> 2 ranks at ZeRO stage 3"
    assert layout in rehearse(prepare(accepted, "local"))
    assert (
        rehearse(prepare(load_recipe("sft.yaml", ["placement.policy.ranks=1", "checkpoint.resume=never"]), "local"))
        == ()
    )


def test_rows_are_kept_where_rows_are_kept_already(here: Path) -> None:
    store = here / BESIDE
    store.mkdir()
    assert rehearse(prepare(load_recipe("sft.yaml"), "local")) == ()
    assert any(store.rglob("*"))


def test_weights_that_are_not_here_are_not_fetched(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a hub name with nothing but config and tokenizer in the cache no more is asked for: there is no network, and
    a look for weights would raise."""
    asked = in_the_cache(here, monkeypatch, but=["model.safetensors"])
    rehearsal.rehearse_model(role_spec(asked, "policy"), Start("some/model"), new_head=True, exported=True)
    with pytest.raises(UserError, match="cannot be loaded"):
        load_causal("some/model", role_spec(asked, "policy").model, dropout=False)


def in_the_cache(here: Path, monkeypatch: pytest.MonkeyPatch, but: Sequence[str]) -> Recipe:
    """A recipe of a hub name, of which the cache has all files ``but`` those."""
    snapshot = here / "cache" / "models--some--model" / "snapshots" / "abc"
    shutil.copytree(here / "model", snapshot, ignore=lambda *_: but)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text("abc")
    monkeypatch.setenv("HF_HUB_CACHE", str(here / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(here / "cache"))
    return load_recipe("sft.yaml", ["models.policy.path=some/model"])
