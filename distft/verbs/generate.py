"""``distft generate``."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from distft.common.errors import UserError
from distft.verbs.speaking import add_speakers, given_plain, speakers_of

DESCRIPTION = "what models answer to prompts"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What may be typed after it."""
    add_speakers(parser)
    parser.add_argument("--prompt", action="append", metavar="TEXT", help="a prompt; may be repeated")
    parser.add_argument(
        "--prompts", metavar="PATH", help=".txt (a prompt a line), any data file or data set; else they are asked for"
    )
    parser.add_argument("--split", help="split of a data set (default: test)")
    parser.add_argument("--limit", type=int, metavar="N", help="so many prompts at most")
    parser.add_argument("--greedy", action="store_true", help="the likeliest token each time: nothing is drawn")
    parser.add_argument("--output", type=Path, metavar="FILE", help="write JSON lines into a new file")
    parser.add_argument("--json", action="store_true", help="print JSON lines")


def run(arguments: argparse.Namespace) -> None:
    """Answers every prompt by every model. Raises UserError."""
    if arguments.limit is not None and arguments.limit < 1:
        raise UserError("must be at least 1", where=f"--limit {arguments.limit}")
    if arguments.prompt and arguments.prompts:
        raise UserError("both --prompt and --prompts say what is asked", hint="leave one of them out")
    if not arguments.prompts and (arguments.split or arguments.limit):
        option = "--split" if arguments.split else "--limit"
        raise UserError("is for --prompts PATH", where=option, hint="leave it out, or give the path")
    with _json_lines(arguments) as file, speakers_of(arguments, plain=given_plain(arguments)) as (models, settings):
        from distft.verbs.answering import Answering

        answering = Answering(models, settings, arguments.seed, greedy=arguments.greedy, system=arguments.system)
        prompts = _prompts(arguments)
        if file is None:
            answering.show(prompts, alone=len(arguments.prompt or ()) == 1)
            return
        count = 0
        for record in answering.records(prompts):
            print(json.dumps(record, ensure_ascii=False), file=file, flush=True)
            count += 1
    if arguments.output is not None:
        print(f"{count} answers are in {arguments.output}")


def _prompts(arguments: argparse.Namespace) -> Iterator[tuple[object, str]]:
    """The prompts, and where each stands."""
    if arguments.prompts:
        from distft.data.prompts import read_prompts

        yield from read_prompts(arguments.prompts, split=arguments.split, limit=arguments.limit)
        return
    asked = False
    for number, text in enumerate(arguments.prompt or _typed(), 1):
        if text.strip():
            asked = True
            yield text, f"prompt {number}"
        elif arguments.prompt:
            raise UserError("a prompt is empty", where="--prompt", hint="what is to be answered?")
    if not asked:
        hint = "--prompt TEXT, --prompts FILE, or a prompt a line on standard input"
        raise UserError("nothing is asked", where="generate", hint=hint)


def _typed() -> Iterator[str]:
    """What is typed, a prompt a line, or comes through a pipe; until its end."""
    if sys.stdin.isatty():
        print("a prompt a line; Ctrl-D ends", file=sys.stderr)
    while True:
        try:
            yield input("> " if sys.stdin.isatty() else "")
        except EOFError:
            return


@contextmanager
def _json_lines(arguments: argparse.Namespace) -> Iterator[TextIO | None]:
    """Where JSON lines go; None where people read. Raises UserError for a file that is there or cannot be made."""
    path: Path | None = arguments.output
    if path is None:
        yield sys.stdout if arguments.json else None
        return
    try:
        file = path.open("x", encoding="utf-8")
    except FileExistsError as error:
        raise UserError("is there already", where=str(path), hint="name another file: none is overwritten") from error
    except OSError as error:
        raise UserError(f"cannot be written: {error.strerror}", where=str(path), hint="name another file") from error
    with file:
        yield file
