"""The whole job on a laptop: SFT, reward model, PPO with four sharded groups, DPO; on embedded data."""

from __future__ import annotations

import time
from contextlib import nullcontext
from pathlib import Path

from distft.config.load import load_recipe
from distft.config.recipe import Recipe
from distft.launch.preflight.checks import check_memory, check_output_dir
from distft.launch.prepare import planned
from distft.launch.run_folder import is_finished, require_same_run
from distft.launch.table import Table, before_after, headlines
from distft.planning.plan import Plan

# Stage -> recipe, and what it takes over from the stages before.
STAGES = {
    "sft": ("sft-tiny", {}),
    "reward": ("reward-tiny", {"models.reward.path": "sft"}),
    "ppo": ("ppo-tiny", {"models.policy.path": "sft", "models.reward.path": "reward"}),
    "dpo": ("dpo-tiny", {"models.policy.path": "sft"}),
}


def quickstart(output: Path, cluster: str) -> None:
    """Runs the four stages on a cluster, each from the models of those before; a stage that is done is not done again.

    Raises, before anything is started, EnvironmentFallsShort where one of the stages does not fit on this machine,
    UserError where ``output`` cannot be written or holds other runs.
    """
    started = time.monotonic()
    plans = [_room_for(recipe_name, cluster) for recipe_name, _ in STAGES.values()]
    stages = {stage: _overrides(stage, output) for stage in STAGES}
    recipes = {stage: load_recipe(STAGES[stage][0], overrides) for stage, overrides in stages.items()}
    check_output_dir(output, where="--output", example="--output FOLDER")
    for stage, recipe in recipes.items():
        require_same_run(recipe, output / stage)
    finished = all(is_finished(recipe, output / stage) for stage, recipe in recipes.items())

    tables = _run_all(recipes, stages, plans, output, cluster, finished=finished)
    print(f"\n{before_after(tables)}\n")
    print(f"run folders, with a report.html in each: {', '.join(str(output / stage) for stage in STAGES)}")
    print(f"the aligned models: {output / 'ppo' / 'final'} and {output / 'dpo' / 'final'}")
    if finished:
        print(f"all four runs were finished already; for new ones: distft quickstart --output {output}-2")
    else:
        print(f"{(time.monotonic() - started) / 60:.1f} minutes")


def _room_for(recipe_name: str, cluster: str) -> Plan:
    """The plan of a stage, from the recipe's own model, which has the sizes of the one it will start from."""
    plan = planned(load_recipe(recipe_name), cluster)
    check_memory(plan)
    return plan


def _overrides(stage: str, output: Path) -> list[str]:
    _, models = STAGES[stage]
    return [
        f"output_dir={output / stage}",
        f"name=quickstart-{stage}",
        *(f"{key}=run:{output / source}" for key, source in models.items()),
    ]


def _run_all(
    recipes: dict[str, Recipe],
    overrides: dict[str, list[str]],
    plans: list[Plan],
    output: Path,
    cluster: str,
    *,
    finished: bool,
) -> dict[str, Table]:
    """One Ray for all stages, with room for the largest."""
    from distft.launch.run import train
    from distft.launch.supervise import ray_for

    tables: dict[str, Table] = {}
    with nullcontext() if finished else ray_for(plans, output):
        for stage, recipe in recipes.items():
            print(f"--- {stage}: distft train {STAGES[stage][0]} {' '.join(overrides[stage])}", flush=True)
            outcome = train(recipe, cluster)
            tables[stage] = headlines(outcome.table)
            if outcome.finished_before:
                print(f"{stage}: already finished, see {outcome.run_dir}", flush=True)
    return tables
