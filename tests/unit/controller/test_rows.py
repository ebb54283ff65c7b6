"""Waiting for rows that take long, and rows that are not what they were."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import pytest

from distft.common.errors import StoppedOnRequest, UserError
from distft.config.load import load_recipe
from distft.controller.rows import prepare_rows, require_same_data
from distft.controller.stop_flag import StopFlag
from distft.workers.reports import RowsPrepared

CONTENTS = {"data.train.0": "abc"}


class Answering:
    """A data worker that answers so, one after the other; a tracker that keeps the phases."""

    def __init__(self, *answers: tuple[bool, str, Mapping[str, str] | None]) -> None:
        self.answers, self.phases = list(answers), list[str]()

    def prepare_rows(self, seconds: float) -> Any:
        assert seconds > 0
        report = RowsPrepared(*self.answers.pop(0))
        return SimpleNamespace(result=lambda: report)

    def phase(self, name: str) -> None:
        self.phases.append(name)


def test_the_user_is_told_how_far_it_is_and_contents_are_checked_once_before_the_work() -> None:
    worker = Answering((False, "hashing", None), (False, "", CONTENTS), (False, "tokenising", CONTENTS),
                       (True, "", CONTENTS))  # fmt: skip
    checked: list[tuple[Mapping[str, str], list[str]]] = []
    found = prepare_rows(worker, worker, StopFlag(), lambda now: checked.append((now, list(worker.phases))))  # type: ignore[arg-type]
    assert found == CONTENTS
    assert checked == [(CONTENTS, ["hashing"])]
    assert worker.phases == ["hashing", "tokenising"]


def test_it_can_be_stopped() -> None:
    stop = StopFlag()
    stop.set()
    worker = Answering((False, "tokenising", CONTENTS))
    with pytest.raises(StoppedOnRequest, match="while rows were tokenised"):
        prepare_rows(worker, worker, stop, lambda _: None)  # type: ignore[arg-type]


def test_changed_rows_are_refused_with_a_remedy_that_is_a_key(caplog: pytest.LogCaptureFixture) -> None:
    recipe = load_recipe("sft-tiny", [])
    require_same_data(recipe, 50, {}, CONTENTS)  # a checkpoint that says nothing of its data
    require_same_data(recipe, 50, CONTENTS, CONTENTS)
    with pytest.raises(UserError) as caught:
        require_same_data(recipe, 50, {"data.train.0": "xyz"}, CONTENTS)
    assert caught.value.where == "data.train.0.path"
    assert caught.value.what == "builtin:dialogues is not what it was when the checkpoint of step 50 was written"
    remedy = "checkpoint.changed_data=accept"
    assert remedy in caught.value.hint
    require_same_data(load_recipe("sft-tiny", [remedy]), 50, {"data.train.0": "xyz"}, CONTENTS)
    assert "going on at the old position" in caplog.text
