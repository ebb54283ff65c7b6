"""An evaluation with a folder of its own, which says what was asked, what was found and how it ended.

    evaluation.json                        what was asked, of what (models, rows, by their hashes), and the figures
    evaluation.txt report.html             the tables for people
    exit.json events.jsonl logs/           as of a run, so that status, logs and cancel know it

Asked again for the same of the same models and rows, it is not done again. No torch.
"""

from __future__ import annotations

import json
import logging
import os
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import FrameType
from typing import Any

from distft.checkpoint.lease import acquire
from distft.common.errors import DistftError, StoppedOnRequest, UserError
from distft.common.files import parse_json, write_atomic, write_json
from distft.common.logging import configure
from distft.config.eval_stage import EvalKeys
from distft.config.overrides import parse_override
from distft.config.recipe import Recipe
from distft.controller.stop_flag import StopFlag
from distft.launch.evaluated_files import models_of, states_of
from distft.launch.evaluation_wandb import tell_wandb_in_passing
from distft.launch.preflight.checks import check_output_dir
from distft.launch.run_folder import next_attempt
from distft.launch.stop_listener import stopped_by_request
from distft.launch.stop_signals import heard
from distft.report.run_page import report_in_passing
from distft.tracking.exit import Ending, clear_exit, read_exit, write_exit
from distft.tracking.metrics import EVALUATION, RECIPE, EventsLog

TABLES = "evaluation.txt"
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Kept:
    """``figures`` for scripts, ``tables`` for people; ``before``: they were there already; ``recipe``: of the run that
    made the first model, if one did and it was judged now."""

    figures: Mapping[str, Any]
    tables: str
    before: bool = False
    recipe: Recipe | None = field(default=None, repr=False)


def asked_of(names: Sequence[str], sampling: Sequence[str], options: Mapping[str, Any]) -> dict[str, Any]:
    """What a command line asks, as an eval stage's keys would say it (see ``EvalKeys.asked``). ``sampling``:
    ``key=value`` each."""
    drawn = [parse_override(text) for text in sampling]
    said = {key: value for key, value in options.items() if key in EvalKeys.model_fields}
    said |= {".".join(map(str, one.path)).removeprefix("rollout."): one.value for one in drawn}
    unsaid = [key for key, value in said.items() if value is None or value is False or value == []]  # 0 is said
    return {"eval": list(names), **{key: value for key, value in said.items() if key not in unsaid}}


def found_before(folder: Path, asked: Mapping[str, Any]) -> Kept | None:
    """What was found when the same was asked of the same models and rows; None where nothing was, or not to the end."""
    ended = read_exit(folder)
    try:
        content, tables = parse_json((folder / EVALUATION).read_bytes()), (folder / TABLES).read_text(encoding="utf-8")
    except (OSError, ValueError):
        return None
    if not isinstance(content, dict) or not ended or ended.get("exit_status") != 0:
        return None
    same = content.get("asked") == _plain(asked) and content.get("of") == states_of(asked)
    return Kept(content["found"], tables, before=True) if same else None


def kept_evaluation(folder: Path, asked: Mapping[str, Any], evaluate: Callable[[], Kept]) -> Kept:
    """What was found before, or what ``evaluate`` finds now, kept in the folder. SIGTERM, a closed terminal and
    ``distft cancel`` end it at once: there is no step to be finished, and the same command does it anew.

    Raises UserError where a run lies in the folder, or it cannot be written; StoppedOnRequest; what ``evaluate`` does.
    """
    if (folder / RECIPE).is_file():
        hint = "give another: --output FOLDER"
        raise UserError("a run lies in this folder", where=f"--output {folder}", hint=hint)
    check_output_dir(folder, what="the folder", where="--output", example="--output FOLDER")
    if (found := found_before(folder, asked)) is not None:
        return found
    of = states_of(asked)  # before it begins: what changes meanwhile is judged anew
    with _ended_by_signal(), acquire(folder) as lease:
        attempt = next_attempt(folder)
        clear_exit(folder)
        configure(folder / "logs" / "driver.log", attempt=attempt, terminal=True)
        with closing(EventsLog(folder, attempt)) as events:
            try:
                with stopped_by_request(folder, lease.token, _AtOnce()):
                    events.write("start", recipe=folder.name)
                    events.write("evaluate", models=models_of(asked))
                    found = evaluate()
                found = replace(found, figures=_plain(found.figures))
                content = {"format": 1, "asked": _plain(asked), "of": of, "found": found.figures}
                write_atomic(folder / TABLES, found.tables)
                write_json(folder / EVALUATION, content)
                events.write("done")
                write_exit(folder, Ending.of(None), attempt)
                report_in_passing(folder)
                if found.recipe is not None:
                    tell_wandb_in_passing(folder, found.recipe, asked, found.figures)
            except BaseException as error:
                ending = Ending.of(error)
                name = "failure" if ending.exit_status == 1 else "stop"
                events.write(name, cause=ending.cause, exit_status=ending.exit_status)
                write_exit(folder, ending, attempt)
                log.info("the evaluation has ended: %s", ending.kind, exc_info=True)
                if not isinstance(error, DistftError):
                    error.add_note(f"the traceback is in {folder / 'logs' / 'driver.log'}")
                raise
            finally:
                configure()
    return found


def _plain(content: Mapping[str, Any]) -> dict[str, Any]:
    """As it is read back; what is no number (a perplexity beyond all) is null, for JSON has none."""
    found: dict[str, Any] = json.loads(json.dumps(content), parse_constant=lambda _: None)
    return found


class _AtOnce(StopFlag):
    """There is no step after which an evaluation stops: who sets the flag ends it."""

    def set(self) -> None:
        if not self.is_set():
            super().set()
            os.kill(os.getpid(), signal.SIGTERM)


@contextmanager
def _ended_by_signal() -> Iterator[None]:
    """The first SIGTERM or SIGHUP is a StoppedOnRequest of the main thread, no further one is heard: how it ended is
    written then."""
    wanted = (signal.SIGTERM, signal.SIGHUP)

    def ended(_number: int, _frame: FrameType | None) -> None:
        for number in wanted:
            signal.signal(number, signal.SIG_IGN)
        raise StoppedOnRequest("stopped before it was done: the same command does it anew")

    with heard(dict.fromkeys(wanted, ended)):
        yield
