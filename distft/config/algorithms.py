"""The algorithms' own keys: one section per kind, told apart by ``kind``. Formulas and defaults: NUMERICS."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from pydantic import Field

from distft.config.section import Section

DpoLoss: TypeAlias = Literal[
    "sigmoid", "hinge", "ipo", "robust", "exo_pair", "nca_pair", "sppo_hard",
    "apo_zero", "apo_down", "bco_pair", "discopop", "sigmoid_norm",
]  # fmt: skip


class Sft(Section):
    """Supervised fine-tuning: token NLL over the target tokens."""

    kind: Literal["sft"] = Field(description="supervised fine-tuning")
    loss_on: Literal["completion", "assistant", "all"] | None = Field(
        default=None,
        description="tokens that are learned; null: completion for prompt+completion, assistant for messages, "
        "all for plain text",
    )


class Reward(Section):
    """Reward model from preference pairs: ``-logsig(r_w - r_l - margin) + center_coef (r_w + r_l)^2``."""

    kind: Literal["reward"] = Field(description="reward model from preference pairs")
    loss: Literal["bradley_terry"] = Field(default="bradley_terry", description="loss of a pair")
    center_coef: float = Field(
        default=0.0, ge=0, le=10, description="weight of (chosen + rejected)^2, which keeps rewards around zero"
    )
    margin: float = Field(default=0.0, ge=0, description="reward difference demanded of every pair, in reward units")


class Dpo(Section):
    """Direct preference optimisation and its kin (Rafailov et al. 2023)."""

    kind: Literal["dpo"] = Field(description="direct preference optimisation")
    beta: float = Field(default=0.1, gt=0, le=100, description="strength of the pull towards the reference")
    loss: DpoLoss = Field(default="sigmoid", description="loss of a pair, names as in TRL")
    label_smoothing: float = Field(
        default=0.0, ge=0, lt=0.5, description="assumed share of flipped labels (sigmoid, robust, exo_pair)"
    )
    discopop_tau: float = Field(default=0.05, gt=0, description="temperature of the blend of the discopop loss")
    reference: Literal["group"] = Field(
        default="group", description="where the reference's log-probabilities come from: a group of its own"
    )
    rpo_alpha: float = Field(default=0.0, ge=0, description="weight of the chosen response's NLL per token added (RPO)")


class Ppo(Section):
    """Proximal policy optimisation with four models (Schulman et al. 2017; Ouyang et al. 2022)."""

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
    epochs: int = Field(default=1, ge=1, le=100, description="passes over an iteration's experience")
    minibatches: int = Field(default=1, ge=1, description="optimizer steps per pass over an iteration's experience")
    whiten: bool = Field(default=True, description="advantages to mean 0 and deviation 1 over the whole rollout batch")
    whiten_rewards: bool = Field(default=False, description="rewards to deviation 1 (mean kept) before GAE")
    missing_eos_penalty: float | None = Field(
        default=None, ge=0, description="taken from the score of a response cut at the limit; null: nothing"
    )
    truncated: Literal["terminal", "bootstrap"] = Field(
        default="terminal", description="what follows a response cut at the limit: nothing, or the value model's guess"
    )
    target_kl: float | None = Field(
        default=None, gt=0, description="an iteration's epochs end early above this policy change, in nats; null: never"
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
    score_normalize: bool = Field(default=False, description="scores divided by their running deviation, mean removed")

    @property
    def upper_clip(self) -> float:
        """``clip_high``, or ``clip`` where it is not given."""
        return self.clip if self.clip_high is None else self.clip_high


Algorithm: TypeAlias = Annotated[Sft | Reward | Dpo | Ppo, Field(discriminator="kind")]
