"""What is said of tokenised rows: which tokens are trained, where answers end, what repeats, how long they are."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Sequence
from pathlib import Path

import pytest

from distft.cli import main
from distft.config.data import Data, Source
from distft.data import token_counts
from distft.data.dataset import load_datasets
from distft.data.tokenizer_training import train_tokenizer
from distft.data.xray import answer_ends, xray
from distft.data.xray_result import ListXRay
from tests.reference.tiny_models import save_llama

LONG = " no" * 30
RECIPE = """
name: looked-at
output_dir: out
algorithm: {kind: sft}
models: {policy: {init: {hidden_size: 32, num_layers: 1, num_heads: 2, vocab_size: 300, max_positions: 64}}}
data: {train: [{path: rows.jsonl}], max_length: 24, max_prompt_length: 16}
train: {steps: 1, global_batch_size: 2}
"""


def looked_at(tmp_path: Path, rows: Sequence[dict[str, object]], kind: str = "sft", max_length: int = 24) -> ListXRay:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    tokenizer = train_tokenizer(["yes", "no"], 262)
    data = Data(train=(Source(path=str(path)),), max_length=max_length, max_prompt_length=16)
    dataset = load_datasets(data, kind, tokenizer).train
    learned = None if kind == "grpo" else dataset.batch
    return xray("train", dataset, learned, tokenizer, answer_ends(tokenizer), num_shown=2)


def test_tokens_are_told_apart_and_their_texts_are_the_text(tmp_path: Path) -> None:
    found = looked_at(tmp_path, [{"prompt": "Hé?", "completion": " é😀"}])
    (shown,) = found.shown
    assert "".join(token.text for token in shown.tokens) == "Hé? é😀<|end|>"
    assert [token.part for token in shown.tokens] == ["prompt"] * 4 + ["response"] * 8  # bytes: no merges
    assert [token.trained for token in shown.tokens] == [False] * 4 + [True] * 8
    assert [token.stop for token in shown.tokens] == [False] * 11 + [True]
    assert (found.counts.num_tokens, found.counts.num_trained, found.counts.num_ending) == (12, 8, 1)
    assert not list(found.remarks())


def test_corrupted_texts_are_shown_as_they_are_learned(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is read, with masks, and the text; that an encoder's text has no end is no fault."""
    monkeypatch.chdir(tmp_path)
    assert main(["data", "mlm-tiny", "--list", "train", "--json", "data.train.0.limit=20", "data.cache_dir=rows"]) == 0
    (found,) = json.loads(capsys.readouterr().out)["lists"]
    tokens = found["shown"][0]["tokens"]
    read, learned = ([one for one in tokens if one["part"] == part] for part in ("prompt", "response"))
    assert len(read) == len(learned)
    hidden = [place for place, one in enumerate(read) if one["text"] == "<|mask|>"]
    assert hidden
    assert all(learned[place]["trained"] for place in hidden)
    assert (found["answered"], found["ended"]) == (True, False)


def test_a_classifier_writes_nothing_that_could_end(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["--list", "train", "data.train.0.limit=20", "data.cache_dir=rows"]
    assert main(["data", "classification-tiny", *words]) == 0
    said = capsys.readouterr().out
    assert "an answer ends with no token" in said
    assert "stop token:" not in said


def test_what_is_cut_and_what_repeats_is_remarked_on(tmp_path: Path) -> None:
    rows = [
        {"prompt": "a", "completion": " b"},
        {"prompt": "a", "completion": LONG},
        {"prompt": "a", "completion": " b"},
    ]
    found = looked_at(tmp_path, rows)
    assert (found.counts.num_ending, found.counts.num_sequences, found.counts.num_repeated) == (2, 3, 1)
    assert [re.sub(":.*|,.*", "", text) for text in found.remarks()] == [
        "1 of 3 sequences end without a trained stop token", "1 of 3 rows repeat an earlier one",
    ]  # fmt: skip
    assert found.lengths.quantiles == {"median": 4, "90 %": 24, "99 %": 24, "longest": 24}
    bars = dict(zip(found.lengths.edges, found.lengths.heights, strict=False))
    assert sum(bars.values()) == 3
    assert (bars[4], bars[24]) == (2, 1)


def test_a_pair_is_one_unit_of_two(tmp_path: Path) -> None:
    found = looked_at(tmp_path, [{"prompt": "a", "chosen": " b", "rejected": " c"}] * 2, "dpo")
    assert [(shown.unit, shown.name) for shown in found.shown] == [
        (0, "chosen"), (0, "rejected"), (1, "chosen"), (1, "rejected"),
    ]  # fmt: skip
    assert (found.counts.num_units, found.counts.num_sequences, found.counts.num_repeated) == (2, 4, 1)


def test_a_row_is_named_by_its_file_and_line(tmp_path: Path) -> None:
    """Though a row before it was dropped."""
    rows = [{"prompt": "a", "completion": ""}, {"prompt": "a", "completion": " b"}]
    (shown,) = looked_at(tmp_path, rows).shown
    assert shown.place == f"{tmp_path}/rows.jsonl:2"


def test_a_ranking_is_one_unit_of_all_its_answers(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [
        {"prompt": "a", "completions": [" b", " c", " d"], "ranks": [2, 1, 2]},
        {"prompt": "a", "completions": [" c", " b"], "ranks": [2, 1]},
    ]
    found = looked_at(tmp_path, rows, "reward")
    assert [(shown.unit, shown.name) for shown in found.shown] == [
        (0, "answer 1 of 3, rank 1"), (0, "answer 2 of 3, rank 2"), (0, "answer 3 of 3, rank 2"),
        (1, "chosen"), (1, "rejected"),
    ]  # fmt: skip
    assert (found.counts.num_units, found.counts.num_sequences) == (2, 5)


def test_prompts_are_not_trained_and_nothing_is_missed(tmp_path: Path) -> None:
    found = looked_at(tmp_path, [{"prompt": "a"}, {"prompt": "b"}], "grpo", max_length=200)
    assert (found.answered, found.counts.num_trained, list(found.remarks())) == (False, 0, [])


def test_the_recipe_may_name_what_ends_an_answer() -> None:
    tokenizer = train_tokenizer(["yes", "no"], 262)
    assert answer_ends(tokenizer) == {tokenizer.eos_token_id}
    assert answer_ends(tokenizer, ["<|user|>"]) == {tokenizer.convert_tokens_to_ids("<|user|>")}


def test_a_large_list_is_counted_in_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_counts, "MOST_COUNTED", 5)
    found = looked_at(tmp_path, [{"prompt": "a", "completion": f" {number}"} for number in range(50)])
    assert (found.num_units, found.counts.num_units, sum(found.lengths.heights)) == (50, 5, 50)


def test_the_verb_shows_writes_and_refuses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    attack = "</pre><script>alert(1)</script>"
    (tmp_path / "rows.jsonl").write_text(json.dumps({"prompt": "ab", "completion": attack}) + "\n")
    (tmp_path / "mine.yaml").write_text(RECIPE)
    assert main(["data", "mine.yaml"]) == 0
    out = capsys.readouterr().out
    assert "an answer ends with <|end|>" in out
    assert "ab\u27e6</pre><script>" in out
    assert main(["data", "mine.yaml", "--html", "seen.html"]) == 0
    page = (tmp_path / "seen.html").read_text()
    assert "alert(1)</" not in page
    assert "&lt;/" in page
    assert main(["data", "mine.yaml", "--list", "eval"]) == 2
    assert "it has train" in capsys.readouterr().err
    assert main(["data", "mine.yaml", "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["lists"][0]["counts"]["num_units"] == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine.yaml", "rows.jsonl", "seen.html"]


def test_new_tokens_are_counted_and_those_without_a_row_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    save_llama(tmp_path / "model", train_tokenizer(["yes", "no"], 262), num_layers=1)
    (tmp_path / "looked.yaml").write_text(re.sub(r"init: {.*?}", "path: model", RECIPE))
    rows = [{"prompt": "a zyx?", "completion": "zyx wvu"}, {"prompt": "b?", "completion": "zyx"}]
    (tmp_path / "rows.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    words = ["data", "looked.yaml", "models.policy.extend_vocabulary=[zyx, wvu, tsr]"]
    assert main(words) == 0
    said = capsys.readouterr().out
    assert "  new tokens occur: 'tsr' 0, 'wvu' 1, 'zyx' 3" in said
    never = "1 of the new tokens occur in no row of data.train that was looked into ('tsr'): nothing is learned of them"
    assert f"warning: models.policy.extend_vocabulary: {never}" in said
    assert main([*words, "--html", "page.html"]) == 0
    page = html.unescape((tmp_path / "page.html").read_text())
    assert "New tokens occur: 'tsr' 0, 'wvu' 1, 'zyx' 3." in page
