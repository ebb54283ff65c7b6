"""Turns over groups that only write down what they are asked: who goes on, under which numbers, with which draws."""

from __future__ import annotations

import json
from pathlib import Path

from distft.common.seeding import derive
from distft.controller.collecting import collect
from distft.controller.rl import train_rl
from distft.workers.verbs import DataVerbs, GeneratorVerbs
from tests.harness.fake_groups import RESPONSE, Said
from tests.unit.controller.test_rl import session

ENVIRONMENT = "{name: 'distft.rollout.calculator:Calculator', max_turn_tokens: 7, max_turns: 3}"
KEYS = (f"rollout.environment={ENVIRONMENT}", "models.reward=null", "tracking.samples_every=0")


def test_samples_go_on_under_their_own_numbers_and_every_turn_draws_anew(tmp_path: Path) -> None:
    said = Said(going=[(1, 3), (3,), (3,)])
    one = session(said, tmp_path, *KEYS)
    collected = collect(one, step=5)
    asked = said.asked(GeneratorVerbs.generate)
    named = [sorted(sample for micro in call.each[0][0] for sample in micro) for call in asked if call.each]
    assert named == [[0, 1, 2, 3], [1, 3], [3]]
    assert [source.parts[0].ref for source in asked[1].data] == ["data.take_turns"]
    seed = one.recipe.seed
    assert [call.args[1] for call in asked] == [seed, derive(seed, "turn", 1), derive(seed, "turn", 2)]
    assert {call.args[0].max_new_tokens for call in asked} == {7}
    assert [call.args for call in said.asked(DataVerbs.begin_turns)] == [("train", 0, 1)]
    assert [source.parts[0].ref for source in collected.rollout.data] == ["data.prompts", "data.finish_turns"]
    assert collected.rollout.lengths == (5 + 2 * RESPONSE,) * 4
    assert collected.metrics["rollout/response_length"] == 2 * RESPONSE - 1, "observations are not the policy's"
    assert collected.metrics["rollout/turns"] == 1.5


def test_nobody_is_asked_once_all_have_ended(tmp_path: Path) -> None:
    said = Said(going=[()])
    collect(session(said, tmp_path, *KEYS), step=1)
    assert len(said.asked(GeneratorVerbs.generate)) == 1


def test_parts_of_a_response_go_on_where_it_was_and_draw_for_one_turn(tmp_path: Path) -> None:
    said = Said(going=[(1, 3), (3,), ()])
    tails = "rollout.cut_tails={every: 5, finished: 0.9}"
    one = session(said, tmp_path, tails, "rollout.max_new_tokens=12", "rollout.min_new_tokens=7")
    collected = collect(one, step=5)
    asked = said.asked(GeneratorVerbs.generate)
    named = [sorted(sample for micro in call.each[0][0] for sample in micro) for call in asked if call.each]
    assert named == [[0, 1, 2, 3], [1, 3], [3]]
    assert {call.args[1] for call in asked} == {one.recipe.seed}
    sampled = [call.args[0] for call in asked]
    assert [(each.first, each.max_new_tokens, each.min_new_tokens) for each in sampled] == [
        (0, 5, 7),
        (5, 5, 2),
        (10, 2, 0),
    ]
    assert [source.parts[0].ref for source in collected.rollout.data] == ["data.prompts", "data.finish_turns"]


def test_an_iteration_has_no_reward_model(tmp_path: Path) -> None:
    said = Said(going=[(0, 1, 2, 3), ()])
    train_rl(session(said, tmp_path, *KEYS, "train.steps=1"))
    assert said.at_once == [
        ("data.prompts",), ("data.begin_turns",), ("policy.generate",), ("data.take_turns",), ("policy.generate",),
        ("data.take_turns",), ("data.finish_turns",), ("policy.forward", "reference.forward", "value.forward"),
        ("data.assign_credit",), ("value.update", "policy.update"), ("policy.sync_weights",),
    ]  # fmt: skip
    [line] = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert json.loads(line)["rollout/turns"] == 1.5
