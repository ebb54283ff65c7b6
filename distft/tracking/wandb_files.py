"""What the files below ``RUN/wandb`` hold of a W&B run, read by W&B's own reader (``wandb leet inspect``)."""

from __future__ import annotations

import contextlib
import math
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from distft.common.files import parse_json
from distft.tracking.metrics import SAMPLES

_PATIENCE_S = 600.0


def run_files(run_dir: Path, run_id: str | None = None) -> list[Path]:
    """The records of all starts of a run, or of that of an id, oldest first: each start has a folder of its own."""
    pattern = f"*run-*-{run_id or '*'}/run-{run_id or '*'}.wandb"
    return sorted((run_dir / "wandb").glob(pattern), key=lambda path: path.parent.name.split("run-", 1)[1])


def records(path: Path) -> Iterator[dict[str, Any]]:
    """The records of a file, as far as it was written. Raises OSError where the reader cannot be started,
    subprocess.SubprocessError where it does not end."""
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(path)]
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_PATIENCE_S, check=False
    )
    for line in done.stdout.splitlines():
        try:
            found = parse_json(line)
        except ValueError:
            continue
        if isinstance(found, dict):
            yield found


def logged(files: Sequence[Path]) -> dict[str, int]:
    """The last step of which a run's files have a row, by the first part of its names: ``train``, ``eval``,
    ``completions``. Raises what ``records`` does."""
    last: dict[str, int] = {}
    for path in files:
        for record in records(path):
            if record.get("type") != "history":
                continue
            row = record.get("history", {}).get("item", {})
            for kind in {name.partition("/")[0].partition(".")[0] for name in row if not name.startswith("_")}:
                last[kind] = max(last.get(kind, -1), int(row.get("step", -1)))
    return last


def first_step(path: Path) -> float:
    """Of a file's rows; infinity where it has none. Raises what ``records`` does."""
    rows = (record["history"]["item"] for record in records(path) if record.get("type") == "history")
    return min((float(row["step"]) for row in rows if "step" in row), default=math.inf)


def kept_samples(run_dir: Path, last_step: float = math.inf) -> list[tuple[Any, ...]]:
    """Step, prompt, completion and score of the samples up to a step, each once: a step that was done twice has the
    same ones twice. What is no sample is left out."""
    path = run_dir / SAMPLES
    if last_step < 0 or not path.is_file():
        return []
    rows: dict[tuple[Any, ...], None] = {}
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        with contextlib.suppress(ValueError, TypeError, KeyError):
            one = parse_json(line)
            if one["step"] <= last_step:
                rows[one["step"], one["prompt"], one["completion"], one.get("score")] = None
    return list(rows)
