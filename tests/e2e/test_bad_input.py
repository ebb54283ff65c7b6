"""Bad input at the command line: one message saying where, what and what to do; the right exit status; no trace left.

Every case runs in a folder of its own that has good models, data and recipes in it; a case breaks one thing.
"""

from __future__ import annotations

import gzip
import json
import os
import shutil
import subprocess
import sys
from collections import namedtuple
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from distft.batches import Ragged
from distft.checkpoint.coordinator import Coordinator
from distft.checkpoint.lease import acquire
from distft.checkpoint.manifest import record_files
from distft.checkpoint.role_layout import RoleLayout
from distft.cli import main
from distft.common.errors import UserError
from distft.config.load import load_recipe
from distft.launch.run_folder import fingerprint, write_recipe
from distft.planning.machine import Machine
from tests.reference.tiny_models import save_llama, train_tokenizer
from tests.unit.launch.examples import LLAMA_70B, config_folder, model_folder, write_safetensors

INIT = {"hidden_size": 16, "num_layers": 1, "num_heads": 2, "vocab_size": 300, "max_positions": 256}
PAIR = {"prompt": "Why?", "chosen": " Because.", "rejected": " No."}
ROW = {"prompt": "Why?", "completion": " Because."}


def recipe_text(kind: str, data: str, models: dict[str, Any]) -> str:
    tree: dict[str, Any] = {
        "format": 1,
        "name": f"my-{kind}",
        "output_dir": f"out/{kind}",
        "algorithm": {"kind": kind},
        "models": {role: {"dtype": "float32", **model} for role, model in models.items()},
        "data": {"train": [{"path": data}], "max_length": 32, "max_prompt_length": 16},
        "rollout": {"max_new_tokens": 16},
        "train": {"steps": 2, "global_batch_size": 2, "max_tokens_per_rank": 64},
        "tracking": {"wandb": {"mode": "disabled"}},
    }
    return yaml.safe_dump(tree, sort_keys=False)


def lines(path: Path, *rows: Any) -> None:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with everything that the recipes ``sft.yaml``, ``dpo.yaml`` and ``ppo.yaml`` need."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    for name in ("RAY_ADDRESS", "SLURM_JOB_ID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    laptop = Machine(cpus=2, memory_gib=16.0, loopback="lo")
    for module in ("prepare", "preflight.checks"):
        monkeypatch.setattr(f"distft.launch.{module}.this_machine", lambda: laptop)
    model_folder(folder / "model")
    model_folder(folder / "scorer", head=(1, 8))
    lines(folder / "pairs.jsonl", PAIR, PAIR | {"prompt": "How?"})
    lines(folder / "rows.jsonl", ROW, ROW | {"prompt": "How?"})
    (folder / "sft.yaml").write_text(recipe_text("sft", "rows.jsonl", {"policy": {"path": "model"}}))
    (folder / "dpo.yaml").write_text(recipe_text("dpo", "pairs.jsonl", {"policy": {"path": "model"}}))
    models = {"policy": {"path": "model"}, "reward": {"path": "scorer"}}
    (folder / "ppo.yaml").write_text(recipe_text("ppo", "rows.jsonl", models))
    (folder / "my_rewards.py").write_text("def brevity(prompts, completions):\n    return [1.0] * len(completions)\n")
    return folder


def snapshot(folder: Path) -> dict[str, tuple[int, int]]:
    """Every path with its size and time of change. What Python compiles is no trace of ours."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if "__pycache__" not in path.parts:
            status = path.lstat()
            found[str(path.relative_to(folder))] = (status.st_size if path.is_file() else 0, status.st_mtime_ns)
    return found


def assert_one_message(text: str) -> None:
    """``distft: where: what``, and under it, indented, what to do."""
    first, *rest = text.rstrip("\n").split("\n")
    assert first.startswith("distft: "), text
    assert text.count("distft: ") == 1, text
    assert "Traceback" not in text
    assert rest, f"no hint: {text}"
    assert all(line.startswith("  ") and line.strip() for line in rest), text


def refusal(text: str) -> str:
    """What was printed without the warnings before it."""
    return "".join(line for line in text.splitlines(keepends=True) if not line.startswith("distft: warning: "))


@dataclass(frozen=True)
class Case:
    """``arguments`` in one line; ``breaks`` what is done to the folder first."""

    arguments: str
    where: str
    what: str
    hint: str
    breaks: Callable[[Path], object] = lambda _: None
    status: int = 2

    @property
    def name(self) -> str:
        return f"{self.arguments} | {self.what}"[:90]


def dry(arguments: str, where: str, what: str, hint: str, breaks: Callable[[Path], object] = lambda _: None) -> Case:
    return Case(f"train {arguments} --dry-run", where, what, hint, breaks)


def edit(name: str, old: str, new: str) -> Callable[[Path], object]:
    def breaks(folder: Path) -> None:
        text = (folder / name).read_text()
        assert old in text
        (folder / name).write_text(text.replace(old, new, 1))

    return breaks


def file(name: str, content: str | bytes = "") -> Callable[[Path], object]:
    def breaks(folder: Path) -> None:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())

    return breaks


def rows(name: str, *values: Any) -> Callable[[Path], object]:
    return lambda folder: lines(folder / name, *values)


COMMAND_LINE = [
    Case("trian sft.yaml", "trian", "there is no such verb", "did you mean train?"),
    Case("frobnicate", "frobnicate", "there is no such verb", "verbs: quickstart, train, plan"),
    Case("plan", "plan", "the following arguments are required: RECIPE", "distft recipes lists"),
    Case("plan sft.yaml --clster local", "--clster", "unknown option", "did you mean --cluster?"),
    Case("plan sft.yaml --frob", "--frob", "unknown option", "distft plan takes: "),
    Case("plan sft.yaml --cluster", "plan", "expected one argument", "usage: distft plan"),
    Case("recipes --jsn", "--jsn", "unknown option", "did you mean --json?"),
    Case("--verson", "--verson", "unknown option", "did you mean --version?"),
    Case("export a b c", "c", "one argument too many", "distft export --help"),
    Case("export a", "export", "required: OUT", "usage: distft export"),
    dry("sft.yaml --train.steps=3", "--train.steps=3", "take no dashes", "write train.steps=3"),
    Case("train sft.yaml --steps 5", "--steps", "take no dashes", "write train.steps=5"),
    Case("train sft.yaml --lr=1e-5", "--lr=1e-5", "take no dashes", "write optimizer.learning_rate=1e-5"),
    Case("help trian", "trian", "there is no such verb", "did you mean train?"),
    dry("sft.yaml train.steps", "override train.steps", "has no =", "write train.steps=VALUE"),
    dry("sft.yaml train.steps=", "override train.steps=", "has no value", "train.steps=null"),
    dry("sft.yaml data.train.4.path=x", "override data.train.4.path=x", "has no item 4", "0 to 0"),
]

RECIPES = [
    Case("plan ppo-tny", "ppo-tny", "no shipped recipe has this name", "did you mean ppo-tiny?"),
    Case("plan sfft.yaml", "sfft.yaml", "there is no such file", "did you mean sft.yaml?"),
    Case("train model", "model", "is a folder, not a recipe", "give a YAML file"),
    dry("empty.yaml", "empty.yaml", "is empty", "format: 1", file("empty.yaml")),
    dry("sft.yaml", "sft.yaml:4", "not valid YAML", "spaces, not with tabs",
        edit("sft.yaml", "algorithm:", "\talgorithm:")),
    dry("sft.yaml", "sft.yaml:3", "name is given twice", "sft.yaml:2", edit("sft.yaml", "name:", "name: a\nname:")),
    dry("sft.yaml", "train.stepz (sft.yaml:", "unknown key stepz", "did you mean steps?",
        edit("sft.yaml", "steps:", "stepz:")),
    dry("sft.yaml lr=1", "lr (override lr=1)", "unknown key lr", "optimizer.learning_rate"),
    dry("sft.yaml", "train.steps (sft.yaml:", 'a whole number, not "two"', "steps to train",
        edit("sft.yaml", "steps: 2", "steps: two")),
    dry("sft.yaml seed=-1", "seed", "at least 0, not -1", "random"),
    dry("sft.yaml algorithm.kind=sfft", "algorithm.kind", 'unknown algorithm kind "sfft"', "did you mean sft?"),
    dry("dpo.yaml algorithm.loss=hing", "algorithm.loss", "is not known here", "did you mean hinge?"),
    dry("sft.yaml", "name", "is missing", "run name", edit("sft.yaml", "name: my-sft\n", "")),
    dry("sft.yaml train.steps=null", "train", "neither steps nor epochs", "steps: 100"),
    dry("ppo.yaml algorithm.minibatches=9", "algorithm.minibatches", "cannot be made of 2 samples", "at most 2"),
    dry("sft.yaml train.max_tokens_per_rank=8", "train.max_tokens_per_rank", "does not hold", "at least 32"),
    dry("dpo.yaml data.train.0.format=text", "data.train.0.format", "dpo cannot learn from text", "preference"),
    dry("sft.yaml models.reward.path=scorer", "models.reward", "sft has no reward model", "remove it"),
    dry("ppo.yaml models.reward=null", "models.reward", "is missing: ppo needs it", "models.reward.path"),
    dry("sft.yaml placement.policy.ranks=0", "placement.policy.ranks", "at least 1", "the plan chooses"),
]  # fmt: skip


def without(name: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).unlink()


def torn(folder: Path) -> None:
    path = folder / "model" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-10])


def stranger(folder: Path) -> None:
    model_folder(folder / "other", tokens=("a", "c", "b"))


MODELS = [
    dry("sft.yaml models.policy.path=./modl", "models.policy.path", "there is no folder ./modl", "did you mean model?"),
    dry("sft.yaml models.policy.path=modl", "models.policy.path", "neither a folder here", "did you mean model?"),
    dry("sft.yaml models.policy.path=some/hub-name", "models.policy.path", "HF_HUB_OFFLINE", "run:<output_dir>"),
    dry("sft.yaml models.policy.path=HuggingFaceTB/SmolLM2-135M", "models.policy.path", "HF_HUB_OFFLINE",
        "where there is a network: hf download HuggingFaceTB/SmolLM2-135M"),
    dry("sft.yaml models.policy.path=sft.yaml", "models.policy.path", "is a file, not a model folder", "did you mean"),
    dry("sft.yaml", "models.policy.path", "has no config.json", "give a model folder", without("model/config.json")),
    dry("sft.yaml", "models.policy.path", "has no weights", "copy", without("model/model.safetensors")),
    dry("sft.yaml", "models.policy.path", "has no tokenizer", "copy the tokenizer's files",
        without("model/tokenizer.json")),
    dry("sft.yaml", "model/config.json", "cannot be read", "copy the model's files again",
        file("model/config.json", "{")),
    dry("sft.yaml", "model/model.safetensors", "is no whole safetensors file", "copy the model's files again", torn),
    dry("sft.yaml", "models.policy.path", "9 tokens, the model's embedding only 8 rows", "belongs to another model",
        file("model/tokenizer.json", json.dumps({"model": {"vocab": {f"t{n}": n for n in range(9)}}}))),
    dry("ppo.yaml models.reward.path=model", "models.reward.path", "holds no scalar head",
        "train one with a `reward` recipe"),
    dry("ppo.yaml", "models.reward.label", "has 2 outputs", "name the label",
        lambda folder: write_safetensors(folder / "scorer" / "model.safetensors",
        {"model.embed_tokens.weight": (8, 8), "score.weight": (2, 8)})),
    dry("dpo.yaml models.reference.path=other models.reference.differs=true", "models.reference.path",
        "its tokenizer is not the policy's", "must share the policy's tokenizer", stranger),
    dry("dpo.yaml models.reference.path=other", "models.reference.path", "not the policy's start", "differs: true",
        stranger),
    dry("sft.yaml models.policy.path=run:runs/sft-tiny", "run:runs/sft-tiny", "does not exist",
        "distft train sft-tiny"),
    dry("sft.yaml models.policy.path=run:earlier", "run:earlier", "has not finished",
        "distft train earlier/recipe.yaml",
        file("earlier/recipe.yaml", "format: 1\n")),
    dry("sft.yaml models.policy.path=run:out/sft", "models.policy.path", "start from its own result",
        "change output_dir"),
]  # fmt: skip

DATA = [
    dry("sft.yaml data.train.0.path=./rosw.jsonl", "rosw.jsonl", "there is no such file", "did you mean rows.jsonl?"),
    dry("sft.yaml data.train.0.path=nowhere/rows.jsonl", "nowhere/rows.jsonl", "there is no such file",
        "no folder nowhere"),
    dry("sft.yaml", "rows.jsonl", "the file has no rows", "one object a line", file("rows.jsonl")),
    dry("sft.yaml", "rows.jsonl:2", "malformed JSON at column", "one object a line",
        rows("rows.jsonl", ROW, '{"prompt": ')),
    dry("sft.yaml", "rows.jsonl:2", "must be an object with named columns, not a list", "for example {",
        rows("rows.jsonl", ROW, "[1, 2]")),
    dry("dpo.yaml", "pairs.jsonl:1", "no known format for dpo", "preference (chosen, rejected)",
        rows("pairs.jsonl", ROW)),
    dry("dpo.yaml", "pairs.jsonl:2", "needs a column `chosen`", "renames",
        rows("pairs.jsonl", PAIR, {"prompt": "a", "rejected": "b"})),
    dry("sft.yaml data.train.0.path=rows.rtf", "rows.rtf", "cannot tell how to read a .rtf file", ".jsonl",
        file("rows.rtf", "a")),
    dry("sft.yaml", "rows.jsonl:1", "is not UTF-8", "save the file as UTF-8",
        file("rows.jsonl", b'{"prompt": "\xff"}\n')),
    dry("dpo.yaml", "pairs.jsonl", "not one of the first 2 rows has a prompt; not read: `task`", "{NAME: prompt}",
        rows("pairs.jsonl", *[{"task": "Why?", "chosen": "a", "rejected": "b"}] * 2)),
    dry("sft.yaml data.train.0.path=hub", "hub", "several splits may be meant for train: train_prefs, train_sft",
        "split: train_prefs", lambda folder: [file(f"hub/data/{split}-00000-of-00001.jsonl", "{}")(folder)
                                              for split in ("train_prefs", "train_sft", "test_sft")]),
    dry("sft.yaml", "rows.jsonl:2", r"`prompt` holds half of a character (\ud83d)", "data.on_bad_row=drop",
        rows("rows.jsonl", ROW, ROW | {"prompt": "cut emoji \ud83d"})),
    dry("sft.yaml data.on_bad_row=drop data.max_dropped=1", "rows.jsonl:2", "more than 1 rows of data.train are wrong",
        "data.max_dropped is how many", rows("rows.jsonl", ROW, "{", "[1]", ROW)),
    dry("sft.yaml data.max_dropped=9", "data.max_dropped", "has no effect", "data.on_bad_row: drop"),
    dry("sft.yaml data.train.0.path=r.csv", "r.csv:3", "1 fields where the header has 2", "quote",
        file("r.csv", "prompt,completion\na,b\nc\n")),
    dry("sft.yaml data.train.0.path=r.jsonl.gz", "r.jsonl.gz", "not a whole gzip file", "copy it again",
        file("r.jsonl.gz", gzip.compress(json.dumps(ROW).encode() * 99)[:-12])),
    dry("sft.yaml data.train.0.path=texts", "texts", "no data files", "jsonl", file("texts/read.me")),
    dry("sft.yaml data.train.0.path=builtin:dialogue", "builtin:dialogue", "no embedded corpus", "builtin:dialogues"),
    dry("sft.yaml data.train.0.columns={qestion:prompt}", "columns.qestion:prompt", "has no value",
        "a space follows the colon"),
    dry("sft.yaml", "rows.jsonl:1", "`columns` renames `qestion`", "leave this rename out",
        edit("sft.yaml", "- path: rows.jsonl", "- path: rows.jsonl\n    columns: {qestion: prompt}")),
    dry("sft.yaml data.train.0.split=train", "rows.jsonl", "a file has no splits", "remove"),
    dry("sft.yaml", "rows.jsonl", "none of the first 2 rows can be used", "prompt_completion",
        rows("rows.jsonl", *[ROW | {"completion": ""}] * 2)),
    dry("sft.yaml", "rows.jsonl:1", "`prompt` must be a text or a list of messages, not a number",
        'messages are [{"role"', rows("rows.jsonl", ROW | {"prompt": 3})),
    dry("dpo.yaml data.eval.0.path=./pears.jsonl", "pears.jsonl", "there is no such file", "did you mean pairs.jsonl?"),
]  # fmt: skip

GPU = "{type: a, memory_gib: 80, bf16_tflops: 9, memory_bandwidth_gbs: 9, interconnect_gbs: 9}"
GPUS = f"name: two\nkind: local\nnode: {{gpus: 2, gpu: {GPU}}}\n"
H100S = f"name: two\nkind: slurm\nnode: {{cpus: 8, memory_gib: 64, gpus: 2, gpu: {GPU}}}\n"


def enormous(folder: Path) -> None:
    config_folder(folder / "model", {**LLAMA_70B, "num_hidden_layers": 640})  # beyond adapters over four bits too
    file("two.yaml", H100S)(folder)


MACHINES = [
    Case("train sft.yaml placement.policy.ranks=9 --dry-run", "placement", "9 ranks are asked for", "8 ranks",
        status=3),
    Case("train ppo.yaml placement.policy.ranks=8 --dry-run", "placement", "ranks are asked for", "2 ranks for each",
        status=3),
    Case("plan sft.yaml placement.policy.ranks=3 --cluster slurm-cpu", "placement.policy.ranks", "3", "2"),
    Case("plan sft.yaml placement.policy.ranks=9 --cluster one-node-8xh100", "placement", "9 GPUs are asked for",
        "8 ranks", status=3),
    Case("train sft.yaml --dry-run --cluster two.yaml", "cluster two", "gpus: 2, there are 0", "gpus: 0",
        file("two.yaml", GPUS), 3),
    Case("train sft.yaml --cluster one-node-8xh100", "cluster one-node-8xh100", "cpus: 96, there are 2", "auto",
        status=3),
    Case("train sft.yaml --cluster slurm-cpu", "cluster slurm-cpu", "slurm cluster", "--cluster local", status=3),
    Case("plan sft.yaml --cluster ray-existing", "cluster ray-existing", "RAY_ADDRESS is not set",
        "RAY_ADDRESS=host:port", status=3),
    Case("plan sft.yaml --cluster two.yaml placement.policy.ranks=1 --json", "my-sft on two", "does not fit",
        "a smaller model", enormous),
]  # fmt: skip

CLUSTERS = [
    Case("plan sft.yaml --cluster locl", "locl", "no shipped cluster file has this name", "did you mean local?"),
    Case("plan sft.yaml --cluster my.yaml", "my.yaml", "there is no such file", "shipped cluster files"),
    Case("plan sft.yaml --cluster my.yaml", "nodse (my.yaml:3)", "unknown key nodse", "did you mean node?",
        file("my.yaml", "name: a\nkind: local\nnodse: 1\n")),
    Case("plan sft.yaml --cluster my.yaml", "kind (my.yaml:2)", "must be 'local'", "did you mean slurm?",
        file("my.yaml", "name: a\nkind: slrum\n")),
    Case("plan sft.yaml --cluster my.yaml", "node (my.yaml:3)", "has GPUs", "one node",
        file("my.yaml", "name: a\nkind: local\nnode: {gpus: 2, cpus: 2, memory_gib: 8}\n")),
    Case("plan sft.yaml --cluster my.yaml", "my.yaml:3", "not valid YAML", "brackets",
        file("my.yaml", "name: a\nkind: [local\n")),
    Case("plan sft.yaml --cluster my.yaml", "my.yaml", "no secrets here, HF_TOKEN is one", "`HF_TOKEN: null`",
        file("my.yaml", "name: a\nkind: local\nenvironment: {HF_TOKEN: hf_abc}\n")),
    Case("plan sft.yaml --cluster my.yaml", "my.yaml", "holds no mapping of keys", "name: and kind:", file("my.yaml")),
]  # fmt: skip


def unfinished(folder: Path) -> None:
    """A run of ``sft.yaml`` that has taken a step."""
    run_dir = folder / "out" / "sft"
    run_dir.mkdir(parents=True)
    write_recipe(load_recipe("sft.yaml"), run_dir)
    lines(run_dir / "metrics.jsonl", {"step": 1, "split": "train"})


def checkpoint(folder: Path) -> Path:
    """A checkpoint of step 1 by one rank, in the run folder of ``sft.yaml``."""
    unfinished(folder)
    run_dir = folder / "out" / "sft"
    with acquire(run_dir) as lease:
        coordinator = Coordinator(run_dir, 2, lease, fingerprint=fingerprint(load_recipe("sft.yaml")), attempt=1)
        staging = coordinator.begin(1)
        (staging / "policy").mkdir()
        (staging / "policy" / "rank_0.pt").write_bytes(b"weights")
        return coordinator.commit(
            1, record_files(staging, ["policy/rank_0.pt"]), {"step": 1}, {"policy": RoleLayout(1, 0)}
        )


def damaged(folder: Path) -> None:
    (checkpoint(folder) / "policy" / "rank_0.pt").write_bytes(b"other!!")


FOLDERS = [
    dry("sft.yaml output_dir=/proc/no/run", "output_dir", "/proc/no", "output_dir=runs/NAME"),
    dry("sft.yaml output_dir=model/config.json", "output_dir", "is a file, not a folder", "output_dir=runs/NAME"),
    dry("sft.yaml output_dir=model/config.json/run", "output_dir", "is a file, not a folder", "output_dir=runs/NAME"),
    dry(f"sft.yaml output_dir={'a' * 300}", "output_dir", "(300 characters) is too long for a file", "runs/NAME"),
    dry("sft.yaml output_dir=link/run", "output_dir", "link is a link to /no/where, which is not there", "runs/NAME",
        lambda folder: (folder / "link").symlink_to("/no/where")),
    Case(f"status {'a' * 300}", "(", "the name is too long for a file", "give another path"),
    Case(f"plan {'a' * 300}", "(300 characters)", "the name is too long for a file", "give another path"),
    dry(f"sft.yaml models.policy.path={'a' * 300}", "(300 characters)", "too long for a file", "another path"),
    dry(f"sft.yaml data.train.0.path={'a' * 300}", "(300 characters)", "too long for a file", "another path"),
    Case(f"submit slurm sft.yaml --cluster slurm-cpu --dry-run output_dir={'a' * 300}", "output_dir", "too long",
        "runs/NAME"),
    Case("status ring", "ring", "there is no such folder", "output_dir",
        lambda folder: (folder / "ring").symlink_to("ring")),
    dry("sft.yaml optimizer.learning_rate=1e-3", "out/sft", "a run of another recipe: optimizer.learning_rate",
        "checkpoint.resume=never", unfinished),
    dry("sft.yaml checkpoint.resume=out/sft/checkpoints/step_1", "checkpoint.resume", "there is no folder", "auto"),
    Case("quickstart --output sft.yaml", "--output", "is a file, not a folder", "--output FOLDER"),
    Case("quickstart --output out", "out/sft", "a run of another recipe", "output_dir", unfinished),
    Case("export nowhere out", "nowhere", "there is no such folder", "give a run folder"),
    Case("export model exported", "model", "a plain Hugging Face folder already", "use it as it is"),
    Case("export scorer/.. exported", "scorer/..", "is no run folder", "RUN_DIR/checkpoints/step_..."),
    Case("export out/sft exported", "out/sft", "neither a result nor a checkpoint", "RUN_DIR", unfinished),
    Case("export out/sft model", "model", "is there already and not empty", "does not exist yet", unfinished),
    Case("export model sft.yaml", "sft.yaml", "is a file", "does not exist yet"),
    Case("export run sft.yaml/deeper", "sft.yaml", "is a file", "name another folder",
        file("run/final/config.json", "{}")),
    Case("export out/sft exported", "step_00000001", "damaged", "another of the run's checkpoints", damaged),
    Case("export out/sft/checkpoints/step_00000001 exported", "step_00000001", "damaged", "another", damaged),
]  # fmt: skip

REWARDS = [
    dry("ppo.yaml models.reward.functions=[brevity]", "models.reward.functions", "is not module:function",
        "my_rewards:brevity"),
    dry("ppo.yaml models.reward.functions=[my_reward:brevity]", "models.reward.functions",
        "there is no module my_reward",
        "did you mean my_rewards:brevity?"),
    dry("ppo.yaml models.reward.functions=[my_rewards:brevty]", "models.reward.functions", "defines no brevty",
        "did you mean my_rewards:brevity?"),
    dry("ppo.yaml models.reward.functions=[broken:f]", "broken.py:1", "cannot be read: invalid syntax", "python ",
        file("broken.py", "def f(:\n")),
]  # fmt: skip

ONLY_RUNS = [case for case in MACHINES if case.what == "slurm cluster"]  # what it would be is seen from anywhere
CASES = [*COMMAND_LINE, *RECIPES, *MODELS, *DATA, *MACHINES, *CLUSTERS, *FOLDERS, *REWARDS]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_refused_before_anything_is_started(case: Case, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    case.breaks(here)
    before = snapshot(here)
    status = main(case.arguments.split())
    told = capsys.readouterr().err
    assert status == case.status, told
    assert_one_message(told)
    head, _, hint = told.partition("\n")
    assert case.where in head
    assert case.what in head
    assert case.hint in hint
    if case.arguments.startswith("train ") and case not in ONLY_RUNS:  # a run says what its dry run says
        words = case.arguments.split()
        twin = [word for word in words if word != "--dry-run"]
        assert main(twin if len(twin) < len(words) else [*twin, "--dry-run"]) == case.status
        assert capsys.readouterr().err == told
    assert snapshot(here) == before


def test_the_good_recipes_pass(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Or the cases above would be refused for another reason."""
    tokenizer = train_tokenizer([*PAIR.values(), *ROW.values()], 300)
    for name, scalar in (("model", False), ("scorer", True)):
        shutil.rmtree(here / name)
        save_llama(here / name, tokenizer, scalar_head=scalar)
    before = snapshot(here)
    capsys.readouterr()  # transformers' bars
    for name in ("sft", "dpo", "ppo"):
        assert main(["train", f"{name}.yaml", "--dry-run"]) == 0
        told = capsys.readouterr()
        assert f"my-{name}: ready to start" in told.out
        assert told.err == ""
    assert snapshot(here) == before


@pytest.mark.parametrize("arguments", [["--dry-run"], []], ids=["dry run", "train"])
def test_a_run_folder_in_use(arguments: list[str], here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with acquire(here / "out" / "sft"):
        before = snapshot(here)
        assert main(["train", "sft.yaml", *arguments]) == 2
        told = capsys.readouterr().err
        assert_one_message(told)
        assert f"another process writes this run: process {os.getpid()}" in told
        assert "choose another output_dir" in told
        assert snapshot(here) == before


def test_the_quickstart_on_a_machine_that_is_too_small(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """PPO's processes want some gigabytes; that is said before SFT has taken its minutes."""
    monkeypatch.setattr("distft.launch.prepare.this_machine", lambda: Machine(cpus=2, memory_gib=4.0))
    before = snapshot(here)
    assert main(["quickstart"]) == 2
    told = capsys.readouterr()
    assert_one_message(told.err)
    assert "quickstart-ppo on local: does not fit: " in told.err
    assert "of 4.0" in told.err
    assert told.out == ""
    assert snapshot(here) == before


def test_too_little_disk(here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**9, 10**9, 10))
    assert main(["train", "sft.yaml", "--dry-run"]) == 3
    told = capsys.readouterr().err
    assert_one_message(told)
    assert "checkpoint.keep" in told
    assert "free some space" in told


def test_a_folder_that_may_not_be_written(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write anywhere
    assert main(["train", "sft.yaml", "--dry-run"]) == 2
    told = capsys.readouterr().err
    assert_one_message(told)
    assert "cannot be written" in told
    assert not (here / "out").exists()


def test_through_a_process(here: Path) -> None:
    """What the tests above see is what a shell sees."""
    before = snapshot(here)
    command = [sys.executable, "-m", "distft", "train", "sft.yaml", "train.stepz=3"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert_one_message(done.stderr)
    assert snapshot(here) == before


# ---- what only the data worker can see


def worker(recipe_name: str, *overrides: str) -> Any:
    """A data worker as a run has it, in this process."""
    from distft.launch.starts import model_starts
    from distft.workers.data_worker import DataWorker

    recipe = load_recipe(recipe_name, overrides)
    return DataWorker(recipe=recipe, starts=model_starts(recipe, Path(recipe.output_dir).absolute()))


@pytest.fixture
def starting(here: Path) -> Path:
    """``here`` with recipes that start from nothing, so that there is a real tokenizer."""
    (here / "sft.yaml").write_text(recipe_text("sft", "rows.jsonl", {"policy": {"init": INIT}}))
    (here / "dpo.yaml").write_text(recipe_text("dpo", "pairs.jsonl", {"policy": {"init": INIT}}))
    models: dict[str, Any] = {"policy": {"init": INIT}, "reward": {"functions": ["my_rewards:brevity"]}}
    (here / "ppo.yaml").write_text(recipe_text("ppo", "rows.jsonl", models))
    return here


def assert_refused(error: UserError, where: str, what: str, hint: str) -> None:
    assert error.exit_status == 2
    assert where in error.where
    assert what in error.what
    assert hint in error.hint
    assert error.hint


LONG = " and so on" * 20
AT_SETUP = [
    ("ppo.yaml", (), rows("rows.jsonl", ROW, ROW | {"prompt": LONG}), "rows.jsonl:2", "data.max_prompt_length is 16",
     "data.overlong"),
    ("sft.yaml", ("data.overlong=error",), rows("rows.jsonl", ROW, ROW | {"completion": LONG}), "rows.jsonl:2",
     "data.max_length is 32", "truncate or drop"),
    ("sft.yaml", ("data.overlong=drop",), rows("rows.jsonl", ROW | {"completion": LONG}), "data.train",
     "no row is left of 1", "over the limit"),
    ("sft.yaml", (), rows("rows.jsonl", *[ROW] * 60, '{"prompt": '), "rows.jsonl:61", "malformed JSON",
     "one object a line"),
    ("dpo.yaml", (), rows("pairs.jsonl", *[PAIR] * 60, ROW), "pairs.jsonl:61", "needs a column `chosen`", "renames"),
    ("sft.yaml", (), rows("rows.jsonl", *[ROW] * 60, ROW | {"prompt": [{"role": "critic", "content": "No"}]}),
     "rows.jsonl:61", "unknown role critic", "data.on_bad_row=drop leaves such rows out"),
    ("ppo.yaml", (), file("my_rewards.py", "import no_such_module\ndef brevity(prompts, completions): ...\n"),
     "models.reward.functions", "No module named 'no_such_module'", "is it installed"),
    ("ppo.yaml", (), file("my_rewards.py", "1 / 0\ndef brevity(prompts, completions): ...\n"),
     "models.reward.functions", "ZeroDivisionError", "my_rewards"),
    ("ppo.yaml", (), file("my_rewards.py", "brevity = 3\n"), "models.reward.functions", "no function brevity",
     "no functions"),
]  # fmt: skip


@pytest.mark.parametrize(("recipe", "overrides", "breaks", "where", "what", "hint"), AT_SETUP)
def test_refused_by_the_data_worker(
    recipe: str, overrides: tuple[str, ...], breaks: Callable[[Path], object], where: str, what: str, hint: str,
    starting: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """By the worker of a run, and by a dry run in the same words."""
    breaks(starting)
    monkeypatch.delitem(sys.modules, "my_rewards", raising=False)
    monkeypatch.syspath_prepend(str(starting))
    own = ("out", ".distft-rows")  # the run's, and the tokenised rows beside it
    before = {path: seen for path, seen in snapshot(starting).items() if not path.startswith(own)}
    with pytest.raises(UserError) as caught:
        worker(recipe, *overrides).setup()
    assert_refused(caught.value, where, what, hint)
    assert main(["train", recipe, *overrides, "--dry-run"]) == 2
    assert refusal(capsys.readouterr().err) == f"distft: {caught.value}\n"
    assert {path: seen for path, seen in snapshot(starting).items() if not path.startswith(own)} == before


ANSWERS = [
    ("raise KeyError('length')", "raised KeyError: 'length'"),
    ("return [1.0]", "answered 1 scores for 2 completions"),
    ("return [1.0, float('nan')]", "answered nan for completion 1"),
    ("return [1.0, None]", "answered None for completion 1"),
    ("return 1.0", "raised TypeError"),
]


@pytest.mark.parametrize(("body", "what"), ANSWERS)
def test_reward_functions_that_answer_wrongly(
    body: str, what: str, starting: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (starting / "my_rewards.py").write_text(f"def brevity(prompts, completions):\n    {body}\n")
    monkeypatch.delitem(sys.modules, "my_rewards", raising=False)
    monkeypatch.syspath_prepend(str(starting))
    one = worker("ppo.yaml")
    one.setup()
    _, prompts = one.prompts("train", 0, 2, 1)
    answered = prompts.with_columns(response_ids=Ragged.of([[5, 6], [7]], np.int32), ended=np.array([True, False]))
    with pytest.raises(UserError) as caught:
        one.function_scores("train", 0, 1, batch=answered)
    assert_refused(caught.value, "reward function my_rewards:brevity", what, "one finite number for each completion")


@pytest.mark.e2e
@pytest.mark.slow
def test_a_real_run_ends_with_the_same_message(starting: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """From the data worker through Ray to the terminal; and a dry run has said so."""
    rows("rows.jsonl", ROW, ROW | {"prompt": LONG})(starting)
    before = {path: seen for path, seen in snapshot(starting).items() if not path.startswith("out")}
    command = [sys.executable, "-m", "distft.cli", "train", "ppo.yaml", "--quiet"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 2, done.stderr[-3000:]
    assert_one_message(refusal(done.stderr))
    assert "models.policy: random weights" in done.stderr
    assert "rows.jsonl:2: the prompt has" in done.stderr
    assert main(["train", "ppo.yaml", "--dry-run"]) == 2
    assert capsys.readouterr().err == done.stderr
    remedy = "data.overlong=drop"
    assert remedy.split("=")[0] in done.stderr
    assert main(["train", "ppo.yaml", remedy, "--dry-run"]) == 0, "the folder of a run without a step takes its remedy"
    assert done.stdout == ""
    ending = json.loads((starting / "out" / "ppo" / "exit.json").read_text())
    assert (ending["class"], ending["exit_status"]) == ("user_error", 2)
    assert {path: seen for path, seen in snapshot(starting).items() if not path.startswith("out")} == before
