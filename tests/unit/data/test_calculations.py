"""``builtin:calculations``: true products, pairs in one split, seldom asked."""

from __future__ import annotations

from distft.data.builtin import SPLITS
from distft.data.calculations import calculations


def test_pairs_are_in_one_split_and_products_right() -> None:
    seen: dict[frozenset[int], str] = {}
    for split in SPLITS:
        rows = list(calculations(split))  # type: ignore[arg-type]
        asking = 0
        for row in rows:
            a, b = map(int, row["prompt"][0]["content"].split("*"))
            assert row["answer"] == str(a * b)
            assert seen.setdefault(frozenset((a, b)), split) == split
            assert row["messages"][:1] == row["prompt"]
            _, *turns = row["messages"]
            if len(turns) > 1:
                asking += 1
                assert [turn["content"] for turn in turns] == [f"calc {a}*{b}", str(a * b), str(a * b)]
                assert [turn["role"] for turn in turns] == ["assistant", "tool", "assistant"]
        assert 0.15 < asking / len(rows) < 0.35
    assert len(seen) == 90 * 91 // 2
