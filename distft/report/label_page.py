"""The page on which people say which answers are better: one file, without the network."""

from __future__ import annotations

from collections.abc import Sequence

from distft.data.labelling import FORMAT, RATINGS, Item, Task, collection_name
from distft.report.page import render


def label_page(items: Sequence[Item], title: str, criterion: str, tasks: Sequence[Task]) -> bytes:
    """The page. It names no model: who labels does not know whose answers they are."""
    lowest, highest = RATINGS
    collection = {
        "format": FORMAT, "collection": collection_name(items, criterion, tasks), "criterion": criterion,
        "tasks": list(tasks), "ratings": RATINGS,
        "items": [
            {"prompt": item.written_prompt, "completions": item.completions, "ended": item.ended} for item in items
        ],
    }  # fmt: skip
    return render(
        "label.html", title=title, criterion=criterion, tasks=tasks, lowest=lowest, highest=highest,
        collection=collection,
    )  # fmt: skip
