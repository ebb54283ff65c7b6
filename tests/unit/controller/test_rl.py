"""The loop over groups that only write down what they are asked: who is called, in which order, with whose columns.

What the calls compute is tested with real groups (tests/e2e); here it is the loop alone.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from distft.batches import Difference
from distft.checkpoint.coordinator import Coordinator
from distft.clients.generator_group import EngineGroup
from distft.common.errors import StoppedOnRequest
from distft.config.load import load_recipe
from distft.config.roles import roles
from distft.controller.invariants import InvariantViolated
from distft.controller.progress import Progress
from distft.controller.rl import train_rl
from distft.controller.session import Session
from distft.tracking.timing import Throughput
from distft.tracking.tracker import Tracker
from distft.workers.verbs import DataVerbs, GeneratorVerbs, ModelVerbs
from tests.harness.fake_groups import Fake, Said, fake_data, fake_model
from tests.harness.loss_cases import LOSSES
from tests.harness.owner import Mine


class Saving(Session):
    """Keeps what a checkpoint would hold of the controller."""

    def save(self) -> None:
        self.kept = json.dumps(self._state())


def session(said: Said, folder: Path, *overrides: str, progress: Progress | None = None) -> Saving:
    recipe = load_recipe("ppo-tiny", ["evaluation.every=0", "checkpoint.every=2", "train.steps=2",
                                      "train.global_batch_size=4", *overrides])  # fmt: skip
    groups = {role: fake_model(role, said) for role in roles(recipe)}
    tracker, throughput = Tracker(folder, attempt=1, resume_step=None), Throughput(num_gpus=1)
    nowhere: Any = None
    return Saving(recipe, groups, fake_data(said), {"train": 100}, tracker, nowhere,
                  progress or Progress(total_steps=recipe.train.steps or 0), throughput)  # fmt: skip


PPO_ITERATION = [
    ("data.prompts",),
    ("policy.generate",),
    ("data.reward_inputs",),
    ("policy.forward", "reference.forward", "value.forward", "reward.forward"),
    ("data.assign_credit",),
    ("value.update", "policy.update"),
    ("policy.sync_weights",),
]


def test_an_iteration_asks_all_groups_at_once_where_it_can(tmp_path: Path) -> None:
    said = Said()
    train_rl(session(said, tmp_path, "tracking.samples_every=0"))
    assert said.at_once == PPO_ITERATION * 2
    updates = said.asked(ModelVerbs.update)
    assert [(call.group.role, call.args[0]) for call in updates[:2]] == [
        ("value", LOSSES["ppo_value"]), ("policy", LOSSES["ppo_policy"]),
    ]  # fmt: skip
    columns = {call.group.role: [source.parts[0].ref for source in call.data] for call in updates}
    assert columns["policy"] == ["data.prompts", "policy.generate", "policy.forward", "data.assign_credit"]
    assert columns["value"] == ["data.prompts", "policy.generate", "value.forward", "data.assign_credit"]


def test_a_role_that_is_not_there_is_not_asked(tmp_path: Path) -> None:
    """Reward functions alone: no reward model. As with every group: what is not in the session is in no call."""
    said = Said()
    train_rl(session(said, tmp_path, "tracking.samples_every=0", "train.steps=1",
                     "models.reward={functions: [os.path:join]}"))  # fmt: skip
    assert ("policy.forward", "reference.forward", "value.forward") in said.at_once
    assert ("data.function_scores",) in said.at_once
    assert not [call for call in said.calls if call.group.role == "reward"]


@pytest.mark.parametrize("keys", ["{kind: grpo, epochs: 2, minibatches: 2}", "{kind: rloo}"])
def test_without_a_value_model_the_loop_is_the_same_less_its_calls(tmp_path: Path, keys: str) -> None:
    said = Said()
    train_rl(session(said, tmp_path, "tracking.samples_every=0", "rollout.samples_per_prompt=2", "train.steps=1",
                     f"algorithm={keys}", "models.value=null"))  # fmt: skip
    without = [tuple(one for one in names if not one.startswith("value.")) for names in PPO_ITERATION]
    assert said.at_once == without


def test_the_methods_state_goes_round_unread_and_into_the_checkpoint(tmp_path: Path) -> None:
    said = Said()
    one = session(said, tmp_path, "tracking.samples_every=0")
    train_rl(one)
    assert said.states == [{}, {"seen": 1}]
    again = Progress(total_steps=3)
    again.restore(json.loads(one.kept))
    assert again.method_state == {"seen": 2}
    train_rl(session(said, tmp_path, "tracking.samples_every=0", "train.steps=3", progress=again))
    assert said.states == [{}, {"seen": 1}, {"seen": 2}]


def test_a_held_policy_is_not_updated_and_its_rate_begins_with_its_own_first_step(tmp_path: Path) -> None:
    said = Said()
    train_rl(session(said, tmp_path, "tracking.samples_every=0", "algorithm.value_warmup_steps=1"))
    asked = [names for names in said.at_once if "value.update" in names]
    assert asked == [("value.update",), ("value.update", "policy.update")]
    *_, value, policy = said.asked(ModelVerbs.update)
    assert value.args[2:] == (4, 8), "optimizer steps so far, and in all"
    assert policy.args[2:] == (0, 4)


def test_epochs_and_minibatches_take_every_sample_once_a_pass(tmp_path: Path) -> None:
    """The samples of a prompt are units of their own: a minibatch may part them."""
    said = Said()
    train_rl(session(said, tmp_path, "tracking.samples_every=0", "train.steps=1", "rollout.samples_per_prompt=3"))
    update = said.asked(ModelVerbs.update)[0]
    assert update.each is not None
    steps = [sorted(s for micro in step for s in micro) for step in update.each[0][0]]
    assert len(steps) == 2 * 2
    assert sorted(steps[0] + steps[1]) == sorted(steps[2] + steps[3]) == list(range(12))


def test_texts_are_in_every_optimizer_step_of_the_policy_each_once(tmp_path: Path) -> None:
    """Two iterations of 2 x 2 steps with two texts each: from the first row on, and no others in the second."""
    said = Said()
    train_rl(session(said, tmp_path, "tracking.samples_every=0", "data.ptx=[{path: builtin:stories}]",
                     "algorithm.ptx_coef=1.0", "algorithm.ptx_batch=2"))  # fmt: skip
    assert [call.args for call in said.asked(DataVerbs.with_texts)] == [(0, 8), (8, 8)]
    of_policy = [call for call in said.asked(ModelVerbs.update) if call.group.role == "policy"]
    assert [call.args[0] for call in of_policy] == [LOSSES["ppo_ptx"]] * 2
    assert of_policy[0].each is not None
    steps = [{sample for micro in step for sample in micro} for step in of_policy[0].each[0][0]]
    assert [sorted(step - set(range(4))) for step in steps] == [[4, 5], [6, 7], [8, 9], [10, 11]]
    assert [len(step) for step in steps] == [4] * 4
    of_value = next(call for call in said.asked(ModelVerbs.update) if call.group.role == "value")
    assert of_value.each is not None
    assert {sample for step in of_value.each[0][0] for micro in step for sample in micro} == set(range(4))


def online_dpo(said: Said, folder: Path, *overrides: str) -> Saving:
    return session(
        said, folder, "tracking.samples_every=0", "rollout.samples_per_prompt=3", "models.value=null",
        "models.reward={functions: [os.path:join]}", "algorithm={kind: online_dpo, minibatches: 2}", *overrides,
    )  # fmt: skip


def test_only_the_samples_that_credit_chose_are_trained_on(tmp_path: Path) -> None:
    """The first iteration has three pairs, which stay whole in its two optimizer steps; the second has none."""
    said = Said(chosen=[[0, 0, 1, 1, 2, 2], []])
    train_rl(online_dpo(said, tmp_path))
    [update] = said.asked(ModelVerbs.update)
    assert update.args[0] == LOSSES["online_dpo"]
    assert [source.parts[0].ref for source in update.data] == ["data.assign_credit"], "they bring all that is read"
    assert update.each is not None
    steps = [sorted(sample for micro in step for sample in micro) for step in update.each[0][0]]
    assert sorted(steps[0] + steps[1]) == [0, 1, 2, 3, 4, 5]
    assert all(pair in ([], [0, 1], [2, 3], [4, 5]) for step in steps for pair in (step[:2], step[2:]))
    assert [call.args[0] for call in said.asked(GeneratorVerbs.sync_weights)] == [1, 2]
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert ["loss" in line for line in lines] == [True, False]


def test_the_rates_schedule_goes_by_plan_where_an_iteration_trains_nothing(tmp_path: Path) -> None:
    said = Said(chosen=[[], [0, 0, 1, 1]])
    train_rl(online_dpo(said, tmp_path))
    assert [call.args[2:4] for call in said.asked(ModelVerbs.update)] == [(2, 4)]


def test_a_reference_follows_behind_the_iterations_that_are_named(tmp_path: Path) -> None:
    said = Said(chosen=[[0, 0, 1, 1]] * 3)
    one = online_dpo(said, tmp_path, "algorithm.sync_every=2", "algorithm.sync_alpha=0.5", "train.steps=3")
    one.coordinator = Coordinator(tmp_path, 2, Mine())
    train_rl(one)
    [taken] = said.asked(ModelVerbs.take_weights)
    assert (taken.group.role, taken.args[1]) == ("reference", 0.5)
    order = [names[0] for names in said.at_once if names[0] in ("policy.update", "reference.take_weights")]
    assert order == ["policy.update", "policy.update", "reference.take_weights", "policy.update"]


@pytest.mark.parametrize("which", ["reference_difference", "trainer_difference"])
def test_before_the_first_update_the_three_must_agree(tmp_path: Path, which: str) -> None:
    said = Said(**{which: Difference(9.0, 9.0, 9.0)})
    with pytest.raises(InvariantViolated):
        train_rl(session(said, tmp_path))
    assert not said.asked(ModelVerbs.update)


def test_without_a_reference_there_is_none_to_agree_with(tmp_path: Path) -> None:
    said = Said(reference_difference=None)
    train_rl(session(said, tmp_path, "tracking.samples_every=0", "train.steps=1"))
    assert len(said.asked(ModelVerbs.update)) == 2


def ahead(said: Said, folder: Path, progress: Progress | None = None) -> Saving:
    """A run of three iterations whose engines sample ahead."""
    one = session(said, folder, "rollout.engine=vllm", "rollout.overlap=1", "algorithm.importance_cap=2.0",
                  "tracking.samples_every=0", "train.steps=3", progress=progress)  # fmt: skip
    one.engines = EngineGroup(Fake("rollout", said), Fake("policy", said), ("host", 1))
    return one


def logged(folder: Path, name: str) -> list[float]:
    return [json.loads(line)[name] for line in (folder / "metrics.jsonl").read_text().splitlines()]


AHEAD = [
    ("data.prompts",),
    ("rollout.generate", "data.reward_inputs"),
    ("policy.forward", "reference.forward", "value.forward", "reward.forward"),
    ("data.assign_credit",),
    ("value.update", "policy.update"),
    ("rollout.receive_weights", "policy.send_weights"),
]


def test_engines_sample_the_next_iteration_while_this_one_is_trained_on(tmp_path: Path) -> None:
    """From after its own responses on until the weights are sent; none are begun for an iteration that never comes."""
    said = Said(trainer_difference=Difference(9.0, 9.0, 9.0))
    with pytest.raises(InvariantViolated, match="generator"):
        train_rl(ahead(said, tmp_path))
    said = Said()
    train_rl(ahead(said, tmp_path / "run"))
    first, last = [("data.prompts",), ("rollout.generate",)], [("data.reward_inputs",), *AHEAD[2:]]
    assert said.at_once == [*first, *AHEAD, *AHEAD, *last]
    assert [call.args[1] for call in said.asked(DataVerbs.prompts)] == [0, 4, 8]
    assert [call.args[2] for call in said.asked(GeneratorVerbs.generate)] == [1, 2, 3], "draws are the iteration's"
    assert logged(tmp_path / "run", "rollout/staleness") == [0.0, 1.0, 1.0]


def test_what_was_sampled_ahead_is_kept_with_the_checkpoint_and_taken_from_it(tmp_path: Path) -> None:
    said = Said()
    stopped = ahead(said, tmp_path / "stopped")
    stopped.stop.set()
    with pytest.raises(StoppedOnRequest):
        train_rl(stopped)
    state = json.loads(stopped.kept)
    assert state["ahead"] == {"start": 4, "end": 8, "version": 0, "seconds": 0.5}
    said, progress = Said(version=1), Progress(total_steps=3)
    progress.restore(state)
    again = ahead(said, tmp_path / "again", progress)
    again.take_ahead("the/checkpoint")
    train_rl(again)
    assert [call.args for call in said.asked(DataVerbs.kept_responses)] == [("the/checkpoint",)]
    assert [call.args[1] for call in said.asked(DataVerbs.prompts)] == [4, 8]
    assert [call.args[2] for call in said.asked(GeneratorVerbs.generate)] == [3]
    assert logged(tmp_path / "again", "rollout/staleness") == [1.0, 1.0]
    assert json.loads(again.kept)["ahead"] == {}, "there is no iteration after the last"


@pytest.mark.parametrize(("overlap", "warnings"), [(1, 0), (0, 1)])
def test_a_generator_with_older_weights_may_differ(tmp_path: Path, overlap: int, warnings: int) -> None:
    said = Said(trainer_difference=Difference(9.0, 9.0, 9.0), version=1 - overlap)
    one = ahead(said, tmp_path, Progress(total_steps=2, step=1, position=4))
    train_rl(one)
    assert logged(tmp_path, "rollout/staleness") == [overlap]
    assert (tmp_path / "events.jsonl").read_text().count("generator_differs") == warnings
