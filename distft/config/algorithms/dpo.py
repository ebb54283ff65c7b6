"""Direct preference optimisation and its kin."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Literal

from pydantic import Field

from distft.config.data import PAIRED, RANKED
from distft.config.method import PAIRS, NamedLoss, Phase, Run, Traits, Work
from distft.config.pair_losses import LOSS_KEYS, PairLosses
from distft.config.problem import Problem


class Dpo(PairLosses):
    """Direct preference optimisation and its kin (Rafailov et al. 2023)."""

    # The reference is frozen: it reads the next pairs while the policy learns from these.
    traits: ClassVar[Traits] = Traits(
        roles=("policy", "reference"),
        trained=("policy",),
        unit=PAIRS,
        formats=(*PAIRED, *RANKED),
        losses={"policy": NamedLoss("distft.algorithms.losses.dpo:Dpo", LOSS_KEYS)},
        phases=(Phase("update", (Work("policy", "update"), Work("reference", "forward", ahead=True))),),
        aligns=True,
    )

    kind: Literal["dpo"] = Field(description="direct preference optimisation")
    reference: Literal["group", "cached"] = Field(
        default="group",
        description="where the reference's log-probabilities come from: a group of its own; or once, before the first "
        "step, from the policy, which is the reference then, and from the run folder ever after",
    )

    def rules(self, run: Run) -> Iterator[Problem]:
        """A reference is kept, or follows."""
        yield from super().rules(run)
        if self.sync_every and self.caches_reference():
            what = "the reference follows the policy, and what it said before the first step does not"
            yield Problem.at("algorithm.reference", what, "group, or sync_every: 0")

    def may_cache_reference(self) -> bool:
        """Where it is not kept yet and stays as it starts."""
        return not self.caches_reference() and not self.sync_every

    def caches_reference(self) -> bool:
        """By ``reference: cached``."""
        return self.reference == "cached"
