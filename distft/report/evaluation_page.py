"""What an evaluation found, as one page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from distft.common.errors import UserError
from distft.common.files import parse_json
from distft.config.yaml_file import dump_yaml
from distft.report.page import render
from distft.tracking.glossary import known
from distft.tracking.metrics import EVALUATION


def evaluation_page(folder: Path) -> bytes:
    """The page of the evaluation that is kept in the folder. Raises UserError where its figures are damaged."""
    try:
        content = parse_json((folder / EVALUATION).read_bytes())
        found, asked = content["found"], content["asked"]
        return render(
            "evaluation.html",
            title=folder.name,
            found=found,
            level=f"{found['level']:.0%}",
            names=_names,
            known=known,
            asked=dump_yaml(asked),
        )
    except (ValueError, TypeError, KeyError) as error:
        hint = "the command that made it makes it anew, once that file is gone"
        raise UserError(f"cannot be read: {error}", where=str(folder / EVALUATION), hint=hint) from error


def _names(models: Sequence[Mapping[str, Any]]) -> list[str]:
    """The metrics that any of the models has."""
    return list(dict.fromkeys(name for model in models for name in model["metrics"]))
