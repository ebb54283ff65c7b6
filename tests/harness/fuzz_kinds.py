"""What is fuzzed: the files of each kind, made wrong by a seed; who reads them in this process; the command for it.

``python -m tests.harness.fuzz_kinds WHOLE`` makes the kept corpus anew, of a folder that tests/e2e/test_fuzz.py made
(``whole``): of each kind the first cases of other seeds than the tests'. Where the folder lay is not kept.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import random
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distft.checkpoint.coordinator import newest_checkpoint
from distft.checkpoint.listing import list_checkpoints
from distft.config.cluster import cluster_file, load_cluster, shipped_clusters
from distft.config.load import load_recipe, recipe_file, shipped_recipes
from distft.data.dataset import load_datasets
from distft.planning.machine import Machine
from distft.planning.plan import make_plan
from distft.report.run_data import read_run
from distft.report.run_page import run_page
from distft.tracking.run_status import run_status
from tests.harness.mutations import mutated_bytes, mutated_json, mutated_lines, mutated_yaml
from tests.reference.tiny_models import train_tokenizer

Files = dict[str, bytes]
CORPUS = Path(__file__).with_name("fuzz_corpus.jsonl.gz")
# So many cores and GPUs that what a recipe or a cluster file asks for is planned, not refused for want of a machine.
MACHINE = Machine(cpus=96, memory_gib=2048.0, loopback="lo", gpus=8, gpu_type="h100", gpu_memory_gib=80.0)
MANIFEST = "run/checkpoints/step_00000020/manifest.json"
LEDGERS = ("metrics.jsonl", "events.jsonl", "samples.jsonl")
RECORDS = ("exit.json", "plan.json", "environment.json", "before_after.json")
ROWS: dict[str, list[dict[str, Any]]] = {
    "sft": [
        {"text": "Good morning."},
        {"messages": [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Why?"},
                      {"role": "assistant", "content": "Because."}]},
        {"prompt": "Why?", "completion": " Because."},
        {"instruction": "Say why", "input": "rain", "output": "clouds"},
        {"conversations": [{"from": "human", "value": "Why?"}, {"from": "gpt", "value": "Because."}]},
        {"dialogue": "A: hi B: hi", "summary": "they greet", "topic": "greeting", "id": "1"},
    ],
    "dpo": [
        {"prompt": "Why?", "chosen": " Because.", "rejected": " No."},
        {"chosen": "\n\nHuman: Why?\n\nAssistant: Because.", "rejected": "\n\nHuman: Why?\n\nAssistant: No."},
        {"prompt": [{"role": "user", "content": "Why?"}], "chosen": [{"role": "assistant", "content": "Because."}],
         "rejected": [{"role": "assistant", "content": "No."}]},
    ],
    "kto": [{"prompt": "Why?", "completion": " Because.", "label": True}],
    "reward": [{"prompt": "Why?", "completions": [" a", " b", " c"], "ranks": [1, 2, 3]}],
    "ppo": [{"prompt": "Why?"}, {"prompt": [{"role": "user", "content": "Why?"}]}],
    "pretrain": [{"text": "Once upon a time."}],
}  # fmt: skip
MODELS = {"sft": ["policy"], "dpo": ["policy"], "kto": ["policy"], "pretrain": ["policy"], "reward": ["reward"],
          "ppo": ["policy", "reward"]}  # fmt: skip
MODEL = {
    "init": {"hidden_size": 16, "num_layers": 1, "num_heads": 2, "vocab_size": 300, "max_positions": 64,
             "tokenizer": {"train_on": [{"path": "builtin:dialogues", "limit": 20}]}},
    "dtype": "float32",
}  # fmt: skip


@dataclass(frozen=True)
class Kind:
    """``make``: the files of a seed; ``read``: whoever reads them, in the working directory; ``commands`` that do."""

    make: Callable[[random.Random, Path], Files]
    read: Callable[[], object]
    commands: tuple[tuple[str, ...], ...]


def written(files: Mapping[str, bytes]) -> None:
    """The files, in the working directory."""
    for name, content in files.items():
        Path(name).write_bytes(content)


def corpus() -> Iterator[tuple[str, Files]]:
    """Kind and files of each case that is kept."""
    with gzip.open(CORPUS, "rt") as lines:
        for line in lines:
            kind, files = json.loads(line)
            yield kind, {name: text.encode("latin-1") for name, text in files.items()}


def keep(cases: list[tuple[str, Files]]) -> None:
    """Writes the corpus anew."""
    told = [json.dumps([kind, {name: one.decode("latin-1") for name, one in files.items()}]) for kind, files in cases]
    CORPUS.write_bytes(gzip.compress("\n".join(told).encode(), mtime=0))


def _recipe(dice: random.Random, _: Path) -> Files:
    texts = [recipe_file(name).read_text() for name in sorted(name for name, _ in shipped_recipes())]
    # What begins with the model of a run that is not there is not planned.
    return {"a.yaml": mutated_yaml(dice.choice([text for text in texts if "path: run:" not in text]), dice)}


def _cluster(dice: random.Random, _: Path) -> Files:
    names = sorted(name for name, _ in shipped_clusters())
    return {"c.yaml": mutated_yaml(cluster_file(dice.choice(names)).read_text(), dice)}


def _table(row: dict[str, Any]) -> bytes:
    """Four rows of a CSV file."""
    text = io.StringIO()
    table = csv.DictWriter(text, list(row))
    table.writeheader()
    table.writerows([row] * 4)
    return text.getvalue().encode()


def _rows(dice: random.Random, _: Path) -> Files:
    kind = dice.choice(sorted(ROWS))
    row = dice.choice(ROWS[kind])
    how = dice.choice(("jsonl", "jsonl", "json", "csv"))
    if how == "csv" and all(isinstance(value, str) for value in row.values()):
        content = mutated_bytes(_table(row), dice)
    else:  # a table holds texts alone
        how = "jsonl" if how == "csv" else how
        content = mutated_lines([json.dumps(row)] * 4, dice)
    if how == "json":
        content = b"[" + content.strip(b"\n").replace(b"\n", b",") + b"]"
    recipe = {
        "name": "rows", "output_dir": "out", "algorithm": {"kind": kind}, "models": dict.fromkeys(MODELS[kind], MODEL),
        "data": {"train": [{"path": f"rows.{how}"}], "max_length": 32, "max_prompt_length": 16,
                 **dice.choice(({"on_bad_row": "fail"}, {"on_bad_row": "drop", "max_dropped": 2}))},
        "rollout": {"max_new_tokens": 16}, "train": {"steps": 2, "global_batch_size": 2, "max_tokens_per_rank": 64},
    }  # fmt: skip
    return {f"rows.{how}": content, "rows.yaml": json.dumps(recipe).encode()}


def _read_rows() -> None:
    recipe = load_recipe("rows.yaml")
    load_datasets(recipe.data, recipe.algorithm.kind, TOKENIZER)


def _manifest(dice: random.Random, whole: Path) -> Files:
    return {MANIFEST: mutated_json((whole / MANIFEST).read_text(), dice)}


def _read_manifest() -> None:
    list_checkpoints(Path("run"))
    found = newest_checkpoint(Path("run/checkpoints"))
    assert found is not None
    assert found.step in (10, 20)


def _metrics(dice: random.Random, whole: Path) -> Files:
    made = {}
    for name in LEDGERS:
        lines = (whole / "run" / name).read_text().splitlines()
        made[f"run/{name}"] = mutated_lines(lines, dice) if dice.random() < 0.7 else "\n".join(lines).encode()
    for name in RECORDS:
        text = (whole / "run" / name).read_text()
        made[f"run/{name}"] = mutated_json(text, dice) if dice.random() < 0.2 else text.encode()
    return made


def _read_metrics() -> None:
    run_status(Path("run"))
    run_page(read_run(Path("run")))


def copied(run: Path, target: Path) -> None:
    """Of a run folder what its records are, and a checkpoint before the one whose manifest is made wrong."""
    shutil.copytree(run, target, ignore=shutil.ignore_patterns("final", "checkpoints", "wandb", "init", "report.html"))


TOKENIZER = train_tokenizer(["Why? Because."] * 9, 300)
KINDS = {
    "recipe": Kind(_recipe, lambda: make_plan(load_recipe("a.yaml"), load_cluster("local"), machine=MACHINE),
                   (("plan", "a.yaml"), ("submit", "slurm", "a.yaml", "--cluster", "slurm-cpu", "--dry-run"))),
    "cluster": Kind(_cluster, lambda: make_plan(load_recipe("sft-tiny"), load_cluster("c.yaml"), machine=MACHINE),
                    (("plan", "sft-tiny", "--cluster", "c.yaml"),
                     ("submit", "slurm", "sft-tiny", "--cluster", "c.yaml", "--dry-run"))),
    "rows": Kind(_rows, _read_rows, (("data", "rows.yaml"),)),
    "manifest": Kind(_manifest, _read_manifest, (("checkpoints", "run"),)),
    "metrics": Kind(_metrics, _read_metrics, (("status", "run"), ("status", "run", "--json"), ("report", "run"))),
}  # fmt: skip
KEPT = 42  # of each kind


def main(whole: Path) -> None:
    """Writes the corpus."""
    with tempfile.TemporaryDirectory() as folder:
        moved = Path(shutil.copytree(whole, Path(folder) / "whole"))
        for path in moved.rglob("*.json*"):
            path.write_bytes(re.sub(rb'"/[^"]*/run/', b'"/runs/sft/', path.read_bytes()))
        keep([
            (name, kind.make(random.Random(f"kept {name} {seed}"), moved)) for name, kind in KINDS.items()
            for seed in range(KEPT)
        ])  # fmt: skip


if __name__ == "__main__":
    main(Path(sys.argv[1]))
