"""``distft calibrate``."""

from __future__ import annotations

import argparse
import json

DESCRIPTION = "measure this machine, so that the plan's times go by it"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What may be typed after it."""
    parser.add_argument(
        "--cluster", default="local", help="whose node this is: a shipped name or a YAML file (default: local)"
    )
    parser.add_argument("--json", action="store_true", help="print the rates as JSON")


def run(arguments: argparse.Namespace) -> None:
    """Prints the rates and where they are kept."""
    from distft.calibration.calibrate import calibrate, told
    from distft.config.cluster import load_cluster

    rates, file = calibrate(load_cluster(arguments.cluster))
    if arguments.json:
        print(json.dumps(rates.as_json() | {"file": str(file)}))
    else:
        print(*told(rates), f"kept in {file}: `distft plan --cluster {arguments.cluster}` goes by them", sep="\n")
