"""Runs the cases, one after the other, and writes what they say; see the package."""

from __future__ import annotations

import argparse
import datetime
import json
import os
import sys
from dataclasses import asdict
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import torch
import yaml

from tests.gpu.cases import GPU, PARTS, TINY, Case, Size, cases
from tests.gpu.figures import of_loop, of_run, watched
from tests.gpu.recipes import recipe_of, write_cluster, write_models
from tests.gpu.table import table

LIMIT_S = 900.0


def command_of(case: Case, size: Size, work: Path, run_dir: Path) -> list[str]:
    """What is run; of a distft case the recipe and the cluster file are written."""
    models = work / "models"
    if case.program == "distft":
        recipe, cluster = run_dir.with_suffix(".yaml"), run_dir.with_name(f"{run_dir.name}-on.yaml")
        write_cluster(cluster, cap_gib=case.cap_gib, cpu=size == TINY)
        recipe.write_text(yaml.safe_dump(recipe_of(case, size, models, run_dir), sort_keys=False))
        verb = [sys.executable, "-m", "distft.cli", "train", str(recipe), "--cluster", str(cluster), "--quiet"]
        return [*verb, *case.options]
    pairs = case.kind != "sft"
    data = [str(models / ("dpo.jsonl" if pairs else "sft.jsonl"))] if case.program == "trl" else []
    numbers = {
        "rows": size.rows, "micro": 1 if pairs else 2, "length": size.length // 2 if pairs else size.length,
        "steps": size.steps,
    }  # fmt: skip
    module = {"trl": "tests.gpu.trl_loop", "bare": "tests.gpu.bare"}[case.program]
    sizes = [word for name, value in numbers.items() for word in (f"--{name}", str(value))]
    return [sys.executable, "-m", module, case.kind, str(models / "model"), *data, *sizes, *case.options]


def measured(case: Case, size: Size, work: Path) -> dict[str, Any]:
    """One line of the results; of what failed the end of its output."""
    run_dir = work / "runs" / case.label.replace(" ", "-").replace(",", "")
    run_dir.parent.mkdir(parents=True, exist_ok=True)
    found = watched(command_of(case, size, work, run_dir), environment=dict(os.environ), limit_s=LIMIT_S)
    line: dict[str, Any] = {
        "part": case.part, "label": case.label, "status": found.status, "seconds": round(found.seconds, 1),
        "peak_gib": found.peak_gib, "card": torch.cuda.get_device_name(0) if torch.cuda.is_available() else "CPU",
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }  # fmt: skip
    if found.status:
        return line | {"output": found.output[-3000:]}
    return line | (of_run(run_dir) if case.program == "distft" else of_loop(found.output))


def _chosen(every: list[Case], wanted: list[str], parser: argparse.ArgumentParser) -> list[Case]:
    """The cases whose part or label is wanted, all of them where none is; ends the program where a word names none: a
    machine with a GPU is not had twice."""
    meant = {word: [case for case in every if word == case.part or fnmatch(case.label, word)] for word in wanted}
    if none := [word for word, found in meant.items() if not found]:
        labels = ", ".join(f"'{case.label}'" for case in every)
        parser.error(f"--only {none[0]}: no such part or label; parts: {', '.join(PARTS)}; labels: {labels}")
    return [case for case in every if not wanted or any(case in found for found in meant.values())]


def main() -> int:
    parser = argparse.ArgumentParser(prog="tests/gpu/run")
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    parser.add_argument("--only", default="", help=f"parts, by commas: {', '.join(PARTS)}; or labels, with wildcards")
    parser.add_argument("--cpu", choices=("tiny",), help="toy sizes on the CPU: a dry run")
    asked = parser.parse_args()
    if not asked.cpu and not torch.cuda.is_available():
        print("there is no GPU here; --cpu tiny runs the same commands in toy sizes", file=sys.stderr)
        return 3
    size, work = TINY if asked.cpu else GPU, asked.out.absolute()
    chosen = _chosen(cases(size), [word for word in asked.only.split(",") if word], parser)
    work.mkdir(parents=True, exist_ok=True)
    write_models(size, work / "models")
    failed, lines = 0, []
    with (work / "results.jsonl").open("a", encoding="utf-8") as results:
        for case in chosen:
            if asked.cpu and case.needs_gpu:
                continue
            line = measured(case, size, work)
            lines.append(line)
            failed += bool(line["status"])
            results.write(json.dumps(line) + "\n")
            results.flush()
            figures = {name: line[name] for name in ("s_step", "tokens_s", "peak_gib", "plan_gib") if line.get(name)}
            print(case.label, figures or line.get("output", ""), f"({line['seconds']} s)", flush=True)
    (work / "table.md").write_text(table(lines, asdict(size)), encoding="utf-8")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
