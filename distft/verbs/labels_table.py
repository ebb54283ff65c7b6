"""What ``distft collect --read`` says of labels, and the files that it writes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from distft.common.files import JsonlWriter
from distft.evaluation.consensus import Agreement, Consensus, RowValues

# Krippendorff (2004), Content Analysis, chapter 11: conclusions from less are not supported by the data.
_LEAST_ALPHA: Final = 0.667


def rows_by_file(rows: Consensus) -> dict[str, list[RowValues]]:
    """Name of a file -> its rows; none without rows."""
    named = {
        "pairs.jsonl": rows.pairs, "rankings.jsonl": rows.rankings, "ratings.jsonl": rows.ratings,
        "corrections.jsonl": rows.corrections,
    }  # fmt: skip
    return {name: found for name, found in named.items() if found}


def write_rows(rows: Consensus, folder: Path) -> None:
    """One file for each sort."""
    for name, found in rows_by_file(rows).items():
        with JsonlWriter(folder / name) as file:
            file.append(*found)


def as_json(agreed: Agreement, rows: Consensus) -> dict[str, Any]:
    """The figures, and how many rows of each sort there are."""
    counts = {name.removesuffix(".jsonl"): len(found) for name, found in rows_by_file(rows).items()}
    return asdict(agreed) | {"rows": counts, "tied_pairs": rows.num_tied_pairs, "middling": rows.num_middling}


def lines(agreed: Agreement, rows: Consensus, folder: Path | None) -> Iterator[str]:
    """For people."""
    judged = ", ".join(f"{name} {count}" for name, count in agreed.labellers.items())
    yield f"{agreed.num_items} prompts are labelled ({judged}), {agreed.num_shared} of them by two or more"
    if agreed.tau is not None:
        yield f"order: Kendall's tau {agreed.tau:.3f}, mean of {agreed.num_compared} comparisons of two people"
    for what, alpha in (("order", agreed.alpha_ranks), ("ratings", agreed.alpha_ratings)):
        if alpha is not None:
            yield f"{what}: Krippendorff's alpha {alpha:.3f}{_judged(alpha)}"
    for name, found in rows_by_file(rows).items():
        yield f"{len(found)} rows {'are in' if folder else 'would be in'} {(folder or Path()) / name}"
    if rows.num_tied_pairs:
        yield f"{rows.num_tied_pairs} pairs of answers are left out: as many prefer one as the other"
    if rows.num_middling:
        yield f"{rows.num_middling} answers are left out of the ratings: their mean is the middle of the scale"
    if folder is None:
        yield "--output FOLDER writes them"


def _judged(alpha: float) -> str:
    low = "; below 0.667 people do not mean the same: say the criterion more exactly (--criterion) and label again"
    return low if alpha < _LEAST_ALPHA else ""
