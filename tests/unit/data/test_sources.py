from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from distft.common.errors import EnvironmentFallsShort, UserError
from distft.config.data import Data, Source
from distft.data.sources import check_rows, corpus_texts, hub_notes, read_rows

Write = Callable[..., str]


def _texts(source: Source, list_name: str = "train") -> list[str]:
    return [row.values["text"] for row in read_rows(source, list_name)]


def test_limit_and_columns(write: Write) -> None:
    path = write([{"body": str(number), "text": "old", "more": 1} for number in range(5)])
    rows = list(read_rows(Source(path=path, columns={"body": "text"}, limit=2)))
    assert [dict(row.values) for row in rows] == [{"text": "0", "more": 1}, {"text": "1", "more": 1}]


def test_columns_can_be_swapped(write: Write) -> None:
    path = write([{"chosen": "a", "rejected": "b"}])
    (row,) = read_rows(Source(path=path, columns={"chosen": "rejected", "rejected": "chosen"}))
    assert row.values == {"chosen": "b", "rejected": "a"}


@pytest.mark.parametrize(
    ("columns", "hint"),
    [
        ({"bodi": "text"}, "did you mean `body`?"),
        ({"zzz": "text"}, "the row has: body"),
        ({"text": "body"}, "write `columns: {body: text}`?"),
        ({"words": "body"}, "it has `body` already: leave this rename out"),
    ],
)
def test_a_rename_of_what_is_not_there(write: Write, columns: dict[str, str], hint: str) -> None:
    path = write([{"body": "a"}])
    with pytest.raises(UserError) as caught:
        list(read_rows(Source(path=path, columns=columns)))
    assert caught.value.where == f"{path}:1"
    assert hint in caught.value.hint


def test_a_missing_file_is_told_before_the_first_row(write: Write) -> None:
    path = write([{"text": "a"}], "train.jsonl")
    with pytest.raises(UserError) as caught:
        read_rows(Source(path=path.replace("train", "trian")))
    assert f"did you mean {path}?" in str(caught.value)


def test_a_folder_gives_the_files_of_the_list(write: Write, tmp_path: Path) -> None:
    (tmp_path / "test").mkdir()
    for name in ("train-00000-of-00002.jsonl", "train-00001-of-00002.jsonl", "corpus.dev.jsonl", "test/a.jsonl"):
        write([{"text": name}], name)
    source = Source(path=str(tmp_path))
    assert _texts(source) == ["train-00000-of-00002.jsonl", "train-00001-of-00002.jsonl"]
    assert _texts(source, "eval") == ["corpus.dev.jsonl"]
    assert _texts(source, "test") == ["test/a.jsonl"]
    assert _texts(Source(path=str(tmp_path), split="dev")) == ["corpus.dev.jsonl"]
    with pytest.raises(UserError) as caught:
        read_rows(Source(path=str(tmp_path), split="tset"))
    assert "did you mean `split: test`? There are: dev, test, train" in caught.value.hint


def test_a_folder_without_splits_gives_all_its_files(write: Write, tmp_path: Path) -> None:
    write([{"text": "b"}], "b.jsonl")
    write([{"text": "a"}], "a.jsonl")
    write([{"text": "hidden"}], ".a.jsonl")
    (tmp_path / "README.md").write_text("not data")
    assert _texts(Source(path=str(tmp_path))) == ["a", "b"]


def test_a_folder_without_data(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no data files"):
        read_rows(Source(path=str(tmp_path)))


def test_a_file_has_no_splits(write: Write) -> None:
    with pytest.raises(UserError, match="a file has no splits"):
        read_rows(Source(path=write([{"text": "a"}]), split="train"))


def test_the_embedded_corpus_and_its_errors() -> None:
    (row,) = read_rows(Source(path="builtin:dialogues", limit=1), "eval")
    assert row.where == "builtin:dialogues/eval:1"
    with pytest.raises(UserError, match="known: builtin:dialogues"):
        read_rows(Source(path="builtin:dialogs"))
    with pytest.raises(UserError, match="no split 'validation'"):
        read_rows(Source(path="builtin:dialogues", split="validation"))


def test_the_hub_out_of_reach_is_the_environment_not_the_recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    def unreachable(*_: object, **__: object) -> None:
        raise ConnectionError("Couldn't reach the Hub\nand more")

    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    with pytest.raises(EnvironmentFallsShort, match="Couldn't reach the Hub"):
        read_rows(Source(path="someone/some-rows", split="train"))


def test_the_hub_gives_the_split_of_the_list(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    asked: list[tuple[object, ...]] = []

    def load(name: str, subset: str | None, split: str) -> list[dict[str, str]]:
        asked.append((name, subset, split))
        return [{"text": split}]

    monkeypatch.setattr(datasets, "get_dataset_split_names", lambda *_: ["train", "validation"])
    monkeypatch.setattr(datasets, "load_dataset", load)
    (row,) = read_rows(Source(path="someone/rows:part"), "eval")
    assert row.where == "someone/rows:part[validation]:1"
    assert asked == [("someone/rows", "part", "validation")]
    with pytest.raises(UserError, match="There are: train, validation"):
        read_rows(Source(path="someone/rows"), "test")
    monkeypatch.setattr(datasets, "get_dataset_split_names", lambda *_: ["train_sft", "train_gen", "test_sft"])
    (row,) = read_rows(Source(path="someone/rows"), "test")
    assert row.values == {"text": "test_sft"}
    with pytest.raises(UserError, match="several splits may be meant for train: train_sft, train_gen"):
        read_rows(Source(path="someone/rows"))


def test_the_columns_of_the_hubs_sources_are_told_too(monkeypatch: pytest.MonkeyPatch, write: Write) -> None:
    import datasets

    rows = [{"question": "Hi?", "chosen": "yes", "rejected": "no"}]
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: rows)
    local = Source(path=write(rows))
    data = Data(train=(local, Source(path="someone/pairs", split="train"), Source(path="builtin:dialogues")))
    assert hub_notes(data, "dpo") == ["data.train.1: `question` is read as `prompt`"]


def test_check_rows_counts_and_complains(write: Write) -> None:
    path = write([{"messages": [{"role": role, "content": "a"}]} for role in ("user", "assistant")])
    checked = check_rows(Source(path=path), "sft")
    assert (checked.format, checked.num_rows, checked.num_unusable) == ("messages", 2, 1)
    with pytest.raises(UserError, match="none of the first 1 rows can be used"):
        check_rows(Source(path=path), "sft", max_rows=1)
    with pytest.raises(UserError, match="dpo cannot be trained on rows of format text"):
        check_rows(Source(path=path, format="text"), "dpo")


def test_answers_to_nothing_are_refused_unless_the_recipe_says_so(write: Write) -> None:
    path = write([{"task": "Hi?", "chosen": "yes", "rejected": "no"}] * 3)
    with pytest.raises(
        UserError, match="not one of the first 3 rows has a prompt; not read: `task`\n.*format: preference"
    ):
        check_rows(Source(path=path), "dpo")
    assert check_rows(Source(path=path, format="preference"), "dpo").notes[0].startswith("not read: `task`")
    assert check_rows(Source(path=path, columns={"task": "prompt"}), "dpo").notes == ()


def test_the_texts_of_a_source_are_the_same_for_every_kind(write: Write) -> None:
    (first, second, *_) = corpus_texts(Source(path="builtin:dialogues", limit=1))
    (row,) = read_rows(Source(path="builtin:dialogues", limit=1))
    assert [first, second] == [message["content"] for message in row.values["messages"]]
    rows = [{"prompt": "a"}, {"prompt": ""}, {"prompt": "b"}]
    assert list(corpus_texts(Source(path=write(rows)))) == ["a", "b"]
    assert list(corpus_texts(Source(path=write([{"body": "a"}]), format="text", columns={"body": "text"}))) == ["a"]


def test_checking_rows_imports_neither_torch_nor_transformers() -> None:
    code = (
        "import sys; from distft.config.data import Source; from distft.data.sources import check_rows;"
        "print(check_rows(Source(path='builtin:dialogues'), 'dpo', 5).format);"
        "sys.exit(bool({'torch', 'transformers', 'datasets', 'tokenizers'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "preference"), done.stderr
