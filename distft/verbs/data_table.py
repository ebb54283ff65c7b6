"""What ``distft data`` shows to people."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby

from distft.data.xray_result import DataXRay, Lengths, ListXRay, ShownSequence

_WIDTH = 40  # of the longest bar
OPEN, CLOSE = "\N{MATHEMATICAL LEFT WHITE SQUARE BRACKET}", "\N{MATHEMATICAL RIGHT WHITE SQUARE BRACKET}"


def lines(found: DataXRay) -> Iterator[str]:
    """All lists, one after the other."""
    yield f"{found.name}: {found.kind}; an answer ends with {' or '.join(found.stop_tokens) or 'no token'}"
    yield from (f"warning: {text}" for text in found.warnings)
    for one in found.lists:
        yield from ("", f"data.{one.name}: {one.statistics}")
        yield from _counts(one)
        yield from (f"  look: {text}" for text in one.remarks())
        yield from _bars(one.lengths)
        if one.shown:
            yield f"  tokens that are trained stand in {OPEN} {CLOSE}" if one.answered else "  prompts, to be answered"
        for shown in one.shown:
            yield from _sequence(shown)


def _counts(one: ListXRay) -> Iterator[str]:
    counts = one.counts
    of = "" if counts.num_units == one.num_units else f" (of {counts.num_units:,} rows, spread over the list)"
    if one.answered:
        share = counts.num_trained / max(1, counts.num_tokens)
        yield f"  {counts.num_trained:,} of {counts.num_tokens:,} tokens are trained, {share:.0%}{of}"
    if one.answered and one.ended:
        yield f"  {counts.num_ending:,} of {counts.num_sequences:,} sequences end with a trained stop token{of}"
    if one.new_tokens:
        yield f"  new tokens occur{of}: {one.rarest()}"


def _bars(lengths: Lengths) -> Iterator[str]:
    yield "  tokens: " + ", ".join(f"{name} {value:,}" for name, value in lengths.quantiles.items())
    highest = max(lengths.heights, default=0)
    for start, end, height in zip(lengths.edges, lengths.edges[1:], lengths.heights, strict=False):
        if height:
            yield f"  {start:>7,}-{end - 1:<7,} {'#' * max(1, round(_WIDTH * height / highest)):<{_WIDTH}} {height:,}"


def _sequence(shown: ShownSequence) -> Iterator[str]:
    trained = sum(token.trained for token in shown.tokens)
    name = f", {shown.name}" if shown.name else ""
    yield f"  {shown.place}{name}: {len(shown.tokens)} tokens, {trained} trained"
    text = ""
    for is_trained, run in groupby(shown.tokens, key=lambda token: token.trained):
        said = "".join(token.text for token in run)
        text += f"{OPEN}{said}{CLOSE}" if is_trained else said
    yield from (f"    {line}" for line in text.splitlines())
