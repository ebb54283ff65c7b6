"""What must hold before the first update. A violated one stops the run and says which.

A run whose reference is another model than it says, whose dropout is on or whose generator has stale weights
trains something subtly different from the paper and looks fine for days; here it does not start.
"""

from __future__ import annotations

from distft.batches import Difference
from distft.common.errors import RunFailed
from distft.config.recipe import Recipe

# Mean and 99.9 % quantile of |difference| of a token's log-prob that rounding explains, in nats: two passes over the
# same weights, with another padding and with a cache. A correct bf16 run has one token in 10^5 that is far off, so the
# maximum says nothing. Measured on random Llamas of 80 layers in bf16: mean up to 0.10, quantile 0.62; in float32
# 2e-5 and 2e-4. Another model is further off in the mean: a fine-tuned one by some 0.3 from its base.
SAME_WEIGHTS = {"float32": (1e-4, 1e-3), "float16": (0.025, 0.2), "bfloat16": (0.2, 1.5)}


class InvariantViolated(RunFailed):
    """A step-0 invariant does not hold."""


def check_reference(recipe: Recipe, difference: Difference) -> None:
    """policy = reference: log-probs equal, so ratio 1, KL 0 and the DPO loss ln 2.

    Raises InvariantViolated, unless the recipe says that they are meant to differ (``meant_to_differ``).
    """
    if meant_to_differ(recipe):
        return
    _check(
        recipe,
        difference,
        "the policy's log-probs differ from the reference's before the first update",
        "The reference is not the policy's start. If that is meant, set models.reference.differs: true.",
    )


def meant_to_differ(recipe: Recipe) -> bool:
    """Whether the reference is another model, or the policy does not start at its base."""
    reference, policy = recipe.models.reference, recipe.models.policy
    other = reference is not None and reference.differs
    return other or (policy is not None and policy.peft is not None and not policy.peft.starts_at_base)


def check_generator(recipe: Recipe, difference: Difference) -> None:
    """generator = trainer: log-probs of the sampled tokens equal. Raises InvariantViolated."""
    _check(
        recipe,
        difference,
        "the generator's log-probs differ from the trainer's",
        "The weights did not reach the generator, or it computes another distribution.",
    )


def check_first_loss(kind: str, loss: float, expected: float, tolerance: float) -> None:
    """The DPO loss of the first step, ln 2 for the sigmoid loss. Raises InvariantViolated."""
    if not abs(loss - expected) <= tolerance:
        raise InvariantViolated(
            f"step-0 invariant: the {kind} loss is {loss:.6f}, not {expected:.6f}", kind="invariant"
        )


def beyond_rounding(recipe: Recipe, difference: Difference) -> str:
    """What of a difference of log-probs rounding does not explain, in words; "" where it explains all of it."""
    policy = recipe.models.policy
    mean, q999 = SAME_WEIGHTS[policy.dtype if policy else "float32"]
    if difference.mean <= mean and difference.q999 <= q999:
        return ""
    return (
        f"{difference.mean:.4g} nats in the mean, {difference.q999:.4g} in the 99.9 % quantile "
        f"(up to {mean:g} and {q999:g} is rounding)"
    )


def _check(recipe: Recipe, difference: Difference, what: str, meaning: str) -> None:
    if beyond := beyond_rounding(recipe, difference):
        raise InvariantViolated(f"step-0 invariant: {what} by {beyond}. {meaning}", kind="invariant")
