from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import PreTrainedTokenizerFast

from distft.batches import Batch
from distft.common.errors import UserError
from distft.config.algorithms.reward import Reward
from distft.config.data import Data, Source
from distft.data.dataset import Datasets, load_datasets, load_list, prepare_datasets
from distft.data.formats import PromptExample
from distft.data.tokenized import TokenizedDataset
from distft.data.whole_units import require_whole

Write = Callable[..., str]
BUILTIN = Source(path="builtin:dialogues", limit=40)


def _plain(numbers: range, **more: Any) -> list[dict[str, Any]]:
    return [{"prompt": f"Question {number}?", "completion": f" Answer {number}.", **more} for number in numbers]


def _prompts(dataset: TokenizedDataset | None) -> set[str]:
    assert dataset is not None
    examples = dataset.rows(range(dataset.num_units))
    return {str(example.prompt) for example in examples if not hasattr(example, "text")}  # type: ignore[union-attr]


def _decoded(tokenizer: PreTrainedTokenizerFast, batch: Batch, column: str) -> list[str]:
    ragged = batch.ragged(column)
    return [str(tokenizer.decode(ragged[row])) for row in range(len(ragged))]


def test_supervised_batches(tokenizer: PreTrainedTokenizerFast, write: Write) -> None:
    data = Data(train=(Source(path=write(_plain(range(5)))),))
    train = load_datasets(data, "sft", tokenizer).train
    assert (train.num_units, train.unit_size) == (5, 1)
    batch = train.batch([3, 1])
    assert _decoded(tokenizer, batch, "prompt_ids") == ["Question 3?", "Question 1?"]
    assert _decoded(tokenizer, batch, "response_ids") == [" Answer 3.<|end|>", " Answer 1.<|end|>"]
    assert batch.ragged("prompt_ids").values.dtype == np.int32
    assert batch.dense("sample").tolist() == batch.dense("unit").tolist() == [0, 1]
    assert "response_mask" not in batch  # a mask of ones says nothing
    assert train.lengths[[3, 1]].tolist() == [len(batch.ragged("prompt_ids")[i]) + len(batch.ragged("response_ids")[i])
                                              for i in range(2)]  # fmt: skip


def test_a_mask_comes_where_something_is_not_trained(tokenizer: PreTrainedTokenizerFast, write: Write) -> None:
    data = Data(train=(Source(path=write([{"text": "One text."}, {"text": "Another."}])),))
    batch = load_datasets(data, "sft", tokenizer).train.batch([0, 1])
    mask = batch.ragged("response_mask")
    assert mask.values.dtype == np.uint8
    assert [row.tolist()[0] for row in (mask[0], mask[1])] == [0, 0]
    assert mask.lengths.tolist() == batch.ragged("response_ids").lengths.tolist()
    assert batch.ragged("prompt_ids").lengths.tolist() == [0, 0]


def test_the_blocks_of_a_text_are_rows_that_stay_on_one_side(tokenizer: PreTrainedTokenizerFast, write: Write) -> None:
    texts = [
        f"Story {number}. " + " ".join(f"It was day {day} of {number}." for day in range(9)) for number in range(30)
    ]
    data = Data(train=(Source(path=write([{"text": text} for text in texts])),), max_length=20, holdout=0.2)
    found = load_datasets(data, "pretrain", tokenizer, loss_on="all")
    sides = []
    for dataset in (found.train, found.eval, found.test):
        assert dataset is not None
        units = range(dataset.num_units)
        assert dataset.statistics.num_leaked == dataset.statistics.num_truncated == 0
        batch, of_text = dataset.batch(units), dict[str, str]()
        for unit, example in enumerate(dataset.rows(units)):
            said = str(tokenizer.decode(batch.ragged("response_ids")[unit]))
            assert said.removesuffix("<|end|>") == getattr(example, "text", None)
            of_text[example.where] = of_text.get(example.where, "") + said
        assert set(of_text.values()) <= {f"{text}<|end|>" for text in texts}  # whole, in order
        sides.append(set(of_text.values()))
    assert sum(map(len, sides)) == len(set().union(*sides)) == len(texts)
    assert min(map(len, sides)) > 0


def test_pairs_come_chosen_first(tokenizer: PreTrainedTokenizerFast, write: Write) -> None:
    rows = [{"prompt": "Q", "chosen": f" good {n}", "rejected": f" bad {n}"} for n in range(3)]
    train = load_datasets(Data(train=(Source(path=write(rows)),)), "dpo", tokenizer).train
    assert (train.num_units, train.unit_size, len(train.lengths)) == (3, 2, 6)
    batch = train.batch([2, 0])
    expected = [" good 2<|end|>", " bad 2<|end|>", " good 0<|end|>", " bad 0<|end|>"]
    assert _decoded(tokenizer, batch, "response_ids") == expected
    assert batch.dense("unit").tolist() == [0, 0, 1, 1]
    assert batch.dense("sample").tolist() == [0, 1, 2, 3]
    assert len(train.prompts([2, 0])) == 2


def test_margins_of_pairs(tokenizer: PreTrainedTokenizerFast, write: Write) -> None:
    """Where some have one, of the others 0; a batch without any, and another method's, has no such column."""
    rows = [
        {"prompt": "Q", "chosen": f" good {n}", "rejected": f" bad {n}", "margin": [1.5, None, 0][n]} for n in range(3)
    ]
    data = Data(train=(Source(path=write(rows)),))
    train = load_datasets(data, "reward", tokenizer).train
    assert train.batch([0, 1, 2]).dense("margin").tolist() == [1.5, 1.5, 0, 0, 0, 0]
    assert "margin" not in train.batch([1, 2])
    assert "margin" not in load_datasets(data, "dpo", tokenizer).train.batch([0, 1, 2])


def test_rankings_of_unequal_sizes(tokenizer: PreTrainedTokenizerFast, write: Write) -> None:
    """Beside pairs: a reward model reads each answer once, the best first; what learns from pairs gets all of them."""
    ranked = [
        {"prompt": "Q 0", "completions": [" c", " a", " b"], "ranks": [3, 1, 2]},
        {"prompt": "Q 1", "completions": [" d", " e", " f", " g"], "ranks": [2.5, 1, 2.5, 1]},
    ]
    pairs = [{"prompt": "Q 2", "chosen": " good", "rejected": " bad", "margin": 0.5}]
    sources = (Source(path=write(ranked, "ranked.jsonl")), Source(path=write(pairs, "pairs.jsonl")))
    train = load_datasets(Data(train=sources), "reward", tokenizer).train
    assert (train.num_units, train.unit_size, train.sizes.tolist(), len(train.lengths)) == (3, 4, [3, 4, 2], 9)
    batch = train.batch([1, 2, 0])
    said = [text.removesuffix("<|end|>") for text in _decoded(tokenizer, batch, "response_ids")]
    assert said == [" e", " g", " d", " f", " good", " bad", " a", " b", " c"]
    assert _prompts(train) == {"Q 0", "Q 1", "Q 2"}
    assert batch.dense("unit").tolist() == [0, 0, 0, 0, 1, 1, 2, 2, 2]
    assert batch.dense("rank").tolist() == [0, 0, 1, 1, 0, 1, 0, 1, 2]
    assert batch.dense("margin").tolist() == [0] * 4 + [0.5] * 2 + [0] * 3

    two = load_datasets(Data(train=sources), "dpo", tokenizer).train
    assert (two.num_units, two.unit_size) == (3 + 4 + 1, 2)
    said = [text.removesuffix("<|end|>") for text in _decoded(tokenizer, two.batch(range(7)), "response_ids")]
    first = [(" a", " b"), (" a", " c"), (" b", " c")]
    assert list(zip(said[0::2], said[1::2], strict=True)) == [
        *first, (" e", " d"), (" g", " d"), (" e", " f"), (" g", " f"),
    ]  # fmt: skip


def test_rankings_beyond_the_plan_are_named(tokenizer: PreTrainedTokenizerFast, write: Write) -> None:
    rows = [{"prompt": "Q", "completions": [" a", " b", " c"][: 2 + n], "ranks": [1, 2, 3][: 2 + n]} for n in range(2)]
    train = load_datasets(Data(train=(Source(path=write(rows)),)), "reward", tokenizer).train
    three, two = (Reward(kind="reward", max_answers=most) for most in (3, 2))
    require_whole({"train": train}, three)
    with pytest.raises(UserError, match=r"ranks 3 answers, algorithm\.max_answers is 2") as caught:
        require_whole({"train": train}, two)
    assert caught.value.where.endswith("rows.jsonl:2")
    assert caught.value.hint == "algorithm.max_answers=3"


def test_labelled_answers(tokenizer: PreTrainedTokenizerFast, write: Write) -> None:
    """Pairs beside single ones: each answer is a unit, and both of a pair are on the same side of the split."""
    labelled = [{"prompt": f"Q {n}", "completion": f" one {n}", "label": n < 1} for n in range(3)]
    pairs = [{"prompt": f"P {n}", "chosen": f" good {n}", "rejected": f" bad {n}"} for n in range(40)]
    sources = (Source(path=write(labelled, "labelled.jsonl"), weight=2.0), Source(path=write(pairs, "pairs.jsonl")))
    found = load_datasets(Data(train=sources, holdout=0.2), "kto", tokenizer)
    assert found.eval is not None
    assert found.test is not None
    for pair in range(40):
        assert [f"P {pair}" in _prompts(one) for one in (found.train, found.eval, found.test)].count(True) == 1
    train = load_datasets(Data(train=sources), "kto", tokenizer).train
    assert (train.num_units, train.unit_size, train.num_good) == (2 * 3 + 2 * 40, 1, 2 + 40)
    batch = train.batch([0, 2, 6, 7])
    expected = [" one 0<|end|>", " one 1<|end|>", " good 0<|end|>", " bad 0<|end|>"]
    assert _decoded(tokenizer, batch, "response_ids") == expected
    assert batch.dense("label").tolist() == [1, 0, 1, 0]
    assert batch.dense("unit").tolist() == [0, 1, 2, 3]


def test_answers_that_are_called_bad_are_not_imitated(tokenizer: PreTrainedTokenizerFast, write: Write) -> None:
    rows = [{"prompt": f"Q {n}", "completion": f" one {n}", "label": n != 1} for n in range(3)]
    path = write(rows)
    train = load_datasets(Data(train=(Source(path=path),)), "sft", tokenizer).train
    assert _prompts(train) == {"Q 0", "Q 2"}
    (warning,) = train.statistics.warnings
    assert warning.startswith("1 of 3 rows left out: 1 labelled false, as bad answers (`columns: {label: NAME}`")
    renamed = Source(path=path, columns={"label": "kept"})  # the remedy
    assert _prompts(load_datasets(Data(train=(renamed,)), "sft", tokenizer).train) == {"Q 0", "Q 1", "Q 2"}


def test_prompts_for_rl(tokenizer: PreTrainedTokenizerFast, write: Write) -> None:
    data = Data(train=(Source(path=write(_plain(range(3), topic="greeting"))),), overlong="error")
    train = load_datasets(data, "ppo", tokenizer).train
    batch = train.prompts([2, 1])
    assert _decoded(tokenizer, batch, "prompt_ids") == ["Question 2?", "Question 1?"]
    assert batch.dense("unit").tolist() == [0, 1]
    (row,) = train.rows([2])
    assert isinstance(row, PromptExample)
    assert row.extra == {"topic": "greeting"}
    with pytest.raises(ValueError, match="use prompts"):
        train.batch([0])


@pytest.mark.parametrize("kind", ["sft", "reward", "dpo", "ppo"])
def test_the_embedded_corpus_serves_every_kind(tokenizer: PreTrainedTokenizerFast, kind: str) -> None:
    sets = load_datasets(Data(train=(BUILTIN,), eval=(BUILTIN,), test=(BUILTIN,)), kind, tokenizer)
    assert [found.num_units for found in (sets.train, sets.eval, sets.test) if found] == [40, 40, 40]
    (prompt,) = _decoded(tokenizer, sets.train.prompts([0]), "prompt_ids")
    assert prompt.startswith("<|user|>")
    assert prompt.endswith("<|assistant|>")


def test_holdout_divides_by_what_is_asked(tokenizer: PreTrainedTokenizerFast, write: Write) -> None:
    rows = _plain(range(200))
    twice = [*rows, *[{**row, "completion": " Another answer."} for row in rows]]
    sets = load_datasets(Data(train=(Source(path=write(twice)),), holdout=0.1), "sft", tokenizer)
    train, held, test = _prompts(sets.train), _prompts(sets.eval), _prompts(sets.test)
    assert not train & (held | test)
    assert not held & test
    assert train | held | test == {row["prompt"] for row in rows}
    assert sets.train.statistics.num_leaked == 0
    assert sets.train.num_units == 2 * len(train)
    turned = load_datasets(Data(train=(Source(path=write(twice[::-1], "b.jsonl")),), holdout=0.1), "sft", tokenizer)
    assert (_prompts(turned.eval), _prompts(turned.test)) == (held, test)


def test_holdout_leaves_a_given_list_alone(tokenizer: PreTrainedTokenizerFast, write: Write) -> None:
    train, held = write(_plain(range(200))), write(_plain(range(500, 505)), "eval.jsonl")
    sets = load_datasets(
        Data(train=(Source(path=train),), eval=(Source(path=held),), holdout=0.1), "sft", tokenizer
    )  # fmt: skip
    assert sets.eval is not None
    assert sets.eval.num_units == 5
    assert sets.test is not None
    assert 5 < sets.test.num_units < 50


def test_without_holdout_and_lists_there_is_only_train(tokenizer: PreTrainedTokenizerFast, write: Write) -> None:
    sets = load_datasets(Data(train=(Source(path=write(_plain(range(3)))),)), "sft", tokenizer)
    assert (sets.eval, sets.test) == (None, None)


def test_leaks_are_removed_and_told(tokenizer: PreTrainedTokenizerFast, write: Write) -> None:
    paths = [write(_plain(numbers), f"{name}.jsonl") for name, numbers in
             (("train", range(10)), ("eval", range(8, 12)), ("test", range(11, 14)))]  # fmt: skip
    train, held, test = ((Source(path=path),) for path in paths)
    sets = load_datasets(Data(train=train, eval=held, test=test), "sft", tokenizer)
    assert _prompts(sets.train) == {f"Question {number}?" for number in range(8)}
    assert sets.train.statistics.num_leaked == 2
    assert "2 left out because held-out rows ask the same" in str(sets.train.statistics)
    assert sets.eval is not None
    assert (sets.eval.num_units, sets.eval.statistics.num_leaked) == (3, 1)
    assert sets.test is not None
    assert (sets.test.num_units, sets.test.statistics.num_leaked) == (3, 0)


def test_leaks_stay_or_stop_the_run_by_choice(tokenizer: PreTrainedTokenizerFast, write: Write) -> None:
    train, held = (Source(path=write(_plain(numbers), f"{name}.jsonl"))
                   for name, numbers in (("train", range(10)), ("eval", range(8, 12))))  # fmt: skip
    sets = load_datasets(Data(train=(train,), eval=(held,), on_leak="warn"), "sft", tokenizer)
    assert (sets.train.num_units, sets.train.statistics.num_leaked) == (10, 2)
    assert "2 ask what held-out rows ask" in str(sets.train.statistics)
    with pytest.raises(UserError, match="this row of data.train asks what a held-out row asks") as told:
        load_datasets(Data(train=(train,), eval=(held,), on_leak="fail"), "sft", tokenizer)
    assert told.value.where.endswith("train.jsonl:9")
    well = Source(path=write(_plain(range(20, 24)), "other.jsonl"))
    assert load_datasets(Data(train=(train,), eval=(well,), on_leak="fail"), "sft", tokenizer).train.num_units == 10


def test_training_on_the_test_rows_alone_is_refused(tokenizer: PreTrainedTokenizerFast, write: Write) -> None:
    source = Source(path=write(_plain(range(3))))
    with pytest.raises(UserError, match="data.train: no row is left of 3\n  3 left out because held-out"):
        load_datasets(Data(train=(source,), test=(source,)), "sft", tokenizer)


def test_sources_are_mixed_by_weight(tokenizer: PreTrainedTokenizerFast, write: Write) -> None:
    one = Source(path=write(_plain(range(10))), weight=2.0)
    other = Source(path=write(_plain(range(100, 110)), "b.jsonl"), weight=0.5)
    train = load_datasets(Data(train=(one, other)), "sft", tokenizer).train
    asked = [str(example.prompt) for example in train.rows(range(train.num_units))]  # type: ignore[union-attr]
    assert train.num_units == train.statistics.num_units == 25
    assert all(asked.count(f"Question {number}?") == 2 for number in range(10))
    assert sum(f"Question {number}?" in asked for number in range(100, 110)) == 5
    assert "25 visits an epoch by weight or share" in str(train.statistics)


def test_statistics(tokenizer: PreTrainedTokenizerFast, write: Write) -> None:
    rows = [*_plain(range(3)), {"prompt": "Q", "completion": ""}, {"prompt": "Q", "completion": " long" * 50},
            {"prompt": "long " * 50, "completion": " a"}]  # fmt: skip
    stats = load_datasets(Data(train=(Source(path=write(rows)),), max_length=40), "sft", tokenizer).train.statistics
    assert (stats.num_rows, stats.num_kept, stats.num_truncated, stats.longest) == (6, 4, 1, 40)
    assert stats.dropped == {"empty answer": 1, "nothing to train on within the limit": 1}
    assert stats.warnings == ("2 of 6 rows left out: 1 empty answer, 1 nothing to train on within the limit",)
    assert "4 of 6 rows kept" in str(stats)


def test_nothing_left_says_why(tokenizer: PreTrainedTokenizerFast, write: Write) -> None:
    source = Source(path=write(_plain(range(3))))
    with pytest.raises(UserError, match="data.train: no row is left of 3\n  3 dropped: nothing to train on within"):
        load_datasets(Data(train=(source,), max_length=2), "sft", tokenizer)
    with pytest.raises(
        UserError,
        match=r"data.eval: no row of data.train is held out for it\n  data.train has too few for data.holdout=0.0001",
    ):
        load_datasets(Data(train=(source,), holdout=0.0001), "sft", tokenizer)
    with pytest.raises(UserError, match="lower it; data.holdout=0 evaluation.every=0 does without held-out rows"):
        load_datasets(Data(train=(Source(path=write(_plain(range(1)))),), holdout=0.4), "sft", tokenizer)
    with pytest.raises(UserError, match="data.train: there is nothing to train on"):
        load_datasets(Data(), "sft", tokenizer)


def test_a_bad_row_stops_with_its_place(tokenizer: PreTrainedTokenizerFast, write: Write) -> None:
    path = write([*_plain(range(3)), {"prompt": "a", "completoin": "b"}])
    with pytest.raises(UserError) as caught:
        load_datasets(Data(train=(Source(path=path),)), "sft", tokenizer)
    assert caught.value.where == f"{path}:4"
    assert "did you mean `completoin`?" in caught.value.hint


def _mixed_up(tmp_path: Path) -> str:
    """Five good rows, and one of every kind of bad row among them."""
    good = [json.dumps(row) for row in _plain(range(5))]
    unknown = json.dumps({"prompt": [{"role": "critic", "content": "Q"}], "completion": " a"})
    lines = [good[0], '{"prompt": ', good[1], '{"prompt": 3, "completion": " a"}', good[2], r'{"prompt": "\ud83d"}',
             good[3], unknown, good[4]]  # fmt: skip
    path = tmp_path / "mixed.jsonl"
    path.write_text("\n".join(lines))
    return str(path)


def test_bad_rows_are_left_out_named_and_counted(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    path = _mixed_up(tmp_path)
    data = Data(train=(Source(path=path),), on_bad_row="drop", max_dropped=4)
    train = load_datasets(data, "sft", tokenizer).train
    assert [str(row.prompt) for row in train.rows(range(5))] == [f"Question {number}?" for number in range(5)]  # type: ignore[union-attr]
    report = train.statistics
    assert (report.num_rows, report.num_kept) == (9, 5)
    assert report.bad_by_reason == {
        "cannot be parsed": 1, "wrong columns or types": 1, "half of a character": 1, "refused by the chat template": 1,
    }  # fmt: skip
    assert {row.where for row in report.bad} == {f"{path}:{line}" for line in (2, 4, 6, 8)}
    assert "1 bad (refused by the chat template)" in str(report)
    (warning,) = report.warnings
    assert warning.startswith("4 bad rows left out (1 cannot be parsed, ")


def test_more_bad_rows_than_the_budget_stop_and_name_the_first(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    path = _mixed_up(tmp_path)
    with pytest.raises(UserError) as caught:
        load_datasets(
            Data(train=(Source(path=path),), on_bad_row="drop", max_dropped=3), "sft", tokenizer
        )  # fmt: skip
    assert caught.value.where == f"{path}:2"
    assert "more than 3 rows of data.train are wrong (1 cannot be parsed; 1 half of a character;" in caught.value.what
    assert "data.max_dropped" in caught.value.hint


def test_the_first_bad_row_stops_unless_told_otherwise(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    path = _mixed_up(tmp_path)
    with pytest.raises(UserError, match="malformed JSON.*\n.*data.on_bad_row=drop leaves such rows out") as caught:
        load_datasets(Data(train=(Source(path=path),)), "sft", tokenizer)
    assert caught.value.where == f"{path}:2"


def test_bad_rows_are_known_at_every_start(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    """Rows come out of the store the second time: what was wrong with some is judged anew."""
    source = Source(path=_mixed_up(tmp_path))
    first, again = (_prepared(Data(train=(source,), on_bad_row="drop"), tokenizer, tmp_path) for _ in range(2))
    assert str(first.train.statistics) == str(again.train.statistics)
    assert [row.digest for row in first.train.statistics.bad] == [row.digest for row in again.train.statistics.bad]
    with pytest.raises(UserError, match="malformed JSON.*\n.*data.on_bad_row=drop leaves such rows out"):
        _prepared(Data(train=(source,)), tokenizer, tmp_path)
    with pytest.raises(UserError, match="more than 3 rows of data.train are wrong"):
        _prepared(Data(train=(source,), on_bad_row="drop", max_dropped=3), tokenizer, tmp_path)


def _prepared(data: Data, tokenizer: PreTrainedTokenizerFast, folder: Path) -> Datasets:
    preparing = prepare_datasets(data, "sft", tokenizer, folder / "store")
    while True:
        try:
            next(preparing)
        except StopIteration as done:
            found: Datasets = done.value
            return found


def test_a_list_alone_is_the_list_of_a_run(tokenizer: PreTrainedTokenizerFast, write: Write) -> None:
    """Rows of train that ask the same are left out of train; the list that judges stays as it is."""
    held = (Source(path=write(_plain(range(3, 8)), "test.jsonl")), BUILTIN)
    data = Data(train=(Source(path=write(_plain(range(5)))),), test=held)
    whole, alone = load_datasets(data, "sft", tokenizer).test, load_list(held, data, "sft", tokenizer)
    assert whole is not None
    assert alone.source_sizes == whole.source_sizes == (5, 40)
    assert alone.rows(range(45)) == whole.rows(range(45))
    both = [dataset.batch(range(45)).ragged("response_ids").values.tolist() for dataset in (alone, whole)]
    assert both[0] == both[1]
