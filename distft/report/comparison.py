"""Several runs side by side: where their recipes differ, and where they ended."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from distft.config.yaml_file import leaves
from distft.evaluation.bootstrap import LEVEL, Estimate, estimate
from distft.evaluation.measures import mean
from distft.report.curves import Curve
from distft.report.run_data import RunData, read_run
from distft.tracking.glossary import KNOWN

FORMAT = 1
_LAST = 0.2  # the part of the training steps that a final value is the mean of
_OWN = ("name", "output_dir")  # differ by nature


@dataclass(frozen=True)
class Compared:
    """``differences``: of each dotted key of the recipes that is not the same everywhere, its value by run (None: the
    key is not there). ``held_out``: metrics after training on held-out rows. ``training``: the mean of each metric
    over the last fifth of the steps with the interval that these steps give. All by the runs' labels.
    """

    runs: Mapping[str, RunData]
    differences: Mapping[str, Mapping[str, Any]]
    held_out: Mapping[str, Mapping[str, tuple[float, float]]]
    training: Mapping[str, Mapping[str, Estimate]]

    def as_json(self) -> dict[str, Any]:
        """For scripts."""
        return {
            "format": FORMAT,
            "level": LEVEL,
            "runs": {
                label: {
                    "run_dir": str(run.run_dir), "state": run.status.state, "step": run.status.step,
                    "notes": list(run.notes),
                }
                for label, run in self.runs.items()
            },
            "recipe": {key: dict(values) for key, values in self.differences.items()},
            "held_out": {
                name: {label: {"before": first, "after": last} for label, (first, last) in values.items()}
                for name, values in self.held_out.items()
            },
            "training": {
                name: {label: asdict(found) for label, found in values.items()}
                for name, values in self.training.items()
            },
        }  # fmt: skip


def compare_runs(run_dirs: Sequence[Path]) -> Compared:
    """Raises UserError where one of the folders holds no run."""
    runs = dict(zip(_labels(run_dirs), (read_run(run_dir) for run_dir in run_dirs), strict=True))
    tables = {label: run.table for label, run in runs.items()}
    final = {label: dict(_final(run)) for label, run in runs.items()}
    known = [name for name in KNOWN if any(name in found for found in final.values())]
    return Compared(
        runs,
        dict(_differences({label: dict(leaves(run.recipe)) for label, run in runs.items()})),
        {name: _by_run(name, tables) for name in dict.fromkeys(name for table in tables.values() for name in table)},
        {name: _by_run(name, final) for name in known},
    )


def _labels(run_dirs: Sequence[Path]) -> list[str]:
    """The folders' names, with as much of what is above them as tells them apart; a number where nothing does."""
    parts = [run_dir.parts for run_dir in run_dirs]
    for count in range(1, max(map(len, parts)) + 1):
        labels = ["/".join(part[-count:]) for part in parts]
        if len(set(labels)) == len(labels):
            return labels
    return [f"{path} ({number})" for number, path in enumerate(map(str, run_dirs), 1)]


def _final(run: RunData) -> Iterator[tuple[str, Estimate]]:
    for name, curve in run.ledger.of("train").items():
        values = _last_values(curve)
        if len(values):
            yield name, estimate(mean(values))


def _last_values(curve: Curve) -> Any:
    """Of the last fifth of the steps, at least one; only numbers."""
    values = curve.y[-max(1, round(len(curve.y) * _LAST)) :]
    return values[np.isfinite(values)]


def _by_run(name: str, found: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    return {label: values[name] for label, values in found.items() if name in values}


def _differences(leaves: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
    for key in dict.fromkeys(key for found in leaves.values() for key in found):
        values = {label: found.get(key) for label, found in leaves.items()}
        if key not in _OWN and len({repr(value) for value in values.values()}) > 1:
            yield key, values
