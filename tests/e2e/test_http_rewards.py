"""Runs whose answers a server scores, or judges, through Ray: its token arrives and stays secret, its end is the
run's."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.e2e.conftest import Start, checkpoints, computed, grouped, lines, weights
from tests.harness.judge import completion, judging, prefers

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(900)]
TOKEN = "canary-of-the-judge"


def test_a_server_scores_a_run_and_its_end_is_told(sft: Path, start: Start) -> None:
    with judging() as judge:
        server = f"{{name: judge, url: {judge.url}, token_env: JUDGES_WORD, deadline: 2, batch_size: 5}}"
        words = (*grouped(sft, kind="grpo"), f"models.reward={{http: [{server}]}}")
        verb = start(*words, JUDGES_WORD=TOKEN)
        assert verb.end() == 0, verb.output
    assert set(judge.tokens) == {f"Bearer {TOKEN}"}
    train = [line for line in computed(verb.folder) if line["split"] == "train"]
    assert [line["rewards/judge"] for line in train] == [line["reward"] for line in train]
    assert all(line["rewards/judge"] > 0 for line in train)
    written = [path for path in verb.folder.rglob("*") if path.is_file()]
    assert [path for path in written if TOKEN.encode() in path.read_bytes()] == []
    assert "JUDGES_WORD" in (verb.folder / "recipe.yaml").read_text()

    verb = start(*words, "train.steps=8", JUDGES_WORD=TOKEN)  # goes on, and nobody listens there any more
    assert verb.end() == 3, verb.output
    assert f"models.reward.http.0 ({judge.url}): gave no scores within 2 s" in verb.output
    assert "Traceback" not in verb.output
    assert max(line["step"] for line in lines(verb.folder, "metrics")) == 6
    verb.assert_nothing_left()

    verb = start(*words, "train.steps=8")
    assert verb.end() == 2, verb.output
    assert "models.reward.http.0.token_env: the environment variable JUDGES_WORD is not set" in verb.output


def rounder(a: str, b: str) -> str:
    """More of its characters are round; of equal ones the first, whichever that is."""
    return "[[A]]" if sum(map(a.count, "aeo")) >= sum(map(b.count, "aeo")) else "It is B: [[B]]"


def test_a_judge_compares_a_runs_answers_and_a_killed_run_is_the_same(sft: Path, start: Start) -> None:
    with judging() as judge:
        judge.answer = prefers(rounder)
        named = f"{{name: round, url: {judge.url}, model: big, token_env: JUDGES_WORD, deadline: 60}}"
        words = (*grouped(sft, kind="online_dpo"), f"models.reward={{judges: [{named}]}}")
        verb = start(*words, folder="undisturbed", JUDGES_WORD=TOKEN)
        assert verb.end() == 0, verb.output
        assert set(judge.tokens) == {f"Bearer {TOKEN}"}
        undisturbed = computed(verb.folder)
        train = [line for line in undisturbed if line["split"] == "train"]
        assert len(train) == 6
        for line in train:
            assert line["rewards/round"] == pytest.approx(0.5), "every comparison gives one point to its two answers"
            assert line["judge/unread/round"] == 0
            assert 0 <= line["judge/by_order/round"] <= line["judge/ties/round"] <= 1
        assert any(line["pairs/learned"] > 0 for line in train)
        written = [path for path in verb.folder.rglob("*") if path.is_file()]
        assert [path for path in written if TOKEN.encode() in path.read_bytes()] == []

        killed = start(*words, folder="killed", JUDGES_WORD=TOKEN)
        killed.wait_for(lambda: 2 in checkpoints(killed.folder), "a checkpoint")
        os.kill(killed.process.pid, signal.SIGKILL)
        killed.end()
        killed.assert_nothing_left()
        killed = start(*words, folder="killed", JUDGES_WORD=TOKEN)
        assert killed.end() == 0, killed.output
        assert computed(killed.folder) == undisturbed
        assert weights(killed.folder) == weights(verb.folder)

        judge.answer = lambda _: completion("Both are fine.")
        verb = start(*words, "train.steps=8", folder="undisturbed", JUDGES_WORD=TOKEN)
        assert verb.end() == 2, verb.output
        assert f"models.reward.judges.0 (big at {judge.url})" in verb.output
        assert "have no verdict that can be read: above max_unread (0.1)" in verb.output
        assert max(line["step"] for line in lines(verb.folder, "metrics")) == 6
        verb.assert_nothing_left()
