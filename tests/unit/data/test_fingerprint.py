"""What a source holds, and what its tokens depend on."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from distft.common.errors import UserError
from distft.config.data import Data, Source
from distft.data import fingerprint
from distft.data.fingerprint import Content, content_of, contents_of_files, tokens_key

Write = Callable[..., str]
ROWS = [{"text": "one"}, {"text": "two"}]


def drained(looking: Generator[str, None, Content]) -> Content:
    while True:
        try:
            next(looking)
        except StopIteration as done:
            found: Content = done.value
            return found


def content(path: str, store: Path) -> Content:
    return drained(content_of(Source(path=path), "train", store))


def test_equal_rows_are_equal_wherever_they_lie(write: Write, tmp_path: Path) -> None:
    one, other = (content(write(ROWS, name), tmp_path) for name in ("a.jsonl", "b.jsonl"))
    assert one.digest == other.digest
    assert one.num_rows is not None
    assert 2 <= one.num_rows <= 3
    assert content(write([*ROWS, {"text": "three"}]), tmp_path).digest != one.digest


def test_rows_of_equal_size_are_told_apart(write: Write, tmp_path: Path) -> None:
    """Also where the file's size is what it was, and its hash was remembered."""
    path = Path(write(ROWS))
    os.utime(path, (1e9, 1e9))
    before = content(str(path), tmp_path)
    path.write_text(path.read_text().replace("one", "eno"))
    assert content(str(path), tmp_path).digest != before.digest
    with pytest.raises(UserError, match="was changed while it was read"):
        before.require_unchanged()


def test_an_unchanged_file_is_hashed_once(write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(ROWS)
    os.utime(path, (1e9, 1e9))  # a file changed just now might change again within its time stamp
    first = content(path, tmp_path)
    monkeypatch.setattr(fingerprint, "_hash", None)
    assert content(path, tmp_path) == first


def test_a_store_that_cannot_be_written_is_not_this_ones_to_complain_of(write: Write, tmp_path: Path) -> None:
    path = write(ROWS)
    os.utime(path, (1e9, 1e9))
    in_the_way = tmp_path / "file"
    in_the_way.write_text("")
    assert content(path, in_the_way / "store") == content(path, tmp_path)


def test_sources_that_are_files_are_known_without_their_rows(write: Write, tmp_path: Path) -> None:
    path = write(ROWS)
    builtin = Source(path="builtin:dialogues")
    data = Data(train=[builtin, Source(path=path)], eval=[Source(path=path)], ptx=[Source(path=path)])
    digest = content(path, tmp_path).digest
    assert contents_of_files(data, tmp_path) == dict.fromkeys(("data.train.1", "data.eval.0", "data.ptx.0"), digest)


def test_a_folder_is_all_its_files(write: Write, tmp_path: Path) -> None:
    folder = tmp_path / "rows"
    folder.mkdir()
    for name in ("a", "b"):
        (folder / f"{name}.jsonl").write_text('{"text": "x"}\n')
    both = content(str(folder), tmp_path)
    (folder / "b.jsonl").write_text('{"text": "y"}\n')
    assert content(str(folder), tmp_path).digest != both.digest


CHANGES: list[tuple[dict[str, Any], bool]] = [
    ({"data": Data(max_length=99)}, True),
    ({"kind": "ppo"}, True),
    ({"loss_on": "all"}, True),
    ({"template": "{{ messages }}"}, True),
    ({"source": Source(path="a.jsonl", limit=3)}, True),
    ({"data": Data(ptx=[Source(path="b.jsonl")])}, False),
    ({"data": Data(shuffle=False, holdout=0.1, num_workers=2, cache_dir="elsewhere")}, False),
    ({"source": Source(path="a.jsonl", weight=2.0)}, False),
    ({"source": Source(path="a.jsonl", share=0.2, name="old")}, False),
]


@pytest.mark.parametrize(("change", "other"), CHANGES)
def test_what_the_tokens_depend_on(tokenizer: PreTrainedTokenizerFast, change: dict[str, Any], other: bool) -> None:
    def key(source: Source = Source(path="a.jsonl"), kind: str = "sft", loss_on: str | None = None,  # noqa: B008
            data: Data = Data(), template: str | None = None) -> str:  # fmt: skip  # noqa: B008
        former = tokenizer.chat_template
        tokenizer.chat_template = template or former
        try:
            return tokens_key(source, Content("digest", None), kind, loss_on, data, tokenizer)
        finally:
            tokenizer.chat_template = former

    assert (key(**change) != key()) == other
