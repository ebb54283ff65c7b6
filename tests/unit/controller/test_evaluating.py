"""Held-out rows: what is asked of the groups, and how many of how many rows a table is about."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import pytest

from distft.config.load import load_recipe
from distft.config.roles import roles
from distft.controller import evaluating
from distft.controller.evaluating import after, log_evaluation, said_rows
from distft.controller.progress import Best, Progress
from distft.controller.session import Session
from distft.tracking.metrics import BEFORE_AFTER
from distft.tracking.timing import Throughput
from distft.tracking.tracker import Tracker
from distft.workers.reports import Judged
from distft.workers.verbs import DataVerbs, GeneratorVerbs
from tests.harness.fake_groups import Said, fake_data, fake_model


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


def evaluated(folder: Path, said: Said, name: str, *keys: str) -> tuple[list[str], dict[str, Any], int]:
    """What an evaluation asks of the groups, what it logs, and how many samples it keeps."""
    recipe = load_recipe(name, ["evaluation.max_samples=6", "tracking.samples_count=2", *keys])
    tracker, nowhere = Tracker(folder, attempt=1, resume_step=None), Any
    session = Session(
        recipe, {role: fake_model(role, said) for role in roles(recipe)}, fake_data(said), {"train": 9, "eval": 9},
        tracker, nowhere, Progress(total_steps=3), Throughput(num_gpus=1),  # type: ignore[arg-type]
    )  # fmt: skip
    for _ in range(2):  # the second has nothing to add
        log_evaluation(session)
    tracker.close()
    [line] = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    kept = (folder / "samples.jsonl").read_text().splitlines() if (folder / "samples.jsonl").exists() else []
    return [f"{call.group.role}.{call.verb.name}" for call in said.calls], line, len(kept)


GIVEN = ["data.batch", "policy.evaluate"]
IMITATED = [*GIVEN, "data.rejected_answers"]
ANSWERS = ["policy.sync_weights", "data.questions", "policy.generate", "data.judge_answers"]


def test_a_policy_answers_a_few_held_out_prompts_by_its_own_weights(tmp_path: Path) -> None:
    calls, line, kept = evaluated(tmp_path, said := Said(), "sft-tiny")
    assert calls == [*IMITATED, *ANSWERS]
    assert said.asked(DataVerbs.questions)[0].args == ("eval", 2), "those that are shown"
    [generate] = said.asked(GeneratorVerbs.generate)
    assert generate.args[0].greedy
    assert (line["loss"], kept) == (1.0, 2)


def test_where_metrics_want_answers_all_judged_rows_are_asked(tmp_path: Path) -> None:
    calls, line, kept = evaluated(tmp_path, said := Said(), "dpo-tiny", "evaluation.metrics=[f1]")
    assert calls == ["data.batch", "reference.forward", "policy.evaluate", *ANSWERS]
    assert said.asked(DataVerbs.questions)[0].args == ("eval", 6)
    assert (line["val/f1"], kept) == (0.5, 2)


def test_nothing_is_generated_where_nobody_wants_to_see_it(tmp_path: Path) -> None:
    calls, _, kept = evaluated(tmp_path, Said(), "sft-tiny", "tracking.samples_every=0")
    assert (calls, kept) == (IMITATED, 0)


def test_general_text_is_read_beside_the_runs_own(tmp_path: Path) -> None:
    keys = ("tracking.samples_every=0", "evaluation.general=builtin")
    calls, line, _ = evaluated(tmp_path, Said(loss=1.5), "sft-tiny", *keys)
    assert calls == ["data.general_text", "policy.evaluate", *IMITATED]
    assert line["val/general_loss"] == 1.5


def test_of_pairs_whose_better_answers_are_imitated_the_others_are_judged(tmp_path: Path) -> None:
    calls, line, _ = evaluated(tmp_path, said := Said(loss=1.5, rejected=3), "sft-tiny", "tracking.samples_every=0")
    assert calls == [*IMITATED, "policy.evaluate"]
    assert said.asked(DataVerbs.rejected_answers)[0].args == ("eval", 6)
    assert line["val/rejected_loss"] == 1.5


def test_a_reward_model_scores_both_answers_of_a_few_pairs(tmp_path: Path) -> None:
    calls, _, kept = evaluated(tmp_path, said := Said(), "reward-tiny")
    assert calls == ["data.batch", "reward.evaluate", "data.batch", "reward.forward", "data.texts"]
    assert said.asked(DataVerbs.batch)[1].args == ("eval", 0, 2)
    assert kept == 4


def test_what_is_sampled_anyway_is_judged_and_shown(tmp_path: Path) -> None:
    calls, line, kept = evaluated(tmp_path, Said(), "grpo-tiny", "evaluation.metrics=[f1]")
    assert calls[:2] == ["data.prompts", "policy.generate"]
    assert calls[-2:] == ["data.score_summary", "data.judge_answers"]
    assert (line["val/f1"], line["objective/score"], kept) == (0.5, 1.0, 2)
