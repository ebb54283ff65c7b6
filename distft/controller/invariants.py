"""What must hold before the first update. A violated one stops the run and says which.

A run whose reference is another model than it says, whose dropout is on or whose generator has stale weights
trains something subtly different from the paper and looks fine for days; here it does not start.
"""

from __future__ import annotations

from distft.common.errors import RunFailed
from distft.config.recipe import Recipe

# Largest difference of a token's log-prob that rounding explains, in nats: two passes over the same weights
# with another padding (measured on CPU; bf16 has 8 bits of mantissa, and logits of size 10).
SAME_WEIGHTS = {"float32": 1e-3, "float16": 0.1, "bfloat16": 0.5}


class InvariantViolated(RunFailed):
    """A step-0 invariant does not hold."""


def check_reference(recipe: Recipe, difference: float) -> None:
    """policy = reference: log-probs equal, so ratio 1, KL 0 and the DPO loss ln 2.

    ``difference`` is the largest one of a token's log-prob, in nats. Raises InvariantViolated, unless the
    recipe says that the reference is meant to differ.
    """
    reference = recipe.models.reference
    if reference is not None and reference.differs:
        return
    _check(
        recipe,
        difference,
        "the policy's log-probs differ from the reference's before the first update",
        "The reference is not the policy's start. If that is meant, set models.reference.differs: true.",
    )


def check_generator(recipe: Recipe, difference: float) -> None:
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


def _check(recipe: Recipe, difference: float, what: str, meaning: str) -> None:
    policy = recipe.models.policy
    tolerance = SAME_WEIGHTS[policy.dtype if policy else "float32"]
    if not difference <= tolerance:
        raise InvariantViolated(
            f"step-0 invariant: {what} by {difference:.4g} nats (at most {tolerance:g} is rounding). {meaning}",
            kind="invariant",
        )
