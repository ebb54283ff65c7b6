"""Classifiers with named labels: of texts, or of pairs of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import ClassVar, Literal

from pydantic import Field

from distft.config.data import CLASSIFIED
from distft.config.method import SEQUENCES, Method, NamedLoss, Phase, Run, Traits, Work
from distft.config.problem import Problem
from distft.config.section import Items


class Classification(Method):
    """Cross entropy over named labels, ``-w_y log softmax(z)_y``, mean over texts.

    The classifier is the role ``reward``: by one of its labels (``models.reward.label``) it scores a policy's answers.
    """

    traits: ClassVar[Traits] = Traits(
        roles=("reward",),
        trained=("reward",),
        unit=SEQUENCES,
        formats=CLASSIFIED,
        losses={
            "reward": NamedLoss(
                "distft.algorithms.losses.classification:Classification", keys=("labels", "class_weights")
            )
        },
        phases=(Phase("update", (Work("reward", "update"),)),),
        dropout=True,
    )

    kind: Literal["classification"] = Field(description="classifier of texts or pairs of texts, with named labels")
    labels: Items[str] | None = Field(
        default=None,
        min_length=2,
        description="the labels, in the order of the head's outputs; null: those of data.train, sorted",
    )
    class_weights: dict[str, float] = Field(
        default_factory=dict, description="weight of a label's texts in the loss; of those not named 1"
    )

    def rules(self, run: Run) -> Iterator[Problem]:  # noqa: ARG002 - its own keys alone
        """Labels are told apart by their names."""
        if self.labels is not None and len(set(self.labels)) < len(self.labels):
            yield Problem.at("algorithm.labels", "names a label twice", "one name each")
        for label, weight in self.class_weights.items():
            if not 0 < weight < float("inf"):
                yield Problem.at("algorithm.class_weights", f"{label}: {weight} is no weight", "a number above 0")
            if self.labels is not None and label not in self.labels:
                yield Problem.at("algorithm.class_weights", f"{label} is no label", f"one of: {', '.join(self.labels)}")

    def head_labels(self) -> tuple[str, ...]:
        """``labels``."""
        return self.labels or ()

    def with_labels(self, read: Callable[[], tuple[str, ...]]) -> Method:
        """With those of the data where it names none."""
        return self if self.labels is not None else self.model_copy(update={"labels": read()})
