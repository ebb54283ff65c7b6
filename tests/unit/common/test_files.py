from __future__ import annotations

import errno
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest

from distft.common import files


def full_disk(*_: Any, **__: Any) -> int:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_write_atomic_replaces_and_leaves_nothing_behind(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    files.write_atomic(path, "old")
    files.write_atomic(path, b"new")
    assert path.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["a.json"]


@pytest.mark.parametrize("call", ["fsync", "rename"])
def test_write_atomic_keeps_the_old_content_on_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                       call: str) -> None:  # fmt: skip
    path = tmp_path / "a.json"
    files.write_atomic(path, "old")
    monkeypatch.setattr(os, call, full_disk)
    with pytest.raises(OSError, match="No space"):
        files.write_atomic(path, "new")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.json"]


def test_write_json_refuses_nan(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        files.write_json(tmp_path / "a.json", {"loss": float("nan")})
    assert os.listdir(tmp_path) == []


def test_sha256_file_over_several_blocks(tmp_path: Path) -> None:
    content = os.urandom(9 * 1024 * 1024 + 1)
    (tmp_path / "x").write_bytes(content)
    assert files.sha256_file(tmp_path / "x") == hashlib.sha256(content).hexdigest()


def test_the_end_of_a_file(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(b"first\nsecond \xff\nthird\n")
    assert files.tail(log, 6) == b"third\n"
    assert files.tail(log, 100) == log.read_bytes()
    assert files.last_lines(log, 2) == ["second \ufffd", "third"]
    assert files.last_lines(log, 9, within=7) == ["", "third"]
    assert files.last_lines(tmp_path / "none", 2) == []


def test_jsonl_lines_and_torn_last_line(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    with files.JsonlWriter(path) as writer:
        writer.append({"a": 1}, {"b": "ä\u2028\x85\ud800"})
    with open(path, "ab") as file:
        file.write(b'{"torn": ')
    with files.JsonlWriter(path) as writer:
        writer.append({"c": 3})
    lines = path.read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines] == [{"a": 1}, {"b": "ä\u2028\x85\ud800"}, {"c": 3}]


def test_jsonl_torn_file_without_any_newline_is_emptied(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(b"{" * 5_000_000)
    files.JsonlWriter(path).close()
    assert path.stat().st_size == 0


def test_jsonl_takes_back_what_did_not_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.jsonl"
    writer = files.JsonlWriter(path)
    writer.append({"a": 1})
    real = os.write

    def some_room(descriptor: int, data: bytes) -> int:
        if len(data) < 20:
            return full_disk()
        return real(descriptor, data[:10])

    monkeypatch.setattr(os, "write", some_room)
    with pytest.raises(OSError, match="No space"):
        writer.append({"b": "x" * 50})
    monkeypatch.undo()
    assert path.read_text() == '{"a": 1}\n'
    writer.append({"c": 1})
    assert path.read_text() == '{"a": 1}\n{"c": 1}\n'


def test_keep_lines(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    assert files.keep_lines(path, lambda _: True) == 0
    path.write_text('{"n": 1}\nnot json\n[]\n{"n": 2}\n{"n": 3}')
    assert files.keep_lines(path, lambda record: record["n"] != 1) == 4
    assert path.read_text() == '{"n": 2}\n'
    inode = path.stat().st_ino
    assert files.keep_lines(path, lambda _: True) == 0
    assert path.stat().st_ino == inode


def test_the_nearest_name_beside_a_path_that_is_not_there(tmp_path: Path) -> None:
    for name in ("train.jsonl", "runs", "notes"):
        (tmp_path / name).touch()
    assert files.nearest_beside(tmp_path / "tran.json") == tmp_path / "train.jsonl"
    (tmp_path / "ring").symlink_to("ring")
    assert files.nearest_beside(tmp_path / "ring") is None
    assert files.nearest_beside(tmp_path / "zzz") is None
    assert files.nearest_beside(tmp_path / "no" / "train.jsonl") is None
