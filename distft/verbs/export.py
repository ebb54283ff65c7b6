"""``distft export``."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Literal

from distft.common.errors import UserError
from distft.config.fewer_bits import SCHEMES
from distft.verbs.run_folders import run_folder

DESCRIPTION = "a plain Hugging Face folder from a run or a checkpoint, or from a model and adapters"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What may be typed after it."""
    parser.add_argument(
        "source", metavar="RUN_DIR_OR_CHECKPOINT", help="or an adapter, or with --adapter any model, as in distft chat"
    )
    parser.add_argument("target", metavar="OUT", type=Path)
    parser.add_argument(
        "--adapter", action="append", metavar="FOLDER[=WEIGHT]",
        help="add an adapter to the model, so many times (default: 1); may be repeated; -1 takes out a merged LoRA",
    )  # fmt: skip
    parser.add_argument(
        "--combine", choices=["sum", "ties"], help="sum: all that they add (default); ties: where their signs agree"
    )
    parser.add_argument(
        "--density", type=float, metavar="SHARE", help="of ties: the largest numbers kept (default: 0.2)"
    )
    parser.add_argument(
        "--quantize", choices=tuple(SCHEMES),
        help="linear layers in fewer bits, for vLLM (compressed-tensors, rounded to nearest): weights in 4 or 8 bits, "
        "or weights and what they are multiplied with in 8 (whole numbers or floats); what that costs is printed",
    )  # fmt: skip
    parser.add_argument(
        "--push", metavar="OWNER/NAME",
        help="also upload OUT to this repository of the Hugging Face hub, a new one for you alone where there is none",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print where it lies as JSON, and nothing else")


def run(arguments: argparse.Namespace) -> None:
    """Writes the folder, and uploads it where that is asked for."""
    if arguments.push is not None:
        from distft.launch.push import require_repository

        require_repository(arguments.push)
    folder, said = _export(arguments)
    if not arguments.json:
        print("\n".join([f"exported to {folder}", *([said] if said else [])]))
    pushed = None
    if arguments.push is not None:
        from distft.launch.push import push

        pushed = push(arguments.target, arguments.push)
        if not arguments.json:
            print(f"pushed to {pushed}")
    if arguments.json:
        print(json.dumps({"folder": str(folder.absolute()), "said": said, "pushed": pushed}))


def _export(arguments: argparse.Namespace) -> tuple[Path, str]:
    """The folder, and what was done to the weights; empty where nothing was."""
    from distft.planning.model_folders import is_adapter

    source = run_folder(arguments.source)
    if arguments.adapter or is_adapter(source):
        from distft.launch.combining import export_combined

        if arguments.quantize is not None:
            what = "is for runs and their checkpoints, on whose rows what it costs is measured"
            raise UserError(what, where=f"--quantize {arguments.quantize}", hint="leave it out, or export a run")
        how: Literal["sum", "ties"] = arguments.combine or "sum"
        density = _density(arguments.density, how)
        return export_combined(arguments.source, arguments.target, arguments.adapter or (), how, density), ""
    for option in ("combine", "density"):
        if getattr(arguments, option) is not None:
            raise UserError("is for --adapter FOLDER", where=f"--{option}", hint="leave it out, or name adapters")
    from distft.launch.export import export

    exported = export(source, arguments.target, arguments.quantize)
    return exported.folder, exported.said


def _density(given: float | None, how: str) -> float:
    if given is None:
        return 0.2
    where = f"--density {given:g}"
    if how == "sum":
        raise UserError("has no effect with --combine sum", where=where, hint="leave it out, or --combine ties")
    if not 0 < given <= 1:
        raise UserError("is more than 0 and at most 1", where=where, hint="0.2 keeps a fifth of each adapter's numbers")
    return given
