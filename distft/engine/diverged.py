"""A step that came out as no number: the optimizer has not taken it in, and what a user can do about it."""

from __future__ import annotations

from collections.abc import Sequence

from distft.common.errors import DistftError


class Diverged(DistftError):
    """``name`` is ``value``, infinite or NaN, in a step with this learning rate, or in a pass that only measures
    (None). ``skipped``: batches right before its own of which steps came out so too, and were left out."""

    kind = "diverged"

    def __init__(self, name: str, value: float, learning_rate: float | None, skipped: int = 0) -> None:
        super().__init__(name, value, learning_rate, skipped)
        self.value, self.learning_rate, self.skipped = value, learning_rate, skipped
        self.what = f"{name} is {value}"
        self._name = name

    def after(self, skipped: int) -> Diverged:
        """The same, of a step behind so many that were left out."""
        return type(self)(self._name, self.value, self.learning_rate, skipped)

    def __str__(self) -> str:
        if self.learning_rate is None:
            return f"{self.what}\n  the rows or the weights are to blame: models.<role>.dtype=float32 has the most room"
        batches = f"the {self.skipped} batches" if self.skipped > 1 else "the batch"
        before = f", as in {batches} before it (recovery.max_skipped_steps)" if self.skipped else ""
        return (
            f"{self.what}: the step was not taken{before}\n"
            f"  start again and learn more slowly: checkpoint.resume=never optimizer.learning_rate="
            f"{self.learning_rate / 10:.1g} (it was {self.learning_rate:.1g} here); if its first step ends so too, "
            "the rows or the weights are to blame"
        )


class NonFiniteLoss(Diverged):
    """A loss is infinite or NaN on some rank."""


class NonFiniteGradients(Diverged):
    """The gradients of a step are infinite or NaN."""


class NonFiniteWeights(DistftError):
    """Trained weights are infinite or NaN in the precision that the model computes in; ``names``: of which."""

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__(names)
        self.names = names

    def __str__(self) -> str:
        first, *others = self.names
        held = f" and {len(others)} more hold" if others else " holds"
        return f"its weights are no numbers: {first}{held} NaN or infinity"
