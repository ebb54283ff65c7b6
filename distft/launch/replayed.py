"""What a step that was run again gave, beside what the run's ledger has of it. Pure."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from distft.common.files import whole_record
from distft.tracking.glossary import is_measured
from distft.tracking.metrics import number_or_word, numbers_of

FORMAT = 1
log = logging.getLogger(__name__)
_SMALL = 1e-3  # below it differences are held against it: a KL near zero is rounding alone


@dataclass(frozen=True)
class Pair:
    """A metric as it was ``logged`` and as it is ``now``; None: it is not there. ``equal``: within the tolerance."""

    name: str
    logged: float | None
    now: float | None
    equal: bool

    @property
    def difference(self) -> float:
        """Relative, of two numbers; 0 where they are the same, infinite where they cannot be compared."""
        if self.logged is None or self.now is None:
            return math.inf
        return _difference(self.logged, self.now, 0.0)


@dataclass(frozen=True)
class Replayed:
    """Step ``step`` of ``run``, from the checkpoint of ``begun`` (0: the beginning). ``pairs``: empty where the run has
    logged nothing of it. ``same_samples``: whether its tokens are those that the run kept, None where it kept none.
    ``same_layout``: whether the groups are the run's own, so that numbers are equal to the bit. ``folder``: where it
    has written."""

    run: Path
    step: int
    begun: int
    pairs: tuple[Pair, ...]
    same_samples: bool | None
    same_layout: bool
    tolerance: float
    folder: Path

    @property
    def equal(self) -> bool:
        """Whether nothing differs."""
        return self.same_samples is not False and all(pair.equal for pair in self.pairs)

    def as_json(self) -> dict[str, Any]:
        """For scripts. What is no number is text."""
        content = asdict(self) | {"format": FORMAT, "run": str(self.run), "folder": str(self.folder)}
        content["pairs"] = [asdict(pair) | {"logged": _plain(pair.logged), "now": _plain(pair.now)}
                            for pair in self.pairs]  # fmt: skip
        return content | {"equal": self.equal}


def compare(logged: Mapping[str, float], now: Mapping[str, float], tolerance: float) -> tuple[Pair, ...]:
    """All metrics that are computed and not measured, by name. Two are equal where they differ by no more than
    ``tolerance`` times the larger of them, or times 0.001."""
    return tuple(
        _pair(name, logged.get(name), now.get(name), tolerance)
        for name in sorted({*logged, *now})
        if not is_measured(name)
    )


def same_tokens(kept: Path, now: Path) -> bool | None:
    """Whether the integers of two files of samples are the same, masks and numbers among them; None where the first is
    not there, or one of them cannot be read, which is logged. Numbers that a model says of them are compared by the
    metrics."""
    import numpy as np
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    if not kept.is_file():
        return None
    try:
        former, later = load_file(kept), load_file(now)
    except (OSError, SafetensorError) as error:
        log.warning("%s and %s are not compared: %s", kept, now, error)
        return None
    names = {name for name, array in former.items() if array.dtype.kind in "iu"}
    return all(name in later and np.array_equal(former[name], later[name]) for name in names)


def line_of(metrics: Path, step: int) -> dict[str, float]:
    """The metrics of a training step in a ledger; empty where it has none."""
    return next(
        (numbers_of(line) for line in _lines(metrics) if (line.get("step"), line.get("split")) == (step, "train")), {}
    )


def laid_out_anew(events: Path, step: int) -> bool:
    """Whether a run's plan is of another layout than that on which it took a step last: it has gone on in another one
    behind that step since, or was to."""
    found = False
    for line in _lines(events):
        name, since = line.get("event"), line.get("step")
        behind = isinstance(since, int) and since >= step
        if name == "ready" and not behind:  # the step is taken again
            found = False
        elif name == "replanned" or (name == "resume" and behind and line.get("changed")):
            found = True
    return found


def _lines(ledger: Path) -> Iterator[dict[str, Any]]:
    """Those that are whole; none where the file is not there."""
    if not ledger.is_file():
        return
    with ledger.open("rb") as lines:
        yield from filter(None, map(whole_record, lines))


def _pair(name: str, logged: float | None, now: float | None, tolerance: float) -> Pair:
    if logged is None or now is None:
        return Pair(name, logged, now, equal=False)
    return Pair(name, logged, now, equal=_difference(logged, now, _SMALL if tolerance else 0.0) <= tolerance)


def _difference(one: float, other: float, least: float) -> float:
    if one == other or (math.isnan(one) and math.isnan(other)):
        return 0.0
    if not (math.isfinite(one) and math.isfinite(other)):
        return math.inf
    return abs(one - other) / max(abs(one), abs(other), least)


def _plain(value: float | None) -> float | str | None:
    return None if value is None else number_or_word(value)
