"""The sentence that a report begins with."""

from __future__ import annotations

import json

import pytest

from distft.report.run_data import read_run
from distft.report.run_page import run_page
from distft.report.verdict import changes, trained, verdict
from tests.unit.report.conftest import MakeRun


@pytest.mark.parametrize(
    ("name", "before", "after", "said"),
    [
        ("loss", 2.0, 1.0, " Loss went from 2 to 1 on 96 of 300 test rows, which is better."),
        ("loss", 1.0, 2.0, " Loss went from 1 to 2 on 96 of 300 test rows, which is worse."),
        ("accuracy", 0.5, 0.9, "It helped: accuracy of pairs went from 0.5 to 0.9 on 96 of 300 test rows (interval"),
        ("accuracy", 0.9, 0.5, "It got worse: accuracy of pairs went from 0.9 to 0.5"),
        ("accuracy", 0.5, 0.55, "Chance is not ruled out: accuracy of pairs went from 0.5 to 0.55"),
        ("accuracy", 0.5, 0.501, "It made no difference to speak of: accuracy of pairs went from 0.5 to 0.501"),
        ("objective/score", -1.0, 0.5, " Score went from -1 to 0.5 on 96 of 300 test rows, which is better."),
        ("objective/kl", 0.0, 4.0, "In training the score went from 1 to 5; held-out rows have not been judged."),
    ],
)
def test_better_and_worse(make_run: MakeRun, name: str, before: float, after: float, said: str) -> None:
    assert said in verdict(read_run(make_run(table={name: (before, after)})))


@pytest.mark.parametrize(
    ("after", "rows", "said", "word", "mood"),
    [
        # sqrt(2 * 0.64^2 / 7) = 0.3421, times 2.3646 of Student's t with 7 degrees of freedom: 0.8089
        (0.2094, 8, "Chance is not ruled out: score went from 0.206 to 0.2094 on 8 of 300 test rows (interval of the "
         "change, 95%: -0.8055 to +0.8123).", "may be chance", "plain"),
        (1.206, 8, "It helped: score went from 0.206 to 1.206", "better", "good"),
        (-0.794, 8, "It got worse: score went from 0.206 to -0.794", "worse", "bad"),
        (0.206, 8, "It made no difference to speak of", "the same", "plain"),
        (1.206, 1, " Score went from 0.206 to 1.206 on 1 of 300 test rows, which is better.", "better", "plain"),
    ],
)  # fmt: skip
def test_chance_is_held_against_the_deviation_over_the_rows(
    make_run: MakeRun, after: float, rows: int, said: str, word: str, mood: str
) -> None:
    table = {"objective/score": (0.206, after), "objective/score_std": (0.64, 0.64)}
    run = read_run(make_run(table=table, rows=rows))
    assert said in verdict(run)
    assert changes(run)[0].word == word
    assert f'<p class="verdict {mood}">' in run_page(run).decode()


def test_a_change_of_the_kl_is_neither(make_run: MakeRun) -> None:
    words = {change.name: change.word for change in changes(read_run(make_run()))}
    assert words == {"objective/score": "better", "objective/score_std": "", "objective/kl": ""}


def test_how_far_it_came(make_run: MakeRun) -> None:
    assert verdict(read_run(make_run())).startswith("Finished 5 steps in ")
    assert verdict(read_run(make_run("killed", ending=None))).startswith("Ended without a word after 5 steps")


def test_one_step_is_one(make_run: MakeRun) -> None:
    run_dir = make_run()
    for name in ("metrics", "events"):
        path = run_dir / f"{name}.jsonl"
        lines = [{**json.loads(line), "total_steps": 1} for line in path.read_text().splitlines()]
        path.write_text("".join(json.dumps(line) + "\n" for line in lines if line.get("step", 0) < 2))
    assert verdict(read_run(run_dir)).startswith("Finished 1 step. ")


def test_a_table_of_nonsense_is_none(make_run: MakeRun) -> None:
    run_dir = make_run()
    content = {"metrics": {"loss": {"before": None, "after": 1}, "kl": 3, "accuracy": {"before": "x"}}}
    (run_dir / "before_after.json").write_text(json.dumps(content))
    assert read_run(run_dir).table == {}


def test_what_was_trained_on_what(make_run: MakeRun) -> None:
    said = trained(read_run(make_run()))
    assert said.startswith("PPO of a model from random weights (")
    assert said.endswith("trained on builtin:dialogues on one-node-8xh100.")
