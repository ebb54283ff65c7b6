"""Rows are tokenised once: kept over a kill, shared by two writers, made anew where they are damaged."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest
from transformers import PreTrainedTokenizerFast

from distft.checkpoint.lease import acquire
from distft.common.errors import UserError
from distft.config.data import Data
from distft.data import chunks
from distft.data.chunks import Task
from distft.data.formats import Row
from distft.data.store import BESIDE, KEPT_S, ROWS, Reading, store_folder, store_rows, stored
from distft.data.stored_rows import StoredRows

NUM_ROWS = 11
Storing = Callable[..., Generator[str, None, StoredRows]]


def rows(count: int = NUM_ROWS) -> list[Row]:
    """Of different lengths, one of them without an answer."""
    answers = [" a" * (1 + number % 4) for number in range(count)]
    answers[min(4, count - 1)] = ""
    return [Row({"prompt": f"Q {number}", "completion": answer}, f"rows:{number}")
            for number, answer in enumerate(answers)]  # fmt: skip


@pytest.fixture
def storing(tokenizer: PreTrainedTokenizerFast, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Storing:
    """``storing(rows, folder=..., ...)``: chunks of two rows."""
    monkeypatch.setattr(chunks, "MAX_ROWS", 2)

    def start(
        found: Iterable[Row], folder: str = "store", num_workers: int = 0, check: Callable[[], None] = lambda: None,
        patience_s: float = 60.0,
    ) -> Generator[str, None, StoredRows]:  # fmt: skip
        task = Task("sft", None, Data(num_workers=num_workers), "train", tokenizer)
        reading = Reading("rows.jsonl", lambda _: iter(found), lambda _: "prompt_completion", check, NUM_ROWS)
        return store_rows(tmp_path / folder, reading, task, patience_s=patience_s)

    return start


def drained(storing: Generator[str, None, StoredRows]) -> StoredRows:
    while True:
        try:
            next(storing)
        except StopIteration as done:
            found: StoredRows = done.value
            return found


def never() -> Iterator[Row]:
    raise AssertionError("the rows are read again")
    yield


def content(found: StoredRows) -> list[tuple[list[list[int]], str]]:
    """Every row's ids, or why it has none."""
    kept = found.kept()
    return [
        ([part.tolist() for sequence in found.sequences(row) for part in sequence], "")
        if kept[row]
        else ([], str(found.reasons(np.array([row]))))
        for row in range(len(found))
    ]


def test_a_second_start_reads_no_row(storing: Storing, tmp_path: Path) -> None:
    first = content(drained(storing(rows())))
    assert len(first) == NUM_ROWS
    assert first[4] == ([], "Counter({'empty answer': 1})")
    again = drained(storing(never()))
    assert content(again) == first
    assert sorted(path.name for path in (tmp_path / "store").iterdir() if path.suffix == ".arrow") == [ROWS]
    assert again.example(3).prompt == "Q 3"  # type: ignore[union-attr]
    assert again.example(3).where == "rows:3"


def test_what_was_done_before_an_end_is_kept(storing: Storing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    undisturbed = drained(storing(rows(), folder="undisturbed"))
    killed = storing(rows())
    said = [next(killed) for _ in range(6)]
    assert said[-1].startswith("tokenising rows.jsonl: 6 of about 11 rows")
    del killed
    done = len(list((tmp_path / "store").glob("chunk-*")))
    assert done == 3
    tokenised: list[int] = []
    batch = Task.batch
    monkeypatch.setattr(
        Task, "batch", lambda task, some, form: (tokenised.append(len(some)), batch(task, some, form))[1]
    )
    assert content(drained(storing(rows()))) == content(undisturbed)
    assert sum(tokenised) == NUM_ROWS - 2 * done


def test_the_second_of_two_writers_waits_and_tokenises_nothing(storing: Storing, tmp_path: Path) -> None:
    one, other = storing(rows()), storing(never())
    next(one)
    assert next(other).startswith("waiting for rows.jsonl: process ")
    first = drained(one)
    assert content(drained(other)) == content(first)


def test_a_writer_that_does_not_get_on_is_not_waited_for(storing: Storing, tmp_path: Path) -> None:
    """Both then write, and neither harms the other."""
    stuck = storing(rows())
    for _ in range(4):
        next(stuck)
    found = drained(storing(rows(), patience_s=0.0))
    assert content(drained(stuck)) == content(found)
    assert content(drained(storing(never()))) == content(found)


def test_a_dead_writers_place_is_taken(storing: Storing, tmp_path: Path) -> None:
    with acquire(tmp_path / "store"):
        lease = tmp_path / "store" / "lease.json"
        owner = json.loads(lease.read_text())
    lease.write_text(json.dumps({**owner, "start": "1"}))  # the pid is another process's now
    assert next(storing(rows())).startswith("tokenising")


def test_damaged_rows_are_made_anew(storing: Storing, tmp_path: Path) -> None:
    first = content(drained(storing(rows())))
    path = tmp_path / "store" / ROWS
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert stored(tmp_path / "store") is None
    assert content(drained(storing(rows()))) == first


def test_what_no_run_has_used_for_a_month_goes_when_rows_are_added(storing: Storing, tmp_path: Path) -> None:
    store = tmp_path / "store"
    unused, used, half, theirs = (store / name for name in ("a" * 32, "b" * 32, "c" * 32, "a folder of the user's"))
    for folder in (unused, used):
        drained(storing(rows(), f"store/{folder.name}"))
    for folder in (half, theirs):
        folder.mkdir()
        (folder / "chunk-000000.arrow").write_bytes(b"")
    long_ago = time.time() - KEPT_S - 60
    for folder in (unused, used, half, theirs):
        for path in (*folder.iterdir(), folder):
            os.utime(path, (long_ago, long_ago))
    drained(storing(never(), f"store/{used.name}"))
    assert unused.is_dir(), "nothing was added"
    with acquire(half):
        drained(storing(rows(), f"store/{'d' * 32}"))
        assert half.is_dir(), "somebody goes on with it"
    assert not unused.exists()
    assert used.is_dir()
    assert theirs.is_dir()


def test_rows_that_changed_while_they_were_read_are_not_kept(storing: Storing, tmp_path: Path) -> None:
    def changed() -> None:
        raise UserError("the file was changed while it was read")

    with pytest.raises(UserError, match="was changed while"):
        drained(storing(rows(), check=changed))
    assert not list((tmp_path / "store").glob("*.arrow"))


def test_several_processes_give_the_same(storing: Storing) -> None:
    alone = drained(storing(rows(), folder="alone"))
    assert content(drained(storing(rows(), num_workers=2))) == content(alone)


def test_a_wrong_row_is_the_users(storing: Storing) -> None:
    wrong = Row({"prompt": "Q", "completion": 7}, "rows:99")
    with pytest.raises(UserError, match="rows:99"):
        drained(storing([*rows(), wrong]))


def test_a_folder_that_cannot_be_made_names_the_key(storing: Storing, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="data.cache_dir=FOLDER"):
        drained(storing(rows(), folder="file/store"))


def test_the_store_lies_beside_the_run_folder_or_where_the_recipe_says(tmp_path: Path) -> None:
    assert store_folder(None, str(tmp_path / "run")) == tmp_path / BESIDE
    assert store_folder(str(tmp_path / "mine"), str(tmp_path / "run")) == tmp_path / "mine"
    assert store_folder(None, str(tmp_path / "nowhere" / "run")) == tmp_path / "nowhere" / "run" / BESIDE
