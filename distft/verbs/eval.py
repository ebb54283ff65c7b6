"""``distft eval``."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from distft.common.errors import UserError
from distft.verbs.judge_options import add_judge, judge_of, require_what_they_need
from distft.verbs.option_words import in_options
from distft.verbs.speaking import SAMPLING, add_reading, reading_of, recipe_and_models
from distft.verbs.warnings import warn

if TYPE_CHECKING:
    from distft.config.recipe import Recipe
    from distft.launch.judging import Judging
    from distft.launch.kept_evaluation import Kept
    from distft.launch.toxicity import ToxicityNamed

DESCRIPTION = "metrics of models on held-out rows, with intervals"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What may be typed after it."""
    parser.add_argument(
        "words", metavar="RECIPE_OR_MODEL... [key=value ...]", nargs="+",
        help="a recipe (its run's result on its test rows), or a folder, hub name, run:<output_dir>, checkpoint or "
        f"adapter; several are compared with the first; keys: {SAMPLING}, and those of the recipe",
    )  # fmt: skip
    parser.set_defaults(overrides=[])
    add_reading(parser)
    parser.add_argument("--data", action="append", metavar="PATH", help="judge by these rows; may be repeated")
    parser.add_argument("--split", help="of a recipe test, eval or train (default: test, else eval); of data its own")
    parser.add_argument("--rows", choices=["pairs", "answers", "prompts"], help="what a row is read as")
    parser.add_argument("--limit", type=int, metavar="N", help="so many rows at most (default: the recipe's, else 256)")
    parser.add_argument(
        "--max-length", type=int, metavar="N",
        help="longest row, tokens (default: the recipe's, else 2048); of an encoder-decoder prompt and answer each",
    )  # fmt: skip
    parser.add_argument("--reference", metavar="MODEL", help="for DPO's margins of pairs (default: the recipe's)")
    parser.add_argument(
        "--reward", metavar="MODEL", help="a reward model that scores the answers (default: the recipe's)"
    )
    parser.add_argument(
        "--toxicity", metavar="MODEL", help="a classifier that reads each answer alone: mean probability of its label, "
        "share above 0.5",
    )  # fmt: skip
    parser.add_argument("--toxic-label", metavar="NAME", help="that label of it (default: toxic)")
    add_judge(parser, "says which of two models' answers is better")
    parser.add_argument(
        "--correct", metavar="HOW",
        help="which answers are right: exact, number (the last one), or module:function; samples_per_prompt=8 gives "
        "pass@k, mean@8 and majority@k (default: exact)",
    )  # fmt: skip
    parser.add_argument(
        "--shots", metavar="N,...", help="also the untouched model behind so many answered rows of training: 0,1,4"
    )
    parser.add_argument("--shots-from", action="append", metavar="PATH", help="rows that exemplars are taken from")
    parser.add_argument(
        "--tasks", action="extend", nargs="+", metavar="NAME", help="instead of rows: standard tasks, by lm-eval's "
        "names (pip install 'distft[lm-eval]'); --limit is of each",
    )  # fmt: skip
    parser.add_argument(
        "--tasks-from", action="append", metavar="FOLDER", help="with further tasks as YAML files; may be repeated"
    )
    parser.add_argument(
        "--task-shots", type=int, metavar="N", help="exemplars before each question (default: as each task says)"
    )
    parser.add_argument(
        "--task-chat", action="store_const", const=True, help="questions are turns of the chat template"
    )
    parser.add_argument("--no-answers", action="store_true", help="let no model write answers: likelihoods only")
    parser.add_argument("--seed", type=int, help="of the rows and the draws (default: the recipe's, else 1)")
    parser.add_argument(
        "--output", metavar="FOLDER", type=Path, help="keep the figures there; asked again for the same, they are shown"
    )
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")


def run(arguments: argparse.Namespace) -> None:
    """Prints the figures. Raises UserError."""
    found = figures(arguments)
    warn(found.figures["notes"])
    print(json.dumps(found.figures) if arguments.json else found.tables)


def figures(arguments: argparse.Namespace) -> Kept:
    """The figures, kept where that is asked for. Raises UserError."""
    from distft.config.eval_stage import option_of

    for key in ("limit", "max_length"):
        if (value := getattr(arguments, key)) is not None and value < 2:
            raise UserError("must be at least 2", where=f"{option_of(key)} {value}")
    require_what_they_need(arguments)
    recipe, names, sampling = recipe_and_models(arguments)
    if arguments.tasks is not None:
        return _of_tasks(arguments, recipe, names, sampling)
    from distft.launch.correctness import Criterion
    from distft.launch.judged_rows import Wanted
    from distft.launch.judging import Judging
    from distft.launch.kept_evaluation import asked_of, kept_evaluation
    from distft.launch.run_folder import fingerprint

    wanted = Wanted(
        recipe, tuple(arguments.data or ()), arguments.split, arguments.rows, arguments.limit, arguments.max_length,
        arguments.seed,
    )  # fmt: skip
    judging = Judging(
        wanted, reading_of(arguments), tuple(sampling), not arguments.no_answers, arguments.reference, arguments.reward,
        None if arguments.correct is None else Criterion(arguments.correct), _shots(arguments),
        tuple(arguments.shots_from or ()), judge_of(arguments), _toxicity(arguments),
    )  # fmt: skip
    with in_options(recipe=recipe is not None):
        if arguments.output is None:
            return _evaluated(names, judging)
        asked = asked_of(names, sampling, {**vars(arguments), "shots": list(judging.shots)})
        asked |= {} if recipe is None else {"recipe": fingerprint(recipe)}
        return kept_evaluation(arguments.output, asked, lambda: _evaluated(names, judging))


def _of_tasks(
    arguments: argparse.Namespace, recipe: Recipe | None, names: Sequence[str], sampling: Sequence[str]
) -> Kept:
    """Of lm-eval's questions, in place of rows. Raises UserError for options that are about those."""
    from distft.config.eval_stage import OF_ROWS, option_of
    from distft.launch.kept_evaluation import Kept, asked_of, kept_evaluation
    from distft.launch.task_names import Tasks
    from distft.launch.tasks import ask_tasks
    from distft.verbs.eval_table import tables

    said = [option_of(key) for key in OF_ROWS if getattr(arguments, key) not in (None, False)]
    if stray := [*said, *sampling]:
        raise UserError("has no effect beside --tasks, which have questions of their own", where=stray[0],
                        hint="leave it out")  # fmt: skip
    if arguments.task_shots is not None and arguments.task_shots < 0:
        raise UserError("must be at least 0", where=f"--task-shots {arguments.task_shots}")
    tasks = Tasks(
        tuple(arguments.tasks), tuple(arguments.tasks_from or ()), arguments.task_shots, bool(arguments.task_chat),
        arguments.limit, arguments.seed,
    )  # fmt: skip

    def evaluated() -> Kept:
        report, first = ask_tasks(names, tasks, reading_of(arguments))
        return Kept(report.as_json(), "\n".join(tables(report)), recipe=first.recipe)

    with in_options(recipe=recipe is not None):
        if arguments.output is None:
            return evaluated()
        return kept_evaluation(arguments.output, asked_of(names, sampling, vars(arguments)), evaluated)


def _evaluated(names: Sequence[str], judging: Judging) -> Kept:
    from distft.launch.evaluate import evaluate
    from distft.launch.evaluation_report import report
    from distft.launch.kept_evaluation import Kept
    from distft.verbs.eval_table import tables

    judged = evaluate(names, judging)
    found = report(judged)
    return Kept(found.as_json(), "\n".join(tables(found)), recipe=judged[0].recipe)


def _toxicity(arguments: argparse.Namespace) -> ToxicityNamed | None:
    from distft.launch.toxicity import ToxicityNamed

    if arguments.toxicity is None:
        return None
    return ToxicityNamed(arguments.toxicity, arguments.toxic_label or ToxicityNamed.label)


def _shots(arguments: argparse.Namespace) -> tuple[int, ...]:
    """``0,1,4``. Raises UserError for anything else."""
    if arguments.shots is None:
        return ()
    parts = [part.strip() for part in arguments.shots.split(",")]
    if not all(part.isdecimal() for part in parts):
        raise UserError("are whole numbers", where=f"--shots {arguments.shots}", hint="for example --shots 0,1,4")
    return tuple(sorted({int(part) for part in parts}))
