"""Rows as Arrow and back."""

from __future__ import annotations

from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distft.common.errors import UserError
from distft.data.arrow_files import appearing
from distft.data.encode import Encoded
from distft.data.example_json import example_from, example_text
from distft.data.formats import (
    DialogueExample,
    Example,
    Message,
    PreferenceExample,
    PromptExample,
    RankingExample,
    TextExample,
)
from distft.data.records import Records
from distft.data.stored_rows import StoredRows

PAIR = PreferenceExample("Q", "yes", "no", where="rows:1")
SIDES = (Encoded([1, 2], [3, 4], [1, 1]), Encoded([1, 2], [5], [1], moved=True))


def test_pairs_come_back_as_they_went(tmp_path: Path) -> None:
    records = Records(keep_columns=False)
    records.leave_out("rows:0", None, "empty prompt")
    records.keep(PAIR, SIDES, truncated=True)
    records.leave_out("rows:2", PAIR, "over the limit")
    masked = (Encoded([], [7, 8], [0, 1]), Encoded([9], [], []))
    records.keep(PAIR, masked, truncated=False)
    with appearing(tmp_path / "rows.arrow") as writer:
        for _ in range(2):
            writer.write_batch(records.batch())
    found = StoredRows(tmp_path / "rows.arrow")
    assert len(found) == 8
    assert found.usable().tolist() == [False, True, True, True] * 2
    assert found.kept().tolist() == [False, True, False, True] * 2
    for row, sides in ((1, SIDES), (5, SIDES), (3, masked), (7, masked)):
        for got, side in zip(found.sequences(row), sides, strict=True):
            assert [part.tolist() for part in got] == [side.prompt_ids, side.response_ids, side.mask]
    kept = found.kept().nonzero()[0]
    assert found.lengths(kept).tolist() == [4, 3, 2, 1] * 2
    assert found.sizes(np.arange(8)).tolist() == [0, 2, 0, 2] * 2
    assert [found.ranks(row).tolist() for row in range(4)] == [[], [0, 1], [], [0, 1]]
    assert (found.count("truncated", kept), found.count("moved", kept)) == (2, 2)
    assert found.reasons(found.usable().nonzero()[0]) == {"over the limit": 2}
    assert found.example(5) == PAIR
    key = found.keys()[1].tolist()
    assert (found.keys()[0].tolist(), found.keys()[5].tolist()) == ([0, 0], key)


EXTRA: dict[str, Any] = {
    "answer": 4, "nothing": None, "half": 0.5, "many": [1, {"a": "b"}], "raw": b"\x00\xff", "price": Decimal("1.10"),
    "day": date(2026, 1, 2), "when": datetime(2026, 1, 2, 3, 4, 5), "odd": "\ud83d",
}  # fmt: skip
EXAMPLES: list[Example] = [
    TextExample("a\n\u2028b", where="x:1"),
    DialogueExample((Message("user", "a"), Message("assistant", "b")), where="x:2"),
    PreferenceExample((Message("user", "a"),), (Message("assistant", "b"),), (Message("assistant", "c"),)),
    PromptExample("a", where="x:3", extra=EXTRA),
    RankingExample("a", ("b", "c", "d"), (0, 1, 1), where="x:4"),
    RankingExample(
        (Message("user", "a"),), ((Message("assistant", "b"),), (Message("assistant", "c", trains=False),)), (0, 1)
    ),
]


@pytest.mark.parametrize("example", EXAMPLES)
def test_examples_come_back_as_they_went(example: Example) -> None:
    assert example_from(example_text(example, keep_columns=True), example.where) == example


def test_columns_are_kept_where_something_reads_them() -> None:
    assert example_from(example_text(EXAMPLES[3], keep_columns=False), "").extra == {}


def test_a_column_without_a_form_is_named() -> None:
    with pytest.raises(UserError, match=r"x:9: column `image` cannot be kept for reward functions: object"):
        example_text(PromptExample("a", where="x:9", extra={"answer": 1, "image": object()}), keep_columns=True)
