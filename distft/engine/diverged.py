"""A step that came out as no number: the optimizer has not taken it in, and what a user can do about it."""

from __future__ import annotations

from distft.common.errors import DistftError


class Diverged(DistftError):
    """``what`` is infinite or NaN, in a step with this learning rate, or in a pass that only measures (None)."""

    def __init__(self, what: str, learning_rate: float | None) -> None:
        super().__init__(what, learning_rate)
        self.what, self.learning_rate = what, learning_rate

    def __str__(self) -> str:
        if self.learning_rate is None:
            return f"{self.what}\n  the rows or the weights are to blame: models.<role>.dtype=float32 has the most room"
        return (
            f"{self.what}: the step was not taken\n"
            f"  start again and learn more slowly: checkpoint.resume=never optimizer.learning_rate="
            f"{self.learning_rate / 10:.1g} (it was {self.learning_rate:.1g} here); if its first step ends so too, "
            "the rows or the weights are to blame"
        )


class NonFiniteLoss(Diverged):
    """A loss is infinite or NaN on some rank."""


class NonFiniteGradients(Diverged):
    """The gradients of a step are infinite or NaN."""
