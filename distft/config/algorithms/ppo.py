"""Proximal policy optimisation with four models."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, Literal

from pydantic import Field

from distft.config.data import ANSWERED, PAIRED, TURNS
from distft.config.method import PROMPTS, NamedLoss, Run, Traits
from distft.config.problem import Problem
from distft.config.role_table import Role
from distft.config.sampled import StopsAtKl, sampled_phases

_ROLES: tuple[Role, ...] = ("policy", "reference", "reward", "value")


class Ppo(StopsAtKl):
    """Proximal policy optimisation with four models (Schulman et al. 2017; Ouyang et al. 2022)."""

    traits: ClassVar[Traits] = Traits(
        roles=_ROLES,
        trained=("policy", "value"),
        unit=PROMPTS,
        formats=("prompt", *ANSWERED, *PAIRED, *TURNS),
        losses={
            "policy": NamedLoss(
                "distft.algorithms.losses.ppo:PpoPolicy", keys=("clip", "clip_high", "dual_clip", "entropy_coef")
            ),
            "value": NamedLoss("distft.algorithms.losses.ppo:PpoValue", keys=("value_clip",)),
        },
        phases=sampled_phases(_ROLES, ("policy", "value")),
        credit="distft.experience.credit.gae:gae",
        aligns=True,
        takes_texts=True,
    )

    kind: Literal["ppo"] = Field(description="proximal policy optimisation")
    kl_coef: float = Field(default=0.05, ge=0, le=100, description="weight of the per-token KL penalty in the reward")
    kl_target: float | None = Field(
        default=None, gt=0, description="mean KL per sequence, in nats, that kl_coef is adapted to; null: kl_coef fixed"
    )
    kl_horizon: int = Field(default=10_000, ge=1, description="sequences over which the adaptive kl_coef reacts")
    kl_estimator: Literal["k1", "k2", "k3"] = Field(default="k1", description="per-token estimator of the KL")
    gamma: float = Field(default=1.0, ge=0, le=1, description="discount per response token")
    lam: float = Field(default=0.95, ge=0, le=1, description="lambda of GAE")
    clip: float = Field(default=0.2, gt=0, lt=1, description="policy ratio is clipped to [1 - clip, 1 + clip_high]")
    clip_high: float | None = Field(default=None, gt=0, description="upper clip of the ratio; null: the same as clip")
    dual_clip: float | None = Field(
        default=None, gt=1, description="bound of the loss at negative advantages, times |A|; null: none"
    )
    value_clip: float = Field(default=0.2, gt=0, description="largest change of a value per iteration, in return units")
    entropy_coef: float = Field(default=0.0, ge=0, le=10, description="weight of the entropy bonus")
    whiten: bool = Field(default=True, description="advantages to mean 0 and deviation 1 over the whole rollout batch")
    whiten_rewards: bool = Field(default=False, description="rewards to deviation 1 (mean kept) before GAE")
    truncated: Literal["terminal", "bootstrap"] = Field(
        default="terminal", description="what follows a response cut at the limit: nothing, or the value model's guess"
    )
    importance_cap: float | None = Field(
        default=None, ge=1,
        description="tokens weigh min(trainer's probability / generator's, this), which corrects for a generator that "
        "computes a little differently (2 is usual); null: not corrected",
    )  # fmt: skip
    value_warmup_steps: int = Field(
        default=0, ge=0, description="first iterations in which only the value model is trained"
    )
    score_clip: float | None = Field(default=None, gt=0, description="scores are clipped to +- this; null: not clipped")
    ptx_coef: float = Field(
        default=0.0, ge=0, le=1000,
        description="weight of the loss per token of data.ptx in the policy's loss (PPO-ptx, 27.8 in the paper); "
        "0: none",
    )  # fmt: skip
    ptx_batch: int = Field(
        default=16, ge=1, description="rows of data.ptx in each optimizer step of the policy (with ptx_coef)"
    )
    score_normalize: bool = Field(default=False, description="scores divided by their running deviation, mean removed")

    @property
    def upper_clip(self) -> float:
        """``clip_high``, or ``clip`` where it is not given."""
        return self.clip if self.clip_high is None else self.clip_high

    def rules(self, run: Run) -> Iterator[Problem]:
        """What does nothing, or nothing good, beside the other keys."""
        yield from super().rules(run)
        steps = run.train.steps
        if steps is not None and self.value_warmup_steps >= steps:
            yield Problem.at(
                "algorithm.value_warmup_steps",
                f"the policy would never be trained in {steps} iterations",
                f"at most {steps - 1}",
            )
        fields = type(self).model_fields
        if self.kl_target is None and self.kl_horizon != fields["kl_horizon"].default:
            yield Problem.at(
                "algorithm.kl_horizon", "has no effect: kl_coef is fixed", "add kl_target, or remove kl_horizon"
            )
        if self.kl_target is not None and self.kl_coef == 0:
            yield Problem.at(
                "algorithm.kl_coef",
                "the adaptive controller multiplies it, so it would stay 0",
                "a small number, such as 0.05",
            )
        if self.dual_clip is not None and self.dual_clip <= 1 + self.upper_clip:
            yield Problem.at(
                "algorithm.dual_clip",
                f"{self.dual_clip:g} lies inside the ratio's own clip",
                f"more than {1 + self.upper_clip:g}; 3 in the paper",
            )

        yield from self._of_ptx(run)

    def _of_ptx(self, run: Run) -> Iterator[Problem]:
        """Texts and their weight go together, and are read as they are."""
        batch = type(self).model_fields["ptx_batch"].default
        if not self.ptx_coef and self.ptx_batch != batch:
            yield Problem.at("algorithm.ptx_batch", "has no effect without ptx_coef", "algorithm.ptx_coef: 1.0")
        if not self.ptx_coef and run.data.ptx:
            yield Problem.at("data.ptx", "has no effect: algorithm.ptx_coef is 0", "algorithm.ptx_coef: 1.0")
        if self.ptx_coef and not run.data.ptx:
            yield Problem.at(
                "algorithm.ptx_coef",
                "has no rows: data.ptx is empty",
                "for example data.ptx: [{path: builtin:stories}]; or 0",
            )
        if self.ptx_coef and run.rollout.temperature != 1:
            yield Problem.at(
                "algorithm.ptx_coef",
                f"would make texts likely at rollout.temperature {run.rollout.temperature:g}, at which the whole step "
                "is read",
                "rollout.temperature: 1.0; or 0",
            )

    def loss_of(self, role: Role) -> tuple[str, dict[str, Any]]:
        """Of the policy with the texts' part, where there is one."""
        address, parameters = super().loss_of(role)
        if role != "policy" or not self.ptx_coef:
            return address, parameters
        return "distft.algorithms.losses.ppo_ptx:PpoPtx", {**parameters, "ptx_coef": self.ptx_coef}

    def ptx_rows(self) -> int:
        """``ptx_batch``, with a ``ptx_coef``."""
        return self.ptx_batch if self.ptx_coef else 0

    def held_iterations(self, role: Role) -> int:
        """The policy waits for ``value_warmup_steps``."""
        return self.value_warmup_steps if role == "policy" else 0

    def values_ends(self) -> bool:
        """With ``truncated: bootstrap``."""
        return self.truncated == "bootstrap"
