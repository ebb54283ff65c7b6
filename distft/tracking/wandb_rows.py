"""What a run's ledgers hold for W&B."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from distft.common.files import whole_record
from distft.tracking.metrics import METRICS, MetricRecord, Sample, line_step, numbers_of
from distft.tracking.wandb_files import kept_samples


def rows_by_step(run_dir: Path, first: int, before: float) -> Iterator[MetricRecord | tuple[int, list[Sample]]]:
    """The rows from step ``first`` on and before another one in the order of their steps, of a step the samples last.
    Raises OSError."""
    rows: dict[int, list[Any]] = defaultdict(list)
    if (run_dir / METRICS).exists():
        with (run_dir / METRICS).open("rb") as file:
            for line in file:
                if (record := whole_record(line)) is not None and first <= line_step(record) < before:
                    rows[record["step"]].append(MetricRecord(record["step"], record["split"], numbers_of(record)))
    samples: dict[int, list[Sample]] = defaultdict(list)
    for step, prompt, completion, score in kept_samples(run_dir):
        if first <= step < before:
            samples[step].append(Sample(prompt, completion, score))
    for step in sorted(rows.keys() | samples.keys()):
        yield from rows[step]
        if samples[step]:
            yield step, samples[step]
