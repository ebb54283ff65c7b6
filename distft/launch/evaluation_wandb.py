"""An evaluation in W&B: a run of its own in the group of the run that made the first model."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from distft.config.recipe import Recipe
from distft.config.redact import redact
from distft.tracking.metrics import MetricRecord
from distft.tracking.wandb_backend import WandbBackend, wandb_options

log = logging.getLogger(__name__)


def tell_wandb_in_passing(folder: Path, recipe: Recipe, asked: Mapping[str, Any], figures: Mapping[str, Any]) -> None:
    """A row of ``eval/MODEL/METRIC``, as the recipe of the first model says it (``tracking.wandb``). What goes wrong
    here is logged and nothing else, as the figures are written."""
    try:
        _tell(folder, recipe, asked, figures)
    except Exception as error:
        log.warning("W&B was not told of the evaluation (%s)", error)
        log.info("why W&B was not told", exc_info=True)


def _tell(folder: Path, recipe: Recipe, asked: Mapping[str, Any], figures: Mapping[str, Any]) -> None:
    options = wandb_options(recipe)
    if options.mode == "disabled":
        return
    name = f"{options.group}-{folder.name}"
    options = replace(options, name=name, job_type="eval", config=redact({"asked": asked}), run_id=None)
    values = {
        f"{_short(model['name'])}/{metric}": found["value"]
        for model in figures["models"]
        for metric, found in model["metrics"].items()
        if found["value"] is not None
    }
    with closing(WandbBackend(folder, options)) as backend:
        backend.log(MetricRecord(0, "eval", values))


def _short(name: str) -> str:
    """Of a run its folder's name: a stage's is the stage's."""
    return Path(name.removeprefix("run:")).name if name.startswith("run:") else name
