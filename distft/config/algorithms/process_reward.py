"""Process reward models."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from distft.config.data import RIGHT_STEP, STEPWISE
from distft.config.method import SEQUENCES, Method, NamedLoss, Phase, Traits, Work


class ProcessReward(Method):
    """A reward model of single steps: ``-log sig(r)`` of a right one, ``-log sig(-r)`` of a wrong one, mean over steps
    (Lightman et al. 2023; Wang et al. 2024, Math-Shepherd, eq. 3). It says nothing of an answer as a whole."""

    traits: ClassVar[Traits] = Traits(
        roles=("reward",),
        trained=("reward",),
        unit=SEQUENCES,
        formats=STEPWISE,
        losses={"reward": NamedLoss("distft.algorithms.losses.process_reward:ProcessReward", keys=())},
        phases=(Phase("update", (Work("reward", "update"),)),),
    )

    kind: Literal["process_reward"] = Field(description="process reward model: are the steps of an answer right?")

    def head_labels(self) -> tuple[str, ...]:
        """The head's one output has a name, by which it is known for what it is."""
        return (RIGHT_STEP,)
