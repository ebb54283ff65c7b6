"""What the processes of a layout are asked to do, and what they leave behind."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch
from safetensors.torch import load_file

from distft.tracking.glossary import is_measured

Broken: TypeAlias = Literal["", "stale generator", "stale layer", "other reference weights", "wrong mask"]


@dataclass(frozen=True)
class TrainJob:
    """A whole run of a recipe file in ``folder``; ``broken`` is what is wrong with it.

    ``other_weights``: the folder that a broken reference loads in place of its own.
    """

    name: str
    recipe: str
    folder: str
    other_weights: str = ""
    broken: Broken = ""


@dataclass(frozen=True)
class LossesJob:
    """One update of every loss in ``cases`` (name and parameters) on every split, from the same starts; ``shared_by``
    ranks compute the same rows."""

    causal: str
    scalar: str
    result: str
    cases: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    plain: bool = False  # beside the sharded engine, plain torch one unit at a time
    shared_by: int = 1


Job = TrainJob | LossesJob


def write_jobs(jobs: Sequence[Job], path: Path) -> None:
    """For ``read_jobs`` in another process."""
    path.write_text(json.dumps([{"kind": type(job).__name__, **asdict(job)} for job in jobs]))


def read_jobs(path: Path) -> list[Job]:
    """What ``write_jobs`` wrote."""
    kinds = {"TrainJob": TrainJob, "LossesJob": LossesJob}
    return [kinds[job.pop("kind")](**job) for job in json.loads(path.read_text())]


@dataclass(frozen=True)
class Outcome:
    """What a run left in its folder."""

    folder: Path

    @cached_property
    def metrics(self) -> list[dict[str, float]]:
        """The training metrics of each step that any layout must agree on."""
        return self._lines("train")

    @cached_property
    def held_out(self) -> list[dict[str, float]]:
        """The metrics of each evaluation."""
        return self._lines("eval")

    def _lines(self, split: str) -> list[dict[str, float]]:
        lines = [json.loads(line) for line in (self.folder / "metrics.jsonl").read_text().splitlines()]
        return [
            {name: value for name, value in line.items() if _is_common(name, value)}
            for line in lines
            if line.get("split", "train") == split
        ]

    @cached_property
    def held(self) -> dict[str, list[dict[str, int]]]:
        """By role and rank: what ``held`` reports."""
        return dict(json.loads((self.folder / "held.json").read_text()))

    @cached_property
    def rollouts(self) -> list[list[list[int]]]:
        """The response tokens of each iteration and sample."""
        return list(json.loads((self.folder / "rollouts.json").read_text()))

    def weights(self, role: str) -> Mapping[str, torch.Tensor]:
        """The trained weights of a role."""
        return load_file(self.folder / "weights" / role / "model.safetensors")

    @property
    def error(self) -> str:
        """Type and message of what ended the run early, or nothing."""
        path = self.folder / "error.txt"
        return path.read_text() if path.is_file() else ""


def _is_common(name: str, value: Any) -> bool:
    return isinstance(value, (int, float)) and name not in ("step", "time") and not is_measured(name)
