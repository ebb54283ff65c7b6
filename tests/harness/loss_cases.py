"""Every loss with the parameters that change what it computes. A case is a loss by its method's kind (and role, where
the method has several) and parameters."""

from __future__ import annotations

from typing import Any

from distft.algorithms.losses.dpo import PAIR_LOSSES
from distft.config.find_method import built_in_kinds, traits_of

Case = tuple[str, dict[str, Any]]

# By name: where every loss of the house is. That of rankings is the reward model's, too, that with other texts PPO's.
LOSSES: dict[str, str] = {
    kind if len(losses) == 1 else f"{kind}_{role}": loss.address
    for kind in built_in_kinds()
    for losses in [traits_of(kind).losses]
    for role, loss in losses.items()
} | {
    "rankings": "distft.algorithms.losses.rankings:Rankings",
    "ppo_ptx": "distft.algorithms.losses.ppo_ptx:PpoPtx",
}

FEW_CASES: list[Case] = [
    ("sft", {}),
    ("reward", {"center_coef": 0.1, "margin": 0.5}),
    ("rankings", {"center_coef": 0.1, "margin": 0.5}),
    ("dpo", {"loss": "sigmoid", "label_smoothing": 0.1, "rpo_alpha": 1.0}),
    ("dpo", {"loss": "ipo"}),
    ("ppo_policy", {"clip_high": 0.28, "dual_clip": 1.5, "entropy_coef": 0.01}),
    ("ppo_value", {}),
    ("orpo", {"beta": 0.3}),
    ("simpo", {"gamma": 0.5}),
    ("grpo", {"kl_coef": 0.1}),
    ("rloo", {}),
    ("distill", {"divergence": "js", "beta": 0.3}),
    ("contrastive", {"temperature": 0.5}),
]
MORE_CASES: list[Case] = [
    ("reward", {}),
    *(("dpo", {"loss": name, "label_smoothing": 0.1 * (name == "exo_pair")}) for name in PAIR_LOSSES if name != "ipo"),
    ("dpo", {"loss": "robust", "label_smoothing": 0.1}),
    ("ppo_policy", {}),
    ("ppo_value", {"value_clip": None}),
    ("ppo_ptx", {"ptx_coef": 2.0}),
    ("grpo", {"average": "tokens", "clip_high": 0.28, "entropy_coef": 0.01}),
    ("grpo", {"average": "constant", "constant_length": 7}),
    ("dapo", {"average": "tokens", "clip_high": 0.28}),
    ("gspo", {"ratio": "sequences", "clip_low": 0.03, "clip_high": 0.04}),
    ("cispo", {"surrogate": "weighted", "average": "tokens", "clip_high": 0.5}),
    ("reinforce_pp", {"average": "tokens", "kl_coef": 0.1, "kl_estimator": "k2"}),
    ("online_dpo", {"beta": 0.3}),
    ("raft", {}),
    ("cpo", {"label_smoothing": 0.1}),
    ("kto", {"undesirable_weight": 1.5}),
    ("pretrain", {}),
    ("mlm", {}),
    ("span", {}),
    ("distill", {"temperature": 2.0}),
    ("distill", {"divergence": "reverse"}),
    ("process_reward", {}),
    ("classification", {"labels": ("no", "yes"), "class_weights": {"yes": 3.0}}),
]
