"""What the eye needs is in the drawing."""

from __future__ import annotations

from pathlib import Path

import pytest

from distft.config.cluster import load_cluster
from distft.config.load import load_recipe
from distft.planning.drawing import draw
from distft.planning.eval_stages import EvalPlan
from distft.planning.footprint import RoleMemory
from distft.planning.plan import make_plan
from tests.unit.launch.examples import LAPTOP, LLAMA_70B, config_folder, from_folder, gpu_cluster, recipe


def test_a_laptop() -> None:
    text = draw(
        make_plan(load_recipe("ppo-tiny", ["train.global_batch_size=16"]), load_cluster("local"), machine=LAPTOP)
    )
    assert text.startswith("ppo-tiny (ppo) on local: 1 node of 2 CPUs, 16 GiB; 1 used")
    for line in ("│ slot 0-1     policy    │", "│ slot 6-7     value     │"):
        assert line in text
    assert "An iteration: 16 prompts" in text
    assert text.endswith("It fits.")


def test_questions_to_judges_are_counted() -> None:
    """Eight prompts: 4 x 3 of four answers compared in both orders, and 4 rated."""
    url = "url: 'http://host/v1', model: m"
    judges = f"models.reward={{judges: [{{name: a, {url}}}, {{name: b, {url}, asks: ratings}}]}}"
    few = ["train.global_batch_size=8", "rollout.samples_per_prompt=4"]
    text = draw(make_plan(load_recipe("online-dpo-tiny", [judges, *few]), load_cluster("local"), machine=LAPTOP))
    assert "Scores: at most 128 questions to judges\n" in text
    assert "to judges" not in draw(make_plan(load_recipe("online-dpo-tiny"), load_cluster("local"), machine=LAPTOP))


def test_nodes_that_hold_the_same_are_drawn_once() -> None:
    placement = {"policy": {"ranks": 24}, "reference": {"ranks": 24}}
    text = draw(make_plan(recipe("dpo", {"placement": placement}), gpu_cluster(6)))
    assert text.count("┌─") == 2
    assert "nodes 0 to 2, each" in text
    assert "nodes 3 to 5, each" in text
    assert "GPU 0-7     policy" in text


def test_turns_unused_nodes_and_unknown_sizes_are_said() -> None:
    placement = {"policy": {"ranks": 4}, "reference": {"with": "policy"}}
    models = {"policy": {"path": "some/model-not-here"}}
    text = draw(make_plan(recipe("dpo", {"placement": placement, "models": models}), gpu_cluster(2)))
    assert "GPU 0-3     policy + reference  (taking turns)" in text
    assert "│ empty" in text
    assert "Whether it fits is not known." in text


def test_what_would_fit_is_listed(tmp_path: Path) -> None:
    text = draw(make_plan(from_folder("dpo", config_folder(tmp_path, LLAMA_70B)), gpu_cluster(2)))
    assert "It does not fit; the fewest that it fits are 24 GPUs on 3 nodes. What would:\n  " in text
    assert "70,553.7 M" in text


def test_work_that_takes_no_time_is_drawn() -> None:
    """From its shards a policy generates without any weight sync."""
    text = draw(make_plan(load_recipe("llama3-ppo", ["rollout.weights=sharded"]), gpu_cluster(1)))
    assert any(
        line.startswith("weight sync") and line.split()[-2:] == ["0.00", "nothing"] for line in text.splitlines()
    )


def test_adapters_and_a_shared_base_are_said() -> None:
    changes = ["models.policy.peft.method=lora", "placement.reference.share=policy"]
    text = draw(make_plan(load_recipe("llama3-dpo", changes), gpu_cluster(1)))
    assert "policy + reference" in text
    assert "8,072.2 M (41.9 M trained, 0.52 %)" in text


@pytest.mark.parametrize(("trained", "said"), [
    (0, "900,000"), (900_000, "900,000"), (35_328, "900,000 (35,328 trained, 3.9 %)"),
])  # fmt: skip
def test_how_much_of_a_model_is_trained(trained: int, said: str) -> None:
    assert RoleMemory((), parameters=900_000, trained=trained).counted == said


def test_the_time_of_a_step_and_what_it_waits_for() -> None:
    """Phases with their roles, the whole, the bottleneck; without rates why there is none."""
    text = draw(make_plan(load_recipe("llama3-ppo"), gpu_cluster(1)))
    for word in ("generation", "experience", "update", "weight sync", "whole iteration"):
        assert any(line.startswith(word) for line in text.splitlines()), word
    assert "Estimated, every sequence at its longest: " in text
    assert "bound by launches" in " ".join(text.split())
    assert "of which on node 0: Ray 256.0 MiB" in text
    assert "It fits; the fewest that it fits are 4 GPUs on 1 node." in text
    assert "Time of a step: unknown, the cluster file does not say network.bandwidth_gbps" in draw(
        make_plan(recipe("dpo"), gpu_cluster(2, bandwidth_gbps=None))
    )


def test_remedies_can_be_copied_and_say_what_a_step_would_take() -> None:
    changes = ["models.policy.path=meta-llama/Meta-Llama-3-70B", "models.policy.gradient_checkpointing=false"]
    text = draw(make_plan(load_recipe("llama3-dpo", changes), gpu_cluster(1)))
    listed = text.partition("What would:")[2]
    overrides = [word for word in listed.split() if "=" in word]
    assert overrides
    assert all(word.partition("=")[2] in ("true", "cpu", "auto", "lora") or word[-1].isdigit() for word in overrides)
    assert "s)" in listed


@pytest.mark.parametrize("kind", ["sft", "reward", "dpo", "ppo"])
def test_lines_fit_a_terminal_and_do_not_trail(kind: str) -> None:
    for line in draw(make_plan(recipe(kind), gpu_cluster(2))).splitlines():
        assert len(line) <= 120
        assert line == line.rstrip()


@pytest.mark.parametrize(
    ("weights", "after", "said"),
    [
        (15_259 * 2**20, ("sft", "dpo"), "the largest of sft, dpo: 14.9 GiB of weights"),  # 15,259 / 1,024
        (3 * 2**19, ("sft",), "the largest of sft: 1.5 MiB of weights"),
        (None, (), "the largest: size unknown"),
    ],
)
def test_an_evaluations_largest_model_is_said_as_other_sizes_are(
    weights: int | None, after: tuple[str, ...], said: str
) -> None:
    text = draw(EvalPlan(name="x-judged", cluster="local", after=after, weights=weights, command="distft eval m"))
    assert text == (f"x-judged (eval) on local: one process on one node, one model at a time; {said}\n  distft eval m")
