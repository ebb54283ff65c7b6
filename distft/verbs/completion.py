"""``distft completion``."""

from __future__ import annotations

import argparse

DESCRIPTION = 'completion of verbs, options, recipes and their keys in a shell: eval "$(distft completion bash)"'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What may be typed after it."""
    parser.add_argument("shell", choices=("bash", "zsh"), help="which shell reads it")


def run(arguments: argparse.Namespace) -> None:
    """Prints the script."""
    from distft.arguments import parsers
    from distft.verbs.completion_script import script

    print(script(arguments.shell, parsers()[1]), end="")
