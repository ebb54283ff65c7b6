"""``distft replay``."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from distft.verbs.run_folders import run_folder
from distft.verbs.tolerance import require_share
from distft.verbs.warnings import warn

if TYPE_CHECKING:
    from distft.launch.replayed import Replayed

DESCRIPTION = "a recorded step of a run again, its metrics beside the logged ones"
_DIFFERS = 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What may be typed after it."""
    parser.add_argument("run_dir", metavar="RUN_DIR", type=run_folder)
    parser.add_argument("step", metavar="STEP", type=int)
    parser.add_argument(
        "overrides", nargs="*", default=[], metavar="key.path=value",
        help="another layout, e.g. placement.policy.ranks=1",
    )  # fmt: skip
    parser.add_argument("--cluster", default="local", help="a shipped name or a YAML file (default: local)")
    parser.add_argument("--output", metavar="FOLDER", type=Path, help="for its logs (default: RUN_DIR-replay-STEP)")
    parser.add_argument(
        "--tolerance", metavar="SHARE", type=float, help="relative (default: 0 on the run's own layout, else 1e-4)"
    )
    parser.add_argument("--json", action="store_true", help="print the comparison as JSON, and nothing else")


def run(arguments: argparse.Namespace) -> int:
    """Runs it. Exit status 1 where it differs, as where it fails."""
    from distft.launch.replay import Wish, prepare_replay, replay

    require_share(arguments.tolerance)
    ready = prepare_replay(Wish(
        arguments.run_dir.absolute(), arguments.step, arguments.cluster, arguments.overrides, arguments.output,
        arguments.tolerance,
    ))  # fmt: skip
    warn(ready.prepared.warnings)
    found = replay(ready, quiet=arguments.json)
    print(json.dumps(found.as_json()) if arguments.json else "\n".join(said(found)))
    return 0 if found.equal else _DIFFERS


def said(found: Replayed) -> Iterator[str]:
    """The lines for people."""
    whence = f"the checkpoint of step {found.begun}" if found.begun else "the beginning"
    yield f"step {found.step} of {found.run}, from {whence}"
    rows = [("metric", "logged", "now", "")] + [
        (pair.name, _number(pair.logged), _number(pair.now), "" if pair.equal else f"differs by {pair.difference:.2g}")
        for pair in found.pairs
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    if found.pairs:
        for name, logged, now, how in rows:
            yield f"{name:<{widths[0]}}  {logged:>{widths[1]}}  {now:>{widths[2]}}  {how}".rstrip()
    if found.same_samples is not None:
        yield f"its samples are {'' if found.same_samples else 'NOT '}those that the run kept"
    differing = sum(not pair.equal for pair in found.pairs)
    layout = "the run's own layout" if found.same_layout else "another layout"
    within = f"within {found.tolerance:g}" if found.tolerance else "bit for bit"
    if not found.pairs:
        yield "the run has logged nothing of this step; here it did not fail"
    elif differing:
        yield f"{differing} of {len(found.pairs)} metrics differ ({layout}, compared {within})"
    else:
        yield f"equal: all {len(found.pairs)} metrics, {within} ({layout})"
    yield f"logs and samples: {found.folder}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.8g}"
