"""``distft bisect``."""

from __future__ import annotations

import argparse
import json
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from distft.common.errors import UserError
from distft.verbs.run_folders import run_folder
from distft.verbs.tolerance import require_share

if TYPE_CHECKING:
    from distft.report.bisect import Bisected, Flight, Found

DESCRIPTION = "where two runs of one recipe part: step, role, rank and tensor; exit status 1 where they do"
_DIFFER = 1
_MOST_NAMED = 8  # samples, or tensors of a stage
# What a first difference of that kind means.
_MEANING = {
    "weights before": "the runs began, or were resumed, with different weights",
    "inputs": "all that is recorded before it is equal: look at what makes this column",
    "outputs": "inputs and weights are equal: look at the forward pass, or what it ran on",
    "loss": "what the model says is equal: look at the loss",
    "gradients": "the losses are equal: look at the backward pass and at how ranks add up",
    "weights": "the gradients are equal: look at the optimizer and at its states",
    "optimizer steps": "all steps that both took are equal: look at what ends an update early",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What may be typed after it."""
    parser.add_argument("run_dirs", metavar="RUN_DIR", type=run_folder, nargs=2, help="both recorded (flight.jsonl)")
    parser.add_argument(
        "--tolerance", metavar="SHARE", type=float,
        help="how far apart may be what is no whole number; without it that must be bit-equal on the same layout, and "
        "within rounding (float32 1e-4, 16 bits 2e-2) on another one",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print it as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Prints it. Raises UserError for runs that cannot be compared."""
    from distft.launch.run_folder import require_one_recipe
    from distft.report.bisect import bisect

    tolerance = arguments.tolerance
    require_share(tolerance)
    one, other = (run_dir.absolute() for run_dir in arguments.run_dirs)
    if one == other:
        raise UserError("a run does not differ from itself", where=str(one), hint="give two run folders")
    flights = [_flight(one), _flight(other)]
    require_one_recipe(one, other)
    if not flights[0].keys() & flights[1].keys():
        steps = " and ".join(f"{min(flight)} to {max(flight)}" for flight in flights)
        raise UserError(f"no step is recorded in both: {steps}", where=str(other), hint="let one of them go on")
    found = bisect(flights[0], flights[1], tolerance)
    print(json.dumps(found.as_json()) if arguments.json else "\n".join(_told(found, other)))
    return _DIFFER if found.found else 0


def _flight(run_dir: Path) -> Flight:
    """What a run has recorded; something."""
    from distft.tracking.flight import FLIGHT, read_flight
    from distft.tracking.run_status import require_run

    if not (run_dir / FLIGHT).is_file():
        require_run(run_dir)
        hint = "a run records its steps with tracking.flight_recorder=true: start both again with it"
        raise UserError(f"the run has recorded no step ({FLIGHT})", where=str(run_dir), hint=hint)
    flight = read_flight(run_dir)
    if not flight:
        raise UserError(f"no step is whole in {FLIGHT}", where=str(run_dir), hint="wait until the run has taken one")
    return flight


def _told(found: Bisected, other: Path) -> Iterator[str]:
    """The lines for people. ``other``: where the second run lies."""
    for role, layout in found.layouts.items():
        yield f"{role}: {layout}"
    for role, share in found.tolerances.items():
        summed = " over all ranks" if role in found.layouts else ""
        yield f"{role}: tokens, masks and labels are compared bit for bit, all else{summed} to a share of {share:g}"
    if any(found.alone):
        alone = f"{found.alone[0]} only in the first, {found.alone[1]} only in the second"
        yield f"steps recorded in both: {len(found.steps)}; {alone}"
    equal = "equal within that" if found.tolerances else "bit-equal"
    if not found.found:
        yield f"{equal} until step {found.equal_until}, the last that both have recorded"
        return
    yield f"{equal} until step {found.equal_until}" if found.equal_until else "different from the first step on"
    first = found.found[0]
    yield f"step {first.step}: {_said(first)}"
    yield f"  {_MEANING[first.what.stage]}"
    behind: dict[str, dict[str, None]] = {}
    for one in found.found[1:]:
        behind.setdefault(f"{one.role}'s {one.what.stage}", {})[one.what.tensor] = None
    for what, tensors in behind.items():
        yield f"  differs, too: {what}: {_listed(list(tensors))}"
    yield f"  once more: distft replay {shlex.quote(str(other))} {first.step}"


def _said(one: Found) -> str:
    """What differs, and where."""
    what = one.what
    words = [one.role]
    if one.num_updates > 1:
        words.append(f"optimizer step {one.update} of {one.num_updates}")
    if what.ranks:
        words.append(f"rank{'s' if len(what.ranks) > 1 else ''} {_listed(what.ranks)}")
    tensor = what.tensor if what.tensor == what.stage else f"{what.stage}: {what.tensor}"
    samples = f", sample{'s' if len(what.samples) > 1 else ''} {_listed(what.samples)}" if what.samples else ""
    apart = f", {what.apart:.2g} apart as a share" if what.apart is not None else ""
    return f"{', '.join(words)}: {tensor}{samples}{apart}"


def _listed(items: Sequence[object]) -> str:
    more = f" and {len(items) - _MOST_NAMED} more" if len(items) > _MOST_NAMED else ""
    return ", ".join(map(str, items[:_MOST_NAMED])) + more
