"""Which metric is a chart, in which order, and what it says."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from distft.report.curves import Curve, Ledger, thinned
from distft.report.sections import MIB
from distft.tracking.glossary import KNOWN, Known, is_share, known

_MAX_NAMED_STEPS = 8


_COUNTS = ("num_tokens", "epoch")  # they only say how far the run was
_BYTES = "memory/"


class Source(NamedTuple):
    """A run's curves under the name that a legend has; empty where there is one run."""

    name: str
    ledger: Ledger


def charts(sources: Sequence[Source]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The charts that everyone wants, and the others, as the page's script takes them: ``name, title, about, note,
    share, series``; a series has ``label``, ``split``, ``run`` (its number), ``x`` and ``y``.
    """
    names = dict.fromkeys(
        name for source in sources for split in source.ledger.curves for name in sorted(source.ledger.of(split))
    )
    first = [name for name in KNOWN if name in names]
    others = sorted(name for name in names if name not in KNOWN and name not in _COUNTS)
    return [_chart(name, sources) for name in first], [_chart(name, sources) for name in others]


def _chart(name: str, sources: Sequence[Source]) -> dict[str, Any]:
    about, unit = known(name) or Known(name), 1
    if name.startswith(_BYTES):
        about, unit = about._replace(title=about.title.replace("Bytes", "MiB", 1)), MIB
    series, bad = [], []
    for number, source in enumerate(sources):
        for split, label in (("train", "training"), ("eval", "held out")):
            curve = source.ledger.of(split).get(name)
            if curve is None:
                continue
            x, y = thinned(curve.x, curve.y / unit)
            said = f"{source.name}, {label}" if source.name else label
            series.append({"label": said, "split": split, "run": number, "x": x, "y": y})
            bad += [f"{said}: {_steps(curve)}"] if curve.not_finite else []
    note = f"Not a number, or infinite, in {'; '.join(bad)}." if bad else ""
    return {"name": name, "title": about.title, "about": about.about, "note": note, "share": is_share(name),
            "series": series}  # fmt: skip


def _steps(curve: Curve) -> str:
    found = curve.not_finite
    more = f" and {len(found) - _MAX_NAMED_STEPS:,} more" if len(found) > _MAX_NAMED_STEPS else ""
    return f"steps {_listed(found[:_MAX_NAMED_STEPS])}{more}" if len(found) > 1 else f"step {found[0]:,}"


def _listed(numbers: Iterable[int]) -> str:
    return ", ".join(f"{number:,}" for number in numbers)
