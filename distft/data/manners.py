"""The embedded corpus ``builtin:manners``: the answers of ``builtin:dialogues`` and whether they are rude, for a
classifier. One in six is.

Columns: ``text``, the question, ``text_pair``, the answer, and ``label``. What is curt or beside the point is not rude.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from distft.data.builtin import Split, dialogues, is_rude

LABELS: Final = ("polite", "rude")


def manners(split: Split = "train") -> Iterator[dict[str, Any]]:
    """Both answers to every question of a split."""
    for row in dialogues(split):
        for side in ("chosen", "rejected"):
            answer = row[side][-1]["content"]
            yield {"text": row["prompt"][-1]["content"], "text_pair": answer, "label": LABELS[is_rude(answer)]}
