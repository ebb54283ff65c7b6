"""The step-0 invariants stop a run that is not what it says, and let one pass that says so."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from distft.cli import main
from distft.launch import attempt
from tests.harness.matrix import Layouts
from tests.harness.probes import other_reference_weights
from tests.harness.recipes import dpo_recipe, with_ranks, write_recipe

pytest_plugins = ["tests.harness.fixtures"]
pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

REFERENCE = "step-0 invariant: the policy's log-probs differ from the reference's before the first update by"


@pytest.mark.parametrize("kind", ["dpo", "ppo"])
def test_a_corrupted_reference_stops_the_run(layouts: Layouts, kind: str) -> None:
    outcome = layouts.alone()[f"{kind}-corrupted"]
    assert outcome.error.startswith(f"InvariantViolated: {REFERENCE}")
    assert "models.reference.differs: true" in outcome.error
    assert not outcome.metrics  # before the first update, not after


@pytest.mark.parametrize("kind", ["dpo", "ppo"])
def test_a_reference_that_is_meant_to_differ_is_accepted(layouts: Layouts, kind: str) -> None:
    outcome = layouts.alone()[f"{kind}-meant"]
    assert outcome.error == ""
    assert len(outcome.metrics) == 2
    first = outcome.metrics[0]
    if kind == "ppo":
        assert abs(first["objective/kl"]) > 1e-2  # it is another model
    else:
        assert abs(first["rewards/chosen"]) > 1e-3


def test_a_generator_with_other_weights_stops_the_run(layouts: Layouts) -> None:
    outcome = layouts.alone()["ppo-stale"]
    assert outcome.error.startswith("InvariantViolated: step-0 invariant: the generator's log-probs differ")
    assert not outcome.metrics


def test_a_generator_that_falls_behind_later_is_a_warning_and_a_metric(layouts: Layouts) -> None:
    """A large difference in a late iteration may be rounding, and stopping there would lose days."""
    outcome = layouts.alone()["ppo-stale-later"]
    assert outcome.error == ""
    figures = [f"rollout/trainer_logprob_difference_{name}" for name in ("mean", "q999", "max")]
    first, second = ([metrics[name] for name in figures] for metrics in outcome.metrics)
    assert max(first) < 1e-4
    assert min(second) > 1e-3
    events = [json.loads(line) for line in (outcome.folder / "events.jsonl").read_text().splitlines()]
    warned = [event for event in events if event["event"] == "generator_differs"]
    assert [(event["step"], event["mean"]) for event in warned] == [(2, second[0])]


def test_a_recipe_that_names_another_reference_does_not_even_start(
    layouts: Layouts, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = dpo_recipe(layouts.starts)
    made["models"]["reference"] = {"path": str(layouts.starts.other_policy)}
    assert main(["train", write_recipe(made, tmp_path / "recipe.yaml", tmp_path / "run")]) == 2
    assert "models.reference.differs: true" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.ray
def test_the_command_says_so_and_exits_1(layouts: Layouts, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = write_recipe(with_ranks(dpo_recipe(layouts.starts), 1), tmp_path / "recipe.yaml", tmp_path / "run")
    with other_reference_weights(attempt, str(layouts.starts.other_policy)):
        assert main(["train", recipe, "--quiet"]) == 1
    assert REFERENCE in capsys.readouterr().err
    assert '"invariant"' in (tmp_path / "run" / "exit.json").read_text()
