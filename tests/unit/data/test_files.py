from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
from datasets import load_dataset

from distft.common.errors import UserError
from distft.data.bad_rows import BadRow
from distft.data.files import missing_file, read_file, read_files

ROWS = [{"text": "one"}, {"text": "two\nlines"}, {"text": 'drei, "vier" ü'}]


def _values(path: Path) -> list[dict[str, object]]:
    return [dict(row.values) for row in read_file(path)]


def _write(path: Path, content: bytes) -> Path:
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def _csv() -> bytes:
    lines = ['"' + str(row["text"]).replace('"', '""') + '"' for row in ROWS]
    return ("text\r\n" + "\r\n".join(lines) + "\r\n").encode()


@pytest.mark.parametrize("gz", ["", ".gz"])
@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", "\n".join(json.dumps(row) for row in ROWS).encode()),
        ("a.json", json.dumps(ROWS, indent=1).encode()),
        ("b.json", "\n".join(json.dumps(row) for row in ROWS).encode()),
        ("a.ndjson", "\n".join(json.dumps(row) for row in ROWS).encode()),
        ("a.csv", _csv()),
    ],
)
def test_every_text_format_gives_the_same_rows(tmp_path: Path, name: str, content: bytes, gz: str) -> None:
    assert _values(_write(tmp_path / (name + gz), content)) == ROWS


def test_lines_of_a_text_are_the_rows_that_datasets_reads(tmp_path: Path) -> None:
    """But for blank ones, which say nothing."""
    path = _write(tmp_path / "a.txt", 'Once upon a time\n  there was\ta cat.\r\n\n \nüber "it"'.encode())
    theirs = [row["text"] for row in load_dataset("text", data_files=str(path), cache_dir=str(tmp_path))["train"]]
    assert [row["text"] for row in _values(path)] == [text for text in theirs if text.strip()]
    assert [row.where for row in read_file(path)] == [f"{path}:1", f"{path}:2", f"{path}:5"]
    assert _values(_write(tmp_path / "a.txt.gz", path.read_bytes())) == _values(path)
    ends = _write(tmp_path / "ends.txt", b"a\rb\r\r\nc")
    assert _values(ends) == [{"text": "a\rb\r"}, {"text": "c"}], "a line ends with \\n or \\r\\n, and nothing else"


def test_one_of_several_files_may_be_empty(tmp_path: Path) -> None:
    empty, full = _write(tmp_path / "a.jsonl", b""), _write(tmp_path / "b.jsonl", b'{"a": 1}\n')
    assert [row.values["a"] for row in read_files([empty, full])] == [1]
    with pytest.raises(UserError, match="none of the 2 files has a row"):
        list(read_files([empty, empty]))


def test_a_file_of_bad_rows_alone_is_not_empty(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text("prompt,chosen,rejected\n")
    bad: list[BadRow] = []
    assert list(read_files([tmp_path / "rows.jsonl"], bad.append)) == []
    assert [one.where for one in bad] == [f"{tmp_path}/rows.jsonl:1"]


def test_rows_know_their_lines(tmp_path: Path) -> None:
    lines = _write(tmp_path / "a.jsonl", b'{"a": 1}\n\n  \n{"a": 2}\r\n')
    assert [row.where for row in read_file(lines)] == [f"{lines}:1", f"{lines}:4"]
    listed = _write(tmp_path / "a.json", b'[\n {"a":\n 1},\n\n {"a": 2}]')
    assert [row.where for row in read_file(listed)] == [f"{listed}:2", f"{listed}:5"]
    table = _write(tmp_path / "a.csv", b'a,b\n"1\n2",x\n3,y\n')
    assert [row.where for row in read_file(table)] == [f"{table}:2", f"{table}:4"]


def test_a_byte_order_mark_is_no_part_of_the_first_column(tmp_path: Path) -> None:
    assert _values(_write(tmp_path / "a.csv", b"\xef\xbb\xbftext\none\n")) == [{"text": "one"}]
    assert _values(_write(tmp_path / "a.jsonl", b'\xef\xbb\xbf{"text": "one"}\n')) == [{"text": "one"}]


@pytest.mark.parametrize(
    ("name", "content", "where", "what"),
    [
        ("a.jsonl", b'{"a": 1}\n{"a": }\n', ":2", "malformed JSON at column 7: Expecting value"),
        ("a.jsonl", b'{"a": 1}\n{"a": 2\n', ":2", "malformed JSON at column 8: Expecting ',' delimiter"),
        ("a.jsonl", b'{"a": 1}\n["a"]\n', ":2", "must be an object with named columns, not a list"),
        ("a.jsonl", b'{"a": 1}\nnull\n', ":2", "not null"),
        ("a.jsonl", b'{"a": 1}\n{"a": "\xff"}\n', ":2", "byte 8 of the line (0xff) is not UTF-8"),
        ("a.jsonl", b"", "", "the file has no rows"),
        ("a.jsonl", b"\n \n", "", "the file has no rows"),
        ("a.jsonl", b'[\n{"a": 1}\n]\n', ":1", "malformed JSON"),
        ("a.jsonl", b"[" * 100_000, ":1", "nested too deep"),
        ("a.json", b'[{"a": 1},\n{"a": 2]', ":2", "malformed JSON at column 8"),
        ("a.json", b'[{"a": 1},\n{"a": 2}', "", "the list is not closed"),
        ("a.json", b'[{"a": 1}\n{"a": 2}]', ":2", "does not go on with , or end with ]"),
        ("a.json", b'[{"a": 1},\n3]', ":2", "not a number"),
        ("a.json", b"[]", "", "the file has no rows"),
        ("a.jsonl", rb'{"a": 1, "b": "x \ud83d"}', ":1", r"`b` holds half of a character (\ud83d)"),
        ("a.jsonl", rb'{"a": [{"content": "\ude42"}]}', ":1", r"half of a character (\ude42)"),
        ("a.json", b'[{"a": 1},\n{"a": "\xff"}]', ":2", "(0xff) is not UTF-8"),
        ("a.csv", b"", "", "the file has no rows"),
        ("a.csv", b"a,b\n1,2\n1\n", ":3", "1 fields where the header has 2"),
        ("a.csv", b"a;b\n1;2\n", ":1", "the header has one column, 'a;b': it is separated by ';'"),
        ("a.csv", b"a,a\n1,2\n", ":1", "two columns of the header have one name"),
        ("a.csv", b'a,b\n1,"2\n', ":2", "malformed CSV"),
        ("a.csv", b"a\n1\n\xe9\n", ":3", "(0xe9) is not UTF-8"),
        ("a.parquet", b"PAR?", "", "not a parquet file"),
        ("a.dat", b"hello", "", "cannot tell how to read a .dat file"),
        ("a.txt", b"fine\n\xff\n", ":2", "is not UTF-8"),
        ("a.txt", b" \n\n", "", "the file has no rows"),
    ],
)
def test_bad_input_is_named_with_its_place(tmp_path: Path, name: str, content: bytes, where: str, what: str) -> None:
    path = _write(tmp_path / name, content)
    with pytest.raises(UserError) as caught:
        list(read_file(path))
    assert caught.value.where == f"{path}{where}"
    assert what in caught.value.what


def test_bad_rows_are_handed_over_and_the_others_keep_their_order(tmp_path: Path) -> None:
    lines = [b'{"a": 1}', b'{"a": }', b'{"a": 2}', b"[3]", b'{"a": "\xff"}', rb'{"a": ["\ud83d"]}', b'{"a": 3}']
    bad: list[BadRow] = []
    path = _write(tmp_path / "a.jsonl", b"\n".join(lines))
    assert [row.values["a"] for row in read_file(path, bad.append)] == [1, 2, 3]
    assert [row.where for row in bad] == [f"{path}:{number}" for number in (2, 4, 5, 6)]
    assert [row.reason for row in bad] == ["cannot be parsed"] * 3 + ["half of a character"]
    assert len({row.digest for row in bad}) == 4

    bad.clear()
    listed = _write(tmp_path / "a.json", rb'[{"a": 1}, 2, {"a": "\udc4d"}, {"a": 3}]')
    assert [row.values["a"] for row in read_file(listed, bad.append)] == [1, 3]
    table = _write(tmp_path / "a.csv", b"a,b\n1,2\n1\n\xe9,2\n3,4\n")
    assert [row.values["a"] for row in read_file(table, bad.append)] == ["1", "3"]
    assert [row.where.rpartition(":")[2] for row in bad] == ["1", "1", "3", "4"]


def test_whole_characters_spelled_out_are_no_halves(tmp_path: Path) -> None:
    path = _write(tmp_path / "a.jsonl", rb'{"a": "\ud83d\ude42", "\ud83d\ude42": "\\ud83d"}')
    assert _values(path) == [{"a": "\U0001f642", "\U0001f642": r"\ud83d"}]


def test_damaged_gzip(tmp_path: Path) -> None:
    whole = gzip.compress(b'{"a": 1}\n' * 1000)
    for content in (b"no gzip at all", whole[: len(whole) // 2]):
        path = tmp_path / "a.jsonl.gz"
        path.write_bytes(content)
        with pytest.raises(UserError, match="not a whole gzip file"):
            list(read_file(path))


def test_a_missing_file_names_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").touch()
    assert missing_file(tmp_path / "tran.jsonl").hint == f"did you mean {tmp_path / 'train.jsonl'}?"
    assert "no file of a similar name" in missing_file(tmp_path / "zzz.csv").hint
    assert "there is no folder" in missing_file(tmp_path / "no" / "train.jsonl").hint
