"""``distft quickstart``."""

from __future__ import annotations

import argparse
from pathlib import Path

DESCRIPTION = "SFT, reward model, PPO and DPO on the embedded data, on this machine"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What may be typed after it."""
    parser.add_argument("--output", type=Path, default=Path("runs/quickstart"), help="folder of the four runs")
    parser.add_argument(
        "--cluster",
        default="local",
        help="a shipped name or a YAML file (default: local, with the GPUs that are there)",
    )


def run(arguments: argparse.Namespace) -> int:
    """Runs the shipped pipeline of this name."""
    from distft.config.overrides import Override
    from distft.config.pipeline import load_pipeline
    from distft.verbs.training_pipeline import train_pipeline

    pipeline = load_pipeline("quickstart", [Override.of(("output_dir",), str(arguments.output), "--output")])
    return train_pipeline(pipeline, arguments.cluster, option="--output ")
