"""The sentence that a report begins with."""

from __future__ import annotations

import json

import pytest

from distft.report.run_data import read_run
from distft.report.verdict import changes, trained, verdict
from tests.unit.report.conftest import MakeRun


@pytest.mark.parametrize(
    ("name", "before", "after", "said"),
    [
        ("loss", 2.0, 1.0, "It helped: loss went from 2 to 1 on 96 of 300 test rows."),
        ("loss", 1.0, 2.0, "It got worse: loss went from 1 to 2"),
        ("accuracy", 0.5, 0.501, "It made no difference to speak of: accuracy of pairs went from 0.5 to 0.501"),
        ("objective/score", -1.0, 0.5, "It helped: score went from -1 to 0.5"),
        ("objective/kl", 0.0, 4.0, "In training the score went from 1 to 5; held-out rows have not been judged."),
    ],
)
def test_better_and_worse(make_run: MakeRun, name: str, before: float, after: float, said: str) -> None:
    assert said in verdict(read_run(make_run(table={name: (before, after)})))


def test_a_change_of_the_kl_is_neither(make_run: MakeRun) -> None:
    words = {change.name: change.word for change in changes(read_run(make_run()))}
    assert words == {"objective/score": "better", "objective/kl": ""}


def test_how_far_it_came(make_run: MakeRun) -> None:
    assert verdict(read_run(make_run())).startswith("Finished 5 steps in ")
    assert verdict(read_run(make_run("killed", ending=None))).startswith("Ended without a word after 5 steps")


def test_a_table_of_nonsense_is_none(make_run: MakeRun) -> None:
    run_dir = make_run()
    content = {"metrics": {"loss": {"before": None, "after": 1}, "kl": 3, "accuracy": {"before": "x"}}}
    (run_dir / "before_after.json").write_text(json.dumps(content))
    assert read_run(run_dir).table == {}


def test_what_was_trained_on_what(make_run: MakeRun) -> None:
    said = trained(read_run(make_run()))
    assert said.startswith("PPO of a model from random weights (")
    assert said.endswith("trained on builtin:dialogues on one-node-8xh100.")
