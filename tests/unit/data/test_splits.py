from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from distft.data.splits import LIST_NAMES, Keys, ListName, mix
from distft.data.splits import held_out as sides


def _key(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _words(found: Sequence[str]) -> Keys:
    words = [(int(key[:16], 16), int(key[16:], 16)) for key in found]
    return np.array(words, np.uint64).reshape(-1, 2)


def held_out(key: str, share: float, lists: Sequence[ListName]) -> str:
    return LIST_NAMES[int(sides(_words([key]), share, lists)[0])]


def mixed(found: Sequence[Sequence[str]], weights: Sequence[float]) -> list[tuple[int, int]]:
    sources, rows = mix([_words(one) for one in found], weights)
    return list(zip(sources.tolist(), rows.tolist(), strict=True))


keys = st.text(min_size=1).map(_key)
shares = st.floats(0.0, 0.49)


@given(keys, shares)
def test_lists_do_not_change_each_other(key: str, share: float) -> None:
    both = held_out(key, share, ["train", "eval", "test"])
    assert (held_out(key, share, ["eval"]) == "eval") == (both == "eval")
    assert (held_out(key, share, ["test"]) == "test") == (both == "test")
    assert held_out(key, share, []) == "train"


@given(keys, shares, shares)
def test_a_larger_share_keeps_what_a_smaller_one_held_out_for_eval(key: str, one: float, other: float) -> None:
    small, large = sorted((one, other))
    if held_out(key, small, ["eval"]) == "eval":
        assert held_out(key, large, ["eval"]) == "eval"


def test_shares_are_those_asked_for() -> None:
    counts = Counter(held_out(_key(f"question {number}"), 0.1, ["eval", "test"]) for number in range(20_000))
    assert abs(counts["eval"] - 2000) < 200
    assert abs(counts["test"] - 2000) < 200


def test_membership_is_fixed_for_good() -> None:
    found = [held_out(_key(f"question {number}"), 0.2, ["eval", "test"]) for number in range(12)]
    assert found == [
        "train", "test", "train", "train", "train", "train", "train", "train", "train", "eval", "train", "train",
    ]  # fmt: skip


@given(st.lists(st.tuples(st.integers(0, 30), st.floats(0.05, 4.0)), min_size=1, max_size=4))
def test_a_weight_is_how_often_a_row_is_visited(sources: list[tuple[int, float]]) -> None:
    source_keys = [[_key(f"{source}:{row}") for row in range(num_rows)] for source, (num_rows, _) in enumerate(sources)]
    units = mixed(source_keys, [weight for _, weight in sources])
    for source, (num_rows, weight) in enumerate(sources):
        visits = Counter(row for at, row in units if at == source)
        assert sum(visits.values()) == (max(1, round(num_rows * weight)) if num_rows else 0)
        if visits and weight >= 1:
            assert set(visits) == set(range(num_rows))
            assert max(visits.values()) - min(visits.values()) <= 1


def test_the_favoured_rows_depend_on_content_alone() -> None:
    some = [_key(str(number)) for number in range(20)]
    taken = {some[row] for _, row in mixed([some], [0.4])}
    turned = some[::-1]
    assert taken == {turned[row] for _, row in mixed([turned], [0.4])}
    assert len(taken) == 8
