"""What the verbs do with a pipeline's eval stage: what ``distft eval`` does, kept in the stage's folder."""

from __future__ import annotations

import argparse
import shlex
from typing import TYPE_CHECKING

from distft.verbs import eval
from distft.verbs.warnings import warn

if TYPE_CHECKING:
    from distft.config.pipeline import EvalStage, Pipeline
    from distft.launch.kept_evaluation import Kept


def eval_words(pipeline: Pipeline, stage: EvalStage) -> list[str]:
    """What is typed behind ``distft`` to do it alone."""
    return ["eval", *stage.keys.words(), f"--output={pipeline.folder(stage)}"]


def do_eval_stage(pipeline: Pipeline, stage: EvalStage, *, quiet: bool) -> Kept:
    """The figures, and unless ``quiet`` the command that finds them alone; what there is to
    know of them goes to standard error. Raises as ``distft eval`` does."""
    words = eval_words(pipeline, stage)
    if not quiet:
        print(f"--- {stage.name}: distft {shlex.join(words)}", flush=True)
    parser = argparse.ArgumentParser(prog="distft eval")
    eval.add_arguments(parser)
    arguments = parser.parse_args(words[1:])
    arguments.verb = "eval"
    found = eval.figures(arguments)
    if not found.before:
        from distft.engine.process_group import release_accelerator

        release_accelerator()  # the ranks of stages that follow may sit there
    warn(found.figures["notes"])
    if not quiet:
        print(f"{stage.name}: already done\n{found.tables}" if found.before else found.tables, flush=True)
    return found
