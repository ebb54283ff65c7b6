from __future__ import annotations

import gzip
from pathlib import Path

import pyarrow
import pyarrow.ipc
import pyarrow.parquet
import pytest

from distft.common.errors import UserError
from distft.data.bad_rows import BadRow
from distft.data.files import read_file

ROWS = [{"text": "one"}, {"text": "two\nlines"}, {"text": 'drei, "vier" ü'}]


def _values(path: Path) -> list[dict[str, object]]:
    return [dict(row.values) for row in read_file(path)]


@pytest.mark.parametrize("gz", ["", ".gz"])
def test_parquet(tmp_path: Path, gz: str) -> None:

    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), tmp_path / "a.parquet")
    content = (tmp_path / "a.parquet").read_bytes()
    path = tmp_path / f"b.parquet{gz}"
    path.write_bytes(gzip.compress(content) if gz else content)
    assert _values(path) == ROWS
    assert [row.where for row in read_file(path)] == [f"{path}:{number}" for number in (1, 2, 3)]


def test_arrow_as_datasets_writes_it_and_as_a_file(tmp_path: Path) -> None:

    table = pyarrow.Table.from_pylist(ROWS)
    for name, writer in (("a.arrow", pyarrow.ipc.new_stream), ("b.arrow", pyarrow.ipc.new_file)):
        with writer(str(tmp_path / name), table.schema) as out:
            out.write_table(table)
        assert _values(tmp_path / name) == ROWS
    (tmp_path / "c.arrow").write_bytes(b"hello")
    with pytest.raises(UserError, match="not an arrow file"):
        list(read_file(tmp_path / "c.arrow"))


def test_a_parquet_row_whose_text_is_not_utf8(tmp_path: Path) -> None:

    texts = pyarrow.array([b"one", b"\xff", b"two"], pyarrow.binary()).view(pyarrow.string())
    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"text": texts}), path)
    bad: list[BadRow] = []
    assert [row.values["text"] for row in read_file(path, bad.append)] == ["one", "two"]
    assert [row.where for row in bad] == [f"{path}:2"]
