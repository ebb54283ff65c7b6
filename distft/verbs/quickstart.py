"""``distft quickstart``."""

from __future__ import annotations

import argparse
from pathlib import Path

DESCRIPTION = "SFT, reward model, PPO and DPO on the embedded data, on this machine"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What may be typed after it."""
    parser.add_argument("--output", type=Path, default=Path("runs/quickstart"), help="folder of the four runs")
    parser.add_argument("--cluster", default="local", help="a shipped name or a YAML file (default: local)")


def run(arguments: argparse.Namespace) -> None:
    """Runs the four stages."""
    from distft.launch.quickstart import quickstart

    quickstart(arguments.output, arguments.cluster)
