"""What adapters are made into beside the loss, from step to step: ranks that are given up, gates that are closed."""

from __future__ import annotations

from typing import ClassVar, Protocol

from torch import Tensor, nn

from distft.config.adapters.adalora import AdaLora
from distft.config.adapters.adapter import Adapter
from distft.config.adapters.diff_pruning import DiffPruning
from distft.engine.engine import Engine
from distft.engine.gates import Gates
from distft.engine.rank_search import RankSearch


class Shaping(Protocol):
    """Needs whole adapters on every rank. ``penalty_metric`` and ``left_metric``: what its penalty, and what is left
    after a step, are called among the metrics.

    What it has found out lies in buffers of the layers, so that a checkpoint has it.
    """

    penalty_metric: ClassVar[str]
    left_metric: ClassVar[str]

    def require_room(self, total_steps: int, role: str) -> None:
        """Raises UserError where so many steps are too few."""

    def begin(self, step: int) -> None:
        """Before the first micro-batch of step number ``step``."""

    def penalty(self) -> Tensor:
        """What is added to the loss of a step, once."""

    def cut(self, step: int, total_steps: int) -> float:
        """After step number ``step`` (from 0) of ``total_steps``. Returns what is left."""


def shaping_of(engine: Engine, adapter: Adapter | None, seed: int) -> Shaping | None:
    """What shapes the adapters of a trained engine; None where nothing does."""
    module: nn.Module = engine.module
    if isinstance(adapter, AdaLora):
        search = RankSearch(module, adapter)
        engine.before_steps(search.see)
        return search
    return Gates(module, adapter, seed) if isinstance(adapter, DiffPruning) else None
