"""Runs whose answers a server scores, through Ray: its token arrives and stays secret, its end is the run's."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.conftest import Start, computed, grouped, lines
from tests.harness.judge import judging

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
