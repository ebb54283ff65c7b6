"""The layouts of the layout tests: each is started at most once a session and does all the jobs that are its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from tests.harness.corpus import Starts
from tests.harness.jobs import Broken, Job, LossesJob, Outcome, TrainJob
from tests.harness.layouts import run_ray, run_spmd
from tests.harness.loss_cases import FEW_CASES, Case
from tests.harness.loss_layouts import Results
from tests.harness.recipes import (
    apart_ppo_recipe,
    dpo_recipe,
    extended,
    group_recipe,
    labelled_recipe,
    ppo_choices,
    ppo_recipe,
    reward_end_recipe,
    sampled_recipe,
    sft_recipe,
    supervised_recipe,
    with_ranks,
    with_shared_rows,
    write_recipe,
)


@dataclass
class Layouts:
    """The runs of the default tests by layout. ``starts``: what they start from."""

    folder: Path
    starts: Starts
    done: dict[str, dict[str, Outcome] | AssertionError] = field(default_factory=dict)

    def alone(self) -> Mapping[str, Outcome]:
        """All runs in one process, Ray and torchrun taken away."""
        return self._spmd("alone", 1, recipes_alone(self.starts), self._losses("alone", plain=True))

    def torchrun(self, num_ranks: int) -> Mapping[str, Outcome]:
        """PPO, GRPO, SFT and the few losses on the ranks that torchrun starts; PPO with two ranks to a row, too, and
        SFT with a wrong mask."""
        label = f"torchrun-{num_ranks}"
        recipes = {
            "ppo": self.both["ppo"], "grpo": extended(group_recipe(self.starts, "grpo")),
            "ppo-shared": with_shared_rows(self.both["ppo"], 2),
            **dict.fromkeys(("sft", "sft-wrong-mask"), sft_recipe(self.starts, steps=8)),
        }  # fmt: skip
        return self._spmd(label, num_ranks, recipes, self._losses(label))

    def torchrun_one(self, num_ranks: int, kind: str) -> Outcome:
        """DPO, or PPO of an encoder-decoder, on the ranks that torchrun starts."""
        label = f"torchrun-{num_ranks}-{kind}"
        recipe = apart_ppo_recipe(self.starts) if kind == "ppo-apart" else self.both[kind]
        jobs = self.jobs(label, {kind: recipe})
        return self._once(label, jobs, lambda: run_spmd(jobs, num_ranks, self.folder / label))[kind]

    def ray(self, num_ranks: int, kind: str) -> Outcome:
        """DPO or PPO as ``distft train`` runs them, with that many ranks a role."""
        label = f"ray-{num_ranks}-{kind}"
        jobs = self.jobs(label, {kind: with_ranks(self.both[kind], num_ranks)})
        return self._once(label, jobs, lambda: run_ray(jobs, self.folder / label))[kind]

    def losses(self, num_ranks: int) -> Results:
        """The few losses of the default tests, on that many ranks."""
        label = "alone" if num_ranks == 1 else f"torchrun-{num_ranks}"
        if num_ranks == 1:
            self.alone()
        else:
            self.torchrun(num_ranks)
        return read_results(self.folder / label / "losses.pt")

    @cached_property
    def both(self) -> dict[str, dict[str, Any]]:
        """The two runs that every layout does."""
        return {"dpo": dpo_recipe(self.starts), "ppo": ppo_recipe(self.starts)}

    def jobs(
        self, label: str, recipes: Mapping[str, Mapping[str, Any]], broken: Mapping[str, Broken] | None = None
    ) -> list[TrainJob]:
        """A run of each recipe below ``folder/label``; ``broken`` says by name what is wrong with one."""
        made = []
        for name, recipe in recipes.items():
            run = self.folder / label / name
            path = write_recipe(recipe, self.folder / label / f"{name}.yaml", run)
            made.append(TrainJob(name, path, str(run), str(self.starts.other_policy), (broken or {}).get(name, "")))
        return made

    def losses_job(self, result: Path, cases: list[Case], *, plain: bool, shared_by: int = 1) -> LossesJob:
        """One update of each case."""
        return LossesJob(str(self.starts.policy), str(self.starts.reward), str(result), cases, plain, shared_by)

    def _losses(self, label: str, *, plain: bool = False) -> LossesJob:
        return self.losses_job(self.folder / label / "losses.pt", FEW_CASES, plain=plain)

    def _spmd(
        self, label: str, num_ranks: int, recipes: Mapping[str, Mapping[str, Any]], losses: Job
    ) -> dict[str, Outcome]:
        jobs = self.jobs(label, recipes, BROKEN)
        return self._once(label, jobs, lambda: run_spmd([*jobs, losses], num_ranks, self.folder / label))

    def _once(self, label: str, jobs: list[TrainJob], run: Callable[[], None]) -> dict[str, Outcome]:
        """What the jobs left; a layout that failed is not started again for the next test."""
        if label not in self.done:
            try:
                run()
                self.done[label] = outcomes(jobs)
            except AssertionError as error:
                self.done[label] = error
        done = self.done[label]
        if isinstance(done, AssertionError):
            raise done
        return done


FEW_ENDS = ("plain", "qwen")  # of the ends of a reward model's rows: those of the default tests
BROKEN: dict[str, Broken] = {
    "ppo-stale": "stale layer",
    "ppo-stale-later": "stale generator",
    "dpo-corrupted": "other reference weights",
    "ppo-corrupted": "other reference weights",
    "sft-wrong-mask": "wrong mask",
}


def recipes_alone(starts: Starts) -> dict[str, dict[str, Any]]:
    """What is compared with TRL, with the plain reference, and what must stop."""
    meant = {"reference": {"path": str(starts.other_policy), "differs": True}}
    recipes = {
        "dpo": dpo_recipe(starts),
        "ppo": ppo_recipe(starts),
        "ppo-apart": apart_ppo_recipe(starts),
        "grpo": extended(group_recipe(starts, "grpo")),
        "trl-sft": supervised_recipe(starts, {"kind": "sft"}, role="policy", path=starts.policy, max_length=20),
        "trl-dpo": supervised_recipe(starts, {"kind": "dpo"}, role="policy", path=starts.policy, max_length=20),
        "trl-kto": labelled_recipe(starts),
        "trl-grpo": sampled_recipe(starts, kind="grpo"),
        "trl-reward": supervised_recipe(starts, {"kind": "reward"}, role="reward", path=starts.reward),
        **{f"trl-reward-{name}": reward_end_recipe(starts, name) for name in FEW_ENDS},
        "ppo-stale": ppo_recipe(starts),
        "ppo-stale-later": ppo_recipe(starts),
        "ppo-choices": ppo_choices(starts),
    }
    for kind, made in (("dpo", dpo_recipe(starts)), ("ppo", ppo_recipe(starts))):
        recipes[f"{kind}-corrupted"] = made
        recipes[f"{kind}-meant"] = {**made, "models": made["models"] | meant}
    return recipes


def outcomes(jobs: list[TrainJob]) -> dict[str, Outcome]:
    """What the jobs left, by name."""
    return {job.name: Outcome(Path(job.folder)) for job in jobs}


def read_results(path: Path) -> Results:
    """What a LossesJob wrote."""
    results: Results = torch.load(path, weights_only=False)
    return results
