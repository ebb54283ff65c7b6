"""``distft chat``."""

from __future__ import annotations

import argparse
from pathlib import Path

from distft.verbs.speaking import add_speakers, given_plain, speakers_of

DESCRIPTION = "talk to models in the terminal"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What may be typed after it."""
    add_speakers(parser)
    parser.add_argument("--output", type=Path, metavar="FILE", help="add the conversations to a file, as `messages`")


def run(arguments: argparse.Namespace) -> None:
    """Talks until the input ends. Raises UserError."""
    with speakers_of(arguments, plain=given_plain(arguments)) as (models, settings):
        from distft.verbs.conversing import Conversing

        Conversing(models, settings, arguments.seed, arguments.system, arguments.output).run()
