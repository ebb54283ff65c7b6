"""Figures of a run: what its process says of the device, what its ledgers say, what the driver sees meanwhile."""

from __future__ import annotations

import json
import statistics
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

GIB = 2**30
# Steps that are not counted: what is compiled, cached and allocated for the first time.
WARM_UP = 2


def device() -> torch.device:
    """The GPU, if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def synchronize() -> None:
    """Until the device has done what it was told."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def peaks() -> dict[str, float]:
    """GiB that tensors took at most; nothing on a CPU."""
    return {"allocated_gib": torch.cuda.max_memory_allocated() / GIB} if torch.cuda.is_available() else {}


@dataclass
class Watched:
    """How a command ended, its output, and the most memory of the device that was in use meanwhile, beyond what was in
    use before (NVML).
    """

    status: int
    output: str
    peak_gib: float | None
    seconds: float = field(default=0.0)


def watched(command: Sequence[str], *, environment: dict[str, str], limit_s: float) -> Watched:
    """Runs a command to its end, or kills it after ``limit_s``."""
    used, started = _memory_in_use(), time.monotonic()
    most, before = (used(), used()) if used else (0, 0)
    child = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    output: list[str] = []
    reader = threading.Thread(target=lambda: output.extend(child.stdout or ()), daemon=True)
    reader.start()
    while child.poll() is None:
        most = max(most, used()) if used else 0
        if time.monotonic() - started > limit_s:
            child.kill()
        time.sleep(0.05)
    reader.join(timeout=10)
    peak = (most - before) / GIB if used else None
    return Watched(child.returncode, "".join(output), peak, time.monotonic() - started)


def of_loop(output: str) -> dict[str, Any]:
    """What a loop of TRL's or ours has printed last."""
    told = json.loads(next(line for line in reversed(output.splitlines()) if line.startswith('{"seconds"')))
    seconds = statistics.median(told["seconds"][WARM_UP:] or told["seconds"])
    found = {"s_step": seconds, "tokens_s": told["tokens"] / seconds}
    return found | {name: told[name] for name in ("allocated_gib",) if name in told}


def of_run(run_dir: Path) -> dict[str, Any]:
    """Medians of a distft run's steps, and its plan's figures beside them."""
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    steps = [line for line in lines if line["split"] == "train"]
    counted = steps[WARM_UP:] or steps[-1:]
    names = {name for line in counted for name in line if name.startswith(("timing/", "perf/", "memory/", "rollout/"))}
    found: dict[str, Any] = {
        name: statistics.median(line[name] for line in counted if line.get(name) is not None) for name in sorted(names)
    }
    found |= {"s_step": found["timing/step"], "tokens_s": found["perf/tokens_per_second"]}
    plan = json.loads((run_dir / "plan.json").read_text(encoding="utf-8"))
    for load in plan["loads"]:
        if load["kind"] == "gpu":
            found["plan_gib"] = load["bytes"] / GIB
    if plan["estimate"]:
        found["plan_s_step"] = plan["estimate"]["seconds"]
    found["notes"] = plan["notes"]
    return found


def _memory_in_use() -> Callable[[], int] | None:
    """Asks the driver; None without one."""
    import pynvml

    try:
        pynvml.nvmlInit()
        gpu = pynvml.nvmlDeviceGetHandleByIndex(0)
    except pynvml.NVMLError:
        return None
    return lambda: int(pynvml.nvmlDeviceGetMemoryInfo(gpu).used)
