"""``distft completion``."""

from __future__ import annotations

import argparse

DESCRIPTION = 'for a shell, so that Tab completes what is typed: eval "$(distft completion bash)"'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What may be typed after it."""
    parser.add_argument("shell", choices=("bash", "zsh"), help="which shell reads it")


def run(arguments: argparse.Namespace) -> None:
    """Prints the script."""
    from distft.verbs.completion_script import script

    print(script(arguments.shell, arguments.parsers), end="")
