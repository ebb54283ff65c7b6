"""``distft collect``."""

from __future__ import annotations

import argparse
import json
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from distft.common.errors import UserError, nearest
from distft.verbs.judge_options import add_judge, judge_of
from distft.verbs.speaking import MODELS, SAMPLING, add_asking

DESCRIPTION = "a page on which people label answers of models; what they said, as rows to train on"
TASKS = ("rank", "rate", "correct")
FOLDER = Path("labelling")
LABELS = "labels-judge.jsonl"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What may be typed after it."""
    parser.add_argument(
        "words", metavar="RECIPE_OR_MODEL... [key=value ...]", nargs="*",
        help=f"whose answers: a recipe (its run's, to its prompts of training), or {MODELS}; sampling: {SAMPLING} "
        "(4 answers to a prompt unless said)",
    )  # fmt: skip
    parser.set_defaults(overrides=[])
    add_asking(parser)
    parser.add_argument("--prompts", metavar="PATH", help="the prompts: .txt (one a line), any data file or data set")
    parser.add_argument("--split", help="split of a data set (default: train, as labels are trained on)")
    parser.add_argument("--limit", type=int, default=50, metavar="N", help="so many prompts at most (default: 50)")
    parser.add_argument(
        "--ask", default="rank", metavar="TASK,...", help=f"of labellers: {', '.join(TASKS)} (default: rank)"
    )
    add_judge(parser, f"labels the answers, too, into {LABELS}, by their pairs in both orders")
    parser.add_argument(
        "--read", nargs="+", metavar="FILE", help="read what labellers saved: their agreement; --output writes the rows"
    )
    parser.add_argument("--output", type=Path, metavar="FOLDER", help=f"written into this folder (default: {FOLDER})")
    parser.add_argument("--json", action="store_true", help="print what was found as JSON")


def run(arguments: argparse.Namespace) -> None:
    """Writes a labelling page, or reads what came of one. Raises UserError."""
    if arguments.read:
        if arguments.words:
            hint = "--read takes the labellers' files; the page is made without it"
            raise UserError("--read asks no model", where=" ".join(arguments.words), hint=hint)
        _read(arguments)
        return
    tasks = _tasks(arguments.ask)
    if arguments.limit < 1:
        raise UserError("must be at least 1", where=f"--limit {arguments.limit}")
    named = judge_of(arguments)
    from distft.verbs.collecting import collect, write_collection
    from distft.verbs.judge_labels import judged, require_judging, write_labels

    folder, made = arguments.output or FOLDER, None
    with _into(folder, ("label.html", "items.jsonl", *([LABELS] if named else []))):
        if named is not None:
            require_judging(named, tasks)
        found = collect(arguments, tasks)
        write_collection(found, folder)
        if named is not None:
            made = judged(named, found, trust_remote_code=arguments.trust_remote_code)
            write_labels(made, found, folder / LABELS)
    told: dict[str, object] = {
        "page": str(folder / "label.html"), "prompts": len(found.items), "left_out": found.num_left_out
    }  # fmt: skip
    if made is not None:
        told["judge"] = {
            "labels": str(folder / LABELS), "prompts": len(made.labels), "by_order": made.num_by_order,
            "unread": made.num_unread,
        }  # fmt: skip
    if arguments.json:
        print(json.dumps(told))
        return
    if found.num_left_out:
        print(f"{found.num_left_out} prompts are left out: there were no two different answers to tell apart")
    print(f"{len(found.items)} prompts are in {folder / 'label.html'}: open it in a browser, or mail it to who labels")
    if made is not None:
        print(
            f"the judge's labels of {len(made.labels)} prompts are in {folder / LABELS}; {made.num_by_order} pairs are "
            f"tied by their order alone; {made.num_unread} of its answers have no verdict, and their prompts no label"
        )
    labels = shlex.quote(str(folder / LABELS)) if made is not None else "labels-*.jsonl"
    print(f"then: distft collect --read {labels} --output {shlex.quote(str(folder))}")


def _read(arguments: argparse.Namespace) -> None:
    from distft.data.labelling import read_labels
    from distft.evaluation.consensus import agreement, consensus
    from distft.verbs.labels_table import as_json, lines, rows_by_file, write_rows

    labels = read_labels(arguments.read)
    agreed, rows = agreement(labels), consensus(labels)
    if arguments.output is not None:
        with _into(arguments.output, tuple(rows_by_file(rows))):
            write_rows(rows, arguments.output)
    if arguments.json:
        print(json.dumps(as_json(agreed, rows)))
    else:
        print("\n".join(lines(agreed, rows, arguments.output)))


def _tasks(said: str) -> tuple[str, ...]:
    names = [part.strip() for part in said.split(",")]
    if unknown := [name for name in names if name not in TASKS]:
        close = nearest(unknown[0], TASKS)
        hint = f"did you mean {close}? " if close else ""
        raise UserError(f"{unknown[0]!r} is nothing to ask", where=f"--ask {said}", hint=f"{hint}{', '.join(TASKS)}")
    return tuple(task for task in TASKS if task in names)


@contextmanager
def _into(folder: Path, names: tuple[str, ...]) -> Iterator[None]:
    """The folder is made before the work begins, and goes if that fails. UserError where one of the files is there, or
    it cannot be made."""
    for name in names:
        if (folder / name).exists():
            hint = "--output names another folder: no file is overwritten"
            raise UserError("is there already", where=str(folder / name), hint=hint)
    made = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        what = f"the folder cannot be made: {error.strerror}"
        raise UserError(what, where=str(folder), hint="--output names another") from error
    try:
        yield
    except BaseException:
        if made and not any(folder.iterdir()):
            folder.rmdir()
        raise
