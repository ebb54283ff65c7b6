"""What a run folder holds, for a report: whatever of it is there. What is missing or torn is said, never an error."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from distft.common.files import parse_json
from distft.planning.plan import Plan
from distft.report.curves import Ledger, read_ledger
from distft.tracking.environment import ENVIRONMENT
from distft.tracking.metrics import BEFORE_AFTER, EVENTS, FORMAT, METRICS, PLAN, RECIPE, SAMPLES
from distft.tracking.run_status import RunStatus, run_status

_MAX_BYTES = 64 * 1024 * 1024  # of a file other than the metrics; a larger one is read to there
_GOING_ON = ("waiting", "starting", "running", "stopping")


@dataclass(frozen=True)
class RunData:
    """``notes``: what the folder lacks and what that means, in sentences."""

    run_dir: Path
    status: RunStatus
    ledger: Ledger
    recipe: Mapping[str, Any] = field(default_factory=dict)
    recipe_text: str = ""
    plan: Plan | None = None
    environment: Mapping[str, Any] = field(default_factory=dict)
    events: Sequence[Mapping[str, Any]] = ()
    samples: Sequence[Mapping[str, Any]] = ()
    before_after: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The recipe's, else the folder's."""
        return str(self.recipe.get("name") or self.status.name)

    @property
    def kind(self) -> str:
        """The algorithm's; empty where no recipe says it."""
        return str(part(self.recipe, "algorithm").get("kind") or "")

    @property
    def table(self) -> dict[str, tuple[float, float]]:
        """Held-out metrics before and after."""
        found = {}
        for name, values in part(self.before_after, "metrics").items():
            pair = (values.get("before"), values.get("after")) if isinstance(values, dict) else (None, None)
            if all(isinstance(value, int | float) for value in pair):
                found[str(name)] = (float(pair[0] or 0), float(pair[1] or 0))
        return found

    def event(self, name: str) -> Mapping[str, Any]:
        """The last event of a name; empty without one."""
        return next((one for one in reversed(self.events) if one.get("event") == name), {})


def read_run(run_dir: Path, max_lines: int | None = None) -> RunData:
    """``max_lines``: see ``read_ledger``. Raises UserError where no run lies in the folder."""
    status = run_status(run_dir)
    ledger = read_ledger(run_dir / METRICS, FORMAT, max_lines)
    events, torn_events = _lines(run_dir / EVENTS)
    samples, torn_samples = _lines(run_dir / SAMPLES)
    text, plan_text = _text(run_dir / RECIPE), _text(run_dir / PLAN)
    recipe, plan = _yaml(text), _plan(plan_text)
    table = _json(_text(run_dir / BEFORE_AFTER))
    notes = [
        _state(status),
        "" if recipe else f"{RECIPE} is {_lacking(text)}: what was trained on what is not known.",
        "" if plan else f"{PLAN} is {_lacking(plan_text)}: memory cannot be held against it.",
        "" if ledger.curves else f"{METRICS} holds no step: there are no curves.",
        _cut(ledger, torn_events + torn_samples),
        f"{METRICS} was written by a newer distft: what is not known here is left out." if ledger.newer else "",
        _no_table(status, table),
    ]
    return RunData(
        run_dir, status, ledger, recipe, text, plan, _json(_text(run_dir / ENVIRONMENT)), events, samples, table,
        tuple(note for note in notes if note),
    )  # fmt: skip


def part(tree: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """A section of a recipe or file; empty where it is none."""
    found = tree.get(name)
    return found if isinstance(found, dict) else {}


def _state(status: RunStatus) -> str:
    if status.state in _GOING_ON:
        return f"The run is not over ({status.state}): this is how it stood when the report was written."
    if status.state == "lost":
        return "The run ended without a word (killed?): this is what it had written by then."
    if status.state in ("failed", "stopped"):
        of = f" of {status.total_steps:,}" if status.total_steps else ""
        saved = status.checkpoint
        on = f" The same command goes on from the checkpoint of step {saved.step:,}." if saved else ""
        return f"The run did not finish: it {status.state} after step {status.step:,}{of}.{on}"
    return ""


def _no_table(status: RunStatus, table: Mapping[str, Any]) -> str:
    if part(table, "metrics"):
        return ""
    if status.state == "done":
        return "The run had no held-out rows, so nothing says whether it became better: give data.test or data.holdout."
    return "" if table else "Held-out rows have not been judged after training: a run does that at its end."


def _cut(ledger: Ledger, torn: int) -> str:
    said = []
    if torn + ledger.num_torn:
        lost = torn + ledger.num_torn
        lines = "1 line" if lost == 1 else f"{lost:,} lines"
        said.append(f"Left out, as it could not be read (torn by a crash?): {lines}.")
    if ledger.stride > 1:
        said.append(
            f"Of the training steps one in {ledger.stride} is shown, as the report was written in passing: "
            "distft report reads all of them."
        )
    return " ".join(said)


def _lacking(text: str) -> str:
    return "of another version, or damaged" if text else "missing"


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(_MAX_BYTES).decode("utf-8", "replace")
    except OSError:
        return ""


def _yaml(text: str) -> dict[str, Any]:
    try:
        found = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _json(text: str) -> dict[str, Any]:
    try:
        found = parse_json(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _plan(text: str) -> Plan | None:
    try:
        return Plan.model_validate_json(text)
    except ValidationError:
        return None


def _lines(path: Path) -> tuple[list[dict[str, Any]], int]:
    """The objects of a JSON-lines file, and how many lines are none."""
    lines = [line for line in _text(path).split("\n") if line.strip()]
    found = [record for line in lines if (record := _json(line))]
    return found, len(lines) - len(found)
