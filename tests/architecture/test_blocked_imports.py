"""The login-node verbs run in processes in which every heavy import is an error; what a data worker has imported."""

from __future__ import annotations

import json
import os
import pkgutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from distft.data.tokenizer_training import train_tokenizer

HEAVY = (
    "torch",
    "ray",
    "deepspeed",
    "transformers",
    "datasets",
    "peft",
    "trl",
    "accelerate",
    "wandb",
    "vllm",
    "pandas",
)
# Run with a finder in front that refuses the heavy packages; says at the end which were asked for.
PROGRAM = """
import importlib, json, sys

heavy = set({heavy!r})
asked = []

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in heavy:
            asked.append(name)
            raise ImportError(f"{{name}} is heavy: not allowed here")

sys.meta_path.insert(0, Refuse())
status = 0
try:
    {body}
except SystemExit as end:
    status = end.code or 0
print("\\n" + json.dumps({{"status": status, "asked": asked, "loaded": sorted(heavy & set(sys.modules))}}))
"""


def run_blocked(body: str, cwd: Path, root: Path) -> tuple[dict[str, object], str, float]:
    """Runs one line of Python with heavy imports refused: (what it saw, its output, its seconds)."""
    program = PROGRAM.format(heavy=HEAVY, body=body)
    command = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(root)!r})\n{program}"]
    start = time.monotonic()
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=60, check=False)
    seconds = time.monotonic() - start
    assert done.returncode == 0, done.stderr[-3000:]
    output, _, last = done.stdout.rstrip().rpartition("\n")
    return json.loads(last), output, seconds


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["recipes"],
        ["plan", "sft-tiny"],
        ["plan", "ppo-tiny"],
        ["plan", "ppo-tiny", "--json"],
        ["plan", "ppo-tiny", "--cluster", "slurm-h100"],
        ["submit", "slurm", "ppo-tiny", "--cluster", "slurm-cpu", "--dry-run"],
        ["submit", "slurm", "detox-tiny", "--cluster", "slurm-cpu", "--dry-run"],
        ["submit", "ray", "ppo-tiny", "--dry-run"],
    ],
    ids=" ".join,
)
def test_the_verb_imports_nothing_heavy(
    arguments: list[str], tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "http://head:8265")
    seen, output, seconds = run_blocked(
        f"from distft.cli import main; status = main({arguments!r}) or 0", cwd=tmp_path, root=root
    )
    print(f"distft {' '.join(arguments)}: {seconds:.2f} s")
    assert seen == {"status": 0, "asked": [], "loaded": []}, output[-2000:]
    assert output.strip()


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (["train", "ppo-tiny", "train.stepz=3"], 2),
        (["train", "ppo-tiny", "data.train.0.path=./nowhere.jsonl"], 2),
        (["train", "ppo-tiny", "models.policy.path=run:runs/nowhere"], 2),
        (["train", "ppo-tiny", "placement.policy.ranks=4096"], 3),
        (["train", "sft-tiny", "--cluster", "slurm-cpu"], 3),
        (["export", "nowhere", "out"], 2),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_input_is_refused_before_anything_heavy(
    arguments: list[str], status: int, tmp_path: Path, root: Path
) -> None:
    seen, output, _ = run_blocked(f"from distft.cli import main; status = main({arguments!r})", cwd=tmp_path, root=root)
    assert seen == {"status": status, "asked": [], "loaded": []}, output[-2000:]


def test_config_and_plan_import_nothing_heavy(tmp_path: Path, root: Path) -> None:
    modules = ["distft.config", "distft.planning.plan", "distft.batches", "distft.common.errors"]
    modules += [f"distft.config.{module.name}" for module in pkgutil.iter_modules([str(root / "distft/config")])]
    seen, _, _ = run_blocked(f"[importlib.import_module(name) for name in {modules!r}]", cwd=tmp_path, root=root)
    assert seen == {"status": 0, "asked": [], "loaded": []}


# The data worker of a run as it is: its tokenizer and rows, a batch; then what assigns credit.
DATA_WORKER = """
from pathlib import Path
from distft.config.load import load_recipe
from distft.launch.starts import model_starts
from distft.workers.data_worker import DataWorker

def worker(recipe, *roles):
    paths = [f"models.{role}.path=model" for role in roles]
    data = ["data.train=[{path: rows.jsonl}]", "data.eval=[]", "data.test=[]", "data.holdout=0.2"]
    made = load_recipe(recipe, ["output_dir=run", *paths, *data])
    found = DataWorker(recipe=made, starts=model_starts(made, Path("run")))
    found.setup()
    return found

worker("sft-tiny", "policy").batch("train", 0, 2)
loaded["supervised"] = sorted({"torch", "deepspeed", "peft", "datasets"} & set(sys.modules))
worker("ppo-tiny", "policy", "reward").prompts("train", 0, 2, 1)
loaded["sampled"] = sorted(MODEL_CODE & set(sys.modules))
"""
# What the code of models brings with it: half of what a worker with one has to import.
MODEL_CODE = ("torch._dynamo", "torch.distributed.tensor", "transformers.modeling_utils", "deepspeed", "accelerate")


def test_the_data_worker_imports_torch_for_credit_only_and_no_models_code(tmp_path: Path, root: Path) -> None:
    tokenizer = train_tokenizer(["How much is 1 and 1? 2"] * 20, 300, "chatml")
    tokenizer.save_pretrained(tmp_path / "model")
    (tmp_path / "model" / "config.json").write_text(json.dumps({"model_type": "llama", "vocab_size": 300}))
    rows = [{"prompt": f"How much is {i} and {i}?", "completion": str(2 * i)} for i in range(20)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    program = f"import json, sys\nloaded = {{}}\nMODEL_CODE = set({MODEL_CODE!r})\n{DATA_WORKER}"
    command = [sys.executable, "-c", f"{program}\nprint(json.dumps(loaded), 'torch' in sys.modules)"]
    environment = os.environ | {"PYTHONPATH": str(root)}
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.splitlines()[-1] == '{"supervised": [], "sampled": []} True'


def test_the_guard_itself_notices(tmp_path: Path, root: Path) -> None:
    """An import inside try/except would pass unseen if only failures counted."""
    seen, _, _ = run_blocked("exec('try: import torch\\nexcept ImportError: pass')", cwd=tmp_path, root=root)
    assert seen["asked"] == ["torch"]
