"""Rollouts by vLLM, from the command to the exported model: engines of their own, and what they are compared with."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from distft.config.load import recipe_file
from distft.models.compressed import compress
from distft.planning.generation import installed_vllm
from tests.e2e.conftest import (
    SECRETS,
    SMALL,
    Start,
    computed,
    events,
    exit_record,
    lines,
    marked,
    root_on_path,
    weights,
)  # fmt: skip
from tests.harness.deaths import SAMPLED, assert_survives, cells
from tests.harness.exposure import assert_hidden

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(900),
    pytest.mark.skipif(
        not installed_vllm() and "CI" not in os.environ, reason="vLLM is not installed; tests/run installs it"
    ),
]
# In one process, and what is compiled gains nothing on a processor.
QUIET = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_NO_USAGE_STATS": "1", "TORCHDYNAMO_DISABLE": "1"}
SAME = 1e-3  # of a token's log-prob in float32: see invariants.SAME_WEIGHTS


@pytest.fixture
def grpo(tmp_path: Path) -> str:
    """Groups of answers that a rule scores, to the embedded prompts: no other model than policy and reference."""
    recipe = yaml.safe_load(recipe_file("ppo-tiny").read_text())
    init = recipe["models"]["policy"]["init"] | {"hidden_size": 64, "num_layers": 2, "num_heads": 2, "vocab_size": 400}
    recipe |= {
        "algorithm": {"kind": "grpo"},
        "models": {
            "policy": recipe["models"]["policy"] | {"init": init},
            "reward": {"functions": ["tests.harness.rules:letters_e"]},
        },
        "placement": {"policy": {"ranks": 2}, "reference": {"ranks": 1}},
        "rollout": {"engine": "auto", "max_new_tokens": 12, "samples_per_prompt": 4, "temperature": 0.9},
    }
    path = tmp_path / "grpo.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return str(path)


AHEAD = ("rollout.overlap=1", "algorithm.importance_cap=2.0")


def trained(start: Start, recipe: str, *overrides: str, folder: str) -> Path:
    verb = start("train", recipe, *SMALL, *overrides, folder=folder, **root_on_path())
    assert verb.end() == 0, verb.output
    verb.assert_nothing_left()
    return verb.folder


def iterations(folder: Path) -> list[dict[str, Any]]:
    """What was computed in each."""
    return [line for line in computed(folder) if line["split"] == "train"]


def assert_proven(folder: Path, staleness: list[float]) -> None:
    """The samples of every iteration are the trainer's own, or those of its weights one update ago."""
    found = iterations(folder)
    assert [line["rollout/staleness"] for line in found] == staleness
    for line in found:
        apart = line["rollout/trainer_logprob_difference_q999"]
        assert (SAME if line["rollout/staleness"] else 0) < apart, "exactly 0: not another engine's"
        assert apart < (1 if line["rollout/staleness"] else SAME)


def test_a_run_takes_vllm_by_itself_and_trains_on_what_it_sampled_ahead(start: Start, grpo: str) -> None:
    verb = start("train", grpo, *SMALL, *AHEAD, "train.steps=3", **root_on_path())
    verb.wait_for_stage("rollout-0", "generate iteration 2")
    assert_hidden(marked(verb.mark), list(SECRETS.values()))
    assert verb.end() == 0, verb.output
    verb.assert_nothing_left()
    folder = verb.folder
    plan = json.loads((folder / "plan.json").read_text())
    assert (plan["generation"]["engine"], plan["generation"]["why"]) == ("vllm", f"{installed_vllm()} is installed")
    assert len(events(folder, "engines_ready")) == 1
    assert [group["role"] for group in events(folder, "group_ready")].count("rollout") == 1
    assert_proven(folder, [0, 1, 1])
    assert "stage: generate iteration 3" in (folder / "logs" / "rollout-0.log").read_text()
    assert (folder / "checkpoints" / "step_00000002" / "rollout" / "ahead.safetensors").is_file()
    assert (folder / "final" / "model.safetensors").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("engines", [1, 2])
def test_a_run_that_samples_ahead_is_killed_and_goes_on_bit_for_bit(start: Start, grpo: str, engines: int) -> None:
    """Two stops: between checkpoints by a kill, and by a signal, whose checkpoint comes where none was due."""
    words = ("train", grpo, *SMALL, *AHEAD, f"placement.rollout.ranks={engines}", "train.steps=5")
    killed = start(*words, folder="run", **root_on_path())
    killed.wait_for_stage("rollout-0", "generate iteration 5")
    os.kill(killed.process.pid, signal.SIGKILL)
    killed.end(60)
    again = start(*words, folder="run", **root_on_path())
    assert again.end() == 0, again.output
    stopped = start(*words, "checkpoint.every=100", folder="stopped", **root_on_path())
    stopped.wait_for_stage("rollout-0", "generate iteration 3")
    os.kill(stopped.process.pid, signal.SIGTERM)
    assert stopped.end(120) == 75, stopped.output
    on = start(*words, "checkpoint.every=100", folder="stopped", **root_on_path())
    assert on.end() == 0, on.output
    undisturbed = trained(start, grpo, *words[2 + len(SMALL) :], folder="undisturbed")
    for folder in (again.folder, on.folder):
        assert iterations(folder) == iterations(undisturbed)
        assert weights(folder) == weights(undisturbed)


@pytest.mark.slow
def test_two_engines_draw_what_hf_draws(start: Start, grpo: str) -> None:
    """The same tokens, so the same training: bit for bit between numbers of engines, near to it beside ``hf``."""
    one = trained(start, grpo, "train.steps=2", folder="one")
    two = trained(start, grpo, "train.steps=2", "placement.rollout.ranks=2", folder="two")
    by_hf = trained(start, grpo, "train.steps=2", "rollout.engine=hf", folder="hf")
    assert_proven(one, [0, 0])
    texts = [[sample["completion"] for sample in lines(folder, "samples")] for folder in (one, two, by_hf)]
    assert texts[0] == texts[1] == texts[2]
    assert len(set(texts[0])) > len(texts[0]) // 2
    for ours, theirs in zip(iterations(one), iterations(by_hf), strict=True):
        assert ours["objective/scores"] == theirs["objective/scores"]
        assert ours["loss"] == pytest.approx(theirs["loss"], abs=1e-6)
    assert weights(one) == weights(by_hf)


@pytest.mark.slow
def test_a_dead_engine_ends_the_run_and_the_same_command_goes_on(start: Start, grpo: str) -> None:
    words = ("train", grpo, *SMALL, "train.steps=4")  # which asks for no restart
    verb = start(*words, **root_on_path())
    verb.wait_for_stage("rollout-0", "generate iteration 3")
    os.kill(verb.pid("rollout", 0), signal.SIGKILL)
    assert verb.end(60) == 1, verb.output
    verb.assert_nothing_left()
    assert f"distft: rollout rank 0 on {os.uname().nodename}: its process died" in verb.output
    assert "Traceback" not in verb.output
    ended = exit_record(verb.folder)
    assert (ended["class"], ended["exit_status"], ended["role"], ended["rank"]) == ("death", 1, "rollout", 0)
    assert "its process died: killed by" in ended["cause"]
    on = start(*words, **root_on_path())
    assert on.end() == 0, on.output
    on.assert_nothing_left()
    assert [event["step"] for event in events(on.folder, "resume")] == [2]
    assert exit_record(on.folder)["class"] == "done"


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_run_survives_the_death_of_an_engine_in_any_phase(start: Start, grpo: str) -> None:
    words = ("train", grpo, *SMALL, "placement.rollout.ranks=2")
    assert_survives(start, words, cells({"rollout": 1}, SAMPLED), **root_on_path())


@pytest.mark.slow
def test_an_engine_that_dies_while_it_samples_ahead_ends_the_attempt(start: Start, grpo: str) -> None:
    """The policy has other weights by then: the next attempt samples again with those that it had."""
    words = ("train", grpo, *SMALL, *AHEAD, "train.steps=5", "checkpoint.every=1", "recovery.max_restarts=3",
             "train.global_batch_size=64", "rollout.max_new_tokens=24")  # fmt: skip
    undisturbed = start(*words, folder="undisturbed", **root_on_path())
    assert undisturbed.end() == 0, undisturbed.output
    verb = start(*words, **root_on_path())
    verb.wait_for_stage("rollout-0", "generate iteration 4")
    os.kill(verb.pid("rollout", 0), signal.SIGSTOP)  # or it would be done before the policy begins
    verb.wait_for_stage("policy-0", "update ClippedPolicy from step 2\n")
    os.kill(verb.pid("rollout", 0), signal.SIGKILL)
    assert verb.end() == 0, verb.output
    verb.assert_nothing_left()
    (failure,) = events(verb.folder, "failure")
    assert failure["role"] == "rollout"
    assert failure["cause"].endswith(
        "no other could take its place: the policy has learned since, and the weights that it was answering with are "
        "gone"
    )
    assert iterations(verb.folder) == iterations(undisturbed.folder)
    assert weights(verb.folder) == weights(undisturbed.folder)


READ = """
import json, sys
from vllm import LLM, SamplingParams
path, ids = sys.argv[1], json.loads(sys.argv[2])
llm = LLM(model=path, skip_tokenizer_init=True, dtype="bfloat16", max_model_len=64, max_num_seqs=4,
          kv_cache_memory_bytes=2**26, enforce_eager=True, disable_log_stats=True)
[answer] = llm.generate([{"prompt_token_ids": ids}], SamplingParams(max_tokens=1, prompt_logprobs=0, detokenize=False))
print("SAID", json.dumps([row[token].logprob for row, token in zip(answer.prompt_logprobs[1:], ids[1:])]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["w4a16", "int8"])
def test_a_quantized_export_is_read(tmp_path: Path, scheme: str) -> None:
    """vLLM says of every token what transformers says, to the precision of bfloat16; of four bits the plain one not."""
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=128, intermediate_size=256, num_hidden_layers=2, num_attention_heads=4, vocab_size=96,
        max_position_embeddings=128, tie_word_embeddings=False,
    )  # fmt: skip
    model: Any = LlamaForCausalLM(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(4)
    model.bfloat16().save_pretrained(tmp_path / "plain")
    compress(tmp_path / "plain", tmp_path / "quantized", scheme)
    ids = list(range(3, 35))
    told = subprocess.run(
        [sys.executable, "-c", READ, str(tmp_path / "quantized"), json.dumps(ids)], capture_output=True, text=True,
        timeout=800, check=False, env=os.environ | QUIET,
    )  # fmt: skip
    said = [line for line in told.stdout.splitlines() if line.startswith("SAID ")]
    assert said, told.stdout + told.stderr
    found = torch.tensor(json.loads(said[0].removeprefix("SAID ")))
    apart = {}
    for name in ("plain", "quantized"):
        one: Any = AutoModelForCausalLM.from_pretrained(tmp_path / name, dtype=torch.bfloat16).eval()
        with torch.no_grad():
            logprobs = one(input_ids=torch.tensor([ids])).logits[0, :-1].float().log_softmax(-1)
        apart[name] = (logprobs.gather(1, torch.tensor(ids[1:])[:, None])[:, 0] - found).abs().mean().item()
    assert apart["quantized"] < 0.05
    if scheme == "w4a16":  # eight bits are as near to the plain model as bfloat16 is
        assert apart["plain"] > 2 * apart["quantized"], apart
