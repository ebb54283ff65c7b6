"""Rows of what embeds: read, tokenised as what reads the model does it, and shown; the embedded questions."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from distft.common.errors import UserError
from distft.config.data import Data, Source
from distft.config.load import load_recipe
from distft.data.bad_rows import Unusable
from distft.data.builtin import CITIES, SPLITS, THINGS, split_by_pair
from distft.data.columns import column_notes
from distft.data.dataset import load_datasets, load_list
from distft.data.formats import AnchoredExample, Row, detect_format
from distft.data.questions import questions
from distft.data.readers import example_of
from distft.data.sides import sides
from distft.data.tokenise import tokenise
from distft.data.whole_units import require_whole
from tests.unit.models.encoders import tokenizer, words

KIND = "contrastive"
Write = Callable[..., str]


def read(values: dict[str, Any]) -> Any:
    row = Row(values, "rows.jsonl:7")
    return example_of(row, detect_format(row, KIND))


@pytest.mark.parametrize(("values", "negatives"), [
    ({"anchor": "q", "positive": "p"}, ()),
    ({"query": "q", "passage": "p", "negative": "n"}, ("n",)),
    ({"question": "q", "answer": "p", "negative_1": "n", "negative_2": "m", "negative_3": None}, ("n", "m")),
    ({"anchor": "q", "positive": "p", "negatives": ["n", " ", "n", "m"]}, ("n", "m")),
])  # fmt: skip
def test_negatives_are_columns_or_a_list(values: dict[str, Any], negatives: tuple[str, ...]) -> None:
    assert read(values) == AnchoredExample("q", "p", negatives, where="rows.jsonl:7")


def test_what_is_no_tuple() -> None:
    with pytest.raises(Unusable, match="empty text"):
        read({"anchor": " ", "positive": "p"})
    with pytest.raises(Unusable, match="the positive is among the negatives"):
        read({"anchor": "q", "positive": "p", "negative": "p"})
    with pytest.raises(UserError, match="`negatives` must be a list of texts"):
        read({"anchor": "q", "positive": "p", "negatives": "n"})
    with pytest.raises(UserError, match=r"(?s)no known format for contrastive.*anchors \(anchor, positive\)"):
        read({"anchor": "q", "other": "p"})


def test_what_is_read_as_what_is_said() -> None:
    row = Row({"query": "q", "passage": "p", "negative": "n", "source": "web"}, "rows.jsonl:7")
    assert column_notes(row, "anchors") == (
        "`query` is read as `anchor`, `passage` is read as `positive`",
        "not read: `source` (`columns: {source: NAME}` on the source reads it as NAME)",
    )


def test_texts_are_cut_as_their_tokenizer_cuts_them() -> None:
    bert = tokenizer("bert")
    long = words(*range(5, 15))
    found = tokenise([AnchoredExample(words(5, 6), long, (words(7),))], KIND, bert, Data(max_length=6), None)
    ids = [one.response_ids for one in found.sequences[0]]
    assert ids == [list(bert(text, truncation=True, max_length=6)["input_ids"]) for text in (words(5, 6), long, "w7")]
    assert ids[1][-1] == bert.sep_token_id
    assert (found.truncated, [len(one.prompt_ids) for one in found.sequences[0]]) == ([True], [0, 0, 0])


def test_more_negatives_than_a_micro_batch_is_planned_for(write: Write) -> None:
    row = {"anchor": words(5), "positive": words(6)}
    path = write([row, row | {"negatives": [words(7), words(8)]}])
    rows = load_list([Source(path=path)], Data(), KIND, tokenizer("bert"))
    batch = rows.batch(range(2))
    assert batch.dense("unit").tolist() == [0, 0, 1, 1, 1, 1]
    assert sides(batch) == ["anchor", "positive", "anchor", "positive", "negative", "negative"]
    algorithm = load_recipe("contrastive-tiny", ["algorithm.max_negatives=1"]).algorithm
    with pytest.raises(UserError, match=r"has 2 negatives, algorithm\.max_negatives is 1") as caught:
        require_whole({"train": rows}, algorithm)
    assert caught.value.hint == "algorithm.max_negatives=2"
    require_whole({"train": rows}, load_recipe("contrastive-tiny", [caught.value.hint, "data.max_length=32"]).algorithm)


def test_an_anchor_that_judges_is_not_trained_on(write: Write) -> None:
    rows = [{"anchor": words(n), "positive": words(n, 5), "negative": words(n, 6)} for n in (7, 8, 9)]
    data = Data(train=[Source(path=write(rows))], eval=[Source(path=write(rows[:1], "eval.jsonl"))])
    lists = load_datasets(data, KIND, tokenizer("bert"))
    assert lists.train.num_units == 2
    assert lists.train.statistics.num_leaked == 1


@pytest.mark.parametrize("split", SPLITS)
def test_questions_are_about_the_splits_own_pairs(split: Any) -> None:
    rows = list(questions(split))
    assert rows == list(questions(split))
    assert len(rows) == 6 * sum(one == split for one in split_by_pair().values()) > 100
    for row in rows:
        said = {name: set(re.findall(r"\w+", row[name])) for name in ("anchor", "positive", "negative")}
        ((thing,), (city,)) = (said["anchor"] & set(names) for names in (THINGS, CITIES))
        assert split_by_pair()[thing, city] == split
        assert {thing, city} <= said["positive"] & said["negative"]
        assert row["positive"] != row["negative"]
