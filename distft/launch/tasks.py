"""``distft eval --tasks``: the standard tasks of ``lm-eval``, asked of models by our generator."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from distft.common.errors import UserError
from distft.common.logging import stage
from distft.evaluation.bootstrap import Difference, Estimate, compare
from distft.evaluation.intervals import Z
from distft.evaluation.measures import Measure, mean
from distft.launch.evaluation_report import Against, Report
from distft.launch.named_models import NamedModel, Reading, find_model, require_speakers
from distft.launch.task_errors import in_our_words
from distft.launch.task_names import Tasks, are_written, require_tasks

_ROUNDING: Final = 1e-9
_NO_FILTER: Final = "none"


@dataclass(frozen=True)
class TaskEstimate(Estimate):
    """lm-eval's value and its own standard error; the interval is that of a normal distribution."""

    stderr: float

    @classmethod
    def of(cls, value: float, stderr: float) -> TaskEstimate:
        """NaN for a standard error that there is none of."""
        return cls(value, value - Z * stderr, value + Z * stderr, stderr)


@dataclass(frozen=True)
class _Answered:
    """What one model made of the tasks: figures by ``task/metric``, of the means what each question gave; ``asked`` and
    ``in_all``: questions."""

    name: str
    figures: Mapping[str, TaskEstimate]
    questions: Mapping[str, tuple[list[int], Measure]]
    asked: int
    in_all: int


def ask_tasks(names: Sequence[str], tasks: Tasks, reading: Reading) -> tuple[Report, NamedModel]:
    """The figures of each model, and the first model. Raises as ``require_tasks`` and ``in_our_words``; UserError: no
    language models."""
    manager = require_tasks(tasks)
    with tempfile.TemporaryDirectory(prefix="distft-models-") as folder:
        models = [find_model(name, Path(folder), adapter=reading.adapter) for name in names]
        require_speakers(models, "eval")
        answered = []
        for model in models:
            stage(f"ask {model.name}")
            answered.append(_answered(model, tasks, reading, manager))
    first = answered[0]
    notes = [note for model in models for note in model.notes]
    report = Report(
        unit="questions",
        num_rows=first.asked,
        num_rows_in_all=first.in_all,
        metrics=[(one.name, one.figures) for one in answered],
        by_source={},
        against=[Against(one.name, _differences(first, one), None) for one in answered[1:]],
        notes=notes,
        intervals="lm-eval's standard errors",
    )
    return report, models[0]


def _answered(model: NamedModel, tasks: Tasks, reading: Reading, manager: Any) -> _Answered:
    from lm_eval import simple_evaluate

    from distft.evaluation.harness_model import HarnessModel
    from distft.rollout.speaker import Speaker

    speaker = Speaker.load(model.name, model.section(reading), adapter=model.adapter)
    if speaker.module.model.config.is_encoder_decoder:
        hint = "name a decoder; distft eval --data judges encoder-decoders by rows"
        raise UserError("is an encoder-decoder: tasks are asked of decoders", where=f"eval {model.name}", hint=hint)
    if tasks.chat and not speaker.tokenizer.chat_template:
        hint = "--chat-template chatml, llama3 or a Jinja file; or leave --task-chat out"
        raise UserError("has no chat template", where=f"--task-chat {model.name}", hint=hint)
    seeds = {} if tasks.seed is None else {"fewshot_random_seed": tasks.seed}
    with in_our_words(tasks, written=are_written(tasks, manager)):
        found = simple_evaluate(
            HarnessModel(speaker, tasks.seed or 1), tasks=list(tasks.names), task_manager=manager,
            num_fewshot=tasks.shots, limit=tasks.limit, apply_chat_template=tasks.chat, **seeds,
        )  # fmt: skip
    assert found is not None  # this process is rank 0
    return _read(model.name, found)


def _read(name: str, found: Mapping[str, Any]) -> _Answered:
    """Its ``acc,none`` of ``arc_easy`` as ``arc_easy/acc``; a filter that a task names stays in the name."""
    figures: dict[str, TaskEstimate] = {}
    questions: dict[str, tuple[list[int], Measure]] = {}
    for task, metrics in {**found["results"], **found.get("groups", {})}.items():
        for key, value in metrics.items():
            metric, comma, chosen = key.partition(",")
            if not comma or metric.endswith("_stderr") or isinstance(value, str):
                continue
            shown = f"{task}/{metric}" + (f",{chosen}" if chosen != _NO_FILTER else "")
            error = metrics.get(f"{metric}_stderr,{chosen}")
            figures[shown] = TaskEstimate.of(float(value), float(error) if isinstance(error, int | float) else np.nan)
            rows = [one for one in found["samples"].get(task, ()) if one["filter"] == chosen and metric in one]
            rows.sort(key=lambda row: int(row["doc_id"]))
            values = [row[metric] for row in rows]
            if values and all(isinstance(one, int | float) for one in values):
                measure = mean(values)
                if abs(measure.total - float(value)) < _ROUNDING:  # else it is no mean of what the questions gave
                    questions[shown] = [int(row["doc_id"]) for row in rows], measure
    counts = found["n-samples"].values()
    return _Answered(
        name, figures, questions, sum(one["effective"] for one in counts), sum(one["original"] for one in counts)
    )


def _differences(first: _Answered, second: _Answered) -> dict[str, Difference]:
    """Of the means, question by question."""
    shared = [name for name in first.questions if name in second.questions]
    return {
        name: compare(first.questions[name][1], second.questions[name][1])
        for name in shared
        if first.questions[name][0] == second.questions[name][0]
    }
