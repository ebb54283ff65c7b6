"""How many of how many held-out rows a table is about."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import pytest

from distft.controller import evaluating
from distft.controller.evaluating import after, said_rows
from distft.controller.progress import Best
from distft.tracking.metrics import BEFORE_AFTER
from distft.workers.reports import Judged


@pytest.mark.parametrize(("test_rows", "said"), [(9000, "256 of 9,000 test rows"), (0, "40 of 40 eval rows")])
def test_the_table_says_how_many_rows_of_how_many(tmp_path: Path, test_rows: int, said: str) -> None:
    recipe = SimpleNamespace(evaluation=SimpleNamespace(max_samples=256, best=None))
    session: Any = SimpleNamespace(
        recipe=recipe, num_units={"train": 10, "eval": 40, "test": test_rows}, progress=SimpleNamespace(
            before={"loss": 2.0}, step=3, best=Best()), tracker=SimpleNamespace(
            log=lambda *_, **__: None, phase=lambda _: None, samples=lambda *_, **__: None),
        evaluated_at=-1, result_step=None,
    )  # fmt: skip
    with patch.object(evaluating, "held_out", lambda *_, **__: Judged({"loss": 1.0}, ())):
        assert after(session, tmp_path) == {"loss": {"before": 2.0, "after": 1.0}}
    assert said_rows(tmp_path) == said
    written = json.loads((tmp_path / BEFORE_AFTER).read_text())
    (tmp_path / BEFORE_AFTER).write_text(
        json.dumps({"metrics": written["metrics"]})
    )  # a run of before: it says nothing
    assert said_rows(tmp_path) == ""
    assert said_rows(tmp_path / "nowhere") == ""
