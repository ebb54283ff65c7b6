"""Where a run stands: everything the loop needs to go on, small enough for a JSON file in the checkpoint."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass
class Progress:
    """The controller's whole state.

    ``step`` is the last finished step (optimizer step; iteration in RL), ``position`` the units of training
    data behind it, counted from the beginning, ``num_tokens`` the tokens trained on, ``optimizer_steps`` those taken
    (for the learning-rate schedule). ``method_state`` is the algorithm's own (an adaptive coefficient, running moments
    ...): nobody else looks into it; ``data`` has the hash of each source's content by its key; ``before`` holds the
    held-out metrics of the start.
    """

    total_steps: int
    step: int = 0
    position: int = 0
    num_tokens: int = 0
    optimizer_steps: int = 0
    method_state: dict[str, Any] = field(default_factory=dict)
    wandb_id: str = ""
    data: dict[str, str] = field(default_factory=dict)
    before: dict[str, float] = field(default_factory=dict)
    failed_saves: int = 0

    def steps(self) -> Iterator[int]:
        """The steps still to do. The loop body counts itself done by ``finish``."""
        while self.step < self.total_steps:
            yield self.step + 1

    def finish(self, *, position: int, num_tokens: int, optimizer_steps: int) -> None:
        """One step more is done, which took the units before ``position``, so many tokens and optimizer steps."""
        self.step += 1
        self.position = position
        self.num_tokens += num_tokens
        self.optimizer_steps += optimizer_steps

    def state(self) -> dict[str, Any]:
        """For the checkpoint; the number of steps asked for is the recipe's business."""
        state = asdict(self)
        del state["total_steps"], state["failed_saves"]
        return state

    def restore(self, state: dict[str, Any]) -> None:
        """Goes on from a checkpoint's state. Those of before ``method_state`` have PPO's two beside the rest."""
        state = dict(state)
        kl_coef, scores = state.pop("kl_coef", 0.0), state.pop("score_state", {})
        if kl_coef or scores:
            state["method_state"] = {"iterations": state["step"], "kl_coef": kl_coef, "scores": scores}
        for name, value in state.items():
            setattr(self, name, value)
