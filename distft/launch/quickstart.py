"""The whole job on a laptop: SFT, reward model, PPO with four sharded groups, DPO; on embedded data."""

from __future__ import annotations

import time
from pathlib import Path

from distft.config.load import load_recipe
from distft.launch.run import train
from distft.launch.table import Table, before_after

# Stage -> recipe, and what it takes over from the stages before.
STAGES = {
    "sft": ("sft-tiny", {}),
    "reward": ("reward-tiny", {"models.reward.path": "sft"}),
    "ppo": ("ppo-tiny", {"models.policy.path": "sft", "models.reward.path": "reward"}),
    "dpo": ("dpo-tiny", {"models.policy.path": "sft"}),
}


def quickstart(output: Path) -> None:
    """Runs the four stages, each from the models of those before; a stage that is done is not done again."""
    started = time.monotonic()
    tables: dict[str, Table] = {}
    for stage, (recipe_name, models) in STAGES.items():
        overrides = [f"output_dir={output / stage}", f"name=quickstart-{stage}"]
        overrides += [f"{key}=run:{output / source}" for key, source in models.items()]
        print(f"--- {stage}: distft train {recipe_name} {' '.join(overrides)}", flush=True)
        outcome = train(load_recipe(recipe_name, overrides), "local")
        tables[stage] = outcome.table
        if outcome.finished_before:
            print(f"{stage}: already finished, see {outcome.run_dir}")
    print(f"\n{before_after(tables)}\n")
    print(f"run folders: {', '.join(str(output / stage) for stage in STAGES)}")
    print(f"the aligned models: {output / 'ppo' / 'final'} and {output / 'dpo' / 'final'}")
    print(f"{(time.monotonic() - started) / 60:.1f} minutes")
