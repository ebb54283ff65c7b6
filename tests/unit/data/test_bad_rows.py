from __future__ import annotations

import pickle

import pytest

from distft.common.errors import UserError
from distft.config.data import Data
from distft.data.bad_rows import BadRow, BadRows, unparsed


def _bad(line: int) -> BadRow:
    return unparsed("malformed JSON", f"rows.jsonl:{line}", "one object a line", f"row {line}".encode())


def test_the_first_stops_the_run_and_says_how_to_go_on() -> None:
    with pytest.raises(UserError) as caught:
        BadRows(Data(), "train")(_bad(3))
    assert str(caught.value) == (
        "rows.jsonl:3: malformed JSON\n  one object a line; data.on_bad_row=drop leaves such rows out"
    )


def test_what_is_typical_of_the_source_is_not_to_be_left_out() -> None:
    row = BadRow("no format", where="rows.jsonl:1", hint="rename", reason="wrong columns or types", typical=True)
    with pytest.raises(UserError, match="rename$"):
        BadRows(Data(), "train")(row)


def test_the_budget_is_of_a_list() -> None:
    bad = BadRows(Data(on_bad_row="drop", max_dropped=2), "eval")
    bad(_bad(1))
    bad(_bad(2))
    assert [row.where for row in bad.rows] == ["rows.jsonl:1", "rows.jsonl:2"]
    with pytest.raises(UserError, match="rows.jsonl:1: more than 2 rows of data.eval are wrong \\(3 cannot be parsed"):
        bad(_bad(3))


def test_a_bad_row_crosses_processes_with_its_hash() -> None:
    row = _bad(1)
    again = pickle.loads(pickle.dumps(row))
    assert (again.what, again.where, again.hint, again.reason, again.digest) == (
        row.what, row.where, row.hint, row.reason, row.digest,
    )  # fmt: skip
    assert row.digest != _bad(2).digest
