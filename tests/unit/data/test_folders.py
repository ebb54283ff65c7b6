from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset, DatasetDict

from distft.common.errors import UserError
from distft.config.data import Source
from distft.data.folders import folder_files
from distft.data.sources import read_rows


def _files(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text('{"text": "a"}\n')
    return folder


def _found(folder: Path, split: str | None = None, list_name: str = "train") -> list[str]:
    return [str(path.relative_to(folder)) for path in folder_files(folder, split, list_name)]


def test_splits_with_an_underscore_are_splits_of_their_own(tmp_path: Path) -> None:
    names = [f"data/{split}-00000-of-00001.jsonl" for split in ("test_prefs", "train_gen", "train_prefs", "train_sft")]
    folder = _files(tmp_path, *names)
    with pytest.raises(UserError, match="several splits may be meant for train: train_gen, train_prefs, train_sft"):
        folder_files(folder, None, "train")
    assert _found(folder, "train_prefs") == [names[2]]
    assert _found(folder, None, "test") == [names[0]]
    with pytest.raises(UserError, match="no split 'train_pref'\n.*did you mean `split: train_prefs`"):
        folder_files(folder, "train_pref", "train")


def test_numbers_of_shards_are_no_splits(tmp_path: Path) -> None:
    folder = _files(tmp_path, "train_0.jsonl", "train_1.jsonl", "train-00000-of-00002.jsonl", "train_part3.jsonl.gz")
    assert len(_found(folder)) == 4


def test_the_very_name_wins(tmp_path: Path) -> None:
    assert _found(_files(tmp_path, "train.jsonl", "train_small.jsonl")) == ["train.jsonl"]
    assert _found(tmp_path, "train_small") == ["train_small.jsonl"]


def test_a_split_by_any_name(tmp_path: Path) -> None:
    folder = _files(tmp_path, "hard/a.jsonl", "easy-00000-of-00002.jsonl", "easy-00001-of-00002.jsonl")
    assert len(_found(folder)) == 3
    assert _found(folder, "hard") == ["hard/a.jsonl"]
    assert len(_found(folder, "easy")) == 2


def test_metadata_and_hidden_files_are_no_data(tmp_path: Path) -> None:
    folder = _files(tmp_path, "part-0.jsonl", "dataset_infos.json", "_metadata.json", ".cache/a.jsonl", "README.md")
    assert _found(folder) == ["part-0.jsonl"]


def test_texts_are_data_where_there_is_nothing_else(tmp_path: Path) -> None:
    assert _found(_files(tmp_path / "texts", "a.txt", "b.txt")) == ["a.txt", "b.txt"]
    assert _found(_files(tmp_path / "rows", "a.jsonl", "LICENSE.txt")) == ["a.jsonl"]


def test_what_save_to_disk_writes(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"prompt": "a", "completion": [{"role": "assistant", "content": "b"}]},
        {"prompt": "c"},
    ]
    one, more = Dataset.from_list(rows[:1]), Dataset.from_list(rows[1:])
    one.save_to_disk(str(tmp_path / "one"))
    DatasetDict({"train": one, "test": more}).save_to_disk(str(tmp_path / "two"))
    for source, expected in (
        (Source(path=str(tmp_path / "one")), rows[0]),
        (Source(path=str(tmp_path / "two")), rows[0]),
        (Source(path=str(tmp_path / "two"), split="test"), rows[1]),
        (Source(path=str(tmp_path / "two" / "train")), rows[0]),
    ):
        (row,) = read_rows(source)
        assert row.values == expected
        assert row.where.endswith(".arrow:1")


def test_an_empty_shard_is_passed_over(tmp_path: Path) -> None:
    folder = _files(tmp_path, "part-0.jsonl")
    (folder / "part-1.jsonl").touch()
    (row,) = read_rows(Source(path=str(folder)))
    assert row.values == {"text": "a"}
